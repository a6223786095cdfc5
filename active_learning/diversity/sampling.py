"""Draws by squared distance: each row with the probability of its squared distance to the nearest drawn before.

Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007. The squared distance only falls as
rows are drawn, so rows are drawn many at a time by distances that are out of date, and each is kept with the probability
of true over outdated distance: that is the law of one draw after another, for one product of matrices per many draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.space import blocks
from datasetops.active_learning.pool import Floats, Ints

Squared = Callable[[Ints, Ints], npt.NDArray[Any]]  # squared distances (R, C) of rows to others, of their numbers
_AT_ONCE: Final = 64  # draws by distances that are out of date


def draw_apart(first: int, reach: Floats, n: int, between: Squared, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """`first` and then n - 1 other rows, fewer where all others are at 0; their squared distances when drawn.

    `reach` (N,) are squared distances to what is there before anything is drawn, infinite where there is nothing.
    """
    square = reach.copy()
    drawn, found = [first], [float(square[first])]
    new = [first]
    while True:
        for block in blocks(len(square)):
            rows = np.arange(block.start, block.stop)
            np.minimum(square[block], between(rows, np.array(new)).min(axis=1), out=square[block])
        square[new] = 0
        upto = np.cumsum(square)
        if len(drawn) >= n or not upto[-1] > 0:
            return np.array(drawn, np.int64), np.array(found)
        tries = np.searchsorted(upto, rng.random(_AT_ONCE) * upto[-1], side="right")
        tries = np.minimum(tries, np.flatnonzero(square)[-1])  # where rounding leads beyond the sum
        apart, stale, keep = between(tries, tries), square[tries], rng.random(_AT_ONCE)
        true = stale.copy()
        new = []
        for i, row in enumerate(tries):
            if len(drawn) < n and true[i] > keep[i] * stale[i]:
                new.append(int(row))
                drawn.append(int(row))
                found.append(float(true[i]))
                np.minimum(true, apart[:, i], out=true)
                true[tries == row] = 0


def rest(count: int, drawn: Ints, n: int, rng: np.random.Generator) -> Ints:
    """`n` in all: what was drawn of `count`, and then others at random."""
    left = rng.permutation(np.setdiff1d(np.arange(count), drawn))[: n - len(drawn)]
    return np.concatenate([drawn, left])
