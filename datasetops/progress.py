"""What long work tells: how far it is, without knowing who listens, and not what libraries say meanwhile."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[
    [Iterable[Any], int, str], Iterator[Any]
]  # (items, total, what is done) → the same items


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Without a library's remarks below errors, and without warnings."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def no_progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    return iter(items)
