"""How unsure a model is of each item: scores in [0, 1], 1 = as unsure as can be, from class probabilities (N, K).

Lewis and Gale 1994 (least confidence), Scheffer, Decomain and Wrobel 2001 (margin), Shannon 1948 (entropy). Settles,
Active Learning Literature Survey, 2009, compares them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TOLERANCE: Final = 1e-3  # of the sum of one item's probabilities


def least_confidence(probabilities: npt.ArrayLike) -> Floats:
    """One minus the largest probability, over what that is at most. Shape (N,)."""
    p = checked(probabilities)
    score: Floats = (1 - p.max(axis=1)) / (1 - 1 / p.shape[1])
    return score


def margin(probabilities: npt.ArrayLike) -> Floats:
    """One minus the distance between the two largest probabilities. Shape (N,)."""
    p = checked(probabilities)
    two = np.partition(p, -2, axis=1)[:, -2:]
    return 1 - (two[:, 1] - two[:, 0])


def entropy(probabilities: npt.ArrayLike) -> Floats:
    """Shannon's entropy over its maximum, log K. Shape (N,)."""
    p = checked(probabilities)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    score: Floats = np.clip(-(p * logs).sum(axis=1) / np.log(p.shape[1]), 0, 1)
    return score


def checked(probabilities: npt.ArrayLike) -> Floats:
    """Probabilities as float64 (N, K). Raises ValueError that names the first bad row."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ValueError(f"probabilities: expected shape (N, K) with at least two classes; got {p.shape}")
    bad = ~np.isfinite(p).all(axis=1)
    bad |= ~(p >= 0).all(axis=1) | (np.abs(p.sum(axis=1) - 1) > _TOLERANCE)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"probabilities: row {row} is not a distribution: {p[row].tolist()[:5]}")
    return p
