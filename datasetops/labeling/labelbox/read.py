"""Labelbox's export (v2): one JSON object of a data row a line, or a list of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from datasetops.errors import FormatError
from datasetops.formats.columns import parse_time
from datasetops.labeling.base import Answer, AnsweredTask, ImageSize
from datasetops.labeling.exchange import (
    Found,
    Says,
    class_of,
    counted,
    outside,
    region_values,
    regions,
    sample_of,
    seen_as,
    textless_label,
    told,
    unknown_classes,
)
from datasetops.labeling.orientation import to_stored
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema

_REMEDY: Final = "Export the project again, as NDJSON with one data row a line."
_SKIPPED: Final = ("is_skipped", "skipped", "isSkipped")


def read_labelbox(
    path: Path, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
) -> list[AnsweredTask]:
    """One task for each data row and project. Raises FormatError, which names file and line."""
    tasks: list[AnsweredTask] = []
    for where, row in _rows(path):
        data_row = row.get("data_row") if isinstance(row, dict) else None
        if not isinstance(data_row, dict):
            raise FormatError(f"{where}: there is no data_row.", remedy=_REMEDY)
        names = [name for key in ("global_key", "external_id") if isinstance(name := data_row.get(key), str) and name]
        if not names:
            raise FormatError(f"{where}: data_row has neither global_key nor external_id.", remedy=_REMEDY)
        sample_id = next((name for name in names if name in sizes), None) or _by_stem(names, sizes)
        media = _object(row, "media_attributes")
        width, height = (side if type(side := media.get(key)) is int else None for key in ("width", "height"))
        size = sizes.get(sample_id) or ImageSize(width or 1, height or 1)
        frame, fault = seen_as(size, width, height, turned=False)
        faults = (fault,) if fault else ()
        number = str(data_row.get("id", ""))
        projects = {str(key): value for key, value in _object(row, "projects").items() if isinstance(value, dict)}
        for key, project in projects.items() or (("", {}),):
            batch = _object(project, "project_details").get("batch_name")
            labels = _items(project, "labels")
            answers = tuple(
                _answer(label, f"{key}/{number}/{i}", schema, frame, actor, faults) for i, label in enumerate(labels)
            )
            tasks.append(AnsweredTask(f"{key}/{number}", sample_id, batch if isinstance(batch, str) else "", answers))
    return tasks


def _by_stem(names: list[str], sizes: Mapping[str, ImageSize]) -> str:
    """A key that is the image's file name stands for the sample of its stem."""
    return next((stem for name in names if (stem := sample_of(name, sizes)) in sizes), names[0])


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.", remedy="Name the exported file.") from error
    try:
        if data.lstrip()[:1] == b"[":
            for number, row in enumerate(orjson.loads(data), start=1):
                yield f"{path}, entry {number}", row
            return
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{path}, line {error.lineno}: broken JSON: {error.msg}.", remedy=_REMEDY) from error
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                message = f"{path}, line {number}, column {error.colno}: broken JSON: {error.msg}."
                raise FormatError(message, remedy=_REMEDY) from error
            yield f"{path}, line {number}", row


def _answer(
    label: dict[str, Any], place: str, schema: LabelSchema, frame: ImageSize, actor: str | None, faults: tuple[str, ...]
) -> Answer:
    details, performance = _object(label, "label_details"), _object(label, "performance_details")
    who = details.get("created_by")
    marks = (label, details, performance)
    skipped = any(mark.get(name) is True for mark in marks for name in _SKIPPED)
    skipped = skipped or "skip" in str(label.get("label_kind", "")).casefold()
    reader = _Label(schema, frame)
    found = [] if skipped else reader.found(_object(label, "annotations"))
    return Answer(
        answer_id=str(label.get("id") or sha256_hex(canonical_json(place))[:16]),
        actor=who if isinstance(who, str) and who else actor or "unknown",
        status="skipped" if skipped else "done",
        regions=regions(found),
        lead_time=_seconds(performance.get("seconds_to_create")),
        created_at=_time(details.get("created_at")),
        updated_at=_time(details.get("updated_at")),
        unread=counted(reader.says.unread),
        problems=(*faults, *counted(reader.says.problems)),
    )


class _Label:
    """The annotations of one label. `frame` is the size and orientation that their coordinates have."""

    def __init__(self, schema: LabelSchema, frame: ImageSize) -> None:
        self._schema = schema
        self._frame = frame
        self._unknown: Counter[str] = Counter()
        self.says = Says()

    def found(self, annotations: Mapping[str, Any]) -> list[Found]:
        found: list[Found] = []
        where: list[tuple[str, Mapping[str, Any]]] = []
        for entry in _items(annotations, "objects"):
            name = f"{entry.get('annotation_kind', 'object')} {entry.get('feature_id', '')} ({entry.get('name', '')})"
            try:
                region = self._object(entry)
            except ValueError as error:
                self.says.unread.append(f"{name} is left out: {error}")
                continue
            if region is not None:
                found.append(region)
                where.append((name, region.values))
        for entry in _items(annotations, "classifications"):
            found += self._question(entry)
        self.says.unread += unknown_classes(self._unknown, self._schema)
        self.says.problems += outside(where, self._frame)
        return found

    def _class(self, name: str) -> tuple[bool, str | None]:
        """Whether the name is known, and the class, which a text may be without."""
        label = class_of(name, self._schema)
        known = label is not None or ("text" in self._schema.kinds and name == textless_label(self._schema))
        if not known:
            self._unknown[name] += 1
        return known, label

    def _object(self, entry: dict[str, Any]) -> Found | None:
        known, label = self._class(str(entry.get("name", "")))
        if not known:
            return None
        values = self._place(entry)
        more = told(self._texts(entry), values["kind"], label, self._schema, self.says)
        values |= {"kind": more.kind, "text": more.text, "attributes": more.attributes}
        name = entry.get("feature_id")
        return Found(region_values(label=label, **values), more.annotation_id, str(name) if name else None)

    def _place(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Kind, box and geometry. Raises ValueError."""
        if "bounding_box" in entry:
            box = _object(entry, "bounding_box")
            left, top, width, height = (_number(box, side) for side in ("left", "top", "width", "height"))
            corners = to_stored([(left, top), (left + width, top + height)], self._frame)
            return {"kind": "box", "box": [*corners.min(axis=0), *corners.max(axis=0)]}
        if "polygon" in entry:
            pairs = [(_number(point, "x"), _number(point, "y")) for point in _items(entry, "polygon")]
            pairs = pairs[:-1] if len(pairs) > 1 and pairs[0] == pairs[-1] else pairs  # Labelbox closes its rings
            if len(pairs) < 3:
                raise ValueError(f"it has {len(pairs)} points; a polygon has at least three")
            return {"kind": "polygon", "geometry": {"polygons": [to_stored(pairs, self._frame).ravel().tolist()]}}
        if "point" in entry:
            point = _object(entry, "point")
            places = to_stored(np.array([[_number(point, "x"), _number(point, "y")]]), self._frame)
            return {"kind": "keypoints", "geometry": {"keypoints": [*places[0].tolist(), 2]}}
        if "mask" in entry:
            raise ValueError("its mask is an address that only Labelbox's key opens")
        raise ValueError("no kind of annotation has its form")

    def _question(self, entry: dict[str, Any]) -> Iterator[Found]:
        """Classes from radio and checklist, a text from a text question."""
        name = str(entry.get("name", ""))
        if isinstance(entry.get("text_answer"), dict):
            known, label = self._class(name)
            text = _object(entry, "text_answer").get("content")
            if known and isinstance(text, str):
                yield Found(region_values("text", label, text=text), None, _feature(entry))
            return
        chosen = [_object(entry, "radio_answer")] if "radio_answer" in entry else _items(entry, "checklist_answers")
        for answer in chosen:
            known, label = self._class(str(answer.get("name", "")))
            if known and label is not None:
                more = told(self._texts(answer), "classification", label, self._schema, self.says)
                values = region_values("classification", label, attributes=more.attributes)
                yield Found(values, more.annotation_id, _feature(answer) or _feature(entry))

    def _texts(self, entry: Mapping[str, Any]) -> dict[str, str]:
        """Answers to nested questions."""
        texts: dict[str, str] = {}
        for question in _items(entry, "classifications"):
            answers = [_object(question, "radio_answer")] if "radio_answer" in question else []
            chosen = [str(answer.get("name", "")) for answer in answers or _items(question, "checklist_answers")]
            text = _object(question, "text_answer").get("content")
            if len(chosen) > 1:
                self.says.unread.append(f"{question.get('name')!r} is left out: it has {len(chosen)} answers")
            elif chosen or isinstance(text, str):
                texts[str(question.get("name", ""))] = chosen[0] if chosen else str(text)
        return texts


def _feature(entry: Mapping[str, Any]) -> str | None:
    return str(entry["feature_id"]) if entry.get("feature_id") else None


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _items(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    inner = value.get(key)
    return [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []


def _number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{key} {number!r} is not a number" if key in value else f"it has no {key}")
    return float(number)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None


def _time(text: object) -> str | None:
    time = parse_time(text) if isinstance(text, str) else None
    return time.isoformat() if time else None
