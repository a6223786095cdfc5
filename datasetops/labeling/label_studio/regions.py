"""What annotators drew and chose in Label Studio as regions of a version: the way back from `results`."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.formats.geometry import geometry_extent
from datasetops.labeling.base import ImageSize, Region
from datasetops.labeling.label_studio.interface import (
    HIDDEN,
    INSTANCE,
    LABEL,
    TRANSCRIPTION,
    VISIBILITY,
    VISIBLE,
    WHOLE_TEXT,
    attribute_names,
    attribute_value,
    point_label,
)
from datasetops.labeling.label_studio.results import Floats, Result
from datasetops.labeling.masks import encoded
from datasetops.labeling.orientation import mask_to_stored, shown_size, to_stored
from datasetops.schema import LabelSchema

_PART: Final = re.compile(r"^([0-9a-f]{16})_(\d+)$")
_DIGITS: Final = 6  # of a pixel, so that percent and back gives what was there
_HALF: Final = 128  # brush strokes are smoothed: a pixel belongs to the mask from half its strength on


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
