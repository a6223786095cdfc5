"""Rows of a version as results in Label Studio: what annotators see drawn when a task opens.

Results are in percent of the image as it is shown, after EXIF orientation; a rectangle's rotation is clockwise, in
degrees, about its top left corner. A region that starts as a pre-annotation keeps its name, see `region_name`; the parts
of one annotation (rings of a polygon, points of a set) are called `<name>_<number>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.labeling.base import ImageSize, Row, region_name
from datasetops.labeling.label_studio.interface import (
    HIDDEN,
    IMAGE,
    LABEL,
    TRANSCRIPTION,
    VISIBILITY,
    WHOLE_TEXT,
    attribute_choice,
    attribute_names,
    point_label,
)
from datasetops.labeling.masks import decoded
from datasetops.labeling.orientation import mask_to_shown, shown_size, to_shown
from datasetops.schema import LabelSchema

Floats = npt.NDArray[np.float64]
Result = dict[str, Any]

_POINT_SIZE: Final = 0.8  # percent of the width, as drawn


def results_of(rows: Iterable[Row], schema: LabelSchema, size: ImageSize) -> list[Result]:
    """The results that show annotations of one image. Kinds that the schema does not ask for are left out."""
    results: list[Result] = []
    for row in rows:
        if row["kind"] in schema.kinds:
            results += _results(row, schema, size)
    return results


def _results(row: Row, schema: LabelSchema, size: ImageSize) -> list[Result]:
    kind, name = row["kind"], region_name(row["annotation_id"])
    if kind == "classification":
        main = [_result(name, LABEL, "choices", {"choices": [row["label"]]}, None)]
        return main + _attribute_results(row, name, schema, None)
    if kind == "text" and row.get("x1") is None and not row.get("geometry"):
        return [_result(name, WHOLE_TEXT, "textarea", {"text": [row.get("text") or ""]}, None)]
    drawn = _drawn(row, schema, size)
    several = len(drawn) > 1 or kind == "keypoints"
    names = [f"{name}_{number}" if several else name for number, *_ in drawn]
    results = [_result(part, kind, type_, value, size) for part, (_, type_, value) in zip(names, drawn, strict=True)]
    if row.get("text") is not None and kind == "text" and names:
        results.append(
            _result(names[0], TRANSCRIPTION, "textarea", {"text": [row["text"]]} | _place(drawn[0][2]), size)
        )
    if kind == "keypoints":
        results += _hidden_points(row, names, drawn, size)
    return results + (_attribute_results(row, names[0], schema, size) if names else [])


def _drawn(row: Row, schema: LabelSchema, size: ImageSize) -> list[tuple[int, str, dict[str, Any]]]:
    """(number, type, value) of each part of a region."""
    kind, geometry = row["kind"], row.get("geometry") or {}
    label = row.get("label")
    if kind == "mask":
        return [(0, "brushlabels", {"format": "rle", "rle": _brush(geometry, size), "brushlabels": [label]})]
    if kind == "polygon":
        rings = [_percent(np.reshape(ring, (-1, 2)), size).tolist() for ring in geometry.get("polygons", ())]
        return [
            (number, "polygonlabels", {"points": ring, "closed": True, "polygonlabels": [label]})
            for number, ring in enumerate(rings)
        ]
    if kind == "keypoints":
        task = schema.task(kind)
        triples = np.reshape(np.asarray(geometry.get("keypoints", ()), np.float64), (-1, 3))
        places = _percent(triples[:, :2], size)
        return [
            (
                number,
                "keypointlabels",
                {"x": x, "y": y, "width": _POINT_SIZE, "keypointlabels": [point_label(str(label), point)]},
            )
            for number, (point, (x, y), seen) in enumerate(
                zip(task.keypoints if task else (), places.tolist(), triples[:, 2], strict=False)
            )
            if seen > 0
        ]
    value = _rectangle(row, geometry, size)
    if label is None:
        return [(0, "rectangle", value)]
    return [(0, "rectanglelabels", value | {"rectanglelabels": [label]})]


def _rectangle(row: Row, geometry: Mapping[str, Any], size: ImageSize) -> dict[str, Any]:
    width, height = shown_size(size)
    corners = np.reshape(geometry["polygons"][0], (-1, 2)) if geometry.get("polygons") else None
    if corners is not None and len(corners) == 4:  # a rotated box: its corners in order
        shown = to_shown(corners, size)
        if np.cross(shown[1] - shown[0], shown[2] - shown[1]) < 0:  # mirrored by the orientation
            shown = shown[[1, 0, 3, 2]]
        (x, y), along, down = shown[0], shown[1] - shown[0], shown[2] - shown[1]
        angle = float(np.degrees(np.arctan2(along[1], along[0]))) % 360
        w, h = float(np.hypot(*along)), float(np.hypot(*down))
    else:
        shown = to_shown([[row["x1"], row["y1"]], [row["x2"], row["y2"]]], size)
        (x, y), (x2, y2), angle = shown.min(axis=0), shown.max(axis=0), 0.0
        w, h = x2 - x, y2 - y
    return {
        "x": float(x) / width * 100,
        "y": float(y) / height * 100,
        "width": float(w) / width * 100,
        "height": float(h) / height * 100,
        "rotation": angle,
    }


def _hidden_points(row: Row, names: list[str], drawn: list[tuple[int, str, Any]], size: ImageSize) -> list[Result]:
    triples = np.reshape(np.asarray((row.get("geometry") or {}).get("keypoints", ()), np.float64), (-1, 3))
    return [
        _result(name, VISIBILITY, "choices", {"choices": [HIDDEN]} | _place(value), size)
        for name, (number, _, value) in zip(names, drawn, strict=True)
        if triples[number, 2] == 1
    ]


def _attribute_results(row: Row, name: str, schema: LabelSchema, size: ImageSize | None) -> list[Result]:
    results = []
    given = row.get("attributes") or {}
    for attribute, control in attribute_names(schema).items():
        value = attribute_choice(attribute, given.get(attribute.name)) if attribute.name in given else None
        if value is None:
            continue
        type_ = {"number": "number", "text": "textarea"}.get(attribute.type, "choices")
        field = {"number": "number", "textarea": "text", "choices": "choices"}[type_]
        results.append(_result(name, control, type_, {field: value if type_ == "number" else [value]}, size))
    return results


def _result(name: str, control: str, type_: str, value: dict[str, Any], size: ImageSize | None) -> Result:
    result: Result = {"id": name, "from_name": control, "to_name": IMAGE, "type": type_, "value": value}
    if size is not None:
        width, height = shown_size(size)
        result |= {"original_width": width, "original_height": height, "image_rotation": 0}
    return result


def _place(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in ("x", "y", "width", "height", "rotation") if name in value}


def _percent(points: npt.ArrayLike, size: ImageSize) -> Floats:
    return to_shown(points, size) / shown_size(size) * 100


def _brush(geometry: Mapping[str, Any], size: ImageSize) -> list[int]:
    from label_studio_sdk.converter import brush

    shown = np.ascontiguousarray(mask_to_shown(decoded(geometry["rle"]), size))
    runs: list[int] = [int(value) for value in brush.mask2rle(shown.astype(np.uint8) * 255)]  # type: ignore[no-untyped-call]
    return runs
