"""Decisions become a new version: labels and boxes as reviewers want them, and what somebody else changed meanwhile."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pyarrow as pa

from datasetops.audits.decisions import Decision, decisions
from datasetops.errors import ConflictError
from datasetops.labeling.batch import find_batch
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version
from datasetops.manifest.repository import MAIN
from datasetops.records import canonical_json, sha256_hex
from datasetops.review.edits import CannotApplyError, Edit, edit_of, stored_row
from datasetops.review.fixes import fix_in_words
from datasetops.review.places import Places, Row, lineage_of
from datasetops.review.summary import Changed, counts_of, in_words

_EVENT: Final = "review-apply"
_FOLDER: Final = "reviews/"
_ATTEMPTS: Final = 5  # each after somebody else's commit to the same rows
_GONE: Final = "removed"  # stands for the fields of an annotation that goes

Key = tuple[str, str, str]  # finding, reviewer and time: one decision


@dataclass(frozen=True)
class Conflict:
    """A decision that was not applied, why, what it wanted (`mine`) and what stands instead (`theirs`), in words."""

    finding_id: str
    sample_id: str | None
    reason: str
    mine: str
    theirs: str


@dataclass(frozen=True)
class Applied:
    """`version` is the new version, None where none was made; `changed` whether there is anything to change.

    `applied` are findings whose fixes are in the new version (or would be), `already` those whose fixes were there
    before, `waiting` samples that are to be relabeled. `counts` are of changes, by what is done.
    """

    version: str | None
    changed: bool
    counts: Mapping[str, int]
    message: str
    applied: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    waiting: tuple[str, ...] = ()
    already: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """What to tell a user."""
        head = f"{self.version}: {self.message}" if self.version else self.message
        told = [f"{len(self.already):,} findings were put right before."] if self.already else []
        if self.waiting:
            told.append(f"{len(self.waiting):,} images wait to be labeled again.")
        if self.conflicts:
            told.append(f"{len(self.conflicts):,} decisions were not applied:")
            told += [
                f"  {item.finding_id} {item.sample_id or ''}: {item.reason}; wanted: {item.mine}; there: {item.theirs}"
                for item in self.conflicts
            ]
        return [head, *told]


@dataclass
class _Plan:
    edits: list[Edit] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    remove: set[str] = field(default_factory=set)
    exclude: set[str] = field(default_factory=set)
    changed: list[Changed] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    already: list[str] = field(default_factory=list)


def apply(
    repository: Repository,
    version: Version,
    decisions: Sequence[Decision],
    *,
    message: str | None = None,
    dry_run: bool = False,
    branch: str = MAIN,
) -> Applied:
    """Apply the fixes of decisions on a version, and on those it stands on, as one commit on top of a branch.

    `decisions` are all that stand, so that disagreement shows. Each fix is taken whole or not at all; what was applied
    once is not applied again, even where somebody undid it. What cannot be applied is told in `conflicts`.
    """
    waiting = tuple(_waiting(repository, version, decisions))
    attempts = 0
    while True:
        head = repository.version(branch)
        plan = _plan(repository, version, head, decisions, branch)
        done = [edit.decision for edit in plan.edits]
        changed = bool(plan.rows or plan.remove or plan.exclude)
        text = message or in_words(version.name, plan.changed, sorted({item.actor for item in done}))
        name = None
        if changed and not dry_run:
            try:
                name = _commit(repository, version, head, plan, text, branch)
            except ConflictError:
                attempts += 1
                if attempts < _ATTEMPTS:
                    continue
                raise
        applied = tuple(dict.fromkeys(item.finding_id for item in done))
        already = tuple(dict.fromkeys(plan.already))
        counts = counts_of(plan.changed)
        return Applied(name, changed, counts, text, applied, tuple(plan.conflicts), waiting, already)


def waiting_for_relabeling(repository: Repository, version: Version) -> list[str]:
    """Samples of a version that reviewers want labeled again and that were not sent since, in the order of decisions."""
    return _waiting(repository, version, decisions(repository))


def _waiting(repository: Repository, version: Version, made: Sequence[Decision]) -> list[str]:
    agreed, _ = _by_finding(made)
    wanted = [group[0] for group in agreed if group[0].fix and group[0].fix.kind == "relabel" and group[0].sample_id]
    if not wanted:
        return []
    sent: dict[str, str] = {}
    for entry in repository.ledger.backwards():
        if entry.event.kind == "label-push" and (batch := find_batch(repository, entry.event.parameters["batch"])):
            for name in () if batch.blind else batch.samples:
                sent[name] = max(sent.get(name, ""), entry.event.time)
    names = [item.sample_id for item in wanted if item.sample_id and sent.get(item.sample_id, "") <= item.time]
    unique = list(dict.fromkeys(names))
    there = version.state("samples").contains(pa.array(unique, pa.string()))
    return [name for name, known in zip(unique, there, strict=True) if known]


def _by_finding(made: Iterable[Decision]) -> tuple[list[list[Decision]], list[list[Decision]]]:
    """By finding: decisions with the same fix, earliest first; and those of reviewers who disagree, a fix first."""
    groups: dict[str, list[Decision]] = defaultdict(list)
    for item in made:
        if item.verdict != "unsure":
            groups[item.finding_id].append(item)
    agreed, apart = [], []
    for group in groups.values():
        group.sort(key=lambda item: item.time)
        fixes = [item for item in group if item.fix]
        others = [i for i in group if fixes and (i.verdict != "error" or (i.fix and i.fix != fixes[0].fix))]
        if others:
            apart.append([fixes[0], *others])
        elif fixes:
            agreed.append(fixes)
    return agreed, apart


def _plan(repository: Repository, version: Version, head: Version, made: Sequence[Decision], branch: str) -> _Plan:
    lineage = lineage_of(repository, version)
    agreed, apart = _by_finding(made)
    counted = [[item for item in group if item.commit in lineage] for group in agreed]
    mine = [group[0] for group in counted if group and group[0].fix and group[0].fix.kind != "relabel"]
    torn = [group for group in apart if group[0].commit in lineage]
    places = Places(head, lineage, [*mine, *(group[0] for group in torn)])
    plan, past = _Plan(), _applied_before(repository, branch)
    for first, *others in torn:
        other = others[0]
        theirs = other.verdict if other.fix is None else fix_in_words(other.fix, places.rows_before(first))
        said = f"{theirs} ({other.actor})"
        plan.conflicts.append(_conflict(first, places, "reviewers disagree", said))
    edits = []
    for item in mine:
        if _key(item) in past:
            plan.already.append(item.finding_id)
        elif not item.sample_id:
            plan.conflicts.append(_conflict(item, places, "the decision does not name its image", "unknown"))
        else:
            try:
                edit = edit_of(item, places.of(item), head.schema, head.commit.sealed)
            except CannotApplyError as error:
                plan.conflicts.append(_conflict(item, places, error.reason, error.theirs))
                continue
            if edit:
                edits.append(edit)
            else:
                plan.already.append(item.finding_id)
    _settle(plan, edits, places)
    return plan


def _settle(plan: _Plan, edits: Sequence[Edit], places: Places) -> None:
    """The rows that all edits make together, without those that contradict each other."""
    plan.exclude = {str(edit.decision.sample_id) for edit in edits if edit.exclude}
    left = [edit for edit in edits if edit.exclude or edit.decision.sample_id not in plan.exclude]
    said: dict[tuple[str, str], list[tuple[Any, Edit]]] = defaultdict(list)
    for edit in left:
        for key, fields in edit.put.items():
            for name, value in ({_GONE: False} | fields).items():
                said[key, name].append((value, edit))
        for key in edit.remove:
            said[key, _GONE].append((True, edit))
    against: dict[int, Edit] = {}
    for values in said.values():
        for value, edit in values:
            other = next((other for theirs, other in values if theirs != value), None)
            if other is not None:
                against.setdefault(id(edit), other)
    for edit in left:
        if (rival := against.get(id(edit))) is not None and rival.decision.fix:
            words = fix_in_words(rival.decision.fix, places.rows_before(rival.decision))
            theirs = f"{words} ({rival.decision.actor}, finding {rival.decision.finding_id})"
            plan.conflicts.append(_conflict(edit.decision, places, "another decision says otherwise", theirs))
    plan.edits = [edit for edit in edits if id(edit) not in against]
    put: dict[str, tuple[dict[str, Any], Decision]] = {}
    for edit in plan.edits:
        if edit.decision.sample_id in plan.exclude:
            continue
        plan.remove |= edit.remove
        for key, fields in edit.put.items():
            put[key] = ({**put[key][0], **fields} if key in put else fields, edit.decision)
    for key, (fields, item) in put.items():
        old = places.of(item).rows.get(key)
        row = stored_row(key, fields, old, item, places.name_of(item))
        plan.rows.append(row)
        plan.changed.append((old, row))
    now = places.rows
    plan.changed += [(now[key], None) for key in sorted(plan.remove)]
    plan.changed += [(None, None) for _ in plan.exclude]


def _commit(repository: Repository, version: Version, head: Version, plan: _Plan, message: str, branch: str) -> str:
    """The name of the new version. Raises ConflictError where somebody changed the same rows just now."""
    told = [dict(zip(("finding_id", "actor", "time"), _key(edit.decision), strict=True)) for edit in plan.edits]
    data = canonical_json({"applied": told, "conflicts": [asdict(item) for item in plan.conflicts]})
    first = Event(_EVENT, repository.settings.actor)
    key = f"{_FOLDER}{first.time}-{first.event_id}.json"
    event = Event(
        _EVENT,
        repository.settings.actor,
        inputs={"version": version.name, "commit": version.digest},
        outputs={"files": {key: sha256_hex(data)}},
        parameters={
            "counts": counts_of(plan.changed),
            "conflicts": len(plan.conflicts),
            "decided_by": sorted({edit.decision.actor for edit in plan.edits}),
            "findings": sha256_hex(canonical_json(sorted(item["finding_id"] for item in told))),
        },
        event_id=first.event_id,
        time=first.time,
    )
    repository.store.put(key, data)
    gone = {row["annotation_id"] for row in plan.rows}
    change = Change(
        annotations=plan.rows or None,
        remove_samples=sorted(plan.exclude),
        remove_annotations=sorted(plan.remove - gone),
    )
    return repository.commit(change, message=message, event=event, branch=branch, parent=head).version.name


def _applied_before(repository: Repository, branch: str) -> set[Key]:
    """Decisions that earlier commits of a branch applied."""
    found: set[Key] = set()
    for entry in repository.ledger.backwards():
        if entry.event.kind == _EVENT and entry.branch == branch:
            for key in entry.event.outputs["files"]:
                told = json.loads(repository.store.get(key))["applied"]
                found |= {(item["finding_id"], item["actor"], item["time"]) for item in told}
    return found


def _conflict(item: Decision, places: Places, reason: str, theirs: str) -> Conflict:
    mine = fix_in_words(item.fix, places.rows_before(item)) if item.fix else item.verdict
    return Conflict(item.finding_id, item.sample_id, reason, f"{mine} ({item.actor})", theirs)


def _key(item: Decision) -> Key:
    return item.finding_id, item.actor, item.time
