"""Train a small detector on frozen activations of the built-in network: minutes on a processor, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from datasetops.audits.boxes.pairs import Boxes
from datasetops.evaluation.detection import coco_metrics
from datasetops.evaluation.regions import Regions
from datasetops.manifest import Repository, Version
from datasetops.models.checkpoint import pick_device
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media
from datasetops.training.data import Parts
from datasetops.training.head_data import KIND, Picture, Pictures, flips_of, gather, load_maps, scaled
from datasetops.training.head_net import Head, losses, to_bytes
from datasetops.training.head_predictor import OPTIONS, detections
from datasetops.training.maps import STRIDES, MapBank, bytes_of, scale_of
from datasetops.training.recipe import HeadRecipe
from datasetops.training.record import Trained
from datasetops.training.state import (
    Say,
    diverged,
    load_state,
    optimiser_tensors,
    rate,
    restore_optimiser,
    save_state,
    silent,
)
from datasetops.training.targets import assign, cell_middles

_FORMAT: Final = 1
_WARMUP: Final = 0.05  # share of the steps until the full learning rate
_CLIP: Final = 5.0  # norm of a step's gradient at most
_MEMORY: Final = 0.998  # of the running mean of the weights, which is what is kept
_SAVED: Final = 50  # steps between two checkpoints: what a killed run loses at most
_SAMPLED: Final = 200  # images that means and deviations are taken from
_DISK: Final = 8 * 2**30  # bytes of activations that are kept; of more images they are computed again in each epoch


def train_head(
    repository: Repository,
    version: Version,
    parts: Parts,
    recipe: HeadRecipe,
    folder: Path,
    *,
    skip_unreadable: bool = False,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Say = silent,
) -> tuple[Trained, Parts]:
    """Train, and say on which samples. Checkpoints are in `folder`: a run that was stopped goes on from there.

    A loss that is not finite ends the training; the weights of the last checkpoint are kept, and a note says so. Raises
    ModelError where there is none yet, and what `gather` raises.
    """
    chosen = pick_device(device)
    flips = flips_of(recipe)
    sizes = parts.samples[["width", "height"]].dropna().to_numpy(np.int64)
    needed = sum(bytes_of((int(width), int(height)), recipe.side) for width, height in sizes) * len(flips)
    bank = MapBank(repository.settings.cache, recipe.side, repository.cache / "maps" if needed <= _DISK else None)
    pictures, kept = gather(repository, version, parts, recipe, bank, flips, skip=skip_unreadable, progress=progress)
    run = _Run(repository, recipe, pictures, bank, chosen, folder)
    note = run.train(progress, say)
    metrics = run.validate(progress)
    description = {
        "format": _FORMAT,
        "kind": "head",
        "task": KIND,
        "classes": list(pictures.names),
        "side": recipe.side,
        "width": recipe.width,
        "weights": sum(int(value.numel()) for value in run.head.parameters()),
    }
    notes = pictures.notes + (() if note is None else (note,))
    if not pictures.validation:
        notes += ("Nothing was set apart to validate on: how good the model is was not measured.",)
    environment = {"device": chosen}
    return Trained(KIND, pictures.names, to_bytes(run.head), description, "AP50", metrics, environment, notes), kept


class _Run:
    """One training. What happens in a step depends on its number alone, so that a stopped run goes on to the same end."""

    def __init__(
        self, repository: Repository, recipe: HeadRecipe, pictures: Pictures, bank: MapBank, device: str, folder: Path
    ) -> None:
        self._recipe, self._pictures, self._bank, self._device = recipe, pictures, bank, device
        self._read = Media(repository.store, repository.root).read
        self._flips = flips_of(recipe)
        self._file = folder / "checkpoint.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.head = Head(len(pictures.names), recipe.width)
        self._standardise()
        self.head.to(device)
        self._mean = {name: value.clone() for name, value in self.head.state_dict().items()}
        self._optimiser = torch.optim.AdamW(self._groups(), lr=recipe.learning_rate)
        self._middles: dict[Any, tuple[Any, Any]] = {}

    def train(self, progress: Progress, say: Say = silent) -> str | None:
        """Leaves the running mean of the weights in `head`. Returns what there is to say of the end.

        `say` is told the loss of each epoch.
        """
        count = len(self._pictures.train)
        steps_of_epoch = -(-count // self._recipe.batch)
        total = steps_of_epoch * self._recipe.epochs
        done = self._resume()
        note, seen = None, []
        for step in progress(range(done, total), total - done, "Training"):
            batch = self._batch(step // steps_of_epoch, step % steps_of_epoch)
            for group in self._optimiser.param_groups:
                group["lr"] = self._recipe.learning_rate * rate(step, total, _WARMUP)
            loss = self._step(batch)
            if loss is None:
                self._resume()
                last = step - step % _SAVED
                note = f"The loss was no finite number in step {step + 1:,} of {total:,}: the weights of step {last:,} are kept."
                if last == 0:
                    raise diverged(step)
                break
            self._remember(step)
            seen.append(loss)
            if (step + 1) % steps_of_epoch == 0:
                epoch = (step + 1) // steps_of_epoch
                say(f"Epoch {epoch:,} of {self._recipe.epochs:,}: loss {sum(seen) / len(seen):.4f}")
                seen = []
            if (step + 1) % _SAVED == 0:
                self._save(step + 1)
        self.head.load_state_dict(self._mean)
        self.head.eval()
        return note

    def validate(self, progress: Progress) -> dict[str, Any]:
        """COCO's numbers on the validation part, in pixels of the images as shown."""
        pictures, names = self._pictures.validation, self._pictures.names
        if not pictures:
            return {"items": 0}
        found: list[tuple[Any, Any, Any]] = []
        for picture in progress(iter(pictures), len(pictures), "Validating"):
            levels = load_maps(self._bank, picture, (False, False), self._read)
            tensors = [torch.from_numpy(level).float() for level in levels]
            found.append(
                detections(self.head, tensors, scale_of(picture.size, self._recipe.side), picture.size, OPTIONS)
            )
        metrics = coco_metrics(
            found_in(found), truth_of(pictures), np.array([picture.size for picture in pictures]), names
        )
        by_class = {name: {key: own[key] for key in ("AP", "AP50")} for name, own in metrics.by_class().items()}
        return {"items": len(pictures)} | metrics.summary() | {"classes": by_class}

    def _step(self, batch: list[tuple[Picture, int]]) -> float | None:
        """The loss, None where it is no finite number; nothing is changed then. Images go through one by one: the gradient
        is that of the whole batch, whatever the images' sizes, in the memory of one."""
        recipe = self._recipe
        self._optimiser.zero_grad(set_to_none=True)
        objects = [scaled(picture, recipe.side, self._flips[flip]) for picture, flip in batch]
        share = max(1.0, float(sum(own.weights.sum() for own in objects)))
        total = 0.0
        for (picture, flip), own in zip(batch, objects, strict=True):
            maps = load_maps(self._bank, picture, self._flips[flip], self._read)
            middles, strides = self._cells([level.shape[1:] for level in maps])
            aim = assign(own, middles, strides)
            logits, sides = self.head([torch.from_numpy(level).to(self._device).float()[None] for level in maps])
            given = [self._tensor(value) for value in (middles, aim.cell, aim.label, aim.box, aim.weight, aim.silent)]
            loss = losses(logits[0], sides[0], *given) / share
            value = float(loss.detach())
            if not math.isfinite(value):
                return None
            total += value
            torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), _CLIP)
        if not math.isfinite(float(norm)):
            return None
        self._optimiser.step()
        return total

    def _batch(self, epoch: int, number: int) -> list[tuple[Picture, int]]:
        """Images of a step, each with the number of its flip: a function of seed, epoch and place alone."""
        rng = np.random.default_rng([self._recipe.seed, epoch])
        order = rng.permutation(len(self._pictures.train))
        flips = rng.integers(len(self._flips), size=len(order))
        chosen = order[number * self._recipe.batch : (number + 1) * self._recipe.batch]
        return [(self._pictures.train[one], int(flips[one])) for one in chosen]

    def _remember(self, step: int) -> None:
        """The running mean forgets the first steps faster."""
        share = min(_MEMORY, (1 + step) / (10 + step))
        for name, value in self.head.state_dict().items():
            self._mean[name].lerp_(value.detach(), 1 - share)

    def _cells(self, shapes: Sequence[Any]) -> tuple[Any, Any]:
        key = tuple(map(tuple, shapes))
        if key not in self._middles:
            self._middles[key] = cell_middles(key, STRIDES)
        return self._middles[key]

    def _tensor(self, value: Any) -> Tensor:
        return torch.from_numpy(value).to(self._device)

    def _groups(self) -> list[dict[str, Any]]:
        """Weights decay, offsets and norms do not."""
        decaying = [value for value in self.head.parameters() if value.ndim > 1]
        others = [value for value in self.head.parameters() if value.ndim <= 1]
        return [
            {"params": decaying, "weight_decay": self._recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def _standardise(self) -> None:
        pictures = self._pictures.train
        some = pictures[:: -(-len(pictures) // _SAMPLED)]
        maps = [load_maps(self._bank, picture, (False, False), self._read) for picture in some]
        for level in range(len(STRIDES)):
            cells = np.concatenate([one[level].reshape(one[level].shape[0], -1)[:, ::7] for one in maps], 1)
            mean, deviation = (torch.from_numpy(value) for value in _moments(cells.astype(np.float32)))
            self.head.standardise(level, mean, deviation)

    def _save(self, step: int) -> None:
        parts = {"head": self.head.state_dict(), "mean": self._mean, "optimiser": optimiser_tensors(self._optimiser)}
        save_state(self._file, parts, {"step": step})

    def _resume(self) -> int:
        """The step to go on with: 0 where there is no checkpoint, or none that can be read."""
        found = load_state(self._file, self._device)
        if found is None:  # absent, or cut off: begun anew
            return 0
        parts, facts = found
        self.head.load_state_dict(parts["head"])
        self._mean = parts["mean"]
        restore_optimiser(self._optimiser, parts["optimiser"])
        return int(facts["step"])


def _moments(cells: Any) -> tuple[Any, Any]:
    return cells.mean(axis=1), cells.std(axis=1)


def found_in(found: Sequence[tuple[Any, Any, Any]]) -> Regions:
    """Boxes, scores and classes of each image, as regions."""
    image = np.repeat(np.arange(len(found)), [len(scores) for _, scores, _ in found])
    boxes, scores, labels = (np.concatenate([one[place] for one in found]) for place in range(3))
    made = Boxes(image.astype(np.int64), labels.astype(np.int64), boxes.astype(np.float64))
    return Regions(made, scores.astype(np.float64), np.zeros(len(made), bool), made.area, np.arange(len(made)))


def truth_of(pictures: Sequence[Picture]) -> Regions:
    """What people drew."""
    objects = [picture.objects for picture in pictures]
    image = np.repeat(np.arange(len(objects)), [len(own.boxes) for own in objects])
    boxes = np.concatenate([own.boxes for own in objects]).astype(np.float64)
    made = Boxes(image.astype(np.int64), np.concatenate([own.labels for own in objects]), boxes)
    return Regions(made, np.ones(len(made)), np.zeros(len(made), bool), made.area, np.arange(len(made)))
