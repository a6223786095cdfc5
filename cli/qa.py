"""Commands of sampled QA: plan, push, pull, result, list."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, group, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.manifest import Repository
    from datasetops.qa.plan import QaPlan
    from datasetops.qa.result import QaResult

PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="q1, q2, …; a version stands for its newest plan.")]

_OF_LABELS: Final = ("findings", "leakage", "guide", "migrations_finished")  # rules whose remedy may change labels


def register(app: typer.Typer) -> None:
    qa = group(app, "qa", "Check a random sample, and say what it proves about a version.")
    for function in (plan, push, pull, result):
        command(qa)(function)
    command(qa, "list")(list_plans)


def plan(
    session: Session,
    version: VersionName = "main",
    pass_rate: Annotated[float, typer.Option("--pass", help="The share of items that must be right.")] = 0.95,
    confidence: Annotated[float, typer.Option(help="How sure the claim must be.")] = 0.95,
    producer_risk: Annotated[
        float, typer.Option(help="Chance that a version with --expected wrong is not accepted.")
    ] = 0.1,
    expected: Annotated[
        float | None, typer.Option(help="The share that is wrong, as far as you know; 2/5 of what may be, unless told.")
    ] = None,
    stages: Annotated[int, typer.Option(help="In how many steps: good and bad versions are told apart earlier.")] = 2,
    size: Annotated[int | None, typer.Option(help="Check so many in all, whatever the risk to the producer.")] = None,
    per: Annotated[
        list[str] | None,
        typer.Option(help="Also judge each annotator, label, source or value of a slice attribute. May be repeated."),
    ] = None,
    floor: Annotated[int, typer.Option(min=0, help="With --per: checks that each of them gets at least.")] = 30,
    where: Annotated[str | None, typer.Option(help="SQL condition: the claim is about these samples only.")] = None,
    iou: Annotated[float, typer.Option(help="Regions that overlap less are not the same.")] = 0.5,
    second: Annotated[float, typer.Option(help="Share of the items that two people review.")] = 0.1,
    planted: Annotated[int, typer.Option(min=0, help="Errors planted beside the sample, to measure reviewers.")] = 0,
    seed: Annotated[str | None, typer.Option(help="Drawn at random unless told; kept in the ledger first.")] = None,
) -> None:
    """Design a sampling plan, say what it can promise, and draw its items."""
    from datasetops.qa.plan import make_plan
    from datasetops.qa.words import explain_plan

    repository = session.repository
    made = make_plan(
        repository,
        repository.version(version),
        pass_rate=pass_rate,
        confidence=confidence,
        producer_risk=producer_risk,
        expected=expected,
        stages=stages,
        size=size,
        per=per or (),
        floor=floor,
        where=where,
        iou=iou,
        second=second,
        planted=planted,
        seed=seed,
    )
    design = made.design
    curve = design.operating_characteristic()
    answer = {
        "plan": made.name,
        "version": made.version,
        "population": design.population,
        "limit": made.limit,
        "confidence": made.confidence,
        "stages": [{"checked": s.checked, "accept": s.accept, "reject": s.reject} for s in made.stages],
        "strata": [{"name": s.name, "size": s.size, "floor": s.floor} for s in made.strata],
        "consumer_risk": design.consumer_risk,
        "operating_characteristic": curve,
        "attempt": made.attempt,
        "seed": made.seed,
        "left_out": made.left_out,
        "second": len(made.second),
        "planted": len(made.planted or {}),
    }
    rows = [
        [
            f"{r['rate']:.1%}",
            f"{r['accept']:.1%}",
            f"{r['reject']:.1%}",
            f"{r['inconclusive']:.1%}",
            f"{r['checked']:.0f}",
        ]
        for r in curve[:: max(1, len(curve) // 12)]
    ]
    header = ("truly wrong", "accepted", "rejected", "inconclusive", "checks")
    lines = [*explain_plan(made), "", *table(rows, header=header), ""]
    if unmet := _to_be_mended_first(repository, made):
        lines += [
            f"The policy asks {made.version} for more: {', '.join(unmet)} (see dsops accept {made.version} --dry-run). Where "
            "that takes other labels or another guide, mend it first: a plan is about the labels and the guide as they are.",
            "",
        ]
    session.emit(answer | {"unmet": unmet}, [*lines, f"Next: dsops qa push {made.name}"])


def push(
    session: Session,
    plan: PlanName = "main",
    stage: Annotated[
        int | None, typer.Option(min=1, help="The stage to be reviewed; the current one unless told.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="A blind labeling project (dsops label setup --blind); the schema's unless told.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a CSV to be filled in instead of tasks for Label Studio.")
    ] = None,
    second: Annotated[
        bool, typer.Option("--second", help="With --out: only those that another reviewer sees too.")
    ] = False,
    images: Annotated[str, typer.Option(help="auto, s3, local or inline.")] = "auto",
) -> None:
    """Send a plan's items to reviewers. In Label Studio they see no label; a CSV shows the given one, but not who gave it."""
    from datasetops.qa.plan import load_plan
    from datasetops.qa.verdicts import load_verdicts, write_sheet

    repository = session.repository
    chosen = load_plan(repository, _resolve(repository, plan))
    now = _result(repository, chosen)
    number = (stage or now.next_stage or now.stage) - 1
    if not 0 <= number < len(chosen.stages):
        raise ValueError(f"--stage: the plan {chosen.name} has {len(chosen.stages)}; got {stage}")
    items = chosen.to_review(number)
    if out is not None:
        done = {item.sample_id for item in load_verdicts(repository, chosen)}
        items = [item for item in items if (item in chosen.second if second else item not in done)]
        if not items:
            raise ValueError(f"every item of stage {number + 1} has a verdict. See: dsops qa result {chosen.name}")
        write_sheet(repository, chosen, items, out)
        answer = {"plan": chosen.name, "stage": number + 1, "items": len(items), "file": str(out)}
        lines = [
            f"Wrote {counted(len(items), 'item')} to {out}: fill in reviewer and verdict (right, wrong or unsure).",
            f"Next: dsops qa pull {chosen.name} --file {quote(str(out))}",
        ]
        session.emit(answer, lines)
        return
    from datasetops.qa.review import push_items

    pushed = push_items(repository, chosen, number, project=project, images=images, progress=session.progress)
    text = [
        f"{counted(pushed.tasks, 'item')} to review in the blind project {pushed.project}.",
        pushed.images,
        f"Next: dsops qa pull {chosen.name} --project {quote(pushed.project)}",
    ]
    session.emit(pushed.__dict__ | {"plan": chosen.name, "stage": number + 1}, text)


def pull(
    session: Session,
    plan: PlanName = "main",
    project: Annotated[str | None, typer.Option(help="The blind labeling project.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A CSV: sample_id, verdict, reviewer, note.")] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who reviewed, where the file does not say.")] = None,
) -> None:
    """Bring reviewers' verdicts back. They are kept with the plan; the version stays as it is."""
    from datasetops.qa.plan import load_plan
    from datasetops.qa.verdicts import from_answers, read_sheet, take

    repository = session.repository
    chosen = load_plan(repository, _resolve(repository, plan))
    if file is not None:
        taken = take(repository, chosen, read_sheet(file, reviewer=reviewer), origin=file.name)
    else:
        from datasetops.qa.review import pull_items

        tasks, name = pull_items(repository, chosen, project=project)
        taken = take(repository, chosen, from_answers(repository, chosen, tasks), origin=name)
    found = _result(repository, chosen)
    lines = [f"{taken.new:,} new verdicts, {taken.known:,} known already."]
    if taken.own:
        lines.append(
            f"{len(taken.own):,} are not counted: they are by the item's own annotator, {taken.own[0].reviewer}."
        )
    if taken.strangers:
        lines.append(
            f"{len(taken.strangers):,} are about items that the plan did not draw: they can mend labels, but say nothing "
            "about the whole."
        )
    answer = {"plan": chosen.name, "new": taken.new, "known": taken.known, "left": found.left}
    answer |= {"own": [v.sample_id for v in taken.own], "not_drawn": [v.sample_id for v in taken.strangers]}
    session.emit(
        answer,
        [
            *lines,
            f"{counted(found.left, 'item')} of stage {found.stage} are left.",
            f"Next: dsops qa result {chosen.name}",
        ],
    )


def result(
    session: Session,
    plan: PlanName = "main",
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the operating characteristic.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 3 unless the verdict is accept.")] = False,
) -> None:
    """What the verdicts so far prove: accept, reject, inconclusive with the next stage, or unfinished."""
    from datasetops.qa.plan import load_plan
    from datasetops.qa.review import record_result
    from datasetops.qa.words import explain_result

    repository = session.repository
    chosen = load_plan(repository, _resolve(repository, plan))
    found = _result(repository, chosen)
    record_result(repository, chosen, found)
    lines = explain_result(chosen, found)
    if found.strata:
        rows = [
            [
                s.name,
                s.size,
                s.checked,
                s.wrong,
                f"{s.low:.1%} to {s.high:.1%}",
                f"{s.p:.3g}",
                "worse" if s.worse else "",
            ]
            for s in found.strata
        ]
        header = (" and ".join(chosen.per), "items", "checked", "wrong", "between", "p (Holm)", "")
        lines += ["", *table(rows, header=header)]
    if report is not None:
        from datasetops.qa.report import write_report

        write_report(chosen, found, report)
        lines += ["", f"Report: {report.absolute()}"]
    session.emit(found.as_dict(), lines)
    if check and found.verdict != "accept":
        raise typer.Exit(CHECK_FAILED)


def list_plans(session: Session) -> None:
    """List the plans, newest last."""
    from datasetops.qa.plan import plans

    rows: list[dict[str, Any]] = []
    for item in plans(session.repository):
        found = _result(session.repository, item)
        rows.append(
            {
                "plan": item.name,
                "version": item.version,
                "limit": item.limit,
                "confidence": item.confidence,
                "stage": found.stage,
                "left": found.left,
                "verdict": found.verdict,
                "attempt": item.attempt,
            }
        )
    session.emit(rows, table((row.values() for row in rows), header=list(rows[0]) if rows else ()) or "No plan yet.")


def _to_be_mended_first(repository: Repository, plan: QaPlan) -> list[str]:
    """Rules of the policy that the version does not pass now and that may take other labels, images or another guide."""
    from datasetops.gate.policy import current_policy
    from datasetops.gate.rules import RULES, Case

    policy = current_policy(repository)
    case = Case(repository, repository.version(plan.version), policy, repository.settings.actor)
    return [name for name in _OF_LABELS if name in policy.rules and not RULES[name](case).passed]


def _resolve(repository: Repository, name: str) -> str:
    """The name of a plan, or of the version that a branch stands for."""
    return repository.version(name).name if name in repository.branches() else name


def _result(repository: Repository, plan: QaPlan) -> QaResult:
    from datasetops.qa.review import current_result

    return current_result(repository, plan)
