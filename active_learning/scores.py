"""How unsure a model is of each item: scores in [0, 1], 1 = as unsure as can be, from class probabilities (N, K).

Lewis and Gale 1994 (least confidence), Scheffer, Decomain and Wrobel 2001 (margin), Shannon 1948 (entropy). Settles,
Active Learning Literature Survey, 2009, compares them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TOLERANCE: Final = 1e-3  # of the sum of one item's probabilities
_BLOCK: Final = 16_384  # items at a time


def least_confidence(probabilities: npt.ArrayLike) -> Floats:
    """One minus the largest probability, over what that is at most. Shape (N,)."""
    p = checked(probabilities)
    score: Floats = (1 - p.max(axis=1)) / (1 - 1 / p.shape[1])
    return score


def margin(probabilities: npt.ArrayLike) -> Floats:
    """One minus the distance between the two largest probabilities. Shape (N,)."""
    p = _table(probabilities)
    scores = np.empty(len(p))
    for start in range(0, len(p), _BLOCK):
        block = np.ascontiguousarray(p[start : start + _BLOCK].T)  # a class after the other, in the processor's cache
        first, second = np.maximum(block[0], block[1]), np.minimum(block[0], block[1])
        least, total = second, block[0] + block[1]
        for row in block[2:]:
            second = np.maximum(second, np.minimum(first, row))
            first, least, total = np.maximum(first, row), np.minimum(least, row), total + row
        if not ((least >= 0) & (np.abs(total - 1) <= _TOLERANCE)).all():
            checked(p)  # names the row
        scores[start : start + _BLOCK] = 1 - (first - second)
    return scores


def entropy(probabilities: npt.ArrayLike) -> Floats:
    """Shannon's entropy over its maximum, log K. Shape (N,)."""
    p = checked(probabilities)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    score: Floats = np.clip(-(p * logs).sum(axis=1) / np.log(p.shape[1]), 0, 1)
    return score


def checked(probabilities: npt.ArrayLike) -> Floats:
    """Probabilities as float64 (N, K). Raises ValueError that names the first bad row."""
    p = _table(probabilities).astype(np.float64, copy=False)
    bad = ~np.isfinite(p).all(axis=1)
    bad |= ~(p >= 0).all(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"probabilities: row {row} is not a distribution: {p[row].tolist()[:5]}")
    return p


def _table(probabilities: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    p = np.asarray(probabilities)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ValueError(f"probabilities: expected shape (N, K) with at least two classes; got {p.shape}")
    return p if p.dtype in (np.float32, np.float64) else p.astype(np.float64)
