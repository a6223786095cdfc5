"""Annotations as FiftyOne's labels, in the form in which its database holds them.

Coordinates are shares of the image's width and height, as viewers show it: EXIF orientation applied. A label's id
comes from its annotation's, so that the same annotation is the same label in every run.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.fiftyone.values import Values
from datasetops.formats.rle import rle_fault
from datasetops.labeling.base import ImageSize
from datasetops.labeling.masks import decoded
from datasetops.labeling.orientation import mask_to_shown, shown_size, to_shown
from datasetops.schema import LabelSchema

Document: TypeAlias = dict[str, Any]

# Field → class of its value, and where that value keeps its list; None where the value is the label itself.
FIELDS: Final = {
    "classification": ("Classification", None),
    "classifications": ("Classifications", "classifications"),
    "boxes": ("Detections", "detections"),
    "polygons": ("Polylines", "polylines"),
    "masks": ("Detections", "detections"),
    "keypoints": ("Keypoints", "keypoints"),
    "texts": ("Classifications", "classifications"),
    "suggested": ("Detections", "detections"),
}
# Keys of a label that say what its annotation or proposal is; further ones are attributes.
KEYS: Final = frozenset(
    {
        *("_id", "_cls", "label", "confidence", "bounding_box", "mask", "points", "closed", "filled"),
        *("annotation_id", "source", "actor", "model", "score", "text", "visibility", "severity", "message"),
    }
)
# Names that an attribute cannot have.
RESERVED: Final = KEYS | {*("id", "tags", "finding", "logits", "mask_path", "index", "attributes", "instance", "pk")}


def field_of_rows(annotations: pa.Table, schema: LabelSchema) -> pa.ChunkedArray:
    """The field that each annotation goes to, by its geometry, or by its kind where it has none. (M,), never null."""
    rings, mask, points = (
        pc.fill_null(pc.starts_with(annotations["geometry"], f'{{"{key}":'), False)
        for key in ("polygons", "rle", "keypoints")
    )
    is_text = pc.equal(annotations["kind"], "text")
    is_class = pc.equal(annotations["kind"], "classification")
    conditions = pc.make_struct(mask, rings, points, is_class, pc.and_(is_text, pc.is_null(annotations["x1"])))
    several = pc.value_counts(annotations["sample_id"].filter(is_class))
    many = schema.multi_label or (len(several) and pc.max(several.field("counts")).as_py() > 1)
    classes = "classifications" if many else "classification"
    return pc.case_when(conditions, "masks", "polygons", "keypoints", classes, "texts", "boxes")


def fields_asked(schema: LabelSchema) -> list[str]:
    """Fields for what a schema asks for, so that people can add the first label of a kind in FiftyOne."""
    classes = "classifications" if schema.multi_label else "classification"
    of_kind = {"classification": classes, "box": "boxes", "polygon": "polygons", "mask": "masks", "text": "texts"}
    return [of_kind.get(kind, kind) for kind in schema.kinds]


def object_id(name: str) -> Any:
    """The id that the database gives to what has this name."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(name.encode()).digest()[:12])


def value_of(field: str, labels: Sequence[Document]) -> Document | None:
    """What a field holds: its labels, or None where there are none."""
    kind, within = FIELDS[field]
    if not labels:
        return None
    return labels[0] if within is None else {"_cls": kind, within: list(labels)}


def members(field: str, value: Mapping[str, Any] | None) -> list[Document]:
    """The labels in the value of a field."""
    within = FIELDS[field][1]
    if not value:
        return []
    return [dict(value)] if within is None else [dict(label) for label in value.get(within) or []]


class LabelMaker:
    """Makes labels of rows. `left_out` counts the annotations that could not be placed, by the reason."""

    def __init__(self, attributes: Values) -> None:
        self._attributes = attributes
        self.left_out: Counter[str] = Counter()

    def labels(self, rows: Sequence[Mapping[str, Any]], size: ImageSize | None) -> dict[str, list[Document]]:
        """Of one image, by field. `rows` have the columns of records.ANNOTATIONS, and `field`."""
        found: dict[str, list[Document]] = {}
        for row in rows:
            try:
                found.setdefault(row["field"], []).append(self._label(row, size))
            except ValueError as error:
                self.left_out[str(error)] += 1
        return found

    def _label(self, row: Mapping[str, Any], size: ImageSize | None) -> Document:
        field = row["field"]
        label: Document = {"_id": object_id(row["annotation_id"]), "tags": [], "label": row["label"]}
        label["score" if field == "keypoints" else "confidence"] = row["score"]  # a Keypoint has one for each point
        label |= {name: row[name] for name in ("annotation_id", "source", "actor", "model", "text")}
        if row["attributes"]:
            label |= self._attributes.fields(orjson.loads(row["attributes"]))
        if field in ("classification", "classifications", "texts"):
            label["_cls"] = "Classification"
            label["label"] = row["label"] or row["text"]
        elif size is None:
            raise ValueError("the size of the image is not known")
        else:
            label |= _place(field, row, size)
        return {name: value for name, value in label.items() if value is not None}


def _place(field: str, row: Mapping[str, Any], size: ImageSize) -> Document:
    geometry = orjson.loads(row["geometry"]) if row["geometry"] else {}
    box = None if row["x1"] is None else relative_box([row[name] for name in ("x1", "y1", "x2", "y2")], size)
    if field == "polygons":
        rings = [_relative(np.asarray(ring, np.float64).reshape(-1, 2), size) for ring in geometry["polygons"]]
        return {"_cls": "Polyline", "points": rings, "closed": True, "filled": True}
    if field == "keypoints":
        triples = np.asarray(geometry["keypoints"], np.float64).reshape(-1, 3)
        places = np.asarray(_relative(triples[:, :2], size), np.float64).reshape(-1, 2)
        places[triples[:, 2] == 0] = np.nan  # FiftyOne's way to say that a point is not there
        visibility = triples[:, 2].astype(int).tolist()
        return {"_cls": "Keypoint", "points": places.tolist(), "visibility": visibility, "bounding_box": box}
    if field == "masks":
        fault = rle_fault(geometry["rle"], size.width, size.height)
        if fault is None:
            return {"_cls": "Detection"} | _mask(mask_to_shown(decoded(geometry["rle"]), size))
        if box is None:
            raise ValueError(fault)
    if box is None:
        raise ValueError("it has no place in the image")
    return {"_cls": "Detection", "bounding_box": box}


def relative_box(corners: Sequence[float], size: ImageSize) -> list[float]:
    """xyxy in pixels as stored → x, y, width and height as shares of the image as shown."""
    if size.orientation == 1:
        x1, x2 = corners[0] / size.width, corners[2] / size.width
        y1, y2 = corners[1] / size.height, corners[3] / size.height
    else:
        (x1, y1), (x2, y2) = _relative(np.asarray(corners, np.float64).reshape(2, 2), size)
    return [min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)]


def _relative(points: npt.NDArray[np.float64], size: ImageSize) -> list[list[float]]:
    turned = points if size.orientation == 1 else to_shown(points, size)
    shares: list[list[float]] = (turned / np.asarray(shown_size(size), np.float64)).tolist()
    return shares


def _mask(mask: npt.NDArray[np.bool_]) -> Document:
    """A mask that is not empty, cut to its bounding box: NumPy's file format, compressed, is how FiftyOne keeps it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    height, width = mask.shape
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(mask[top:bottom, left:right]), allow_pickle=False)
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    return {"bounding_box": box, "mask": zlib.compress(sink.getvalue())}
