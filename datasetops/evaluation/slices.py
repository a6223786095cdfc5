"""A metric in each part of the data, with intervals, the worst first, and never a ranking by luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.audits.sets.coverage import Coded, attributes, values_by_key
from datasetops.evaluation.regions import Ints
from datasetops.evaluation.resampling import RESAMPLES, Metric, draws, interval
from datasetops.schema import LabelSchema

# Groups below which a slice gets no interval and no rank: of nine the interval of a mean is a fifth too narrow.
FEWEST: Final = 10
# Groups that the set as a whole counts for in a slice's rank: as many as give a share of a half an error of a tenth, so
# that a dozen unlucky images do not stand above a part of the data that is surely bad.
PRIOR: Final = 25
_NAMES: Final = ("image_id", "file_name")  # metadata that formats keep an image's own name in
POINT: Final = 0.01  # "no slice worse than 1 point without being named"


@dataclass(frozen=True)
class SliceMetric:
    """A metric in a slice: of so many items in so many groups, with its interval.

    `shrunk` is drawn towards the value of all items, the more the fewer groups there are: slices are ranked by it.
    `small`: there are too few groups for an interval and a rank.
    """

    key: str
    name: str
    items: int
    groups: int
    value: float
    low: float
    high: float
    shrunk: float
    small: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SliceDifference:
    """Two models in a slice: `difference` is what the second has more than the first, with its interval.

    `worse`: the second is worse by a point or more; `sure`: the interval leaves out that it is as good.
    """

    key: str
    name: str
    items: int
    groups: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    worse: bool
    sure: bool
    small: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def slice_values(samples: pd.DataFrame, schema: LabelSchema) -> dict[str, Coded]:
    """By key the values that divide samples: the schema's slices, columns such as origin, and the metadata.

    Metadata with a value of its own for each sample is a name, and divides nothing.
    """
    found = {
        key: coded
        for key, coded in attributes(samples).items()
        if key not in _NAMES and np.bincount(coded.codes[coded.codes >= 0]).max(initial=0) > 1
    }
    for key, values in values_by_key(samples, [item.key for item in schema.slices]).items():
        if key not in found:
            codes, names = pd.factorize(values)
            if len(names):
                found[key] = Coded(codes.astype(np.int64), tuple(f"{key} = {name}" for name in names))
    return found


def by_slice(
    metric: Metric,
    parts: Mapping[str, Coded],
    groups: Ints,
    *,
    larger_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[SliceMetric]:
    """The metric in each slice, the worst first, slices too small to judge last.

    `parts` has for each key the slice of each item (units,), `groups` (units,) what belongs together. Intervals are those of
    95 % by bootstrap over the groups of a slice.
    """
    overall = float(metric.values(np.ones((1, metric.units)))[0])
    found = []
    for key, name, codes, items, number in _slices(parts, groups):
        own = metric.grouped(codes, number)
        value = float(own.values(np.ones((1, number)))[0])
        low, high = math.nan, math.nan
        if number >= FEWEST:
            drawn = np.concatenate([own.values(one, rough=True) for one in draws(number, resamples, seed)])
            low, high = interval(drawn, value, groups=number)
        shrunk = (number * value + PRIOR * overall) / (number + PRIOR)
        found.append(SliceMetric(key, name, items, number, value, low, high, shrunk, number < FEWEST))
    sign = 1 if larger_is_better else -1
    return sorted(found, key=lambda one: (one.small, math.isnan(one.shrunk), sign * one.shrunk, one.name))


def difference(
    first: Metric,
    second: Metric,
    groups: Ints,
    *,
    larger_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SliceDifference:
    """Two models on all items, see `differences_by_slice`."""
    parts = {"": Coded(np.zeros(len(groups), np.int64), ("all",))}
    return differences_by_slice(
        first, second, parts, groups, larger_is_better=larger_is_better, resamples=resamples, seed=seed
    )[0]


def differences_by_slice(
    first: Metric,
    second: Metric,
    parts: Mapping[str, Coded],
    groups: Ints,
    *,
    larger_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[SliceDifference]:
    """What the second of two models has more than the first on the same items, slices where it loses most first.

    Both are worked out on the same draws, so that what is hard for both does not blur the difference.
    """
    sign = 1 if larger_is_better else -1
    found = []
    for key, name, codes, items, number in _slices(parts, groups):
        one, other = first.grouped(codes, number), second.grouped(codes, number)
        a, b = (float(model.values(np.ones((1, number)))[0]) for model in (one, other))
        low, high = math.nan, math.nan
        if number >= FEWEST:
            drawn = [
                other.values(weights, rough=True) - one.values(weights, rough=True)
                for weights in draws(number, resamples, seed)
            ]
            low, high = interval(np.concatenate(drawn), b - a)
        loses = sign * (b - a) <= -POINT + 1e-12
        sure = bool(high < 0 or low > 0)
        found.append(SliceDifference(key, name, items, number, a, b, b - a, low, high, loses, sure, number < FEWEST))
    return sorted(found, key=lambda item: (math.isnan(item.difference), sign * item.difference, item.name))


def _slices(parts: Mapping[str, Coded], groups: Ints) -> Sequence[tuple[str, str, Ints, int, int]]:
    """Key, name, group of each item within the slice (-1 outside of it), number of items and of groups."""
    found = []
    for key, coded in parts.items():
        for code, name in enumerate(coded.names):
            inside = coded.codes == code
            if inside.any():
                codes = np.full(len(groups), -1, np.int64)
                distinct, codes[inside] = np.unique(groups[inside], return_inverse=True)
                found.append((key, name, codes, int(inside.sum()), len(distinct)))
    return found
