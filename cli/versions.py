"""Commands about versions: log, show, diff, merge, branch, verify, gc."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, table

if TYPE_CHECKING:
    from datasetops.manifest.merge import Side

VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="v1, v2, … or a branch, for its newest version.")]
Branch = Annotated[str, typer.Option("--branch", "-b", help="The branch to work on.")]


def register(app: typer.Typer) -> None:
    for function in (log, show, diff, merge, branch, verify, gc):
        command(app)(function)


def log(
    session: Session,
    branch: Annotated[str | None, typer.Option("--branch", "-b", help="Only versions of this branch.")] = None,
    number: Annotated[int | None, typer.Option("-n", min=1, help="At most that many, newest first.")] = None,
) -> None:
    """List versions, newest first."""
    from itertools import islice

    from datasetops.gate.status import DRAFT, Status, statuses

    status = statuses(session.repository)
    heads: dict[str, list[str]] = {}
    for name, head in session.repository.branches().items():
        heads.setdefault(head or "", []).append(name)
    rows: list[dict[str, Any]] = []
    for version in islice(session.repository.versions(branch), number):
        commit = version.commit
        rows.append(
            {
                "version": version.name,
                "branches": heads.get(version.name, []),
                "time": commit.time,
                "author": commit.author,
                "samples": commit.counts["samples"],
                "annotations": commit.counts["annotations"],
                "message": commit.message,
                "commit": version.digest,
                "status": (one := status.get(version.digest, Status(DRAFT))).status,
                "overridden": list(one.overridden),
            }
        )
    lines = table(
        (
            [
                row["version"] + (f" ({', '.join(row['branches'])})" if row["branches"] else ""),
                row["time"][:16].replace("T", " "),
                row["author"],
                row["samples"],
                row["annotations"],
                row["status"] + (" (overridden)" if row["overridden"] else ""),
                row["message"].splitlines()[0] if row["message"] else "",
            ]
            for row in rows
        ),
        header=("version", "time (UTC)", "author", "samples", "annotations", "status", "message"),
    )
    session.emit(rows, lines if rows else "No version yet. Bring data in with: dsops ingest SOURCE")


def show(
    session: Session,
    version: VersionName = "main",
    files: Annotated[
        bool, typer.Option("--files", help="Only where its tables are: a Parquet file each, for any reader.")
    ] = False,
) -> None:
    """Show what a version holds: counts by class, kind and split, and who made it."""
    from datasetops.gate.status import status_of

    chosen = session.repository.version(version)
    status = status_of(session.repository, chosen)
    if files:
        from datasetops.manifest.plain import plain_files

        found = plain_files(session.repository, chosen)
        told = {name: file.as_dict() for name, file in found.items()}
        lines = table([[name, f"{file.rows:,}", file.path] for name, file in found.items()])
        session.emit({"version": chosen.name, "status": status.status, "files": told}, lines)
        return
    summary = chosen.summary() | {
        "status": status.status,
        "overridden": list(status.overridden),
        "reason": status.reason,
    }
    parts = [f"{summary['version']}  {summary['message']}", f"by {summary['author']}, {summary['time'][:19]} UTC"]
    parts.append(f"{summary['samples']:,} samples, {summary['annotations']:,} annotations")
    parts.append(f"schema {summary['schema']['name']} {summary['schema']['version']}, commit {summary['commit'][:12]}")
    if status.actor:
        over = f", passing over {', '.join(status.overridden)}" if status.overridden else ""
        parts.append(
            f"{status.status} by {status.actor} at {str(status.time)[:16].replace('T', ' ')} UTC{over}"
            + (f": {status.reason}" if status.reason else "")
        )
    if summary["sealed"]:
        parts.append(f"sealed splits: {', '.join(summary['sealed'])}")
    for title in ("by_class", "by_kind", "by_split"):
        if summary[title]:
            parts += ["", title.replace("_", " ")]
            parts += ["  " + line for line in table(summary[title].items())]
    session.emit(summary, parts)


def diff(
    session: Session,
    old: Annotated[str, typer.Argument(metavar="A", help="The older version.")],
    new: Annotated[str, typer.Argument(metavar="B", help="The newer version.")] = "main",
    rows: Annotated[
        Path | None, typer.Option(help="Write every changed row, before and after, to a .csv, .json or .parquet file.")
    ] = None,
) -> None:
    """Tell what changed from one version to another: by class, split and slice, and row by row."""
    from datasetops.cli.files import write_table
    from datasetops.manifest import diff as compare

    found = compare(session.repository.version(old), session.repository.version(new))
    answer = found.as_dict()
    lines = table(
        [[name, *answer[name].values()] for name in ("samples", "annotations")],
        header=(f"{answer['from']} → {answer['to']}", "added", "removed", "changed"),
    )
    for title, name in (("class", "by_class"), ("split", "by_split")):
        if answer[name]:
            lines += [
                "",
                *table(
                    [[key, *counts.values()] for key, counts in answer[name].items()],
                    header=(title, "added", "removed", "changed"),
                ),
            ]
    for key, values in answer["by_slice"].items():
        if values:
            lines += [
                "",
                *table(
                    [[value, *counts.values()] for value, counts in values.items()],
                    header=(key, "added", "removed", "changed"),
                ),
            ]
    if answer["relabeled"]:
        lines += [
            "",
            *table(
                [[item["from"], item["to"], item["count"]] for item in answer["relabeled"][:20]],
                header=("label before", "label now", "annotations"),
            ),
        ]
    for what in ("schema", "guide"):
        if answer[f"{what}_changed"]:
            lines += ["", f"The {what} changed." + (" See: dsops schema diff A B" if what == "schema" else "")]
    if rows:
        write_table(found.rows(), rows)
        session.say(f"Wrote {rows}")
    session.emit(answer, lines)


def merge(
    session: Session,
    source: Annotated[str, typer.Argument(help="The branch or version whose changes are brought in.")],
    into: Annotated[str, typer.Option(help="The branch that gets them.")] = "main",
    take: Annotated[str | None, typer.Option(help="Settle every conflict for one side: ours or theirs.")] = None,
    conflicts: Annotated[
        Path | None, typer.Option(help="Write conflicts, a row each, to a .csv, .json or .parquet file.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m")] = None,
    unseal: Annotated[str | None, typer.Option(help="Reason for changing a sealed split.")] = None,
) -> None:
    """Merge a branch, row by row; a row that both sides changed is a conflict (exit status 1, nothing is written)."""
    from datasetops.cli.files import write_table
    from datasetops.manifest import MergeConflictError
    from datasetops.manifest import merge as merge_branches

    if take not in (None, "ours", "theirs"):
        raise ValueError(f"--take: expected ours or theirs; got {take!r}")
    try:
        result = merge_branches(
            session.repository,
            source,
            into=into,
            take=cast("Side | None", take),
            message=message,
            unseal=unseal,
        )
    except MergeConflictError as error:
        if conflicts:
            import pyarrow as pa

            write_table(pa.Table.from_pylist([conflict.as_dict() for conflict in error.conflicts]), conflicts)
            session.say(f"Wrote {len(error.conflicts)} conflicts to {conflicts}")
        raise
    answer = {"version": result.version.name, "changed": result.changed, "counts": result.counts}
    text = f"{result.version.name}: merged {source} into {into}" if result.changed else f"{into} has it all already."
    session.emit(answer, text)


def branch(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Make this branch; without a name, list the branches.")] = None,
    at: Annotated[str | None, typer.Option("--from", help="Version to start from (default: newest of main).")] = None,
) -> None:
    """Make a branch, or list them."""
    repository = session.repository
    if name:
        repository.create_branch(name, repository.version(at) if at else None)
    branches = repository.branches()
    session.emit(branches, table([[key, head or "(no version yet)"] for key, head in branches.items()]))


def verify(
    session: Session,
    version: Annotated[str | None, typer.Argument(help="Only this version.")] = None,
    all: Annotated[bool, typer.Option("--all", help="The whole repository (the default without a version).")] = False,
    media: Annotated[bool, typer.Option("--media", help="Hash the images of these versions as well.")] = False,
) -> None:
    """Check every object against its digest. Exit status 3 if anything is damaged."""
    from datasetops.manifest import verify as check

    repository = session.repository
    names = [repository.version(version).name] if version and not all else None
    damage = check(repository, names, media=media, progress=session.progress)
    answer: dict[str, Any] = {
        "whole": not damage,
        "damaged": [{"object": item.object, "problem": item.problem, "held": item.held} for item in damage],
    }
    scope = names[0] if names else "the repository"
    lines = [f"{item.object}, {item.held}: {item.problem}" for item in damage]
    if damage:
        lines.append("Put what is damaged or missing back from a backup or another copy, then verify again.")
    session.emit(answer, lines or f"{scope} is whole: every object hashes to its name.")
    if damage:
        raise typer.Exit(CHECK_FAILED)


def gc(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    grace: Annotated[float, typer.Option(help="Leave objects younger than this many seconds alone.")] = 3600.0,
) -> None:
    """Remove leftovers of interrupted writes. Versions are never touched."""
    from datasetops.manifest import collect_garbage

    found = collect_garbage(session.repository, dry_run=dry_run, grace=grace)
    verb = "Would remove" if dry_run else "Removed"
    session.emit(
        {"removed": found.keys, "bytes": found.bytes, "dry_run": dry_run},
        f"{verb} {len(found.keys)} objects, {found.bytes:,} bytes.",
    )
