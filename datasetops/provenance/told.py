"""What an answer about the past is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """Something that happened. `entry` is the number of the ledger entry that says so, and orders all items.

    `about` are ids of annotations, `details` what is known beyond the words: event, tool, guide, schema, model, score, …
    """

    entry: int
    time: str
    actor: str
    kind: str
    words: str
    version: str = ""
    about: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """`kind` is sample, annotation, version or model. `facts` are what the newest record says.

    `items` newest first; `versions` that held it, oldest first; `models` that learned from it and `exports` that carried
    it; `notes` what a reader has to know; `basis` what all this was worked out from.
    """

    kind: str
    name: str
    facts: Mapping[str, Any]
    items: tuple[Item, ...]
    versions: tuple[str, ...]
    models: tuple[Mapping[str, Any], ...]
    exports: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    basis: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parents_of(derived_from: str | None) -> list[str]:
    """Ids of the annotations that one corrects or was merged from."""
    if not derived_from:
        return []
    if derived_from.startswith("["):
        try:
            return [str(one) for one in json.loads(derived_from)]
        except ValueError:
            pass
    return [derived_from]
