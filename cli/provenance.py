"""Where something came from and what depends on it: `dsops provenance`, `blame` and `impact`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, table
from datasetops.cli.versions import VersionName
from datasetops.errors import did_you_mean

if TYPE_CHECKING:
    from datasetops.provenance.blame import Blame
    from datasetops.provenance.impact import Impact
    from datasetops.provenance.proof import Proof
    from datasetops.provenance.told import Item, Story

_KINDS: Final = ("sample", "annotation", "version", "model")
_SHOWN: Final = 20  # versions, makers and ids listed; --json has all versions and makers


def register(app: typer.Typer) -> None:
    for function in (provenance, blame, impact):
        command(app)(function)


def provenance(
    session: Session,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="sample, annotation, version or model.")],
    name: Annotated[
        str, typer.Argument(metavar="ID", help="Its id or name; of a sample or annotation a beginning does.")
    ],
    graph: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw it, too.")] = None,
    without: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of a model: prove that it learned from nothing of it, e.g. origin=clinic-a. Names as in dsops impact.",
        ),
    ] = None,
    never_had: Annotated[
        bool, typer.Option("--never-had", help="--without: also of a value that no version ever had, however spelled.")
    ] = False,
) -> None:
    """Tell the whole story of something, newest first: where it came from, who did what with it, and where it went.

    With --without, status 3 where it does not hold.
    """
    if kind not in _KINDS:
        raise ValueError(f"KIND: {kind!r} is not known. {did_you_mean(kind, _KINDS, noun='kinds')}")
    if without is not None:
        if kind != "model":
            raise ValueError("--without is asked of a model: dsops provenance model NAME --without NAME=VALUE")
        if graph is not None:
            raise ValueError("--graph draws a story: leave out --without")
        _prove(session, name, without, never_had=never_had)
        return
    from datasetops.provenance.graph import draw
    from datasetops.provenance.holders import model_story, version_story
    from datasetops.provenance.story import annotation_story, sample_story

    if graph is not None and graph.suffix.lower() != ".svg":
        raise ValueError(f"--graph {graph}: expected a file that ends in .svg")
    tell = {"sample": sample_story, "annotation": annotation_story, "version": version_story, "model": model_story}
    story = tell[kind](session.repository, name)
    if graph is not None:
        graph.write_text(draw(story), encoding="utf-8")
        session.say(f"The picture is in {graph}.")
    session.emit(story.as_dict(), _story_lines(story))


def blame(
    session: Session,
    version: VersionName = "main",
    label: Annotated[str | None, typer.Option(help="Only this class; (none): annotations without one.")] = None,
    item: Annotated[
        str | None, typer.Option(metavar="ID", help="Only one sample's annotations, or a single one.")
    ] = None,
) -> None:
    """Tell who or what is behind the annotations of a version, and how many of each class no person has touched."""
    from datasetops.provenance.blame import blame as run

    found = run(session.repository, version, label=label, item=item)
    session.emit(found.as_dict(), _blame_lines(found))


def impact(
    session: Session,
    license: Annotated[str | None, typer.Option(help="Samples under this licence.")] = None,
    origin: Annotated[str | None, typer.Option(help="Samples collected there.")] = None,
    consent: Annotated[str | None, typer.Option(help="Samples with this consent.")] = None,
    group: Annotated[str | None, typer.Option(help="Samples of this group: a person, a patient, a place.")] = None,
    actor: Annotated[str | None, typer.Option(help="Annotations by this person or program.")] = None,
    model: Annotated[str | None, typer.Option(help="Annotations by this model, and what it is itself.")] = None,
    event: Annotated[
        str | None, typer.Option(help="What an event made: its id, the beginning of it, or its ledger entry's number.")
    ] = None,
    guide: Annotated[
        str | None, typer.Option(help="Annotations made under this guide: its digest, or a version that has it.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Write the ids of all samples and annotations to a .csv, .json or .parquet file."),
    ] = None,
) -> None:
    """Tell what depends on one thing: samples, annotations, versions, models and exports. Give one of the options.

    The reverse, that a model saw nothing of it: dsops provenance model NAME --without origin=VALUE
    """
    asked = {"license": license, "origin": origin, "consent": consent, "group": group}
    asked |= {"actor": actor, "model": model, "event": event, "guide": guide}
    given = [(name, value) for name, value in asked.items() if value is not None]
    if len(given) != 1:
        remedy = " To ask what a model saw: dsops provenance model NAME --without NAME=VALUE" if len(given) > 1 else ""
        raise ValueError(f"give exactly one of {', '.join(f'--{name}' for name in asked)}.{remedy}")
    from datasetops.cli.files import write_table
    from datasetops.provenance.impact import impact as run
    from datasetops.provenance.impact import impact_rows

    found = run(session.repository, *given[0])
    if rows is not None:
        write_table(impact_rows(found), rows)
        session.say(f"All ids are in {rows}.")
    session.emit(found.as_dict(), _impact_lines(found))


def _prove(session: Session, model: str, without: str, *, never_had: bool) -> None:
    from datasetops.errors import NotFoundError
    from datasetops.provenance.proof import parse_without, prove_without

    proof = prove_without(session.repository, model, *parse_without(without))
    if not proof.known and not never_had:
        raise NotFoundError(proof.notes[0], remedy="If it is meant, and no version ever had it: --never-had")
    session.emit(proof.as_dict(), _proof_lines(proof))
    if not proof.holds:
        raise typer.Exit(CHECK_FAILED)


def _story_lines(story: Story) -> Iterable[str]:
    yield f"{story.kind} {story.name}"
    for name, value in story.facts.items():
        if value not in (None, "", {}, []):
            yield f"  {name.replace('_', ' ')}: {_fact(value)}"
    if story.kind in ("sample", "annotation"):
        yield f"  in versions: {', '.join(_ranges(story.versions))}"
    yield ""
    yield from table([_item(item) for item in story.items], header=("entry", "time (UTC)", "version", "by", "what"))
    for title, rows in (("models", story.models), ("exports", story.exports)):
        if rows:
            yield ""
            yield f"{title}:"
            yield from (f"  {_fact(row)}" for row in rows)
    yield from _end(story.notes, story.basis)


def _item(item: Item) -> list[Any]:
    return [item.entry, item.time[:16].replace("T", " "), item.version, item.actor, item.words]


def _blame_lines(found: Blame) -> Iterable[str]:
    about = f" of the class {found.label}" if found.label else ""
    about += f" of {found.item}" if found.item else ""
    total = sum(row["annotations"] for row in found.makers)
    yield f"{found.version}: {counted(total, 'annotation')}{about}"
    if found.annotations:
        yield ""
        yield from table(
            (
                [row["annotation_id"], row["label"], row["source"], row["actor"] or row["model"], *_made(row["made"])]
                for row in found.annotations
            ),
            header=("annotation", "label", "source", "by", "entry", "event", "version"),
        )
    if total:
        yield ""
        shown = found.makers[:_SHOWN]
        yield from table(
            ([r["source"], r["actor"], r["model"], r["annotations"], _share(r["annotations"] / total)] for r in shown),
            header=("source", "actor", "model", "annotations", "share"),
        )
        if len(found.makers) > _SHOWN:
            yield f"and {len(found.makers) - _SHOWN:,} more (--json has all)"
        yield ""
        yield from table(
            (
                [name, r["annotations"], r["touched"], r["named_by_import"], r["nobody"], _share(r["share_nobody"])]
                for name, r in found.classes.items()
            ),
            header=("class", "annotations", "touched by a person", "named by an import", "by nobody", "share"),
        )
    yield from _end(found.notes, found.basis)


def _made(made: Mapping[str, Any] | None) -> list[Any]:
    return [made["entry"], made["event"], made["version"]] if made else ["", "not in the ledger", ""]


def _impact_lines(found: Impact) -> Iterable[str]:
    yield f"{found.by} {found.value}: {counted(found.samples, 'sample')}, {counted(found.annotations, 'annotation')}"
    for noun, ids, count in (
        ("samples", found.first_samples, found.samples),
        ("annotations", found.first_annotations, found.annotations),
    ):
        if ids:
            yield f"  {noun}: {', '.join(ids[:5])}{', …' if count > 5 else ''}"
    if found.events:
        yield f"  ledger entries: {', '.join(f'{kind} {count:,}' for kind, count in found.events.items())}"
    if found.versions:
        yield ""
        shown = found.versions[:_SHOWN]
        yield from table(
            ([r["version"], r["status"], r["samples"], r["annotations"], r["said"]] for r in shown),
            header=("version", "status", "samples", "annotations", f"{found.reach.said_of} that say so"),
        )
        if len(found.versions) > _SHOWN:
            yield f"and {len(found.versions) - _SHOWN:,} more versions (--json has all)"
    yield ""
    if not found.models:
        yield "No model learned from it."
    for row in found.models:
        through = f", and began as {row['through']}" if row["through"] else ""
        parts = ", ".join(f"{row[part]:,} of {row['of'].get(part, 0):,} samples of {part}" for part in _PARTS)
        yield f"model {row['model']} (from {row['version']}): {parts}{through}"
    if not found.exports:
        yield "No export carried it."
    for row in found.exports:
        what = f"{row['samples']:,} samples of {row['version']}" if "samples" in row else f"the model {row['model']}"
        yield f"export, entry {row['entry']}: {what} as {row['format'] or 'files'}, {row.get('path') or row.get('export')}"
    yield from _end(found.notes, found.basis)


_PARTS: Final = ("train", "validation")


def _proof_lines(proof: Proof) -> Iterable[str]:
    word = "learned from nothing of" if proof.holds else "CANNOT be said to have learned from nothing of"
    yield f"{proof.model} {word} {proof.by} {proof.value}"
    if not proof.known:
        yield f"{proof.notes[0]}"
    for one in proof.lists:
        counts = ", ".join(f"{count:,} of {part}" for part, count in one["samples"].items())
        yield ""
        yield f"{one['model']}, trained on {one['version']}: {counts}"
        yield f"  list of samples: {one['file']}"
        yield f"  SHA-256 of the list: {one['file_sha256']}"
        yield f"  SHA-256 of the training ids: {one['train_ids_sha256']}"
        yield f"  of them under {proof.by} {proof.value}, in any version: {one['under']:,}"
        yield f"  others with the same bytes as one that is: {one['same_bytes']:,}"
        yield f"  never recorded, so that nothing can be said: {one['not_recorded']:,}"
        yield f"  in no version, so that nothing can be said: {one['never_held']:,}"
        yield f"  erased since, so that nothing can be said: {one['erased']:,}"
        if one["against"]:
            yield f"  such as: {', '.join(one['against'][:5])}"
    yield ""
    shown = proof.versions[:_SHOWN]
    yield from table(
        ([row["version"], row["held"], row["said"]] for row in shown),
        header=("version", "samples of the lists", f"under {proof.by} {proof.value} there"),
    )
    if len(proof.versions) > _SHOWN:
        yield f"and {len(proof.versions) - _SHOWN:,} more versions (--json has all)"
    yield ""
    yield "To check it again:"
    yield from (f"  {number}. {step}" for number, step in enumerate(proof.check, start=1))
    yield f"SHA-256 of this answer: {proof.digest}"
    yield from _end(proof.notes[not proof.known :], proof.basis)


def _end(notes: Iterable[str], basis: Mapping[str, Any]) -> Iterable[str]:
    yield ""
    yield from (f"Note: {note}" for note in notes)
    yield (
        f"Worked out from {basis['ledger_entries']:,} ledger entries (newest: {basis['newest_entry']}, "
        f"{basis['newest_entry_sha256'][:16]}…), {basis['versions']:,} versions; {'; '.join(basis['also'])}"
    )


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        counts = all(isinstance(one, int) for one in value.values())
        return ", ".join(
            f"{name}: {one:,}" if counts else f"{name} {_fact(one)}"
            for name, one in value.items()
            if one not in (None, "")
        )
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _share(share: float) -> str:
    return f"{share:.1%}"


def _ranges(versions: Iterable[str]) -> list[str]:
    """v1, v2, v3, v5 as v1 to v3, v5."""
    runs: list[list[int]] = []
    for number in (int(name[1:]) for name in versions):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [f"v{low}" if low == high else f"v{low} to v{high}" for low, high in runs]
