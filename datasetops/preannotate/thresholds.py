"""Scores from which on a model is right often enough, with a promise that holds on new data of the same kind.

The labeled items are split into two halves. What is tried, and in which order, comes from the scores of one half, whose
labels play no part in it; the labels of the other half decide, by exact binomial tests (Clopper and Pearson, Biometrika
26, 1934). Thresholds are tried from the highest down, each at the error level that its forerunners left: the fallback
procedure (Wiens, Pharmaceutical Statistics 2, 2003), which is fixed-sequence testing with several starts, as in Learn
then Test (Angelopoulos et al., 2021). The level is shared out among the classes, so that all promises hold together.
Then the first half, whose labels decided nothing, tells what is reached. Several classes may be taken together as one: all
their predictions then have one threshold, and the promise is about these rows as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, betaincinv

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CONFIDENCE: Final = 0.95
ALL_CLASSES: Final = "all classes"
_STEP: Final = 1.1  # items above a threshold to those above the one tried before: finer ones gain less than a tenth
_START: Final = 2.0  # items at a start to those at the start before: few starts, for they share the level


@dataclass(frozen=True)
class Share:
    """`right` of `count` predictions were right: between `low` and `high`, each with the given confidence.

    `effective` is how many independent predictions they are worth: as many as groups, where these are equal in size.
    """

    count: int
    right: int
    effective: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else math.nan


@dataclass(frozen=True)
class ClassPromise:
    """What is promised of one class. `threshold` is None where nothing can be, and `why` then says why.

    `promised` is the lower bound of the precision that the calibration half gave; `calibration` and `held_out` are
    what the halves say from the threshold on (without one: of all predictions), `kept` the share of the held-out
    half's predictions that reach it.
    """

    name: str
    threshold: float | None
    promised: float | None
    calibration: Share
    held_out: Share
    kept: float
    why: str | None = None


@dataclass(frozen=True)
class Promises:
    """With the given confidence, all classes that have a threshold have at least the precision `target` above it.

    Where classes were taken `together`, `classes` has one entry, about the rows of all of them.
    """

    target: float
    confidence: float
    seed: int
    classes: tuple[ClassPromise, ...]
    together: tuple[str, ...] = ()

    @cached_property
    def thresholds(self) -> dict[str, float | None]:
        """By class; None for those that nothing is promised of."""
        if self.together:
            return dict.fromkeys(self.together, self.classes[0].threshold)
        return {item.name: item.threshold for item in self.classes}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as an event keeps them."""
        return {
            "target": self.target,
            "confidence": self.confidence,
            "seed": self.seed,
            "classes": [asdict(item) for item in self.classes],
            "together": list(self.together),
        }


def choose_thresholds(
    scores: npt.NDArray[Any],
    right: npt.NDArray[Any],
    classes: npt.NDArray[Any] | Sequence[str],
    target: float,
    confidence: float = CONFIDENCE,
    groups: npt.NDArray[Any] | None = None,
    seed: int = 0,
    names: Sequence[str] = (),
    together: bool = False,
) -> Promises:
    """For each class the lowest score from which on at least `target` of its predictions are right.

    Of N predictions: `scores` (N,) in [0, 1], whether each is `right` (N,), its class (N,), and the group (N,), of any
    sortable kind, whose items are alike and never straddle the halves (None: each on its own). Items of a group count as
    little as if they were copies of each other. `names` are the classes to tell of, also without a prediction. With
    `together` one threshold is chosen for all of them, above which that share of all predictions is right. The same
    arguments give the same answer. Raises ValueError for arguments that do not fit.
    """
    check_target(target, confidence)
    scores, right = np.asarray(scores, np.float64), np.asarray(right, np.bool_)
    labels, known = pd.factorize(np.asarray(classes, dtype=object))
    owner = np.arange(len(scores)) if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    if not len(scores) == len(right) == len(labels) == len(owner):
        raise ValueError("scores, right, classes and groups must have the same length")
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise ValueError("scores: expected numbers in [0, 1]")
    chosen_on = split_halves(owner, seed)
    told = list(names) or sorted(known.tolist())
    place = {name: code for code, name in enumerate(known.tolist())}
    several: tuple[str, ...] = ()
    if together:
        several, told, place = tuple(told), [ALL_CLASSES], {ALL_CLASSES: 0}
        labels = np.zeros(len(scores), np.int64)
    halves: dict[str, tuple[_Ranked, _Ranked]] = {}
    for name in told:
        own = labels == place.get(name, len(known))
        halves[name] = (
            _Ranked.of(scores, right, owner, own & chosen_on),
            _Ranked.of(scores, right, owner, own & ~chosen_on),
        )
    risk = 1 - confidence
    tried, level = _tried({name: held.worth for name, (_, held) in halves.items()}, target, risk)
    found = [
        _promise(name, *halves[name], target, confidence, level if name in tried else None, max(len(tried), 1))
        for name in told
    ]
    return Promises(target, confidence, seed, tuple(found), several)


def check_target(target: float, confidence: float) -> None:
    """Raises ValueError for a precision or confidence that nobody can promise."""
    if not 0 < target < 1:
        raise ValueError(f"target precision: expected a number between 0 and 1, such as 0.98; got {target:g}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, such as 0.95; got {confidence:g}")


def split_halves(groups: npt.NDArray[Any], seed: int) -> Flags:
    """True for the items (N,) of one half of the groups, chosen at random."""
    unique, code = np.unique(groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(unique))
    half: Flags = (place < (len(unique) + 1) // 2)[code]
    return half


def share(count: int, right: int, effective: int, confidence: float) -> Share:
    """The precision of some predictions with its exact bounds (Clopper and Pearson), at their effective number."""
    if not count or not effective:
        return Share(count, right, effective, 0.0, 1.0)
    few, many = right * effective // count, -(-right * effective // count)
    low = float(betaincinv(few, effective - few + 1, 1 - confidence)) if few else 0.0
    high = float(betaincinv(many + 1, effective - many, confidence)) if many < effective else 1.0
    return Share(count, right, effective, low, high)


def effective_counts(groups: Ints) -> Ints:
    """How many independent items the first 1, 2, … N of these are worth: (Σm)² / Σm² of m items a group, rounded down.

    This takes items of one group for copies of each other, which is the least that they can be worth (Kish, Survey
    Sampling, 1965, with a correlation of one).
    """
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[first, len(groups)])
    before = np.empty(len(groups), np.int64)
    before[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    squares = np.cumsum(2 * before + 1)
    counts = np.arange(1, len(groups) + 1, dtype=np.int64)
    return np.asarray(counts * counts // np.maximum(squares, 1), np.int64)


def least_items(target: float, risk: float) -> int:
    """How many predictions it takes at least to promise a precision: all of them right."""
    return math.ceil(math.log(risk) / math.log(target) - 1e-9)


@dataclass(frozen=True)
class _Ranked:
    """Predictions of one class in one half, from the highest score down: of the first n so many are right, and they are
    worth so many."""

    scores: Floats
    right: Ints
    effective: Ints

    @classmethod
    def of(cls, scores: Floats, right: Flags, groups: Ints, which: Flags) -> _Ranked:
        rows = np.flatnonzero(which)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return cls(scores[rows], np.cumsum(right[rows], dtype=np.int64), effective_counts(groups[rows]))

    @property
    def worth(self) -> int:
        return int(self.effective.max(initial=0))

    def counts(self, thresholds: npt.NDArray[Any]) -> Ints:
        """How many reach each threshold."""
        return np.searchsorted(-self.scores, -np.asarray(thresholds), side="right").astype(np.int64)

    def share(self, count: int, confidence: float) -> Share:
        if not count:
            return share(0, 0, 0, confidence)
        return share(count, int(self.right[count - 1]), int(self.effective[count - 1]), confidence)


def _tried(worth: Mapping[str, int], target: float, risk: float) -> tuple[frozenset[str], float]:
    """Classes for which there may be enough, as many as can be, and the error level of each.

    The more classes, the less level for each, and the more items it takes: those with the most come first.
    """
    order = sorted(worth, key=lambda name: (-worth[name], name))
    most = 0
    for count, name in enumerate(order, start=1):
        if worth[name] >= _first_start(target, risk / count):
            most = count
    return frozenset(order[:most]), risk / max(most, 1)


def _first_start(target: float, level: float) -> int:
    """Items above the first threshold tried: as many as it takes, and more so that the other half has enough as well."""
    least = least_items(target, level)
    return math.ceil(least + 2 * math.sqrt(least))


def _ladder(held: _Ranked, target: float, level: float) -> tuple[Floats, Floats]:
    """Thresholds to try, falling, and the level that each brings along: none but at the starts."""
    worth = np.maximum.accumulate(held.effective)
    starts = 1 + max(0, math.floor(math.log(held.worth / _first_start(target, level), _START)))
    first = _first_start(target, level / starts)
    if first > held.worth:  # sharing the level takes more items than there are
        starts, first = 1, _first_start(target, level)
    steps = 1 + max(0, math.floor(math.log(held.worth / first, _STEP)))
    wanted = np.append(first * _STEP ** np.arange(steps), held.worth)
    begins = first * _START ** np.arange(starts)
    places = np.searchsorted(worth, np.ceil(np.minimum(wanted, held.worth) - 1e-9))
    thresholds: Floats = np.unique(held.scores[places])[::-1]
    weights = np.zeros(len(thresholds))
    for begin in begins:
        score = held.scores[np.searchsorted(worth, math.ceil(min(begin, held.worth) - 1e-9))]
        weights[np.flatnonzero(thresholds <= score)[0]] += level / starts
    return thresholds, weights


def _promise(
    name: str, chosen_on: _Ranked, held: _Ranked, target: float, confidence: float, level: float | None, tried: int
) -> ClassPromise:
    everything, held_all = len(chosen_on.scores), len(held.scores)
    whole = (chosen_on.share(everything, confidence), held.share(held_all, confidence), 0.0)
    if level is None:
        needed = _first_start(target, (1 - confidence) / tried)
        worth = min(held.worth, chosen_on.worth)
        why = f"too few: about {worth:,} independent predictions a half, and it takes {needed:,} even if nearly all are right"
        return ClassPromise(name, None, None, *whole, why)
    thresholds, weights = _ladder(held, target, level)
    counts = chosen_on.counts(thresholds)
    best, passed_at, open_level = 0.0, None, 0.0
    closest = 0
    for place, count in enumerate(counts.tolist()):
        open_level += float(weights[place])
        if not count or not open_level:
            continue
        effective = int(chosen_on.effective[count - 1])
        good = int(chosen_on.right[count - 1]) * effective // count
        chance = float(betainc(good, effective - good + 1, target)) if good else 1.0
        if chosen_on.right[count - 1] / count >= best:
            best, closest = chosen_on.right[count - 1] / count, count
        if chance <= open_level:
            passed_at = (place, open_level)
        else:
            open_level = 0.0
    if passed_at is None:
        near = chosen_on.share(closest, confidence)
        why = f"precision too low: of the {near.count:,} highest scores {near.value:.1%} are right, at best"
        if near.value >= target:
            why = f"not sure enough: of the {near.count:,} highest scores {near.value:.1%} are right, which may be by chance"
        return ClassPromise(name, None, None, *whole, why)
    place, left = passed_at
    threshold, count = float(thresholds[place]), int(counts[place])
    promised = chosen_on.share(count, 1 - left).low
    reach = int(held.counts(thresholds[place : place + 1])[0])
    reached = held.share(reach, confidence)
    return ClassPromise(
        name, threshold, promised, chosen_on.share(count, confidence), reached, reach / max(held_all, 1)
    )
