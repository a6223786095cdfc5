"""The `annotations` and `categories` of a COCO file as annotation columns.

Checks run over whole columns: a file of 150,000 boxes takes about as long as its JSON does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from datasetops.formats.base import PARSED_ANNOTATIONS
from datasetops.formats.coco_file import ANNOTATION_EXTENSION, ANNOTATION_FIELDS, CocoFile, extension, is_id
from datasetops.formats.coco_images import ImageRows
from datasetops.formats.columns import filled, finite
from datasetops.formats.extents import ExtentFault, extent_faults
from datasetops.formats.rle import rle_fault
from datasetops.records import KINDS, SOURCES

_SORTED = orjson.OPT_SORT_KEYS
_TRUE = (1, "1")
_ALLOWED = {"kind": KINDS, "source": SOURCES}


@dataclass
class _Rows:
    """Annotations being checked. `good` loses a row at its first fault.

    `image` is the row of each one's image, `width` and `height` its size (NaN if unknown), `keys` all fields in use.
    """

    file: CocoFile
    entries: list[dict[str, Any]]
    keys: frozenset[str]
    image: NDArray[Any]
    width: NDArray[Any]
    height: NDArray[Any]
    good: NDArray[Any]

    def where(self, row: int) -> str:
        entry = self.entries[row]
        return f"annotation {entry.get('id', f'number {row}')} (image {entry.get('image_id')})"

    def reject(self, row: int, message: str, given: str | None = None) -> None:
        if self.good[row]:
            self.good[row] = False
            self.file.reject(f"{self.where(row)}: {message}", given=given)

    def own(self, row: int) -> dict[str, Any]:
        return extension(self.entries[row])


@dataclass(frozen=True)
class _Shapes:
    """For each row its kind and geometry; `extents` (N, 4) of its polygons, NaN without any."""

    kinds: list[str]
    geometries: list[dict[str, Any] | None]
    extents: NDArray[Any]


def read_annotations(file: CocoFile, images: ImageRows) -> pa.Table:
    """The columns of PARSED_ANNOTATIONS, without the rows at fault."""
    rows = _rows(file, images)
    external_ids = _external_ids(rows)
    labels = _labels(rows)
    boxes, given = _boxes(rows)
    shapes = _shapes(rows, given)
    for row, severity, message in _faults(rows, boxes, given, shapes.extents):
        if severity == "high":
            rows.reject(row, message)
        elif rows.good[row]:
            file.warn(f"{rows.where(row)}: {message}", severity=severity)
    columns = {"external_id": external_ids, "label": labels, "kind": shapes.kinds, "attributes": _attributes(rows)}
    for side, values in zip(("x1", "y1", "x2", "y2"), boxes.T, strict=True):
        columns[side] = pa.array(values, mask=~given)
    return _table(rows, images, columns, shapes)


def _rows(file: CocoFile, images: ImageRows) -> _Rows:
    entries = file.objects("annotations")
    image = _image_rows(entries, images)
    # Index -1 and -2 take the NaN at the end.
    width, height = (np.append(side, [np.nan, np.nan])[image] for side in (images.width, images.height))
    keys = frozenset(set().union(*entries))
    rows = _Rows(file, entries, keys, image, width, height, np.ones(len(entries), bool))
    rows.good &= image != -1  # these were counted with their image
    for row in np.flatnonzero(image == -2).tolist():
        rows.reject(row, "the file lists no such image")
    return rows


def _image_rows(entries: list[dict[str, Any]], images: ImageRows) -> NDArray[Any]:
    """Rows of the images table; -1 where the image was left out, -2 where there is none."""
    numbers = [entry.get("image_id") for entry in entries]
    try:
        found = [images.row_of.get(number, -2) for number in numbers]
    except TypeError:  # a list or an object in place of an id
        found = [images.row_of.get(number, -2) if is_id(number) else -2 for number in numbers]
    return np.array(found, np.int64)


def _external_ids(rows: _Rows) -> list[str | None]:
    ids = [entry.get("id") for entry in rows.entries]
    texts: list[str | None] = list(map(str, ids))
    if not set(map(type, ids)) <= {int, str}:
        texts = [text if is_id(number) else None for number, text in zip(ids, texts, strict=True)]
    if len(set(texts)) < len(texts):
        first: dict[str, int] = {}
        for row, text in enumerate(texts):
            if text is not None and first.setdefault(text, row) != row:
                other = rows.entries[first[text]].get("image_id")
                rows.reject(row, f"its id is used already, on image {other}; the first annotation is kept", given=text)
    return texts


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
            file.reject(
                f"{count} annotations are of category {number}, which is not in the file's categories", count=count
            )
    for row, (number, label) in enumerate(zip(given, labels, strict=True)):
        if label is None and number is None and not _needs_no_class(rows.entries[row]):
            rows.reject(row, "it has no category_id")
    return labels


def _needs_no_class(entry: dict[str, Any]) -> bool:
    return type(entry.get("caption")) is str or extension(entry).get("kind") == "text"


def _boxes(rows: _Rows) -> tuple[NDArray[Any], NDArray[Any]]:
    """(N, 4) xyxy pixels, and which rows have a box at all (N,)."""
    given: list[Any] = [entry.get("bbox") for entry in rows.entries]
    if "dsops" in rows.keys:
        given = [None if "bbox" in rows.own(row).get("computed", ()) else box for row, box in enumerate(given)]
    flat: list[Any] = []
    if set(map(type, given)) == {list} and set(map(len, given)) == {4}:
        flat = list(chain.from_iterable(given))
    if not flat or not set(map(type, flat)) <= {int, float}:
        flat = list(chain.from_iterable(_box(rows, row, box) for row, box in enumerate(given)))
    boxes = np.fromiter(flat, np.float64, len(flat)).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    return boxes, np.fromiter((box is not None and box != [] for box in given), bool, len(given))


def _box(rows: _Rows, row: int, box: Any) -> list[float]:
    if box is None or box == []:
        return [math.nan] * 4
    if type(box) is list and len(box) == 4 and all(type(value) in (int, float) for value in box):
        return box
    rows.reject(row, f"bbox {str(box)[:80]} is not a list of four numbers")
    return [math.nan] * 4


def _shapes(rows: _Rows, given: NDArray[Any]) -> _Shapes:
    count = len(rows.entries)
    kinds: list[str] = ["box"] * count
    geometries: list[dict[str, Any] | None] = [None] * count
    rings: list[list[float]] = []
    owners: list[int] = []
    shaped = rows.keys & {"segmentation", "keypoints"}
    for row in range(count) if shaped else np.flatnonzero(~given).tolist():
        if not rows.good[row]:
            continue
        entry = rows.entries[row]
        segmentation, points = entry.get("segmentation"), entry.get("keypoints")
        if segmentation or points:
            kinds[row], geometry, fault = _shape(segmentation, points, rows.width[row], rows.height[row])
            if fault:
                rows.reject(row, fault)
            else:
                geometries[row] = geometry
                rings += geometry.get("polygons", ())
                owners += [row] * (len(rings) - len(owners))
        elif not given[row]:
            kinds[row] = _kind_without_place(rows, row)
    return _Shapes(kinds, geometries, _extents(rings, np.array(owners, np.int64), count))


def _kind_without_place(rows: _Rows, row: int) -> str:
    kind = rows.own(row).get("kind") or ("text" if type(rows.entries[row].get("caption")) is str else None)
    if kind not in ("classification", "text"):
        rows.reject(row, "it has no bbox, segmentation or keypoints")
    return str(kind)


def _shape(segmentation: Any, points: Any, width: float, height: float) -> tuple[str, dict[str, Any], str | None]:
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


def _extents(rings: list[list[float]], owners: NDArray[Any], count: int) -> NDArray[Any]:
    """xyxy (`count`, 4) around each row's rings; `owners` gives the row of each ring, in ascending order."""
    extents = np.full((count, 4), np.nan)
    if rings:
        points = np.fromiter(chain.from_iterable(rings), np.float64).reshape(-1, 2)
        sizes = np.fromiter(map(len, rings), np.int64, len(rings)) // 2
        first_ring = np.flatnonzero(np.diff(owners, prepend=-1))
        first_point = (np.cumsum(sizes) - sizes)[first_ring]
        extents[owners[first_ring], :2] = np.minimum.reduceat(points, first_point)
        extents[owners[first_ring], 2:] = np.maximum.reduceat(points, first_point)
    return extents


def _faults(rows: _Rows, boxes: NDArray[Any], given: NDArray[Any], extents: NDArray[Any]) -> Iterator[ExtentFault]:
    """One for each row at most: of its box if that has any, else of its polygons."""
    seen: set[int] = set()
    for noun, places, present in (("box", boxes, given), ("polygon", extents, ~np.isnan(extents[:, 0]))):
        which = np.flatnonzero(present & rows.good)
        for index, severity, message in extent_faults(places[which], rows.width[which], rows.height[which], noun=noun):
            row = int(which[index])
            if row not in seen:
                seen.add(row)
                yield ExtentFault(row, severity, message)


def _table(rows: _Rows, images: ImageRows, columns: dict[str, Any], shapes: _Shapes) -> pa.Table:
    entries, keys = rows.entries, rows.keys
    columns["key"] = images.table["key"].take(pa.array(rows.image, mask=rows.image < 0)).combine_chunks()
    if any(shapes.geometries):
        columns["geometry"] = [shape and orjson.dumps(shape, option=_SORTED).decode() for shape in shapes.geometries]
    if "caption" in keys:
        columns["text"] = [text if type(text := entry.get("caption")) is str else None for entry in entries]
    if "score" in keys:
        columns["score"] = [_score(entry.get("score")) for entry in entries]
    if "dsops" in keys:
        for row in range(len(entries)):
            _apply_extension(columns, row, rows.own(row))
    table = filled(columns, PARSED_ANNOTATIONS)
    return table if rows.good.all() else table.filter(pa.array(rows.good))


def _score(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _attributes(rows: _Rows) -> list[bytes | None]:
    """`area` and fields that COCO gives no meaning, as given; `iscrowd` only where it is true."""
    extra = sorted(rows.keys - ANNOTATION_FIELDS)
    adjusted = "dsops" in rows.keys or rows.file.nonfinite
    texts: list[bytes | None] = []
    for row, entry in enumerate(rows.entries):  # one dictionary at a time: keeping 150,000 costs more than making them
        values = {key: entry[key] for key in extra if key in entry}
        if entry.get("iscrowd") in _TRUE:
            values["iscrowd"] = 1
        if adjusted:
            values = _adjusted(rows, row, values)
        texts.append(orjson.dumps(values, option=_SORTED) if values else None)
    return texts


def _adjusted(rows: _Rows, row: int, values: dict[str, Any]) -> dict[str, Any]:
    own = rows.own(row)
    values = {name: value for name, value in values.items() if name not in own.get("computed", ())}
    values |= own.get("attributes", {})
    return dict(finite(values)) if rows.file.nonfinite else values


def _apply_extension(columns: dict[str, Any], row: int, own: dict[str, Any]) -> None:
    for name in ANNOTATION_EXTENSION:
        if name in own and own[name] in _ALLOWED.get(name, (own[name],)):
            columns.setdefault(name, [None] * len(columns["label"]))[row] = own[name]
    if "annotation_id" in own:
        columns["external_id"][row] = None
