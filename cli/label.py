"""Commands of labeling: setup, push, status, pull, watch."""

from __future__ import annotations

import csv
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.files import chosen_samples, read_chances
from datasetops.cli.session import Session, command, counted, group, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.labeling import PullResult

ProjectName = Annotated[str | None, typer.Option("--project", help="The labeling project; the schema's unless told.")]
Rule = Annotated[str, typer.Option(help="How several answers are merged: majority or cleanlab.")]
Probabilities = Annotated[
    Path | None, typer.Option(help="For the rule cleanlab: CSV or Parquet, sample_id and a column a class.")
]


def register(app: typer.Typer) -> None:
    label = group(app, "label", "Send samples to annotators and bring their answers back.")
    for function in (setup, push, status, pull, watch):
        command(label)(function)


def setup(
    session: Session,
    version: VersionName = "main",
    project: ProjectName = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="For blind checks: no predictions, answers replace nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was edited in Label Studio.")] = False,
    moved: Annotated[bool, typer.Option("--moved", help="The server has another address now.")] = False,
) -> None:
    """Make or update the Label Studio project of a label schema, with the labeling guide as its instruction.

    The server is LABEL_STUDIO_URL, the token LABEL_STUDIO_API_KEY or the file LABEL_STUDIO_API_KEY_FILE.
    """
    from datasetops.labeling import set_up

    repository = session.repository
    chosen = repository.version(version) if repository.head() or version != "main" else None
    made, said = set_up(repository, chosen, name=project, blind=blind, overwrite=overwrite, moved=moved)
    answer = {"project": made.name, "tool": made.tool, "url": f"{made.url}/projects/{made.id}", "blind": made.blind}
    session.emit(answer | {"done": said}, [*said, f"Next: dsops label push {version} --project {quote(made.name)}"])


def push(
    session: Session,
    version: VersionName = "main",
    batch: Annotated[
        Path | None,
        typer.Option(help="File with the samples, in order: CSV with a column sample_id, or one id a line."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Samples that fulfil this SQL condition.")] = None,
    round_name: Annotated[
        str | None, typer.Option("--round", help="The samples of a round, as dsops select made it.")
    ] = None,
    findings: Annotated[
        int | None, typer.Option(min=1, help="The samples of so many findings, those worth most a minute first.")
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="The samples that reviewers sent to relabeling, and nobody pushed yet.")
    ] = False,
    project: ProjectName = None,
    name: Annotated[str | None, typer.Option(help="Name of the batch; made from its content unless told.")] = None,
    overlap: Annotated[int, typer.Option(min=1, help="Annotators who are asked about each item.")] = 1,
    gold: Annotated[
        str | None,
        typer.Option(help="SQL condition: mix in these, whose annotations in VERSION are known to be right."),
    ] = None,
    predictions: Annotated[bool, typer.Option(help="Show the version's annotations to start from.")] = True,
    images: Annotated[str, typer.Option(help="auto, s3, local or inline.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the places of gold items.")] = 0,
    tool: Annotated[
        str, typer.Option(help="label-studio, or a tool that reads files: cvat, labelbox.")
    ] = "label-studio",
    out: Annotated[Path | None, typer.Option(help="For a tool that reads files: where to write them.")] = None,
) -> None:
    """Send samples to annotators, once each: run it again after any interruption and it goes on.

    All samples of VERSION, unless --round, --batch, --where, --findings or --relabel choose some.
    """
    from datasetops.labeling import choose_project, file_project, make_batch, open_project, write_files
    from datasetops.labeling import push as push_batch

    repository = session.repository
    chosen = repository.version(version)
    if sum(given is not None for given in (round_name, batch, where, findings, relabel or None)) > 1:
        raise ValueError("--round, --batch, --where, --findings and --relabel: give one of them")
    if findings is not None:
        from datasetops.audits.decisions import decisions
        from datasetops.audits.record import latest_audit
        from datasetops.audits.worklist import worklist

        work = worklist(latest_audit(repository, chosen).findings, decisions(repository), findings)
        ids = list(dict.fromkeys(work.findings["sample_id"].to_pylist()))
    elif relabel:
        from datasetops.review.apply import waiting_for_relabeling

        ids = waiting_for_relabeling(repository, chosen)
    elif round_name is not None:
        from datasetops.active_learning import load_round

        ids = list(load_round(repository, round_name).samples)
    else:
        ids = chosen_samples(chosen, batch, where)
    to_files = tool != "label-studio"
    if to_files and out is None:
        raise ValueError(f"--out: {tool} reads files; name the one to write")
    target = file_project(repository, tool, project) if to_files else choose_project(repository, project)
    made = make_batch(
        repository,
        chosen,
        ids,
        target,
        name=name,
        gold=chosen.where(gold) if gold else (),
        overlap=overlap,
        predictions=predictions,
        seed=seed,
        progress=session.progress,
    )
    if to_files and out is not None:
        lost = write_files(repository, made, tool, out, progress=session.progress)
        answer = {"batch": made.name, "tasks": len(made.samples), "file": str(out), "lost": lost}
        session.emit(
            answer,
            [*lost, f"Wrote {counted(len(made.samples), 'task')} for {tool} to {out}.", _next_files(tool, target.name)],
        )
        return
    result = push_batch(repository, made, open_project(repository, target), images=images, progress=session.progress)
    lines = [
        f"{counted(result.created, 'task')} made, {result.existing:,} were there already (batch {result.batch}).",
        *([f"{result.removed:,} doubles of an interrupted push removed."] if result.removed else []),
        *([f"{result.renewed:,} addresses of images renewed."] if result.renewed else []),
        f"{result.with_predictions:,} of {result.tasks:,} start from annotations of {result.version}.",
        result.images,
        *result.warnings,
        *([] if result.created else ["To ask about them once more, give the batch another --name."]),
        f"Label at: {target.url}/projects/{target.id}",
        f"Next: dsops label status --project {quote(target.name)}; dsops label pull --project {quote(target.name)}",
    ]
    session.emit(result.__dict__ | {"url": f"{target.url}/projects/{target.id}"}, lines)


def status(session: Session, project: ProjectName = None) -> None:
    """How far labeling is: done, skipped, left, how fast and how well, and when it will be finished."""
    from datasetops.labeling import choose_project, open_project
    from datasetops.labeling import status as look

    repository = session.repository
    chosen = choose_project(repository, project)
    found = look(repository, chosen, open_project(repository, chosen))
    lines = table(
        ([b.batch, b.version, b.tasks, b.done, b.skipped, b.left, b.deleted] for b in found.batches),
        header=("batch", "version", "tasks", "done", "skipped", "left", "deleted"),
    )
    if found.people:
        rows = (
            [p.actor, p.done, p.skipped, _seconds(p.lead_time), _share(p.gold), p.gold_items, _share(p.pre)]
            for p in found.people
        )
        header = ("annotator", "done", "skipped", "median time", "agrees with gold", "of", "with pre-annotations")
        lines += ["", *table(rows, header=header)]
    lines += ["", f"{found.url}; {counted(found.not_pulled, 'task')} changed since the last pull."]
    if found.finish:
        lines.append(
            f"At the pace of the last day of work it is finished at {found.finish[:16].replace('T', ' ')} UTC."
        )
    session.emit(found.as_dict(), [*lines, *found.warnings])


def pull(
    session: Session,
    project: ProjectName = None,
    rule: Rule = "majority",
    probabilities: Probabilities = None,
    conflicts: Annotated[
        Path | None, typer.Option(help="Write conflicts to this CSV; it can be pushed as --batch.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="The version's message.")] = None,
    branch: Annotated[str, typer.Option("--branch", "-b", help="The branch that gets the version.")] = "main",
    tool: Annotated[
        str, typer.Option(help="label-studio, or a tool that writes files: cvat, labelbox.")
    ] = "label-studio",
    file: Annotated[Path | None, typer.Option("--file", help="The file that cvat or labelbox exported.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who answered, where the file does not say.")] = None,
) -> None:
    """Bring answers back as one new version; only what changed since the last pull."""
    from datasetops.labeling import choose_project, file_project, open_project, read_files
    from datasetops.labeling import pull as pull_answers

    repository = session.repository
    options: dict[str, Any] = {
        "rule": rule,
        "probabilities": read_chances(repository.version(branch), probabilities),
        "branch": branch,
        "message": message,
        "progress": session.progress,
    }
    if tool != "label-studio":
        if file is None:
            raise ValueError(f"--file: name the file that {tool} exported")
        result = read_files(repository, file_project(repository, tool, project), tool, file, actor=actor, **options)
    else:
        chosen = choose_project(repository, project)
        result = pull_answers(repository, chosen, open_project(repository, chosen), **options)
    if conflicts:
        _write_conflicts(conflicts, result)
    session.emit(result.as_dict(), _told(result, conflicts))


def watch(
    session: Session,
    project: ProjectName = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60.0,
    webhook: Annotated[
        int | None, typer.Option(help="Also listen on this port of 127.0.0.1 and pull when Label Studio calls.")
    ] = None,
    rule: Rule = "majority",
    probabilities: Probabilities = None,
) -> None:
    """Pull again and again, as annotators submit, until interrupted."""
    from datasetops.labeling import choose_project, open_project
    from datasetops.labeling import watch as look_again

    repository = session.repository
    chosen = choose_project(repository, project)
    server = open_project(repository, chosen)
    session.say(f"Watching {chosen.url}/projects/{chosen.id}; interrupt with Ctrl-C.")
    seen = look_again(
        repository,
        chosen,
        server,
        every=every,
        port=webhook,
        rule=rule,
        probabilities=read_chances(repository.version(), probabilities),
        say=session.say,
    )
    for result in seen:
        if session.as_json:
            import json

            typer.echo(json.dumps(result.as_dict(), default=str))
        else:
            session.emit({}, _told(result, None))


def _told(result: PullResult, conflicts: Path | None) -> list[str]:
    made = f"Made {result.version}" if result.version else "No new version"
    lines = [
        f"{made}: {counted(result.answers, 'answer')}, {result.skipped:,} skipped, {result.withdrawn:,} withdrawn."
    ]
    if result.annotations:
        lines.append(
            ", ".join(f"{counted(count, 'annotation')} {what}" for what, count in result.annotations.items()) + "."
        )
    if result.conflicts:
        first = result.conflicts[0]
        lines.append(
            f"{len(result.conflicts):,} conflicts: the version changed meanwhile and stays as it is; the first is "
            f"{first.table[:-1]} {first.key}."
        )
        lines.append(
            f"Ask again with: dsops label push --batch {conflicts}"
            if conflicts
            else "They stand in the pull's record; --conflicts FILE writes those of the next pull."
        )
    for item in result.unused[:10]:
        lines.append(f"Not used: {item['sample_id']} by {item['actor']}: {item['problem']}.")
    if result.incomplete:
        lines.append(f"{result.incomplete:,} items have fewer answers than were asked for.")
    if result.tied:
        lines.append(f"{len(result.tied):,} items are tied; the first answer stands, such as for {result.tied[0]}.")
    if result.unused:
        lines.append(
            "Correct them in Label Studio, or bring the class into the schema; every pull looks at them again."
        )
    return [*lines, *result.warnings]


def _write_conflicts(file: Path, result: PullResult) -> None:
    rows = [conflict.as_dict() for conflict in result.conflicts]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["sample_id", "table", "key", "fields", "base", "ours", "theirs"])
        writer.writeheader()
        writer.writerows(rows)


def _next_files(tool: str, project: str) -> str:
    return f"Next: dsops label pull --tool {tool} --project {project} --file EXPORT"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} s"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
