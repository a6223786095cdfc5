"""Outlines held against one another: instances marked twice, and instances against the mask of their whole class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
from pycocotools import mask as coco_mask

from datasetops.audits.outlines.measures import EXTENT
from datasetops.audits.rowwise import Doubt, box_iou, graded, is_crowd
from datasetops.audits.samplewise import texts
from datasetops.formats.rle import run_lengths

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

SAME: Final = 0.9  # intersection over union from which two outlines mark one thing: two people hardly draw more alike
_COPY: Final = 0.99
_LEAST_BOX: Final = 0.5  # the same of the extents, below which the outlines are not compared
_PAIRS: Final = 1 << 20  # compared at once
_FARTHEST: Final = 1e5  # pixels: where outlines are cut before they are drawn
_ASTRAY: Final = (
    0.2  # share of an instance's pixels that may lie outside of its class's mask: hand-drawn borders differ
)
_FAR_ASTRAY: Final = 0.8
_BARE_BOX: Final = 0.01  # share of a box that its class's mask covers at least, however thin the object
_AGREE: Final = 0.5  # share of a class's instances inside of its masks from which these are of the whole class
_TRIANGLE: Final = 6  # numbers


def repeated(rows: pd.DataFrame) -> Iterator[Doubt]:
    """Polygons and masks that mark what an earlier one of the same kind, image and class marks already.

    `rows`: columns of records.ANNOTATIONS, width and height of the image, and what `measure_outlines` made of them.
    """
    at = np.flatnonzero(usable_outlines(rows) & rows["kind"].isin(["polygon", "mask"]).to_numpy())
    code = 2 * _same_class(rows)[at] + (rows["kind"] == "mask").to_numpy()[at]
    area, extent = rows["area"].to_numpy()[at], rows[EXTENT].to_numpy()[at]
    candidates: list[tuple[int, int]] = []
    for one, other in _pairs(code):
        small, large = np.minimum(area[one], area[other]), np.maximum(area[one], area[other])
        # Outlines of one thing have about one area; that of polygons is not quite that of their pixels.
        near = small + 2 * np.sqrt(large) >= SAME * large
        near[near] = box_iou(extent[one[near]], extent[other[near]]) >= _LEAST_BOX
        candidates += zip(at[one[near]].tolist(), at[other[near]].tolist(), strict=True)
    outlines = _outlines(rows, np.unique(np.array(candidates, np.int64)))
    found: dict[int, tuple[float, int]] = {}
    for a, b in candidates:
        alike = _pixel_iou(outlines[a], outlines[b])
        if alike >= max(SAME, found.get(b, (0.0, 0))[0]):
            found[b] = (alike, a)
    ids = texts(rows["annotation_id"])
    shared = np.zeros(len(rows))
    shared[list(found)] = [alike for alike, _ in found.values()]
    yield Doubt(
        "duplicate",
        shared > 0,
        graded(shared, SAME, _COPY),
        1 - shared,
        lambda row: (
            f"it shares {shared[row]:.1%} of its pixels with another outline of its class, {ids[found[row][1]]}"
        ),
    )


def against_class_masks(rows: pd.DataFrame) -> Iterator[Doubt]:
    """Polygons and boxes that their image's one mask of the same class contradicts; `rows` as for `repeated`.

    A class's masks are taken for those of the whole class where most instances beside them agree with them.
    """
    inside, label = _inside(rows), texts(rows["label"])
    judged, boxes = ~np.isnan(inside), (rows["kind"] == "box").to_numpy()
    with np.errstate(invalid="ignore"):
        astray = np.where(boxes, inside < _BARE_BOX, inside < 1 - _ASTRAY)
        far = np.where(boxes, inside < _BARE_BOX, inside < 1 - _FAR_ASTRAY)
    for some in (judged & boxes, judged & ~boxes):
        agree = pd.Series(~astray[some]).groupby(label[some], dropna=False).transform("mean")
        astray[some] &= agree.to_numpy() >= _AGREE

    def told(row: int) -> str:
        if boxes[row]:
            return f"the image's mask of {label[row]} covers {inside[row]:.1%} of the box"
        return f"{1 - inside[row]:.0%} of its pixels lie outside of the image's mask of {label[row]}"

    yield Doubt("outside of its class's mask", astray, np.where(far, "medium", "low"), 0.8 * inside, told)


def _inside(rows: pd.DataFrame) -> Floats:
    """Share of each polygon's pixels, or box's, inside of its class's mask; NaN where there is no one such mask."""
    kind, usable = rows["kind"].to_numpy(), usable_outlines(rows)
    box = (kind == "box") & np.isfinite(rows[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64)).all(axis=1)
    mask = (kind == "mask") & usable
    instance = box | (usable & (kind != "mask") & ~rows["has_mask"].to_numpy())
    code = _same_class(rows)
    count = int(code.max(initial=-1)) + 1
    both = (np.bincount(code[mask], minlength=count) == 1) & (np.bincount(code[instance], minlength=count) > 0)
    order = np.flatnonzero((mask | instance) & both[code])
    order = order[np.lexsort((instance[order], code[order]))]  # the mask comes first
    inside = np.full(len(rows), np.nan)
    outlines = _outlines(rows, order)
    for group in np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(order) else []:
        first, *others = (outlines[row] for row in group.tolist())
        inside[group[1:]] = _shares(first, others)
    return inside


def _outlines(rows: pd.DataFrame, chosen: Ints) -> dict[int, Any]:
    """What is needed to draw the chosen rows, by their numbers."""
    columns = ["kind", "geometry", "has_mask", "width", "height", "right", "bottom", "x1", "y1", "x2", "y2"]
    return dict(zip(chosen.tolist(), rows[columns].iloc[chosen].itertuples(), strict=True))


def usable_outlines(rows: pd.DataFrame) -> Bools:
    """Rows with a sound outline that is not of a crowd: such a mask stands for neither one thing nor a class."""
    usable: Bools = (
        (rows["has_rings"] | rows["has_mask"]).to_numpy() & rows["fault"].isna().to_numpy() & ~is_crowd(rows)
    )
    return usable


def _same_class(rows: pd.DataFrame) -> Ints:
    """A number (N,) for each image and class."""
    codes: Ints = rows.groupby(["sample_id", "label"], sort=False, dropna=False).ngroup().to_numpy().astype(np.int64)
    return codes


def _pairs(code: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of positions with the same code, the earlier one first."""
    order = np.argsort(code, kind="stable")
    ends = np.searchsorted(code[order], code[order], side="right")
    later = ends - np.arange(len(code)) - 1
    done = np.concatenate([[0], np.cumsum(later)])
    start = 0
    while start < len(code):
        stop = max(start + 1, int(np.searchsorted(done, done[start] + _PAIRS, side="right")) - 1)
        place = np.repeat(np.arange(start, stop), later[start:stop])
        offset = np.arange(len(place)) - (done[place] - done[start])
        yield order[place], order[place + 1 + offset]
        start = stop


def _pixel_iou(one: Any, other: Any) -> float:
    size = _size(one, other)
    drawn = [draw(orjson.loads(row.geometry), *size) for row in (one, other)]
    return float(coco_mask.iou(drawn[:1], drawn[1:], [0])[0, 0])


def _shares(mask: Any, instances: list[Any]) -> Floats:
    """Of each instance's pixels, or of its box's, the share inside of the mask."""
    size = _size(mask, *instances)
    drawn = [
        draw({"polygons": [_ring(row)]} if row.kind == "box" else orjson.loads(row.geometry), *size)
        for row in instances
    ]
    # Against a crowd pycocotools divides by the area of the first alone.
    shares: Floats = coco_mask.iou(drawn, [draw(orjson.loads(mask.geometry), *size)], [1])[:, 0]
    return shares


def draw(geometry: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Polygons, or a mask of that size, as pycocotools has them: `size` and compressed `counts`."""
    if "rle" in geometry:
        rle: dict[str, Any] = geometry["rle"]
        return rle if isinstance(rle["counts"], str) else coco_mask.frPyObjects(rle, *rle["size"])
    rings = [np.clip(ring, -_FARTHEST, _FARTHEST).tolist() for ring in geometry["polygons"] if len(ring) >= _TRIANGLE]
    if not rings:
        rings = [[0.0] * _TRIANGLE]
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    return merged


def pixels(rle: dict[str, Any]) -> Bools:
    """The array (height, width) of what `draw` made."""
    height, width = rle["size"]
    counts = rle["counts"]
    runs = run_lengths(counts.decode("ascii") if isinstance(counts, bytes) else counts)
    inside: Bools = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return inside


def _size(*rows: Any) -> tuple[int, int]:
    """Height and width of a mask among the rows, else of the image, else of what the outlines reach."""
    for row in rows:
        if row.has_mask:
            height, width = orjson.loads(row.geometry)["rle"]["size"]
            return height, width
    sides = [
        image if np.isfinite(image) else max(getattr(row, side) for row in rows)
        for image, side in ((rows[0].height, "bottom"), (rows[0].width, "right"))
    ]
    height, width = (max(1, int(np.ceil(min(side, _FARTHEST)))) for side in sides)
    return height, width


def _ring(row: Any) -> list[float]:
    return [row.x1, row.y1, row.x2, row.y1, row.x2, row.y2, row.x1, row.y2]
