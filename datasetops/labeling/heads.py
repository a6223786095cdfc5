"""Heads: what is kept of each task beside the version: its answers without their regions, and how they compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasetops.labeling.answers import Row, attach
from datasetops.labeling.base import Answer, AnsweredTask, ImageSize, LabelServer, Pulled
from datasetops.labeling.batch import Batch, Project, find_batch, image_sizes
from datasetops.labeling.consensus import agreement, answer_of_rows
from datasetops.labeling.push import rows_by_sample
from datasetops.manifest import Repository

Key = tuple[str, str]  # sample_id, batch
Head = dict[str, Any]


def answer_heads(repository: Repository, project: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What the last pull that saw a task says of it, by (sample_id, batch): its answers without their regions."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    entries = [
        entry
        for entry in repository.ledger.backwards()
        if entry.event.kind == "label-pull" and entry.event.parameters.get("project") == project
    ]
    for entry in reversed(entries):
        for key in entry.event.outputs["files"]:
            for task in json.loads(repository.store.get(key))["tasks"]:
                found[task["sample_id"], task["batch"]] = task
    return found


@dataclass(frozen=True)
class FreshHeads:
    """Heads as `answer_heads` has them, of tasks that changed since the last pull."""

    tasks: Mapping[tuple[str, str], Mapping[str, Any]]
    warnings: tuple[str, ...]


def fresh_heads(repository: Repository, project: Project, mine: Mapping[str, Batch], server: LabelServer) -> FreshHeads:
    """What a pull would find, without writing anything."""
    expected = sum(len(mine[name].samples) for name in project.pushed)
    pulled = server.pull(project.cursor, BatchSizes(repository, mine.values()), expected=expected)
    known = answer_heads(repository, project.name)
    tasks = [task for task in pulled.tasks if task.batch in mine and is_news(task, known)]
    heads = {}
    for batch in mine.values():
        group = one_a_sample([task for task in tasks if task.batch == batch.name])
        base = rows_by_sample(repository.version(batch.version), sorted(group)) if group else {}
        sizes = image_sizes(repository, batch, sorted(group)) if group else {}
        for sample, task in group.items():
            began = base.get(sample, [])
            answers = [attach(answer, began, repository.version(batch.version).schema) for answer in task.answers]
            heads[sample, batch.name] = head_of(task, answers, began, batch, sizes.get(sample))
    pushed = [mine[name] for name in project.pushed]
    heads |= {(head["sample_id"], head["batch"]): head for head in deleted_tasks(pushed, pulled, known)}
    return FreshHeads(heads, pulled.warnings)


@dataclass(frozen=True)
class Sent:
    """Samples of batches that were pushed. `out` are with annotators, or have an answer that counts; `returned` came back
    without a label from every batch that had them: skipped, of an unknown class, without any class, or deleted."""

    out: frozenset[str]
    returned: frozenset[str]


def sent_samples(repository: Repository) -> Sent:
    """Of all projects, as the pulls so far tell."""
    pushes = [e.event.parameters for e in repository.ledger.backwards() if e.event.kind == "label-push"]
    names = {told["batch"]: told["project"] for told in pushes}
    heads = {project: answer_heads(repository, project) for project in set(names.values())}
    out: set[str] = set()
    sent: set[str] = set()
    for name, project in names.items():
        if batch := find_batch(repository, name):
            classes_only = set(repository.version(batch.version).schema.kinds) == {"classification"}
            known = heads[project]
            back = {s for s in batch.samples if _without_label(known.get((s, name)), batch.overlap, classes_only)}
            sent.update(batch.samples)
            out.update(set(batch.samples) - back)
    return Sent(frozenset(out), frozenset(sent - out))


def _without_label(head: Mapping[str, Any] | None, overlap: int, classes_only: bool) -> bool:
    """Whether a task is done with and no answer says anything; that nothing is in an image says something."""
    if head is None or not (head.get("deleted") or len(head["answers"]) >= overlap):
        return False
    return not any(
        answer["status"] == "done" and not answer.get("unread") and (answer.get("regions") or not classes_only)
        for answer in head["answers"]
    )


def head_of(
    task: AnsweredTask, answers: Sequence[Answer], base: Sequence[Row], batch: Batch, size: ImageSize | None
) -> dict[str, Any]:
    """What is kept of a task: no regions, but how the answers compare, and `unread` where one could not be used."""
    gold = answer_of_rows(batch.gold[task.sample_id]) if task.sample_id in batch.gold else None
    began = answer_of_rows(base) if base and batch.predictions else None
    told = []
    for answer in answers:
        facts = asdict(answer)
        for name in ("regions", "unread", "problems"):
            facts.pop(name)
        if answer.unread:
            facts["unread"] = True
        if answer.status == "done":
            facts["regions"] = len(answer.regions)
            facts["changed"] = any(region.changed for region in answer.regions) or len(answer.regions) != len(base)
            facts["gold"] = agreement(answer, gold, size=size) if gold else None
            facts["pre"] = agreement(answer, began, size=size) if began else None
        told.append(facts)
    return {"task_id": task.task_id, "sample_id": task.sample_id, "batch": task.batch, "answers": told}


def is_news(task: AnsweredTask, known: Mapping[tuple[str, str], Mapping[str, Any]]) -> bool:
    before = known.get((task.sample_id, task.batch))
    return bool(task.answers) or bool(before and before["answers"] and not before.get("deleted"))


def one_a_sample(tasks: Sequence[AnsweredTask]) -> dict[str, AnsweredTask]:
    """One task a sample: doubles that an interrupted push left behind are one task with the answers of both."""
    merged: dict[str, AnsweredTask] = {}
    for task in tasks:
        if first := merged.get(task.sample_id):
            task = AnsweredTask(first.task_id, first.sample_id, first.batch, first.answers + task.answers)
        merged[task.sample_id] = task
    return merged


def deleted_tasks(
    pushed: Iterable[Batch], pulled: Pulled, known: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Tasks that somebody deleted in the tool. Their answers stay; that they were deleted is recorded."""
    if pulled.present is None:
        return []
    there = pulled.present
    lost = [(s, batch.name) for batch in pushed for s in batch.samples if (s, batch.name) not in there]
    return [
        {
            "task_id": None,
            "sample_id": sample,
            "batch": name,
            "answers": [],
            **known.get((sample, name), {}),
            "deleted": True,
        }
        for sample, name in lost
        if not known.get((sample, name), {}).get("deleted")
    ]


class BatchSizes:
    """Sizes of samples of some batches, the newest batch first."""

    def __init__(self, repository: Repository, of: Iterable[Batch]) -> None:
        self._repository = repository
        self._batches: list[Batch] = sorted(of, key=lambda batch: int(batch.version[1:]))

    def __call__(self, sample_ids: Sequence[str]) -> dict[str, ImageSize]:
        sizes: dict[str, ImageSize] = {}
        for batch in self._batches:
            inside = set(batch.samples).intersection(sample_ids)
            if inside:
                sizes |= image_sizes(self._repository, batch, sorted(inside))
        return sizes
