"""Who looks at which sample right now, so that two people do not work on the same one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

SECONDS: Final = 90.0
_AT_ONCE: Final = 3  # by one person: the item looked at, the one fetched ahead, one in another tab


class Holds:
    """A hold is by one person on one item of one part (a version, a plan); looking again renews it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def take(self, part: str, item: str, actor: str) -> str | None:
        """Hold an item, and let go of the oldest of too many; returns who holds it instead, if somebody else does."""
        with self._lock:
            self._forget()
            holder, _ = self._held.get((part, item), (actor, 0.0))
            if holder != actor:
                return holder
            self._held.pop((part, item), None)  # the newest stands last
            self._held[part, item] = (actor, self._clock() + SECONDS)
            mine = [key for key, (who, _) in self._held.items() if who == actor and key[0] == part]
            for key in mine[:-_AT_ONCE]:
                del self._held[key]
            return None

    def release(self, part: str, item: str, actor: str) -> None:
        with self._lock:
            if self._held.get((part, item), ("", 0.0))[0] == actor:
                del self._held[part, item]

    def of_others(self, part: str, actor: str) -> dict[str, str]:
        """Item → holder, of everybody else."""
        with self._lock:
            self._forget()
            return {item: who for (where, item), (who, _) in self._held.items() if where == part and who != actor}

    def _forget(self) -> None:
        now = self._clock()
        self._held = {key: value for key, value in self._held.items() if value[1] > now}
