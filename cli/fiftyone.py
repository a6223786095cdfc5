"""`dsops explore`, and what `ingest --from fiftyone` and `export --to fiftyone` do."""

from __future__ import annotations

import shlex
import signal
import webbrowser
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.rights import OverrideRights, overridden
from datasetops.cli.session import Session, command, counted
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.fiftyone import FiftyOnePull
    from datasetops.ingest import IngestResult

_SHOWN: Final = 5  # conflicts that are told one by one


def register(app: typer.Typer) -> None:
    command(app)(explore)


def explore(
    session: Session,
    version: VersionName = "main",
    name: Annotated[str | None, typer.Option(help="The dataset's name in FiftyOne; else that of the folder.")] = None,
    database: Annotated[
        str | None, typer.Option(help="mongodb://HOST:PORT; else what FiftyOne's own settings say.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: the first free one from 5151 on.")] = 0,
    remote: Annotated[
        bool, typer.Option("--remote", help="Open no browser; tell how another machine reaches it.")
    ] = False,
    override_rights: OverrideRights = None,
) -> None:
    """Open a version in FiftyOne's app, with its findings as saved views. Ctrl-C ends it.

    Brings the version there first, where it is not there yet as it is now. The app listens on this machine only. What is
    changed there comes back with `dsops ingest --from fiftyone`.
    """
    from datasetops.fiftyone import default_name
    from datasetops.fiftyone.app import ADDRESS, App, is_current

    repository = session.repository
    found = repository.version(version)
    dataset = name or default_name(repository)
    if not is_current(repository, found, name=dataset, database=database):
        to_fiftyone(
            session, found.name, override_rights, name=name, database=database, where=None, overrule=False, quietly=True
        )
    # Started in the background by a shell, a process ignores interrupts; and being ended ends the app, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    app = App(dataset, port=port, database=database)
    lines = [f"{found.name} is open at {app.url} (Ctrl-C ends it)."]
    if app.views:
        lines.append(f"Saved views: {', '.join(app.views)}")
    if remote:
        lines.append(
            f"From another machine: ssh -N -L {app.port}:{ADDRESS}:{app.port} USER@THIS_MACHINE, then the same address."
        )
    lines.append(f"Bring back what was changed with: dsops ingest --from fiftyone --name {shlex.quote(dataset)}")
    session.emit({"version": found.name, "dataset": dataset, "url": app.url, "views": app.views}, lines)
    if not remote:
        webbrowser.open(app.url)
    try:
        app.wait()
    except KeyboardInterrupt:
        session.say("Ended.")
    finally:
        app.close()


def to_fiftyone(
    session: Session, version: str, override_rights: str | None, *, quietly: bool = False, **options: Any
) -> None:
    """`export --to fiftyone`; `quietly`: its result goes where messages go."""
    from datasetops.fiftyone import export_to_fiftyone
    from datasetops.gate.rights import clear_for_export

    repository = session.repository
    found = repository.version(version)
    rights = clear_for_export(repository, found, where=options["where"], reason=override_rights)
    result = export_to_fiftyone(repository, found, rights=rights, progress=session.progress, **options)
    for note in result.notes:
        session.say(f"note: {note}")
    lines = [
        *overridden(rights),
        f"{result.version}: {counted(result.samples, 'sample')} and {result.labels:,} labels are in the dataset "
        f"{result.dataset!r} of FiftyOne at {result.database}: {counted(result.added, 'sample')} added, {result.updated:,} "
        f"updated, {result.removed:,} removed",
    ]
    if quietly:
        for line in lines:
            session.say(line)
        return
    if result.views:
        lines.append(f"{counted(result.findings, 'finding')}; saved views: {', '.join(result.views)}")
    setting = f" --database {result.database}" if options["database"] else ""
    named = f" --name {shlex.quote(result.dataset)}" if options["name"] else ""
    if options["where"] is None:
        lines.append(f"Look at it with: dsops explore {result.version}{named}{setting}")
    else:
        setting = f"FIFTYONE_DATABASE_URI={result.database} " if options["database"] else ""
        lines.append(f"Look at it with: {setting}fiftyone app launch {shlex.quote(result.dataset)}")
    session.emit(asdict(result), lines)


def from_fiftyone(
    session: Session,
    plain: dict[str, Any],
    *,
    name: str | None,
    database: str | None,
    actor: str | None,
    tags: str | None,
    fine: bool,
    field: list[str] | None,
    **options: Any,
) -> IngestResult | None:
    """`ingest --from fiftyone`. Returns what came of a dataset of others; of one of this repository it tells itself.

    `plain` are options of an ingest that a dataset of this repository does not take.
    """
    from datasetops.fiftyone import default_name, ingest_from_fiftyone, owner_of, pull_from_fiftyone

    repository = session.repository
    chosen = name or default_name(repository)
    if owner_of(repository, chosen, database=database) == "others":
        if actor or fine:
            raise ValueError(f"--actor, --fine: dsops did not make {chosen!r}, so all of its labels are imported")
        return ingest_from_fiftyone(
            repository,
            chosen,
            database=database,
            fields=field or (),
            tags=tags,
            progress=session.progress,
            **plain,
            **options,
        )
    if given := [f"--{key.replace('_', '-')}" for key, value in plain.items() if value] + ["--field"] * bool(field):
        raise ValueError(f"{', '.join(given)}: not with a dataset that was exported from this repository")
    result = pull_from_fiftyone(
        repository,
        name=name,
        database=database,
        actor=actor,
        tags=tags,
        fine=fine,
        progress=session.progress,
        **options,
    )
    for note in result.notes:
        session.say(f"note: {note}")
    session.emit(result.as_dict(), _told(result, fine))
    return None


def _told(result: FiftyOnePull, fine: bool) -> list[str]:
    counts = ", ".join(f"{count:,} {what}" for what, count in result.labels.items())
    made = f"Made {result.version}" if result.version else "No new version"
    lines = [f"{made}: of the labels of {result.exported} in the dataset {result.dataset!r}: {counts}."]
    if result.tagged:
        lines.append(f"{result.tagged:,} samples have other tags in their metadata now.")
    if result.conflicts:
        lines.append(
            f"{len(result.conflicts):,} labels were changed by others too since the export, and stay as theirs. "
            "--overrule takes FiftyOne's:"
        )
        lines += [
            f"  {item.key}: {_word(item.ours)} here, {_word(item.theirs)} there" for item in result.conflicts[:_SHOWN]
        ]
    if result.dealt_with:
        told = ", ".join(f"{check} of {counted(count, 'sample')}" for check, count in result.dealt_with.items())
        lines.append(f"Tags of findings were taken away, so they are dealt with: {told}.")
        lines.append(
            f"{result.decided:,} findings were decided as fine."
            if fine
            else "--fine records that those whose labels were left as they are were no errors."
        )
    return lines


def _word(row: Any) -> str:
    return "removed" if row is None else repr(row.get("label") or row.get("text") or row.get("kind"))
