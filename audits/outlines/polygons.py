"""Measures of closed outlines, of all rings of a batch at once: area, length, crossings of the outline with itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.outlines.geometries import Rings

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_GRID: Final = 1024  # steps a pixel: finer than any tool draws, and 64-bit integers hold every product of the test
_FARTHEST: Final = 2**19  # pixels; points beyond are moved there for the test of crossings
_PAIRS: Final = 1 << 20  # pairs of segments that are tested at once


@dataclass(frozen=True)
class Crossings:
    """Places where an outline crosses itself: `ring` (C,) ascending, `at` (C, 2) in pixels.

    A crossing cuts the outline in two: `area` (C,) is that of both in square pixels, `share` (C,) the smaller one's
    part of it, in [0, 0.5].
    """

    ring: Ints
    at: Floats
    area: Floats
    share: Floats


def signed_areas(rings: Rings) -> Floats:
    """Square pixels (R,) by the shoelace formula; negative for one sense of rotation."""
    here = rings.points - _per_point(rings, _first_points(rings))  # near 0, so that large coordinates cost no digits
    there = here[_following(rings)]
    return _sums(here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0], rings) / 2


def perimeters(rings: Rings) -> Floats:
    """Pixels (R,)."""
    step = rings.points[_following(rings)] - rings.points
    return _sums(np.hypot(step[:, 0], step[:, 1]), rings)


def extents(rings: Rings, count: int) -> Floats:
    """xyxy (`count`, 4) around the rings of each row; NaN for a row without any."""
    result = np.full((count, 4), np.nan)
    filled = rings.sizes > 0
    first = rings.start[:-1][filled]
    if len(first):
        owner = rings.owner[filled]
        head = np.flatnonzero(np.diff(owner, prepend=-1))
        result[owner[head], :2] = np.minimum.reduceat(rings.points, first[head])
        result[owner[head], 2:] = np.maximum.reduceat(rings.points, first[head])
    return result


def without_repeats(rings: Rings) -> tuple[Rings, Ints]:
    """The rings without points that equal the one before, and how many each had (R,).

    A last point that closes the ring on the first is usual and not counted.
    """
    following = _following(rings)
    again = np.zeros(len(rings.points), np.bool_)
    again[following] = (rings.points[following] == rings.points).all(axis=1)
    lone = rings.sizes == 1
    again[rings.start[:-1][lone]] = False
    closing = np.zeros(len(rings.points), np.bool_)
    first = rings.start[:-1][rings.sizes > 0]
    closing[first] = again[first]
    dropped = _sums(again.astype(np.float64), rings).astype(np.int64)
    same = dropped == rings.sizes  # all points in one place: one of them stays
    again[rings.start[:-1][same & (rings.sizes > 0)]] = False
    repeats = dropped - _sums(closing.astype(np.float64), rings).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(~again)])[rings.start].astype(np.int64)
    return Rings(rings.points[~again], start, rings.owner), repeats


def crossings(rings: Rings) -> Crossings:
    """Where outlines without repeated points cross themselves; touching is no crossing.

    On a grid of 1/1024 pixel, where the test is exact. Two segments cross where the ends of each lie on both sides of
    the other, or where an outline passes through another segment at one of its points.
    """
    grid = np.rint(np.clip(rings.points, -_FARTHEST, _FARTHEST) * _GRID).astype(np.int64)
    following = _following(rings)
    found = [_crossing(grid, following, one, other) for one, other in _near_pairs(grid, following, rings)]
    pairs = np.concatenate([*found, np.empty((0, 2), np.int64)])
    pairs.sort(axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    at = _meeting(rings.points, following, pairs)
    ring = np.searchsorted(rings.start, pairs[:, 0], side="right") - 1
    loop, rest = _halves(rings, pairs, at, ring)
    area = loop + rest
    share = np.divide(np.minimum(loop, rest), area, out=np.zeros(len(area)), where=area > 0)
    return Crossings(ring.astype(np.int64), at, area, share)


def _near_pairs(grid: Ints, following: Ints, rings: Rings) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of segments of one ring, named by their first points, whose extents meet: by a sweep along the longer side."""
    count = len(grid)
    ring = np.repeat(np.arange(len(rings.owner)), rings.sizes)
    low, high = np.minimum(grid, grid[following]), np.maximum(grid, grid[following])
    if not count:
        return
    tall = np.zeros(len(rings.owner), np.int64)
    filled = rings.sizes > 0
    first = rings.start[:-1][filled]
    reach = np.maximum.reduceat(high, first) - np.minimum.reduceat(low, first)
    tall[filled] = reach[:, 1] > reach[:, 0]
    axis, rows = tall[ring], np.arange(count)
    span = np.int64(4 * _FARTHEST * _GRID)
    begin, end = ring * span + low[rows, axis], ring * span + high[rows, axis]
    order = np.argsort(begin, kind="stable")
    later = np.searchsorted(begin[order], end[order], side="right") - rows - 1
    done = np.concatenate([[0], np.cumsum(later)])
    start = 0
    while start < count:
        stop = max(start + 1, int(np.searchsorted(done, done[start] + _PAIRS, side="right")) - 1)
        size = later[start:stop]
        place = np.repeat(np.arange(start, stop), size)
        offset = np.arange(len(place)) - np.repeat(done[start:stop] - done[start], size)
        one, other = order[place], order[place + 1 + offset]
        across = 1 - axis[one]
        meet = (low[one, across] <= high[other, across]) & (low[other, across] <= high[one, across])
        meet &= (following[one] != other) & (following[other] != one)
        yield one[meet], other[meet]
        start = stop


def _crossing(grid: Ints, following: Ints, one: Ints, other: Ints) -> Ints:
    a, b, c, d = grid[one], grid[following[one]], grid[other], grid[following[other]]
    side_a, side_b = _side(c, d, a), _side(c, d, b)
    side_c, side_d = _side(a, b, c), _side(a, b, d)
    crossed = (side_a * side_b < 0) & (side_c * side_d < 0)
    # The second point of one segment within the other, and the outline going on to its far side.
    for first, start, stop, sides, others in (
        (other, a, b, (side_c, side_d), (side_a, side_b)),
        (one, c, d, (side_a, side_b), (side_c, side_d)),
    ):
        may = np.flatnonzero((sides[1] == 0) & (sides[0] != 0) & (others[0] * others[1] < 0))
        beyond = following[following[first[may]]]
        crossed[may] |= _side(start[may], stop[may], grid[beyond]) * sides[0][may] < 0
    return np.stack([one[crossed], other[crossed]], axis=1)


def _side(start: Ints, stop: Ints, point: Ints) -> Ints:
    """On which side of the line from start to stop a point lies: −1, 0 or 1."""
    along, to = stop - start, point - start
    side: Ints = np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])
    return side


def _meeting(points: Floats, following: Ints, pairs: Ints) -> Floats:
    a, c = points[pairs[:, 0]], points[pairs[:, 1]]
    along, across, between = points[following[pairs[:, 0]]] - a, points[following[pairs[:, 1]]] - c, c - a
    slope = _cross(along, across)
    share = np.divide(_cross(between, across), slope, out=np.full(len(pairs), 0.5), where=slope != 0)
    meeting: Floats = a + np.clip(share, 0, 1)[:, None] * along
    return meeting


def _halves(rings: Rings, pairs: Ints, at: Floats, ring: Ints) -> tuple[Floats, Floats]:
    """Areas (C,) of the loop that the outline makes between its two visits of a crossing, and of the rest."""
    here = rings.points - _per_point(rings, _first_points(rings))
    doubled = _cross(here, here[_following(rings)])
    done = np.concatenate([[0.0], np.cumsum(doubled)])
    at = at - _first_points(rings)[ring]
    first, last = here[np.minimum(pairs[:, 0] + 1, len(here) - 1)], here[pairs[:, 1]]
    part = _cross(at, first) + done[pairs[:, 1]] - done[pairs[:, 0] + 1] + _cross(last, at)
    whole = done[rings.start[ring + 1]] - done[rings.start[ring]]
    return np.abs(part) / 2, np.abs(whole - part) / 2


def _cross(one: Floats, other: Floats) -> Floats:
    product: Floats = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    return product


def _following(rings: Rings) -> Ints:
    """For each point the next one of its ring."""
    following = np.arange(1, len(rings.points) + 1)
    filled = rings.sizes > 0
    following[rings.start[1:][filled] - 1] = rings.start[:-1][filled]
    return following


def _first_points(rings: Rings) -> Floats:
    padded = np.concatenate([rings.points, np.zeros((1, 2))])
    return padded[rings.start[:-1]]


def _per_point(rings: Rings, values: Floats) -> Floats:
    return np.repeat(values, rings.sizes, axis=0)


def _sums(values: Floats, rings: Rings) -> Floats:
    """Sums (R,) over the points of each ring."""
    sums = np.zeros(len(rings.owner))
    filled = rings.sizes > 0
    first = rings.start[:-1][filled]
    if len(first):
        sums[filled] = np.add.reduceat(values, first)
    return sums
