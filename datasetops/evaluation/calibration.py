"""Whether probabilities mean what they say: calibration error, reliability, proper scores, temperature scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasetops.evaluation.regions import Flags, Floats, Ints

BINS: Final = 15  # as in Guo et al., "On calibration of modern neural networks" (ICML 2017)
_LEAST: Final = 1e-12  # probability, so that the logarithm of what a model called impossible is a number
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures looked at


@dataclass(frozen=True)
class Bin:
    """Items whose confidence is in (low, high]: how many, their mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """`ece`: expected calibration error in bins of equal width, `ece_equal_mass` in bins of equally many items."""

    ece: float
    ece_equal_mass: float
    brier: float
    nll: float
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name) for name in ("ece", "ece_equal_mass", "brier", "nll")}
        return numbers | {"bins": [vars(item) for item in self.bins]}


@dataclass(frozen=True)
class Scaled:
    """Calibration before and after temperature scaling, each item with a temperature learned from others."""

    temperature: float
    before: Calibration
    after: Calibration


def calibration(probabilities: Floats, truth: Ints, *, bins: int = BINS) -> Calibration:
    """Of probabilities (N, K), rows summing to one, for the true classes (N,); confidence is that of the best class."""
    confidence, right = _confidence(probabilities, truth)
    table = reliability(confidence, right, bins=bins)
    return Calibration(
        _error(table),
        _error(reliability(confidence, right, bins=bins, equal_mass=True)),
        brier(probabilities, truth),
        nll(probabilities, truth),
        table,
    )


def reliability(confidence: Floats, right: Flags, *, bins: int = BINS, equal_mass: bool = False) -> tuple[Bin, ...]:
    """Confidence (N,) in [0, 1] against what was right (N,), in bins that are not empty.

    Of equal width, or of as many items each; equal confidences stay in one bin.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    if equal_mass and len(confidence):
        inner = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
        edges = np.unique(np.concatenate([[0.0], inner, [1.0]]))
    place = np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)
    count = np.bincount(place, minlength=len(edges) - 1)
    total = np.bincount(place, confidence, minlength=len(edges) - 1)
    hits = np.bincount(place, right, minlength=len(edges) - 1)
    return tuple(
        Bin(float(edges[i]), float(edges[i + 1]), int(count[i]), float(total[i] / count[i]), float(hits[i] / count[i]))
        for i in np.flatnonzero(count).tolist()
    )


def _error(bins: tuple[Bin, ...]) -> float:
    total = sum(item.count for item in bins)
    return sum(item.count * abs(item.confidence - item.accuracy) for item in bins) / total if total else math.nan


def brier(probabilities: Floats, truth: Ints) -> float:
    """Mean squared distance to the truth, summed over classes: from 0 to 2. Brier, Monthly Weather Review 78 (1950)."""
    if not len(truth):
        return math.nan
    own = probabilities[np.arange(len(truth)), truth]
    return float(((probabilities**2).sum(axis=1) - 2 * own + 1).mean())


def nll(probabilities: Floats, truth: Ints) -> float:
    """Mean negative logarithm of the true class's probability."""
    own = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(own, _LEAST)).mean()) if len(truth) else math.nan


def fit_temperature(probabilities: Floats, truth: Ints) -> float:
    """The temperature that makes the truth most probable; above 1 the model was too sure. Guo et al. (ICML 2017)."""
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return 1.0
    logits = np.log(np.maximum(probabilities, _LEAST))
    found = minimize_scalar(
        lambda log: nll(_softmax(logits / math.exp(log)), truth),
        bounds=(math.log(_COLDEST), math.log(_HOTTEST)),
        method="bounded",
    )
    return float(math.exp(found.x))


def with_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (N, K) whose logarithms are divided by a temperature."""
    return _softmax(np.log(np.maximum(probabilities, _LEAST)) / temperature)


def cross_fitted(probabilities: Floats, truth: Ints, half: Flags) -> Scaled:
    """Calibration after scaling each half (N,) with the temperature that was learned from the other.

    `temperature` is that of all items, for use on new ones.
    """
    after = np.empty_like(probabilities)
    for own in (half, ~half):
        after[own] = with_temperature(probabilities[own], fit_temperature(probabilities[~own], truth[~own]))
    return Scaled(fit_temperature(probabilities, truth), calibration(probabilities, truth), calibration(after, truth))


def _confidence(probabilities: Floats, truth: Ints) -> tuple[Floats, Flags]:
    if not len(truth):
        return np.zeros(0), np.zeros(0, bool)
    best = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(truth)), best], best == truth


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    return result
