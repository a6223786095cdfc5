"""Estimates from a random sample that lean on more than its verdicts. They are estimates, not bounds to certify with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t

MIN_WRONG = 5  # defects in the sample below which a normal approximation says nothing


@dataclass(frozen=True)
class Estimate:
    """`low` and `high` are the ends of a two-sided interval; `gain` is how many plain checks one check is worth."""

    value: float
    low: float
    high: float
    gain: float = 1.0


def prediction_powered(
    sampled: npt.NDArray[Any], wrong: npt.NDArray[Any], everyone: npt.NDArray[Any], confidence: float = 0.95
) -> Estimate | None:
    """Share of wrong items from a simple random sample and a score that every item of the lot has.

    `sampled` (n,) scores of the items checked, `wrong` (n,) their verdicts as 0 or 1, `everyone` (N,) scores of the lot.
    The score's weight is fitted to the sample, so that a useless one costs nothing. None where fewer than five items are
    wrong or right, or where the estimate is no rate. Angelopoulos, Duchi and Zrnic, PPI++ (2023); finite population correction.
    """
    n, population = len(sampled), len(everyone)
    y, f = np.asarray(wrong, dtype=float), np.asarray(sampled, dtype=float)
    if min(y.sum(), n - y.sum()) < MIN_WRONG:
        return None
    spread = f.var(ddof=1)
    weight = float(np.cov(y, f)[0, 1] / spread) if spread > 0 else 0.0
    rest = y - weight * f
    value = weight * float(np.mean(everyone)) + float(rest.mean())
    variance = rest.var(ddof=2 if spread > 0 else 1)
    error = t.ppf(0.5 + confidence / 2, n - 2) * np.sqrt(variance / n * (1 - n / population))
    gain = float(y.var(ddof=1) / variance) if variance > 0 else float("inf")
    if not 0 < value < 1:
        return None
    reach = error / (value * (1 - value))  # on the log odds, where the estimate is more nearly normal
    return Estimate(value, float(expit(logit(value) - reach)), float(expit(logit(value) + reach)), gain)


def ratio(
    wrong: npt.NDArray[Any], objects: npt.NDArray[Any], population: int, confidence: float = 0.95
) -> Estimate | None:
    """Wrong objects per object, from a simple random sample of `population` images that hold them.

    `wrong` and `objects` (n,) are counts by image; objects of one image are alike, so the interval rests on how images
    differ (Cochran, Sampling Techniques, 1977, section 6.3). None where fewer than five images have something wrong.
    """
    n, total = len(objects), float(np.sum(objects))
    if n < 2 or not total or np.count_nonzero(wrong) < MIN_WRONG:
        return None
    value = float(np.sum(wrong)) / total
    rest = np.asarray(wrong, dtype=float) - value * np.asarray(objects, dtype=float)
    error = t.ppf(0.5 + confidence / 2, n - 1) * np.sqrt(rest.var(ddof=1) / n * (1 - n / population)) / (total / n)
    return Estimate(value, value * float(np.exp(-error / value)), value * float(np.exp(error / value)))


def rogan_gladen(found: float, sensitivity: float, false_alarms: float) -> float | None:
    """The true rate behind a rate found by reviewers who err (American Journal of Epidemiology 107, 1978), in [0, 1].

    None where reviewers are no better than chance.
    """
    if sensitivity <= false_alarms:
        return None
    return min(1.0, max(0.0, (found - false_alarms) / (sensitivity - false_alarms)))


def false_alarm_bound(disagreements: int, twice: int, confidence: float, right: float) -> float:
    """The most often that a reviewer calls a right item wrong, from items that two reviewed without each other.

    A false alarm of one shows as a disagreement unless the other errs as well: 2 f (1 - f) of the right items, which are
    at least the share `right`. Rests on reviewers erring independently.
    """
    from datasetops.audits.sampling.bounds import clopper_pearson

    most = clopper_pearson(disagreements, twice, confidence)[1] / max(right, 1e-9)
    return 0.5 if most >= 0.5 else float((1 - np.sqrt(1 - 2 * most)) / 2)
