"""Slices in which labels or the model are worst.

Labels: those that get less from the model than it expects of itself there. A calibrated model that gives the classes
probabilities p gives the true class the sum of p² in the mean, however hard the images are; what is missing is not the
images' fault. Model: where that sum is small compared with the same classes elsewhere, the model is unsure.

Slices are values of metadata and columns, pairs of them, such values within a class, and clusters of embeddings. They
are found on one half of the items and confirmed on the other, so that the worst of many is not reported for its luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.labels.label_probabilities import LabelProbabilities, grouped_with_copies, label_probabilities
from datasetops.audits.sets.coverage import Coded, attributes
from datasetops.records import Finding

Floats: TypeAlias = npt.NDArray[np.float64]
Vectors: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

KINDS: Final = ("value", "pair", "cluster")  # what a slice of one kind explains is none of a later kind's
_FEWEST: Final = 25  # items of a slice in each half: the error of their mean is then a few hundredths
_MARGIN: Final = 0.1  # probability lost against all other items; less is not worth a look …
_LARGE: Final = 0.2  # … and from here on, of five labels one more is in doubt
_SPREADS: Final = (2.0, 3.0)  # both, at least, in spreads of all clusters: some kinds of images are harder by nature
_ALPHA: Final = 0.01  # chance of any false slice of a kind
_PER_CLUSTER: Final = (
    50  # items in the mean at least, so that half of them are `_FEWEST`; N items have up to √N clusters
)
_LEARNED_FROM: Final = 50_000  # items that clusters are learned from at most
_DIMENSIONS: Final = 64  # principal ones that items are clustered in
_BLOCK: Final = 8192
_ROUNDS: Final = 10  # of k-means
_EXAMPLES: Final = 6
_LIFT: Final = 1.5  # how many times its share a value must have in a cluster to name it …
_NAMES: Final = 3  # … of which so many do
_SHOWN: Final = 15


@dataclass(frozen=True)
class Part:
    """Items divided into `size` slices: the slice of each (N,), -1 for none. `named` tells the name of a slice."""

    kind: str  # one of KINDS
    codes: Ints
    size: int
    named: Callable[[int], str]


@dataclass(frozen=True)
class Worse:
    """A slice that is worse than all other items: its `excess` in the half `judged`, in which it was not found."""

    kind: str
    name: str
    items: Ints
    judged: Ints
    excess: float
    p_value: float  # of all its items, corrected for all slices of the kind that were looked at
    large: bool


class Slices:
    name = "slices"
    title = "parts of the data where labels contradict the model, or the model is unsure, more than elsewhere"
    needs = "one class label an image; images, or --probabilities"
    cost = "as label_noise, whose probabilities it shares, and a few seconds more for each 10,000 images"

    def run(self, context: AuditContext) -> CheckResult:
        judged = label_probabilities(context)
        if judged.skipped:
            return skipped(judged.skipped)
        labels, number = judged.labels, len(judged.labels)
        if number < 4 * _FEWEST:
            return skipped(f"fewer than {4 * _FEWEST} labels can be judged")
        given = judged.probabilities[np.arange(number), labels].astype(np.float64)
        expected = np.einsum("ij,ij->i", judged.probabilities, judged.probabilities, dtype=np.float64)
        of_class = np.bincount(labels, expected) / np.maximum(np.bincount(labels), 1)
        blocks = np.unique(grouped_with_copies(context.samples).to_numpy()[judged.at], return_inverse=True)[1]
        first = half_of(blocks, context.seed)
        values = attributes(context.samples.iloc[judged.at].reset_index(drop=True))
        classes = Coded(labels, tuple(f"class = {name}" for name in judged.names))
        clusters = _clusters(context, judged.at, first)
        parts = [*partitions(values, classes), *([clusters.part] if clusters else [])]
        told = _Told(judged, given, expected, [classes, *values.values()], clusters)
        wrong, looked_at = worst_slices(expected - given, parts, blocks, first)
        unsure, _ = worst_slices(of_class[labels] - expected, parts, blocks, first)
        charts = [
            bars(
                "Mean probability of the given label by class",
                {judged.names[k]: round(float(given[labels == k].mean()), 3) for k in np.unique(labels)},
            )
        ]
        for title, found in (("Labels less probable than expected", wrong), ("Model less sure than elsewhere", unsure)):
            if found:
                charts.append(bars(title, {told.name(one): round(one.excess, 3) for one in found[:_SHOWN]}))
        summary = {
            "labels": number,
            "probabilities": judged.summary["probabilities"],
            "keys": ", ".join(values) or "none",
            "clusters": clusters.part.size if clusters else 0,
            "slices looked at": looked_at,
            "charts": charts,
        }
        findings = [told.wrong(one) for one in wrong] + [told.unsure(one) for one in unsure]
        return CheckResult(findings, _scores(judged, given, clusters), summary)


@dataclass(frozen=True)
class _Told:
    """What is said of slices. `given`, `expected` (N,): what the model gives the labels, and expects to."""

    judged: LabelProbabilities
    given: Floats
    expected: Floats
    values: list[Coded]
    clusters: _Clusters | None

    def name(self, one: Worse) -> str:
        if one.kind != "cluster":
            return one.name
        return f"images that look alike: {', '.join(traits(one.items, self.values)) or one.name}"

    def wrong(self, one: Worse) -> Finding:
        given, expected = (float(values[one.judged].mean()) for values in (self.given, self.expected))
        suggested, labels = self.judged.probabilities[one.items].argmax(axis=1), self.judged.labels[one.items]
        against = suggested != labels
        text = (
            f"{self.name(one)}: of {len(one.items):,} labels {against.mean():.0%} are contradicted; they get {given:.0%} "
            f"from the model, which expects {expected:.0%}; elsewhere that differs by {abs(expected - given - one.excess):.0%}"
        )
        if against.any():
            pairs = labels[against] * len(self.judged.names) + suggested[against]
            label, other = (
                self.judged.names[k] for k in divmod(int(np.bincount(pairs).argmax()), len(self.judged.names))
            )
            text += f"; most often {label}, which looks like {other}"
        order = self.given if one.kind != "cluster" or not self.clusters else self.clusters.distance
        return self._finding(one, "medium" if one.large else "low", given, text, order)

    def unsure(self, one: Worse) -> Finding:
        expected = float(self.expected[one.judged].mean())
        text = (
            f"{self.name(one)}: on {len(one.items):,} items the model expects to be right with {expected:.0%}, and with "
            f"{expected + one.excess:.0%} on the same classes elsewhere; more items like these may help"
        )
        order = self.expected if one.kind != "cluster" or not self.clusters else self.clusters.distance
        return self._finding(one, "low", expected, text, order)

    def _finding(self, one: Worse, severity: str, score: float, text: str, order: Floats) -> Finding:
        """With the items that come first in `order` as examples."""
        examples = one.items[np.argsort(order[one.items], kind="stable")[:_EXAMPLES]]
        related = tuple(str(name) for name in self.judged.rows["sample_id"].to_numpy()[examples])
        text += f" (p = {one.p_value:.1g})"
        return Finding(Slices.name, severity, min(1.0, max(0.0, score)), text, given=one.name, related=related)


def _scores(judged: LabelProbabilities, given: Floats, clusters: _Clusters | None) -> pd.DataFrame:
    """Of each label the mean probability of the labels in its cluster, of all labels where there is none."""
    score = np.full(len(given), given.mean())
    if clusters:
        codes = clusters.part.codes
        known = codes >= 0
        count = np.bincount(codes[known], minlength=clusters.part.size)
        mean = np.bincount(codes[known], given[known], minlength=clusters.part.size) / np.maximum(count, 1)
        score[known] = mean[codes[known]]
    ids = {name: judged.rows[name].to_numpy() for name in ("sample_id", "annotation_id")}
    return pd.DataFrame(ids | {"score": np.clip(score, 0.0, 1.0)})


def half_of(blocks: Ints, seed: int) -> Flags:
    """A random half of the items (N,); items of one block, numbered from 0, stay together."""
    number = int(blocks.max(initial=-1)) + 1
    chosen = np.zeros(number, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(number)[: number // 2]] = True
    result: Flags = chosen[blocks]
    return result


def worst_slices(loss: Floats, parts: Sequence[Part], blocks: Ints, first: Flags) -> tuple[list[Worse], int]:
    """Slices with a larger mean loss than all other items, largest kind by kind, and how many were looked at.

    loss (N,), blocks (N,) of items that are no independent draws, `first` (N,) the half that slices are found in. The
    excess is above the margin in both halves, and of all items significant among all slices of its kind (Bonferroni).
    What a slice explains is taken off, so that the same items are not reported again under another name.
    """
    looked_at = dict.fromkeys(KINDS, 0)
    spread = dict.fromkeys(KINDS, 0.0)
    found: list[tuple[str, str, Ints, float]] = []
    for part in parts:
        halves = [np.bincount(part.codes[half & (part.codes >= 0)], minlength=part.size) for half in (first, ~first)]
        enough = np.minimum(*halves) >= _FEWEST
        excess = _excess_by_slice(loss[first], part.codes[first], part.size)
        looked_at[part.kind] += int(enough.sum())
        if part.kind == "cluster" and enough.any():
            spread["cluster"] = _spread(excess[enough])
        for code in np.flatnonzero(enough & (excess >= max(_MARGIN, _SPREADS[0] * spread[part.kind]))).tolist():
            found.append((part.kind, part.named(code), np.flatnonzero(part.codes == code), float(excess[code])))
    found.sort(key=lambda one: (KINDS.index(one[0]), -one[3], one[1]))
    left = loss.copy()
    worse = []
    for kind, name, items, _ in found:
        inside = np.zeros(len(loss), dtype=bool)
        inside[items] = True
        confirmed = excess_of(left[~first], inside[~first], blocks[~first])[0]
        p = min(1.0, excess_of(left, inside, blocks)[1] * looked_at[kind])
        margin, large = (
            max(flat, times * spread[kind]) for flat, times in zip((_MARGIN, _LARGE), _SPREADS, strict=True)
        )
        if confirmed >= margin and p < _ALPHA:
            left[items] -= confirmed
            worse.append(Worse(kind, name, items, items[~first[items]], confirmed, p, confirmed >= large))
    return worse, sum(looked_at.values())


def _spread(values: Floats) -> float:
    """Standard deviation of most of them, estimated from the median distance to the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def excess_of(loss: Floats, inside: Flags, blocks: Ints) -> tuple[float, float]:
    """(mean loss inside less that outside, one-sided p of none) by Student's t on sums of blocks.

    Items of one block may be as alike as they like. Cameron and Miller, Journal of Human Resources 50 (2015).
    """
    from scipy.special import stdtr

    n = int(inside.sum())
    if not 0 < n < len(loss):
        return 0.0, 1.0
    mean = loss[inside].mean(), loss[~inside].mean()
    influence = np.where(inside, (loss - mean[0]) / n, (mean[1] - loss) / (len(loss) - n))
    number = len(np.unique(blocks[inside]))
    error = float(np.sqrt((np.bincount(blocks, influence) ** 2).sum() * number / max(1, number - 1)))
    size = float(mean[0] - mean[1])
    if number < 2 or error == 0:
        return size, 1.0
    return size, float(stdtr(number - 1, -size / error))


def _excess_by_slice(loss: Floats, codes: Ints, size: int) -> Floats:
    """Mean loss of each slice (size,) less that of all other items; 0 for an empty one."""
    known = codes >= 0
    count = np.bincount(codes[known], minlength=size)
    total = np.bincount(codes[known], loss[known], minlength=size)
    result: Floats = total / np.maximum(count, 1) - (loss.sum() - total) / np.maximum(len(loss) - count, 1)
    return np.where(count > 0, result, 0.0)


def partitions(values: Mapping[str, Coded], classes: Coded) -> Iterator[Part]:
    """By each key, by each pair of keys, and by each key and class."""
    for coded in values.values():
        yield Part("value", coded.codes, len(coded.names), coded.names.__getitem__)
    for a, b in [*combinations(values.values(), 2), *((coded, classes) for coded in values.values())]:
        width = len(b.names)
        codes = np.where((a.codes >= 0) & (b.codes >= 0), a.codes * width + b.codes, -1)
        yield Part("pair", codes, len(a.names) * width, _Both(a.names, b.names))


@dataclass(frozen=True)
class _Both:
    """Names of pairs."""

    first: tuple[str, ...]
    second: tuple[str, ...]

    def __call__(self, code: int) -> str:
        return f"{self.first[code // len(self.second)]}, {self.second[code % len(self.second)]}"


@dataclass(frozen=True)
class _Clusters:
    part: Part
    distance: Floats  # of each item to its cluster's centre


def _clusters(context: AuditContext, at: Ints, first: Flags) -> _Clusters | None:
    """k-means of the items' embeddings on the unit sphere, learned from one half; None where images are too few."""
    if int(context.samples["sha256"].notna().sum()) < 4 * _FEWEST:
        return None
    embeddings = context.embeddings()
    known = np.isfinite(embeddings[at, 0])
    number = min(int(np.sqrt(known.sum())), int(known.sum()) // _PER_CLUSTER)
    learned = np.random.default_rng(context.seed).permutation(np.flatnonzero(known & first))[:_LEARNED_FROM]
    if number < 2 or len(learned) < number:
        return None
    space = Principal(unit_rows(embeddings[at[np.sort(learned)]]), _DIMENSIONS, context.seed)
    points = np.full((len(at), space.axes.shape[1]), np.nan, dtype=np.float32)
    for start in range(0, len(at), _BLOCK):
        rows = np.flatnonzero(known[start : start + _BLOCK]) + start
        points[rows] = space.of(unit_rows(embeddings[at[rows]]))
    codes = np.full(len(at), -1, dtype=np.int64)
    distance = np.full(len(at), np.inf)
    codes[known], distance[known] = k_means(points[known], points[learned], number, context.seed, context.jobs)
    return _Clusters(Part("cluster", codes, number, lambda code: f"cluster {code + 1} of {number}"), distance)


def k_means(points: Vectors, learned: Vectors, number: int, seed: int, jobs: int) -> tuple[Ints, Floats]:
    """The nearest of `number` centres of `learned` (M, D) for each of `points` (N, D), and its squared distance."""
    import faiss
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=jobs):
        means = faiss.Kmeans(points.shape[1], number, niter=_ROUNDS, seed=seed + 1, min_points_per_centroid=1)
        means.train(np.ascontiguousarray(learned))
        distance, codes = means.index.search(np.ascontiguousarray(points), 1)
    return codes[:, 0].astype(np.int64), distance[:, 0].astype(np.float64)


class Principal:
    """The directions of largest variance of some rows (N, D), by subspace iteration: `axes` (D, d), largest first.

    Halko, Martinsson and Tropp, SIAM Review 53 (2011).
    """

    def __init__(self, rows: Vectors, dimensions: int, seed: int) -> None:
        self._mean = rows.mean(axis=0)
        centred = rows - self._mean
        width = min(dimensions + 8, *rows.shape)
        basis = np.random.default_rng(seed).standard_normal((rows.shape[1], width), dtype=np.float32)
        for _ in range(4):
            basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
        _, _, rotation = np.linalg.svd(centred @ basis, full_matrices=False)
        self.axes: Vectors = np.ascontiguousarray(basis @ rotation.T[:, :dimensions])

    def of(self, rows: Vectors) -> Vectors:
        """Rows (N, D) in these directions (N, d)."""
        result: Vectors = (rows - self._mean) @ self.axes
        return result


def unit_rows(rows: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Vectors = rows / np.where(length > 0, length, 1)
    return result


def traits(items: Ints, values: Sequence[Coded]) -> list[str]:
    """What is commoner among some items than among all: values with their share and how many times the usual it is."""
    from scipy.special import bdtrc

    told: list[tuple[float, str]] = []
    for coded in values:
        all_counts = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.names))
        codes = coded.codes[items]
        counts = np.bincount(codes[codes >= 0], minlength=len(coded.names))
        usual, share = all_counts / len(coded.codes), counts / len(items)
        chance = bdtrc(np.maximum(counts - 1, 0), len(items), usual) * len(usual)
        for at in np.flatnonzero((share >= _LIFT * usual) & (counts > 0) & (chance < _ALPHA)):
            lift = share[at] / usual[at]
            text = f"{coded.names[at]} ({share[at]:.0%}, {lift:.1f} times its share)"
            told.append((float(share[at] * np.log(lift)), text))
    return [text for _, text in sorted(told, key=lambda one: (-one[0], one[1]))[:_NAMES]]
