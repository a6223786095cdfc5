"""Nearest neighbours and near-duplicates among vectors, exact or approximate with its measured recall.

All vectors are compared with each other by products of blocks of a few thousand rows, so that memory beyond the input
is some tens of bytes for each row and neighbour. Up to `EXACT_UP_TO` rows every block meets every other. Beyond, rows
are put into lists around k-means centroids, and each row meets only the lists nearest to it (an inverted file: Jégou,
Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 33, 2011), list by list, so that this too is
products of blocks. How many lists are probed is set by true neighbours of sampled rows, and the recall that is
returned is measured on other sampled rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.progress import Progress, no_progress

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Metric = Literal["cosine", "euclidean"]

EXACT_UP_TO = 50_000  # rows: half a minute on one core at 1,280 dimensions, and four times that for twice the rows
TARGET_RECALL = 0.98  # probe until this share of true neighbours is met …
MOST_PROBED = 1 / 16  # … or this share of the lists
_BLOCK = 2048  # rows compared with as many others at a time
_QUERIES = 16_384  # rows that meet their lists at a time
_SAMPLE = 500  # rows whose true neighbours set the number of probes, and as many others that measure the recall
_DIMENSIONS = 64  # principal ones, in which rows are put into lists
_PER_LIST = 32  # rows for each list that k-means learns from
_ROUNDS = 10  # of k-means
_SAMPLE_MEAN = 8192  # rows that the mean and the principal dimensions are learned from


@dataclass(frozen=True)
class Neighbours:
    """The `k` nearest other rows of each row, nearest first, ties by row number.

    `indices` (N, k) int64, -1 where there is none; `distances` (N, k) float32, inf where there is none.
    `recall`: the share of true neighbours found, 1.0 where `exact`, else measured on sampled rows.
    """

    indices: Ints
    distances: Floats
    exact: bool
    recall: float


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows and their distance: `indices` (P, 2) int64, the lesser first, sorted; `distances` (P,) float32.

    `recall`: 1.0 where `exact`, else the share of sampled rows whose nearest other row was met; nearer pairs than
    those are met more often. `truncated`: some row has `limit` partners or more, of which the nearest `limit` count.
    """

    indices: Ints
    distances: Floats
    exact: bool
    recall: float
    truncated: bool


def nearest(
    vectors: Floats,
    k: int,
    *,
    metric: Metric = "cosine",
    exact: bool | None = None,
    jobs: int = 1,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Neighbours:
    """The `k` nearest other rows of each of `vectors` (N, D) float32, an array or a memory map.

    Distances are 1 - cosine, in [0, 2], or Euclidean, from differences, so that equal rows are at 0. Rows that are not
    finite, or zero with metric "cosine", have no neighbours and are nobody's. `exact`: None for exact up to
    `EXACT_UP_TO` rows. `jobs`: threads. The result is the same for the same seed, jobs and machine; only the
    approximate search draws from it. Raises ValueError for other shapes, types, metrics or k below 1.
    """
    return _search(vectors, k, metric, np.inf, k, exact, jobs, seed, progress)


def pairs_within(
    vectors: Floats,
    threshold: float,
    *,
    limit: int = 32,
    metric: Metric = "cosine",
    exact: bool | None = None,
    jobs: int = 1,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Pairs:
    """All pairs of rows at most `threshold` apart, the nearest `limit` of each row where it has more.

    The limit keeps memory bounded where thousands of rows are alike. Arguments and errors as for `nearest`.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: expected a distance of at least 0; got {threshold}")
    found = _search(vectors, limit, metric, threshold, 1, exact, jobs, seed, progress)
    near = found.distances <= threshold
    row = np.repeat(np.arange(len(near)), near.sum(axis=1))
    pair = np.sort(np.stack([row, found.indices[near]], axis=1), axis=1)
    pair, first = np.unique(pair, axis=0, return_index=True)
    truncated = bool(near.all(axis=1).any())
    return Pairs(pair, found.distances[near][first], found.exact, found.recall, truncated)


def _search(
    vectors: Floats,
    k: int,
    metric: Metric,
    reach: float,
    sampled: int,
    exact: bool | None,
    jobs: int,
    seed: int,
    progress: Progress,
) -> Neighbours:
    """The `k` nearest that are within `reach`; recall is measured on the `sampled` nearest."""
    from threadpoolctl import threadpool_limits

    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"vectors: expected (N, D) float32; got {vectors.shape} {vectors.dtype}")
    if k < 1:
        raise ValueError(f"k: expected at least 1; got {k}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric: expected cosine or euclidean; got {metric!r}")
    with threadpool_limits(limits=jobs, user_api="blas"):
        points = Points(vectors, metric)
        best = _Best(len(points), k, points.least_similarity(reach))
        exact = len(points) <= (EXACT_UP_TO if exact is None else 1) or bool(exact)
        recall = 1.0
        if exact:
            _compare_all(points, best, progress)
        else:
            recall = _compare_lists(points, best, sampled, np.random.default_rng(seed), progress)
        indices, distances = _measured(points, best, len(vectors))
    return Neighbours(indices, distances, exact, recall)


class Taken(NamedTuple):
    """Some rows that were taken to be compared."""

    ids: Ints
    values: Floats  # (len(ids), D)
    half: Floats  # half the squared length of each

    def part(self, which: Ints) -> Taken:
        return Taken(self.ids[which], self.values[which], self.half[which])


class Points:
    """The rows that can be compared, numbered without gaps.

    With metric "cosine" rows are scaled to unit length: 1 - cosine is half the squared distance of such rows. All are
    then taken from about their mean, since products of float32 lose small distances between rows far from the origin.
    """

    def __init__(self, vectors: Floats, metric: Metric) -> None:
        self._vectors = vectors
        self._cosine = metric == "cosine"
        square = 2 * _by_blocks(len(vectors), lambda ids: _half_squares(vectors[ids]))
        self.rows = np.flatnonzero(np.isfinite(square) & (square > 0 if self._cosine else True))
        self._scale = 1 / np.sqrt(square[self.rows]) if self._cosine else np.ones(self.rows.size, dtype=np.float32)
        self._centre = np.zeros(vectors.shape[1], dtype=np.float32)
        if self.rows.size:
            self._centre = self._values(np.arange(0, self.rows.size, -(-self.rows.size // _SAMPLE_MEAN))).mean(axis=0)
        self._half = _by_blocks(self.rows.size, lambda ids: _half_squares(self._values(ids)))

    def __len__(self) -> int:
        return self.rows.size

    def take(self, ids: Ints) -> Taken:
        return Taken(ids, self._values(ids), self._half[ids])

    def _values(self, ids: Ints) -> Floats:
        values = self._vectors[self.rows[ids]]
        values *= self._scale[ids, None]
        values -= self._centre
        return np.asarray(values)

    def similarity(self, a: Taken, b: Taken) -> Floats:
        """Minus half the squared distance of each of `a` to each of `b`, by products."""
        similarity = a.values @ b.values.T
        similarity -= a.half[:, None]
        similarity -= b.half
        return np.asarray(similarity)

    def least_similarity(self, distance: float) -> float:
        """No pair within `distance` has less, rounding included."""
        rounding = 64 * float(np.finfo(np.float32).eps) * float(self._half.max(initial=0))
        return -(distance if self._cosine else distance**2 / 2) - rounding

    def distance(self, a: Taken, b: Taken) -> Floats:
        """Of each row of `a` from the same row of `b`, by differences, so that equal rows are at 0."""
        half = _half_squares(a.values - b.values)
        return half if self._cosine else np.sqrt(2 * half)


class _Best:
    """The `k` most similar rows seen so far of each row, above a floor; float32 and int32 to save memory."""

    def __init__(self, n: int, k: int, floor: float) -> None:
        self.similarity = np.full((n, k), -np.inf, dtype=np.float32)
        self.ids = np.full((n, k), -1, dtype=np.int32)
        self._floor = np.float32(floor)
        self._cut = np.full(n, floor, dtype=np.float32)  # only what is above can still enter

    def offer(self, owners: Ints, others: Ints, similarity: Floats) -> None:
        """`similarity` is (owners, others); every pair is offered once, a row itself is passed over."""
        k = self.ids.shape[1]
        cut = self._cut[owners]
        r: npt.NDArray[np.int64] = np.empty(0, np.int64)
        c = r
        if others.size > k + 1:  # rows that have none yet take k, and one more, which may be the row itself
            new = np.flatnonzero(np.isneginf(cut))
            cut[new] = np.inf
            r = np.repeat(new, k + 1)
            c = np.argpartition(similarity[new], -k - 1, axis=1)[:, -k - 1 :].ravel()
        above = _where(similarity > cut[:, None])
        r, c = np.concatenate([r, above[0]]), np.concatenate([c, above[1]])
        order = np.flatnonzero(owners[r] != others[c])
        order = order[np.argsort(r[order], kind="stable")]
        r, c = r[order], c[order]
        count = np.bincount(r, minlength=owners.size)
        rows = np.flatnonzero(count)
        if rows.size == 0:
            return
        count = count[rows]
        slot = np.repeat(np.arange(rows.size), count)
        place = np.arange(k, k + r.size) - np.repeat(np.cumsum(count) - count, count)
        similar = np.full((rows.size, k + count.max()), -np.inf, dtype=np.float32)
        ids = np.full(similar.shape, -1, dtype=np.int32)
        own = owners[rows]
        similar[:, :k], ids[:, :k] = self.similarity[own], self.ids[own]
        similar[slot, place], ids[slot, place] = similarity[r, c], others[c]
        kept = np.argpartition(similar, -k, axis=1)[:, -k:]
        similar = np.take_along_axis(similar, kept, axis=1)
        self.similarity[own], self.ids[own] = similar, np.take_along_axis(ids, kept, axis=1)
        self._cut[own] = np.maximum(similar.min(axis=1), self._floor)


def _compare_all(points: Points, best: _Best, progress: Progress) -> None:
    spans = list(_spans(len(points), _BLOCK))
    tiles = [(i, j) for i in range(len(spans)) for j in range(i, len(spans))]
    for i, j in progress(tiles, len(tiles), "Comparing all vectors"):
        if i == j:
            rows = points.take(spans[i])
        similarity = points.similarity(rows, rows if i == j else points.take(spans[j]))
        best.offer(spans[i], spans[j], similarity)
        if i != j:
            best.offer(spans[j], spans[i], similarity.T)


def _compare_lists(points: Points, best: _Best, sampled: int, rng: np.random.Generator, progress: Progress) -> float:
    """Each row meets the lists nearest to it; the recall of the `sampled` nearest of a row."""
    n = len(points)
    reduced = _principal(points, rng, progress)
    centroids = _k_means(reduced, max(1, min(int(4 * np.sqrt(n)), n // 8)), rng, progress)
    home = _nearest_lists(reduced, centroids, 1)[:, 0]
    probes, recall = _probes(points, reduced, centroids, home, sampled, rng, progress)
    order = np.argsort(home, kind="stable")  # rows of one list probe much the same lists
    members = np.split(order, np.cumsum(np.bincount(home, minlength=len(centroids)))[:-1])
    starts = range(0, n, _QUERIES)
    for start in progress(starts, len(starts), "Comparing vectors with those of near lists"):
        rows = points.take(order[start : start + _QUERIES])
        probed = _nearest_lists(reduced[rows.ids], centroids, probes).ravel()
        by_list = np.argsort(probed, kind="stable")
        for queries in np.split(by_list, np.flatnonzero(np.diff(probed[by_list])) + 1):
            listed = members[probed[queries[0]]]
            for others in (points.take(listed[part]) for part in _spans(listed.size, _BLOCK)):
                for some in (rows.part(queries[part] // probes) for part in _spans(queries.size, _BLOCK)):
                    best.offer(some.ids, others.ids, points.similarity(some, others))
    return recall


def _probes(
    points: Points,
    reduced: Floats,
    centroids: Floats,
    home: Ints,
    sampled: int,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[int, float]:
    """How many lists to probe, from the true neighbours of sampled rows, and the recall of other sampled rows."""
    sample = rng.permutation(len(points))[: 2 * _SAMPLE]
    rows = points.take(sample)
    truth = _Best(len(points), sampled, -np.inf)
    spans = list(_spans(len(points), _BLOCK))
    for others in progress(spans, len(spans), "Measuring recall"):
        truth.offer(sample, others, points.similarity(rows, points.take(others)))
    nearness = _nearness(reduced[sample], centroids)
    neighbours = truth.ids[sample]
    # Among the lists by nearness to the row, the rank of the one that its true neighbour is in.
    own = np.take_along_axis(nearness, home[neighbours], axis=1)
    rank = np.stack([np.count_nonzero(nearness > own[:, j, None], axis=1) for j in range(sampled)], axis=1)
    half = sample.size // 2
    known = neighbours >= 0
    wanted = 1 + int(np.quantile(rank[:half][known[:half]], TARGET_RECALL, method="higher"))
    probes = min(wanted, max(1, int(len(centroids) * MOST_PROBED)))
    return probes, float(np.mean(rank[half:][known[half:]] < probes))


def _principal(points: Points, rng: np.random.Generator, progress: Progress) -> Floats:
    """The rows in their principal dimensions, by subspace iteration on a sample."""
    sample = points.take(rng.permutation(len(points))[:_SAMPLE_MEAN]).values
    basis = rng.standard_normal((sample.shape[1], min(_DIMENSIONS, sample.shape[1])), dtype=np.float32)
    for _ in range(4):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    return _by_blocks(len(points), lambda ids: points.take(ids).values @ basis, progress, "reducing dimensions")


def _k_means(rows: Floats, number: int, rng: np.random.Generator, progress: Progress) -> Floats:
    """`number` centroids (number, D), by Lloyd's rounds on a sample."""
    sample = rows[rng.permutation(len(rows))[: number * _PER_LIST]]
    centroids = sample[:number].copy()
    for _ in progress(range(_ROUNDS), _ROUNDS, "Making lists"):
        home = _nearest_lists(sample, centroids, 1)[:, 0]
        count = np.bincount(home, minlength=number)
        filled = np.flatnonzero(count)
        starts = (np.cumsum(count) - count)[filled]
        sums = np.add.reduceat(sample[np.argsort(home, kind="stable")], starts, axis=0)
        centroids[filled] = sums / count[filled, None]
    return centroids


def _nearness(rows: Floats, centroids: Floats) -> Floats:
    """Of each row to each list: minus half the squared distance, less what is the same for all lists."""
    nearness = rows @ centroids.T
    nearness -= _half_squares(centroids)
    return np.asarray(nearness)


def _nearest_lists(rows: Floats, centroids: Floats, number: int) -> Ints:
    """The `number` lists nearest to each row, in no order: (len(rows), number)."""
    found = np.empty((len(rows), number), dtype=np.int64)
    for ids in _spans(len(rows), _BLOCK):
        nearness = _nearness(rows[ids], centroids)
        if number == 1:  # many times faster than argpartition
            found[ids, 0] = nearness.argmax(axis=1)
        else:
            found[ids] = np.argpartition(nearness, -number, axis=1)[:, -number:]
    return found


def _measured(points: Points, best: _Best, n: int) -> tuple[Ints, Floats]:
    """Row numbers and distances of the best, in order, for all `n` rows of the input."""
    k = best.ids.shape[1]
    indices = np.full((n, k), -1, dtype=np.int64)
    distances = np.full((n, k), np.inf, dtype=np.float32)
    for ids in _spans(len(points), _BLOCK):
        found = best.ids[ids]
        rows = points.take(ids)
        distance = np.full(found.shape, np.inf, dtype=np.float32)
        for j in range(k):
            there = np.flatnonzero(found[:, j] >= 0)
            distance[there, j] = points.distance(rows.part(there), points.take(found[there, j]))
        index = np.where(found >= 0, points.rows[found], -1)
        order = np.lexsort((index, distance), axis=1)
        indices[points.rows[ids]] = np.take_along_axis(index, order, axis=1)
        distances[points.rows[ids]] = np.take_along_axis(distance, order, axis=1)
    return indices, distances


def _where(mask: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """`np.nonzero`, many times faster for few hits, in the mask's memory order."""
    if mask.flags.c_contiguous:
        return np.divmod(np.flatnonzero(mask), mask.shape[1])
    c, r = np.divmod(np.flatnonzero(mask.T), mask.shape[0])
    return r, c


def _half_squares(rows: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", rows, rows) / np.float32(2))


def _by_blocks(n: int, work: Callable[[Ints], Floats], progress: Progress = no_progress, label: str = "") -> Floats:
    spans = list(_spans(n, _BLOCK)) or [np.arange(0)]
    return np.concatenate([work(ids) for ids in progress(spans, len(spans), label)])


def _spans(n: int, size: int) -> Iterator[Ints]:
    """0 … n - 1 in order, `size` at a time."""
    return (np.arange(start, min(start + size, n)) for start in range(0, n, size))
