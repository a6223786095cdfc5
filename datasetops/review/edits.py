"""One decision against the version that it is to change: what it puts, removes or excludes, or why it cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from datasetops.audits.decisions.decision import REVIEW, Decision
from datasetops.audits.decisions.fix import CORNERS
from datasetops.formats.geometry import geometry_extent
from datasetops.identity import region_name
from datasetops.labeling.answers import same_content
from datasetops.labeling.base import REGION_COLUMNS
from datasetops.records import canonical_json
from datasetops.review.fixes import describe
from datasetops.review.places import Place, Row
from datasetops.schema import LabelSchema

_CLASS: Final = "classification"
_NAMED: Final = ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "text")  # what a new region's id is made of


class CannotApplyError(Exception):
    """Internal: why a fix cannot be applied, and what stands there instead, in words."""

    def __init__(self, reason: str, theirs: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.theirs = theirs


@dataclass
class Edit:
    """`put` has the fields to set by annotation, all of them for one that is new. Empty: what is wanted holds already."""

    decision: Decision
    put: dict[str, Row] = field(default_factory=dict)
    remove: set[str] = field(default_factory=set)
    exclude: bool = False

    def __bool__(self) -> bool:
        return bool(self.put or self.remove or self.exclude)


def edit_of(decision: Decision, place: Place, schema: LabelSchema, sealed: Collection[str]) -> Edit:
    """What a decision's fix (edit or exclude) changes now. Raises CannotApplyError."""
    edit, fix = Edit(decision), decision.fix
    if fix is None:
        return edit
    if place.sample is None:
        if fix.kind == "exclude":
            return edit
        raise CannotApplyError("the image has left the dataset", "no such image")
    if place.sample_before and place.sample_before["sha256"] != place.sample["sha256"]:
        raise CannotApplyError("the image was replaced since it was decided on", "another image")
    if fix.kind == "exclude":
        if place.sample["split"] in sealed:
            split = place.sample["split"]
            raise CannotApplyError(
                f"the image is in the sealed split {split!r}, which may not lose any", "sealed split"
            )
        edit.exclude = True
        return edit
    for key in fix.remove:
        _refuse_unknown(key, place)
        if key in place.rows:
            _refuse_changed(key, place)
            edit.remove.add(key)
    for fields in fix.put:
        _put(edit, dict(fields), place, schema)
    return edit


def stored_row(key: str, fields: Mapping[str, Any], old: Row | None, decision: Decision, version: str) -> Row:
    """The whole row for a commit: the reviewer said it when it was decided, about what stood in `version`."""
    told = {
        "answer_id": decision.decision_id or decision.finding_id,
        "tool": REVIEW,
        "lead_time": decision.seconds,
        "changed": True,
        "from_version": version,
    }
    kept = {name: old.get(name) for name in (*REGION_COLUMNS, "derived_from", "role")} if old else {}
    return {
        **kept,
        **{name: fields[name] for name in REGION_COLUMNS if name in fields},
        "annotation_id": key,
        "sample_id": decision.sample_id,
        "source": "human",
        "actor": decision.actor,
        "created_at": datetime.fromisoformat(decision.time) if decision.time else None,
        "answer": {name: value for name, value in told.items() if value is not None},
    }


def _put(edit: Edit, fields: Row, place: Place, schema: LabelSchema) -> None:
    """One row of a fix. Several classes an image have their names in their ids: a wrong one goes and another comes."""
    key = fields.pop("annotation_id", None)
    old = place.rows.get(key) if key else None
    if key:
        _refuse_unknown(key, place)
        if old is None:
            raise CannotApplyError("the annotation is gone", "no such annotation")
    wanted = {**(old or {}), **fields}
    _refuse_wrong(wanted, fields, old, schema)
    if fields.get("geometry") and not any(name in fields for name in CORNERS):
        fields |= dict(zip(CORNERS, geometry_extent(fields["geometry"]), strict=True))
        wanted |= fields
    if old is not None and key:
        if same_content({**old, **fields}, old):
            return
        _refuse_changed(key, place)
        if not (schema.multi_label and old["kind"] == _CLASS and wanted["label"] != old["label"]):
            edit.put[key] = fields
            return
        edit.remove.add(key)
    new = {name: wanted.get(name) for name in REGION_COLUMNS}
    if (fresh := _new_id(str(edit.decision.sample_id), new, place, schema)) is not None:
        edit.put[fresh] = new


def _new_id(sample_id: str, new: Row, place: Place, schema: LabelSchema) -> str | None:
    """None where the sample has such a row already. Raises CannotApplyError where it has room for one class only."""
    counted = [row for row in place.rows.values() if not row.get("role")]
    if new["kind"] == _CLASS:
        held = [row["label"] for row in counted if row["kind"] == _CLASS]
        if new["label"] in held:
            return None
        if held and not schema.multi_label:
            raise CannotApplyError("an image has one class", f"class {held[0]}")
        name = f"{sample_id}/label" + (f"/{new['label']}" if schema.multi_label else "")
    else:
        probe = {**new, "sample_id": sample_id}
        if any(same_content(row, probe) for row in counted):
            return None
        parts = [new[column] for column in _NAMED]
        parts = [canonical_json(value).decode() if isinstance(value, dict) else value for value in parts]
        name = f"{sample_id}/{region_name(parts)}"
    first, number = name, 1
    while name in place.rows:
        number += 1
        name = f"{first}-{number}"
    return name


def _refuse_unknown(key: str, place: Place) -> None:
    if key not in place.before:
        raise CannotApplyError("its image has no such annotation in the version that it was decided on", key)


def _refuse_changed(key: str, place: Place) -> None:
    if not same_content(place.rows[key], place.before.get(key)):
        row = place.rows[key]
        who = row["actor"] or row["source"]
        raise CannotApplyError("the annotation changed since it was decided on", f"{describe(row)}, by {who}")


def _refuse_wrong(wanted: Row, fields: Row, old: Row | None, schema: LabelSchema) -> None:
    """Raise CannotApplyError for a row that the schema does not allow, or that has no area."""
    now = describe(old) if old else "nothing"
    label, kind = wanted.get("label"), wanted["kind"]
    if kind not in schema.kinds:
        raise CannotApplyError(f"the schema does not ask for annotations of kind {kind}", now)
    if "label" in fields or old is None:
        found = schema.find(label) if label is not None else None
        if (found is None or found.deprecated) and not (label is None and kind == "text"):
            raise CannotApplyError(f"the schema has no class {label!r} any more" if label else "it has no class", now)
        if found is not None and found.kinds and kind not in found.kinds:
            raise CannotApplyError(f"the class {label!r} is not for annotations of kind {kind}", now)
    corners = [wanted.get(name) for name in CORNERS]
    if kind == "box":
        x1, y1, x2, y2 = (float("nan") if value is None else float(value) for value in corners)
        if not (x1 < x2 and y1 < y2):
            raise CannotApplyError("the box would have no area", now)
    elif wanted.get("geometry") and "geometry" not in fields and any(name in fields for name in CORNERS):
        raise CannotApplyError("an outline is moved by its points, not by its corners", now)
