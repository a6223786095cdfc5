"""Tasks as Labelbox's data rows, pre-annotations for model-assisted labeling, and an ontology that fits them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from datasetops.errors import StoreError
from datasetops.labeling.base import Row, Task
from datasetops.labeling.exchange import (
    ID_ATTRIBUTE,
    as_text,
    asked_of,
    box_of,
    fits,
    kinds_of,
    qualified,
    text_attribute,
    textless_label,
)
from datasetops.schema import Attribute, LabelSchema

QUESTION: Final = "class"  # the question that asks for the image's class
_TOOLS: Final = {
    "box": "rectangle",
    "text": "rectangle",
    "polygon": "polygon",
    "keypoints": "point",
    "mask": "raster-segmentation",
}
_GREY: Final = "#7f7f7f"


def write_labelbox(tasks: Iterable[Task], schema: LabelSchema, out: Path) -> list[str]:
    """Writes the three files and gives a sentence for each kind of value that they cannot hold. Raises StoreError."""
    losses: Counter[str] = Counter()
    rows: dict[str, bytes] = {}
    entries: list[bytes] = []
    for task in tasks:
        if task.sample_id in rows:
            losses["tasks ask for an image once more; it is written once"] += 1
            continue
        identity = {"global_key": task.sample_id, "external_id": task.sample_id}
        rows[task.sample_id] = orjson.dumps({"row_data": task.image, **identity})
        entries += [orjson.dumps(entry) for entry in _entries(task, schema, losses)]
    files = {
        out: b"\n".join([*rows.values(), b""]),
        out.with_name(f"{out.stem}.annotations.ndjson"): b"\n".join([*entries, b""]),
        out.with_name(f"{out.stem}.ontology.json"): orjson.dumps(ontology(schema), option=orjson.OPT_INDENT_2),
    }
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            message = f"{path} cannot be written: {error.strerror}."
            raise StoreError(message, remedy="Free space, or name another.") from error
    return [f"{count} {what}." for what, count in losses.items()]


def ontology(schema: LabelSchema) -> dict[str, Any]:
    """Labelbox's ontology for the schema: a tool for each class and form, a question for classes, one for each text."""
    tools: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    options: list[dict[str, Any]] = []
    for item in schema.classes:
        if item.deprecated:
            continue
        kinds = kinds_of(schema, item.name)
        nested = [_question(a) for a in asked_of(schema, item.name)] + [_text_question(ID_ATTRIBUTE)]
        if "text" in kinds:
            questions.append(_text_question(item.name))
        with_text = [*nested, _text_question(text_attribute(schema))] if "text" in kinds else nested
        for form in dict.fromkeys(_TOOLS[kind] for kind in kinds if kind in _TOOLS):
            kind = next(kind for kind in kinds if _TOOLS.get(kind) == form)
            given = {"tool": form, "name": _tool(schema, item.name, kind), "color": item.colour, "required": False}
            tools.append(given | {"classifications": with_text if form == "rectangle" else nested})
        if "classification" in kinds:
            options.append({"label": item.name, "value": item.name, "options": nested})
    if options:
        form = "checklist" if schema.multi_label else "radio"
        questions.insert(0, _text_question(QUESTION) | {"type": form, "options": options})
    if "text" in schema.kinds:
        name = textless_label(schema)
        questions.append(_text_question(name))
        nested = [_text_question(ID_ATTRIBUTE), _text_question(text_attribute(schema))]
        tools.append({"tool": "rectangle", "name": name, "color": _GREY, "required": False, "classifications": nested})
    return {"tools": tools, "classifications": questions}


def _text_question(name: str) -> dict[str, Any]:
    return {"type": "text", "name": name, "instructions": name, "required": False, "options": []}


def _question(attribute: Attribute) -> dict[str, Any]:
    values = ("true", "false") if attribute.type == "bool" else attribute.values
    form = {"type": "radio"} if values else {}
    return _text_question(attribute.name) | form | {"options": [{"label": v, "value": v} for v in values]}


def _tool(schema: LabelSchema, label: str | None, kind: str) -> str:
    """The plain name of a class is that of its first tool."""
    if label is None:
        return textless_label(schema)
    kinds = [other for other in kinds_of(schema, label) if other in _TOOLS]
    first = next((other for other in kinds if _TOOLS[other] == _TOOLS[kind]), kind)
    return label if not kinds or _TOOLS[kind] == _TOOLS[kinds[0]] else qualified(label, first)


def _entries(task: Task, schema: LabelSchema, losses: Counter[str]) -> Iterator[dict[str, Any]]:
    classes: list[dict[str, Any]] = []
    for row in task.annotations:
        kind, label = row["kind"], row.get("label")
        if (label is None and kind != "text") or (label is not None and schema.find(label) is None):
            losses[f"annotations of the kind {kind} are left out: the schema has no class {label!r}"] += 1
            continue
        if kind == "classification":
            classes.append({"name": label, "classifications": _answers(row, schema, losses)})
            continue
        try:
            shapes = list(_shapes(row, losses))
        except ValueError as error:
            losses[f"annotations of the kind {kind} are left out: {error}"] += 1
            continue
        if not shapes:  # a text of the whole image
            if row.get("attributes"):
                losses["attributes of a whole image's text are not written"] += 1
            yield _entry(task, row, 0, {"name": label or textless_label(schema), "answer": row.get("text") or ""})
        for number, shape in enumerate(shapes):
            answers = [] if number else _answers(row, schema, losses)
            yield _entry(task, row, number, {"name": _tool(schema, label, kind), "classifications": answers} | shape)
    if classes and schema.multi_label:
        yield _entry(task, {}, 0, {"name": QUESTION, "answer": classes})
    elif classes:
        if len(classes) > 1:
            losses["classifications are left out: an image has one in this schema"] += len(classes) - 1
        yield _entry(task, {}, 0, {"name": QUESTION, "answer": classes[0]})


def _entry(task: Task, row: Row, number: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """The same annotation has the same uuid in every export, so that importing twice changes nothing."""
    name = orjson.dumps([task.sample_id, task.batch, row.get("annotation_id"), number]).decode()
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "dataRow": {"globalKey": task.sample_id},
        **content,
    }


def _shapes(row: Row, losses: Counter[str]) -> Iterator[dict[str, Any]]:
    """None for a text without a place. Raises ValueError for what Labelbox has no form for."""
    kind, geometry, box = row["kind"], row.get("geometry") or {}, box_of(row)
    if kind == "polygon" and "polygons" in geometry:
        if len(geometry["polygons"]) > 1:
            losses["polygons have several rings; each is shown as one of its own"] += 1
        for ring in geometry["polygons"]:
            pairs = [{"x": float(x), "y": float(y)} for x, y in np.reshape(_finite(ring), (-1, 2))]
            yield {"polygon": [*pairs, pairs[0]]}
    elif kind == "keypoints" and len(geometry.get("keypoints", ())) == 3:
        x, y, _ = _finite(geometry["keypoints"])
        yield {"point": {"x": x, "y": y}}
    elif kind in ("box", "text") and box is not None:
        if geometry:
            losses["boxes have a geometry of their own; only the box is written"] += 1
        x1, y1, x2, y2 = box
        yield {"bbox": {"top": y1, "left": x1, "height": y2 - y1, "width": x2 - x1}}
    elif kind == "mask":
        raise ValueError("Labelbox takes masks as images that it fetches")
    elif kind != "text" or geometry:
        raise ValueError("Labelbox has no form for their place")


def _finite(values: Sequence[float]) -> list[float]:
    if not np.isfinite(np.asarray(values, np.float64)).all():
        raise ValueError("a coordinate is not a number")
    return [float(value) for value in values]


def _answers(row: Row, schema: LabelSchema, losses: Counter[str]) -> list[dict[str, Any]]:
    """Answers to the questions that are nested in a tool or an option."""
    given = dict(row.get("attributes") or {})
    answers: list[dict[str, Any]] = []
    for attribute in asked_of(schema, row.get("label")):
        value = given.pop(attribute.name, None)
        if value is not None and fits(attribute, value):
            text = as_text(value)
            chosen = attribute.type in ("bool", "choice")
            answers.append({"name": attribute.name, "answer": {"name": text} if chosen else text})
        elif value is not None:
            losses[f"values of {attribute.name!r} are not written: they do not fit its type"] += 1
    losses.update(f"values of {name!r} are not written: the schema does not ask for them" for name in given)
    if row["kind"] == "text":
        answers.append({"name": text_attribute(schema), "answer": row.get("text") or ""})
    if row.get("annotation_id"):
        answers.append({"name": ID_ATTRIBUTE, "answer": row["annotation_id"]})
    return answers
