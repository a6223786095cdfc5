"""FiftyOne's labels as annotations: what `labels` writes, and what people draw there, in pixels of the stored image.

A label that began as an annotation gives back the very values of its row wherever FiftyOne still shows what was written:
only what was changed is converted, and a corner that did not move stays to the last bit.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.fiftyone.labels import Document
from datasetops.fiftyone.merge import plain
from datasetops.fiftyone.values import Values
from datasetops.formats.geometry import geometry_extent
from datasetops.labeling.base import REGION_COLUMNS, ImageSize
from datasetops.labeling.exchange import as_text, fits, typed
from datasetops.labeling.masks import check_size, encoded
from datasetops.labeling.orientation import mask_to_stored, shown_size, to_stored
from datasetops.schema import LabelSchema

_SIDES: Final = ("x1", "y1", "x2", "y2")
_NEAR: Final = 1e-3  # pixels: what a tool's rounding may move
_TEXTS: Final = ("texts",)
_CLASSES: Final = ("classification", "classifications")
_MASK_BYTES: Final = 1 << 30  # of one mask, unpacked


class UnreadError(Exception):
    """Internal: why a label cannot be an annotation. `label` is its class where the schema does not have that."""

    def __init__(self, reason: str, label: str | None = None) -> None:
        super().__init__(reason)
        self.label = label


class Reader:
    """Reads labels for one schema. `attributes` says which of a label's keys are which attributes."""

    def __init__(self, schema: LabelSchema, attributes: Values) -> None:
        self._schema = schema
        self._attributes = attributes
        self._declared = {item.name: item for item in schema.attributes}

    def values(
        self,
        field: str,
        label: Document,
        size: ImageSize | None,
        began: Mapping[str, Any] | None = None,
        shown: Document | None = None,
    ) -> dict[str, Any]:
        """REGION_COLUMNS of a label in one of `labels.FIELDS`. `began` is the row that it was, `shown` what is written for it.

        Geometry and attributes are dicts, in `began` too. Raises UnreadError.
        """
        old = {name: began.get(name) for name in REGION_COLUMNS} if began is not None else None
        shown = shown or {}
        made: dict[str, Any] = dict.fromkeys(REGION_COLUMNS) | (old or {})
        made["kind"] = old["kind"] if old else self._kind(field, label)
        self._words(made, label, shown, old)
        if field not in (*_TEXTS, *_CLASSES):
            if size is None:
                raise UnreadError("the size of the image is not known")
            task = self._schema.task("keypoints")
            if field == "keypoints" and old is None and task and len(label.get("points") or ()) != len(task.keypoints):
                raise UnreadError(f"it has not the {len(task.keypoints)} points that the schema names")
            made |= _place(field, label, shown, size, old)
        made["attributes"] = self._attributes_of(label, shown, old)
        return made

    def _kind(self, field: str, label: Document) -> str:
        kinds = self._schema.kinds
        if field in _CLASSES:
            return "classification"
        if field in _TEXTS or (field == "boxes" and label.get("text") and "text" in kinds):
            return "text"
        if field == "polygons":
            return "mask" if "mask" in kinds and "polygon" not in kinds else "polygon"
        return {"boxes": "box", "masks": "mask", "keypoints": "keypoints"}[field]

    def _words(self, made: dict[str, Any], label: Document, shown: Document, old: Mapping[str, Any] | None) -> None:
        """Sets label and text. A text without a class is shown as the label's name."""
        name, text = label.get("label"), label.get("text")
        renamed = old is None or name != shown.get("label")
        if old is None or text != shown.get("text"):
            made["text"] = text
        if made["kind"] == "text":
            classless = old["label"] is None if old else self._schema.find(name or "") is None
            if renamed and classless:
                made["label"], made["text"] = None, text if old is None and text else name
                renamed = False
            if not made["text"]:
                raise UnreadError("it has no text")
        if renamed:
            made["label"] = self._class_of(name, made["kind"])

    def _class_of(self, name: str | None, kind: str) -> str:
        if not name:
            raise UnreadError("it has no class")
        found = self._schema.find(name)
        if found is None:
            raise UnreadError(f"the schema {self._schema.name} has no class {name!r}", name)
        if found.deprecated or (found.kinds and kind not in found.kinds):
            raise UnreadError(
                f"the class {name!r} is " + ("no longer in use" if found.deprecated else f"not for a {kind}")
            )
        return name

    def _attributes_of(self, label: Document, shown: Document, old: Mapping[str, Any] | None) -> dict[str, Any] | None:
        given = dict((old or {}).get("attributes") or {})
        for key in self._attributes.keys:
            name = self._attributes.field_of(key)
            value = label.get(name)
            if plain(value) == plain(shown.get(name)):
                continue
            if value is None:
                given.pop(key, None)
                continue
            if not isinstance(value, bool | int | float | str) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise UnreadError(f"the attribute {key!r} is {str(value)[:40]!r}: no number, text or truth value")
            given[key] = self._fitting(key, value)
        return given or None

    def _fitting(self, key: str, value: bool | int | float | str) -> Any:
        asked = self._declared.get(key)
        if asked is None or fits(asked, value):
            return value
        try:
            return typed(asked, as_text(value))
        except ValueError as error:
            raise UnreadError(f"the attribute {key!r}: {error}") from None


def _place(
    field: str, label: Document, shown: Document, size: ImageSize, old: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The four corners and the geometry."""
    keys = {
        "polygons": ("points",),
        "keypoints": ("points", "visibility"),
        "masks": ("bounding_box", "mask", "mask_path"),
    }
    told = keys.get(field, ("bounding_box",))
    if old is not None and all(plain(label.get(key)) == plain(shown.get(key)) for key in told):
        return {}
    if field == "boxes":
        if label.get("mask") is not None or label.get("mask_path"):
            raise UnreadError("it has got a mask, and the field 'boxes' holds none: draw it in 'masks'")
        return dict(zip(_SIDES, box_of(label.get("bounding_box"), size, old), strict=True))
    geometry = (old or {}).get("geometry") or {}
    if field == "polygons":
        made: dict[str, Any] = {"polygons": _rings(label, size, geometry.get("polygons"))}
    elif field == "keypoints":
        made = {"keypoints": _points(label, shown, size, geometry.get("keypoints"))}
    else:
        mask = mask_of(label, size)
        if mask is None:
            raise UnreadError("it has no mask")
        made = {"rle": encoded(mask)}
    corners = [float(value) for value in geometry_extent(made)]
    if field == "keypoints" and old is not None and old["x1"] is not None and _has_own_box(old):
        corners = [old[side] for side in _SIDES]
    return dict(zip(_SIDES, corners, strict=True)) | {"geometry": made}


def box_of(box: Any, size: ImageSize, old: Mapping[str, Any] | None = None) -> list[float]:
    """FiftyOne's relative x, y, width and height → xyxy pixels as stored; corners of `old` that did not move stay exact.

    Raises UnreadError for what is no box, or has no area in the image.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise UnreadError("its bounding box is not four numbers")
    x, y, width, height = (float(value) for value in box)
    if not (width > 0 and height > 0):
        raise UnreadError("its bounding box has no area")
    if x >= 1 or y >= 1 or x + width <= 0 or y + height <= 0:
        raise UnreadError("its bounding box lies outside of the image")
    (ax, ay), (bx, by) = _pixels([(x, y), (x + width, y + height)], size).tolist()
    corners = [min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)]
    sides = (size.width, size.height, size.width, size.height)
    corners = [_snapped(value, (0.0, float(side))) for value, side in zip(corners, sides, strict=True)]
    if old is not None and old["x1"] is not None:
        corners = [_snapped(value, (old[side],)) for value, side in zip(corners, _SIDES, strict=True)]
    return corners


def _rings(label: Document, size: ImageSize, old: Sequence[Sequence[float]] | None) -> list[list[float]]:
    shapes = label.get("points")
    if label.get("closed") is False:
        raise UnreadError("it is an open line, and no polygon")
    if not isinstance(shapes, list) or not shapes:
        raise UnreadError("it has no points")
    rings = []
    for number, shape in enumerate(shapes):
        if not isinstance(shape, list) or len(shape) < 3 or not all(_is_pair(point) for point in shape):
            raise UnreadError("a ring of it has fewer than three points")
        flat = _pixels(shape, size).ravel().tolist()
        before = old[number] if old is not None and number < len(old) and len(old[number]) == len(flat) else None
        rings.append([_snapped(value, (before[at],)) if before else value for at, value in enumerate(flat)])
    return rings


def _points(label: Document, shown: Document, size: ImageSize, old: Sequence[float] | None) -> list[float]:
    """x, y, visibility for each; what has no place is not visible, what got one is."""
    points = label.get("points")
    if not isinstance(points, list) or not points or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise UnreadError("it has no points")
    if old is not None and len(points) * 3 != len(old):
        raise UnreadError(f"it has {len(points)} points; {len(old) // 3} were written")
    seen = label.get("visibility") or []
    there = [_is_pair(point) for point in points]
    places = _pixels([point if ok else (0.0, 0.0) for point, ok in zip(points, there, strict=True)], size).tolist()
    told: list[float] = []
    for at, ((x, y), ok) in enumerate(zip(places, there, strict=True)):
        given = seen[at] if at < len(seen) and seen[at] in (1, 2) else 2
        before = old[at * 3 : at * 3 + 3] if old is not None else None
        if not ok:
            told += before if before is not None and before[2] == 0 else [0, 0, 0]
        else:
            told += [_snapped(x, before[:1]) if before else x, _snapped(y, before[1:2]) if before else y, given]
    return told


def mask_of(label: Document, size: ImageSize) -> npt.NDArray[np.bool_] | None:
    """A Detection's mask (height, width) in the stored image, None where it has none. Raises UnreadError."""
    given = _given_mask(label)
    if given is None:
        return None
    if given.ndim != 2 or not given.any():
        raise UnreadError("its mask is empty" if given.ndim == 2 else "its mask is not of one channel")
    box_of(label.get("bounding_box"), size)
    x, y, share_x, share_y = (float(value) for value in label["bounding_box"])
    width, height = shown_size(size)
    try:
        check_size(width, height)
    except ValueError as error:
        raise UnreadError(str(error)) from None
    left, top = round(x * width), round(y * height)
    across, down = max(1, round(share_x * width)), max(1, round(share_y * height))
    if given.shape != (down, across):
        given = np.asarray(Image.fromarray(given).resize((across, down), Image.Resampling.NEAREST))
    whole = np.zeros((height, width), bool)
    part = given[max(0, -top) : height - top, max(0, -left) : width - left]
    whole[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]] = part
    if not whole.any():
        raise UnreadError("its mask lies outside of the image")
    return mask_to_stored(whole, size)


def _given_mask(label: Document) -> npt.NDArray[np.bool_] | None:
    data = label.get("mask")
    try:
        if data is not None:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(bytes(data), _MASK_BYTES)
            given: npt.NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
            return given.astype(bool)
        if label.get("mask_path"):
            with Image.open(Path(label["mask_path"])) as picture:
                return np.asarray(picture).astype(bool)
    except (OSError, ValueError, zlib.error, TypeError, Image.DecompressionBombError) as error:
        raise UnreadError(f"its mask cannot be read: {str(error).partition(chr(10))[0][:80]}") from None
    return None


def _has_own_box(row: Mapping[str, Any]) -> bool:
    extent = geometry_extent(row["geometry"])
    return any(abs(row[side] - value) > _NEAR for side, value in zip(_SIDES, extent, strict=True))


def _pixels(shares: Sequence[Sequence[float]], size: ImageSize) -> npt.NDArray[np.float64]:
    places = np.asarray(shares, np.float64).reshape(-1, 2) * np.asarray(shown_size(size), np.float64)
    return places if size.orientation == 1 else to_stored(places, size)


def _snapped(value: float, old: Sequence[float]) -> float:
    return next((float(other) for other in old if abs(value - other) < _NEAR), value)


def _is_pair(point: Any) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and all(_is_finite(value) for value in point)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
