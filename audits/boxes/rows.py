"""The given boxes of a version, and what a detector says about them, worked out once for all checks of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.detections import CORNERS, detections_of, positions
from datasetops.audits.boxes.pairs import Boxes, Flags, Floats, Ints
from datasetops.audits.boxes.scores import MATCH, BoxScores, score_boxes
from datasetops.audits.outlines.geometries import batches
from datasetops.audits.outlines.polygons import extents
from datasetops.audits.rowwise import is_crowd

KINDS: Final = ("box", "polygon", "mask", "keypoints")
DRAWN: Final = ("box", "keypoints")  # kinds whose box somebody drew: that of an outline follows from the outline
MOSTLY: Final = 0.5  # share of the samples with annotations from which one without has been looked at
_AREAS: Final = 2  # masks an image on average from which it is no chance that there never are two of a class
_ENOUGH: Final = 30  # boxes that detections name, below which it is open whether they know the classes


@dataclass(frozen=True)
class BoxRows:
    """Annotations (N,) that have a box with area, those of a sample one after another.

    `boxes.image` is the row of the sample, `boxes.label` the number of the class in `names`; `sides` (N, 2) are width
    and height of the image, NaN where they are not known. `labeled` (samples,) have annotations of any kind with a place.
    `areas`: there are masks of areas, which are left out.
    """

    rows: pd.DataFrame
    boxes: Boxes
    names: list[str]
    crowd: Flags
    sides: Floats
    labeled: Flags
    areas: bool

    @property
    def lack(self) -> str:
        """Why there are no rows."""
        more = "; masks of one area a class, such as road or sky, are no single objects" if self.areas else ""
        return f"nothing is boxed{more}"

    @cached_property
    def drawn(self) -> Flags:
        """Boxes that somebody drew, crowds left out."""
        return self.rows["kind"].isin(DRAWN).to_numpy() & ~self.crowd

    @cached_property
    def mostly_labeled(self) -> bool:
        return bool(self.labeled.mean() >= MOSTLY)

    def name(self, label: int) -> str:
        return self.names[label] if label >= 0 else "no class"


@dataclass(frozen=True)
class Judged:
    """Detections and what they say: `scores` are about the given boxes `of` (rows of BoxRows) and all detections.

    `images` (samples,) have detections and may be judged by them.
    """

    detected: Boxes
    confidence: Floats
    images: Flags
    of: Ints
    scores: BoxScores
    facts: dict[str, Any]  # for the summary

    def among_all(self, score: Floats, count: int) -> Floats:
        """Scores of the judged given boxes as scores of all `count`; 1 for the others."""
        result = np.ones(count)
        result[self.of] = score
        return result


def box_rows(context: AuditContext) -> BoxRows:
    if "box_rows" not in context.memo:
        context.memo["box_rows"] = _box_rows(context)
    found: BoxRows = context.memo["box_rows"]
    return found


def judged_boxes(context: AuditContext) -> Judged | None:
    """What detections say about the given boxes; None where there are none."""
    if "judged_boxes" not in context.memo:
        context.memo["judged_boxes"] = _judged_boxes(context)
    found: Judged | None = context.memo["judged_boxes"]
    return found


def _box_rows(context: AuditContext) -> BoxRows:
    samples = context.samples
    rows = context.annotations
    rows = rows[rows["kind"].isin(KINDS)].reset_index(drop=True)
    owner = positions(rows["sample_id"], samples["sample_id"])
    labeled = np.zeros(len(samples), dtype=bool)
    labeled[owner[owner >= 0]] = True
    corners = rows[CORNERS].to_numpy(dtype=np.float64, copy=True)
    unplaced = np.flatnonzero(np.isnan(corners).any(axis=1) & rows["geometry"].notna().to_numpy())
    corners[unplaced] = _outer(rows["geometry"].iloc[unplaced])
    placed = np.isfinite(corners).all(axis=1) & (owner >= 0)
    kept = np.flatnonzero(placed & (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1]))
    areas = _areas(rows, owner)
    kept = kept[~areas[kept]]
    kept = kept[np.argsort(owner[kept], kind="stable")]
    rows = rows.iloc[kept].reset_index(drop=True)
    names = list(context.schema.class_names)
    names += sorted(set(rows["label"].dropna()) - set(names))
    boxes = Boxes(owner[kept], positions(rows["label"], names), corners[kept])
    sides = samples[["width", "height"]].to_numpy(dtype=np.float64)[boxes.image]
    return BoxRows(rows, boxes, names, is_crowd(rows), sides, labeled, bool(areas.any()))


def _areas(rows: pd.DataFrame, owner: Ints) -> Flags:
    """Which annotations (N,) are masks of one area a class, such as road and sky, and no single objects."""
    masks = (rows["kind"] == "mask").to_numpy() & ~is_crowd(rows)
    images = len(np.unique(owner[masks]))
    one_a_class = not rows.loc[masks].duplicated(["sample_id", "label"]).any()
    return masks & (one_a_class and int(masks.sum()) >= _AREAS * images)


def _outer(geometry: pd.Series[Any]) -> Floats:
    """The box around each outline (N, 4), NaN where there is none."""
    result = np.full((len(geometry), 4), np.nan)
    for part, shapes in batches(geometry):
        around = extents(shapes.rings, shapes.count)
        if len(shapes.runs.owner):
            sizes, counts = shapes.runs.size.tolist(), shapes.runs.counts.to_pylist()
            masks = [{"size": size, "counts": text.encode()} for size, text in zip(sizes, counts, strict=True)]
            x, y, width, height = coco_mask.toBbox(masks).T
            around[shapes.runs.owner] = np.stack([x, y, x + width, y + height], axis=1)
        result[part] = around
    return result


def _judged_boxes(context: AuditContext) -> Judged | None:
    frame = detections_of(context)
    if frame is None or not len(frame):
        return None
    given, samples = box_rows(context), context.samples
    image, label = positions(frame["sample_id"], samples["sample_id"]), positions(frame["label"], given.names)
    usable = (image >= 0) & (label >= 0)  # a class that is no longer in use is not looked for
    if not given.mostly_labeled:
        usable &= given.labeled[image]
    order = np.flatnonzero(usable)
    order = order[np.argsort(image[order], kind="stable")]
    corners = frame[CORNERS].to_numpy(dtype=np.float64)[order]
    with_area = ((corners[:, 2:] - corners[:, :2]) > 0).all(axis=1)
    order, corners = order[with_area], corners[with_area]
    if not len(order):
        return None
    detected = Boxes(image[order], label[order], corners)
    confidence = frame["score"].to_numpy(dtype=np.float64)[order]
    images = np.zeros(len(samples), dtype=bool)
    images[detected.image] = True
    of = np.flatnonzero(images[given.boxes.image])
    scores = score_boxes(given.boxes[of], detected, confidence, classes=len(given.names), crowd=given.crowd[of])
    facts: dict[str, Any] = {
        "detections": f"{len(detected):,}, {'supplied' if context.detections is not None else 'of a probe'}",
        "judged": f"{int(images.sum()):,} of {len(samples):,} images",
    }
    if notes := frame.attrs.get("notes"):
        facts["left out"] = "; ".join(notes)
    agreed = int((scores.iou >= MATCH).sum())
    contrary = int(((scores.iou < MATCH) & (scores.other_row >= 0)).sum())
    if context.detections is not None and agreed + contrary >= _ENOUGH and contrary > agreed:
        facts["doubt"] = (
            f"of {agreed + contrary:,} given boxes with a detection at their place, it is of another class at {contrary:,}: "
            "perhaps the detections do not use the ids of the schema's classes"
        )
    return Judged(detected, confidence, images, of, scores, facts)
