"""Commands that hand data out: export, checkout."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.fiftyone import to_fiftyone
from datasetops.cli.rights import OverrideRights, overridden
from datasetops.cli.session import Session, command, counted
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.export import ExportResult


def register(app: typer.Typer) -> None:
    for function in (export, checkout):
        command(app)(function)


def export(
    session: Session,
    version: VersionName,
    out: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="A new or empty folder; none with --to.")] = None,
    format: Annotated[
        str | None, typer.Option(help="folder, table, coco, yolo, voc, hf or tfrecord; coco where it is left out.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="fiftyone: into its database, with findings as tags and saved views.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="--to: the dataset's name there; else that of the folder.")] = None,
    database: Annotated[
        str | None, typer.Option(help="--to: mongodb://HOST:PORT; else what FiftyOne's own settings say.")
    ] = None,
    overrule: Annotated[
        bool, typer.Option("--overrule", help="--to: replace labels that were changed there, too.")
    ] = False,
    where: Annotated[str | None, typer.Option(help="SQL condition over samples and annotations.")] = None,
    no_media: Annotated[bool, typer.Option("--no-media", help="Write labels only.")] = False,
    strip: Annotated[
        bool,
        typer.Option("--strip", help="Copies without EXIF, XMP, IPTC and comments, where they name place or person."),
    ] = False,
    override_rights: OverrideRights = None,
) -> None:
    """Write a version in another tool's format, and say what that format cannot hold; or bring it to FiftyOne.

    --to fiftyone makes a dataset, or brings up to date the one of an earlier export. Labels that were changed there
    stay as they are there.
    """
    if to is not None:
        if to != "fiftyone":
            raise ValueError(f"--to: expected fiftyone; got {to!r}")
        if out is not None or format is not None or no_media or strip:
            raise ValueError("--to fiftyone takes no folder, no --format, no --no-media and no --strip")
        options: dict[str, Any] = {"name": name, "database": database, "where": where, "overrule": overrule}
        to_fiftyone(session, version, override_rights, **options)
        return
    if out is None:
        raise ValueError("OUT is missing: name a new or empty folder, or give --to fiftyone")
    if name is not None or database is not None or overrule:
        raise ValueError("--name, --database and --overrule go with --to fiftyone")
    from datasetops.export import export as write
    from datasetops.gate.rights import clear_for_export

    repository = session.repository
    found = repository.version(version)
    form = format or "coco"
    rights = clear_for_export(repository, found, where=where, reason=override_rights)
    result = write(
        repository,
        found,
        out,
        format=form,
        copy_media=not no_media,
        strip=strip,
        where=where,
        rights=rights,
        progress=session.progress,
    )
    lines = overridden(rights)
    lines.append(
        f"{result.version}: wrote {counted(result.samples, 'sample')} and {counted(result.annotations, 'annotation')} to {out}"
    )
    session.emit(asdict(result), [*lines, *_beside(result), *(f"not kept by {form}: {text}" for text in result.lost)])


def _beside(result: ExportResult) -> list[str]:
    """What the images say beside their pixels is never handed over unsaid."""
    if not result.beside:
        return []
    counts = ", ".join(f"{kind} in {count:,}" for kind, count in result.beside.items())
    if result.stripped:
        return [f"Left out of the copies what was said beside the pixels: {counts}."]
    return [f"CAREFUL: image files say more than their pixels: {counts}. `dsops export --strip` writes them without."]


def checkout(
    session: Session,
    version: VersionName,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder.")],
    override_rights: OverrideRights = None,
) -> None:
    """Write a version as plain files: images/, samples.parquet, annotations.parquet, schema.yaml, guide.md."""
    from datasetops.export import checkout as write
    from datasetops.gate.rights import clear_for_export

    repository = session.repository
    found = repository.version(version)
    rights = clear_for_export(repository, found, reason=override_rights)
    result = write(repository, found, out, rights=rights, progress=session.progress)
    lines = overridden(rights)
    lines += [
        f"{result.version}: {counted(result.samples, 'sample')} and {counted(result.annotations, 'annotation')} in {out}"
    ]
    lines += [*_beside(result), *(f"missing: {text}" for text in result.missing[:10])]
    session.emit(asdict(result), lines)
