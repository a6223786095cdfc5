"""`dsops erase`: take items out of every version and every record, and certify it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from datasetops.cli.session import Session, command, counted, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.erasure.erase import Erasure


_SHOWN: Final = 10  # files


def register(app: typer.Typer) -> None:
    command(app)(erase)


def erase(
    session: Session,
    version: VersionName = "main",
    sample: Annotated[list[str] | None, typer.Option("--sample", help="A sample's id. May be repeated.")] = None,
    where: Annotated[str | None, typer.Option(help="Samples of the version that fulfil this SQL condition.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger and in the certificate.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase. Without it only what would be erased is told.")] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="Also write the certificate here, with the ids: FILE.json.")
    ] = None,
    leave_tasks: Annotated[
        bool, typer.Option("--leave-tasks", help="Delete no tasks in labeling tools; the certificate says so.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish an erasure that was interrupted.")] = False,
) -> None:
    """Erase samples from all versions, records and caches. It cannot be undone; old versions still verify.

    Without --yes nothing is changed. Who runs it should hold a backup only as long as the law allows.
    """
    from datasetops.erasure.erase import erase as run
    from datasetops.erasure.erase import resume as finish

    repository = session.repository
    if resume:
        if sample or where or reason or leave_tasks or certificate:
            raise ValueError("--resume: takes nothing else; the request was kept")
        done = finish(repository, progress=session.progress)
    else:
        if bool(sample) == bool(where):
            raise ValueError("name the items: --sample ID (may be repeated), or --where SQL")
        ids = list(sample or []) or repository.version(version).where(str(where))
        if not ids:
            raise ValueError(f"--where: no sample of {repository.version(version).name} fulfils {where}")
        done = run(
            repository,
            ids,
            reason,
            dry_run=not yes,
            leave_tasks=leave_tasks,
            certificate=certificate,
            progress=session.progress,
        )
    session.emit(done.as_dict(), _lines(done))


def _lines(done: Erasure) -> list[str]:
    what = "were erased" if done.done else "would be erased (nothing was changed; --yes erases)"
    lines = [f"{counted(done.samples, 'sample')} and {counted(done.annotations, 'annotation')} {what}."]
    rows = [(name, f"{count:,}") for name, count in done.rows.items()]
    lines += table(rows, header=("table", "rows in all versions"))
    if done.versions:
        lines.append(f"Held by {counted(len(done.versions), 'version')}: {done.versions[0]} to {done.versions[-1]}.")
    if done.images:
        lines.append(f"Images copied into the store that go, too, since they belong to nothing else: {done.images:,}.")
    if done.shared:
        lines.append(
            f"Images that stay, since other samples, which are not erased, are the same file: {done.shared:,}."
        )
    if done.akin:
        lines.append(
            f"Other samples of the newest version, of the same group or the same file, that stay: {done.akin:,}. "
            'A whole group: --where "\\"group\\" = \'NAME\'"'
        )
    if done.sealed:
        lines.append(f"Some are in the sealed split {', '.join(done.sealed)}: it is changed, for the reason given.")
    lines += [f"The model {name} learned from {count:,} of them." for name, count in done.models.items()]
    for one in done.exports:
        lines.append(
            f"Exported with {one['version']} on {str(one['time'])[:10]} {one.get('path', one.get('to', ''))}".rstrip()
        )
    if done.batches:
        lines.append(f"Sent to annotators in {', '.join(done.batches)}.")
    lines += [f"Tasks of {name} deleted in the labeling tool: {count:,}." for name, count in done.tasks.items()]
    if done.files:
        more = f", and {len(done.files) - _SHOWN:,} more (--json lists all)" if len(done.files) > _SHOWN else ""
        lines.append(
            f"Files beside the store that name them; delete or rewrite them: {', '.join(done.files[:_SHOWN])}{more}."
        )
    if done.done:
        lines.append(f"{counted(len(done.digests), 'row')} gone; the digests stay, so every version still verifies.")
        lines.append(f"Records rewritten or deleted: {len(done.objects):,}.")
        lines.append(f"Certificate: erasures/{done.event_id}.json in the store.")
    lines.append("Out of reach of this command:")
    return [*lines, *(f"  {line}" for line in done.reach)]
