"""Farthest first: each pick is the row that is worth most, where distance from what is covered makes worth.

With distance alone this is the greedy k-center of Sener and Savarese, "Active learning for convolutional neural networks:
a core-set approach", ICLR 2018: the covering radius is at most twice the least possible (Gonzalez 1985).

A row's distance to the nearest centre only falls as centres are added, so one that was worked out earlier is an upper
bound. Only rows whose bound is among the largest are brought up to date, against all centres that they have not met, in
products of matrices; among these the greedy goes on for as long as its best exceeds all other bounds. The picks are
those of the plain greedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.sampling import rest
from datasetops.active_learning.diversity.space import BLOCK, Space, blocks
from datasetops.active_learning.pool import Floats, Ints

Worth = Callable[[Ints, npt.NDArray[Any]], npt.NDArray[Any]]
_FRONT: Final = 2048  # rows that are brought up to date at a time
_ALIKE: Final = 256  # of these, rows that meet the same centres: a product of matrices for each
_FIRST: Final = 256  # covered rows that every candidate meets; the others are met in front alone


def k_center(
    embeddings: npt.NDArray[Any], candidates: Ints, covered: Ints, n: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """`n` candidates, each the farthest from its nearest covered or chosen row, and these distances.

    Where nothing is covered the first is drawn at random and its distance is NaN. Copies of what is covered or chosen
    come last, at random, at distance 0. Raises ValueError for rows that are not finite.
    """
    space = Space(embeddings, np.concatenate([candidates, covered]))
    first = np.arange(0) if len(covered) else rng.integers(len(candidates), size=1)
    places, distances = farthest_first(space, len(candidates), first, n, rng, lambda _, far: far)
    return candidates[places], distances


def farthest_first(
    space: Space, count: int, first: Ints, n: int, rng: np.random.Generator, worth: Worth
) -> tuple[Ints, Floats]:
    """`n` of the first `count` places of `space`, and the distance of each when it was chosen.

    `first` are chosen already (distance NaN); all other places of `space` are covered. There must be one or the other.
    `worth(places, distances)` grows with distance. Copies come last, at random, at distance 0.
    """
    n = min(n, count)
    front = _Front(space, count, np.concatenate([first, rng.permutation(np.arange(count, len(space)))]), worth)
    chosen, found = list(first), [np.nan] * len(first)
    while len(chosen) < n and front.open():
        for place, distance in front.advance(n - len(chosen)):
            chosen.append(place)
            found.append(distance)
    places = rest(count, np.array(chosen, np.int64), n, rng)
    return places, np.concatenate([found, np.zeros(n - len(found))])


class _Front:
    """Candidates, the least squared distance of each to the centres that it has met, and what it is worth at most."""

    def __init__(self, space: Space, count: int, centres: Ints, worth: Worth) -> None:
        self._space, self._centres, self._worth = space, centres, worth
        self._seen = np.full(count, min(len(centres), _FIRST))
        self._square = np.empty(count, np.float32)
        first = space.take(centres[:_FIRST])
        for block in blocks(count):
            rows = space.take(np.arange(block.start, block.stop))
            self._square[block] = space.squared(rows, first).min(axis=1)
        self._bound = self._value(np.arange(count), self._square)

    def open(self) -> bool:
        """Whether there is anything left that is no copy."""
        return bool(self._bound.max() > -np.inf)

    def advance(self, most: int) -> list[tuple[int, float]]:
        """The next picks and their distances; none where bounds were too loose to tell."""
        places, others = self._in_front()
        self._update(places, others)
        places = places[self._seen[places] == len(self._centres)]
        if not len(places):
            return []
        rows, square, bound = self._space.take(places), self._square[places], self._bound[places]
        picks: list[tuple[int, float]] = []
        while len(picks) < most:
            best = int(np.argmax(bound))
            if bound[best] == -np.inf or bound[best] < others:
                break
            picks.append((int(places[best]), float(np.sqrt(square[best]))))
            np.minimum(square, self._space.squared(rows, rows.part(np.array([best])))[:, 0], out=square)
            square[best] = 0
            bound = self._value(places, square)
        self._centres = np.concatenate([self._centres, np.array([place for place, _ in picks], np.int64)])
        self._seen[places], self._square[places], self._bound[places] = len(self._centres), square, bound
        return picks

    def _in_front(self) -> tuple[Ints, float]:
        """The places of the largest bounds, and the largest of the others."""
        if len(self._bound) <= _FRONT:
            return np.arange(len(self._bound)), -np.inf
        order = np.argpartition(-self._bound, _FRONT)
        return np.sort(order[:_FRONT]), float(self._bound[order[_FRONT]])

    def _update(self, places: Ints, others: float) -> None:
        """Let rows meet the centres that they have not met, until their bound is less than `others`."""
        by_seen = places[np.argsort(self._seen[places], kind="stable")]
        for block in blocks(len(places), _ALIKE):
            some = by_seen[block]
            unmet = range(int(self._seen[some[0]]), len(self._centres), BLOCK)
            for start in unmet:
                centres = self._space.take(self._centres[start : start + BLOCK])
                near = self._space.squared(self._space.take(some), centres).min(axis=1)
                self._square[some] = np.minimum(self._square[some], near)
                self._seen[some] = np.maximum(self._seen[some], min(start + BLOCK, len(self._centres)))
                self._bound[some] = self._value(some, self._square[some])
                some = some[self._bound[some] >= others]
                if not len(some):
                    break

    def _value(self, places: Ints, square: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """What rows are worth; copies of what is covered or chosen, and that itself, are out."""
        return np.where(square > 0, self._worth(places, np.sqrt(square)), np.float32(-np.inf))
