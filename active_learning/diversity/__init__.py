"""Strategies that choose samples unlike each other, and unlike what is labeled already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from datasetops.active_learning.diversity import badge as _badge
from datasetops.active_learning.diversity import covering, farthest, mixtures, typical
from datasetops.active_learning.pool import Picks, Pool, Strategy, needed
from datasetops.active_learning.scores import margin

Pick = Callable[[Pool, int, np.random.Generator], Picks]


def _k_center(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    rows, far = farthest.k_center(needed(pool.embeddings), pool.candidates, pool.covered, n, rng)
    return Picks(rows, far, tuple(map(_far, far)))


def _far(distance: float) -> str:
    if np.isnan(distance):
        return "drawn at random: the first, nothing is labeled"
    if distance == 0:
        return "drawn at random: a copy of what is labeled or chosen, as all that are left"
    return f"distance {distance:.3g} to the nearest that is labeled or chosen"


def _gradients(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    embeddings, probabilities = needed(pool.embeddings), needed(pool.probabilities)
    rows, far = _badge.badge(embeddings, probabilities, pool.candidates, n, rng)
    why = "gradient at distance {:.3g} from the nearest that is chosen"
    none = "drawn at random: the model learns nothing new from any that are left"
    return Picks(rows, far, tuple(why.format(distance) if distance else none for distance in far))


def _central(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    rows, scores = typical.central(needed(pool.embeddings), pool.candidates, pool.covered, n, rng)
    return Picks(rows, scores, tuple(f"distance {-score:.3g} to the centre of its cluster" for score in scores))


def _typiclust(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    rows, scores = typical.typiclust(needed(pool.embeddings), pool.candidates, pool.covered, n, rng)
    why = "typical of its cluster: mean distance {:.3g} to its neighbours there"
    return Picks(rows, scores, tuple(why.format(1 / score) if score else "alone in its cluster" for score in scores))


def _prob_cover(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    embeddings = needed(pool.embeddings)
    rows, gains, radius = covering.prob_cover(embeddings, pool.candidates, pool.covered, n, pool.classes, rng)
    none = "far from what is labeled or chosen, all within {1:.3g} of that"
    why = "{0:.0f} not yet covered within distance {1:.3g}"
    return Picks(rows, gains, tuple((why if gain else none).format(gain, radius) for gain in gains))


def _cluster_margin(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    unsure = margin(needed(pool.probabilities)[pool.candidates])
    rows, scores = mixtures.cluster_margin(needed(pool.embeddings), unsure, pool.candidates, n, rng)
    why = "margin score {:.3f}, the highest left in its cluster of uncertain ones"
    return Picks(rows, scores, tuple(why.format(score) for score in scores))


def _blend(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    unsure = margin(needed(pool.probabilities)[pool.candidates])
    rows, scores = mixtures.blend(needed(pool.embeddings), unsure, pool.candidates, pool.covered, n, rng)
    why = "{:.3f} of 1: half margin score, half distance from what is labeled or chosen"
    return Picks(rows, scores, tuple(why.format(score) for score in scores))


def _strategy(name: str, title: str, pick: Pick, *more: str) -> Strategy:
    def some(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
        n = min(n, len(pool.candidates))
        return pick(pool, n, rng) if n > 0 else Picks(pool.candidates[:0], np.zeros(0), ())

    return Strategy(name, title, ("embeddings", *more), some)


DIVERSE: Final = (
    _strategy("k_center", "far from all that is labeled or chosen", _k_center),
    _strategy("badge", "uncertain, in different directions", _gradients, "probabilities"),
    _strategy("k_means", "the centre of a cluster without labels", _central),
    _strategy("typiclust", "typical of a cluster without labels", _typiclust),
    _strategy("prob_cover", "many look-alikes without labels", _prob_cover),
    _strategy("cluster_margin", "uncertain, each of another cluster", _cluster_margin, "probabilities"),
    _strategy("blend", "uncertain, and far from what is labeled", _blend, "probabilities"),
)
