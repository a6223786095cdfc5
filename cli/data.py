"""Commands that make a repository and bring data in: init, ingest, split, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.fiftyone import from_fiftyone
from datasetops.cli.session import Session, command, counted, table
from datasetops.cli.versions import Branch

if TYPE_CHECKING:
    from datasetops.ingest import IngestResult
    from datasetops.splits import SplitResult

Message = Annotated[str | None, typer.Option("--message", "-m", help="Message of the new version.")]
Unseal = Annotated[str | None, typer.Option(help="Reason for changing a sealed split; it is recorded.")]


def register(app: typer.Typer) -> None:
    for function in (init, ingest, split, remove):
        command(app)(function)


def init(
    session: Session,
    where: Annotated[
        str, typer.Argument(metavar="[DIR]", help="A folder, or s3://, gs:// or az://bucket/prefix.")
    ] = ".",
    schema: Annotated[str | None, typer.Option(help="Label schema: a YAML file, or one that comes with dsops.")] = None,
    guide: Annotated[str | None, typer.Option(help="Labeling guide: a Markdown file, or one that comes along.")] = None,
    store: Annotated[str | None, typer.Option(help="Keep the objects elsewhere, e.g. s3://bucket/prefix.")] = None,
) -> None:
    """Make a repository in a folder or in a bucket.

    A guide of the same name is taken along with a packaged schema.
    """
    from datasetops.manifest import Repository
    from datasetops.schema import load_guide, load_schema, packaged_guides, packaged_schemas

    if schema is None:
        raise ValueError(
            f"--schema is missing. Give a YAML file, or one that comes with dsops: {', '.join(packaged_schemas())}"
        )
    text = load_guide(guide or schema).text if guide or schema in packaged_guides() else None
    target = session.directory if where == "." else where
    repository = Repository.init(target, load_schema(schema), guide=text, store_url=store)
    answer = {"repository": target, "store": repository.store.url, "schema": repository.schema.name}
    session.emit(answer, f"Made a repository in {target}. Next: dsops ingest SOURCE")


def ingest(
    session: Session,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]", help="Folder, file, or s3://, gs:// or az://bucket/prefix; none with --from."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="folder, table, coco, yolo, voc or hf; guessed where it is left out.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Where the images are, if not in the source.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of samples whose source names none.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Tables: NAME=HEADING, e.g. path='Image Index'. May be repeated.")
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="license=TEXT, origin= or consent=, of samples that have none yet. May be repeated."
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into the repository.")] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="--copy: without EXIF, XMP, IPTC and comments, pixels bit for bit.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole source if anything is wrong.")] = False,
    overrule: Annotated[
        bool, typer.Option("--overrule", help="Let the source replace what others changed since, too.")
    ] = False,
    take_erased: Annotated[
        bool, typer.Option("--take-erased", help="Also samples that were erased from this repository.")
    ] = False,
    origin: Annotated[
        str | None, typer.Option("--from", help="fiftyone: what was changed there, or a dataset that others made.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="--from: the dataset's name there; else that of the folder.")] = None,
    database: Annotated[
        str | None, typer.Option(help="--from: mongodb://HOST:PORT; else what FiftyOne's own settings say.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="--from: who changed the labels, if not you.")] = None,
    tags: Annotated[str | None, typer.Option(metavar="KEY", help="--from: keep people's tags as metadata KEY.")] = None,
    fine: Annotated[
        bool, typer.Option("--fine", help="--from: call findings fine whose tag was taken away, labels unchanged.")
    ] = False,
    field: Annotated[
        list[str] | None, typer.Option(help="--from a dataset of others: a field of labels. May be repeated.")
    ] = None,
    branch: Branch = "main",
    message: Message = None,
    unseal: Unseal = None,
) -> None:
    """Bring an image set in as a new version.

    folder: one folder a class, or SPLIT/CLASS/image. table: CSV or Parquet with path, label and optional split, group,
    origin, license, consent, captured_at; other columns become metadata. coco: JSON. yolo: data.yaml with images/ and
    labels/. voc: XML files. hf: a folder of Hugging Face's datasets, or NAME[:CONFIG][@REVISION] of its Hub. What is
    faulty is left out and told.

    Images stay where they are, by absolute path outside of the repository's folder, unless --copy takes them in.

    Ingesting again changes what the source says otherwise than last time; what others corrected since stays. Columns
    that it does not have and empty cells leave values as they are. A table with sample_id or annotation_id and label,
    such as one of `dsops findings --out` with a column label, corrects labels.

    --from fiftyone brings back what people changed in a dataset that `dsops export --to fiftyone` made, as a new version.
    """
    from datasetops.audits.images.sealed import sealed_split_guard
    from datasetops.ingest import ingest as bring_in

    if strip and not copy:
        raise ValueError("--strip goes with --copy: files that stay where they are stay as they are")
    plain: dict[str, Any] = {"split": split, "copy": copy, "strip": strip, "strict": strict, "unseal": unseal}
    plain |= {"take_erased": take_erased}
    asked: dict[str, Any] = {"overrule": overrule, "branch": branch, "message": message}
    there: dict[str, Any] = {
        "name": name,
        "database": database,
        "actor": actor,
        "tags": tags,
        "fine": fine,
        "field": field,
    }
    if origin is not None:
        if origin != "fiftyone":
            raise ValueError(f"--from: expected fiftyone; got {origin!r}")
        if source is not None or format is not None or images is not None or column or value:
            raise ValueError("--from fiftyone takes no SOURCE, no --format, no --images, no --column and no --set")
        brought = from_fiftyone(session, plain, **there, **asked)
        if brought is not None:
            _tell_ingest(session, brought, "the dataset in FiftyOne")
        return
    if given := [f"--{option}" for option, value in there.items() if value]:
        raise ValueError(f"{', '.join(given)}: only with --from fiftyone")
    if source is None:
        raise ValueError("SOURCE is missing: name a folder or file, or give --from fiftyone")
    result = bring_in(
        session.repository,
        source,
        format=format,
        images=images,
        columns=_pairs("--column", "HEADING", column),
        values=_pairs("--set", "TEXT", value),
        **plain,
        **asked,
        guard=sealed_split_guard(session.progress),
        progress=session.progress,
    )
    _tell_ingest(session, result, source)


def _pairs(option: str, what: str, given: list[str] | None) -> dict[str, str]:
    """NAME=… of an option that may be repeated, by name."""
    pairs = {}
    for item in given or []:
        name, sign, text = item.partition("=")
        if not sign or not name or not text:
            raise ValueError(f"{option}: expected NAME={what}; got {item!r}")
        pairs[name] = text
    return pairs


def _tell_ingest(session: Session, result: IngestResult, source: str) -> None:
    lines = [result.effect]
    if result.kept:
        lines.append(f"{result.kept:,} labels were left as others made or changed them.")
    for finding in result.findings[:10]:
        where = finding.uri or finding.annotation_id or finding.sample_id or source
        place = "" if finding.message.startswith(Path(where).name) else f"{where}: "  # some name their file themselves
        session.say(f"{'rejected' if finding.severity == 'high' else 'note'}: {place}{finding.message}")
    for note in result.notes:
        session.say(f"note: {note}")
    if result.conflicts:
        session.say(
            f"{result.conflicts:,} labels were changed both by the source and by others since it was ingested last; "
            "theirs stay. --overrule takes the source's."
        )
    if len(result.findings) > 10:
        lines.append(
            f"{counted(len(result.findings), 'finding')} in all; see them with: "
            f"dsops findings {result.version.name} --check ingest"
        )
    if result.rejected:
        lines.append(f"Left out because they are faulty: {result.rejected:,}.")
    session.emit(result.as_dict(), lines)


def split(
    session: Session,
    ratios: Annotated[str, typer.Argument(help="Shares, e.g. train=0.8,val=0.1,test=0.1.")],
    seed: Annotated[int, typer.Option(help="Another seed gives another division.")] = 0,
    seal: Annotated[list[str] | None, typer.Option(help="Seal this split: from now on it may only grow.")] = None,
    look_alikes: Annotated[
        bool, typer.Option("--look-alikes", help="Keep near-duplicates together too; looks at all images.")
    ] = False,
    branch: Branch = "main",
    message: Message = None,
) -> None:
    """Place samples that have no split yet. Groups and copies of a file stay together; nothing placed ever moves."""
    from datasetops.splits import assign_splits, check_ratios

    shares = {}
    for item in ratios.split(","):
        name, _, share = item.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise ValueError(f"expected NAME=SHARE; got {item!r}") from None
    check_ratios(shares)
    pairs = None
    if look_alikes:
        from datasetops.audits.images.near import look_alikes as find

        repository = session.repository
        pairs, unreadable = find(repository, repository.version(branch), progress=session.progress)
        if unreadable:
            session.say(f"note: images that cannot be read: {unreadable:,}; what they show is not known.")
    result = assign_splits(
        session.repository, shares, seed=seed, seal=tuple(seal or ()), branch=branch, message=message, pairs=pairs
    )
    by_split = result.version.summary()["by_split"]
    answer = {"version": result.version.name, "changed": result.changed, "by_split": by_split, "placed": result.placed}
    told = ", ".join(f"{name} {count:,}" for name, count in by_split.items())
    lines = [f"{result.version.name}: {told}" + ("" if result.changed else "; nothing was left to place")]
    if look_alikes:
        answer |= {"pairs": result.pairs, "apart": result.apart}
        lines.append(
            f"Kept together: groups, copies of a file, and {result.pairs - result.apart:,} pairs of near-duplicates."
        )
        if result.apart:
            lines.append(f"{result.apart:,} pairs stay apart: they, or what they go with, were placed before.")
    session.emit(answer, lines + (_shares(result, shares) if result.changed else []))


def _shares(result: SplitResult, shares: dict[str, float]) -> list[str]:
    """What was asked for beside what came out, and why they differ."""
    total = sum(result.placed.values())
    rows = [
        (name, f"{share:.1%}", f"{result.placed.get(name, 0) / total:.1%}", result.placed.get(name, 0))
        for name, share in shares.items()
    ]
    lines = ["", *table(rows, header=("placed now", "asked", "got", "samples"))]
    if any(abs(result.placed.get(name, 0) - share * total) >= 1 for name, share in shares.items()):
        lines += [
            "Shares are met on average: each group or image goes by a hash of its name, so that later ones move nothing.",
            f"Groups and copies stay together: {counted(total, 'sample')} in {result.units:,} units, "
            f"the largest of {result.largest:,}.",
        ]
    if result.followed:
        lines.append(f"{counted(result.followed, 'sample')} went where others that they go with were already.")
    return lines


def remove(
    session: Session,
    batch: Annotated[
        Path | None, typer.Option(help="File with the samples: CSV with a column sample_id, or one id a line.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Samples that fulfil this SQL condition.")] = None,
    unseal: Unseal = None,
    branch: Branch = "main",
    message: Message = None,
) -> None:
    """Make a version without some samples and their annotations. Older versions keep them; the files are not touched."""
    from datasetops.cli.files import chosen_samples
    from datasetops.ledger import Event
    from datasetops.manifest import Change

    if batch is None and where is None:
        raise ValueError("--batch or --where: say which samples to remove")
    repository = session.repository
    head = repository.version(branch)
    ids = chosen_samples(head, batch, where)
    parameters = {"where": where, "batch": str(batch) if batch else None}
    result = repository.commit(
        Change(remove_samples=ids),
        message=message or f"Remove {len(ids)} samples",
        event=Event("remove", repository.settings.actor, parameters=parameters),
        branch=branch,
        parent=head,
        unseal=unseal,
    )
    gone = result.counts["samples"]["deleted"] if result.changed else 0
    answer = {"version": result.version.name, "changed": result.changed, "removed": gone}
    session.emit(
        answer, f"{result.version.name}: {counted(gone, 'sample')} removed" + ("" if gone else "; there were none")
    )
