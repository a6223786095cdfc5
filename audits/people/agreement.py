"""How far people who label agree: nominal coefficients over answers in long form, and boxes matched by overlap.

An answer is one row of parallel arrays `items`, `annotators`, `labels` (N,), integers from 0; whoever did not look at an
item has no row for it. Nothing is ever as large as items times annotators. A coefficient is NaN where it is undefined:
no item has two answers, or all answers are of one class, so that chance explains every agreement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

SAME_BOX: Final = 0.5  # intersection over union from which two boxes are taken to mark one thing, as in PASCAL VOC
_LEVEL: Final = 0.95
_RESAMPLES: Final = 1_000
_FEWEST_RESAMPLES: Final = 200
_RESAMPLE_CELLS: Final = (
    2e7  # resamples times kinds of items: some seconds; with more of them there are fewer resamples
)
_CHUNK: Final = 2_000_000  # pairs of rows at a time
_NONE: Final = np.empty(0)


@dataclass(frozen=True)
class Estimate:
    """A coefficient and its 95 % interval by bootstrap over items; NaN where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Agreement:
    """`items` and `answers` are those of items with two answers or more, `raters` the fewest and most of one item."""

    raw: Estimate
    alpha: Estimate
    fleiss: Estimate
    items: int
    answers: int
    raters: tuple[int, int]


@dataclass(frozen=True)
class Pairs:
    """Two annotators each: `first` < `second` (P,), items that both answered, share answered alike, Cohen's kappa."""

    first: Ints
    second: Ints
    shared: Ints
    agreed: Floats
    kappa: Floats


def agreement(items: Ints, labels: Ints, *, resamples: int = _RESAMPLES, seed: int = 0) -> Agreement:
    """Raw agreement, Krippendorff's alpha and Fleiss' kappa with intervals; one answer of an annotator an item.

    Raw: the share of an item's pairs of answers that are alike, mean over the items with two answers or more. Alpha is
    nominal, with any number of answers an item (Krippendorff, "Computing Krippendorff's alpha-reliability", 2011). Kappa
    of many raters (Fleiss, Psychological Bulletin 76, 1971) asks for as many answers of every item: where the numbers
    vary, each item counts as one in the observed agreement, each answer as one in the class shares.
    """
    tally = _Tally.of(items, labels)
    measures = (_raw, _alpha, _fleiss)
    draws = [[measure(tally, weights) for measure in measures] for weights in tally.resampled(resamples, seed)]
    raw, alpha, fleiss = (
        Estimate(float(measure(tally, tally.repeats[None])[0]), *_interval(np.concatenate([_NONE, *several])))
        for measure, several in zip(measures, zip(*draws, strict=True) if draws else [()] * 3, strict=True)
    )
    answers = int(tally.repeats @ tally.size)
    raters = (int(tally.size.min(initial=answers)), int(tally.size.max(initial=0)))
    return Agreement(raw, alpha, fleiss, int(tally.repeats.sum()), answers, raters)


def cohen_kappa(first: Ints, second: Ints, *, resamples: int = 0, seed: int = 0) -> Estimate:
    """Kappa of two annotators' labels (N,) of the same items. Cohen, Educational and Psychological Measurement 20 (1960)."""
    if len(first) != len(second):
        raise ValueError("first and second must have the same length")
    if not len(first):
        return Estimate(float("nan"))
    k = int(max(first.max(), second.max())) + 1
    cells, counts = np.unique(first * k + second, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(first), counts / len(first), size=resamples)
    weights = np.concatenate([counts[None], draws]).astype(np.float64)
    same = (weights * (cells // k == cells % k)).sum(axis=1)
    rows = np.stack([weights @ (cells // k == c) for c in range(k)], axis=1)
    columns = np.stack([weights @ (cells % k == c) for c in range(k)], axis=1)
    kappa = _kappa(same, (rows * columns).sum(axis=1), np.full(len(weights), float(len(first))))
    return Estimate(float(kappa[0]), *_interval(kappa[1:]))


def pairwise_agreement(items: Ints, annotators: Ints, labels: Ints, *, least: int = 1) -> Pairs:
    """Every two annotators that answered at least `least` items in common; one answer of an annotator an item."""
    m, k = int(annotators.max(initial=0)) + 1, int(labels.max(initial=0)) + 1
    pairs, alike, left, right = _Counter(), _Counter(), _Counter(), _Counter()
    for one, other in pairs_within(items):
        flip = annotators[one] > annotators[other]
        one, other = np.where(flip, other, one), np.where(flip, one, other)
        pair = annotators[one] * m + annotators[other]
        pairs.add(pair)
        alike.add(pair[labels[one] == labels[other]])
        left.add(pair * k + labels[one])
        right.add(pair * k + labels[other])
    keys, shared = pairs.total()
    by_chance = np.zeros(len(keys))
    (cells, ours), (others, theirs) = left.total(), right.total()
    both, at, where = np.intersect1d(cells, others, assume_unique=True, return_indices=True)
    np.add.at(by_chance, np.searchsorted(keys, both // k), ours[at].astype(float) * theirs[where])
    same = np.zeros(len(keys))
    found, counts = alike.total()
    same[np.searchsorted(keys, found)] = counts
    kappa = _kappa(same, by_chance, shared.astype(float))
    enough = shared >= least
    chosen = keys[enough]
    return Pairs(chosen // m, chosen % m, shared[enough], same[enough] / shared[enough], kappa[enough])


def pairs_within(groups: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Row numbers of every two rows of one group, each pair once, some millions at a time."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1))
    sizes = np.diff(starts, append=len(groups))
    for size in np.unique(sizes[sizes > 1]).tolist():
        of_size, block = starts[sizes == size], max(1, _CHUNK // size)
        for low in range(0, size, block):
            one, other = np.nonzero(np.arange(size) > np.arange(low, min(low + block, size))[:, None])
            step = max(1, _CHUNK // max(1, len(one)))
            for i in range(0, len(of_size), step):
                rows = order[of_size[i : i + step, None] + np.arange(size)]
                yield rows[:, one + low].ravel(), rows[:, other].ravel()


@dataclass(frozen=True)
class BoxAgreement:
    """A row for each image and two annotators who both drew in it: boxes of each, and how many mark the same thing.

    `matched` are of any class, `alike` of the same; `f1` (P,) counts those alike.
    """

    image: Ints
    first: Ints
    second: Ints
    boxes: Ints
    matched: Ints
    alike: Ints

    @property
    def f1(self) -> Floats:
        result: Floats = 2 * self.alike / self.boxes
        return result


def box_agreement(images: Ints, annotators: Ints, labels: Ints, boxes: Floats) -> BoxAgreement:
    """Match boxes (N, 4) xyxy of every two annotators of an image one to one, from the most alike down to IoU 0.5.

    Boxes of the same class go before others. An annotator without a box in an image is not compared there.
    """
    m = int(annotators.max(initial=0)) + 1
    drawn, count = np.unique(images * m + annotators, return_counts=True)
    image, who = drawn // m, drawn % m
    rows = [np.stack(pair) for pair in pairs_within(image)]
    one, other = np.concatenate(rows, axis=1) if rows else np.empty((2, 0), dtype=np.int64)
    key = drawn[one] * m + who[other]
    order = np.argsort(key)
    key, one, other = key[order], one[order], other[order]
    matched, alike = np.zeros(len(key), dtype=np.int64), np.zeros(len(key), dtype=np.int64)
    for a, b in pairs_within(images):
        flip = annotators[a] > annotators[b]
        a, b = np.where(flip, b, a), np.where(flip, a, b)
        overlap = _overlap(boxes[a], boxes[b])
        near = (overlap >= SAME_BOX) & (annotators[a] != annotators[b])
        a, b, overlap = a[near], b[near], overlap[near]
        same = labels[a] == labels[b]
        taken = _one_to_one(a * m + annotators[b], b * m + annotators[a], overlap + same)
        at = np.searchsorted(key, (images[a] * m + annotators[a])[taken] * m + annotators[b][taken])
        np.add.at(matched, at, 1)
        np.add.at(alike, at, same[taken].astype(np.int64))
    return BoxAgreement(image[one], who[one], who[other], count[one] + count[other], matched, alike)


def _overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) row by row; 0 where both are empty."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inner = np.clip(sides, 0, None).prod(axis=1)
    outer = (a[:, 2:] - a[:, :2]).clip(0).prod(axis=1) + (b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) - inner
    result: Floats = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0)
    return result


def _one_to_one(left: Ints, right: Ints, rank: Floats) -> Ints:
    """Candidates taken greedily from the highest rank down, so that every left and every right is taken at most once."""
    waiting = np.argsort(-rank, kind="stable")
    taken = []
    while len(waiting):
        best_left = np.zeros(len(waiting), dtype=bool)
        best_right = np.zeros(len(waiting), dtype=bool)
        best_left[np.unique(left[waiting], return_index=True)[1]] = True
        best_right[np.unique(right[waiting], return_index=True)[1]] = True
        now = waiting[best_left & best_right]
        taken.append(now)
        waiting = waiting[~(np.isin(left[waiting], left[now]) | np.isin(right[waiting], right[now]))]
    return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Tally:
    """Items with two answers or more, those with the same answers counted together.

    `repeats` (G,) how many items are of a kind, `size` (G,) their answers, `squares` (G,) the sum of squared counts of
    the classes, `by_class` (G, K) sparse counts.
    """

    repeats: Floats
    size: Floats
    squares: Floats
    by_class: Any

    @classmethod
    def of(cls, items: Ints, labels: Ints) -> _Tally:
        from scipy.sparse import csr_array

        if len(items) != len(labels):
            raise ValueError("items and labels must have the same length")
        k = int(labels.max(initial=0)) + 1
        cells, counts = np.unique(items * k + labels, return_counts=True)
        rows, classes = np.unique(cells // k, return_inverse=True)[1], cells % k
        size = np.bincount(rows, counts).astype(np.float64)
        squares = np.bincount(rows, counts**2.0).astype(np.float64)
        # Items with the same counts have the same sum of counts times random 64-bit numbers, others by a rare accident.
        marks = np.random.default_rng(0).integers(0, 2**64, size=k, dtype=np.uint64)
        mark = np.zeros(len(size), dtype=np.uint64)
        np.add.at(mark, rows, marks[classes] * counts.astype(np.uint64))
        several = np.flatnonzero(size > 1)
        _, first, repeats = np.unique(mark[several], return_index=True, return_counts=True)
        chosen = several[first]
        by_class = csr_array((counts.astype(float), (rows, classes)), shape=(len(size), k))[chosen]
        return cls(repeats.astype(float), size[chosen], squares[chosen], by_class)

    def resampled(self, resamples: int, seed: int) -> Iterator[Floats]:
        """Weights (B, G) of bootstrap samples of as many items."""
        kinds, items = len(self.repeats), int(self.repeats.sum())
        if items < 2 or not resamples:
            return
        resamples = int(min(resamples, max(_FEWEST_RESAMPLES, _RESAMPLE_CELLS / kinds)))
        rng, step = np.random.default_rng(seed), max(1, _CHUNK // kinds)
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            yield rng.multinomial(items, self.repeats / items, size=size).astype(float)


def _raw(tally: _Tally, weights: Floats) -> Floats:
    alike = (tally.squares - tally.size) / (tally.size * (tally.size - 1))
    return _ratio(weights @ alike, weights.sum(axis=1))


def _alpha(tally: _Tally, weights: Floats) -> Floats:
    answers, by_class = weights @ tally.size, weights @ tally.by_class
    observed = weights @ ((tally.size**2 - tally.squares) / (tally.size - 1))
    expected = (answers**2 - (by_class**2).sum(axis=1)) / np.maximum(answers - 1, 1)
    return 1 - _ratio(observed, expected)


def _fleiss(tally: _Tally, weights: Floats) -> Floats:
    shares = _ratio(weights @ tally.by_class, (weights @ tally.size)[:, None])
    by_chance = (shares**2).sum(axis=1)
    return _ratio(_raw(tally, weights) - by_chance, 1 - by_chance)


def _kappa(same: Floats, products: Floats, n: Floats) -> Floats:
    """From the number answered alike and the sum over the classes of both annotators' counts multiplied."""
    by_chance = products / np.maximum(n, 1) ** 2
    return _ratio(same / np.maximum(n, 1) - by_chance, 1 - by_chance)


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where nothing is below, to within rounding."""
    above, below = np.broadcast_arrays(above, below)
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 1e-12)
    return result


def _interval(values: Floats) -> tuple[float, float]:
    """Percentile interval; NaN where the coefficient is undefined for a half of the resamples or more."""
    known = values[np.isfinite(values)]
    if not len(known) or 2 * len(known) <= len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


class _Counter:
    """Counts of keys that come in parts."""

    def __init__(self) -> None:
        self._keys: list[Ints] = []
        self._counts: list[Ints] = []

    def add(self, keys: Ints) -> None:
        found, counts = np.unique(keys, return_counts=True)
        self._keys.append(found)
        self._counts.append(counts)
        if len(self._keys) > 16:
            merged, total = self.total()
            self._keys, self._counts = [merged], [total]

    def total(self) -> tuple[Ints, Ints]:
        if not self._keys:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        keys, at = np.unique(np.concatenate(self._keys), return_inverse=True)
        return keys, np.bincount(at, np.concatenate(self._counts), minlength=len(keys)).astype(np.int64)
