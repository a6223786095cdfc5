"""One sample's labels in FiftyOne against those that were written there and those that the version has now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from datasetops.fiftyone.labels import FIELDS, Document, members, object_id
from datasetops.fiftyone.merge import DIGESTS, digest, digests_of
from datasetops.fiftyone.read import Reader, UnreadError
from datasetops.fiftyone.values import Values
from datasetops.labeling.answers import same_content
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Conflict

Row = dict[str, Any]

TOOL: Final = "fiftyone"  # `tool` in the column `answer` of a row that was changed there
PROPOSED: Final = "suggested"  # field of what audits propose: no annotations
_CLASS: Final = "classification"


@dataclass(frozen=True)
class Now:
    """What the version has of a sample: rows by annotation_id, and what is written to FiftyOne for each.

    In rows geometry, attributes and answer are dicts.
    """

    sample_id: str
    rows: Mapping[str, Row]
    shown: Mapping[str, Document]
    size: ImageSize | None


@dataclass
class Outcome:
    """Of one sample. `put` are REGION_COLUMNS by annotation_id, with `began`: the annotation that each corrects.

    `settled`: by field and label id the annotation that the label is from now on, None for one that is gone there.
    `unread`: reasons, with the class where the schema has none of that name; `same`: changed labels that say what the
    version says.
    """

    put: dict[str, Row] = field(default_factory=dict)
    began: dict[str, str | None] = field(default_factory=dict)
    remove: set[str] = field(default_factory=set)
    conflicts: list[Conflict] = field(default_factory=list)
    unread: list[UnreadError] = field(default_factory=list)
    settled: dict[str, dict[str, str | None]] = field(default_factory=dict)
    same: int = 0


def touched_fields(document: Document, keys: Collection[str]) -> list[str]:
    """Fields whose labels are not as they were written."""
    written = document.get(DIGESTS) or {}
    return [
        name
        for name in FIELDS
        if name != PROPOSED and digests_of(name, document.get(name), keys) != (written.get(name) or {})
    ]


class Comparison:
    """Works out what people changed in FiftyOne. `keys` are those of labels that were written from here."""

    def __init__(self, reader: Reader, attributes: Values, keys: Collection[str], *, overrule: bool) -> None:
        self._reader = reader
        self._attributes = attributes
        self._keys = keys
        self._overrule = overrule

    def of(self, document: Document, now: Now, *, multi_label: bool) -> Outcome:
        """Three-way, label by label: what only FiftyOne changed is taken, what the version changed too is a conflict."""
        outcome = Outcome()
        by_label = {str(object_id(name)): name for name in now.rows}
        for name in touched_fields(document, self._keys):
            written: Mapping[str, str] = (document.get(DIGESTS) or {}).get(name) or {}
            labels = members(name, document.get(name))
            began = self._origins(name, labels, written)
            for label, origin in zip(labels, began, strict=True):
                if origin is not None and written[origin] == digest(label, self._keys):
                    continue
                try:
                    self._changed(outcome, name, label, origin, written, by_label, now, multi_label=multi_label)
                except UnreadError as error:
                    outcome.unread.append(error)
            for origin in sorted(written.keys() - {item for item in began if item is not None}):
                self._removed(outcome, name, origin, written[origin], by_label.get(origin), now)
        return outcome

    def _origins(self, name: str, labels: list[Document], written: Mapping[str, str]) -> list[str | None]:
        """For each label the id of the one that it was when it was written, None for one that is new."""
        own = [str(label.get("_id")) if str(label.get("_id")) in written else None for label in labels]
        left = set(written) - {item for item in own if item is not None}
        for at, label in enumerate(labels):
            if own[at] is None and left:
                named = label.get("annotation_id")
                other = str(object_id(named)) if isinstance(named, str) else ""
                if name == _CLASS:  # there is one: who writes another object means the same
                    other = next(iter(left))
                if other in left:
                    left.discard(other)
                    own[at] = other
        return own

    def _changed(
        self,
        outcome: Outcome,
        name: str,
        label: Document,
        origin: str | None,
        written: Mapping[str, str],
        by_label: Mapping[str, str],
        now: Now,
        *,
        multi_label: bool,
    ) -> None:
        key = by_label.get(origin) if origin is not None else None
        row, shown = (now.rows.get(key), now.shown.get(key)) if key else (None, None)
        if shown and str(label.get("_id")) != origin:  # another object in its place: what it does not say stays
            names = {self._attributes.field_of(item) for item in self._attributes.keys} | {"text"}
            label = {item: value for item, value in shown.items() if item in names} | label
        values = self._reader.values(name, label, now.size, row, shown)
        settled = outcome.settled.setdefault(name, {})
        label_id = str(label.get("_id"))
        if row is not None and key is not None:
            if _same(row, values, now.sample_id):
                outcome.same += 1
                settled[label_id] = key
            elif self._overrule or (origin is not None and shown and digest(shown, self._keys) == written[origin]):
                settled[label_id] = self._replace(outcome, key, row, values, now, multi_label=multi_label)
            else:
                outcome.conflicts.append(Conflict("annotations", key, now.sample_id, None, dict(row), values))
            return
        self._added(outcome, name, label_id, label, values, origin, now, multi_label=multi_label)

    def _replace(self, outcome: Outcome, key: str, row: Row, values: Row, now: Now, *, multi_label: bool) -> str:
        """Of several classes an image each has its name in its id: a wrong one goes and another comes."""
        if multi_label and values["kind"] == _CLASS and values["label"] != row["label"]:
            outcome.remove.add(key)
            key, began = f"{now.sample_id}/label/{values['label']}", key
            outcome.began[key] = began
        else:
            outcome.began[key] = key
        outcome.put[key] = values
        return key

    def _added(
        self,
        outcome: Outcome,
        name: str,
        label_id: str,
        label: Document,
        values: Row,
        origin: str | None,
        now: Now,
        *,
        multi_label: bool,
    ) -> None:
        settled = outcome.settled.setdefault(name, {})
        counted = {key: row for key, row in now.rows.items() if key not in outcome.remove}
        alike = next((key for key, row in counted.items() if _same(row, values, now.sample_id)), None)
        if alike is not None:
            outcome.same += 1
            settled[label_id] = alike
            return
        key = _new_id(now.sample_id, label_id, values, multi_label=multi_label)
        rival = now.rows.get(key)
        if values["kind"] == _CLASS and not multi_label:
            rival = next((row for row in counted.values() if row["kind"] == _CLASS), None)
            key = rival["annotation_id"] if rival else key
        gone = origin is not None  # it was written from here, and the version has it no more
        pulled = rival is not None and (rival.get("answer") or {}).get("tool") == TOOL
        if (gone or (rival is not None and not pulled)) and not self._overrule:
            told = label.get("annotation_id") if gone and rival is None else key
            outcome.conflicts.append(
                Conflict("annotations", str(told), now.sample_id, None, dict(rival) if rival else None, values)
            )
            return
        outcome.put[key] = values
        outcome.began[key] = key if rival is not None else None
        settled[label_id] = key

    def _removed(self, outcome: Outcome, name: str, origin: str, written: str, key: str | None, now: Now) -> None:
        settled = outcome.settled.setdefault(name, {})
        if key is None or key in outcome.put:
            settled[origin] = None
            return
        shown = now.shown.get(key)
        if self._overrule or (shown and digest(shown, self._keys) == written):
            outcome.remove.add(key)
            settled[origin] = None
        else:
            outcome.conflicts.append(Conflict("annotations", key, now.sample_id, None, dict(now.rows[key]), None))


def _same(row: Row, values: Row, sample_id: str) -> bool:
    return same_content(row, values | {"sample_id": sample_id, "role": row.get("role")})


def _new_id(sample_id: str, label_id: str, values: Row, *, multi_label: bool) -> str:
    """Made from the label's, so that bringing it back twice makes one annotation."""
    if values["kind"] != _CLASS:
        return f"{sample_id}#{label_id}"
    return f"{sample_id}/label" + (f"/{values['label']}" if multi_label else "")
