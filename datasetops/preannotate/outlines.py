"""Boxes of a version that a model is to outline: masks from boxes that people drew or another model found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import NotFoundError
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import to_shown
from datasetops.manifest import Version
from datasetops.models.predictor import Prediction
from datasetops.records import canonical_json, sha256_hex

_Box = tuple[str, float, float, float, float, float]  # class, corners as stored, score


@dataclass(frozen=True)
class Outlines:
    """`boxes` are by image digest, in pixels of the image as stored; `keys` what predictions are kept under, by digest.

    `parents` has by sample the id of the box that the prediction of a rank outlines.
    """

    boxes: Mapping[str, tuple[Prediction, ...]]
    keys: Mapping[str, str]
    parents: Mapping[str, Mapping[int, str]]


def boxes_to_outline(version: Version, *, where: str | None = None) -> Outlines:
    """The boxes of a version that count, of samples that fulfil a condition (as in `Version.where`).

    Raises NotFoundError where there are none.
    """
    rows = version.labels()
    rows = rows.filter(pc.and_(pc.equal(rows["kind"], "box"), pc.is_valid(rows["label"])))
    if where is not None:
        rows = rows.filter(pc.is_in(rows["sample_id"], pa.array(version.where(where), pa.string())))
    if not len(rows):
        raise NotFoundError(
            f"{version.name} has no box to outline.", remedy="Find boxes first, with a model for boxes or by people."
        )
    wanted = pc.unique(rows["sample_id"])
    samples = version.state("samples").rows(wanted, ["sample_id", "sha256"]).to_pylist()
    by_sample: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.select(["annotation_id", "sample_id", "label", "x1", "y1", "x2", "y2", "score"]).to_pylist():
        by_sample.setdefault(row["sample_id"], []).append(row)
    each: dict[str, set[_Box]] = {}
    for sample in samples:
        if sample["sha256"] is not None:
            each.setdefault(sample["sha256"], set()).update(_box(row) for row in by_sample[sample["sample_id"]])
    ordered = {digest: sorted(found) for digest, found in each.items()}
    parents: dict[str, dict[int, str]] = {}
    for sample in samples:
        ranks = {box: rank for rank, box in enumerate(ordered.get(sample["sha256"], ()))}
        own = by_sample[sample["sample_id"]] if ranks else []
        parents[sample["sample_id"]] = {ranks[_box(row)]: row["annotation_id"] for row in own}
    return Outlines(
        boxes={
            digest: tuple(Prediction("box", box[0], box[5], box[1:5]) for box in found)
            for digest, found in ordered.items()
        },
        keys={digest: sha256_hex(canonical_json([digest, [*map(list, found)]])) for digest, found in ordered.items()},
        parents=parents,
    )


def _box(row: Mapping[str, Any]) -> _Box:
    score = 1.0 if row["score"] is None else min(max(float(row["score"]), 0.0), 1.0)
    return row["label"], row["x1"], row["y1"], row["x2"], row["y2"], score


def shown_boxes(boxes: tuple[Prediction, ...], size: ImageSize) -> tuple[Prediction, ...]:
    """Boxes in pixels of an image as it is stored, in pixels of the image as viewers show it."""
    found = []
    for item in boxes:
        points = to_shown(np.reshape(item.box or (), (2, 2)), size)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        found.append(replace(item, box=(x1, y1, x2, y2)))
    return tuple(found)
