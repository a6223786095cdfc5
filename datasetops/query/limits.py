"""How much a query may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datasetops.manifest.version import QueryError

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Limits:
    """`rows` of an answer, `seconds` that a query may run, `memory` in bytes that it may take, `threads` it runs on."""

    rows: int = 100_000
    seconds: float = 30.0
    memory: int = 2048 * MIB
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("rows", "seconds", "memory", "threads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0; got {getattr(self, name)!r}")

    def too_slow(self) -> QueryError:
        from datasetops.manifest.version import QueryError

        return QueryError(
            f"The query was stopped after {self.seconds:g} seconds.",
            remedy="Ask for less: name columns, filter before joining, and end a recursion. --seconds gives it longer.",
        )

    def too_big(self) -> QueryError:
        from datasetops.manifest.version import QueryError

        return QueryError(
            f"The query needs more than {self.memory // MIB:,} MiB of memory.",
            remedy="Ask for less: name columns, filter before joining and sorting. --memory gives it more.",
        )
