"""`dsops train` and `dsops models`: a model from a version, the same model again, and what was trained so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, table
from datasetops.cli.track import TrackerName, tell
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.training.record import ModelRecord
    from datasetops.training.train import Reproduction


def register(app: typer.Typer) -> None:
    command(app)(train)
    command(app)(models)


def train(
    session: Session,
    version: VersionName = "main",
    recipe: Annotated[
        str | None, typer.Option(help="A YAML file, or a packaged recipe: probe, head, vit, detr, segformer.")
    ] = None,
    experiment: Annotated[
        bool, typer.Option("--experiment", help="Train on a version that is not accepted; the record says so.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    split: Annotated[str, typer.Option(help="The split to train on.")] = "train",
    parent: Annotated[str | None, typer.Option(help="The model that this one is to replace, for the record.")] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, instead of stopping.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="What fine-tuning runs on: local or ray (default: the setting engine).")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray: the cluster's address (default: ray_address).")] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="Ray: GPUs for each worker; a half is 0.5 (default: ray_gpus).")
    ] = None,
    reproduce: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Train this model again from its record, and compare. Exits 3 if they differ."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="With --reproduce: how far apart metrics may be and still agree.")
    ] = 0.0,
    tracker: TrackerName = None,
) -> None:
    """Train a model on an accepted version by a recipe. A run that was stopped goes on when it is started again."""
    from datasetops.images import quiet_decoding
    from datasetops.tracking.report import tracker_of, training_report
    from datasetops.training import train as training
    from datasetops.training.recipe import load_recipe
    from datasetops.training.record import load_model_record

    repository = session.repository
    if reproduce is not None:
        if recipe is not None or seed is not None:
            raise ValueError("--reproduce: the record tells recipe and seed; leave --recipe and --seed out")
        if tracker is not None:
            raise ValueError("--reproduce: makes no model to tell a tracker of; leave --tracker out")
        with quiet_decoding():
            again = training.reproduce(
                repository,
                load_model_record(repository, reproduce),
                tolerance=tolerance,
                device=device,
                progress=session.progress,
                say=session.say,
            )
        session.emit(again.as_dict(), _reproduction_lines(again))
        if not again.agrees:
            raise typer.Exit(CHECK_FAILED)
        return
    if recipe is None:
        raise ValueError("--recipe: name a YAML file, or a packaged recipe such as probe or head")
    chosen = load_recipe(recipe)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    told = tracker_of(repository, tracker)
    told.check()
    with quiet_decoding():
        record = training.train(
            repository,
            repository.version(version),
            chosen,
            experiment=experiment,
            split=split,
            parent=parent,
            skip_unreadable=skip_unreadable,
            device=device or "auto",
            engine=engine,
            address=address,
            gpus=gpus,
            progress=session.progress,
            say=session.say,
        )
    for note in record.notes:
        session.say(note)
    tell(session, told, lambda: training_report(repository, record), record.name)
    session.emit(record.as_dict(), _record_lines(record))


def models(session: Session) -> None:
    """List the models that were trained."""
    from contextlib import suppress

    from datasetops.errors import NotFoundError
    from datasetops.training.record import model_records, promoted

    repository = session.repository
    records = model_records(repository)
    production = None
    with suppress(NotFoundError):
        production = promoted(repository)
    rows = [
        (
            record.name,
            record.task,
            record.recipe["name"],
            record.version + (" (experiment)" if record.experiment else ""),
            record.samples["train"],
            f"{record.metric} {_number(record)}",
            "in production" if record.name == production else "",
        )
        for record in records
    ]
    header = ("model", "gives", "recipe", "version", "samples", "on the validation part", "")
    lines = table(rows, header=header) if rows else ["No model was trained yet: dsops train VERSION --recipe probe"]
    session.emit([record.as_dict() | {"production": record.name == production} for record in records], lines)


def _record_lines(record: ModelRecord) -> list[str]:
    trained, validated = record.samples["train"], record.samples["validation"]
    return [
        f"{record.name}: {record.recipe['name']} on {record.version}, {counted(trained, 'sample')}, "
        f"{len(record.classes):,} classes.",
        f"On {counted(validated, 'sample')} for validation: {record.metric} {_number(record)}.",
        f"Use it as {record.name}, for example: dsops evaluate {record.name} {record.version}",
    ]


def _reproduction_lines(again: Reproduction) -> list[str]:
    lines = [f"  {name}: {before}, now {now}" for name, (before, now) in again.differences.items()]
    lines += [f"  not as it was: {text}" for text in again.changed]
    weights = "The weights are the same, bit for bit." if again.same_weights else "The weights differ."
    if again.agrees:
        within = f" within {again.tolerance:g}" if again.tolerance else ""
        return [f"{again.model} is reproduced: all metrics agree{within}. {weights}", *lines]
    return [f"{again.model} is not reproduced: {len(again.differences)} metrics differ. {weights}", *lines]


def _number(record: ModelRecord) -> str:
    value = record.metrics.get(record.metric)
    return "not measured" if value is None else f"{value:.4f}"
