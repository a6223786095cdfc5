"""What questions about the past are answered from: the ledger in its order, the versions, and their rows.

Opening one reads every ledger entry and commit, and no row. The order of everything is the ledger's; times are told, but
decide nothing, since clocks run wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np

from datasetops.errors import DamagedError, NotFoundError, did_you_mean
from datasetops.ledger import HINT, Entry
from datasetops.manifest import Repository, Version
from datasetops.manifest.segment import Positions
from datasetops.provenance.rows import TablePast

_ALIKE: Final = 2  # first characters that an id shares with one that may be meant
_REPAIR: Final = "Put it back from a backup, then run `dsops verify`."


class Past:
    """`entries` and `versions` are in the ledger's order; `notes` tell what a reader has to know about them.

    Raises DamagedError where an entry of the ledger is missing or does not follow from the one before it.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.entries = list(_entries(repository))
        self.versions: list[Version] = list(repository.versions())[::-1]
        self.number = {version.name: place for place, version in enumerate(self.versions)}
        self.made = {entry.version: entry for entry in self.entries if entry.version}
        self.by_event: dict[str, Entry] = {}
        for entry in self.entries:
            self.by_event.setdefault(entry.event.event_id, entry)
        self.notes = list(_clocks(self.entries))
        self._tables: dict[str, TablePast] = {}

    def table(self, name: str) -> TablePast:
        """Raises NotFoundError where there is no version yet."""
        if not self.versions:
            raise NotFoundError("There is no version yet.", remedy="Bring data in with: dsops ingest SOURCE")
        if name not in self._tables:
            self._tables[name] = TablePast(self.repository.store, [version.state(name) for version in self.versions])
        return self._tables[name]

    def version(self, name: str) -> Version:
        """A version by name, or the newest of a branch. Raises NotFoundError."""
        return self.versions[self.number[self.repository.version(name).name]]

    @cached_property
    def parents(self) -> list[tuple[int, ...]]:
        """Places of the versions that each one was made from, the one that it continues first."""
        places = {version.digest: place for place, version in enumerate(self.versions)}
        return [
            tuple(places[digest] for digest in version.commit.parents if digest in places) for version in self.versions
        ]

    def ancestors(self, place: int) -> set[int]:
        """The places of a version and of all that it stands on."""
        found, waiting = {place}, [place]
        while waiting:
            fresh = set(self.parents[waiting.pop()]) - found
            found |= fresh
            waiting += fresh
        return found

    def changed(self, live: Positions, salts: Positions) -> list[tuple[int, int]]:
        """(version, key) where a key's row is not what any parent of the version had. `live` as TablePast gives it."""
        same = np.where(live < 0, -1, salts)
        found = []
        for place, parents in enumerate(self.parents):
            before = [same[parent] for parent in parents] or [np.full(same.shape[1], -1)]
            new = np.all([same[place] != one for one in before], axis=0)
            found += [(place, int(key)) for key in np.flatnonzero(new)]
        return found

    def names(self, held: Sequence[int] | Positions) -> list[str]:
        return [self.versions[int(place)].name for place in held]

    def file(self, entry: Entry) -> Iterator[Any]:
        """The JSON files that an event names, read. Those that are missing are noted, not fatal."""
        for key in entry.event.outputs.get("files", {}):
            if key.endswith(".json"):
                try:
                    yield json.loads(self.repository.store.get(key))
                except (NotFoundError, ValueError):
                    self.note(
                        f"{key}, which ledger entry {entry.number} names, is missing or damaged: it was left out."
                    )

    def note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)

    def basis(self, *more: str) -> dict[str, Any]:
        """What an answer was worked out from."""
        newest = self.entries[-1]
        return {
            "ledger_entries": len(self.entries),
            "newest_entry": newest.number,
            "newest_entry_sha256": newest.digest,
            "versions": len(self.versions),
            "also": list(more),
        }


def _entries(repository: Repository) -> Iterator[Entry]:
    """All entries, oldest first, each held against the one before it."""
    stored = sorted(int(key[7:-5]) for key in repository.store.list("ledger/") if key != HINT and key.endswith(".json"))
    if not stored:
        raise DamagedError("The ledger is empty.", remedy=_REPAIR)
    tail = repository.ledger.tail()
    last = max(stored[-1], tail.number if tail else 0)
    missing = sorted(set(range(last + 1)) - set(stored))
    if missing:
        raise DamagedError(f"ledger/{missing[0]:012d}.json is missing, a link of the chain.", remedy=_REPAIR)
    before: Entry | None = None
    for number in stored:
        entry = repository.ledger.read(number)
        if before is not None and entry.previous != before.digest:
            raise DamagedError(
                f"ledger/{number:012d}.json does not follow from the entry before it: one of the two was changed.",
                remedy=_REPAIR,
            )
        yield entry
        before = entry


def _clocks(entries: Sequence[Entry]) -> Iterator[str]:
    """Says once where a clock ran backwards."""
    back = [two for one, two in pairwise(entries) if two.event.time < one.event.time]
    if back:
        first = back[0]
        more = f", and {len(back) - 1:,} more" if len(back) > 1 else ""
        yield (
            f"A clock ran backwards: ledger entry {first.number} says {first.event.time[:19]}, earlier than the entry "
            f"before it{more}. The order told here is the ledger's, not that of the clocks."
        )


def unknown(noun: str, name: str, near: Sequence[str]) -> NotFoundError:
    """For an id that no version held; `near` are ids beside it, of which those that begin alike are told."""
    alike = [one for one in near if one[:_ALIKE] == name[:_ALIKE]]
    remedy = f"The nearest: {', '.join(alike[:10])}." if alike else "Give an id or the beginning of one."
    if noun == "sample":
        remedy += " A sample's path will do, or the end of it."
    return NotFoundError(f"No version ever held the {noun} {name!r}.", remedy=remedy)


def unknown_value(name: str, value: str, known: Sequence[str], *, erased: bool = False) -> NotFoundError:
    """`erased`: items were erased from the repository, of which nothing can be said."""
    more = " Items were erased from this repository; what they were is not kept." if erased else ""
    return NotFoundError(
        f"No version holds the {name} {value!r}.{more}" if erased else f"No version ever held the {name} {value!r}.",
        remedy=did_you_mean(value, known, noun=f"values of {name}"),
    )
