"""Marks of erased items: whether something was erased can be told of what is at hand, and what was erased cannot be read off.

`erasures/marks.json` holds an HMAC-SHA-256 of each erased sample id and image digest, under the repository's secret key.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable

from datasetops.errors import DamagedError, NotFoundError
from datasetops.records import canonical_json, parse_json, sha256_hex
from datasetops.store import Store

_KEY = "erasures/marks.json"
_SECRET = "keys/salt"  # noqa: S105 (the object's name)
_CONFIG = "repository.json"


def add_marks(store: Store, words: Collection[str]) -> None:
    """Mark sample ids and SHA-256 of images as erased."""
    secret = _secret(store)
    store.put(_KEY, canonical_json(sorted(_marks(store) | {_mark(secret, word) for word in words})))


def erased_words(store: Store, words: Iterable[str | None]) -> frozenset[str]:
    """Which of some sample ids and SHA-256 of images were erased from this repository."""
    if not (marks := _marks(store)):
        return frozenset()
    secret = _secret(store)
    return frozenset(word for word in words if word is not None and _mark(secret, word) in marks)


def _marks(store: Store) -> set[str]:
    try:
        marks = parse_json(store.get(_KEY))
    except NotFoundError:
        return set()
    except ValueError:
        marks = None
    if not isinstance(marks, list) or not all(isinstance(mark, str) for mark in marks):
        raise _damaged(_KEY)
    return set(marks)


def _secret(store: Store) -> bytes:
    """The repository's secret key. Raises DamagedError where it is not the one that the repository began with."""
    secret = store.get(_SECRET)
    try:
        stated = parse_json(store.get(_CONFIG))["salt_key_sha256"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(_CONFIG) from None
    if sha256_hex(secret) != stated:
        raise _damaged(_SECRET)
    return secret


def _damaged(key: str) -> DamagedError:
    return DamagedError(f"{key} is damaged.", remedy="Put it back from a backup, then run `dsops verify`.")


def _mark(secret: bytes, word: str) -> str:
    return hmac.new(secret, b"erased\x00" + word.encode(), "sha256").hexdigest()
