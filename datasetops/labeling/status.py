"""How far labeling is: done, skipped and left, who works how fast and how well, and when it will be finished."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from datasetops.labeling.base import LabelServer
from datasetops.labeling.batch import Batch, Project, batches
from datasetops.labeling.heads import answer_heads, fresh_heads
from datasetops.manifest import Repository


@dataclass(frozen=True)
class BatchStatus:
    """Tasks of a batch. `left` have fewer answers than were asked for; `deleted` are gone from the tool."""

    batch: str
    version: str
    tasks: int
    done: int
    skipped: int
    left: int
    deleted: int


@dataclass(frozen=True)
class PersonStatus:
    """`lead_time` is the median in seconds. `gold` and `pre` are mean agreement in [0, 1], with `gold_items` compared."""

    actor: str
    done: int
    skipped: int
    lead_time: float | None
    gold: float | None
    gold_items: int
    pre: float | None


@dataclass(frozen=True)
class LabelStatus:
    """`finish` is when the work will be done at the pace of the last day of work, ISO 8601; None where nobody can say."""

    project: str
    url: str
    batches: tuple[BatchStatus, ...]
    people: tuple[PersonStatus, ...]
    lead_time: float | None
    not_pulled: int
    finish: str | None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(repository: Repository, project: Project, server: LabelServer) -> LabelStatus:
    """What was pulled and what has changed on the server since."""
    mine = {batch.name: batch for batch in batches(repository, project.name)}
    fresh = fresh_heads(repository, project, mine, server)
    heads = {**answer_heads(repository, project.name), **fresh.tasks}
    answers = [answer for head in heads.values() for answer in head["answers"]]
    return LabelStatus(
        project=project.name,
        url=f"{project.url}/projects/{project.id}",
        batches=tuple(_batch(batch, heads.values()) for batch in mine.values()),
        people=_people(answers),
        lead_time=_median(answer["lead_time"] for answer in answers if answer["status"] == "done"),
        not_pulled=len(fresh.tasks),
        finish=_finish(answers, sum(_open(batch, heads.values()) for batch in mine.values())),
        warnings=fresh.warnings,
    )


def _batch(batch: Batch, heads: Iterable[Mapping[str, Any]]) -> BatchStatus:
    mine = [head for head in heads if head["batch"] == batch.name]
    deleted = sum(bool(head.get("deleted")) for head in mine)
    full = [head for head in mine if _answered(head) >= batch.overlap]
    done = sum(_count(head, "done") > 0 for head in full)
    skipped = len(full) - done
    gone = sum(bool(head.get("deleted")) and _answered(head) < batch.overlap for head in mine)
    tasks = len(batch.samples)
    return BatchStatus(batch.name, batch.version, tasks, done, skipped, tasks - done - skipped - gone, deleted)


def _open(batch: Batch, heads: Iterable[Mapping[str, Any]]) -> int:
    """Answers that are still to be given."""
    left = len(batch.samples) * batch.overlap
    for head in heads:
        if head["batch"] == batch.name:
            left -= batch.overlap if head.get("deleted") else min(batch.overlap, _answered(head))
    return left


def _answered(head: Mapping[str, Any]) -> int:
    return len(head["answers"])


def _count(head: Mapping[str, Any], what: str) -> int:
    return sum(answer["status"] == what for answer in head["answers"])


def _people(answers: Iterable[Mapping[str, Any]]) -> tuple[PersonStatus, ...]:
    by_actor: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for answer in answers:
        by_actor[answer["actor"]].append(answer)
    people = []
    for actor in sorted(by_actor):
        done = [answer for answer in by_actor[actor] if answer["status"] == "done"]
        gold = [answer["gold"] for answer in done if answer["gold"] is not None]
        pre = [answer["pre"] for answer in done if answer["pre"] is not None]
        people.append(
            PersonStatus(
                actor,
                len(done),
                len(by_actor[actor]) - len(done),
                _median(answer["lead_time"] for answer in done),
                statistics.fmean(gold) if gold else None,
                len(gold),
                statistics.fmean(pre) if pre else None,
            )
        )
    return tuple(people)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _finish(answers: Iterable[Mapping[str, Any]], left: int) -> str | None:
    """When `left` more answers will be there, at the pace of the day before the newest answer, pauses included."""
    moments = sorted(datetime.fromisoformat(answer["created_at"]) for answer in answers if answer["created_at"])
    if left == 0 or len(moments) < 2:
        return None
    recent = [moment for moment in moments if moment >= moments[-1] - timedelta(days=1)]
    span = (recent[-1] - recent[0]).total_seconds()
    if len(recent) < 2 or span <= 0:
        return None
    seconds = left * span / (len(recent) - 1)
    if seconds > 10 * 365 * 86400:
        return None
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="minutes")
