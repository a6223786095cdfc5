"""Boxes and masks of many images as flat arrays, from a version's annotations and from a table of detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.boxes.pairs import Boxes, Overlaps, overlaps
from datasetops.formats.geometry import geometry_area, geometry_extent

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

CORNERS: Final = ("x1", "y1", "x2", "y2")
PLACED: Final = (
    "box",
    "polygon",
    "mask",
    "keypoints",
)  # kinds that have a box, or a shape that one can be drawn around
OUTLINED: Final = ("polygon", "mask")


@dataclass(frozen=True)
class Regions:
    """Regions in images, those of an image one after another, in the table's order within it.

    Of N regions: `boxes` with image and class, `score` (1 for truth), `crowd` (a group that is not counted one by one),
    `area` in square pixels, by which COCO tells small from large; `rows`, their rows in the table; `masks`, COCO's
    run-length dictionaries, None where boxes are held against boxes.
    """

    boxes: Boxes
    score: Floats
    crowd: Flags
    area: Floats
    rows: Ints
    masks: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def by_score(self) -> Ints:
        """Row numbers by falling score, equal ones in their order."""
        return np.argsort(-self.score, kind="stable")

    def by_class(self, label: Ints | None = None) -> Ints:
        """Row numbers by class (or by another label of each), and within one by falling score."""
        return sorted_by(self.boxes.label if label is None else label, self.by_score)

    @cached_property
    def ranks(self) -> Ints:
        """The place of each region among those of its image and class, the best first."""
        order = sorted_by(self.boxes.image, self.by_class())
        image, label = self.boxes.image[order], self.boxes.label[order]
        return places(order, (np.diff(image, prepend=-1) != 0) | (np.diff(label, prepend=-1) != 0))

    def __getitem__(self, which: Flags) -> Regions:
        masks = None if self.masks is None else [self.masks[row] for row in np.flatnonzero(which).tolist()]
        return replace(
            self,
            boxes=self.boxes[which],
            score=self.score[which],
            crowd=self.crowd[which],
            area=self.area[which],
            rows=self.rows[which],
            masks=masks,
        )


def sorted_by(codes: Ints, order: Ints) -> Ints:
    """An order (N,) sorted anew by whole numbers from 0, ties as they stood; quick where these are below 65,536."""
    keys = codes[order]
    small = keys.max(initial=0) <= np.iinfo(np.uint16).max
    result: Ints = order[np.argsort(keys.astype(np.uint16) if small else keys, kind="stable")]
    return result


def places(order: Ints, new: Flags) -> Ints:
    """The place (N,) of each row within its group; `new` (N,) says where one begins in the order."""
    starts = np.flatnonzero(new)
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return result


def truth_regions(
    annotations: pa.Table, sample_ids: pa.Array, classes: Sequence[str], sizes: Ints | None = None
) -> Regions:
    """Annotations that stand somewhere in the images `sample_ids` (M,), of one of `classes`.

    `annotations` has sample_id, kind, label, x1, y1, x2, y2, geometry and attributes. With `sizes` (M, 2), width and
    height of the images, masks are compared, and annotations without a shape left out. `area` and `iscrowd` of the
    attributes are COCO's, and go before what can be computed.
    """
    kinds = PLACED if sizes is None else OUTLINED
    rows = np.flatnonzero(pc.is_in(annotations["kind"], pa.array(kinds)).to_numpy(zero_copy_only=False))
    image, label = _codes(annotations["sample_id"], sample_ids)[rows], _codes(annotations["label"], classes)[rows]
    known = (image >= 0) & (label >= 0)
    if sizes is not None:
        known &= annotations["geometry"].is_valid().to_numpy()[rows]
    order = np.argsort(image[known], kind="stable")
    rows, image, label = (one[known][order] for one in (rows, image, label))
    chosen = annotations.select([*CORNERS, "geometry", "attributes"]).take(pa.array(rows))
    geometry = chosen["geometry"].to_pylist() if sizes is not None else None
    corners = _corners(chosen)
    boxes = Boxes(image, label, corners)
    area, crowd = _told(chosen["attributes"])
    lacking = np.flatnonzero(np.isnan(area))
    area[lacking] = boxes.area[lacking]
    shaped = lacking[chosen["geometry"].is_valid().to_numpy()[lacking]]
    for row in shaped.tolist():
        own = geometry_area(orjson.loads(chosen["geometry"][row].as_py()))
        area[row] = area[row] if own is None else own
    masks = None if geometry is None or sizes is None else _masks(geometry, sizes[image])
    return Regions(boxes, np.ones(len(rows)), crowd, area, rows, masks)


def found_regions(
    detections: pa.Table, sample_ids: pa.Array, classes: Sequence[str], sizes: Ints | None = None
) -> Regions:
    """A model's regions: sample_id, label, x1, y1, x2, y2, score, and geometry where `sizes` asks for masks."""
    image, label = _codes(detections["sample_id"], sample_ids), _codes(detections["label"], classes)
    rows = np.flatnonzero((image >= 0) & (label >= 0))
    rows = rows[np.argsort(image[rows], kind="stable")]
    needed = [*CORNERS, "score", *(["geometry"] if sizes is not None else [])]
    chosen = detections.select(needed).take(pa.array(rows))
    corners = np.stack([chosen[name].to_numpy(zero_copy_only=False) for name in CORNERS], axis=1)
    boxes = Boxes(image[rows], label[rows], corners)
    masks, area = None, boxes.area
    if sizes is not None:
        from pycocotools import mask as coco

        masks = _masks(chosen["geometry"].to_pylist(), sizes[image[rows]])
        area = np.array([coco.area(mask) for mask in masks], np.float64)  # a list of over 255 fails
    score = chosen["score"].to_numpy(zero_copy_only=False).astype(np.float64)
    return Regions(boxes, score, np.zeros(len(rows), bool), area, rows, masks)


def pairs_of(found: Regions, truth: Regions) -> Overlaps:
    """Every two regions of one image that overlap. Against a crowd the share of the found one that lies in it counts."""
    pairs = overlaps(found.boxes, truth.boxes)
    if found.masks is not None and truth.masks is not None:
        return _mask_pairs(found, truth, pairs)
    crowd = truth.crowd[pairs.second]
    if not crowd.any():
        return pairs
    one, other = (side.boxes.corners[rows[crowd]] for side, rows in ((found, pairs.first), (truth, pairs.second)))
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    iou = pairs.iou.copy()
    iou[crowd] = sides[:, 0] * sides[:, 1] / found.boxes.area[pairs.first[crowd]]
    return replace(pairs, iou=iou)


def _mask_pairs(found: Regions, truth: Regions, pairs: Overlaps) -> Overlaps:
    """Pairs of boxes that overlap, with the overlap of what is in them."""
    from pycocotools import mask as coco

    ours, theirs = found.masks or [], truth.masks or []
    iou = np.zeros(len(pairs))
    image = found.boxes.image[pairs.first]
    edges = np.flatnonzero(np.diff(image, prepend=-1, append=-1))
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        one, at = np.unique(pairs.first[low:high], return_inverse=True)
        other, place = np.unique(pairs.second[low:high], return_inverse=True)
        crowd = truth.crowd[other].astype(np.uint8).tolist()
        table = coco.iou([ours[row] for row in one.tolist()], [theirs[row] for row in other.tolist()], crowd)
        iou[low:high] = table[at, place]
    return replace(pairs, iou=iou)[iou > 0]


def _codes(column: pa.ChunkedArray, values: pa.Array | Sequence[str]) -> Ints:
    """The place of each value (N,), -1 for others."""
    known = values if isinstance(values, pa.Array) else pa.array(list(values), pa.string())
    places = pc.fill_null(pc.index_in(column, value_set=known), -1)
    codes: Ints = places.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _corners(rows: pa.Table) -> Floats:
    """xyxy (N, 4); around the shape where an annotation has no box."""
    corners = np.stack([rows[name].to_numpy(zero_copy_only=False) for name in CORNERS], axis=1).astype(np.float64)
    for row in np.flatnonzero(np.isnan(corners).any(axis=1)).tolist():
        corners[row] = geometry_extent(orjson.loads(rows["geometry"][row].as_py()))
    return corners


def _told(column: pa.ChunkedArray) -> tuple[Floats, Flags]:
    """`area` (N,), NaN where attributes tell none, and which are crowds."""
    area, crowd = np.full(len(column), np.nan), np.zeros(len(column), bool)
    telling = pc.fill_null(pc.match_substring_regex(column, '"(area|iscrowd)"'), False)
    rows = np.flatnonzero(telling.to_numpy(zero_copy_only=False))
    for row, text in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        told = orjson.loads(text)
        given = told.get("area")
        area[row] = given if type(given) in (int, float) else np.nan
        crowd[row] = told.get("iscrowd") == 1
    return area, crowd


def _masks(geometry: Sequence[str], sizes: Ints) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    masks = []
    for text, (width, height) in zip(geometry, sizes.tolist(), strict=True):
        shape = orjson.loads(text)
        if "rle" in shape:
            rle = shape["rle"]
            masks.append(coco.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle)
        else:
            masks.append(coco.merge(coco.frPyObjects(shape["polygons"], height, width)))
    return masks
