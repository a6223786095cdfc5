"""Regions of one image by several annotators: how alike they are, which mark the same thing, and where that lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pycocotools.mask as coco_mask

from datasetops.formats.geometry import geometry_extent
from datasetops.formats.rle import rle_fault
from datasetops.identity import pairwise_iou
from datasetops.labeling.base import ImageSize, Row

Matrix = npt.NDArray[np.float64]

SAME_THING: Final = 0.5  # regions at least this alike mark the same thing
CORNERS: Final = ("x1", "y1", "x2", "y2")
_POINT_REACH: Final = 0.1  # of the region's diagonal: the distance at which two keypoints are 0.61 alike
_POINT_SCALE: Final = 0.1  # of the image's diagonal: the scale of a single point, which has no extent
_USUAL_SCALE: Final = 100.0  # pixels: the same where the image's size is not known
_LONGEST_RASTER: Final = 8192  # pixels: outlines that reach farther are compared at a smaller scale
_FARTHEST: Final = 1e6  # pixels: where outlines beside a mask end


def similarities(rows: Sequence[Row], size: ImageSize | None = None) -> Matrix:
    """How alike regions of one kind are: (N, N) in [0, 1], symmetric, 1 for equal places.

    Polygons and masks: intersection over union of their pixels. Keypoints: the mean over the points that both label of
    exp(-d²/2s²), as in COCO's object keypoint similarity, with s a tenth of the longer of both diagonals; a lone point
    has none and takes a tenth of the image's, 100 pixels where `size` is not given. Everything else: intersection over
    union of the boxes, or of the extents of what has none. Texts without a place are at least 0.5 alike, those with
    equal letters most.
    """
    kind = rows[0]["kind"]
    if kind in ("polygon", "mask"):
        alike = _pixel_iou(rows)
    elif kind == "keypoints":
        alike = _point_similarity(rows, size)
    else:
        alike = pairwise_iou(_extents(rows), _extents(rows))
    place = _codes([place_key(row) for row in rows])
    alike = np.where(place[:, None] == place[None, :], 1.0, np.nan_to_num(alike))
    if kind == "text":
        nowhere = [index for index, row in enumerate(rows) if _extent(row) is None]
        for one in nowhere:
            for other in nowhere:
                alike[one, other] = (1 + text_similarity(rows[one]["text"], rows[other]["text"])) / 2
    return alike


def group_regions(
    rows: Sequence[Row], owners: Sequence[int], *, same_label: bool = False, size: ImageSize | None = None
) -> list[list[int]]:
    """Which rows mark the same thing: lists of ascending indices, each row in one, at most one row of an owner in each.

    The most alike are joined first, equal ones before those of the same label before the rest (`same_label`: never),
    as long as two groups are on average at least `SAME_THING` alike. Rows come sorted by owner, which breaks ties.
    """
    by_kind: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_kind.setdefault(row["kind"], []).append(index)
    groups = []
    for indices in by_kind.values():
        found = [[index] for index in indices]
        if len({owners[index] for index in indices}) > 1:
            alike = similarities([rows[index] for index in indices], size)
            joined = _join([rows[index] for index in indices], [owners[index] for index in indices], alike, same_label)
            found = [[indices[member] for member in group] for group in joined]
        groups += found
    return sorted(groups)


def _join(rows: list[Row], owners: list[int], alike: Matrix, same_label: bool) -> list[list[int]]:
    owner = np.array(owners)
    label = _codes([row["label"] for row in rows])
    content = _codes([value_key(dict(row)) for row in rows])
    agree = label[:, None] == label[None, :]
    candidates = np.triu(alike >= SAME_THING, 1) & (owner[:, None] != owner[None, :])
    first, second = np.nonzero(candidates & agree if same_label else candidates)
    rank = alike[first, second] + agree[first, second] + (content[first] == content[second])
    order = np.argsort(-rank, kind="stable")
    group_of = [[index] for index in range(len(rows))]
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        left, right = group_of[one], group_of[other]
        if {owners[index] for index in left} & {owners[index] for index in right}:  # the same group, or one voice twice
            continue
        if len(left) + len(right) > 2 and alike[np.ix_(left, right)].mean() < SAME_THING:
            continue
        left += right
        for index in right:
            group_of[index] = left
    return [sorted(group) for index, group in enumerate(group_of) if index == min(group)]


def merged_place(rows: Sequence[Row], size: ImageSize | None = None) -> dict[str, Any]:
    """x1, y1, x2, y2 and geometry of what rows of one kind mark together.

    A place that more than half of them gave stands. Else, boxes: the median of each coordinate. Keypoints: a point is
    labelled where most say so; of those that say the same, the median and the commonest visibility. Polygons and
    masks: the one that is most alike to the others, the first of several.
    """
    places, count, _ = most(rows, place_key)
    if 2 * count > len(rows):
        return {name: places[name] for name in (*CORNERS, "geometry")}
    if all(row["geometry"] is None for row in rows):
        return _median_box(rows) | {"geometry": None}
    centre = rows[int(np.argmax(similarities(rows, size).sum(axis=1).round(9)))]
    place = {name: centre[name] for name in (*CORNERS, "geometry")}
    points = [_points(row) for row in rows]
    if rows[0]["kind"] == "keypoints" and len({len(triples) for triples in points}) == 1 and len(points[0]):
        place |= _median_box(rows)
        place["geometry"] = centre["geometry"] | {"keypoints": _median_points(np.stack(points))}
    return place


def text_similarity(one: str | None, other: str | None) -> float:
    """1 - Levenshtein distance over the longer length, in [0, 1]; 1 for equal ones, none is as empty."""
    a, b = one or "", other or ""
    if a == b:
        return 1.0
    letters = np.array([ord(letter) for letter in b], np.int64)
    steps = np.arange(len(b) + 1)
    distance = steps
    for row, letter in enumerate(a, 1):
        replaced = distance[:-1] + (letters != ord(letter))
        best = np.concatenate([[row], np.minimum(replaced, distance[1:] + 1)])
        distance = np.minimum.accumulate(best - steps) + steps  # letters inserted after the best start
    return 1.0 - float(distance[-1]) / max(len(a), len(b))


def most(values: Sequence[Any], key: Callable[[Any], Any]) -> tuple[Any, int, bool]:
    """The value that is given most often, the first of several; how often; whether there were several."""
    counts: dict[Any, int] = {}
    first: dict[Any, Any] = {}
    for value in values:
        name = key(value)
        counts[name] = counts.get(name, 0) + 1
        first.setdefault(name, value)
    top = max(counts.values())
    winners = [name for name, count in counts.items() if count == top]
    return first[winners[0]], top, len(winners) > 1


def value_key(value: Any) -> bytes:
    """Equal for equal JSON values only."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def place_key(row: Row) -> bytes:
    """Equal for rows with the same corners and geometry only."""
    return value_key([row[name] for name in (*CORNERS, "geometry")])


def _median_box(rows: Sequence[Row]) -> dict[str, float | None]:
    """Of the rows that have a box, where at least half of them do."""
    boxes = [[row[name] for name in CORNERS] for row in rows if all(row[name] is not None for name in CORNERS)]
    if not boxes or 2 * len(boxes) < len(rows):
        return dict.fromkeys(CORNERS)
    return dict(zip(CORNERS, np.median(np.array(boxes, np.float64), axis=0).tolist(), strict=True))


def _median_points(points: Matrix) -> list[float]:
    """Flat x, y, visibility triples from those of several annotators (N, K, 3)."""
    flat: list[float] = []
    for triples in np.moveaxis(points, 1, 0):
        is_labelled, _, _ = most((triples[:, 2] > 0).tolist(), key=bool)
        same = triples[(triples[:, 2] > 0) == is_labelled]
        visibility, _, _ = most(same[:, 2].tolist(), key=int)
        flat += [*np.median(same[:, :2], axis=0).tolist(), int(visibility)]
    return flat


def _pixel_iou(rows: Sequence[Row]) -> Matrix:
    shapes = [row["geometry"] or {} for row in rows]
    sides = [shape["rle"]["size"] for shape in shapes if "rle" in shape and _is_sound(shape["rle"])]
    outlines = [np.array([x for ring in shape.get("polygons", ()) for x in ring], np.float64) for shape in shapes]
    corners = [outline.reshape(-1, 2) for outline in outlines if len(outline) % 2 == 0 and np.isfinite(outline).all()]
    points = np.concatenate([np.zeros((0, 2)), *corners])
    origin, scale = np.zeros(2), 1.0
    if sides:
        height, width = sides[0]
    elif len(points):
        origin = np.floor(points.min(axis=0))
        reach = points.max(axis=0) - origin
        scale = min(1.0, _LONGEST_RASTER / max(float(reach.max()), 1.0))
        width, height = (math.ceil(side * scale) + 1 for side in reach.tolist())
    else:
        return np.zeros((len(rows), len(rows)))
    masks = [_mask(shape, origin, scale, width, height) for shape in shapes]
    drawn = [index for index, mask in enumerate(masks) if mask is not None]
    alike = np.zeros((len(rows), len(rows)))
    if drawn:
        sound = [masks[index] for index in drawn]
        # Masks of images of different sizes are -1 alike there.
        alike[np.ix_(drawn, drawn)] = np.clip(coco_mask.iou(sound, sound, [0] * len(sound)), 0, 1)
    return alike


def _mask(shape: dict[str, Any], origin: Matrix, scale: float, width: int, height: int) -> dict[str, Any] | None:
    """An outline or mask in the compressed form of pycocotools; None for what cannot be drawn."""
    if "rle" in shape:
        rle = shape["rle"]
        if not _is_sound(rle):
            return None
        plain = {"size": rle["size"], "counts": rle["counts"]}
        drawn: dict[str, Any] = plain if isinstance(rle["counts"], str) else coco_mask.frPyObjects(plain, *rle["size"])
        return drawn
    rings = []
    for ring in shape.get("polygons", ()):
        points = np.array(ring, np.float64)
        if len(points) >= 6 and len(points) % 2 == 0 and np.isfinite(points).all():
            moved = (points.reshape(-1, 2) - origin) * scale
            rings.append(np.clip(moved, -_FARTHEST, _FARTHEST).ravel().tolist())
    if not rings:
        return None
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    return merged


def _is_sound(rle: dict[str, Any]) -> bool:
    return rle_fault(rle, math.nan, math.nan) is None


def _point_similarity(rows: Sequence[Row], size: ImageSize | None) -> Matrix:
    given = [_points(row) for row in rows]
    points = np.zeros((len(rows), max(len(triples) for triples in given), 3))
    for index, triples in enumerate(given):
        points[index, : len(triples)] = triples
    labelled = points[:, :, 2] > 0
    both = labelled[:, None] & labelled[None, :]
    extents = _extents(rows)
    diagonal = np.hypot(extents[:, 2] - extents[:, 0], extents[:, 3] - extents[:, 1])
    longer = np.maximum(diagonal[:, None], diagonal[None, :])
    scale = np.where(longer > 0, longer, _POINT_SCALE * math.hypot(size.width, size.height) if size else _USUAL_SCALE)
    distance = ((points[:, None, :, :2] - points[None, :, :, :2]) ** 2).sum(axis=3)
    closeness = np.exp(-distance / (2 * (_POINT_REACH * scale[:, :, None]) ** 2))
    result: Matrix = (closeness * both).sum(axis=2) / np.maximum(both.sum(axis=2), 1)
    return result


def _points(row: Row) -> Matrix:
    """Keypoints (K, 3); (0, 3) where there are none."""
    flat = (row["geometry"] or {}).get("keypoints") or []
    return np.array(flat[: len(flat) // 3 * 3], np.float64).reshape(-1, 3)


def _extents(rows: Sequence[Row]) -> Matrix:
    """xyxy (N, 4); -1 for what has no place."""
    return np.array([_extent(row) or (-1.0, -1.0, -1.0, -1.0) for row in rows], np.float64)


def _extent(row: Row) -> tuple[float, float, float, float] | None:
    """The row's box, or the smallest around its geometry; None for neither, or for a geometry that is damaged."""
    if all(row[name] is not None for name in CORNERS):
        return row["x1"], row["y1"], row["x2"], row["y2"]
    try:
        return geometry_extent(row["geometry"]) if row["geometry"] else None
    except (ValueError, KeyError, IndexError):
        return None


def _codes(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    """A number for each value, the same for equal ones."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
