"""`dsops preannotate`: annotations by a model, as a new version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import Session, command
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.manifest import Repository, Version
    from datasetops.preannotate.result import PreannotateResult
    from datasetops.schema import LabelSchema

_PROMISES: Final = ("class", "all")
_MOST: Final = 100  # samples listed that are disagreed on most


def register(app: typer.Typer) -> None:
    command(app)(preannotate)


def preannotate(
    session: Session,
    version: VersionName = "main",
    model: Annotated[
        str,
        typer.Option(
            help="hf:NAME@REVISION, local:DIR, onnx:FILE, ocr:rapidocr, m1 or production for one trained here, or "
            "fewshot:builtin:efficientnet-lite0, which learns from the labels that are there."
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
    promise: Annotated[
        str,
        typer.Option(
            help="class: the target holds for each class; all: for the rows of all classes together, which takes fewer labels."
        ),
    ] = "class",
    auto_accept: Annotated[
        bool,
        typer.Option(
            "--auto-accept",
            help="With --target-precision: these annotations count without a person, once a random sample of them has "
            "passed QA. The plan for it is made here; dsops accept asks for it.",
        ),
    ] = False,
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
    engine: Annotated[str | None, typer.Option(help="local or ray (default: the setting engine).")] = None,
    address: Annotated[str | None, typer.Option(help="Ray: the cluster's address (default: ray_address).")] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="Ray: GPUs for each worker; a half is 0.5 (default: ray_gpus).")
    ] = None,
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
    if promise not in _PROMISES:
        raise ValueError(f"--promise: expected {' or '.join(_PROMISES)}; got {promise!r}")
    if auto_accept and target_precision is None:
        raise ValueError(
            "--auto-accept: only what a precision is promised of can be accepted unseen; give --target-precision, such as 0.98"
        )
    from datasetops.cli.preannotate_words import disagreement_lines, dry_lines, notes, result_lines
    from datasetops.images import quiet_decoding
    from datasetops.preannotate.labelers import Learner
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
    if isinstance(labeler, Learner) and (untaught := set(chosen.schema.class_names) - set(labeler.known.values())):
        session.say(f"Nobody labeled {', '.join(sorted(untaught))}: the model never says that.")
    named: dict[str, Any] = {
        "task": task,
        "mapping": mapping,
        "classes": _classes(classes or [], chosen.schema),
        "where": where,
        "thresholds": scores,
        "target_precision": target_precision,
        "confidence": confidence,
        "together": promise == "all",
        "auto_accept": auto_accept,
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
    for line in notes(made):
        session.say(line)
    answer = made.as_dict() | {"dry_run": dry_run} | ({} if cost is None else {"cost": cost.as_dict()})
    newest = made.version or repository.version(named["branch"]).name
    lines = dry_lines(made) if dry_run else result_lines(made, newest, chosen.schema, task)
    missing: list[str] = []
    if disagreement and not dry_run:
        seen = repository.version(newest)
        kept, missing = _disagreement(repository, seen, made, task, mapping)
        answer["disagreement"] = kept
        lines += disagreement_lines(kept, seen.name)
    session.emit(answer, lines)
    for note in missing:
        session.say(note)


def _disagreement(
    repository: Repository, version: Version, made: PreannotateResult, task: str | None, mapping: Path | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """For each kind that the model gives: where the table is kept, who differs from whom how often, and on which samples
    most; and why there is none of some kinds."""
    from datasetops.errors import NotFoundError
    from datasetops.preannotate.disagreement import disagreement_scores, keep_disagreement, summary
    from datasetops.preannotate.measure import KINDS

    found: list[dict[str, Any]] = []
    missing = []
    for kind in KINDS:
        if kind in made.model.kinds and kind in version.schema.kinds and task in (None, kind):
            try:
                key, rows = keep_disagreement(repository, version, kind, mappings={made.model.digest: mapping})
            except NotFoundError as error:
                missing.append(f"No disagreement is kept. {error.message} {error.remedy}")
                continue
            scores = disagreement_scores(rows).to_pylist()
            differ = [one for one in scores if one["score"] > 0]
            found.append(
                {"kind": kind, "key": key, "pairs": summary(rows), "differ": len(differ), "most": differ[:_MOST]}
            )
    return found, missing


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
