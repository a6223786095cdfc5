"""k-means, and picks from clusters: those of TypiClust, the most central ones, those of Cluster-Margin."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from datasetops.active_learning.diversity.sampling import draw_apart
from datasetops.active_learning.diversity.space import Space, blocks
from datasetops.active_learning.pool import Floats, Ints

_ROUNDS: Final = 50  # of Lloyd at most; the objective hardly moves after
_SETTLED: Final = 1e-3  # … or until it falls by less than this share
_LEARNED: Final = 256  # rows for each centre that k-means learns from
_SEEDED: Final = 32  # rows for each centre that its first place is drawn from
_FEW: Final = 64  # clusters up to which the best of several runs counts: runs differ most there, and cost least
_RUNS: Final = 4


@dataclass(frozen=True)
class Clusters:
    """`centres` (K, D) about the mean of the space; of each row its cluster (N,), and its squared distance (N,)."""

    centres: npt.NDArray[np.float32]
    home: Ints
    square: npt.NDArray[np.float32]


def k_means(space: Space, number: int, rng: np.random.Generator) -> Clusters:
    """Lloyd's rounds from k-means++ seeds, on a sample where there are more than 256 rows for each centre."""
    count = len(space)
    number = min(number, count)
    learned = np.sort(rng.permutation(count)[: number * _LEARNED])
    runs = [_lloyd(space, learned, number, rng) for _ in range(_RUNS if number <= _FEW else 1)]
    centres = min(runs, key=lambda run: run[0])[1]
    home, square = np.empty(count, np.int64), np.empty(count, np.float32)
    for block in blocks(count):
        rows = space.take(np.arange(block.start, block.stop))
        home[block], square[block] = _nearest(rows.values, rows.half, centres)
    return Clusters(centres, home, square)


def _lloyd(space: Space, learned: Ints, number: int, rng: np.random.Generator) -> tuple[float, npt.NDArray[np.float32]]:
    """The sum of squared distances before the last step, and the centres."""
    few = rng.permutation(learned)[: number * _SEEDED]

    def between(rows: Ints, others: Ints) -> npt.NDArray[np.float32]:
        return space.squared(space.take(few[rows]), space.take(few[others]))

    drawn, _ = draw_apart(0, np.full(len(few), np.inf), number, between, rng)
    centres = space.take(few[drawn]).values
    total = np.inf
    for _ in range(_ROUNDS):
        before, total = total, _step(space, learned, centres)
        if total >= before * (1 - _SETTLED):
            break
    return total, centres


def _step(space: Space, learned: Ints, centres: npt.NDArray[np.float32]) -> float:
    """Put each centre into the middle of the rows nearest to it; the sum of squared distances before that."""
    sums, sizes, total = np.zeros_like(centres, np.float64), np.zeros(len(centres)), 0.0
    for block in blocks(len(learned)):
        rows = space.take(learned[block])
        home, square = _nearest(rows.values, rows.half, centres)
        share = csr_array((np.ones(len(home), np.float32), (home, np.arange(len(home)))), (len(centres), len(home)))
        sums += share @ rows.values
        sizes += np.bincount(home, minlength=len(centres))
        total += float(square.sum(dtype=np.float64))
    filled = sizes > 0
    centres[filled] = sums[filled] / sizes[filled, None]
    return total


def _nearest(
    rows: npt.NDArray[np.float32], half: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]
) -> tuple[Ints, npt.NDArray[np.float32]]:
    nearness = rows @ centres.T
    nearness -= np.einsum("ij,ij->i", centres, centres) / np.float32(2)
    home = nearness.argmax(axis=1)
    return home, np.maximum(2 * (half - nearness[np.arange(len(home)), home]), 0)


def share_out(left: Ints, held: Ints, n: int, order: Ints) -> Ints:
    """From which cluster each of `n` picks comes: the one with the fewest rows held so far, ties by `order`.

    `left` (K,) rows that can be chosen, `held` (K,) covered ones, `order` (K,) the rank of each cluster.
    """
    left = left.copy()
    heap = [(int(held[k]), int(order[k]), int(k)) for k in np.flatnonzero(left)]
    heapq.heapify(heap)
    turns: list[int] = []
    while heap and len(turns) < n:
        count, rank, k = heap[0]
        turns.append(k)
        left[k] -= 1
        if left[k]:
            heapq.heapreplace(heap, (count + 1, rank, k))
        else:
            heapq.heappop(heap)
    return np.array(turns, np.int64)


def from_clusters(
    turns: Ints, home: Ints, candidates: Ints, best: Callable[[Ints, Ints, int], tuple[Ints, Floats]]
) -> tuple[Ints, Floats]:
    """The rows and scores of the turns; `best(members, candidates among them, m)` gives a cluster's `m`, best first."""
    rows, scores = np.empty(len(turns), np.int64), np.empty(len(turns))
    order = np.argsort(home, kind="stable")
    ends = np.cumsum(np.bincount(home, minlength=int(home.max(initial=0)) + 1))
    may = np.zeros(len(home), bool)
    may[candidates] = True
    for k in np.unique(turns):
        members = order[ends[k - 1] if k else 0 : ends[k]]
        at = np.flatnonzero(turns == k)
        rows[at], scores[at] = best(members, members[may[members]], len(at))
    return rows, scores
