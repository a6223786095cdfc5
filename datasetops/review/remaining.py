"""How many errors there are among findings that nobody has decided on, from those that were decided.

Findings of a check and severity are divided in two. Those down to the last of the worst ones that were decided in
order, and any other that was chosen by people, are known. Of the rest, those drawn by lot are a simple random sample: in
the order of the lot, all up to the first that nobody has seen. So the bounds hold however well scores tell errors. They
assume that reviewers are right, and that whether one is passed over in the lot has nothing to do with what it is; one
that a reviewer was unsure about counts as no error in the lower bound, and as one in the upper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.sampling.bounds import Drawn, lower_bound, upper_bound

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]

CONFIDENCE: Final = 0.95
FEWEST: Final = 20  # drawn by lot: with fewer, no error among them still leaves room for one in six
_POOLED: Final = 0.5  # share of what the cells' own samples hold, from which one sample of all cells is the better one


@dataclass(frozen=True)
class Remaining:
    """Errors among the undecided: an estimate, and an interval that holds with `CONFIDENCE` where `bound`."""

    estimate: float
    low: int
    high: int
    bound: bool
    sampled: int
    basis: str


class Lot:
    """Where findings stand in their cell from the worst on, in their cell by lot, and by lot in all."""

    def __init__(self, cells: Ints, sizes: Ints, scores: npt.NDArray[np.float64], ids: Any, lot: Any) -> None:
        """Arrays (N,); `sizes` (C,) findings of each cell. The worst are those of the lowest score, then id."""
        self.cells, self.sizes = cells, sizes
        begins = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        self.from_worst = _inverse(np.lexsort((ids, scores, cells))) - begins[cells]
        self.in_cell = _inverse(np.lexsort((lot, cells))) - begins[cells]
        self.in_all = _inverse(np.argsort(lot, kind="stable"))


@dataclass(frozen=True)
class _Sample:
    """By stratum: findings in it, those of them drawn, among the drawn errors and unsure ones, and how many of all in it
    are decided, drawn or not."""

    sizes: Ints
    drawn: Ints
    errors: Ints
    unsure: Ints
    decided: Ints
    usual: npt.NDArray[np.float64]  # chance of an error in a stratum of which none was drawn


def remaining(
    lot: Lot, seen: Ints, error: Bools, unsure: Bools, by_lot: Bools, chance: npt.NDArray[np.float64]
) -> Remaining:
    """Errors left, from the findings that somebody has `seen` (M,), and of each whether it is an error, whether it is
    open still, and whether it was drawn by lot. `chance` (C,) of an error by cell is used where too few were drawn."""
    cells = lot.cells[seen]
    left = lot.sizes - np.bincount(cells[~unsure], minlength=len(lot.sizes))
    if not left.sum():
        return Remaining(0.0, 0, 0, True, 0, "Every finding was decided.")
    known = ~by_lot | _above(lot, seen, cells, by_lot)
    rest = lot.sizes - np.bincount(cells[known], minlength=len(lot.sizes))
    everyone = np.zeros(len(seen), dtype=np.int64)
    first_of_cell = ~known & (lot.in_cell[seen] < _prefixes(lot.in_cell[seen], cells, len(rest))[cells])
    first_of_all = ~known & (lot.in_all[seen] < _prefixes(lot.in_all[seen], everyone, 1)[0])
    decided = ~known & ~unsure
    own = _sample(rest, chance, cells, first_of_cell, error, unsure, decided)
    pooled = _sample(rest.sum(keepdims=True), np.zeros(1), everyone, first_of_all, error, unsure, decided)
    sample = pooled if pooled.drawn.sum() >= _POOLED * own.drawn.sum() else own
    open_known = unsure & known  # seen by somebody, and open still
    sampled = int(sample.drawn.sum())
    most = int(left.sum())
    expected_known = float(chance[cells[open_known]].sum())
    if sample.sizes.sum() == sample.drawn.sum():  # all the rest was seen
        fewest, highest = 0, int(sample.unsure.sum()) + int(open_known.sum())
        estimate = float(chance[cells[unsure]].sum())
        return Remaining(
            estimate, fewest, highest, True, sampled, "All but those that people were unsure about were decided."
        )
    if sampled < FEWEST:
        basis = (
            "That is what such findings usually hold; how sure it is can be told once "
            f"{FEWEST - sampled} more that were drawn at random are decided."
        )
        return Remaining(float(chance @ left), 0, most, False, sampled, basis)
    low, high = _interval(sample)
    found, met = int(sample.errors.sum()), int((error & ~known).sum())
    low = max(0, low - met)
    high = max(low, min(most, high - met + int(open_known.sum())))
    estimate = _expected(sample) + expected_known
    basis = (
        f"{found} of {sampled} findings drawn at random were errors, of {int(sample.sizes.sum()):,} that nobody chose."
    )
    return Remaining(float(np.clip(estimate, low, high)), low, high, True, sampled, basis)


def _above(lot: Lot, seen: Ints, cells: Ints, by_lot: Bools) -> Bools:
    """Which stand before the last that was chosen in an unbroken run of seen ones from the worst of their cell."""
    place = lot.from_worst[seen]
    run = _prefixes(place, cells, len(lot.sizes))
    chosen = ~by_lot & (place < run[cells])
    last = np.full(len(lot.sizes), -1, dtype=np.int64)
    np.maximum.at(last, cells[chosen], place[chosen])
    result: Bools = place <= last[cells]
    return result


def _prefixes(places: Ints, groups: Ints, count: int) -> Ints:
    """By group, how many of the places 0, 1, 2, … are there without a gap."""
    order = np.lexsort((places, groups))
    place, group = places[order], groups[order]
    sizes = np.bincount(group, minlength=count)
    begins = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    gap = place != np.arange(len(place)) - begins[group]
    first = sizes.astype(np.int64)
    np.minimum.at(first, group[gap], (np.arange(len(place)) - begins[group])[gap])
    return first


def _sample(
    sizes: Ints,
    usual: npt.NDArray[np.float64],
    groups: Ints,
    drawn: Bools,
    error: Bools,
    unsure: Bools,
    decided: Bools,
) -> _Sample:
    there = sizes > 0

    def count(which: Bools) -> Ints:
        return np.bincount(groups[which], minlength=len(sizes))[there]

    return _Sample(
        sizes[there], count(drawn), count(drawn & error), count(drawn & unsure), count(decided), usual[there]
    )


def _interval(sample: _Sample) -> tuple[int, int]:
    """Errors among all that the sample was drawn from: half of what may go wrong on each side."""
    drawn = Drawn(tuple(sample.sizes.tolist()), tuple(sample.drawn.tolist()))
    one_sided = 1 - (1 - CONFIDENCE) / 2
    errors, unsure = int(sample.errors.sum()), int(sample.unsure.sum())
    return lower_bound(errors, drawn, one_sided), upper_bound(errors + unsure, drawn, one_sided)


def _expected(sample: _Sample) -> float:
    """Errors among those that are not decided, each stratum at the share of its own sample."""
    settled = sample.drawn - sample.unsure
    share = np.where(settled > 0, sample.errors / np.maximum(1, settled), sample.usual)
    return float((share * (sample.sizes - sample.decided)).sum())


def _inverse(order: Ints) -> Ints:
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
