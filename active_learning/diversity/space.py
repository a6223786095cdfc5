"""Rows of embeddings that are compared: what they must be, and squared distances between them by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import Ints
from datasetops.audits.images.neighbours import Floats, Points, Taken

BLOCK: Final = 2048  # rows that are compared at a time
_ROUNDING: Final = 16 * float(np.finfo(np.float32).eps)  # of squared lengths: a product tells no less from nothing


def known(embeddings: npt.NDArray[Any], rows: Ints) -> None:
    """Raises ValueError where one of the rows of `embeddings` (N, D) is not finite, or where the shape is another."""
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise ValueError(f"embeddings: expected shape (N, D); got {embeddings.shape}")
    bad = [rows[block][~np.isfinite(embeddings[rows[block]]).all(axis=1)] for block in blocks(len(rows))]
    lacking = np.concatenate([*bad, rows[:0]])
    if lacking.size:
        raise ValueError(f"embeddings: {lacking.size} rows have none (not finite), the first is row {lacking.min()}")


class Space:
    """Some rows of embeddings (N, D), numbered by their place among `rows`; squared distances of them by blocks.

    Raises ValueError for rows that are not finite.
    """

    def __init__(self, embeddings: npt.NDArray[Any], rows: Ints) -> None:
        known(embeddings, rows)
        self._points = Points(embeddings.astype(np.float32, copy=False), "euclidean")
        self._ids = np.searchsorted(self._points.rows, rows)

    def __len__(self) -> int:
        return self._ids.size

    def take(self, places: Ints) -> Taken:
        return self._points.take(self._ids[places])

    def squared(self, a: Taken, b: Taken) -> Floats:
        """Squared distances (a, b) by a product of matrices; 0 where rounding leaves nothing to tell."""
        between = self._points.similarity(a, b)
        between *= -2
        between[between <= _ROUNDING * np.maximum.outer(a.half, b.half)] = 0
        return between


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """0 … count - 1 in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
