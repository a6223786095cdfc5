"""Mixtures of uncertainty and diversity."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.clusters import from_clusters, k_means, share_out
from datasetops.active_learning.diversity.farthest import farthest_first
from datasetops.active_learning.diversity.space import Space
from datasetops.active_learning.pool import Floats, Ints

WIDTH: Final = 10  # of Cluster-Margin: the most uncertain candidates for each pick, as in the paper


def cluster_margin(
    embeddings: npt.NDArray[Any],
    uncertainty: Floats,
    candidates: Ints,
    n: int,
    rng: np.random.Generator,
    width: int = WIDTH,
) -> tuple[Ints, Floats]:
    """`n` of the `width * n` most uncertain candidates, spread over their clusters; and their uncertainty (C,).

    k-means makes `n` clusters; each gives its most uncertain row, the smallest first. After Citovsky et al., "Batch
    active learning at scale", NeurIPS 2021, where clusters are of average linkage over the pool and rows are drawn from
    them at random. Raises ValueError for rows that are not finite.
    """
    order = rng.permutation(len(candidates))
    unsure = order[np.argsort(-uncertainty[order], kind="stable")][: width * n]
    space = Space(embeddings, candidates[unsure])
    home = k_means(space, n, rng).home
    size = np.bincount(home)
    rank = np.empty(len(size), np.int64)
    rank[np.argsort(size, kind="stable")] = np.arange(len(size))
    turns = share_out(size, np.zeros_like(size), n, rank)
    places, scores = from_clusters(
        turns, home, np.arange(len(unsure)), lambda _, free, m: (free[:m], uncertainty[unsure[free[:m]]])
    )
    return candidates[unsure[places]], scores


def blend(
    embeddings: npt.NDArray[Any],
    uncertainty: Floats,
    candidates: Ints,
    covered: Ints,
    n: int,
    rng: np.random.Generator,
    diversity: float = 0.5,
) -> tuple[Ints, Floats]:
    """`n` candidates by a weighted sum of uncertainty (C,) in [0, 1] and distance from what is covered or chosen.

    `diversity` 0 is uncertainty alone, 1 is `k_center`. Distances are over the largest of a candidate when nothing is
    chosen. The sums are the scores, that of copies 0. Raises ValueError for rows that are not finite.
    """
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity: expected 0 to 1; got {diversity}")
    space = Space(embeddings, np.concatenate([candidates, covered]))
    count = len(candidates)
    order = rng.permutation(count)
    first = np.arange(0) if len(covered) else order[np.argmax(uncertainty[order], keepdims=True)]
    _, distances = farthest_first(space, count, first, len(first) + 1, rng, lambda _, far: far)
    scale = np.nanmax(distances, initial=1e-30)

    def worth(places: Ints, far: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return (1 - diversity) * uncertainty[places] + diversity / scale * far

    places, distances = farthest_first(space, count, first, n, rng, worth)
    far = np.nan_to_num(distances, nan=scale)
    return candidates[places], np.where(far > 0, worth(places, far), 0)
