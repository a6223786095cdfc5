"""ProbCover: the rows whose balls hold most of what no ball holds yet.

Yehuda, Dekel, Hacohen and Weinshall, "Active learning through a covering lens", NeurIPS 2022.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.clusters import k_means
from datasetops.active_learning.diversity.farthest import k_center
from datasetops.active_learning.diversity.space import Space, blocks
from datasetops.active_learning.pool import Floats, Ints

_PURITY: Final = 0.95  # share of balls that hold one pseudo-label alone, as in the paper
_MOST: Final = 20_000  # rows that are covered and choose from each other: a bit for each pair is 50 MB
_MEASURED: Final = 2000  # balls whose purity is looked at: its share is known within 0.01


def prob_cover(
    embeddings: npt.NDArray[Any], candidates: Ints, covered: Ints, n: int, classes: int, rng: np.random.Generator
) -> tuple[Ints, Floats, float]:
    """`n` candidates by greedy maximum cover, how many rows each newly covers, and the radius of the balls.

    Of more than 20,000 candidates as many, drawn at random, stand for all. Where all is covered before `n` are chosen
    the others are the farthest from what is covered or chosen (`k_center`), and cover 0. Raises ValueError for rows
    that are not finite.
    """
    candidates = np.sort(rng.permutation(candidates)[: max(_MOST, n)])
    count = len(candidates)
    n = min(n, count)
    space = Space(embeddings, np.concatenate([candidates, covered]))
    radius = pure_radius(space, count, classes, rng)
    chosen, gains = _greedy(*_balls(space, count, radius), n, rng.permutation(count))
    rows = candidates[chosen]
    if len(rows) < n:
        left = np.delete(candidates, chosen)
        farther, _ = k_center(embeddings, left, np.concatenate([covered, rows]), n - len(rows), rng)
        rows = np.concatenate([rows, farther])
    return rows, np.concatenate([gains, np.zeros(n - len(gains))]), radius


def pure_radius(space: Space, count: int, classes: int, rng: np.random.Generator) -> float:
    """The radius at which 95 % of open balls around the first `count` places hold one pseudo-label alone.

    Pseudo-labels are k-means clusters, as many as classes. A ball is pure up to the nearest row of another; looked at
    are 2,000 balls. 0 where there is one cluster.
    """
    home = k_means(space, classes, rng).home
    some = rng.permutation(count)[:_MEASURED]
    rows, other = space.take(some), np.full(len(some), np.inf, np.float32)
    for part in blocks(count):
        square = space.squared(rows, space.take(np.arange(part.start, part.stop)))
        square[home[some, None] == home[part]] = np.inf
        np.minimum(other, square.min(axis=1), out=other)
    impure = int((1 - _PURITY) * len(some))  # balls that may be
    radius = float(np.sqrt(np.partition(other, impure)[impure]))
    return radius if np.isfinite(radius) else 0.0


def _balls(space: Space, count: int, radius: float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Who is within the radius of whom, a bit for each pair, and who is in no ball of a covered row."""
    reach = max(radius**2, float(np.finfo(np.float32).tiny))  # copies are always within
    near = np.empty((count, -(-count // 8)), np.uint8)
    open_ = np.ones(count, bool)
    for block in blocks(count, 512):
        rows = space.take(np.arange(block.start, block.stop))
        within = np.empty((len(rows.ids), len(space)), bool)
        for part in blocks(len(space)):
            within[:, part] = space.squared(rows, space.take(np.arange(part.start, part.stop))) < reach
        near[block] = np.packbits(within[:, :count], axis=1)
        open_[block] = ~within[:, count:].any(axis=1)
    return near, open_


def _greedy(
    near: npt.NDArray[np.uint8], open_: npt.NDArray[np.bool_], n: int, tie: Ints
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Up to `n` places, each with most open ones near it, which are open no more; ties by the least of `tie`."""
    count = len(near)
    gain = np.zeros(count, np.int64)
    for block in blocks(count, 512):
        gain[block] = (np.unpackbits(near[block], axis=1, count=count) & open_).sum(axis=1)
    chosen: list[int] = []
    gains: list[int] = []
    while len(chosen) < n and gain.max() > 0:
        best = np.flatnonzero(gain == gain.max())
        row = int(best[np.argmin(tie[best])])
        new = np.flatnonzero(np.unpackbits(near[row], count=count).astype(bool) & open_)
        open_[new] = False
        for block in blocks(len(new), 512):
            gain -= np.unpackbits(near[new[block]], axis=1, count=count).sum(axis=0, dtype=np.int64)
        gain[row] = 0  # also where rounding made a pair near one way only
        if len(new):
            chosen.append(row)
            gains.append(len(new))
    return np.array(chosen, np.int64), np.array(gains, np.float64)
