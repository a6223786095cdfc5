"""Rows of a Hugging Face data set as samples and annotations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import orjson

from datasetops.errors import FormatError
from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES, Parsed, ReadOptions
from datasetops.formats.columns import filled_rows, finite, json_text, parse_time
from datasetops.formats.extents import extent_faults
from datasetops.formats.geometry import geometry_extent
from datasetops.formats.hf_features import class_id, class_names, members
from datasetops.formats.hf_files import Held, HfFile
from datasetops.formats.hf_images import EmbeddedImages
from datasetops.formats.problems import Problems
from datasetops.formats.rle import rle_fault
from datasetops.formats.splits import UNSPLIT, split_in_name
from datasetops.records import KINDS, SOURCES
from datasetops.store.tree import SourceTree

_LABELS: Final = ("label", "labels")
_OBJECTS: Final = ("objects", "annotations")
_CATEGORIES: Final = ("category", "categories", "label", "labels", "class", "category_id")
_TEXTS: Final = ("text", "caption")
_FIELDS: Final = ("sample_id", "split", "group", "origin", "license", "consent")
_TIMES: Final = ("expires_at", "captured_at")
_SIZES: Final = ("width", "height")
_PLACES: Final = ("x1", "y1", "x2", "y2")
_OWN: Final = ("kind", "text", "source", "actor", "model", "score", "derived_from", "geometry", "attributes")
_READ: Final = frozenset({"id", "bbox", "area", "segmentation", *_CATEGORIES})
_LOOKED_AT: Final = 1000  # boxes by which xywh and xyxy are told apart


@dataclass
class _Columns:
    """Which column is what, for all files of a set, and the classes by number."""

    label: str | None
    objects: str | None
    text: str | None
    fields: dict[str, str]
    classes: dict[str, list[str]]
    category: str | None = None
    categories: list[str] | None = None
    ours: bool = False  # whether objects are as `hf_write` writes them, perhaps saved anew by `datasets`


@dataclass
class _Run:
    options: ReadOptions
    problems: Problems
    images: EmbeddedImages
    columns: _Columns
    samples: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    unknown: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def read_rows(source: SourceTree, files: Sequence[HfFile], options: ReadOptions, problems: Problems) -> Parsed:
    """Of all files. Raises FormatError where they cannot be read, or cannot be understood."""
    run = _Run(options, problems, EmbeddedImages(source), _columns(source.url, files, options))
    for file in files:
        _read_file(run, file)
    for (path, where, name), count in sorted(run.unknown.items()):
        problems.unknown_class(name, options.schema, path=path, where=where, count=count)
    _refuse_corners(run, source.url)
    _check_boxes(run)
    parsed = Parsed(
        filled_rows(run.samples, PARSED_SAMPLES),
        filled_rows(run.annotations, PARSED_ANNOTATIONS),
        problems.findings,
        problems.rejected,
    )
    parsed.notes += [f"{count:,} values were not taken: {what}" for what, count in sorted(run.left.items())]
    if len(run.images):
        parsed.images = run.images
        parsed.notes.append(
            f"{len(run.images):,} images lie inside of the set's files, and are copied into the repository"
        )
    return parsed


def _columns(url: str, files: Sequence[HfFile], options: ReadOptions) -> _Columns:
    features: dict[str, Any] = {}
    names: list[str] = []
    for file in files:
        features = dict(file.features) | features
        if file.schema is not None:
            names += [name for name in file.schema.names if name not in names]
        else:
            names += [
                name for name in dict.fromkeys(name for _, row in file.rows() for name in row) if name not in names
            ]
    classes = {name: told for name, item in features.items() if (told := class_names(item)) is not None}
    given = dict(options.columns)
    for name in given.values():
        if name not in names:
            raise FormatError(f"{url} has no column {name!r}.", remedy=f"Its columns are {', '.join(names)}.")
    label = given.pop("label", None) or next((name for name in _LABELS if name in names), None)
    if label is None and classes:
        if len(classes) > 1:
            raise FormatError(
                f"{url} has several columns of classes: {', '.join(classes)}.",
                remedy="Say which one is the label, for example --column label=" + next(iter(classes)),
            )
        label = next(iter(classes))
    objects = given.pop("objects", None) or next((name for name in _OBJECTS if members(features.get(name))), None)
    objects = objects or next((name for name in _OBJECTS if name in names), None)
    text = given.pop("text", None) or next((name for name in _TEXTS if name in names), None)
    fields = {name: name for name in (*_FIELDS, *_TIMES, *_SIZES) if name in names} | given
    found = _Columns(label, objects, text, fields, classes)
    if objects is not None:
        inside = members(features.get(objects))
        found.category = next((name for name in _CATEGORIES if name in inside), None)
        found.categories = class_names(inside.get(found.category)) if found.category else None
        found.ours = "sample_id" in names and {"id", "kind", "area"} <= inside.keys()
    return found


def _read_file(run: _Run, file: HfFile) -> None:
    own = file.own
    split = own.get("split") if own is not None else _named(file.split) or run.options.split
    for number, (held, row) in enumerate(file.rows()):
        key = f"{file.path}/{number}"
        try:
            media = _media(run, file, number, held, ours=own is not None)
        except FileNotFoundError:
            run.problems.reject(f"row {number}: the image {held.path!r} is not there", path=file.path, given=held.path)
            continue
        sample = _sample(run, row) | {"key": key, "media": media}
        sample["split"] = sample.get("split") or split
        run.samples.append(sample)
        _class_rows(run, file, key, row, own)
        if run.columns.text and isinstance(text := row.get(run.columns.text), str) and _is_text(run, own):
            run.annotations.append({"key": key, "kind": "text", "text": text})
        _object_rows(run, file, key, number, row, run.columns.ours)


def _media(run: _Run, file: HfFile, number: int, held: Held, *, ours: bool) -> str | None:
    """The image's path; None where the row has none. Raises FileNotFoundError for one that is not there."""
    if held.inside:
        return run.images.add(file, number, held.path)
    if not held.path:
        return None
    if held.path.startswith("/") or run.options.images.stat(held.path) is not None:
        return held.path
    if ours:  # written without images
        return None
    raise FileNotFoundError


def _sample(run: _Run, row: Mapping[str, Any]) -> dict[str, Any]:
    columns = run.columns
    values: dict[str, Any] = {}
    for name, column in columns.fields.items():
        value = row.get(column)
        if name in _TIMES:
            values[name] = (
                value if isinstance(value, datetime) else parse_time(value) if isinstance(value, str) else None
            )
        elif name in _SIZES:
            values[name] = int(value) if isinstance(value, int | float) and value > 0 else None
        elif value is not None:
            values[name] = str(value)
    read = {columns.label, columns.objects, *columns.fields.values()} | (
        {columns.text} if _is_text(run, None) else set()
    )
    metadata = _object(row.get("metadata"))
    if metadata:
        read.add("metadata")
    for name, value in row.items():
        if name in read or value is None:
            continue
        plain = _plain(_named_class(value, columns.classes.get(name)))
        if plain is None:
            run.left[f"the column {name!r} holds what JSON cannot"] += 1
        else:
            metadata[name] = plain
    return values | {"metadata": json_text(metadata)}


def _class_rows(run: _Run, file: HfFile, key: str, row: Mapping[str, Any], own: Mapping[str, Any] | None) -> None:
    column = run.columns.label
    value = row.get(column) if column else None
    names = run.columns.classes.get(column or "")
    for item in value if isinstance(value, list) else [value]:
        if (label := _label(run, file, item, names, f"column {column!r}")) is not None:
            made = {"key": key, "kind": "classification", "label": label}
            if own is not None:
                made["annotation_id"] = class_id(str(row["sample_id"]), label, multi=bool(own.get("multi")))
            run.annotations.append(made)


def _label(run: _Run, file: HfFile, value: Any, names: Sequence[str] | None, where: str) -> str | None:
    """A class by its name or number; -1 and nothing say that there is none. Unknown ones are counted, and None."""
    if isinstance(value, bool) or value is None or value == "" or value == -1:
        return None
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            run.problems.reject(f"{where}: the features have no class number {value}", path=file.path, given=str(value))
            return None
        value = names[value]
    name = str(value)
    if run.options.schema.find(name) is None:
        run.unknown[file.path, where, name] += 1
        return None
    return name


def _object_rows(run: _Run, file: HfFile, key: str, number: int, row: Mapping[str, Any], ours: bool) -> None:
    columns = run.columns
    value = row.get(columns.objects) if columns.objects else None
    try:
        entries = _entries(value)
    except ValueError as error:
        run.problems.reject(f"row {number}: {columns.objects}: {error}", path=file.path)
        return
    for at, entry in enumerate(entries):
        where = f"row {number}, object {at}"
        category = columns.category or next((name for name in _CATEGORIES if name in entry), None)
        given = entry.get(category) if category else None
        label = _label(run, file, given, columns.categories, f"column {columns.objects!r}")
        if label is None and (given is not None or not ours):
            if given is None:
                run.problems.reject(f"{where}: it has no class", path=file.path)
            continue
        made, fault = _shape(entry, ours, row)
        if fault:
            run.problems.reject(f"{where}: {fault}", path=file.path)
            continue
        identity = entry.get("id")
        if identity is not None:
            made["annotation_id" if ours else "external_id"] = str(identity)
        made["attributes"] = entry.get("attributes") if ours else _attributes(entry, category)
        run.annotations.append(made | {"key": key, "label": label, "_path": file.path, "_where": where})


def _entries(value: Any) -> list[dict[str, Any]]:
    """Objects from a list of dicts, or from a dict of lists. Raises ValueError where the lists differ in length."""
    if value is None:
        return []
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    if not isinstance(value, dict):
        raise ValueError("expected boxes, each with bbox and category")
    lists = {name: item for name, item in value.items() if isinstance(item, list)}
    lengths = {len(item) for item in lists.values()}
    if len(lengths) > 1:
        told = ", ".join(f"{name} {len(item)}" for name, item in lists.items())
        raise ValueError(f"its lists differ in length: {told}")
    return [{name: item[at] for name, item in lists.items()} for at in range(lengths.pop() if lengths else 0)]


def _shape(entry: Mapping[str, Any], ours: bool, row: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Kind, corners and geometry of an object, and what is wrong with it."""
    made: dict[str, Any] = {"kind": "box"}
    box = entry.get("bbox")
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            return made, f"bbox {str(box)[:60]} is not four numbers"
        x, y, width, height = map(float, box)
        made |= dict(zip(_PLACES, (x, y, x + width, y + height), strict=True))
    if ours:
        made |= {name: entry[name] for name in _OWN if entry.get(name) is not None and name != "attributes"}
        if made["kind"] not in KINDS or made.get("source", "import") not in SOURCES:
            return made, f"kind {made['kind']!r} or source {made.get('source')!r} is not known"
        return made, None
    rings = entry.get("segmentation")
    if isinstance(rings, list) and rings:
        rings = [rings] if all(_is_number(value) for value in rings) else rings
        if not all(isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 for ring in rings) or not all(
            _is_number(value) for ring in rings for value in ring
        ):
            return made, "segmentation is not a list of polygons"
        made |= {"kind": "polygon", "geometry": orjson.dumps({"polygons": rings}).decode()}
        if box is None:
            made |= dict(zip(_PLACES, geometry_extent({"polygons": rings}), strict=True))
    elif isinstance(rings, dict) and "counts" in rings:
        fault = rle_fault(rings, row.get("width") or math.nan, row.get("height") or math.nan)
        if fault:
            return made, fault
        mask = {"rle": {"size": rings["size"], "counts": rings["counts"]}}
        made |= {"kind": "mask", "geometry": orjson.dumps(mask, option=orjson.OPT_SORT_KEYS).decode()}
        if box is None:
            made |= dict(zip(_PLACES, geometry_extent(mask), strict=True))
    elif box is None:
        return made, "it has no bbox and no segmentation"
    return made, None


def _attributes(entry: Mapping[str, Any], category: str | None) -> str | None:
    values = {
        name: plain
        for name, value in entry.items()
        if name not in (_READ - {"area"}) and name != category and (plain := _plain(value)) is not None
    }
    return json_text(values)


def _refuse_corners(run: _Run, url: str) -> None:
    """Raises FormatError where boxes are plainly corners, x1, y1, x2, y2: read as sizes they would all be wrong."""
    size = {sample["key"]: (sample.get("width"), sample.get("height")) for sample in run.samples}
    looked = [row for row in run.annotations if row.get("x1") is not None and all(size[row["key"]])][:_LOOKED_AT]
    if not looked:
        return
    boxes = np.array([[row[side] for side in _PLACES] for row in looked], np.float64)
    sizes = np.array([size[row["key"]] for row in looked], np.float64)
    out = (boxes[:, 2:] > sizes + 0.5).any(axis=1).mean()
    far = boxes[:, 2:] - boxes[:, :2]
    as_corners = ((far > boxes[:, :2]) & (far <= sizes + 0.5)).all()
    if out > 0.1 and as_corners:
        raise FormatError(
            f"{url}: {out:.0%} of the boxes leave their images as x, y, width, height, and none as x1, y1, x2, y2.",
            remedy="Write bbox as x, y, width, height (for example with Dataset.map), and ingest that.",
        )


def _check_boxes(run: _Run) -> None:
    """Takes out annotations whose box has no area or lies outside, with findings; tells of those that stick out."""
    size = {sample["key"]: (sample.get("width"), sample.get("height")) for sample in run.samples}
    rows = [row for row in run.annotations if "_where" in row and row.get("x1") is not None]
    if rows:
        extents = np.array([[row[side] for side in _PLACES] for row in rows], np.float64)
        sizes = np.array([[side or np.nan for side in size[row["key"]]] for row in rows], np.float64)
        gone: set[int] = set()
        for at, severity, message in extent_faults(extents, sizes[:, 0], sizes[:, 1], noun="box"):
            row = rows[at]
            if severity == "high":
                gone.add(id(row))
                run.problems.reject(f"{row['_where']}: {message}", path=row["_path"])
            else:
                run.problems.warn(f"{row['_where']}: {message}", path=row["_path"], severity=severity)
        run.annotations = [row for row in run.annotations if id(row) not in gone]
    for row in run.annotations:
        row.pop("_where", None)
        row.pop("_path", None)


def _is_text(run: _Run, own: Mapping[str, Any] | None) -> bool:
    return own is not None or "text" in run.options.schema.kinds


def _named(split: str | None) -> str | None:
    """`validation` is val, as in every source; a name of its own stays."""
    if split is None or split == UNSPLIT:
        return None
    return (split_in_name(split) or split) if split.isalpha() else split


def _named_class(value: Any, names: Sequence[str] | None) -> Any:
    if names is None:
        return value
    if isinstance(value, list):
        return [_named_class(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _plain(value: Any) -> Any:
    """The value as JSON has it, None where it has no such form."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    try:
        plain = finite(value)
        orjson.dumps(plain)
    except TypeError:
        return None
    return plain


def _object(text: Any) -> dict[str, Any]:
    """A JSON object from its text; empty where it is none."""
    try:
        told = orjson.loads(text) if isinstance(text, str) and text.startswith("{") else None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
