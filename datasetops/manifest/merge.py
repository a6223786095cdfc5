"""Three-way merge of two branches, row by row: what only one side changed is taken, what both changed is a conflict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import ConflictError, DatasetOpsError
from datasetops.ledger import Event
from datasetops.manifest.change import Change
from datasetops.manifest.diff import diff_tables
from datasetops.manifest.repository import MAIN, CommitResult, Repository
from datasetops.manifest.table import TableState
from datasetops.manifest.version import Version
from datasetops.records import PROVENANCE_COLUMNS, TABLES

Side = Literal["ours", "theirs"]
Row = dict[str, Any] | None


@dataclass(frozen=True)
class Conflict:
    """A row that both sides changed differently; None where a side has no such row."""

    table: str
    key: str
    sample_id: str
    base: Row
    ours: Row
    theirs: Row

    def as_dict(self) -> dict[str, Any]:
        """The record for a worklist: the three rows as JSON, and the fields in which the sides differ."""
        fields = [
            name
            for name in TABLES[self.table].names
            if name not in PROVENANCE_COLUMNS and (self.ours or {}).get(name) != (self.theirs or {}).get(name)
        ]
        rows = {
            side: None if row is None else json.dumps({k: v for k, v in row.items() if v is not None}, default=str)
            for side, row in (("base", self.base), ("ours", self.ours), ("theirs", self.theirs))
        }
        return {"table": self.table, "key": self.key, "sample_id": self.sample_id, "fields": ",".join(fields)} | rows


class MergeConflictError(ConflictError):
    """Both sides changed the same rows. `conflicts` has them all; nothing was committed."""

    def __init__(self, conflicts: list[Conflict], ours: Version, theirs: Version) -> None:
        first = conflicts[0]
        super().__init__(
            f"{len(conflicts)} rows were changed on both sides since they parted ({ours.name}, {theirs.name}); "
            f"the first is {first.table[:-1]} {first.key}.",
            remedy="Write them to a worklist with --conflicts FILE, then merge with --take ours or --take theirs.",
        )
        self.conflicts = conflicts


def common_ancestor(repository: Repository, ours: Version, theirs: Version) -> Version | None:
    """The newest version that both descend from."""
    by_digest = {version.digest: version for version in repository.versions()}

    def ancestors(version: Version) -> set[str]:
        seen: set[str] = set()
        queue = [version.digest]
        while queue:
            digest = queue.pop()
            if digest in by_digest and digest not in seen:
                seen.add(digest)
                queue += by_digest[digest].commit.parents
        return seen

    shared = ancestors(ours) & ancestors(theirs)
    return next((version for digest, version in by_digest.items() if digest in shared), None)


def merge(
    repository: Repository,
    source: str,
    *,
    into: str = MAIN,
    take: Side | None = None,
    message: str | None = None,
    unseal: str | None = None,
) -> CommitResult:
    """Bring a branch's or version's changes into the branch `into`, as a new version with two parents.

    `take` settles every conflict in favour of one side. Raises MergeConflictError where there are conflicts and `take`
    is not given, and ConflictError where both sides changed the schema or the guide.
    """
    ours = repository.head(into)
    theirs = repository.version(source)
    if ours is None:
        raise DatasetOpsError(f"The branch {into!r} has no version yet.", remedy="Ingest or commit to it first.")
    base = common_ancestor(repository, ours, theirs)
    if base is None:
        raise DatasetOpsError(
            f"{ours.name} and {theirs.name} have no common ancestor.", remedy="Ingest one side's data into the other."
        )
    if base.digest == theirs.digest:
        return CommitResult(ours, changed=False)

    conflicts: list[Conflict] = []
    upserts: dict[str, pa.Table] = {}
    removals: dict[str, list[str]] = {}
    for name in TABLES:
        found, upserts[name], removals[name] = _merge_table(
            base.state(name), ours.state(name), theirs.state(name), take
        )
        conflicts += found
    ours_homeless = _ours_without_sample(base, ours, removals["samples"])
    theirs_homeless = _theirs_without_sample(ours, upserts)
    conflicts += ours_homeless + theirs_homeless
    if conflicts and take is None:
        raise MergeConflictError(conflicts, ours, theirs)
    if take == "ours":
        _drop(upserts, theirs_homeless)
        kept = {conflict.sample_id for conflict in ours_homeless}
        removals["samples"] = [key for key in removals["samples"] if key not in kept]
    elif take == "theirs":
        _bring_back(upserts, theirs, {conflict.sample_id for conflict in theirs_homeless})
    change = Change(
        samples=upserts["samples"],
        annotations=upserts["annotations"],
        remove_samples=removals["samples"],
        remove_annotations=removals["annotations"],
        schema=theirs.schema if _changed_side("schema", base, ours, theirs, take) else None,
        guide=theirs.guide if _changed_side("guide", base, ours, theirs, take) else None,
        sealed=sorted({*ours.commit.sealed, *theirs.commit.sealed}),
    )
    event = Event(
        "merge",
        repository.settings.actor,
        inputs={"base": base.name, "ours": ours.name, "theirs": theirs.name},
        parameters={"take": take, "conflicts": len(conflicts)},
    )
    text = message or f"Merge {source} ({theirs.name}) into {into}"
    return repository.commit(change, message=text, event=event, branch=into, parent=ours, merged=theirs, unseal=unseal)


def _merge_table(
    base: TableState, ours: TableState, theirs: TableState, take: Side | None
) -> tuple[list[Conflict], pa.Table, list[str]]:
    """(conflicts, rows to put, keys to remove) that bring what they changed into ours."""
    mine, other = diff_tables(base, ours), diff_tables(base, theirs)
    my_keys = pa.concat_arrays([mine.added, mine.removed, mine.changed])
    their_keys = pa.concat_arrays([other.added, other.removed, other.changed])
    both = their_keys.filter(pc.is_in(their_keys, my_keys))
    before, our_rows, their_rows = (_by_key(state, both) for state in (base, ours, theirs))
    conflicts = []
    for key in sorted(both.to_pylist()):
        rows = before.get(key), our_rows.get(key), their_rows.get(key)
        if _content(rows[1]) != _content(rows[2]):
            owner = next(row for row in (rows[1], rows[2], rows[0]) if row is not None)
            conflicts.append(Conflict(base.name, key, owner["sample_id"], *rows))
    settled_ours = pa.array([c.key for c in conflicts] if take != "theirs" else [], pa.string())
    wanted = their_keys.filter(pc.invert(pc.is_in(their_keys, settled_ours)))
    upserts = theirs.rows(wanted)
    removals = wanted.filter(pc.invert(pc.is_in(wanted, upserts[base.key]))).to_pylist()
    return conflicts, upserts, removals


def _ours_without_sample(base: Version, ours: Version, removed: list[str]) -> list[Conflict]:
    """Annotations that we made or changed, on samples that they removed."""
    mine = diff_tables(base.state("annotations"), ours.state("annotations")) if removed else None
    if mine is None:
        return []
    rows = mine.after()
    rows = rows.filter(pc.is_in(rows["sample_id"], pa.array(removed, pa.string()))).to_pylist()
    return [Conflict("annotations", row["annotation_id"], row["sample_id"], None, row, None) for row in rows]


def _theirs_without_sample(ours: Version, upserts: dict[str, pa.Table]) -> list[Conflict]:
    """Annotations that they made or changed, on samples that we removed."""
    rows = upserts["annotations"]
    owners = rows["sample_id"].combine_chunks()
    here = ours.state("samples").contains(owners)
    arriving = pc.is_in(owners, upserts["samples"]["sample_id"].combine_chunks()).to_numpy(zero_copy_only=False)
    homeless = rows.filter(pa.array(~(here | arriving))).to_pylist()
    return [Conflict("annotations", row["annotation_id"], row["sample_id"], None, None, row) for row in homeless]


def _drop(upserts: dict[str, pa.Table], conflicts: list[Conflict]) -> None:
    gone = pa.array([conflict.key for conflict in conflicts], pa.string())
    rows = upserts["annotations"]
    upserts["annotations"] = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], gone)))


def _bring_back(upserts: dict[str, pa.Table], theirs: Version, sample_ids: set[str]) -> None:
    """Put samples and all their annotations back as they are on the other side."""
    wanted = pa.array(sorted(sample_ids), pa.string())
    upserts["samples"] = pa.concat_tables([upserts["samples"], theirs.state("samples").rows(wanted)])
    if sample_ids:
        whole = theirs.table("annotations")
        whole = whole.filter(pc.is_in(whole["sample_id"], wanted))
        rows = upserts["annotations"]
        others = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], whole["annotation_id"].combine_chunks())))
        upserts["annotations"] = pa.concat_tables([others, whole])


def _by_key(state: TableState, keys: pa.Array) -> dict[str, dict[str, Any]]:
    return {row[state.key]: row for row in state.rows(keys).to_pylist()}


def _content(row: Row) -> Row:
    return None if row is None else {k: v for k, v in row.items() if k not in PROVENANCE_COLUMNS}


def _changed_side(name: str, base: Version, ours: Version, theirs: Version, take: Side | None) -> bool:
    """Whether theirs is to be used. Raises ConflictError where both sides changed it differently."""
    was, mine, other = (getattr(version.commit, name) for version in (base, ours, theirs))
    if other in (was, mine):
        return False
    if mine != was and take is None:
        raise ConflictError(
            f"Both {ours.name} and {theirs.name} changed the {name} since {base.name}.",
            remedy=f"Merge with --take ours or --take theirs, or make the {name}s equal first.",
        )
    return mine == was or take == "theirs"
