"""What changed between two versions: net changes by key, counts, and rows side by side."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest.segment import segment_schema
from datasetops.manifest.table import TableState, squash
from datasetops.records import TABLES, one_array

if TYPE_CHECKING:
    from datasetops.manifest.version import Version

KINDS_OF_CHANGE = ("added", "removed", "changed")


@dataclass(frozen=True)
class TableDiff:
    """`before` and `after` have the table's columns, sorted by key: removed and changed rows, added and changed rows."""

    key: str
    added: pa.Array
    removed: pa.Array
    changed: pa.Array
    before_state: TableState
    after_state: TableState

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(getattr(self, kind)) for kind in KINDS_OF_CHANGE}

    def before(self, columns: list[str] | None = None) -> pa.Table:
        return self.before_state.rows(pa.concat_arrays([self.removed, self.changed]), columns)

    def after(self, columns: list[str] | None = None) -> pa.Table:
        return self.after_state.rows(pa.concat_arrays([self.added, self.changed]), columns)


@dataclass(frozen=True)
class Diff:
    """Differences of samples and annotations. A row that differs only in when and by which event it was made is equal."""

    old: Version
    new: Version
    samples: TableDiff
    annotations: TableDiff

    def as_dict(self) -> dict[str, Any]:
        """Counts, as in the command contract."""
        return {
            "from": self.old.name,
            "to": self.new.name,
            "samples": self.samples.counts,
            "annotations": self.annotations.counts,
            "by_class": self.by_class,
            "by_split": self.by_split,
            "by_slice": self.by_slice,
            "relabeled": self.relabeled,
            "schema_changed": self.old.commit.schema != self.new.commit.schema,
            "guide_changed": self.old.commit.guide != self.new.commit.guide,
        }

    @cached_property
    def by_class(self) -> dict[str, dict[str, int]]:
        """Annotations added, removed and changed, by class. A changed one counts for its class before and after."""
        return _count(self.annotations, lambda row: [row["label"]], ["label"])

    @cached_property
    def by_split(self) -> dict[str, dict[str, int]]:
        """Samples added, removed and changed, by split."""
        return _count(self.samples, lambda row: [row["split"]], ["split"])

    @cached_property
    def by_slice(self) -> dict[str, dict[str, dict[str, int]]]:
        """The same by value of each slice of the newer schema: {key: {value: counts}}."""
        keys = list(dict.fromkeys(item.key for item in self.new.schema.slices))

        def value(row: dict[str, Any], key: str) -> Any:
            return row[key] if key in TABLES["samples"].names else json.loads(row["metadata"] or "{}").get(key)

        return {key: _count(self.samples, lambda row, key=key: [value(row, key)], _slice_columns(key)) for key in keys}

    @cached_property
    def relabeled(self) -> list[dict[str, Any]]:
        """How many annotations went from which class to which, most frequent first."""
        columns = ["annotation_id", "label"]
        before = self.annotations.before_state.rows(self.annotations.changed, columns)["label"].to_pylist()
        after = self.annotations.after_state.rows(self.annotations.changed, columns)["label"].to_pylist()
        pairs = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
        ordered = sorted(pairs.items(), key=lambda item: (-item[1], str(item[0])))
        return [{"from": old, "to": new, "count": count} for (old, new), count in ordered]

    def rows(self) -> pa.Table:
        """Every change, a row each: table, change, key, sample_id, and before and after as JSON."""
        out: dict[str, list[Any]] = {name: [] for name in ("table", "change", "key", "sample_id", "before", "after")}
        for name in TABLES:
            table: TableDiff = getattr(self, name)
            before = {row[table.key]: row for row in table.before().to_pylist()}
            after = {row[table.key]: row for row in table.after().to_pylist()}
            for kind in KINDS_OF_CHANGE:
                for key in sorted(getattr(table, kind).to_pylist()):
                    out["table"].append(name)
                    out["change"].append(kind)
                    out["key"].append(key)
                    out["sample_id"].append((after.get(key) or before[key])["sample_id"])
                    out["before"].append(_as_json(before.get(key)))
                    out["after"].append(_as_json(after.get(key)))
        return pa.table({name: pa.array(values, pa.string()) for name, values in out.items()})


def diff(old: Version, new: Version) -> Diff:
    """Differences between two versions, from what they do not share: O(changes) for versions of one history."""
    tables = {name: diff_tables(old.state(name), new.state(name)) for name in TABLES}
    return Diff(old, new, **tables)


def changed_in_splits(old: Version, new: Version, splits: Sequence[str]) -> set[str]:
    """Samples of some splits, in either version, that are not the same in both, annotations included."""
    found = diff(old, new)
    samples = pa.concat_tables([side(["sample_id", "split"]) for side in (found.samples.before, found.samples.after)])
    touched = set(samples.filter(pc.is_in(samples["split"], pa.array(splits)))["sample_id"].to_pylist())
    rows = pa.concat_tables([side(["sample_id"]) for side in (found.annotations.before, found.annotations.after)])
    members = new.state("samples").rows(pc.unique(rows["sample_id"]), ["sample_id", "split"])
    return touched | set(members.filter(pc.is_in(members["split"], pa.array(splits)))["sample_id"].to_pylist())


def diff_tables(old: TableState, new: TableState) -> TableDiff:
    """Keys added, removed and changed between two states of a table."""
    shared = 0
    for mine, theirs in zip(old.infos, new.infos, strict=False):
        if mine.id != theirs.id:
            break
        shared += 1
    mine = _net(old, shared)
    theirs = _net(new, shared)
    if shared == 0:
        added, removed, changed = _compare(mine, theirs, old.key)
    else:
        keys = pc.unique(pa.concat_arrays([mine[old.key].combine_chunks(), theirs[old.key].combine_chunks()]))
        added, removed, changed = _compare(
            old.rows(keys, [old.key, "_salt"]), new.rows(keys, [old.key, "_salt"]), old.key
        )
    return TableDiff(old.key, added, removed, changed, old, new)


def changed_keys(old: TableState, new: TableState) -> pa.Array:
    """Keys of all rows that differ between two states of a table."""
    found = diff_tables(old, new)
    return pa.concat_arrays([found.added, found.removed, found.changed])


def same_to_reviewers(old: Version, new: Version) -> bool:
    """Whether two versions have the same images with the same annotations, under the same schema and guide.

    Rights, splits and metadata may differ: what was found out about the labels of one holds for the other.
    """
    if (old.commit.schema, old.commit.guide) != (new.commit.schema, new.commit.guide):
        return False
    if old.commit.counts != new.commit.counts or len(changed_keys(old.state("annotations"), new.state("annotations"))):
        return False
    samples = diff_tables(old.state("samples"), new.state("samples"))
    if len(samples.added) or len(samples.removed):
        return False
    columns = ["sample_id", "sha256", "uri"]
    before, after = (version.state("samples").rows(samples.changed, columns) for version in (old, new))
    return bool(pc.coalesce(before["sha256"], before["uri"]).equals(pc.coalesce(after["sha256"], after["uri"])))


def _net(state: TableState, shared: int) -> pa.Table:
    """Key, salt and operation of the rows above the shared segments; all live rows where nothing is shared."""
    if shared == 0:
        return state.read([state.key, "_salt"])
    tables = [segment.table([state.key, "_salt", "_op"]) for segment in state.segments[shared:]]
    if not tables:
        schema = segment_schema(state.name)
        return pa.schema([schema.field(name) for name in (state.key, "_salt", "_op")]).empty_table()
    return squash(tables, state.key)


def _compare(old: pa.Table, new: pa.Table, key: str) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(added, removed, changed) keys of two tables of key and salt."""
    old_keys, new_keys = old[key].combine_chunks(), new[key].combine_chunks()
    at = pc.index_in(new_keys, old_keys)
    known = at.is_valid()
    added = new_keys.filter(pc.invert(known))
    removed = old_keys.filter(pc.invert(pc.is_in(old_keys, new_keys)))
    common = new.filter(known)
    before = old["_salt"].take(at.drop_null())
    differs = pc.not_equal(common["_salt"], before)
    changed = common[key].filter(differs).combine_chunks()
    return one_array(added), one_array(removed), one_array(changed)


def _slice_columns(key: str) -> list[str]:
    return [key if key in TABLES["samples"].names else "metadata"]


def _count(table: TableDiff, groups: Any, columns: list[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wanted = list(dict.fromkeys([table.key, *columns]))

    def add(kind: str, *rows: dict[str, Any] | None) -> None:
        names = {group for row in rows if row is not None for group in groups(row)}
        for name in names:
            counts["(none)" if name is None else str(name)][kind] += 1

    before = {row[table.key]: row for row in table.before(wanted).to_pylist()}
    after = {row[table.key]: row for row in table.after(wanted).to_pylist()}
    for kind in KINDS_OF_CHANGE:
        for key in getattr(table, kind).to_pylist():
            add(kind, before.get(key), after.get(key))
    return {name: {kind: counts[name][kind] for kind in KINDS_OF_CHANGE} for name in sorted(counts)}


def _as_json(row: dict[str, Any] | None) -> str | None:
    if row is None:
        return None
    return json.dumps({name: value for name, value in row.items() if value is not None}, default=str, sort_keys=True)
