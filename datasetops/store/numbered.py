"""Records that are written once, each under the next free number of its folder: models/m1.json, rounds/r1.json, …"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from datasetops.errors import ConflictError, NotFoundError, did_you_mean
from datasetops.store.base import KeyExistsError, Store

_ATTEMPTS: Final = 1000


@dataclass(frozen=True)
class Numbered:
    """One such folder. `noun` names a record in messages, `make` the command that makes one."""

    folder: str
    letter: str
    noun: str
    make: str

    def key(self, name: str) -> str:
        return f"{self.folder}/{name}.json"

    def names(self, store: Store) -> list[str]:
        """Oldest first."""
        keys = store.list(f"{self.folder}/{self.letter}")
        found = (key.removeprefix(f"{self.folder}/").removesuffix(".json") for key in keys)
        return sorted((name for name in found if name[1:].isdecimal()), key=lambda name: int(name[1:]))

    def read(self, store: Store, name: str) -> bytes:
        """Raises NotFoundError that lists what there is."""
        try:
            return store.get(self.key(name))
        except NotFoundError:
            known = self.names(store)
            remedy = did_you_mean(name, known, noun=f"{self.noun}s") if known else f"Make one with: {self.make}"
            raise NotFoundError(f"There is no {self.noun} {name!r}.", remedy=remedy) from None

    def add(self, store: Store, content: Callable[[str], bytes]) -> str:
        """Write `content(name)` under the first name that nobody else takes; returns the name."""
        first = 1 + max((int(name[1:]) for name in self.names(store)), default=0)
        for number in range(first, first + _ATTEMPTS):
            name = f"{self.letter}{number}"
            try:
                store.put_new(self.key(name), content(name))
            except KeyExistsError:
                continue
            return name
        raise ConflictError(f"{self.noun}s are being made without pause.".capitalize(), remedy="Run it again later.")
