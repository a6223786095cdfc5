"""`dsops preannotate`: annotations by a model, as a new version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import Session, command, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.manifest import Repository, Version
    from datasetops.preannotate.run import PreannotateResult
    from datasetops.preannotate.thresholds import Promises, Share
    from datasetops.schema import LabelSchema

_SHOWN: Final = 8  # names or faults listed


def register(app: typer.Typer) -> None:
    command(app)(preannotate)


def preannotate(
    session: Session,
    version: VersionName = "main",
    model: Annotated[
        str,
        typer.Option(
            help="hf:NAME@REVISION, local:DIR, onnx:FILE, ocr:rapidocr, or fewshot:builtin:efficientnet-lite0, which "
            "learns from the labels that are there."
        ),
    ] = "",
    task: Annotated[str | None, typer.Option(help="Only this kind of annotation: classification, box, mask, …")] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="Only these classes: names with commas between; may be repeated.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only samples that fulfil this SQL condition.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="YAML of 'model name: class' (null: none) where the names differ.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="YAML of 'class: [text, …]'; the schema's definitions unless told.")
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(help="What a mask model outlines: version, for the boxes there, or a model that finds some."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Least score of an annotation, or CLASS=SCORE for one class. May be repeated."),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(
            help="Choose the thresholds: at least that share of each class is right, as measured on what people labeled. "
            "Classes of which this cannot be promised are left to people."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="How sure the target precision is promised.")] = 0.95,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the model's own, e.g. min_score=0.01. May be repeated.")
    ] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="YAML that describes an ONNX file, if not FILE.yaml beside it.")
    ] = None,
    also_labeled: Annotated[
        bool,
        typer.Option("--also-labeled", help="Predict what people labeled too, to measure; it is not written there."),
    ] = False,
    disagreement: Annotated[
        bool,
        typer.Option(
            "--disagreement", help="Then keep a table of where models differ from each other and from people."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most that many samples.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray: the cluster's address.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="Ray: GPUs for each worker; a half is 0.5.")] = 0.0,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of one call; found by trying unless told.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take; write nothing.")] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="What the machine costs an hour, for the cost report.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Message of the new version.")] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", "-b", help="The branch that gets the new version (default: main).")
    ] = None,
) -> None:
    """Let a model label what people have not labeled, as a new version. What people said is never overwritten.

    Nothing is computed twice: a run that was stopped goes on, and other thresholds use what was predicted before.
    """
    if not model:
        raise ValueError("--model: name a model, for example fewshot:builtin:efficientnet-lite0 or hf:NAME@REVISION")
    from datasetops.images import quiet_decoding
    from datasetops.preannotate.opening import open_labeler
    from datasetops.preannotate.run import preannotate as annotate

    repository = session.repository
    chosen = repository.version(version)
    scores = _thresholds(threshold or [], chosen.schema)
    options = _options(option or [])
    if model_config is not None:
        options["config"] = str(model_config)
    labeler, asked = open_labeler(
        repository,
        chosen,
        model,
        task=task,
        prompts=prompts,
        boxes=boxes,
        where=where,
        engine=engine,
        address=address,
        gpus=gpus,
        batch=batch,
        device=device,
        **options,
    )
    named: dict[str, Any] = {
        "task": task,
        "mapping": mapping,
        "classes": _classes(classes or [], chosen.schema),
        "where": where,
        "thresholds": scores,
        "target_precision": target_precision,
        "confidence": confidence,
        "prompts": asked,
        "limit": limit,
        "also_labeled": also_labeled,
        "branch": branch or (version if version in repository.branches() else "main"),
        "progress": session.progress,
    }
    with quiet_decoding():
        cost = None
        if dry_run or price_per_hour is not None:
            before = annotate(repository, chosen, labeler, dry_run=True, price_per_hour=price_per_hour, **named)
            cost = before.cost
            if not dry_run and cost is not None:
                session.say(" ".join(cost.lines()))
        made = before if dry_run else annotate(repository, chosen, labeler, message=message, **named)
    for line in _notes(made):
        session.say(line)
    answer = made.as_dict() | {"dry_run": dry_run} | ({} if cost is None else {"cost": cost.as_dict()})
    lines = _dry_lines(made) if dry_run else _lines(made, chosen.name)
    if disagreement and not dry_run:
        kept = _disagreement(repository, repository.version(made.version or chosen.name), made, task)
        answer["disagreement"] = kept
        lines += _disagreement_lines(kept)
    session.emit(answer, lines)


def _lines(made: PreannotateResult, asked: str) -> list[str]:
    head = f"{made.model.label}: {made.asked:,} samples asked about"
    head += f", {made.computed:,} images computed, {made.known:,} known before."
    lines = [head]
    if made.promises is not None:
        lines += _promise_lines(made.promises)
    if made.by_class:
        given = sorted(made.by_class.items(), key=lambda item: (-item[1], item[0]))
        lines += table(given, header=("class", "given"))
    if made.version is None:
        return [*lines, f"Nothing in {asked} has to change."]
    counts = made.counts
    told = ", ".join(f"{counts[name]:,} {word}" for name, word in _WORDS.items() if counts.get(name))
    return [
        *lines,
        f"{made.version}: {told} annotations. Next: dsops label push {made.version}, or dsops audit {made.version}",
    ]


def _disagreement(
    repository: Repository, version: Version, made: PreannotateResult, task: str | None
) -> list[dict[str, Any]]:
    """For each kind that the model gives: where the table is kept, and who differs from whom how often."""
    from datasetops.preannotate.disagreement import keep_disagreement, summary
    from datasetops.preannotate.measure import KINDS

    found = []
    for kind in KINDS:
        if kind in made.model.kinds and kind in version.schema.kinds and task in (None, kind):
            key, rows = keep_disagreement(repository, version, kind)
            found.append({"kind": kind, "key": key, "pairs": summary(rows)})
    return found


def _disagreement_lines(kept: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for item in kept:
        lines.append(f"Disagreement about {item['kind']}, kept as {item['key']}:")
        rows = [(pair["one"], pair["other"], pair["differ"], pair["samples"]) for pair in item["pairs"]]
        lines += table(rows, header=("one", "other", "differ on", "of samples"))
    return lines


def _promise_lines(promises: Promises) -> list[str]:
    """A line for each class with a promise, and why there is none for the others."""
    kept = [item for item in promises.classes if item.threshold is not None]
    rest = [item for item in promises.classes if item.threshold is None]
    lines = []
    if kept:
        lines.append(f"Promised with {promises.confidence:.0%} confidence, of all these classes together:")
        rows = [
            [
                item.name,
                f"{item.threshold:.5f}",
                f"{promises.target:.1%}",
                _reached(item.held_out),
                f"{item.kept:.0%}",
            ]
            for item in kept
        ]
        lines += table(rows, header=("class", "from score", "promised", "reached on the held-out half", "share kept"))
    if rest:
        lines.append("No promise, and no rows, for:")
        lines += table([(item.name, item.why) for item in rest])
    return lines


def _reached(share: Share) -> str:
    return (
        f"{share.value:.1%} of {share.count:,} ({share.low:.1%} to {share.high:.1%})" if share.count else "none there"
    )


_WORDS: Final = {"inserted": "new", "updated": "changed", "deleted": "removed"}


def _dry_lines(made: PreannotateResult) -> list[str]:
    lines = [f"{made.model.label} would be asked about {made.asked:,} of {made.selected:,} samples."]
    if made.known:
        lines.append(f"{made.known:,} images were predicted before.")
    return lines + (made.cost.lines() if made.cost else [])


def _notes(made: PreannotateResult) -> list[str]:
    """What a user should know about names, samples that were left out, and images at fault."""
    notes = []
    names = made.mapping
    if names["ambiguous"]:
        told = "; ".join(
            f"{name!r} may be {' or '.join(map(repr, found))}" for name, found in names["ambiguous"].items()
        )
        notes.append(f"Names that count for no class, since they are ambiguous: {told}. Say which with --mapping.")
    if names["unreached"]:
        notes.append(f"Classes that the model cannot name: {_listed(names['unreached'])}. --mapping may help.")
    if names["unmapped"]:
        notes.append(f"Names of the model that count for no class: {_listed(names['unmapped'])}.")
    if made.labeled:
        notes.append(f"People labeled {made.labeled:,} of the {made.selected:,} samples; theirs stay.")
    if made.without_image:
        notes.append(f"{made.without_image:,} of the samples have no image at hand and were left out.")
    if made.stayed:
        notes.append(f"{made.stayed:,} of the samples have rows of a model that somebody changed since; these stay.")
    if made.faults:
        notes.append(f"{len(made.faults):,} images gave nothing:")
        notes += [f"  {fault.uri}: {fault.message}" for fault in made.faults[:_SHOWN]]
        if len(made.faults) > _SHOWN:
            notes.append(f"  … and {len(made.faults) - _SHOWN:,} more; --json lists them all")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _classes(given: list[str], schema: LabelSchema) -> list[str]:
    """Names from the option: each may be a class, or several with commas between."""
    parts = [[text] if text in schema.class_names else text.split(",") for text in given]
    return list(dict.fromkeys(name.strip() for part in parts for name in part if name.strip()))


def _thresholds(given: list[str], schema: LabelSchema) -> dict[str, float] | float | None:
    """One score, or scores by class; where both are given the one is that of all other classes."""
    by_class: dict[str, float] = {}
    default: float | None = None
    for text in given:
        name, sign, value = text.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            raise ValueError(f"--threshold: expected a score, or CLASS=SCORE; got {text!r}") from None
        if sign:
            by_class[name] = score
        else:
            default = score
    if not by_class:
        return default
    return by_class if default is None else dict.fromkeys(schema.class_names, default) | by_class


def _options(given: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ValueError(f"--option: expected NAME=VALUE; got {text!r}")
        options[name] = value
    return options
