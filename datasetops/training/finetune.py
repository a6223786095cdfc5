"""Fine-tune a model of transformers on classes, boxes or masks: the same recipe on a processor, a GPU or a cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from datasetops.errors import MissingDependencyError
from datasetops.evaluation.detection import coco_metrics
from datasetops.evaluation.pixels import pixel_metrics
from datasetops.images import decode_rgb
from datasetops.labeling.masks import decoded
from datasetops.manifest import Repository, Version
from datasetops.models.checkpoint import pick_device
from datasetops.models.dense import in_threads
from datasetops.models.families.base import TOGETHER
from datasetops.models.families.segment import PARTS, WHOLE
from datasetops.models.predictor import Prediction, Predictor, Request
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media
from datasetops.training.data import Parts
from datasetops.training.finetune_data import REST, Example, Examples, examples
from datasetops.training.finetune_images import Views, batches
from datasetops.training.finetune_model import find_checkpoint, load_start, packed, unpacked
from datasetops.training.finetune_predictor import open_tuned
from datasetops.training.finetune_run import Run
from datasetops.training.finetune_team import Team
from datasetops.training.head import found_in, truth_of
from datasetops.training.probe import judged
from datasetops.training.recipe import FinetuneRecipe
from datasetops.training.record import Trained
from datasetops.training.state import Say, silent

_FORMAT: Final = 1
_LEAST: Final = 1e-12  # of a probability whose logarithm is taken
_METRICS: Final = {"classification": "accuracy", "box": "AP50", "mask": "mean_iou"}  # those that stand for all


def train_finetune(
    repository: Repository,
    version: Version,
    parts: Parts,
    recipe: FinetuneRecipe,
    folder: Path,
    *,
    skip_unreadable: bool = False,
    device: str = "auto",
    team: Callable[[Any], Team] | None = None,
    progress: Progress = no_progress,
    say: Say = silent,
) -> tuple[Trained | None, Parts]:
    """Train, and say on which samples. Checkpoints are in `folder`: a run that was stopped goes on from there.

    `team` makes this worker's place among those that train together; only the first of them gives a model. Raises
    what `find_checkpoint`, `examples` and `load_start` raise, MissingDependencyError where the extra `train` is not
    installed, and ModelError where training diverges at once or memory is short for one image.
    """
    chosen = pick_device(device)
    checkpoint = find_checkpoint(recipe)  # before images are looked at, which takes long
    found, kept = examples(repository, version, parts, recipe, skip_unreadable, progress)
    start = load_start(recipe, checkpoint, found)
    read = Media(repository.store, repository.root).read
    views = Views(recipe, start.processor, read, len(found.classes) if recipe.unlabeled == "background" else -1)
    jobs = repository.settings.jobs
    with _accelerated(chosen, recipe.precision) as accelerator:
        ours = Team() if team is None else team(accelerator.device)
        run = Run(recipe, start, found, views, accelerator, folder, jobs, ours)
        notes = run.train(progress, say)
        course, waited = run.course, run.waited
        del run  # with what its optimiser holds: the files are opened anew to be measured
    if ours.rank != 0:
        return None, kept
    weights, files = packed(start.model.to("cpu"), start.processor, folder / "packed")
    description = files | {
        "format": _FORMAT,
        "kind": "finetune",
        "task": recipe.task,
        "classes": list(found.classes),
        "options": {"regions": PARTS if found.several else WHOLE} if recipe.task == "mask" else {},
        "origin": start.origin,
        "epochs": course.losses,
        "best_epoch": course.best_epoch,
    }
    shutil.rmtree(folder / "opened", ignore_errors=True)  # of a run that was stopped here
    opened = unpacked(weights, description, folder / "opened")
    request = Request(recipe.task, device=chosen, options=_measured_with(recipe))
    tuned = open_tuned(opened, description, folder, request)
    metrics = _metrics(recipe, found, tuned, read, jobs, min(course.most, TOGETHER), progress)
    notes = (*found.notes, *notes)
    if not found.validation:
        notes += ("Nothing was set apart to validate on: how good the model is was not measured.",)
    environment = {
        "device": chosen,
        "precision": recipe.precision,
        "workers": ours.size,
        "start": start.digest,
        "waiting_for_data": None if waited is None else round(waited, 4),
    }
    metric = _METRICS[recipe.task]
    if recipe.task == "classification" and found.several:
        metric = "mean_average_precision"
    return Trained(recipe.task, found.classes, weights, description, metric, metrics, environment, notes), kept


@contextmanager
def _accelerated(device: str, precision: str) -> Iterator[Any]:
    """An Accelerator for this device; its state, which is the process's, is given back afterwards."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        raise MissingDependencyError("accelerate", extra="train", purpose="Fine-tuning") from None
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    # Of other workers it is not told, else losses of transformers would wait for theirs in each part of a batch.
    others = {name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ}
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ |= others


def _measured_with(recipe: FinetuneRecipe) -> dict[str, Any]:
    """Options under which nothing is left out that metrics count."""
    if recipe.task == "mask":
        return {"regions": WHOLE, "min_score": 0.0, "min_pixels": 1}
    return {"min_score": 0.0}


def _metrics(
    recipe: FinetuneRecipe, found: Examples, model: Predictor, read: Callable[[str], bytes], jobs: int, batch: int,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Of the files as they are kept, opened as any predictor is, on the validation part."""
    part = found.validation
    if not part:
        return {"items": 0}

    def ready(row: int, data: bytes) -> Any:
        return model.prepare(decode_rgb(data))

    prepared = in_threads(lambda row: read(part[row].picture.uri), ready, range(len(part)), jobs)
    answers: Iterator[list[Prediction]] = (
        own for together in batches((one for _, one in prepared), batch) for own in model.predict(together)
    )
    shown = progress(answers, len(part), "Measuring")
    measure = {"classification": _of_classes, "box": _of_boxes, "mask": _of_masks}[recipe.task]
    return measure(found, part, shown)


def _of_classes(found: Examples, part: list[Example], answers: Iterator[list[Prediction]]) -> dict[str, Any]:
    names = found.classes
    tables: list[Any] = [own[0].scores or dict.fromkeys(names, 0.0) for own in answers]  # without: the model failed
    chances = np.array([[table[name] for name in names] for table in tables], np.float64)
    scores = np.log(np.maximum(chances, _LEAST))
    if found.several:
        scores -= np.log(np.maximum(1 - chances, _LEAST))
    labels = np.stack([one.target for one in part])
    return judged(scores.astype(np.float32), labels, names)[1]


def _of_boxes(found: Examples, part: list[Example], answers: Iterator[list[Prediction]]) -> dict[str, Any]:
    code = {name: number for number, name in enumerate(found.names)}
    arrays = []
    for answer in answers:
        own = [item for item in answer if item.box is not None]  # else the model failed
        boxes = np.array([item.box for item in own], np.float64).reshape(-1, 4)
        labels = np.array([code[item.name or ""] for item in own], np.int64)
        arrays.append((boxes, np.array([item.score for item in own]), labels))
    pictures = [one.picture for one in part]
    sizes = np.array([picture.size for picture in pictures])
    metrics = coco_metrics(found_in(arrays), truth_of(pictures), sizes, found.names)
    by_class = {name: {key: own[key] for key in ("AP", "AP50")} for name, own in metrics.by_class().items()}
    return {"items": len(part)} | metrics.summary() | {"classes": by_class}


def _of_masks(found: Examples, part: list[Example], answers: Iterator[list[Prediction]]) -> dict[str, Any]:
    """Pixels of no class count as one more class, which is in no mean."""
    names, rest = found.classes, len(found.classes)
    code = {name: number for number, name in enumerate(names)} | {REST: rest}
    table = np.zeros((rest + 1, rest + 1), np.int64)
    for one, own in zip(part, answers, strict=True):
        truth, _ = one.target.painted(rest if found.names != names else -1)
        seen = np.full(truth.shape, rest)
        for item in own:
            if item.geometry is not None:
                seen[decoded(item.geometry["rle"])] = code[item.name or ""]
        asked = truth >= 0
        table += np.bincount(truth[asked] * (rest + 1) + seen[asked], minlength=table.size).reshape(table.shape)
    return {"items": len(part)} | pixel_metrics(table, names)
