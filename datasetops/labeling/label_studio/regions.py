"""Rows of a version as results in Label Studio, and back.

Results are in percent of the image as it is shown, after EXIF orientation; a rectangle's rotation is clockwise, in
degrees, about its top left corner. A region that starts as a pre-annotation keeps its name, see `region_name`; the parts
of one annotation (rings of a polygon, points of a set) are called `<name>_<number>`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.formats.geometry import geometry_extent
from datasetops.labeling.base import ImageSize, Region, Row, region_name
from datasetops.labeling.label_studio.interface import (
    HIDDEN,
    IMAGE,
    INSTANCE,
    LABEL,
    TRANSCRIPTION,
    VISIBILITY,
    VISIBLE,
    WHOLE_TEXT,
    attribute_choice,
    attribute_names,
    attribute_value,
    point_label,
)
from datasetops.labeling.masks import decoded, encoded
from datasetops.labeling.orientation import mask_to_shown, mask_to_stored, shown_size, to_shown, to_stored
from datasetops.schema import LabelSchema

Floats = npt.NDArray[np.float64]
Result = dict[str, Any]

_PART: Final = re.compile(r"^([0-9a-f]{16})_(\d+)$")
_DIGITS: Final = 6  # of a pixel, so that percent and back gives what was there
_HALF: Final = 128  # brush strokes are smoothed: a pixel belongs to the mask from half its strength on
_POINT_SIZE: Final = 0.8  # percent of the width, as drawn


def results_of(rows: Iterable[Row], schema: LabelSchema, size: ImageSize) -> list[Result]:
    """The results that show annotations of one image. Kinds that the schema does not ask for are left out."""
    results: list[Result] = []
    for row in rows:
        if row["kind"] in schema.kinds:
            results += _results(row, schema, size)
    return results


def regions_of(
    results: Iterable[Result], schema: LabelSchema, size: ImageSize
) -> tuple[list[Region], list[str], list[str]]:
    """What an annotator's results say, sentences about what was left out, and about what looks wrong."""
    groups: dict[str, dict[str, Result]] = defaultdict(dict)
    unread: list[str] = []
    problems: list[str] = []
    for result in results:
        if not (isinstance(result, dict) and isinstance(result.get("from_name"), str)) or not isinstance(
            result.get("value"), dict
        ):
            unread.append("a result without control or value was left out")
            continue
        control = result["from_name"]
        group = groups[str(result.get("id", control))]
        if group.setdefault(control, result) != result:
            unread.append(f"a second result of the control {control!r} for one region was left out")
    whole: dict[str, Result] = {}
    for control in _whole_image_names(schema):
        given = [group[control] for group in groups.values() if control in group]
        whole |= {control: given[-1]} if given else {}
        if any(result["value"] != given[-1]["value"] for result in given):
            unread.append(f"the control {control!r} was answered twice, in different ways")
    regions = _classes(whole, groups, schema, unread)
    parts: dict[tuple[str, str, str | None], list[tuple[int, dict[str, Result]]]] = defaultdict(list)
    for name, group in groups.items():
        kind = next((kind for kind in schema.kinds if kind != "classification" and kind in group), None)
        if kind is None:
            known = whole.keys() | {VISIBILITY, INSTANCE, TRANSCRIPTION} | set(attribute_names(schema).values())
            problems += [
                f"what the control {control!r} holds is left out: it is not the schema's"
                for control in group
                if control not in known
            ]
            continue
        problems += [
            f"a region of {kind} is one of {other} too, which is left out"
            for other in schema.kinds
            if other in group and other not in (kind, "classification")
        ]
        try:
            label, point = _class_of(kind, group[kind], schema)
        except ValueError as error:
            unread.append(f"a region of {kind} cannot be read: {error}")
            continue
        if label is not None and schema.find(label) is None:
            unread.append(_no_class(label, schema))
            continue
        owner, number = _owner(name, kind, group, point)
        parts[owner, kind, label].append((number, group))
    for (name, region_kind, label), groups_of_one in parts.items():
        try:
            with np.errstate(all="ignore"):  # of huge numbers; what is not finite is told
                values = _values(
                    region_kind, label, [group for _, group in sorted(groups_of_one, key=_first)], schema, size
                )
                outside = _outside(values, size)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            unread.append(f"a region of {region_kind} cannot be read: {type(error).__name__}: {error}")
            continue
        if outside:
            problems.append(f"a region of {region_kind} {outside}")
        regions.append(Region(name, values))
    return regions, unread, problems


# --- rows to results ----------------------------------------------------------------------------------------------


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


# --- results to regions -------------------------------------------------------------------------------------------


def _whole_image_names(schema: LabelSchema) -> set[str]:
    return {LABEL, WHOLE_TEXT} if "text" in schema.kinds else {LABEL}


def _classes(
    whole: Mapping[str, Result],
    groups: Mapping[str, Mapping[str, Result]],
    schema: LabelSchema,
    unread: list[str],
) -> list[Region]:
    """Regions of the whole image: its classes and its text."""
    attributes: dict[str, Any] = {}
    for group in groups.values():
        if not any(kind in group for kind in schema.kinds if kind != "classification"):
            try:
                attributes |= _attributes(group, schema)
            except ValueError as error:
                unread.append(f"an attribute cannot be read: {error}")
    regions = []
    try:
        labels = [str(label) for label in _listed((whole.get(LABEL) or {"value": {}})["value"], "choices")]
    except ValueError as error:
        labels = []
        unread.append(f"a class cannot be read: {error}")
    for label in labels:
        if schema.find(label) is None:
            unread.append(_no_class(label, schema))
            continue
        name = str(whole[LABEL].get("id", LABEL)) if not schema.multi_label else f"{LABEL}:{label}"
        values = {"kind": "classification", "label": label, "attributes": attributes or None}
        regions.append(Region(name, values))
    if texts := (whole.get(WHOLE_TEXT) or {"value": {}})["value"].get("text"):
        name = str(whole[WHOLE_TEXT].get("id", WHOLE_TEXT))
        regions.append(Region(name, {"kind": "text", "label": None, "text": "\n".join(_texts(texts))}))
    return regions


def _no_class(label: str, schema: LabelSchema) -> str:
    near = schema.nearest(label)
    return f"the schema has no class {label!r}" + (f"; did you mean {near!r}?" if near else "")


def _class_of(kind: str, result: Result, schema: LabelSchema) -> tuple[str | None, int | None]:
    """(class, number of the point) that a region's label names."""
    labels = _listed(result["value"], str(result.get("type", "")))
    label = str(labels[0]) if labels else None
    task = schema.task(kind)
    if kind == "keypoints" and task and label is not None:
        for item in schema.classes:
            for number, point in enumerate(task.keypoints):
                if label == point_label(item.name, point):
                    return item.name, number
    return label, None


def _owner(name: str, kind: str, group: Mapping[str, Result], point: int | None) -> tuple[str, int]:
    """(name of the annotation, number of this part of it) of a region."""
    part = _PART.match(name)
    if kind != "keypoints":
        return (part[1], int(part[2])) if part and kind == "polygon" else (name, 0)
    if INSTANCE in group:
        return f"instance {group[INSTANCE]['value'].get('number')}", point or 0
    return (part[1] if part else "instance 1"), point or 0


def _first(part: tuple[int, Any]) -> int:
    return part[0]


def _values(
    kind: str, label: str | None, groups: list[dict[str, Result]], schema: LabelSchema, size: ImageSize
) -> dict[str, Any]:
    results = [group[kind] for group in groups]
    values: dict[str, Any] = {"kind": kind, "label": label}
    if kind == "polygon":
        rings = [_pixels(result["value"]["points"], size).ravel().tolist() for result in results]
        values["geometry"] = {"polygons": rings}
    elif kind == "mask":
        values["geometry"] = {"rle": _rle(results[0]["value"]["rle"], size)}
    elif kind == "keypoints":
        values["geometry"] = {"keypoints": _triples(groups, schema, size)}
    else:
        values |= _box(results[0]["value"], size)
    if values.get("geometry") and values.get("x1") is None:
        values |= dict(zip(("x1", "y1", "x2", "y2"), geometry_extent(values["geometry"]), strict=True))
    if kind == "text":
        values["text"] = "\n".join(_texts((groups[0].get(TRANSCRIPTION) or {"value": {}})["value"].get("text")))
    attributes: dict[str, Any] = {}
    for group in groups:
        attributes |= _attributes(group, schema)
    return values | {"attributes": attributes or None}


def _box(value: Mapping[str, Any], size: ImageSize) -> dict[str, Any]:
    width, height = shown_size(size)
    x, y = float(value["x"]) / 100 * width, float(value["y"]) / 100 * height
    w, h = float(value["width"]) / 100 * width, float(value["height"]) / 100 * height
    angle = np.radians(float(value.get("rotation") or 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = to_stored(np.array([[0, 0], [w, 0], [w, h], [0, h]]) @ turn + (x, y), size).round(_DIGITS)
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    box = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return box | ({"geometry": {"polygons": [corners.ravel().tolist()]}} if angle else {})


def _triples(groups: list[dict[str, Result]], schema: LabelSchema, size: ImageSize) -> list[float]:
    """x, y, visibility of each point of the schema in turn: 2 seen, 1 hidden, 0 (at 0, 0) not labeled."""
    task = schema.task("keypoints")
    triples = np.zeros((len(task.keypoints) if task else 0, 3))
    for group in groups:
        _, number = _class_of("keypoints", group["keypoints"], schema)
        value = group["keypoints"]["value"]
        if number is None:
            raise ValueError(f"unknown point {value.get('keypointlabels')}")
        seen = (group.get(VISIBILITY) or {"value": {}})["value"].get("choices", [VISIBLE])[0] != HIDDEN
        triples[number] = (*_pixels([[value["x"], value["y"]]], size)[0], 2 if seen else 1)
    flat: list[float] = triples.ravel().tolist()
    return flat


def _rle(runs: list[int], size: ImageSize) -> dict[str, Any]:
    from label_studio_sdk.converter import brush

    width, height = shown_size(size)
    shown = brush.decode_rle(runs).reshape(height, width, 4)[:, :, 3] >= _HALF
    return encoded(mask_to_stored(shown, size))


def _attributes(group: Mapping[str, Result], schema: LabelSchema) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute, control in attribute_names(schema).items():
        if control not in group:
            continue
        value = group[control]["value"]
        if attribute.type == "number":
            number = value.get("number")
            plain = isinstance(number, int | float) and not isinstance(number, bool)
            if number is not None and not (plain and math.isfinite(number)):
                raise ValueError(f"{attribute.name}: {number!r:.50} is not a number")
            found[attribute.name] = number
        elif attribute.type == "text":
            found[attribute.name] = "\n".join(_texts(value.get("text")))
        elif chosen := _listed(value, "choices"):
            found[attribute.name] = attribute_value(attribute, chosen[0])
    return {name: value for name, value in found.items() if value is not None}


def _listed(value: Mapping[str, Any], name: str) -> list[Any]:
    """The list of that name, empty where there is none. Raises ValueError for what is no list."""
    items = value.get(name) or []
    if not isinstance(items, list):
        raise ValueError(f"{name}: expected a list; got {items!r:.50}")
    return items


def _texts(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else [str(value)] if value else []


def _pixels(points: npt.ArrayLike, size: ImageSize) -> Floats:
    return to_stored(np.asarray(points, np.float64) / 100 * shown_size(size), size).round(_DIGITS)


def _outside(values: Mapping[str, Any], size: ImageSize) -> str | None:
    corners = [float(values[name]) for name in ("x1", "y1", "x2", "y2") if values.get(name) is not None]
    if len(corners) < 4:
        return None
    x1, y1, x2, y2 = corners
    if not np.isfinite(corners).all():
        raise ValueError("a coordinate is not a number")
    if x2 <= 0 or y2 <= 0 or x1 >= size.width or y1 >= size.height:
        return "lies outside the image"
    slack = 0.5
    if x1 < -slack or y1 < -slack or x2 > size.width + slack or y2 > size.height + slack:
        return "reaches out of the image"
    return None
