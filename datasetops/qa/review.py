"""A plan's items on their way to reviewers and back, and the result at any time."""

from __future__ import annotations

from collections.abc import Mapping

from datasetops.audits.record import latest_audit
from datasetops.errors import ConflictError, NotFoundError
from datasetops.labeling import Project, PushResult, choose_project, load_project, make_batch, open_project, push
from datasetops.labeling.base import AnsweredTask
from datasetops.labeling.batch import batches
from datasetops.labeling.heads import BatchSizes
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.progress import Progress, no_progress
from datasetops.qa.plan import QaPlan, lot
from datasetops.qa.result import QaResult, evaluate
from datasetops.qa.verdicts import load_verdicts


def push_items(
    repository: Repository,
    plan: QaPlan,
    stage: int,
    *,
    project: str | None = None,
    images: str = "auto",
    progress: Progress = no_progress,
) -> PushResult:
    """Make labeling tasks of the items that a stage (0, 1, …) adds, in a blind project.

    Those to be reviewed twice have a second task, which is for somebody else. Running it again makes nothing twice.
    """
    target = _project(repository, plan, project)
    server = open_project(repository, target)
    version = repository.version(plan.version)
    before = set(plan.to_review(stage - 1)) if stage else set()
    items = [item for item in plan.to_review(stage) if item not in before]
    results = []
    parts = {
        f"{plan.name}-{stage + 1}": items,
        f"{plan.name}-{stage + 1}-second": [x for x in items if x in plan.second],
    }
    for name, part in parts.items():
        if part:
            batch = make_batch(repository, version, part, target, name=name, progress=progress)
            results.append(push(repository, batch, server, images=images, progress=progress))
    total = sum(result.tasks for result in results)
    return PushResult(**results[0].__dict__ | {"tasks": total, "created": sum(r.created for r in results)})


def pull_items(repository: Repository, plan: QaPlan, *, project: str | None = None) -> tuple[list[AnsweredTask], str]:
    """(what reviewers answered about the plan's items, the project's name)."""
    target = _project(repository, plan, project)
    mine = {batch.name: batch for batch in batches(repository, target.name) if batch.name.startswith(f"{plan.name}-")}
    every = list(batches(repository, target.name))
    pulled = open_project(repository, target).pull(
        {}, BatchSizes(repository, every), expected=sum(len(batch.samples) for batch in every)
    )
    return [task for task in pulled.tasks if task.batch in mine], target.name


def current_result(repository: Repository, plan: QaPlan) -> QaResult:
    """The plan's result by the verdicts that are there, with an estimate that leans on the newest label audit."""
    return evaluate(plan, load_verdicts(repository, plan), _scores(repository, plan))


def record_result(repository: Repository, plan: QaPlan, result: QaResult) -> None:
    """Tell the ledger what was concluded, unless the newest entry about this plan says the same."""
    outputs = {"verdict": result.verdict, "stage": result.stage, "checked": result.checked, "wrong": result.wrong}
    outputs |= {"low": result.low, "high": result.high}
    for entry in repository.ledger.backwards():
        if entry.event.kind == "qa-result" and entry.event.inputs.get("plan") == plan.name:
            if dict(entry.event.outputs) == outputs:
                return
            break
        if entry.event.outputs.get("plan") == plan.name:
            break
    inputs = {"plan": plan.name, "version": plan.version, "commit": plan.commit}
    repository.ledger.record(Event("qa-result", repository.settings.actor, inputs=inputs, outputs=outputs))


def _project(repository: Repository, plan: QaPlan, name: str | None) -> Project:
    blind = f"{repository.version(plan.version).schema.name}-blind"
    try:
        project = load_project(repository, name or blind)
    except NotFoundError:
        if name is None:
            raise NotFoundError(
                f"There is no blind labeling project {blind!r}.",
                remedy=f"Make it with: dsops label setup {plan.version} --blind; or review in a CSV: "
                f"dsops qa push {plan.name} --out FILE.csv",
            ) from None
        raise
    if not project.blind:
        raise ConflictError(
            f"The project {project.name!r} shows reviewers the given labels.",
            remedy=f"Make a blind one with: dsops label setup {plan.version} --blind",
        )
    return choose_project(repository, project.name)


def _scores(repository: Repository, plan: QaPlan) -> Mapping[str, float] | None:
    """Scores of the check label_noise for every item of the lot, where an audit has them."""
    version = repository.version(plan.version)
    try:
        record = latest_audit(repository, version)
    except NotFoundError:
        return None
    rows = record.scores.to_pandas()
    rows = rows[rows["check"] == "label_noise"]
    found = dict(zip(rows["sample_id"], rows["score"], strict=True))
    if len(found) < plan.design.population:
        return None
    wanted = lot(version, (), plan.where)[0]["sample_id"]
    return {item: found[item] for item in wanted if item in found}
