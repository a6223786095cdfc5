"""The steps of a loop, each the verb that a person would call, each to be called again after any interruption."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datasetops.active_learning.bought import bought
from datasetops.active_learning.credit import fresh_labels
from datasetops.active_learning.loop.config import Config
from datasetops.active_learning.loop.state import State
from datasetops.active_learning.next_batch import next_batch
from datasetops.active_learning.rounds import Round, load_round, rounds
from datasetops.active_learning.select import select
from datasetops.audits.decisions import decisions, open_findings
from datasetops.audits.run import audit
from datasetops.errors import DatasetOpsError
from datasetops.images import quiet_decoding
from datasetops.labeling import (
    Batch,
    choose_project,
    file_project,
    make_batch,
    open_project,
    pull,
    push,
    status,
    write_files,
)
from datasetops.manifest import Repository, Version
from datasetops.models import open_embedder
from datasetops.preannotate.few_shot_labeler import SCHEME
from datasetops.preannotate.opening import open_labeler
from datasetops.preannotate.run import preannotate
from datasetops.progress import Progress
from datasetops.records import SEVERITIES, sha256_hex

Told = Mapping[str, Any]


@dataclass(frozen=True)
class Paused:
    """The step cannot be done yet; `words` say what has to happen. `waiting` is for labels, and time may bring them."""

    words: str
    waiting: bool = False


@dataclass(frozen=True)
class Work:
    """What a step works on."""

    repository: Repository
    config: Config
    state: State
    progress: Progress

    @property
    def head(self) -> Version:
        return self.repository.version(self.config.branch)

    @property
    def round(self) -> Round:
        return load_round(self.repository, self.state.done["select"]["round"])

    @property
    def by_files(self) -> bool:
        return self.config.out is not None


def select_step(work: Work) -> Told:
    """A round; the one that an interrupted run had recorded is found by its seed, which no other turn has."""
    config, turn = work.config, work.state.turns + 1
    if not work.by_files:
        choose_project(work.repository, config.project)  # before a round is recorded that could not be pushed
    _check_model(work)
    seed = int(sha256_hex(f"{config.name}\n{turn}".encode())[:7], 16)
    made = next((item for item in rounds(work.repository) if item.seed == seed), None)
    if made is None:
        made = select(
            work.repository,
            work.head,
            n=config.n,
            strategy=config.strategy,
            where=config.where,
            quotas=config.quotas,
            balance=config.balance,
            random_share=config.random_share,
            budget=config.minutes,
            seed=seed,
            progress=work.progress,
        )
    return {"round": made.name, "version": made.version, "samples": len(made.samples)}


def push_step(work: Work) -> Told:
    """The round's batch, by a name of its own, so that no task is made twice."""
    config, item = work.config, work.round
    project = (
        file_project(work.repository, config.tool, config.project)
        if work.by_files
        else choose_project(work.repository, config.project)
    )
    batch = make_batch(
        work.repository,
        work.repository.version(item.version),
        item.samples,
        project,
        name=f"{config.name}-{item.name}",
        overlap=config.overlap,
        progress=work.progress,
    )
    told = {"batch": batch.name, "project": project.name}
    if work.by_files:
        out = Path(str(config.out).replace("{round}", item.name))
        if not _was_pushed(work.repository, batch):
            write_files(work.repository, batch, config.tool, out, progress=work.progress)
        return told | {"file": str(out)}
    result = push(work.repository, batch, open_project(work.repository, project), progress=work.progress)
    return told | {"tasks": result.tasks, "url": f"{project.url}/projects/{project.id}"}


def wait_step(work: Work) -> Told | Paused:
    """Look once whether enough of the batch is back; skipped and deleted tasks are."""
    pushed, item = work.state.done["push"], work.round
    if work.by_files:
        total, back = len(item.samples), len(fresh_labels(work.repository, work.head, [item]))
        where = f"Label {pushed['file']}, then: dsops label pull --tool {work.config.tool} "
        where += f"--project {shlex.quote(pushed['project'])} --file EXPORT"
    else:
        project = choose_project(work.repository, pushed["project"])
        found = status(work.repository, project, open_project(work.repository, project))
        mine = next(batch for batch in found.batches if batch.batch == pushed["batch"])
        total, back = mine.tasks, mine.tasks - mine.left
        where = f"Label at: {pushed['url']}"
    if back < work.config.enough * total:
        words = f"{item.name}: {back:,} of {total:,} items are back, and {work.config.enough:.0%} are enough. {where}"
        return Paused(words, waiting=True)
    return {"back": back, "of": total}


def pull_step(work: Work) -> Told:
    if work.by_files:  # somebody brought the answers
        return {"version": work.head.name}
    project = choose_project(work.repository, work.state.done["push"]["project"])
    server = open_project(work.repository, project)
    result = pull(work.repository, project, server, branch=work.config.branch, progress=work.progress)
    counts = {name: getattr(result, name) for name in ("answers", "skipped", "empty", "set_aside", "withdrawn")}
    told = {name: count for name, count in counts.items() if count or name == "answers"}
    told |= {"unused": len(result.unused)} if result.unused else {}
    return {"version": work.head.name, **told, "conflicts": len(result.conflicts)}


def audit_step(work: Work) -> Told | Paused:
    asked = work.config.audit
    if not asked:
        return {"skipped": True}
    record = audit(work.repository, work.head, checks=asked.checks, progress=work.progress)
    undecided = open_findings(record.findings, decisions(work.repository))["severity"].to_pylist()
    counts = {severity: undecided.count(severity) for severity in reversed(SEVERITIES)}
    if asked.fail_on is not None:
        held = sum(counts[severity] for severity in SEVERITIES[SEVERITIES.index(asked.fail_on) :])
        if held:
            words = f"{held:,} open findings of {record.version} are {asked.fail_on} or worse, and hold the loop. "
            return Paused(f"{words}Decide about them: dsops review {record.version}")
    return {"audit": record.audit_id, "version": record.version, "open": counts}


def train_step(work: Work) -> Told:
    """The one place where something learns from the new labels."""
    asked, head = work.config.train, work.head
    if not asked:
        return {"skipped": True}
    if asked.command is not None:
        return _run_command(work, asked.command, head)
    with quiet_decoding():
        labeler, prompts = open_labeler(work.repository, head, str(asked.model))
        made = preannotate(
            work.repository, head, labeler, prompts=prompts, branch=work.config.branch, progress=work.progress
        )
    return {"version": made.version or head.name, "model": made.model.label}


def report_step(work: Work) -> Told:
    until = work.config.until
    report = bought(work.repository, branch=work.config.branch, progress=work.progress)
    mine = next(item for item in report.rounds if item.round == work.round.name)
    timed = any(item.minutes for item in report.rounds if item.labeled)
    stop = next_batch(report, n=work.config.n, least_gain=until.least_gain, worth=until.worth if timed else None)
    gains = {name: None if (value := getattr(mine, name)) is None else value.as_dict() for name in ("metric", "gain")}
    pays = stop.pays if timed or until.worth is None else None  # nothing tells yet what a batch costs
    words = {"basis": report.basis, "words": stop.words}
    return {"version": report.version, "labeled": mine.labeled, **gains, "pays": pays, **words}


def _check_model(work: Work) -> None:
    """Raise what opening the model to train would raise, while nobody has labeled anything for it yet."""
    model = work.config.train.model if work.config.train else None
    if model is None:
        return
    scheme, _, name = model.strip().partition(":")
    if scheme == SCHEME:  # which learns from labels that are still to come
        open_embedder(name or work.repository.settings.model, cache=work.repository.settings.cache)
    else:
        open_labeler(work.repository, work.head, model)


def _run_command(work: Work, line: str, head: Version) -> Told:
    """Run the user's command; what it prints goes to stderr. Raises DatasetOpsError where it fails."""
    names = {"version": head.name, "round": work.round.name}
    words = [word.replace("{version}", head.name).replace("{round}", names["round"]) for word in shlex.split(line)]
    told = {f"DSOPS_LOOP_{name.upper()}": value for name, value in names.items()}
    try:
        ended = subprocess.run(
            words, cwd=work.repository.root, env={**os.environ, **told}, stdout=sys.stderr, check=False
        )
    except OSError as error:
        raise DatasetOpsError(f"train: {words[0]}: {error.strerror}.", remedy="Correct the command.") from None
    if ended.returncode:
        raise DatasetOpsError(
            f"train: {line!r} ended with status {ended.returncode}.",
            remedy="Correct what failed and run the same command again: the loop goes on with this step.",
        )
    return {"version": work.head.name, "command": line}


def _was_pushed(repository: Repository, batch: Batch) -> bool:
    return any(
        entry.event.kind == "label-push" and entry.event.parameters.get("batch") == batch.name
        for entry in repository.ledger.backwards()
    )


ACTIONS: Final[Mapping[str, Callable[[Work], Told | Paused]]] = {
    "select": select_step,
    "push": push_step,
    "wait": wait_step,
    "pull": pull_step,
    "audit": audit_step,
    "train": train_step,
    "report": report_step,
}
