"""Metrics of weighted items, and bootstrap intervals over groups of items that belong together.

The bootstrap draws groups with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8); the
intervals are percentiles of its draws, centred on the metric, or normal ones where the draws are few. A metric is worked
out from sums over items, so that a draw costs weights and no evaluation: counts of right items, confusion counts, and
for average precision the matches of each image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, Protocol

import numpy as np

from datasetops.audits.sampling.bounds import clopper_pearson
from datasetops.evaluation.matching import Curves
from datasetops.evaluation.regions import Floats, Ints

RESAMPLES: Final = 1_000
LEVEL: Final = 0.95
_BLOCKS: Final = 1_000  # of hits at which a bootstrap reads precision: ten between two recalls
_FEW: Final = 500  # draws, below which fewer than a dozen lie outside of an interval
_CHUNK: Final = 2_000_000  # weights drawn at a time: 16 MB


class Metric(Protocol):
    """A number about some items that are worth more or less each."""

    @property
    def units(self) -> int:
        """How many items there are, or groups of them."""

    def grouped(self, codes: Ints, number: int) -> Metric:
        """The same with units put together: the group of each (units,), -1 for one to leave out."""

    def values(self, weights: Floats, *, rough: bool = False) -> Floats:
        """The number (R,) for weights (R, units); NaN where it is undefined. `rough`: near enough for a bootstrap."""


@dataclass(frozen=True)
class Ratio:
    """A sum over items divided by another: accuracy, an error rate, edits by characters."""

    above: Floats
    below: Floats

    @property
    def units(self) -> int:
        return len(self.above)

    def grouped(self, codes: Ints, number: int) -> Ratio:
        inside = codes >= 0
        return Ratio(
            np.bincount(codes[inside], self.above[inside], number).astype(np.float64),
            np.bincount(codes[inside], self.below[inside], number).astype(np.float64),
        )

    def values(self, weights: Floats, *, rough: bool = False) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (weights @ self.above) / (weights @ self.below)
        return result


@dataclass(frozen=True)
class MacroF1:
    """The mean F1 of classes with examples. Of each unit how many items of each class there are, sparse (units, K):
    `truth`, `predicted`, and `right` ones."""

    truth: Any
    predicted: Any
    right: Any

    @classmethod
    def of(cls, truth: Ints, predicted: Ints, classes: int) -> MacroF1:
        right = np.flatnonzero(truth == predicted)
        rows = np.arange(len(truth))
        shape = (len(truth), classes)
        return cls(_ones(rows, truth, shape), _ones(rows, predicted, shape), _ones(right, truth[right], shape))

    @property
    def units(self) -> int:
        return int(self.truth.shape[0])

    def grouped(self, codes: Ints, number: int) -> MacroF1:
        inside = np.flatnonzero(codes >= 0)
        sums = _ones(codes[inside], inside, (number, len(codes)))
        return MacroF1(sums @ self.truth, sums @ self.predicted, sums @ self.right)

    def values(self, weights: Floats, *, rough: bool = False) -> Floats:
        truth, predicted, right = (weights @ part for part in (self.truth, self.predicted, self.right))
        there = truth > 0
        f1 = np.where(there, 2 * right / np.maximum(truth + predicted, 1e-300), 0.0)
        with np.errstate(invalid="ignore"):
            result: Floats = f1.sum(axis=1) / there.sum(axis=1)
        return result


@dataclass(frozen=True)
class MeanIou:
    """The mean over classes of the pixels that are the class's in truth and answer, by those that are in either.

    Everingham et al., "The Pascal VOC Challenge" (IJCV 2010). Pixels of each unit and class, (units, K): `truth`, `found`,
    and `both`. Classes without a pixel in truth do not count.
    """

    truth: Floats
    found: Floats
    both: Floats

    @property
    def units(self) -> int:
        return len(self.truth)

    def grouped(self, codes: Ints, number: int) -> MeanIou:
        inside = np.flatnonzero(codes >= 0)
        sums = _ones(codes[inside], inside, (number, len(codes)))
        return MeanIou(sums @ self.truth, sums @ self.found, sums @ self.both)

    def values(self, weights: Floats, *, rough: bool = False) -> Floats:
        by_class = self.by_class(weights)
        there = ~np.isnan(by_class)
        with np.errstate(invalid="ignore"):
            result: Floats = np.where(there, by_class, 0).sum(axis=1) / there.sum(axis=1)
        return result

    def by_class(self, weights: Floats) -> Floats:
        """Shape (R, K) for weights (R, units); NaN for a class without a pixel in truth."""
        truth, found, both = (weights @ part for part in (self.truth, self.found, self.both))
        ratio: Floats = np.where(truth > 0, both / np.maximum(truth + found - both, 1e-300), np.nan)
        return ratio


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's AP over classes and thresholds of overlap; `threshold`: the place of the only one that counts."""

    curves: Curves
    threshold: int | None = None

    @property
    def units(self) -> int:
        return self.curves.images

    def grouped(self, codes: Ints, number: int) -> AveragePrecision:
        return AveragePrecision(self.curves.grouped(codes, number), self.threshold)

    def values(self, weights: Floats, *, rough: bool = False) -> Floats:
        curves = self.curves if self.threshold is None else self.curves.only(self.threshold)
        found = curves.average_precision(weights, blocks=_BLOCKS if rough else None).reshape(len(weights), -1)
        there = ~np.isnan(found)
        with np.errstate(invalid="ignore"):
            result: Floats = np.nan_to_num(found).sum(axis=1) / there.sum(axis=1)
        return result


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN where it is undefined, or where too few groups are there to draw from."""

    value: float
    low: float
    high: float


def draws(groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of the groups is drawn (some, groups), some replicates at a time; the same for the same seed."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(1, groups))
    for low in range(0, resamples if groups else 0, step):
        size = min(step, resamples - low)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.float64)


def interval(values: Floats, value: float, level: float = LEVEL, groups: int | None = None) -> tuple[float, float]:
    """Percentiles of replicates (R,), moved so that their mean is the `value` of all; NaN where none is defined.

    A share that is 0 or 1 in all draws is no certainty: with `groups` named the other end is then the exact bound of
    none in so many (Clopper and Pearson, Biometrika 26, 1934).

    Draws hold fewer different items than the set: average precision comes out larger in them, by as much as is moved.
    Of few draws the outer percentiles are those of a handful: their standard deviation tells more.
    """
    told = values[~np.isnan(values)]
    if not len(told):
        return float("nan"), float("nan")
    if groups is not None and value in (0.0, 1.0) and (told == value).all():
        return clopper_pearson(round(value * groups), groups, (1 + level) / 2)
    if len(told) < _FEW:
        half = NormalDist().inv_cdf((1 + level) / 2) * float(told.std())
        return value - half, value + half
    low, high = np.quantile(told, [(1 - level) / 2, (1 + level) / 2]) - told.mean() + value
    return float(low), float(high)


def estimate(metric: Metric, groups: Ints, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A metric of all items with its interval by bootstrap over groups (units,); a share's stays within 0 and 1."""
    codes = np.unique(groups, return_inverse=True)[1]
    number = int(codes.max(initial=-1)) + 1
    own = metric.grouped(codes, number)
    value = float(own.values(np.ones((1, number)))[0]) if number else float("nan")
    if number < 2:
        return Estimate(value, float("nan"), float("nan"))
    drawn = np.concatenate([own.values(one, rough=True) for one in draws(number, resamples, seed)])
    low, high = interval(drawn, value, groups=number)
    told = drawn[~np.isnan(drawn)]
    if ((told >= 0) & (told <= 1)).all():
        low, high = np.clip([low, high], 0.0, 1.0).tolist()
    return Estimate(value, low, high)


def _ones(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
