"""What the next batch of labels will bring, from the rounds so far, and when it no longer pays.

The metric after n labels is taken to follow a - b n^-c, an inverse power (Cortes et al., "Learning curves: asymptotic
values and rate of convergence", NIPS 1993; a + b log n where c goes to 0), or a - b exp(-c n). As a few rounds hardly
tell the shape, every one that they allow has its say: the interval is that of the profile likelihood of the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.gains import CONFIDENCE, Estimate
from datasetops.active_learning.pool import Floats

Shape = tuple[str, float]

LEAST_GAIN: Final = 0.005  # half a point of the metric a batch: less is lost in what is measured
_POWERS: Final = np.linspace(0, 2, 21)  # published curves of classifiers lie between 0.1 and 1
_RATES: Final = np.linspace(0.5, 6, 12)  # at the last round: from hardly bent to nearly at the asymptote
_SHAPES: Final = (*(("power", c) for c in _POWERS.tolist()), *(("exponential", c) for c in _RATES.tolist()))
_CURVE: Final = 3  # rounds that a curve of three parameters takes at least
_FARTHEST: Final = 1_000  # times the labels so far: beyond that nothing is foretold


@dataclass(frozen=True)
class NextGain:
    """`gain` of the metric by the next `batch` labels, None where nothing can be said. `how` is "curve", "last slope"
    (then only the upper limit is known) or "too few rounds". `lately` is what as many labels gained in the later half of
    the rounds, as measured: no curve is fitted to it.

    `ends(least)` gives at how many labels a batch gains less than that; None where the curve does not tell.
    """

    batch: int
    gain: Estimate | None
    how: str
    ends: Callable[[float], Estimate | None]
    lately: Estimate | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the next batch pays: True, False, or None where the interval allows both. `words` say it to people.

    `least` is the gain that it should bring; `ends` the number of labels from which on a batch brings less.
    """

    pays: bool | None
    least: float
    expected: NextGain
    ends: Estimate | None
    words: str

    def as_dict(self) -> dict[str, Any]:
        gain = self.expected.gain
        return {
            "pays": self.pays,
            "least_gain": self.least,
            "batch": self.expected.batch,
            "gain": None if gain is None else gain.as_dict(),
            "lately": None if (late := self.expected.lately) is None else late.as_dict(),
            "how": self.expected.how,
            "ends": None if self.ends is None else self.ends.as_dict(),
            "words": self.words,
        }


def next_gain(
    labels: npt.ArrayLike, metric: npt.ArrayLike, spread: npt.ArrayLike, batch: int, *, confidence: float = CONFIDENCE
) -> NextGain:
    """The gain by the next `batch` labels after `labels` (R,), ascending, with the metric (R,) in [0, 1] after each.

    `spread` is the metric's standard error (R,), or its covariance (R, R), as replicates on the same items tell it.
    The curve rises, ever more slowly. Where the rounds lie farther off any curve than their errors explain, the
    interval is widened by as much. With two rounds the last slope is the upper limit; with fewer there is no answer.
    """
    n, y, errors = (np.asarray(values, dtype=np.float64) for values in (labels, metric, spread))
    if n.ndim != 1 or n.shape != y.shape or errors.shape not in (n.shape, n.shape * 2):
        raise ValueError("labels, metric and spread: expected (R,), (R,), and (R,) or (R, R)")
    if batch < 1 or (n < 1).any() or (np.diff(n) <= 0).any():
        raise ValueError("batch and labels: expected at least 1, labels ascending")
    covariance = errors if errors.ndim == 2 else np.diag(errors**2)
    covariance = covariance + 1e-8 * np.eye(len(n))  # a hundredth of a point: no metric is surer
    if len(n) < _CURVE:
        return _last_slope(n, y, covariance, batch, confidence)
    from scipy.stats import chi2

    inverse: Floats = np.linalg.inv(covariance).astype(np.float64)
    slopes, variances, misfits = np.array([_fit(_heights(n / n[-1], shape), y, inverse) for shape in _SHAPES]).T
    best = float((misfits + np.minimum(slopes, 0) ** 2 / variances).min())  # of curves that do not fall
    excess = max(1.0, best / (len(n) - _CURVE)) if len(n) > _CURVE else 1.0
    room = np.maximum(best + excess * float(chi2.ppf(confidence, 1)) - misfits, 0)
    reach = np.sqrt(variances * room)
    allowed = (room > 0) & (slopes + reach >= 0)
    shapes = [shape for shape, kept in zip(_SHAPES, allowed, strict=True) if kept]
    slopes, reach = slopes[allowed], reach[allowed]
    low, high = np.maximum(slopes - reach, 0), slopes + reach
    weights = np.exp(-0.5 * (misfits[allowed] - misfits[allowed].min()) / excess)
    weights /= weights.sum()
    middle = np.maximum(slopes, 0)
    each = _steps(np.ones(len(shapes)), shapes, batch / n[-1])
    gain = Estimate(float(weights @ (middle * each)), float((low * each).min()), float((high * each).max()))
    top = max(gain.value, min(gain.high, float(1 - y[-1] + 2 * np.sqrt(covariance[-1, -1]))))

    def ends(least: float) -> Estimate | None:
        found = [_end(b, shapes, batch / n[-1], least) * n[-1] for b in (middle, low, high)]
        value = float(np.exp(weights @ np.log(found[0])))
        return Estimate(value, float(found[1].min()), float(found[2].max()))

    lately = _lately(n, y, covariance, batch, confidence)
    return NextGain(batch, Estimate(gain.value, gain.low, top), "curve", ends, lately)


def verdict(expected: NextGain, least: float = LEAST_GAIN) -> Verdict:
    """Whether a batch that should bring at least so much of the metric still does.

    A curve foretells small gains even from coarse measurements, because it may only rise and flatten. So that a batch
    brings too little is believed only where the last rounds, as measured, tell a gain of `least` from none.
    """
    if not least > 0:
        raise ValueError(f"least gain: expected more than 0; got {least:g}")
    gain, ends = expected.gain, expected.ends(least)
    points = np.format_float_positional(100 * least, precision=3, fractional=False, trim="-")
    asked = f"less than the {points} points that it should bring"
    if gain is None:
        words = "Nothing can be said of the next batch: it takes the metric after two rounds or more."
        return Verdict(None, least, expected, None, words)
    if expected.how == "last slope":
        told = (
            f"The next {expected.batch:,} labels bring at most {_points(gain.high)} points, by the last round's slope"
        )
        if gain.high < least:
            return Verdict(False, least, expected, None, f"{told}: {asked}. Stop.")
        return Verdict(None, least, expected, None, f"{told}. Three rounds tell more.")
    told = f"The next {expected.batch:,} labels will bring {_points(gain.value)} points"
    told += f" ({_points(gain.low)} to {_points(gain.high)})"
    if gain.high < least:
        late = expected.lately
        if late is not None and late.high - late.value > least:
            told += (
                f" if they follow the curve, but as many gained {_points(late.value)} points ({_points(late.low)} to "
            )
            told += (
                f"{_points(late.high)}) in the last rounds. That does not tell {points} points from none: it cannot be "
            )
            return Verdict(None, least, expected, ends, f"{told}told yet whether to stop. Judge by more labels.")
        return Verdict(False, least, expected, ends, f"{told}, {asked}. Stop.")
    until = f" Batches pay until about {_labels(ends)} labels." if ends is not None else ""
    if gain.low >= least:
        return Verdict(True, least, expected, ends, f"{told}. Go on.{until}")
    lean = f"probably {asked}, but that is not sure" if gain.value < least else f"though it may be {asked}"
    return Verdict(None, least, expected, ends, f"{told}, {lean}.{until}")


def least_gain_of(minutes: float, worth: float) -> float:
    """The gain that pays for a batch of so many minutes, where one point (0.01) of the metric is worth `worth`."""
    if not (minutes > 0 and worth > 0):
        raise ValueError(f"minutes and worth: expected more than 0; got {minutes:g} and {worth:g}")
    return minutes / worth / 100


def _last_slope(n: Floats, y: Floats, covariance: Floats, batch: int, confidence: float) -> NextGain:
    if len(n) < 2:
        return NextGain(batch, None, "too few rounds", lambda _: None)
    from scipy.stats import norm

    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    scale = batch / (n[1] - n[0])
    rise = float(y[1] - y[0])
    most = max(0.0, rise + float(norm.ppf((1 + confidence) / 2)) * float(error)) * scale
    most = min(most, 1.0)
    return NextGain(batch, Estimate(min(max(rise, 0.0) * scale, most), 0.0, most), "last slope", lambda _: None)


def _lately(n: Floats, y: Floats, covariance: Floats, batch: int, confidence: float) -> Estimate:
    """What `batch` labels gained on average from the middle round to the last one."""
    from scipy.stats import norm

    at = len(n) // 2
    scale = batch / (n[-1] - n[at])
    gained = float((y[-1] - y[at]) * scale)
    error = np.sqrt(covariance[-1, -1] + covariance[at, at] - 2 * covariance[-1, at]) * scale
    half = float(norm.ppf((1 + confidence) / 2) * error)
    return Estimate(gained, gained - half, gained + half)


def _heights(n: Floats, shape: Shape) -> Floats:
    """What is missing to the asymptote, up to a factor, after so many labels; the slope at n = 1 is -1 for every shape."""
    kind, c = shape
    if kind == "exponential":
        return (np.exp(-c * (n - 1)) - 1) / c
    return -np.log(n) if c == 0 else (n**-c - 1) / c


def _fit(heights: Floats, y: Floats, inverse: Floats) -> tuple[float, float, float]:
    """(slope, its variance, misfit) of y = a - slope · heights, by generalised least squares."""
    design = np.stack([np.ones(len(y)), -heights], axis=1)
    variance = np.linalg.inv(design.T @ inverse @ design)
    found = variance @ design.T @ inverse @ y
    rest = y - design @ found
    return float(found[1]), float(variance[1, 1]), float(rest @ inverse @ rest)


def _steps(n: Floats, shapes: Sequence[Shape], batch: float) -> Floats:
    """By how much the heights of each shape fall from n to n + batch."""
    return np.array([_heights(at, shape) - _heights(at + batch, shape) for at, shape in zip(n, shapes, strict=True)])


def _end(slopes: Floats, shapes: Sequence[Shape], batch: float, least: float) -> Floats:
    """Where a batch gains `least`, in units of the labels so far: at least 1, at most `_FARTHEST`."""
    low: Floats = np.zeros(len(shapes))
    high: Floats = np.full(len(shapes), np.log(_FARTHEST))
    for _ in range(40):
        middle = (low + high) / 2
        more = slopes * _steps(np.exp(middle), shapes, batch) >= least
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.exp(low)


def _points(gain: float) -> str:
    return f"{100 * gain:.1f}"


def _labels(ends: Estimate) -> str:
    return f"{ends.value:,.0f} ({ends.low:,.0f} to {ends.high:,.0f})"
