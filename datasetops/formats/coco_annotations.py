"""The `annotations` and `categories` of a COCO file as annotation columns.

Checks run over whole columns: a file of 150,000 boxes takes about as long as its JSON does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from datasetops.formats.base import PARSED_ANNOTATIONS
from datasetops.formats.coco_file import ANNOTATION_EXTENSION, ANNOTATION_FIELDS, CocoFile, is_id
from datasetops.formats.coco_images import ImageRows
from datasetops.formats.columns import filled, finite, json_text
from datasetops.formats.extents import ExtentFault, extent_faults
from datasetops.formats.rle import rle_fault
from datasetops.records import KINDS, SOURCES


@dataclass
class _Rows:
    """Annotations being checked: `good` loses a row at its first fault, `image` is the row of its image."""

    file: CocoFile
    entries: list[dict[str, Any]]
    image: np.ndarray
    good: np.ndarray

    def where(self, row: int) -> str:
        entry = self.entries[row]
        return f"annotation {entry.get('id', f'number {row}')} (image {entry.get('image_id')})"

    def reject(self, row: int, message: str, given: str | None = None) -> None:
        if self.good[row]:
            self.good[row] = False
            self.file.reject(f"{self.where(row)}: {message}", given=given)


@dataclass(frozen=True)
class _Shapes:
    """For each row its kind ("" for none), geometry, and the extent of its polygons (N, 4), NaN without any."""

    kinds: list[str]
    geometries: list[dict[str, Any] | None]
    extents: np.ndarray


def read_annotations(file: CocoFile, images: ImageRows) -> pa.Table:
    entries = file.objects("annotations")
    rows = _Rows(file, entries, _image_rows(entries, images), np.ones(len(entries), bool))
    rows.good &= rows.image != -1  # counted with their image
    for row in np.flatnonzero(rows.image == -2).tolist():
        rows.reject(row, "the file lists no such image")
    _check_ids(rows)
    labels = _labels(rows)
    boxes = _boxes(rows)
    sizes = [np.where(rows.image >= 0, side[rows.image], np.nan) if side.size else np.empty(0) for side in _sides(images)]
    shapes = _shapes(rows, boxes, *sizes)
    faults = _faults(boxes, shapes.extents, *sizes)
    for row, severity, message in faults:
        if severity == "high":
            rows.reject(row, message)
        elif rows.good[row]:
            file.warn(f"{rows.where(row)}: {message}", severity=severity)
    return _table(rows, images, labels, boxes, shapes)


def _sides(images: ImageRows) -> Iterator[np.ndarray]:
    yield images.width
    yield images.height


def _image_rows(entries: list[dict[str, Any]], images: ImageRows) -> np.ndarray:
    """Rows of the images table; -1 where the image was left out, -2 where there is none."""
    numbers = [entry.get("image_id") for entry in entries]
    try:
        found = [images.row_of.get(number, -2) for number in numbers]
    except TypeError:  # a list or an object in place of an id
        found = [images.row_of.get(number, -2) if is_id(number) else -2 for number in numbers]
    return np.array(found, np.int64)


def _check_ids(rows: _Rows) -> None:
    ids = [entry.get("id") for entry in rows.entries]
    texts = list(map(str, ids))
    if len(set(texts)) == len(texts):
        return
    first: dict[str, int] = {}
    for row, (number, text) in enumerate(zip(ids, texts, strict=True)):
        if is_id(number) and first.setdefault(text, row) != row:
            other = rows.entries[first[text]].get("image_id")
            rows.reject(row, f"its id is used already, on image {other}; the first annotation is kept", given=text)


def _labels(rows: _Rows) -> list[str | None]:
    """Class names; unknown ones are one finding each, however many annotations have them."""
    file = rows.file
    names = {
        entry["id"]: name.strip()
        for entry in file.objects("categories")
        if is_id(entry.get("id")) and type(name := entry.get("name")) is str
    }
    known = {number: name for number, name in names.items() if file.schema.find(name) is not None}
    given = [entry.get("category_id") for entry in rows.entries]
    try:
        labels = [known.get(number) for number in given]
    except TypeError:
        given = [number if is_id(number) else str(number) for number in given]
        labels = [known.get(number) for number in given]
    if None not in labels:
        return labels
    unknown = [row for row, label in enumerate(labels) if label is None and given[row] is not None and rows.good[row]]
    rows.good[unknown] = False
    for number, count in sorted(Counter(given[row] for row in unknown).items(), key=str):
        if number in names:
            where = f"{file.path}: category {number}"
            file.problems.unknown_class(names[number], file.schema, path=file.path, where=where, count=count)
        else:
            file.reject(f"{count} annotations are of category {number}, which is not in the file's categories", count=count)
    for row, (number, label) in enumerate(zip(given, labels, strict=True)):
        if label is None and number is None and not _needs_no_class(rows.entries[row]):
            rows.reject(row, "it has no category_id")
    return labels


def _needs_no_class(entry: dict[str, Any]) -> bool:
    own = entry.get("dsops")
    return type(entry.get("caption")) is str or (type(own) is dict and own.get("kind") == "text")


def _boxes(rows: _Rows) -> np.ndarray:
    """(N, 4) xyxy pixels; rows of NaN where the file gives no box."""
    given = [entry.get("bbox") for entry in rows.entries]
    try:
        regular = set(map(len, given)) <= {4}  # type: ignore[arg-type]
        boxes = np.fromiter(chain.from_iterable(given), np.float64, 4 * len(given)) if regular else None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        boxes = None
    if boxes is None:
        boxes = np.array([_box(rows, row, box) for row, box in enumerate(given)], np.float64)
    boxes = boxes.reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    return boxes


def _box(rows: _Rows, row: int, box: Any) -> list[float]:
    if box is None or box == []:
        return [math.nan] * 4
    if type(box) is list and len(box) == 4 and all(type(value) in (int, float) for value in box):
        return box
    rows.reject(row, f"bbox {str(box)[:80]} is not a list of four numbers")
    return [math.nan] * 4


def _shapes(rows: _Rows, boxes: np.ndarray, width: np.ndarray, height: np.ndarray) -> _Shapes:
    count = len(rows.entries)
    kinds, geometries = ["box"] * count, [None] * count  # type: list[str], list[dict[str, Any] | None]
    extents = np.full((count, 4), np.nan)
    keys = set().union(*rows.entries)
    if keys & {"segmentation", "keypoints"}:
        rings: list[list[float]] = []
        owners: list[int] = []
        for row, entry in enumerate(rows.entries):
            if not rows.good[row]:
                continue
            segmentation, points = entry.get("segmentation"), entry.get("keypoints")
            if not segmentation and not points:
                continue
            kind, geometry, fault = _shape(segmentation, points, width[row], height[row])
            if fault:
                rows.reject(row, fault)
                continue
            kinds[row], geometries[row] = kind, geometry
            for ring in geometry.get("polygons", ()):
                rings.append(ring)
                owners.append(row)
        _fill_extents(extents, rings, np.array(owners, np.int64))
    if keys & {"dsops", "caption"} or None in keys or not np.isfinite(boxes).all():
        for row in np.flatnonzero(rows.good & np.isnan(boxes).all(axis=1)).tolist():
            if geometries[row] is None:
                kinds[row] = _kind_without_place(rows, row)
    return _Shapes(kinds, geometries, extents)


def _kind_without_place(rows: _Rows, row: int) -> str:
    entry = rows.entries[row]
    own = entry.get("dsops")
    kind = own.get("kind") if type(own) is dict else "text" if type(entry.get("caption")) is str else None
    if kind in ("classification", "text"):
        return str(kind)
    if entry.get("bbox"):  # four values, none of them a number
        return "box"
    rows.reject(row, "it has no bbox, segmentation or keypoints")
    return ""


def _shape(
    segmentation: Any, points: Any, width: float, height: float
) -> tuple[str, dict[str, Any], str | None]:
    """Kind and geometry, and what is wrong with them. Keypoints go before a mask or polygons beside them."""
    geometry: dict[str, Any] = {}
    kind, fault = "", None
    if type(segmentation) is dict:
        kind, geometry["rle"] = "mask", {key: segmentation.get(key) for key in ("size", "counts")}
        fault = rle_fault(segmentation, width, height)
    elif type(segmentation) is list and segmentation:
        kind, geometry["polygons"] = "polygon", segmentation
        fault = _ring_fault(segmentation)
    elif segmentation:
        fault = "segmentation is neither a list of polygons nor an RLE mask"
    if points:
        kind, geometry["keypoints"] = "keypoints", points
        fault = fault or _points_fault(points)
    return kind, geometry, fault


def _ring_fault(rings: list[Any]) -> str | None:
    for number, ring in enumerate(rings):
        if type(ring) is not list or len(ring) < 6 or len(ring) % 2:
            size = f"{len(ring)} numbers" if type(ring) is list else repr(ring)[:40]
            return f"polygon {number} has {size}; expected x, y pairs of at least three points"
        if not _all_numbers(ring):
            return f"polygon {number} has a coordinate that is not a number"
    return None


def _points_fault(points: Any) -> str | None:
    if type(points) is not list or len(points) % 3:
        return "keypoints are not a list of x, y, visibility triples"
    return None if _all_numbers(points) else "a keypoint has a coordinate that is not a number"


def _all_numbers(values: list[Any]) -> bool:
    # The sum of finite coordinates is finite, and adding anything that is no number to one fails.
    try:
        return math.isfinite(math.fsum(values)) and bool not in map(type, values)
    except (TypeError, ValueError, OverflowError):
        return False


def _fill_extents(extents: np.ndarray, rings: list[list[float]], owners: np.ndarray) -> None:
    """`owners` gives the row of each ring, in ascending order."""
    if not rings:
        return
    points = np.fromiter(chain.from_iterable(rings), np.float64).reshape(-1, 2)
    sizes = np.fromiter(map(len, rings), np.int64, len(rings)) // 2
    first_ring = np.flatnonzero(np.diff(owners, prepend=-1))
    first_point = (np.cumsum(sizes) - sizes)[first_ring]
    extents[owners[first_ring], :2] = np.minimum.reduceat(points, first_point)
    extents[owners[first_ring], 2:] = np.maximum.reduceat(points, first_point)


def _faults(
    boxes: np.ndarray, extents: np.ndarray, width: np.ndarray, height: np.ndarray
) -> Iterable[ExtentFault]:
    """Of the box if there is one, else of the polygons; polygons beside a sound box only for leaving the image."""
    given = ~np.isnan(boxes).all(axis=1)
    seen: set[int] = set()
    for noun, places, rows in (
        ("box", boxes, np.flatnonzero(given)),
        ("polygon", extents, np.flatnonzero(~np.isnan(extents[:, 0]))),
    ):
        for row, severity, message in extent_faults(places[rows], width[rows], height[rows], noun=noun):
            if int(rows[row]) not in seen:
                seen.add(int(rows[row]))
                yield ExtentFault(int(rows[row]), severity, message)


def _table(
    rows: _Rows, images: ImageRows, labels: list[str | None], boxes: np.ndarray, shapes: _Shapes
) -> pa.Table:
    entries = rows.entries
    keys = images.table["key"].combine_chunks()
    columns: dict[str, Any] = {
        "key": keys.take(pa.array(np.maximum(rows.image, 0))) if len(keys) else pa.nulls(len(entries), pa.string()),
        "external_id": [str(number) if is_id(number := entry.get("id")) else None for entry in entries],
        "kind": shapes.kinds,
        "label": labels,
        "geometry": _geometry_texts(shapes.geometries),
        "text": [entry.get("caption") for entry in entries] if any("caption" in e for e in entries) else None,
        "score": [_score(entry.get("score")) for entry in entries] if any("score" in e for e in entries) else None,
        "attributes": _attributes(rows),
    }
    for side, values in zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True):
        columns[side] = pa.array(values, from_pandas=True)  # NaN as null
    columns = {name: column for name, column in columns.items() if column is not None}
    for row, entry in enumerate(entries):
        if type(own := entry.get("dsops")) is dict:
            _apply_extension(columns, row, own)
    table = filled(columns, PARSED_ANNOTATIONS)
    return table if rows.good.all() else table.filter(pa.array(rows.good))


def _score(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _geometry_texts(geometries: list[dict[str, Any] | None]) -> list[str | None] | None:
    if not any(geometries):
        return None
    return [None if shape is None else orjson.dumps(shape, option=orjson.OPT_SORT_KEYS).decode() for shape in geometries]


def _attributes(rows: _Rows) -> list[str | None]:
    """Fields that COCO gives no meaning and `area`, as given; `iscrowd` only where it is true."""
    extra = sorted(set().union(*rows.entries) - ANNOTATION_FIELDS)
    dumps = orjson.dumps
    entries, nonfinite = rows.entries, rows.file.nonfinite
    texts: list[str | None] = []
    for entry in entries:
        values = {key: entry[key] for key in extra if key in entry}
        if entry.get("iscrowd") in (1, "1"):
            values["iscrowd"] = 1
        if "dsops" in entry and type(own := entry["dsops"]) is dict:
            for name in own.get("computed") or ():
                values.pop(name, None)
            if type(own.get("attributes")) is dict:
                values.update(own["attributes"])
        texts.append(json_text(finite(values)) if nonfinite else dumps(values, option=orjson.OPT_SORT_KEYS).decode() if values else None)
    return texts


def _apply_extension(columns: dict[str, Any], row: int, own: dict[str, Any]) -> None:
    """What `coco_write` put below "dsops"."""
    allowed = {"kind": KINDS, "source": SOURCES}
    for name in ANNOTATION_EXTENSION:
        value = own.get(name)
        if type(value) is str and value in allowed.get(name, (value,)):
            columns.setdefault(name, [None] * len(columns["label"]))[row] = value
    if own.get("annotation_id") is not None:
        columns["external_id"][row] = None
    if "bbox" in (own.get("computed") or ()):
        for side in ("x1", "y1", "x2", "y2"):
            if isinstance(columns[side], pa.Array):
                columns[side] = columns[side].to_pylist()
            columns[side][row] = None
