"""Which detection found which object, by COCO's rules, and the average precision of images with weights.

COCO's own numbers come from `datasetops.evaluation.detection`; what stands here gives the same average precision for
any weights of the images, from one matching, so that slices and bootstrap samples need no evaluation of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from datasetops.audits.boxes.pairs import Overlaps, one_to_one
from datasetops.evaluation.regions import Flags, Floats, Ints, Regions

IOUS: Final[Floats] = np.linspace(0.5, 0.95, 10, dtype=np.float64)  # COCO's thresholds
RECALLS: Final = np.linspace(0.0, 1.0, 101)  # COCO's recalls at which precision is read
MOST: Final = 100  # detections of an image and class that count, the best ones
_CELLS: Final = 100_000  # replicates times blocks looked at together: arrays that fit into caches
_TINY: Final = 1e-300  # in place of 0, where nothing was seen and nothing found
_NEAR: Final = 1e-6  # of a whole number: such a sum of weights is one, but for rounding


@dataclass(frozen=True)
class Matches:
    """`kept` (D,): detections that count. `rows` (U,), ascending: those that match anything at any threshold.

    `truth` (U, T): the object that each of them found at each threshold, -1 for none; `ignored` (U, T): it lies in a
    crowd there, and counts on neither side.
    """

    kept: Flags
    rows: Ints
    truth: Ints
    ignored: Flags


def match(found: Regions, truth: Regions, pairs: Overlaps, ious: Floats = IOUS, *, most: int = MOST) -> Matches:
    """Match detections with objects of their class, the highest score first, each with the object it overlaps most.

    The matching of pycocotools for objects of all sizes. `pairs` as `pairs_of` gives them.
    """
    rank = found.ranks
    kept = rank < most
    same = found.boxes.label[pairs.first] == truth.boxes.label[pairs.second]
    pairs = pairs[same & kept[pairs.first] & (pairs.iou >= ious.min() - 1e-9)]
    crowd = truth.crowd[pairs.second]
    place = np.empty(len(pairs))
    place[np.lexsort((-pairs.second, -pairs.iou, crowd, rank[pairs.first]))] = np.arange(len(pairs), 0, -1)
    # A crowd may be found many times: each time it stands for another object.
    second = np.where(crowd, len(truth) + np.arange(len(pairs)), pairs.second)
    exclusive = Overlaps(pairs.first, second, pairs.iou, pairs.covered)
    hits = []
    for threshold in ious.tolist():
        near = np.flatnonzero(pairs.iou >= min(threshold, 1 - 1e-10))
        hits.append(near[one_to_one(exclusive[near], place[near])])
    rows = np.unique(pairs.first[np.concatenate(hits)]) if hits else np.zeros(0, np.int64)
    matched = np.full((len(rows), len(ious)), -1, np.int64)
    ignored = np.zeros((len(rows), len(ious)), bool)
    for column, chosen in enumerate(hits):
        at = np.searchsorted(rows, pairs.first[chosen])
        ignored[at, column] = crowd[chosen]
        matched[at, column] = np.where(crowd[chosen], -1, pairs.second[chosen])
    return Matches(kept, rows, matched, ignored)


@dataclass(frozen=True)
class Curves:
    """What average precision is made of, by class and falling score.

    Of U detections that hit anything: class, image, `hits` and `ignored` (U, T). `seen` (images, U): how many detections
    of an image stand between the hit before and this one; `objects` (images, K): what there is to find. Both sparse.
    """

    label: Ints
    image: Ints
    hits: Flags
    ignored: Flags
    seen: Any
    objects: Any

    @classmethod
    def of(
        cls, found: Regions, truth: Regions, matches: Matches, images: int, classes: int, *, pooled: bool = False
    ) -> Curves:
        """`pooled`: detections of all classes in one order, as if they were of one; they match within their class."""
        label, image, kinds = found.boxes.label, found.boxes.image, truth.boxes.label
        if pooled:
            label, kinds, classes = np.zeros_like(label), np.zeros_like(kinds), 1
        order = found.by_class(label)
        order = order[matches.kept[order]]
        position = np.full(len(found), -1, np.int64)
        position[order] = np.arange(len(order))
        by_place = np.argsort(position[matches.rows])
        rows = matches.rows[by_place]
        following = np.searchsorted(position[rows], np.arange(len(order)))
        inside = following < len(rows)
        inside[inside] = label[rows[following[inside]]] == label[order[inside]]
        seen = _sparse(image[order[inside]], following[inside], (images, len(rows)))
        counted = ~truth.crowd
        own = (truth.boxes.image[counted], kinds[counted])
        objects = _sparse(*own, (images, classes))
        hits = matches.truth[by_place] >= 0
        return cls(label[rows], image[rows], hits, matches.ignored[by_place], seen, objects)

    @property
    def images(self) -> int:
        return int(self.seen.shape[0])

    def grouped(self, codes: Ints, number: int) -> Curves:
        """The same with images put together: the group of each, -1 for an image to leave out."""
        mine = np.flatnonzero(codes[self.image] >= 0)
        # Detections of these images that stand before a hit of another image are counted with the next own hit.
        last = np.searchsorted(mine, np.arange(len(self.label)))
        rows = np.flatnonzero(last < len(mine))
        rows = rows[self.label[mine[last[rows]]] == self.label[rows]]
        moved = _sparse(rows, last[rows], (len(self.label), len(mine)))
        inside = np.flatnonzero(codes >= 0)
        together = _sparse(codes[inside], inside, (number, len(codes)))
        return Curves(
            self.label[mine],
            codes[self.image[mine]],
            self.hits[mine],
            self.ignored[mine],
            together @ self.seen @ moved,
            together @ self.objects,
        )

    def only(self, threshold: int) -> Curves:
        """The same at one threshold of overlap."""
        return replace(self, hits=self.hits[:, [threshold]], ignored=self.ignored[:, [threshold]])

    def average_precision(self, weights: Floats, *, blocks: int | None = None) -> Floats:
        """(R, K, T) for weights (R, images); NaN for a class of which nothing is there. COCO's 101-point average.

        With `blocks`, precision is read at so many hits of a class only, evenly spaced: near enough for a bootstrap, and many
        times as fast where there are many hits.
        """
        objects = weights @ self.objects
        result = np.full((len(weights), self.objects.shape[1], self.hits.shape[1]), np.nan)
        result[objects > 0] = 0.0
        block = self._blocks(blocks)
        number = int(block[-1]) + 1 if len(block) else 0
        label = self.label[np.searchsorted(block, np.arange(number))]
        everything = _sparse(np.arange(len(block)), block, (len(block), number))
        seen = self.seen @ everything
        levels = [self._level(block, label, place) for place in range(self.hits.shape[1])]
        step = max(1, _CELLS // max(1, number))
        for low in range(0, len(weights) if number else 0, step):
            part = weights[low : low + step]
            before = np.cumsum(part @ seen, axis=1)
            wanted = _wanted(objects[low : low + step])
            for place, (level, hits, ignored) in enumerate(levels):
                if len(level.rows):
                    found = np.cumsum(part @ hits, axis=1)
                    counted = before if ignored is None else before - np.cumsum(part @ ignored, axis=1)
                    result[low : low + step, level.labels, place] = level.average(found, counted, wanted)
        result[objects == 0] = np.nan
        return result

    def _blocks(self, number: int | None) -> Ints:
        """The block (U,) of each hit, ascending, none of two classes: so many a class in the mean, or one for each hit."""
        place = np.arange(len(self.label))
        if number is None or len(place) <= number:
            return place
        new = np.diff(self.label, prepend=-1) != 0
        starts = np.flatnonzero(new)
        number *= len(starts)
        within = place - np.repeat(starts, np.diff(starts, append=len(place)))
        result: Ints = np.cumsum(within % -(-len(place) // number) == 0) - 1
        return result

    def _level(self, block: Ints, label: Ints, threshold: int) -> tuple[_Level, Any, Any]:
        """Where hits are at a threshold, those of each image (images, hits), and what is ignored (images, blocks)."""
        mine, out = np.flatnonzero(self.hits[:, threshold]), np.flatnonzero(self.ignored[:, threshold])
        rows, at = np.unique(block[mine], return_inverse=True)
        hits = _sparse(self.image[mine], at, (self.images, len(rows)))
        ignored = _sparse(self.image[out], block[out], (self.images, len(label))) if len(out) else None
        return _Level.of(label, rows), hits, ignored


@dataclass(frozen=True)
class _Level:
    """Blocks in which something hits at one threshold: their `rows`, in `groups` of one class each, which begin at
    `starts` and are of `labels`. `ahead`: the block before each group's class begins, -1 for the first."""

    rows: Ints
    groups: Ints
    starts: Ints
    labels: Ints
    ahead: Ints

    @classmethod
    def of(cls, label: Ints, rows: Ints) -> _Level:
        new = np.diff(label[rows], prepend=-1) != 0
        starts = np.flatnonzero(new)
        labels = label[rows[starts]]
        return cls(rows, np.cumsum(new) - 1, starts, labels, np.searchsorted(label, labels) - 1)

    def average(self, found: Floats, seen: Floats, wanted: Floats) -> Floats:
        """Average precision (R, classes) from running sums of what was found up to each row (R, rows), of what was seen up
        to each block (R, blocks), and the sums at which the recalls are reached (R, K, 101)."""
        before = np.where(self.starts > 0, found[:, self.starts - 1], 0.0)
        skipped = np.where(self.ahead >= 0, seen[:, self.ahead], 0.0)
        counted = np.maximum(seen[:, self.rows] - skipped[:, self.groups], _TINY)
        precision = (found - before[:, self.groups]) / counted
        # The best precision from here on: each class is lifted over those that follow, so that one pass does for all.
        lift = 2.0 * np.arange(len(self.starts), 0, -1)
        best = np.maximum.accumulate((precision + lift[self.groups])[:, ::-1], axis=1)[:, ::-1]
        # One search for all replicates, each lifted over those before it.
        replicate = np.arange(len(found))[:, None, None]
        apart = replicate * (found[:, -1].max(initial=0.0) + 1.0)
        sums = (before[:, :, None] + wanted[:, self.labels] + apart).ravel()
        reached = np.searchsorted((found + apart[:, :, 0]).ravel(), sums).reshape(len(found), -1, len(RECALLS))
        at = np.maximum(reached - replicate * found.shape[1], self.starts[:, None])
        there = at < np.append(self.starts[1:], len(self.rows))[:, None]
        read = np.where(there, best[replicate, np.minimum(at, len(self.rows) - 1)] - lift[:, None], 0.0)
        result: Floats = read.mean(axis=2)
        return result


def _wanted(objects: Floats) -> Floats:
    """The sum of weights (R, K, 101) from which each recall is reached: sum / objects >= recall, to the last bit."""
    exact = objects[..., None] * RECALLS
    whole = np.round(exact)
    near = np.abs(exact - whole) < _NEAR
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = whole / objects[..., None] >= RECALLS
    return np.where(near, np.where(reached, whole, whole + _NEAR), exact)


def single_average_precision(label: Ints, hits: Flags, counted: Flags, objects: Ints) -> Floats:
    """Average precision (K,) of detections (D,) by class and falling score: which hit, and which count at all.

    `objects` (K,): how many there are to find; the average is 0 where there are none, and where nothing hits.
    """
    result = np.zeros(len(objects))
    right = hits & counted
    level = _Level.of(label, np.flatnonzero(right))
    if len(level.rows):
        found = np.arange(1, len(level.rows) + 1, dtype=np.float64)[None]
        seen = np.cumsum(counted, dtype=np.float64)[None]
        result[level.labels] = level.average(found, seen, _wanted(objects[None].astype(np.float64)))[0]
    result[objects == 0] = 0.0
    return result


def _sparse(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Any:
    """How often each cell is named."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
