"""Bring answers back as one new version: who said what, what it was merged into, and what somebody else changed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from datasetops.labeling.answers import Row, Wanted, attach, same_content, wanted_rows
from datasetops.labeling.base import Answer, AnsweredTask, LabelServer, Pulled
from datasetops.labeling.batch import Batch, Project, batches, image_sizes, load_project, save_project
from datasetops.labeling.consensus import cleanlab_consensus, voices
from datasetops.labeling.heads import BatchSizes, answer_heads, deleted_tasks, head_of, is_news, one_a_sample
from datasetops.labeling.push import rows_by_sample
from datasetops.ledger import Event
from datasetops.manifest import Change, Conflict, Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema

RULES = ("majority", "cleanlab")
Probabilities = Mapping[str, Any]  # sample_id → (K,) class probabilities in the schema's order


@dataclass(frozen=True)
class PullResult:
    """`version` is the new version, None where nothing in it had to change. Counts are of answers that changed.

    `conflicts` are rows that somebody else changed since they were pushed: theirs stay. `unused` are answers that could
    not be read whole; they are looked at again in every pull. `incomplete` samples have fewer people's answers than were
    asked for; about `tied` ones the annotators are evenly divided. `empty` answers mark nothing; `set_aside` ones were
    followed by another of the same person.
    """

    version: str | None
    answers: int
    skipped: int
    withdrawn: int
    samples: int
    annotations: Mapping[str, int]
    conflicts: tuple[Conflict, ...]
    unused: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    incomplete: int = 0
    tied: tuple[str, ...] = ()
    empty: int = 0
    set_aside: int = 0

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("version", "answers", "skipped", "withdrawn", "samples")}
        plain |= {"annotations": dict(self.annotations), "conflicts": [c.as_dict() for c in self.conflicts]}
        return plain | {
            "unused": [dict(item) for item in self.unused],
            "warnings": list(self.warnings),
            "incomplete": self.incomplete,
            "tied": list(self.tied),
            "empty": self.empty,
            "set_aside": self.set_aside,
        }


@dataclass
class _Plan:
    """What a pull is going to write."""

    put: dict[str, Row] = field(default_factory=dict)
    remove: set[str] = field(default_factory=set)
    conflicts: list[Conflict] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    unused: list[dict[str, Any]] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    incomplete: int = 0
    tied: list[str] = field(default_factory=list)
    empty: int = 0
    set_aside: int = 0


def pull(
    repository: Repository,
    project: Project,
    server: LabelServer,
    *,
    rule: str = "majority",
    probabilities: Probabilities | None = None,
    branch: str = "main",
    message: str | None = None,
    progress: Progress = no_progress,
) -> PullResult:
    """Bring back what changed since the last pull of a project, as one new version of a branch, or none.

    A pull that is interrupted leaves nothing behind; the next one does its work.
    """
    mine = {batch.name: batch for batch in batches(repository, project.name)}
    sizes = BatchSizes(repository, mine.values())
    expected = sum(len(mine[name].samples) for name in project.pushed)
    pulled = server.pull(project.cursor, sizes, expected=expected, again=project.again)
    result, again = apply(
        repository, project, mine, pulled, server, rule=rule, probabilities=probabilities, branch=branch,
        message=message, progress=progress,
    )  # fmt: skip
    if dict(pulled.cursor) != dict(project.cursor) or tuple(again) != project.again:
        save_project(repository, load_project(repository, project.name).with_cursor(pulled.cursor, again))
    return result


def apply(
    repository: Repository,
    project: Project,
    mine: Mapping[str, Batch],
    pulled: Pulled,
    tool: Any,
    *,
    rule: str = "majority",
    probabilities: Probabilities | None = None,
    branch: str = "main",
    message: str | None = None,
    progress: Progress = no_progress,
) -> tuple[PullResult, list[str]]:
    """(what came of it, tasks to look at again). Commits the answers of a server or of an exchange file."""
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}; got {rule!r}")
    head = repository.version(branch)
    known = answer_heads(repository, project.name)
    tasks = [task for task in pulled.tasks if task.batch in mine and is_news(task, known)]
    if not tasks and pulled.present is None:
        return _result(None, _Plan(warnings=list(pulled.warnings)), [], {}), list(project.again)
    name = f"{tool.name} {tool.version}"
    plan = _plan(repository, head, mine, tasks, name, rule, probabilities, progress)
    plan.warnings += pulled.warnings
    removed = deleted_tasks([mine[name] for name in project.pushed], pulled, known)
    plan.heads = [item for item in plan.heads + removed if known.get((item["sample_id"], item["batch"])) != item]
    if not (plan.heads or plan.put or plan.remove):
        return _result(None, plan, tasks, {}), plan.again
    record = canonical_json({"project": project.name, "tasks": plan.heads, "conflicts": _told(plan.conflicts)})
    event = Event("label-pull", repository.settings.actor)
    key = f"labeling/answers/{project.name}/{event.time[:10]}-{event.event_id}.json"
    event = Event(
        "label-pull",
        repository.settings.actor,
        inputs={"batches": sorted({task.batch for task in tasks}), "schema": project.schema, "guide": project.guide},
        outputs={"files": {key: sha256_hex(record)}},
        parameters={"project": project.name, "tool": tool.name, "tool_version": tool.version, "rule": rule},
        event_id=event.event_id,
        time=event.time,
    )
    repository.store.put(key, record)
    change = Change(
        annotations=[_stored(row) for row in plan.put.values()] or None, remove_annotations=sorted(plan.remove)
    )
    made = None
    counts: Mapping[str, int] = {}
    if plan.put or plan.remove:
        text = message or f"Answers of {len(tasks)} tasks from {project.name} ({tool.name})"
        committed = repository.commit(change, message=text, event=event, branch=branch, parent=head)
        if committed.changed:
            made, counts = committed.version.name, committed.counts["annotations"]
    if made is None:
        repository.ledger.record(event)
    return _result(made, plan, tasks, counts), plan.again


def _plan(
    repository: Repository,
    head: Version,
    mine: Mapping[str, Batch],
    tasks: Sequence[AnsweredTask],
    tool: str,
    rule: str,
    probabilities: Probabilities | None,
    progress: Progress,
) -> _Plan:
    plan = _Plan()
    now = _all_rows(head, [task.sample_id for task in tasks])
    samples = _samples(head, [task.sample_id for task in tasks])
    order = {name: position for position, name in enumerate(sorted(mine, key=lambda n: int(mine[n].version[1:])))}
    by_batch: dict[str, list[AnsweredTask]] = {}
    for task in sorted(tasks, key=lambda task: (order[task.batch], task.sample_id, task.task_id)):
        by_batch.setdefault(task.batch, []).append(task)
    steps = iter(progress(range(len(tasks)), len(tasks), "Reading answers"))
    for name, group in by_batch.items():
        batch = mine[name]
        started = repository.version(batch.version)
        ids = sorted({task.sample_id for task in group})
        base, then = rows_by_sample(started, ids), _samples(started, ids)
        sizes = image_sizes(repository, batch, ids)
        merged = one_a_sample(group)
        attached = {
            sample: tuple(
                _known_classes(attach(answer, base.get(sample, []), started.schema), head.schema)
                for answer in task.answers
            )
            for sample, task in merged.items()
        }
        decided = _decide(attached, started.schema, rule, probabilities)
        for sample, task in merged.items():
            next(steps, None)
            answers = attached[sample]
            plan.heads.append(head_of(task, answers, base.get(sample, []), batch, sizes.get(sample)))
            unread = [(answer, sentence) for answer in answers for sentence in answer.unread]
            plan.warnings += [f"{sample} ({a.actor}): {sentence}" for a in answers for sentence in a.problems]
            if unread:
                plan.again.append(task.task_id)
                plan.unused += [
                    {"sample_id": sample, "batch": name, "actor": a.actor, "problem": sentence}
                    for a, sentence in unread
                ]
                continue
            counted = voices(answers)
            plan.incomplete += 0 < len(counted) < batch.overlap
            plan.empty += sum(not answer.regions for answer in counted)
            plan.set_aside += sum(answer.status == "done" for answer in answers) - len(counted)
            wanted = wanted_rows(
                sample, answers, base.get(sample, []), batch, started.schema,
                tool=tool, size=sizes[sample], rule=rule, decided=decided,
            )  # fmt: skip
            if any((row.get("answer") or {}).get("tied") for row in wanted.rows.values()):
                plan.tied.append(sample)
            _merge(
                plan,
                name,
                sample,
                wanted,
                base.get(sample, []),
                now.get(sample, {}),
                then.get(sample),
                samples.get(sample),
                mine,
            )
    for _ in steps:
        pass
    if plan.set_aside:
        plan.warnings.append(f"{plan.set_aside:,} older answers of the same person to the same item were set aside.")
    return plan


def _merge(
    plan: _Plan,
    batch: str,
    sample: str,
    wanted: Wanted,
    base: Sequence[Row],
    now: Mapping[str, Row],
    then: Mapping[str, Any] | None,
    today: Mapping[str, Any] | None,
    mine: Mapping[str, Batch],
) -> None:
    """Three-way, row by row: what only the answers changed is taken, what somebody else changed too is a conflict."""
    if today is None or (then and then["sha256"] != today["sha256"]):
        plan.conflicts.append(Conflict("samples", sample, sample, _shown(then), _shown(today), _shown(then)))
        return
    before = {row["annotation_id"]: row for row in base}
    ours = {key: row["answer"]["batch"] for key, row in now.items() if (row["answer"] or {}).get("batch") in mine}
    for key, row in wanted.rows.items():
        current = now.get(key)
        if key in ours or same_content(current, before.get(key)):
            if not (same_content(current, row) and _settled(current, row)):
                plan.put[key] = row
        elif (row.get("answer") or {}).get("batch") == batch and not same_content(row, current):
            rows = _shown(before.get(key)), _shown(current), _shown(row)
            plan.conflicts.append(Conflict("annotations", key, sample, *rows))
    stale = {key for key, name in ours.items() if name == batch and key not in wanted.rows}
    for key in (wanted.gone | stale) & now.keys():
        if key in ours or same_content(now[key], before.get(key)):
            plan.remove.add(key)
        else:
            plan.conflicts.append(Conflict("annotations", key, sample, _shown(before.get(key)), _shown(now[key]), None))


def _known_classes(answer: Answer, schema: LabelSchema) -> Answer:
    """The answer, not to be used where the version's schema no longer has one of its classes."""
    labels = {str(region.values["label"]) for region in answer.regions if region.values.get("label") is not None}
    lost = tuple(
        f"the version's schema has no class {label!r} any more" for label in sorted(labels) if not schema.find(label)
    )
    return replace(answer, unread=answer.unread + lost) if lost else answer


def _settled(current: Mapping[str, Any] | None, row: Mapping[str, Any]) -> bool:
    """Whether the row already says that these people said it."""
    names = ("source", "actor", "derived_from")
    return current is not None and all(current.get(name) == row.get(name) for name in names)


def _decide(
    answers: Mapping[str, Sequence[Answer]], schema: LabelSchema, rule: str, probabilities: Probabilities | None
) -> Mapping[str, tuple[str, float]]:
    """Classes by cleanlab's consensus over all answers of this pull, where that rule was asked for."""
    if rule != "cleanlab" or "classification" not in schema.kinds or schema.multi_label:
        return {}
    votes = {
        sample: {
            a.actor: r.values["label"] for a in voices(given) for r in a.regions if r.values["kind"] == "classification"
        }
        for sample, given in answers.items()
    }
    several = {sample: by for sample, by in votes.items() if len(by) > 1}
    if not several:
        return {}
    if probabilities is None:
        raise ValueError("rule: cleanlab needs class probabilities: --probabilities FILE")
    return cleanlab_consensus(several, schema.class_names, probabilities)


def _all_rows(version: Version, ids: Sequence[str]) -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for row in version.annotations_of(ids).to_pylist():
        for name in ("geometry", "attributes", "answer"):
            row[name] = json.loads(row[name]) if row[name] else None
        rows.setdefault(row["sample_id"], {})[row["annotation_id"]] = row
    return rows


def _samples(version: Version, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    wanted = pa.array(sorted(set(ids)), pa.string())
    rows = version.state("samples").rows(wanted, ["sample_id", "sha256", "uri"]).to_pylist()
    return {row["sample_id"]: row for row in rows}


def _stored(row: Row) -> dict[str, Any]:
    """A row for a commit: the event is this one, and times are times."""
    made = row.get("created_at")
    moment = datetime.fromisoformat(made) if isinstance(made, str) else made
    return {name: value for name, value in row.items() if name != "event_id"} | {"created_at": moment}


def _shown(row: Mapping[str, Any] | None) -> Any:
    return None if row is None else dict(row)


def _told(conflicts: Sequence[Conflict]) -> list[dict[str, Any]]:
    return [conflict.as_dict() for conflict in conflicts]


def _result(version: str | None, plan: _Plan, tasks: Sequence[AnsweredTask], counts: Mapping[str, int]) -> PullResult:
    answers = [answer for task in tasks for answer in task.answers]
    return PullResult(
        version=version,
        answers=sum(answer.status == "done" for answer in answers),
        skipped=sum(answer.status == "skipped" for answer in answers),
        withdrawn=sum(not task.answers for task in tasks),
        samples=len({task.sample_id for task in tasks}),
        annotations=counts,
        conflicts=tuple(plan.conflicts),
        unused=tuple(plan.unused),
        warnings=tuple(plan.warnings),
        incomplete=plan.incomplete,
        tied=tuple(plan.tied),
        empty=plan.empty,
        set_aside=plan.set_aside,
    )
