"""Measures of RLE masks, of all masks of a batch at once: area, extent, the parts they consist of and their holes.

Nothing is painted: parts are found by joining runs of neighbouring columns that touch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.outlines.geometries import Runs

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_PIECES: Final = 1 << 20  # pieces of runs, a column long at most, that are joined at once
_DIGITS: Final = 12  # of five bits: the most that a 64-bit number holds


@dataclass(frozen=True)
class Parts:
    """Connected parts, or holes: the `mask` each is of (Q,), `area` (Q,) in pixels, `box` (Q, 4) xyxy."""

    mask: Ints
    area: Ints
    box: Floats


@dataclass(frozen=True)
class MaskMeasures:
    """`sound` (M,): whether a mask's runs fill it exactly; `area` (M,) in pixels; `extent` (M, 4) xyxy, NaN if empty.

    Parts touch at sides or corners. Holes are enclosed by the mask and reach no border of the image.
    """

    sound: Bools
    area: Ints
    extent: Floats
    parts: Parts
    holes: Parts


@dataclass(frozen=True)
class _Spans:
    """Runs as `first` to `last` (exclusive) pixel of a `mask`, counted down the columns; each (P,)."""

    mask: Ints
    first: Ints
    last: Ints

    def where(self, chosen: Bools | slice) -> _Spans:
        return _Spans(self.mask[chosen], self.first[chosen], self.last[chosen])


def measure(runs: Runs) -> MaskMeasures:
    count, height = len(runs.owner), runs.size[:, 0]
    lengths, mask, start, sound = run_lengths(runs.counts)
    total = np.bincount(mask, lengths, minlength=count)
    negative = np.bincount(mask, lengths < 0, minlength=count) > 0
    sound &= (runs.size > 0).all(axis=1) & ~negative & (total == runs.size.prod(axis=1))
    last = np.cumsum(lengths)
    last -= np.concatenate([[0], last])[start[mask]]
    spans = _Spans(mask, last - lengths, last)
    usable = sound[mask] & (lengths > 0)
    inside = (np.arange(len(mask)) - start[mask]) % 2 == 1
    fore, back = spans.where(usable & inside), spans.where(usable & ~inside)
    area = np.bincount(fore.mask, fore.last - fore.first, minlength=count).astype(np.int64)
    extent = _extents(fore, height, count)
    back = _clipped(back, height, extent)
    parts, holes = ([_NONE], [_NONE])
    for group in _groups(fore, back, height, count):
        parts.append(_connected(_in(fore, group), height, extent, holes=False))
        holes.append(_connected(_in(back, group), height, extent, holes=True))
    return MaskMeasures(sound, area, extent, _together(parts), _together(holes))


def run_lengths(counts: pa.StringArray) -> tuple[Ints, Ints, Ints, Bools]:
    """Run lengths of all masks end to end, the mask of each, where each mask's begin, and whether its text is sound.

    The code is that of `datasetops.formats.rle`. A text that is not sound has no run lengths.
    """
    sizes = pc.binary_length(counts).to_numpy().astype(np.int64)
    codes = np.frombuffer("".join(counts.to_pylist()).encode(), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(sizes)), sizes)
    sound = np.ones(len(sizes), np.bool_)
    sound[owner[(codes < 0) | (codes > 63)]] = False
    filled = sizes > 0
    sound[filled] &= (codes[np.cumsum(sizes)[filled] - 1] & 32) == 0
    codes, owner = codes[sound[owner]], owner[sound[owner]]
    ends = np.flatnonzero((codes & 32) == 0)
    begins = np.concatenate([[0], ends + 1])[: len(ends)].astype(np.int64)
    length = ends - begins + 1
    digit = np.arange(len(codes)) - np.repeat(begins, length)
    values = (codes & 31) << (5 * np.minimum(digit, _DIGITS))
    values = np.add.reduceat(values, begins) if len(begins) else values
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * np.minimum(length, _DIGITS)), 0)
    mask = owner[ends]
    sound[mask[length > _DIGITS]] = False
    start = np.searchsorted(mask, np.arange(len(sizes)))
    place = np.arange(len(mask)) - start[mask]
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):  # each is the difference to the run two before
        values[chain] = _running_sums(values[chain], mask[chain])
    return values, mask, start, sound


def _running_sums(values: Ints, mask: Ints) -> Ints:
    sums = np.cumsum(values)
    head = np.flatnonzero(np.diff(mask, prepend=-1))
    return sums - np.repeat(sums[head] - values[head], np.diff(head, append=len(mask)))


def _extents(fore: _Spans, height: Ints, count: int) -> Floats:
    extent = np.full((count, 4), np.nan)
    if len(fore.mask):
        tall = height[fore.mask]
        left, right = fore.first // tall, (fore.last - 1) // tall
        top, bottom = fore.first % tall, (fore.last - 1) % tall + 1
        across = right > left  # a run over several columns touches the bottom and the top
        top, bottom = np.where(across, 0, top), np.where(across, tall, bottom)
        head = np.flatnonzero(np.diff(fore.mask, prepend=-1))
        lows = [np.minimum.reduceat(values, head) for values in (left, top)]
        highs = [np.maximum.reduceat(values, head) for values in (right + 1, bottom)]
        extent[fore.mask[head]] = np.stack([*lows, *highs], axis=1)
    return extent


def _clipped(back: _Spans, height: Ints, extent: Floats) -> _Spans:
    """Background within the columns of the mask; the rest encloses nothing."""
    back = back.where(~np.isnan(extent[back.mask, 0]))
    low, high = (extent[back.mask, side].astype(np.int64) * height[back.mask] for side in (0, 2))
    back = _Spans(back.mask, np.maximum(back.first, low), np.minimum(back.last, high))
    return back.where(back.first < back.last)


def _groups(fore: _Spans, back: _Spans, height: Ints, count: int) -> Iterator[tuple[int, int]]:
    """Masks, first and last (exclusive), that have about `_PIECES` pieces together."""
    pieces = np.zeros(count, np.int64)
    for spans in (fore, back):
        tall = height[spans.mask]
        columns = (spans.last - 1) // tall - spans.first // tall + 1
        pieces += np.bincount(spans.mask, columns, minlength=count).astype(np.int64)
    done = np.concatenate([[0], np.cumsum(pieces)])
    first = 0
    while first < count:
        last = max(first + 1, int(np.searchsorted(done, done[first] + _PIECES, side="right")) - 1)
        yield first, last
        first = last


def _in(spans: _Spans, group: tuple[int, int]) -> _Spans:
    first, last = np.searchsorted(spans.mask, group)
    return spans.where(slice(int(first), int(last)))


def _connected(spans: _Spans, height: Ints, extent: Floats, *, holes: bool) -> Parts:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(spans.mask):
        return _NONE
    mask, column, top, bottom = _cut(spans, height)
    count = len(mask)
    # Places on a line in which columns, and masks, are apart by more than touching corners.
    stride = height[mask] + 2
    widths = extent[mask, 2].astype(np.int64) + 1
    head = np.flatnonzero(np.diff(mask, prepend=-1))
    sizes = (stride * widths)[head]
    base = np.repeat(np.cumsum(sizes) - sizes, np.diff(head, append=count))
    low = base + column * stride + top
    high = low + bottom - top
    reach = 0 if holes else 1  # corners join the mask, so they do not join what lies on both sides of it
    first = np.searchsorted(high, low + stride - reach, side="right")
    last = np.searchsorted(low, high + stride + reach, side="left")
    edges = np.maximum(last - first, 0)
    one = np.repeat(np.arange(count), edges)
    other = np.arange(len(one)) - np.repeat(np.cumsum(edges) - edges - first, edges)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    number, part = connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    heads = np.searchsorted(part[order], np.arange(number))
    box = np.stack(
        [
            reduce.reduceat(v[order], heads)
            for reduce, v in ((np.minimum, column), (np.minimum, top), (np.maximum, column + 1), (np.maximum, bottom))
        ],
        axis=1,
    ).astype(np.float64)
    found = Parts(mask[order[heads]], np.bincount(part, bottom - top, minlength=number).astype(np.int64), box)
    if holes:
        around = extent[found.mask]
        within = (box[:, 0] > around[:, 0]) & (box[:, 2] < around[:, 2])
        within &= (box[:, 1] > 0) & (box[:, 3] < height[found.mask])
        found = Parts(found.mask[within], found.area[within], box[within])
    return found


def _cut(spans: _Spans, height: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Mask, column, top and bottom (exclusive) of the runs, cut where a column ends."""
    tall = height[spans.mask]
    begin, end = spans.first // tall, (spans.last - 1) // tall
    size = end - begin + 1
    run = np.repeat(np.arange(len(size)), size)
    column = np.arange(len(run)) - np.repeat(np.cumsum(size) - size - begin, size)
    tall = tall[run]
    top = np.maximum(spans.first[run] - column * tall, 0)
    bottom = np.minimum(spans.last[run] - column * tall, tall)
    return spans.mask[run], column, top, bottom


def _together(parts: list[Parts]) -> Parts:
    """By mask in ascending order."""
    joined = Parts(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("mask", "area", "box")))
    order = np.argsort(joined.mask, kind="stable")
    return Parts(joined.mask[order], joined.area[order], joined.box[order])


_NONE: Final = Parts(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)))
