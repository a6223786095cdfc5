"""What to write over a sample that FiftyOne has already: what people changed or added there stays.

A digest of each label, as it was written last, is kept with the sample (`digests`, by field and id of the label): labels
that do not hash to theirs, or have none, were changed or added in FiftyOne. Tags, and attributes that others added, are no
change; they stay with the label they are on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from datasetops.fiftyone.labels import FIELDS, Document, members, value_of
from datasetops.fiftyone.marks import Marks, marked, tagged

DIGESTS: Final = "digests"
_FINDINGS: Final = ("tags", "finding")  # keys of a label that are not the annotation's


@dataclass
class Update:
    """`values` to set and `gone` to remove, both empty where the sample is as it should be; `kept` fields stay."""

    values: Document = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def digests_of(field: str, value: Mapping[str, Any] | None, keys: Collection[str]) -> dict[str, str]:
    """Of the labels in a field, by their ids, from those of their keys that were written from here."""
    return {str(label.get("_id")): digest(label, keys) for label in members(field, value)}


def digest(label: Mapping[str, Any], keys: Collection[str]) -> str:
    content = {key: plain(item) for key, item in label.items() if key in keys and item is not None}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def new_sample(
    values: Document, labels: Mapping[str, Sequence[Document]], marks: Marks, keys: Collection[str]
) -> Document:
    """A whole sample. `values` are its plain fields, `split` among them; null ones are left out."""
    written = {name: value_of(name, group) for name, group in labels.items()}
    document = values | {name: _with_marks(name, value, marks) for name, value in written.items()}
    document["tags"] = [*_split_tag(values), *marks.tags]
    document["findings"] = marks.findings or None
    document["finding_rank"] = {"_cls": "DynamicEmbeddedDocument"} | marks.rank if marks.rank else None
    document[DIGESTS] = {name: digests_of(name, value, keys) for name, value in sorted(written.items()) if value}
    return {name: value for name, value in document.items() if value is not None}


def update_sample(
    old: Document,
    values: Document,
    labels: Mapping[str, Sequence[Document]],
    marks: Marks,
    keys: Collection[str],
    *,
    overrule: bool = False,
) -> Update:
    """Makes an old sample like a new one, but for what people did to it. With `overrule` labels are replaced anyway."""
    update = Update()
    wanted = new_sample(values, labels, marks, keys)
    digests = dict(old.get(DIGESTS) or {})
    for name in FIELDS:
        before, after = old.get(name), value_of(name, labels.get(name, ()))
        found, new = digests_of(name, before, keys), digests_of(name, after, keys)
        if overrule or found in (digests.get(name) or {}, new):
            wanted[name] = _with_marks(name, joined(name, before, after, keys), marks)
            digests[name] = new
        else:
            wanted[name] = _with_marks(name, before, marks)
            update.kept.append(name)
    own = [*_split_tag(values), *marks.tags]
    wanted["tags"] = tagged(old.get("tags") or [], own, given_before=old.get("split"))
    wanted[DIGESTS] = {name: value for name, value in sorted(digests.items()) if value}
    for name in sorted({*values, *wanted, "findings", "finding_rank"}):
        before, after = old.get(name), wanted.get(name)
        if name == "metadata" and before and after:
            after = before | after  # FiftyOne measures more of an image than a version knows
        if before == after or plain(before) == plain(after):
            continue
        if after is None:
            update.gone.append(name)
        else:
            update.values[name] = after
    return update


def changed_there(old: Document, keys: Collection[str]) -> bool:
    """Whether labels of a sample were changed in FiftyOne."""
    digests = old.get(DIGESTS) or {}
    return any(digests_of(name, old.get(name), keys) != (digests.get(name) or {}) for name in FIELDS)


def _split_tag(values: Document) -> list[str]:
    return [values["split"]] if values.get("split") else []


def joined(name: str, before: Document | None, after: Document | None, keys: Collection[str]) -> Document | None:
    """`after`, with the tags and attributes that others gave to the same labels."""
    known = {label.get("_id"): label for label in members(name, before)}
    labels = []
    for label in members(name, after):
        there = known.get(label["_id"], {})
        theirs = {key: item for key, item in there.items() if key not in keys and key not in _FINDINGS}
        labels.append(theirs | label | {"tags": tagged(there.get("tags") or [], label["tags"])})
    return value_of(name, labels)


def _with_marks(name: str, value: Document | None, marks: Marks) -> Document | None:
    within = FIELDS[name][1]
    if value is None or name == "suggested":
        return value
    labels = [marked(label, marks.labels.get(label.get("annotation_id", ""), ())) for label in members(name, value)]
    return labels[0] if within is None else value | {within: labels}


def plain(value: Any) -> Any:
    """For comparing: numbers that are equal look equal, also those that are none; bytes by their hash."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value) if value == value else "NaN"
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
