"""Marks of erased items: whether something was erased can be told of what is at hand, and what was erased cannot be read off.

`erasures/marks.json` holds an HMAC-SHA-256 of each erased sample id and image digest, under the repository's secret key.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Iterable

from datasetops.errors import NotFoundError
from datasetops.records import canonical_json
from datasetops.store import Store

_KEY = "erasures/marks.json"
_SECRET = "keys/salt"  # noqa: S105 (the object's name)


def add_marks(store: Store, words: Collection[str]) -> None:
    """Mark sample ids and SHA-256 of images as erased."""
    secret = store.get(_SECRET)
    store.put(_KEY, canonical_json(sorted(_marks(store) | {_mark(secret, word) for word in words})))


def erased_words(store: Store, words: Iterable[str | None]) -> frozenset[str]:
    """Which of some sample ids and SHA-256 of images were erased from this repository."""
    if not (marks := _marks(store)):
        return frozenset()
    secret = store.get(_SECRET)
    return frozenset(word for word in words if word is not None and _mark(secret, word) in marks)


def _marks(store: Store) -> set[str]:
    try:
        return set(json.loads(store.get(_KEY)))
    except NotFoundError:
        return set()


def _mark(secret: bytes, word: str) -> str:
    return hmac.new(secret, b"erased\x00" + word.encode(), "sha256").hexdigest()
