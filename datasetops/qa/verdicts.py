"""What reviewers said about the items of a plan: kept as they come, never changed.

`qa/verdicts/<plan>/<event>.json` are lists of verdicts; of one reviewer's on one item the newest counts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from datasetops.errors import FormatError, did_you_mean
from datasetops.labeling.base import AnsweredTask, ImageSize
from datasetops.labeling.consensus_regions import SAME_THING, group_regions, similarities
from datasetops.labeling.push import rows_by_sample
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.qa.plan import QaPlan
from datasetops.records import canonical_json, sha256_hex
from datasetops.sheets import read_csv_rows

VERDICTS: Final = ("right", "wrong", "unsure")
_FOLDER: Final = "qa/verdicts/"
_SHEET: Final = ("sample_id", "uri", "given", "reviewer", "verdict", "note")


@dataclass(frozen=True)
class Verdict:
    """`objects` the image has been given, `wrong_objects` of those or beside them, where they were counted."""

    sample_id: str
    reviewer: str
    verdict: str
    note: str = ""
    objects: int | None = None
    wrong_objects: int | None = None
    answer_id: str | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict: expected one of {', '.join(VERDICTS)}; got {self.verdict!r}")


@dataclass(frozen=True)
class Taken:
    """`new` verdicts came in. Left out: `own`, by somebody who labeled the item, and `strangers`, about items that the
    plan did not draw; those cannot enter an estimate."""

    new: int
    known: int
    own: tuple[Verdict, ...]
    strangers: tuple[Verdict, ...]


def take(
    repository: Repository, plan: QaPlan, verdicts: Iterable[Verdict], *, origin: str, role: str | None = None
) -> Taken:
    """Keep the verdicts that count and are not known yet."""
    drawn = {item for stratum in plan.strata for item in stratum.order} | set(plan.planted or {})
    stated = {(item.sample_id, item.reviewer): item for item in load_verdicts(repository, plan)}
    given = list(verdicts)
    annotators = _annotators(repository, plan, [item.sample_id for item in given if item.sample_id in drawn])
    strangers = tuple(item for item in given if item.sample_id not in drawn)
    own = tuple(item for item in given if item.reviewer in annotators.get(item.sample_id, ()))
    rest = [item for item in given if item.sample_id in drawn and item not in own]
    new = [item for item in rest if stated.get((item.sample_id, item.reviewer)) != item]
    if new:
        event = Event("qa-verdicts", repository.settings.actor, inputs={"plan": plan.name, "commit": plan.commit})
        key = f"{_FOLDER}{plan.name}/{event.time}-{event.event_id}.json"
        data = canonical_json([asdict(item) for item in new])
        repository.store.put(key, data)
        repository.ledger.record(
            replace(
                event,
                outputs={"files": {key: sha256_hex(data)}},
                parameters={"from": origin, "count": len(new)} | ({"role": role} if role else {}),
            )
        )
    return Taken(len(new), len(rest) - len(new), own, strangers)


def load_verdicts(repository: Repository, plan: QaPlan) -> list[Verdict]:
    """The verdicts that stand, in the order in which they came first."""
    found: dict[tuple[str, str], Verdict] = {}
    for key in sorted(repository.store.list(f"{_FOLDER}{plan.name}/")):
        for raw in json.loads(repository.store.get(key)):
            verdict = Verdict(**raw)
            found[verdict.sample_id, verdict.reviewer] = verdict
    return list(found.values())


def from_answers(repository: Repository, plan: QaPlan, tasks: Sequence[AnsweredTask]) -> list[Verdict]:
    """Verdicts from labels that reviewers gave without seeing the given ones: right where both are the same."""
    version = repository.version(plan.version)
    given = rows_by_sample(version, [task.sample_id for task in tasks])
    found = []
    for task in tasks:
        rows = _given(plan, task.sample_id, given.get(task.sample_id, []))
        for answer in task.answers:
            if answer.status == "skipped" or answer.unread:
                note = "; ".join(answer.unread) or "skipped"
                found.append(Verdict(task.sample_id, answer.actor, "unsure", note, answer_id=answer.answer_id))
                continue
            objects, wrong, note = compare(rows, [dict(region.values) for region in answer.regions], plan.iou)
            verdict = "wrong" if wrong else "right"
            found.append(Verdict(task.sample_id, answer.actor, verdict, note, objects, wrong, answer.answer_id))
    return found


def compare(
    given: Sequence[Mapping[str, Any]], answer: Sequence[Mapping[str, Any]], iou: float, size: ImageSize | None = None
) -> tuple[int, int, str]:
    """(objects given, how many are wrong, missing or too many, what is wrong in words). Rows as in records.ANNOTATIONS."""
    ours = {row["label"] for row in given if row["kind"] == "classification"}
    theirs = {row["label"] for row in answer if row["kind"] == "classification"}
    wrong, told = len(ours ^ theirs), []
    if wrong:
        told.append(f"given {_named(ours)}, reviewer says {_named(theirs)}")
    regions = [[row for row in rows if row["kind"] != "classification"] for rows in (given, answer)]
    rows = [*regions[0], *regions[1]]
    owners = [0] * len(regions[0]) + [1] * len(regions[1])
    problems: dict[str, int] = {}
    for group in group_regions(rows, owners, size=size) if rows else []:
        problem = _problem([rows[i] for i in group], [owners[i] for i in group], iou, size)
        if problem:
            problems[problem] = problems.get(problem, 0) + 1
    wrong += sum(problems.values())
    told += [f"{count} {problem}" for problem, count in sorted(problems.items())]
    return len(given), wrong, "; ".join(told)


def _problem(rows: list[Mapping[str, Any]], owners: list[int], iou: float, size: ImageSize | None) -> str:
    if len(rows) == 1:
        return f"{rows[0]['label']} {'not there' if owners[0] == 0 else 'missing'}"
    if rows[0]["label"] != rows[1]["label"]:
        return f"{rows[0]['label']} that is {rows[1]['label']}"
    if iou > SAME_THING and similarities(rows, size)[0, 1] < iou:
        return f"{rows[0]['label']} badly placed"
    return ""


def write_sheet(repository: Repository, plan: QaPlan, items: Sequence[str], out: Path) -> None:
    """A CSV for reviewers to fill in: item, address, given labels, and room for reviewer, verdict and note."""
    import pyarrow as pa

    version = repository.version(plan.version)
    places = version.state("samples").rows(pa.array(sorted(items), pa.string()), ["sample_id", "uri"]).to_pylist()
    uris = {row["sample_id"]: row["uri"] for row in places}
    given = rows_by_sample(version, items)
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_SHEET)
        for item in items:
            writer.writerow([item, uris.get(item), _in_words(_given(plan, item, given.get(item, []))), "", "", ""])


def read_sheet(path: Path, *, reviewer: str | None = None) -> list[Verdict]:
    """Verdicts from a CSV with the columns sample_id and verdict (right, wrong or unsure; empty: not reviewed), and
    reviewer where `reviewer` does not say. Raises FormatError that names line and field."""
    found = []
    for line, row in read_csv_rows(path, ("sample_id", "verdict"), "Give the CSV that dsops qa push wrote."):
        verdict = row["verdict"].lower()
        if not verdict:
            continue
        if verdict not in VERDICTS:
            raise FormatError(
                f"{path}: line {line}: verdict {verdict!r} is not known.",
                remedy=did_you_mean(verdict, VERDICTS, noun="verdicts"),
            )
        who = reviewer or row.get("reviewer")
        if not who:
            raise FormatError(
                f"{path}: line {line}: it does not say who reviewed it.",
                remedy="Fill in the column reviewer, or give --reviewer NAME.",
            )
        found.append(Verdict(row["sample_id"], who, verdict, row.get("note", "")))
    if not found:
        raise FormatError(
            f"{path}: no row has a verdict.",
            remedy="Fill in the column verdict with right, wrong or unsure, and give the file again.",
        )
    return found


def _given(plan: QaPlan, sample_id: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What reviewers are to judge: the version's rows, with the planted class where there is one."""
    planted = (plan.planted or {}).get(sample_id)
    return [{**row, "label": planted} if planted and row["kind"] == "classification" else row for row in rows]


def _annotators(repository: Repository, plan: QaPlan, sample_ids: Sequence[str]) -> dict[str, set[str]]:
    """Who gave an item's labels, votes too."""
    rows = repository.version(plan.version).annotations_of(sorted(set(sample_ids)))
    found: dict[str, set[str]] = {}
    for sample_id, actor, source in zip(*(rows[n].to_pylist() for n in ("sample_id", "actor", "source")), strict=True):
        if actor and source != "model":
            found.setdefault(sample_id, set()).add(actor)
    return found


def _named(labels: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, labels))) or "no class"


def _in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row["label"] or row["text"])] = counts.get(str(row["label"] or row["text"]), 0) + 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(counts.items()))
