"""What a strategy looks at, and what it gives back: arrays, so that simulations and real rounds choose alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Rows = npt.ArrayLike

UNLABELED: Final = -1


@dataclass(frozen=True)
class Votes:
    """Who called what which class: parallel arrays (V,), an annotator's answer to a sample each.

    `item` are rows of the pool, `annotator` numbers from 0, `label` class numbers; of each annotator one answer at most.
    """

    item: Ints
    annotator: Ints
    label: Ints


@dataclass(frozen=True)
class Pool:
    """N samples of K classes, some of which may be chosen.

    `candidates` (C,) are the rows that may be chosen, ascending; `covered` (A,) those that need no look-alike any more:
    labeled, out for labeling, or chosen a moment ago. `labels` (N,) are class numbers, -1 where nobody labeled.
    `embeddings` (N, D) float32; `probabilities` (N, K) those of a model, `committee` (M, N, K) those of several, valid
    in the rows of candidates at least; `uncertainty` (N,) in [0, 1] scores that somebody else worked out. `votes` are the
    single answers behind the labels, where they are known.
    """

    classes: int
    candidates: Ints
    covered: Ints
    labels: Ints
    embeddings: npt.NDArray[np.float32] | None = None
    probabilities: npt.NDArray[Any] | None = None
    committee: npt.NDArray[Any] | None = None
    uncertainty: Floats | None = None
    votes: Votes | None = None

    def without(self, rows: Ints, *, covered: bool = True) -> Pool:
        """The pool where these rows can be chosen no more; unless told otherwise they are covered now."""
        left = np.setdiff1d(self.candidates, rows, assume_unique=False)
        now = np.union1d(self.covered, rows) if covered else self.covered
        return replace(self, candidates=left, covered=now)

    def only(self, rows: Ints) -> Pool:
        """The pool where only these of the candidates can be chosen."""
        return replace(self, candidates=np.intersect1d(self.candidates, rows))


@dataclass(frozen=True)
class Picks:
    """Rows in the order in which they should be labeled, a score for each (NaN: chance alone), and why each."""

    rows: Ints
    scores: Floats
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Strategy:
    """`pick` chooses `n` candidates, or all where there are fewer, never one twice.

    `needs` are fields of Pool that must be there, `uses` those that it looks at where they can be had; the same
    generator state gives the same picks.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    pick: Callable[[Pool, int, np.random.Generator], Picks]
    uses: tuple[str, ...] = ()


def needed(values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """What a strategy declared in `needs`. Raises ValueError where the pool lacks it."""
    if values is None:
        raise ValueError("pool: a field that the strategy needs is missing")
    return values


def top(pool: Pool, scores: npt.NDArray[Any], n: int, rng: np.random.Generator, why: str) -> Picks:
    """The candidates with the highest of the scores (C,); equal ones in an order that the generator decides.

    `why` is a format string of one number, the score.
    """
    n = min(n, len(scores))
    if n == 0:
        return Picks(np.array([], np.int64), np.array([], np.float64), ())
    least = np.partition(scores, len(scores) - n)[len(scores) - n]
    near = np.flatnonzero(scores >= least)  # n of them and those that tie with the last
    near = near[rng.permutation(len(near))]
    near = near[np.argsort(-scores[near], kind="stable")][:n]
    found = scores[near].astype(np.float64)
    return Picks(pool.candidates[near], found, tuple(why.format(score) for score in found))
