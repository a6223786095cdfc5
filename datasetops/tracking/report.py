"""What trackers are told of a training and of an evaluation, once it is done and kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from datasetops.errors import DatasetOpsError
from datasetops.evaluation.record import Evaluation
from datasetops.evaluation.report import model_card
from datasetops.manifest import Repository
from datasetops.records import canonical_json, sha256_hex
from datasetops.tracking.base import Dataset, Place, Tracker, TrackerError, open_tracker, without_secrets
from datasetops.training.record import DESCRIPTION, SAMPLES, ModelRecord, model_file

_REASON: Final = 300  # characters of another package's message that are passed on


@dataclass(frozen=True)
class Report:
    """One run in full. `steps`: metrics by step; `model`: the one to register, if any, with its files by name."""

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    dataset: Dataset
    files: Mapping[str, bytes]
    steps: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    model: str | None = None
    model_files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for what is the same, so that nothing is told twice."""
        return sha256_hex(canonical_json([self.name, dict(self.tags), vars(self.dataset)]))[:16]


def tracker_of(repository: Repository, name: str | None = None) -> Tracker:
    """The tracker of this name, or the one that the settings name. Raises what `open_tracker` raises."""
    settings = repository.settings
    place = Place(repository.schema.name, repository.root or Path.cwd(), settings.tracker_uri)
    return open_tracker(name or settings.tracker, place)


def training_report(repository: Repository, record: ModelRecord) -> Report:
    """A model's record as a run: parameters, metrics on the validation part, losses by epoch where there are any, files."""
    facts = {
        "task": record.task,
        "split": record.split,
        "seed": record.seed,
        "samples": record.samples.get("train"),
        "classes": len(record.classes),
        "device": record.environment.get("device"),
        "code": record.code.get("version"),
        "parent": record.parent,
        "experiment": record.experiment,
    }
    files = {role: model_file(repository, record, role) for role in record.files if role != SAMPLES}
    return Report(
        name=record.name,
        parameters={name: _text(value) for name, value in (facts | _flat(record.recipe, "recipe.")).items()},
        tags={
            "dsops.kind": "train",
            "dsops.model": record.name,
            "dsops.digest": record.digest,
            "dsops.recipe": record.recipe_digest,
            "dsops.event": record.event_id,
        },
        metrics=numbers_of(record.metrics),
        steps=_losses(json.loads(files[DESCRIPTION])),
        dataset=Dataset(record.version, record.commit, record.schema, "training"),
        files={"record.json": record.to_bytes()},
        model=record.name,
        model_files={f"{role}{Path(record.files[role].key).suffix}": data for role, data in files.items()},
    )


def evaluation_report(evaluation: Evaluation) -> Report:
    """An evaluation as a run: metrics with the ends of their intervals, its record, model card and list of errors."""
    info = evaluation.info
    ends = {name: {end: item[end] for end in ("low", "high")} for name, item in info["intervals"].items()}
    return Report(
        name=f"{info['model']['label']} on {info['version']}, {info['split'] or 'all samples'}",
        parameters={name: _text(value) for name, value in info["parameters"].items()},
        tags={
            "dsops.kind": "evaluate",
            "dsops.evaluation": evaluation.evaluation_id,
            "dsops.model": str(info["model"]["label"]),
            "dsops.digest": str(info["model"]["digest"]),
        },
        metrics=numbers_of(info["metrics"]) | numbers_of(ends),
        dataset=Dataset(info["version"], info["commit"], info["schema"], "testing"),
        files={
            "evaluation.json": canonical_json(dict(info)),
            "model_card.md": model_card(evaluation).encode(),
            "failures.csv": evaluation.failures.to_csv(index=False).encode(),
        },
    )


def tell(tracker: Tracker, report: Report) -> str | None:
    """Open a run, tell all of it and close it. Returns a sentence about where it is, None where nothing was to be told.

    Raises what the tracker's package raises; the run is then marked as failed, and a later call makes a new one.
    """
    run = tracker.start(report.key, report.name, report.parameters, report.tags)
    if run is None:
        return None
    failed, registered = True, None
    try:
        run.uses(report.dataset)
        for step, metrics in sorted(report.steps.items()):
            run.log(metrics, step)
        run.log(report.metrics)
        run.attach(report.files)
        if report.model is not None:
            facts = {"dsops.version": report.dataset.version, "dsops.commit": report.dataset.commit}
            registered = run.register(report.model, report.model_files, facts)
        failed = False
    finally:
        run.finish(failed=failed)
    entered = f" Registered as {registered}." if registered else ""
    return f"{tracker.name} has it as {run.address}.{entered}"


def tell_or_fail(tracker: Tracker, report: Report) -> str | None:
    """As `tell`. Raises TrackerError whatever the tracker's package raises."""
    with _as_tracker_error(tracker):
        return tell(tracker, report)


@contextmanager
def _as_tracker_error(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except DatasetOpsError:
        raise
    except Exception as error:  # the faults of other people's packages and servers have no common name
        reason = without_secrets((str(error).splitlines() or [type(error).__name__])[0])[:_REASON]
        raise TrackerError(
            f"{tracker.name} was not told: {reason}", remedy="Check that it runs, and its address: tracker_uri."
        ) from error


def try_to_tell(tracker: Tracker, report: Callable[[], Report], name: str) -> str | None:
    """As `tell`, but a failure is a sentence too: what was trained or measured is kept, whatever happens there.

    `name` is what `dsops track` is given to try again.
    """
    try:
        return tell_or_fail(tracker, report())
    except DatasetOpsError as error:
        again = f"dsops track {name} --tracker {tracker.name}"
        return f"warning: {error.message} {error.remedy}\nNothing is lost: {name} is kept. To try again: {again}"


def tell_production(tracker: Tracker, model: str | None) -> str | None:
    """A sentence about where a tracker marks the model in production, or about why it does not; None: it does not mark."""
    try:
        with _as_tracker_error(tracker):
            place = tracker.production(model)
    except DatasetOpsError as error:
        return f"warning: {error.message} {error.remedy}"
    return None if place is None else f"{tracker.name} has it as {place}."


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers by dotted name."""
    return {
        name: float(value)
        for name, value in _flat(values).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _losses(description: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """By epoch, from 1, what a fine-tuned model's description tells of the training part and the validation part."""
    epochs = description.get("epochs", ())
    return {
        number: numbers_of(dict(zip(("loss", "validation_loss"), losses, strict=False)))
        for number, losses in enumerate(epochs if isinstance(epochs, list) else (), start=1)
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
