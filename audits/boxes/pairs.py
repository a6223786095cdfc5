"""Which boxes of the same image overlap, and how much: all pairs at once, without a loop over images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_BLOCK: Final = 1_000_000  # pairs looked at together: 8 MB an array


@dataclass(frozen=True)
class Boxes:
    """Boxes with area, those of an image one after another.

    `image` (N,) is ascending, from 0; `label` (N,) is a class from 0, or -1 for none that is known; `corners` (N, 4) are
    xyxy pixels.
    """

    image: Ints
    label: Ints
    corners: Floats

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, which: npt.NDArray[Any]) -> Boxes:
        """`which`: a mask, or ascending row numbers."""
        return Boxes(self.image[which], self.label[which], self.corners[which])

    @cached_property
    def sides(self) -> Floats:
        """Width and height (N, 2)."""
        return self.corners[:, 2:] - self.corners[:, :2]

    @cached_property
    def area(self) -> Floats:
        return self.sides[:, 0] * self.sides[:, 1]


@dataclass(frozen=True)
class Overlaps:
    """Pairs of overlapping boxes: row numbers `first` and `second` (P,), sorted by the first.

    `iou` (P,): intersection over union; `covered` (P,): share of the smaller box's area that lies in the other.
    """

    first: Ints
    second: Ints
    iou: Floats
    covered: Floats

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, which: npt.NDArray[Any]) -> Overlaps:
        return Overlaps(self.first[which], self.second[which], self.iou[which], self.covered[which])


def overlaps(one: Boxes, other: Boxes, *, iou: float = 0.0, covered: float = 0.0) -> Overlaps:
    """Pairs of `one` and `other` in the same image that overlap, by at least `iou` and at least `covered`."""
    parts = [_measured(one, other, *pair, iou, covered) for pair in _same_image(one.image, other.image)]
    if not parts:
        nothing = np.zeros(0)
        return Overlaps(nothing.astype(np.int64), nothing.astype(np.int64), nothing, nothing)
    first, second, alike, inside = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Overlaps(first, second, alike, inside)


def overlaps_within(boxes: Boxes, *, iou: float = 0.0, covered: float = 0.0) -> Overlaps:
    """Pairs of overlapping boxes of the same image, each once, the lower row number first."""
    found = overlaps(boxes, boxes, iou=iou, covered=covered)
    return found[found.first < found.second]


def one_to_one(pairs: Overlaps, strength: Floats) -> Flags:
    """Which pairs to keep (P,) so that no box stands in two of them, the strongest first; ties go to the earlier pair."""
    kept = np.zeros(len(pairs), dtype=bool)
    order = np.argsort(-strength, kind="stable")
    first, second = pairs.first[order], pairs.second[order]
    size = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
    best_of_first, best_of_second = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    taken_first, taken_second = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    while len(order):
        rank = np.arange(len(order))
        best_of_first[first[::-1]] = rank[::-1]  # of several writes to a place the last one stays: the strongest
        best_of_second[second[::-1]] = rank[::-1]
        wins = (best_of_first[first] == rank) & (best_of_second[second] == rank)
        kept[order[wins]] = True
        taken_first[first[wins]] = taken_second[second[wins]] = True
        open_ = ~taken_first[first] & ~taken_second[second]
        order, first, second = order[open_], first[open_], second[open_]
    return kept


def _same_image(one: Ints, other: Ints) -> Iterator[tuple[int, int, Ints, Ints]]:
    """Blocks of rows `low` to `high` of `one`: the first row of `other` in each one's image, and how many there are."""
    start = np.searchsorted(other, one, side="left")
    count = np.searchsorted(other, one, side="right") - start
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_BLOCK, total, _BLOCK), side="left") + 1
    edges = np.unique(np.concatenate([[0], cuts, [len(one)]]))
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield low, high, start[low:high], count[low:high]


def _measured(
    one: Boxes, other: Boxes, low: int, high: int, start: Ints, count: Ints, iou: float, covered: float
) -> tuple[Ints, Ints, Floats, Floats]:
    """Rows, intersection over union and covered share of the pairs of one block that overlap enough."""
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    second = np.repeat(start, count) + within
    mine, theirs = one.corners[low:high], other.corners
    width = np.minimum(np.repeat(mine[:, 2], count), theirs[second, 2])
    width -= np.maximum(np.repeat(mine[:, 0], count), theirs[second, 0])
    meet = np.flatnonzero(width > 0)  # most pairs are apart: what follows is for the others only
    first, second, width = np.repeat(np.arange(low, high), count)[meet], second[meet], width[meet]
    height = np.minimum(one.corners[first, 3], theirs[second, 3])
    height -= np.maximum(one.corners[first, 1], theirs[second, 1])
    area, their_area = one.area[first], other.area[second]
    shared = width * np.clip(height, 0, None)
    alike = shared / (area + their_area - shared)
    inside = shared / np.minimum(area, their_area)
    enough = (shared > 0) & (alike >= iou) & (inside >= covered)
    return first[enough], second[enough], alike[enough], inside[enough]
