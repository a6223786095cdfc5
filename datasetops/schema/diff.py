"""What changed between two label schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasetops.schema.model import Attribute, LabelSchema, Limit, Record, Slice, Task

Action = Literal["added", "removed", "renamed", "changed", "reordered"]
_PARTS = ("classes", "tasks", "attributes", "limits", "slices")


@dataclass(frozen=True)
class Change:
    """One difference. `name` is the new name; `fields` has (old, new) by field name, also the old name of a rename."""

    part: str  # schema, classes, tasks, attributes, limits or slices
    action: Action
    name: str
    fields: Mapping[str, tuple[Any, Any]]

    def line(self) -> str:
        noun = {"classes": "class", "schema": "schema"}.get(self.part, self.part.removesuffix("s"))
        head = f"{noun} {self.name!r} {self.action}" if self.action != "reordered" else f"{self.part} reordered"
        if self.action == "renamed":
            head = f"{noun} {self.fields['name'][0]!r} renamed to {self.name!r}"
        rest = [f"{field}: {_shown(old)} -> {_shown(new)}" for field, (old, new) in self.other_fields.items()]
        return f"{head}: {', '.join(rest)}" if rest else head

    @property
    def other_fields(self) -> dict[str, tuple[Any, Any]]:
        """`fields` without the two names of a rename."""
        return {f: pair for f, pair in self.fields.items() if self.action != "renamed" or f != "name"}


@dataclass(frozen=True)
class SchemaDiff:
    """All differences between two schemas, by part. Empty exactly where their digests are equal."""

    before: str  # name@version
    after: str
    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: `from`, `to`, and for each part `added` and `removed` (names), `renamed` ({old: new}) and `changed`
        ({name: {field: {"from", "to"}}}), and `order` where what is in both comes in another order. A renamed class
        whose other fields changed too stands in both.
        """
        result: dict[str, Any] = {"from": self.before, "to": self.after}
        for part in ("schema", *_PARTS):
            entry: dict[str, Any] = {"added": [], "removed": [], "renamed": {}, "changed": {}}
            for change in (c for c in self.changes if c.part == part):
                fields = {f: {"from": old, "to": new} for f, (old, new) in change.other_fields.items()}
                if change.action == "renamed":
                    entry["renamed"][change.fields["name"][0]] = change.name
                if change.action in ("added", "removed"):
                    entry[change.action].append(change.name)
                elif change.action == "reordered":
                    entry |= fields
                elif fields:
                    entry["changed"][change.name] = fields
            result[part] = entry
        return result

    def lines(self) -> list[str]:
        """One line a change, for people."""
        return [change.line() for change in self.changes]


def diff_schemas(a: LabelSchema, b: LabelSchema) -> SchemaDiff:
    """What was added, removed, renamed and changed from `a` to `b`.

    A class is the same if it has the same name, else if it has the same id: then it was renamed.
    """
    own = ("name", "version", "description")
    changes = _changed("schema", b.name, {f: getattr(a, f) for f in own}, {f: getattr(b, f) for f in own})
    changes += _diff_classes(a, b)
    for part in _PARTS[1:]:
        changes += _diff_part(part, _keyed(part, a), _keyed(part, b))
    return SchemaDiff(f"{a.name}@{a.version}", f"{b.name}@{b.version}", tuple(changes))


def _diff_classes(a: LabelSchema, b: LabelSchema) -> list[Change]:
    old = {c.name: c for c in a.classes}
    new = {c.name: c for c in b.classes}
    gone = {c.id: c for c in a.classes if c.name not in new}
    pairs = {c.name: old.get(c.name) or gone.pop(c.id, None) for c in b.classes}
    changes = [Change("classes", "removed", c.name, {}) for c in gone.values()]
    for name, before in pairs.items():
        if before is None:
            changes.append(Change("classes", "added", name, {}))
        elif before.name != name:
            changes.append(Change("classes", "renamed", name, _fields(_plain(before), _plain(new[name]))))
        else:
            changes += _changed("classes", name, _plain(before), _plain(new[name]))
    order = [before.name for before in pairs.values() if before is not None]
    kept = set(order)
    return changes + _reordered("classes", [c.name for c in a.classes if c.name in kept], order)


def _keyed(part: str, schema: LabelSchema) -> dict[str, dict[str, Any]]:
    """Entries of one part by what identifies them."""
    result: dict[str, dict[str, Any]] = {}
    for entry in getattr(schema, part):
        key = _key(entry)
        while key in result:
            key += " (again)"
        result[key] = _plain(entry)
    return result


def _key(entry: Task | Attribute | Limit | Slice) -> str:
    match entry:
        case Task():
            return entry.kind
        case Attribute():
            return entry.name
        case Limit():
            return f"{', '.join(entry.classes) or 'all classes'} in {entry.unit}"
        case Slice():
            return entry.key


def _diff_part(part: str, old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[Change]:
    changes = [Change(part, "removed", key, {}) for key in old if key not in new]
    changes += [Change(part, "added", key, {}) for key in new if key not in old]
    kept = [key for key in old if key in new]
    for key in kept:
        changes += _changed(part, key, old[key], new[key])
    return changes + _reordered(part, kept, [key for key in new if key in old])


def _changed(part: str, name: str, old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    fields = _fields(old, new)
    return [Change(part, "changed", name, fields)] if fields else []


def _reordered(part: str, old: list[str], new: list[str]) -> list[Change]:
    return [Change(part, "reordered", part, {"order": (old, new)})] if old != new else []


def _fields(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    # repr tells 1, 1.0 and true apart, as the digest does
    return {field: (old[field], new[field]) for field in old if repr(old[field]) != repr(new[field])}


def _plain(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _shown(value: Any) -> str:
    return "none" if value in (None, "", []) else repr(value)
