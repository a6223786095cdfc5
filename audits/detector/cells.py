"""A detector's first look: from each cell of an image whether it is the middle of an object, and where that one ends.

Least squares in closed form from sums over cells, one classifier for every fold at the cost of one. A class is looked for
in several ranges of size at once, since one linear function of the surroundings cannot describe both near and far ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.detector.maps import SEEN, STRIDE, Maps, seen_from_cells
from datasetops.identity import pairwise_iou

Floats: TypeAlias = npt.NDArray[np.float32]
Corners: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_WIDTH: Final = SEEN + 1
_SPREAD: Final = 0.15  # of an object's side: how fast the wanted answer falls with the distance from its middle
_LEAST_SPREAD: Final = 0.4  # of a cell
_OWN: Final = 0.2  # wanted answer from which a cell tells where the object ends; the nearest cell always has it
_RIDGE: Final = 0.01  # of a cell's weight; a tenth and three times as much made no difference
_BOX_RIDGE: Final = 200.0  # objects' worth of doubt that a box has other sides than is usual for its kind
_OWN_CELLS: Final = 40_000  # kept to learn where objects end: 90 MB
_MOST_OWN: Final = 9  # of one object
_DOUBLING: Final = 1.0  # log2 of the range of sizes of one kind
_MOST_KINDS: Final = 4  # of one class
_FEWEST_OF_KIND: Final = 30  # boxes
_FAINT: Final = 0.1  # of the usual answer at an object's middle, from which a cell is looked at
_PEAK: Final = 0.7  # of the greatest answer around
_TIMES, _MORE = 4, 5  # as many regions of a kind in an image as there are objects on average, and so many more
_CELLS_EACH: Final = 4  # cells looked at for each of these regions
_CELLS: Final = 1_000  # of an image, whatever the kinds
_SAME: Final = 0.7  # overlap of regions of which one is enough
_ALIKE: Final = 0.75  # overlap of regions that are averaged
REGIONS: Final = 150  # of an image


@dataclass(frozen=True)
class Kinds:
    """What is looked for, each a class in a range of sizes: `label` (K,) of the class; `sides` (K, 2), usual width and
    height in pixels of the scaled image."""

    label: Ints
    sides: Corners


@dataclass(frozen=True)
class Regions:
    """Of one image, most likely ones first: `corners` (N, 4) in pixels of the scaled image, class, and `score` (N,)."""

    corners: Corners
    label: Ints
    score: Floats


def kinds_of(corners: Corners, label: Ints) -> tuple[Kinds, Ints]:
    """Kinds of boxes (N, 4), and the kind of each (N,): one for about every doubling of size in a class."""
    sides = np.maximum(corners[:, 2:] - corners[:, :2], 1.0)
    size = np.log2(sides).mean(axis=1)
    kind = np.zeros(len(corners), dtype=np.int64)
    labels: list[int] = []
    usual: list[Corners] = []
    for one in np.unique(label):
        rows = np.flatnonzero(label == one)
        low, high = np.quantile(size[rows], [0.05, 0.95])
        most = min(_MOST_KINDS, len(rows) // _FEWEST_OF_KIND)
        count = int(np.clip(round((high - low) / _DOUBLING), 1, max(1, most)))
        part = np.searchsorted(np.linspace(low, high, count + 1)[1:-1], size[rows])
        for number in range(count):
            own = rows[part == number]
            if len(own):
                kind[own] = len(labels)
                labels.append(int(one))
                usual.append(np.exp(np.log(sides[own]).mean(axis=0)))
    return Kinds(np.array(labels, dtype=np.int64), np.array(usual).reshape(-1, 2)), kind


class CellHead:
    """Learns from the images of all folds, then looks at images of each with what the others taught."""

    def __init__(self, kinds: Kinds, folds: int, objects: int) -> None:
        """`objects`: how many there will be in all."""
        count = len(kinds.label)
        self._kinds = kinds
        self._products = np.zeros((folds, _WIDTH, _WIDTH), dtype=np.float32)
        self._answers = np.zeros((folds, _WIDTH, count), dtype=np.float32)
        self._most_own = int(np.clip(_OWN_CELLS // max(1, objects), 1, _MOST_OWN))
        self._each = max(1, -(-objects // _OWN_CELLS))  # of so many objects one is kept
        self._own: list[_OwnCells] = []
        self._objects, self._images = np.zeros(count), 0

    def learn(self, maps: Maps, fold: int, corners: Corners, kind: Ints, ignored: Corners) -> None:
        """One image's boxes (N, 4) in pixels of the scaled image, their kinds (N,), and areas that teach nothing."""
        rows, columns = maps.coarse.shape[:2]
        seen = _with_one(seen_from_cells(maps))
        middles = cell_middles(rows, columns)
        nearness = _nearness(middles, corners)
        wanted = np.zeros((len(middles), len(self._kinds.label)), dtype=np.float32)
        for one in np.unique(kind):
            wanted[:, one] = nearness[:, kind == one].max(axis=1)
        self._objects += np.bincount(kind, minlength=len(self._objects))
        self._images += 1
        counts = ~_within(middles, ignored)
        weighted = seen[counts]
        self._products[fold] += weighted.T @ weighted
        self._answers[fold] += weighted.T @ wanted[counts]
        if len(kind):
            own = _own_cells(seen, middles, nearness, corners, kind, fold, self._kinds, self._most_own)
            self._own.append(own if self._each == 1 else own.some(self._each, int(self._objects.sum())))

    def fit(self) -> None:
        """After all images were learned from."""
        from scipy.linalg import cho_factor, cho_solve

        folds = len(self._products)
        products, answers = self._products.sum(axis=0), self._answers.sum(axis=0)
        own = _OwnCells.joined(self._own)
        self._own = []
        count = len(self._kinds.label)
        self._weights = np.zeros((folds, _WIDTH, count), dtype=np.float32)
        self._ends = np.zeros((folds, count, _WIDTH, 4), dtype=np.float32)
        for fold in range(folds):
            left = products - self._products[fold]
            left[np.diag_indices(_WIDTH)] += _RIDGE * max(1.0, float(left[-1, -1]))
            self._weights[fold] = cho_solve(cho_factor(left, overwrite_a=True), answers - self._answers[fold])
            for kind in range(count):
                chosen = np.flatnonzero((own.fold != fold) & (own.kind == kind))
                if len(chosen):
                    self._ends[fold, kind] = _where_it_ends(own, chosen)
        # What the classifiers answer at the middle of objects that they did not learn from: of rare kinds, little.
        first = np.flatnonzero(own.nearest)
        answered = np.einsum(
            "nd,nd->n",
            own.seen[first].astype(np.float32),
            self._weights[own.fold[first], :, own.kind[first]],
        )
        total = np.bincount(own.kind[first], answered, minlength=count)
        usual = total / np.maximum(np.bincount(own.kind[first], minlength=count), 1)
        self._usual = np.maximum(usual, 0.01).astype(np.float32)
        self._most = np.ceil(_TIMES * self._objects / max(1, self._images)).astype(np.int64) + _MORE
        del self._products, self._answers

    def look(self, maps: Maps, fold: int) -> Regions:
        """The regions of an image of this fold that may be objects, at most REGIONS."""
        rows, columns = maps.coarse.shape[:2]
        seen = _with_one(seen_from_cells(maps))
        answers = (seen @ self._weights[fold] / self._usual).reshape(rows, columns, -1)
        cell, kind = np.nonzero(
            ((answers >= _FAINT) & (answers >= _PEAK * _greatest_around(answers))).reshape(rows * columns, -1)
        )
        score = answers.reshape(rows * columns, -1)[cell, kind]
        order = np.argsort(-score, kind="stable")
        order = order[_place_in_kind(kind[order]) < _CELLS_EACH * self._most[kind[order]]][:_CELLS]
        cell, kind, score = cell[order], kind[order], score[order]
        told = np.einsum("nd,ndf->nf", seen[cell], self._ends[fold, kind])
        sides = self._kinds.sides[kind]
        middle = cell_middles(rows, columns)[cell] + told[:, :2] * sides
        half = sides * np.exp(np.clip(told[:, 2:], -2, 2)) / 2
        limits = np.array([columns, rows, columns, rows]) * STRIDE
        corners = np.clip(np.concatenate([middle - half, middle + half], axis=1), 0, limits)
        label = self._kinds.label[kind]
        overlap = pairwise_iou(corners, corners) * (label[:, None] == label[None, :])
        kept = strongest(overlap, _SAME)
        kept = kept[_place_in_kind(kind[kept]) < self._most[kind[kept]]][:REGIONS]
        alike = np.where(overlap[kept] >= _ALIKE, overlap[kept] * score, 0.0)
        alike[np.arange(len(kept)), kept] += 1e-6
        averaged = alike @ corners / alike.sum(axis=1, keepdims=True)
        return Regions(averaged, label[kept], score[kept])


def _place_in_kind(kind: Ints) -> Ints:
    """How many of the same kind come before each (N,)."""
    order = np.argsort(kind, kind="stable")
    place = np.empty(len(kind), dtype=np.int64)
    place[order] = np.arange(len(kind)) - np.searchsorted(kind[order], kind[order])
    return place


def cell_middles(rows: int, columns: int) -> Corners:
    """x and y (rows · columns, 2) in pixels of the scaled image."""
    down, across = np.divmod(np.arange(rows * columns), columns)
    return (np.stack([across, down], axis=1) + 0.5) * STRIDE


def strongest(overlap: Corners, limit: float) -> Ints:
    """Rows to keep of boxes that are sorted, the strongest first: those that none kept overlaps by more than `limit`."""
    rival = overlap > limit
    alive = np.ones(len(overlap), dtype=bool)
    for row in range(len(overlap)):
        if alive[row]:
            alive[row + 1 :] &= ~rival[row, row + 1 :]
    return np.flatnonzero(alive)


@dataclass(frozen=True)
class _OwnCells:
    """Cells (N,) near the middles of objects. `ends` (N, 4): from the cell to the object's middle, and the logarithms of
    its sides, both as shares of what is usual; `weight`: one for each object; `nearest`: the object's first cell."""

    seen: npt.NDArray[np.float16]
    ends: Floats
    fold: Ints
    kind: Ints
    weight: Floats
    nearest: Flags

    def some(self, each: int, before: int) -> _OwnCells:
        """Every so-manieth cell, counted on from the number of those before."""
        rows = np.arange(-before % each, len(self.kind), each)
        return _OwnCells(*(getattr(self, name)[rows] for name in _OWN_FIELDS))

    @classmethod
    def joined(cls, parts: list[_OwnCells]) -> _OwnCells:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _OWN_FIELDS))


_OWN_FIELDS: Final = ("seen", "ends", "fold", "kind", "weight", "nearest")


def _own_cells(
    seen: Floats, middles: Corners, nearness: Floats, corners: Corners, kind: Ints, fold: int, kinds: Kinds, most: int
) -> _OwnCells:
    rank = np.argsort(-nearness, axis=0, kind="stable")[:most]  # (most, objects)
    cell, place, owner = rank.ravel(), *(part.ravel() for part in np.indices(rank.shape))
    # A cell is its nearest object's, but for the first cell of each.
    mine = (place == 0) | ((nearness[cell, owner] >= _OWN) & (nearness[cell].argmax(axis=1) == owner))
    cell, place, owner = cell[mine], place[mine], owner[mine]
    boxes, usual = corners[owner], kinds.sides[kind[owner]]
    away = (boxes[:, :2] + boxes[:, 2:]) / 2 - middles[cell]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return _OwnCells(
        seen[cell].astype(np.float16),
        np.concatenate([away / usual, np.log(sides / usual)], axis=1).astype(np.float32),
        np.full(len(cell), fold),
        kind[owner],
        (1 / np.bincount(owner, minlength=len(corners))[owner]).astype(np.float32),
        place == 0,
    )


def _where_it_ends(own: _OwnCells, chosen: Ints) -> Floats:
    """Weights (WIDTH, 4) of a ridge regression on the chosen cells."""
    from scipy.linalg import cho_factor, cho_solve

    seen, weight = own.seen[chosen].astype(np.float32), own.weight[chosen, None]
    left = seen.T @ (seen * weight)
    ridge = np.full(_WIDTH, _BOX_RIDGE, dtype=np.float32)
    ridge[-1] = 1e-3
    left[np.diag_indices(_WIDTH)] += ridge
    result: Floats = cho_solve(cho_factor(left, overwrite_a=True), seen.T @ (own.ends[chosen] * weight))
    return result


def _nearness(middles: Corners, corners: Corners) -> Floats:
    """(cells, boxes) in [0, 1]: 1 at a box's middle."""
    spread = np.maximum(_SPREAD * (corners[:, 2:] - corners[:, :2]), _LEAST_SPREAD * STRIDE)
    away = (middles[:, None] - (corners[:, :2] + corners[:, 2:]) / 2) / spread
    result: Floats = np.exp(-0.5 * (away**2).sum(axis=2)).astype(np.float32)
    return result


def _within(middles: Corners, areas: Corners) -> Flags:
    x, y = middles[:, 0, None], middles[:, 1, None]
    left, top, right, bottom = areas.T
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    result: Flags = inside.any(axis=1)
    return result


def _greatest_around(answers: Floats) -> Floats:
    """The greatest of three by three cells, for each kind: (rows, columns, K)."""
    for axis in (0, 1):
        answers = np.moveaxis(answers, axis, 0)
        greatest = answers.copy()
        np.maximum(greatest[1:], answers[:-1], out=greatest[1:])
        np.maximum(greatest[:-1], answers[1:], out=greatest[:-1])
        answers = np.moveaxis(greatest, 0, axis)
    return answers


def _with_one(seen: Floats) -> Floats:
    return np.concatenate([seen, np.ones((len(seen), 1), dtype=np.float32)], axis=1)
