"""What a reviewer drew, checked and in the pixels of the stored image.

Pages place things in the image as it is shown; where its file says that it is to be turned, rows of a version do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from datasetops.errors import did_you_mean
from datasetops.formats.geometry import geometry_extent
from datasetops.labeling.base import REGION_COLUMNS, ImageSize
from datasetops.labeling.orientation import shown_size, to_stored
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema

_CORNERS: Final = ("x1", "y1", "x2", "y2")
_MOST_POINTS: Final = 20_000
_LONGEST_TEXT: Final = 20_000
_DIGITS: Final = 3  # of a pixel: a screen has none finer


def stored_fields(raw: Any, schema: LabelSchema, size: ImageSize) -> dict[str, Any]:
    """The given ones of REGION_COLUMNS, checked and in stored pixels. Raises ValueError that names the field."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"region: expected an object; got {type(raw).__name__}")
    if unknown := sorted(set(raw) - set(REGION_COLUMNS)):
        raise ValueError(f"{unknown[0]!r} is no field of an annotation. {_known(unknown[0])}")
    found: dict[str, Any] = {}
    if "kind" in raw:
        found["kind"] = _one_of(raw["kind"], schema.kinds, "kind", "kinds")
    if "label" in raw:
        found["label"] = None if raw["label"] is None else class_name(raw["label"], schema)
    if "text" in raw:
        if raw["text"] is not None and (not isinstance(raw["text"], str) or len(raw["text"]) > _LONGEST_TEXT):
            raise ValueError(f"text: expected at most {_LONGEST_TEXT:,} characters")
        found["text"] = raw["text"]
    if "attributes" in raw:
        found["attributes"] = _attributes(raw["attributes"], schema)
    if given := [name for name in _CORNERS if raw.get(name) is not None]:
        if len(given) < len(_CORNERS):
            raise ValueError(f"box: expected x1, y1, x2 and y2; got {', '.join(given)}")
        found |= dict(zip(_CORNERS, stored_box([raw[name] for name in _CORNERS], size), strict=True))
    if raw.get("geometry") is not None:
        found["geometry"] = _geometry(raw["geometry"], size)
        found |= dict(zip(_CORNERS, geometry_extent(found["geometry"]), strict=True))
    elif "geometry" in raw:
        found["geometry"] = None
    return found


def stored_box(corners: Sequence[Any], size: ImageSize) -> tuple[float, float, float, float]:
    """A box of the shown image, cut at its edges, as xyxy in the stored one. Raises ValueError."""
    x1, y1, x2, y2 = (_number(value, f"box: {name}") for value, name in zip(corners, _CORNERS, strict=True))
    width, height = shown_size(size)
    x1, x2 = (min(max(value, 0.0), float(width)) for value in (x1, x2))
    y1, y2 = (min(max(value, 0.0), float(height)) for value in (y1, y2))
    if x1 >= x2 or y1 >= y2:
        raise ValueError("box: expected x1 < x2 and y1 < y2 inside the image")
    turned = to_stored([[x1, y1], [x2, y2]], size).round(_DIGITS)
    (left, top), (right, bottom) = turned.min(axis=0).tolist(), turned.max(axis=0).tolist()
    return left, top, right, bottom


def class_name(value: Any, schema: LabelSchema) -> str:
    """Raises ValueError, with the nearest names, for what is no class in use."""
    return _one_of(value, schema.class_names, "label", "classes")


def _one_of(value: Any, known: Sequence[str], name: str, noun: str) -> str:
    if not isinstance(value, str) or value not in known:
        shown = str(value)[:100]
        raise ValueError(f"{name}: there is no {shown!r}. {did_you_mean(shown, known, noun=noun)}")
    return value


def _known(name: str) -> str:
    return did_you_mean(str(name)[:100], REGION_COLUMNS, noun="fields")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number; got {str(value)[:50]!r}")
    return float(value)


def _attributes(value: Any, schema: LabelSchema) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(canonical_json(dict(value))) > _LONGEST_TEXT:
        raise ValueError("attributes: expected an object of names and values")
    for attribute in schema.attributes:
        if attribute.type == "choice" and value.get(attribute.name) is not None:
            _one_of(value[attribute.name], attribute.values, f"attributes: {attribute.name}", "values")
    return dict(value)


def _geometry(value: Any, size: ImageSize) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) != 1 or not (set(value) & {"polygons", "keypoints"}):
        raise ValueError("geometry: expected polygons or keypoints; masks cannot be drawn here")
    if "polygons" in value:
        rings = value["polygons"]
        if not isinstance(rings, list | tuple) or not rings:
            raise ValueError("geometry: polygons: expected at least one list of x and y")
        return {"polygons": [_turned(_points(ring, 2, 3), size).ravel().tolist() for ring in rings]}
    triples = _points(value["keypoints"], 3, 1)
    triples[:, :2] = np.where(triples[:, 2:] > 0, _turned(triples[:, :2], size), 0.0)
    return {"keypoints": triples.ravel().tolist()}


def _points(value: Any, width: int, least: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Points (N, width) from a flat list or a list of lists."""
    flat = [item for part in value for item in (part if isinstance(part, list | tuple) else [part])] if (
        isinstance(value, list | tuple)
    ) else []  # fmt: skip
    if len(flat) % width or not least * width <= len(flat) <= _MOST_POINTS:
        raise ValueError(f"geometry: expected at least {least} points of {width} numbers each")
    return np.array([_number(item, "geometry") for item in flat], np.float64).reshape(-1, width)


def _turned(points: Any, size: ImageSize) -> np.ndarray[Any, np.dtype[np.float64]]:
    return to_stored(points, size).round(_DIGITS)
