"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[
    [Iterable[Any], int, str], Iterator[Any]
]  # (items, total, what is done) → the same items


def no_progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    return iter(items)
