"""How right a classifier is: by class, over all, on critical classes, and what it takes for what.

A class of which there is no example has no recall; one that was never predicted has no precision: both are NaN, and
neither counts in a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from datasetops.evaluation.regions import Flags, Floats, Ints
from datasetops.preannotate.measure import worth
from datasetops.preannotate.thresholds import CONFIDENCE, Share, share
from datasetops.schema.model import Critical

HALF: Final = 0.5  # where several classes may hold: predicted from this probability on
_POINTS: Final = 200  # of a drawn curve
_MOST_ITEMS: Final = 10_000_000  # beyond which no number of items is looked for


@dataclass(frozen=True)
class ClassMetrics:
    """Of one class: `examples`, how often it was `predicted`, and areas under precision over recall and under ROC."""

    name: str
    examples: int
    predicted: int
    precision: float
    recall: float
    f1: float
    average_precision: float
    roc_area: float


@dataclass(frozen=True)
class Means:
    """Means over the classes with examples; `weighted` by their number."""

    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    mean_average_precision: float
    mean_roc_area: float


@dataclass(frozen=True)
class Classification:
    """`accuracy` of N items: the share of which all is right. `confusion` (K, K): rows are the truth; None for several
    classes an item."""

    items: int
    accuracy: float
    classes: tuple[ClassMetrics, ...]
    means: Means
    confusion: Ints | None

    def top_confusions(self, most: int = 20) -> list[dict[str, Any]]:
        """What is taken for what, the most frequent first: truth, predicted, count, share of the truth."""
        if self.confusion is None:
            return []
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong.ravel(), kind="stable")[:most]
        names = [item.name for item in self.classes]
        return [
            {
                "truth": names[row],
                "predicted": names[column],
                "count": int(wrong[row, column]),
                "share": float(wrong[row, column] / self.confusion[row].sum()),
            }
            for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
            if wrong[row, column]
        ]


def classify(probabilities: Floats, truth: Ints, classes: Sequence[str]) -> Classification:
    """Metrics of probabilities (N, K) for the true classes (N,); the most probable class is predicted, ties the first."""
    predicted = probabilities.argmax(axis=1)
    k = len(classes)
    confusion = np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k).astype(np.int64)
    is_class = truth[:, None] == np.arange(k)
    by_class = _by_class(probabilities, is_class, predicted[:, None] == np.arange(k), classes)
    accuracy = float((predicted == truth).mean()) if len(truth) else math.nan
    return Classification(len(truth), accuracy, by_class, _means(by_class), confusion)


def classify_several(
    probabilities: Floats, truth: Flags, classes: Sequence[str], *, threshold: float = HALF
) -> Classification:
    """The same where several classes may hold: truth (N, K), and predicted is what reaches the threshold."""
    predicted = probabilities >= threshold
    by_class = _by_class(probabilities, truth, predicted, classes)
    accuracy = float((predicted == truth).all(axis=1).mean()) if len(truth) else math.nan
    return Classification(len(truth), accuracy, by_class, _means(by_class), None)


def _by_class(scores: Floats, truth: Flags, predicted: Flags, classes: Sequence[str]) -> tuple[ClassMetrics, ...]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    examples, given, right = truth.sum(axis=0), predicted.sum(axis=0), (truth & predicted).sum(axis=0)
    found = []
    for code, name in enumerate(classes):
        n, m, hit = int(examples[code]), int(given[code]), int(right[code])
        told = 0 < n < len(truth)
        found.append(
            ClassMetrics(
                name,
                n,
                m,
                hit / m if m else math.nan,
                hit / n if n else math.nan,
                2 * hit / (n + m) if n else math.nan,
                float(average_precision_score(truth[:, code], scores[:, code])) if n else math.nan,
                float(roc_auc_score(truth[:, code], scores[:, code])) if told else math.nan,
            )
        )
    return tuple(found)


def _means(classes: Sequence[ClassMetrics]) -> Means:
    """A class with examples that was never predicted has precision 0 in the means, as in scikit-learn."""
    there = [item for item in classes if item.examples]
    weight = np.array([item.examples for item in there], np.float64)

    def mean(name: str, weights: npt.NDArray[Any] | None = None) -> float:
        values = np.nan_to_num([getattr(item, name) for item in there])
        return float(np.average(values, weights=weights)) if there else math.nan

    areas = [item.roc_area for item in there if not math.isnan(item.roc_area)]
    return Means(
        mean("precision"),
        mean("recall"),
        mean("f1"),
        mean("precision", weight),
        mean("recall", weight),
        mean("f1", weight),
        mean("average_precision"),
        float(np.mean(areas)) if areas else math.nan,
    )


def precision_recall_curve(scores: Floats, is_class: Flags) -> list[tuple[float, float]]:
    """Points (recall, precision) for scores (N,), by rising recall; at most some hundred of them."""
    from sklearn.metrics import precision_recall_curve as curve

    if not is_class.any():
        return []
    precision, recall, _ = curve(is_class, scores)
    return _thinned(recall[::-1], precision[::-1])


def roc_curve(scores: Floats, is_class: Flags) -> list[tuple[float, float]]:
    """Points (false positive rate, true positive rate), by rising rate; none where all items are of one kind."""
    from sklearn.metrics import roc_curve as curve

    if is_class.all() or not is_class.any():
        return []
    false, true, _ = curve(is_class, scores)
    return _thinned(false, true)


def _thinned(x: Floats, y: Floats) -> list[tuple[float, float]]:
    which = np.unique(np.linspace(0, len(x) - 1, min(len(x), _POINTS)).astype(np.int64))
    return list(zip(x[which].tolist(), y[which].tolist(), strict=True))


@dataclass(frozen=True)
class CriticalRate:
    """An error rate of a critical class and what the schema allows. `rate` counts errors: `low` and `high` are exact bounds.

    `verdict`: met where even the upper bound is allowed, missed where even the lower one is not, else open: too few
    items to tell. "no items" where there is nothing to count.
    """

    name: str
    kind: str  # "fpr" or "fnr"
    rate: Share
    target: float

    @property
    def verdict(self) -> str:
        if not self.rate.count:
            return "no items"
        if self.rate.high <= self.target:
            return "met"
        return "missed" if self.rate.low > self.target else "open"

    @property
    def more(self) -> int | None:
        """How many more independent items would show the target to be met, were errors among them as frequent as so far.

        None where no number would.
        """
        seen, rate = self.rate.effective, self.rate.value
        if not rate < self.target:
            return None

        def shows(count: int) -> bool:
            high: float = betaincinv(rate * count + 1, (1 - rate) * count, CONFIDENCE)
            return high <= self.target

        low, high = seen, seen + 1
        while not shows(high):
            low, high = high, 2 * high
            if high > _MOST_ITEMS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if shows(middle) else (middle, high)
        return high - seen


def critical_rates(
    truth: Flags,
    predicted: Flags,
    classes: Sequence[str],
    targets: Mapping[str, Critical],
    groups: Ints,
    *,
    confidence: float = CONFIDENCE,
) -> list[CriticalRate]:
    """False positive and false negative rates of critical classes against their targets.

    truth and predicted (N, K); `groups` (N,): items of one group are taken for copies of each other. The false positive
    rate is the share of items without the class that were given it; each bound holds with `confidence`.
    """
    found = []
    for name, target in targets.items():
        code = list(classes).index(name)
        own, given = truth[:, code], predicted[:, code]
        for kind, among, wrong, allowed in (
            ("fpr", ~own, given, target.max_fpr),
            ("fnr", own, ~given, target.max_fnr),
        ):
            if allowed is not None:
                errors = int((wrong & among).sum())
                found.append(
                    CriticalRate(name, kind, share(int(among.sum()), errors, worth(groups[among]), confidence), allowed)
                )
    return found
