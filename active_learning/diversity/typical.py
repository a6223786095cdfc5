"""Picks from clusters that hold nothing covered: the most typical row, or the most central.

TypiClust: Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets",
ICML 2022.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.clusters import Clusters, from_clusters, k_means, share_out
from datasetops.active_learning.diversity.space import Space, blocks
from datasetops.active_learning.pool import Floats, Ints

NEIGHBOURS: Final = 20  # as in the paper
_MOST_CLUSTERS: Final = 500  # as in the paper: smaller clusters would split what belongs together
_SMALL: Final = 5  # clusters of so few rows come last, as in the paper: they are stray ones
_SAMPLE: Final = 4096  # rows of a cluster that stand for it where it has more
_TINY: Final = 1e-12


def typiclust(
    embeddings: npt.NDArray[Any], candidates: Ints, covered: Ints, n: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """`n` candidates, each the most typical of a cluster with the fewest covered or chosen rows, the largest first.

    k-means makes as many clusters as there will be covered rows, at most 500. Typicality, the score, is one over the
    mean distance to the 20 nearest rows of the cluster. Raises ValueError for rows that are not finite.
    """
    space = Space(embeddings, np.concatenate([candidates, covered]))
    clusters = k_means(space, min(len(covered) + n, _MOST_CLUSTERS), rng)

    def best(members: Ints, free: Ints, m: int) -> tuple[Ints, Floats]:
        if len(members) > _SAMPLE:
            free = rng.permutation(free)[: max(_SAMPLE, m)]
            members = np.union1d(rng.permutation(members)[:_SAMPLE], free)
        typical = typicality(space, free, members)
        order = np.argsort(-typical, kind="stable")[:m]
        return free[order], typical[order]

    turns = _turns(clusters, len(candidates), n)
    places, scores = from_clusters(turns, clusters.home, np.arange(len(candidates)), best)
    return candidates[places], scores


def central(
    embeddings: npt.NDArray[Any], candidates: Ints, covered: Ints, n: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """As `typiclust`, with a cluster for each of the rows covered and chosen, and of each the row nearest its centre.

    The score is minus the distance to the centre.
    """
    space = Space(embeddings, np.concatenate([candidates, covered]))
    clusters = k_means(space, min(len(covered), max(n, _MOST_CLUSTERS)) + n, rng)

    def best(members: Ints, free: Ints, m: int) -> tuple[Ints, Floats]:
        order = np.argsort(clusters.square[free], kind="stable")[:m]
        return free[order], -np.sqrt(clusters.square[free[order]], dtype=np.float64)

    turns = _turns(clusters, len(candidates), n)
    places, scores = from_clusters(turns, clusters.home, np.arange(len(candidates)), best)
    return candidates[places], scores


def _turns(clusters: Clusters, count: int, n: int) -> Ints:
    number = len(clusters.centres)
    free, held = (np.bincount(part, minlength=number) for part in np.split(clusters.home, [count]))
    size = free + held
    rank = np.empty(number, np.int64)
    rank[np.lexsort((-size, size <= _SMALL))] = np.arange(number)
    small = (size <= _SMALL) & bool((size > _SMALL).any())
    return share_out(free, held + small * (n + held.max(initial=0)), n, rank)


def typicality(space: Space, rows: Ints, members: Ints) -> Floats:
    """One over the mean distance of each row to its 20 nearest of `members`, to half of them where they are few.

    0 where there is no other.
    """
    k = max(1, min(NEIGHBOURS, len(members) // 2))
    if len(members) < 2:
        return np.zeros(len(rows))
    others = space.take(members)
    near = np.empty(len(rows))
    for block in blocks(len(rows), 512):
        square = space.squared(space.take(rows[block]), others)
        square[rows[block][:, None] == members] = np.inf
        near[block] = np.sqrt(np.partition(square, k - 1, axis=1)[:, :k]).mean(axis=1)
    return 1 / np.maximum(near, _TINY)
