"""How many items of a lot can be wrong, given how many of a random sample were: bounds that hold for every lot.

One stratum has an exact hypergeometric tail. With several strata, or reviewers who err, the number of defects found is
a sum of independent yes-or-no draws with unequal chances (each hypergeometric count is one), so its tails are at most
those of the binomial of the same mean (Hoeffding, Annals of Mathematical Statistics 27, 1956, theorem 4) with as many
draws as there can be defects in the sample. The mean is taken for the least favourable way to spread the defects over
the strata. So no bound rests on a normal approximation or on where the defects are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import beta, binom, hypergeom


@dataclass(frozen=True)
class Drawn:
    """A stratified random sample without replacement: `sizes` (H,) items of each stratum, `drawn` (H,) of them checked.

    Raises ValueError where more are drawn than there are, or a stratum is empty.
    """

    sizes: tuple[int, ...]
    drawn: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.drawn) or not self.sizes:
            raise ValueError("sizes and drawn: expected one number a stratum in both")
        for size, drawn in zip(self.sizes, self.drawn, strict=True):
            if not 0 <= drawn <= size or size < 1:
                raise ValueError(f"drawn: expected 0 to {size} of a stratum of {size}; got {drawn}")

    @property
    def population(self) -> int:
        return sum(self.sizes)

    @property
    def checked(self) -> int:
        return sum(self.drawn)

    @cached_property
    def is_simple(self) -> bool:
        return len(self.sizes) == 1

    def expected(self, defects: int, *, most: bool = False) -> float:
        """The least (or greatest) mean number of defects in the sample, over all ways to spread them over the strata."""
        fractions = np.asarray(self.drawn, dtype=float) / np.asarray(self.sizes, dtype=float)
        order = np.argsort(-fractions if most else fractions, kind="stable")
        room = np.asarray(self.sizes, dtype=float)[order]
        before = np.cumsum(room) - room
        placed = np.clip(defects - before, 0, room)
        return float(placed @ fractions[order])


def few_found(found: int, defects: int, drawn: Drawn, *, sensitivity: float = 1.0) -> float:
    """At most this is the chance of finding `found` or fewer, if `defects` items of the lot are wrong.

    `sensitivity`: least chance that a reviewer who sees a defect says so; false alarms only make more found.
    """
    if found < 0:
        return 0.0
    if drawn.is_simple and sensitivity == 1:
        return float(hypergeom.cdf(found, drawn.population, defects, drawn.checked))
    trials = min(drawn.checked, defects)
    mean = sensitivity * drawn.expected(defects)
    if found >= trials or found > mean - 1:
        return 1.0
    return float(binom.cdf(found, trials, mean / trials))


def many_found(found: int, defects: int, drawn: Drawn, *, false_alarms: float = 0.0) -> float:
    """At most this is the chance of finding `found` or more, if `defects` items of the lot are wrong.

    `false_alarms`: greatest chance that a reviewer calls a right item wrong.
    """
    if found <= 0:
        return 1.0
    if drawn.is_simple and false_alarms == 0:
        return float(hypergeom.sf(found - 1, drawn.population, defects, drawn.checked))
    seen = drawn.expected(defects, most=True)
    mean = seen + false_alarms * (drawn.checked - seen)
    trials = drawn.checked if false_alarms else min(drawn.checked, defects)
    if found > trials:
        return 0.0
    if found < mean + 1:
        return 1.0
    return float(binom.sf(found - 1, trials, mean / trials))


def upper_bound(found: int, drawn: Drawn, confidence: float, *, sensitivity: float = 1.0) -> int:
    """The most defects the lot can hold, with the given one-sided confidence in (0, 1)."""
    known_right = drawn.checked - found if sensitivity == 1 else 0
    most = drawn.population - known_right
    risk = _risk(confidence)
    return _last(lambda d: few_found(found, d, drawn, sensitivity=sensitivity) > risk, min(found, most), most)


def lower_bound(found: int, drawn: Drawn, confidence: float, *, false_alarms: float = 0.0) -> int:
    """The fewest defects the lot can hold, with the given one-sided confidence in (0, 1)."""
    most = drawn.population - (drawn.checked - found if false_alarms == 0 else 0)
    risk = _risk(confidence)
    return _first(lambda d: many_found(found, d, drawn, false_alarms=false_alarms) > risk, 0, most)


def clopper_pearson(found: int, checked: int, confidence: float) -> tuple[float, float]:
    """Two one-sided exact bounds of a rate, each with the given confidence (Biometrika 26, 1934); (0, 1) for no checks."""
    risk = _risk(confidence)
    low = float(beta.ppf(risk, found, checked - found + 1)) if found else 0.0
    high = float(beta.ppf(1 - risk, found + 1, checked - found)) if found < checked else 1.0
    return low, high


def _risk(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1; got {confidence:g}")
    return 1 - confidence


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The greatest number of [low, high] for which it holds, where it holds up to some number; `low` if for none."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number of [low, high] for which it holds, where it holds from some number on; `high` if for none."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
