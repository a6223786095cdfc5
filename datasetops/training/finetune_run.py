"""The course of a fine-tuning: steps, checkpoints, the best epoch, and what is done about loss, memory and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from datasetops.errors import ModelError
from datasetops.progress import Progress
from datasetops.training.finetune_data import Examples
from datasetops.training.finetune_images import Ahead, Ready, Views, batches, parts_of
from datasetops.training.finetune_model import Start, Task, groups, learning
from datasetops.training.finetune_order import Order
from datasetops.training.finetune_team import Team
from datasetops.training.recipe import FinetuneRecipe
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

_PAUSE: Final = 60.0  # seconds between two checkpoints: what a killed run loses at most, unless an epoch ends before
_SHORT: Final = ("not enough memory", "can't allocate memory", "out of memory")  # in what torch says on a processor


@dataclass
class Course:
    """How far a training is. `most`: images that go through together; `best`: the least validation loss, of `best_epoch`
    (from 1); `stale`: epochs since. `losses`: of each epoch, over the training part and the validation part."""

    step: int = 0
    most: int = 0
    best: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    running: float = 0.0
    losses: list[tuple[float, float | None]] = field(default_factory=list)


class Run:
    """One training. What happens in a step depends on its number alone, so that a stopped run goes on to the same end."""

    def __init__(
        self, recipe: FinetuneRecipe, start: Start, found: Examples, views: Views, accelerator: Any, folder: Path,
        jobs: int, team: Team,
    ) -> None:  # fmt: skip
        self._recipe, self._start, self._found, self._views = recipe, start, found, views
        self._accelerator, self._jobs, self._team = accelerator, jobs, team
        self._file, self._best = folder / "checkpoint.safetensors", folder / "best.safetensors"
        self.model = start.model.to(accelerator.device)
        self._task = Task(recipe, found, accelerator.device)
        self._optimiser = torch.optim.AdamW(groups(self.model, start.fresh, recipe), lr=recipe.learning_rate)
        self._order = Order(recipe, found.train, team)
        self.course = Course(most=recipe.batch)
        self.waited: float | None = None  # share of the time, after the first step

    def train(self, progress: Progress, say: Say = silent) -> tuple[str, ...]:
        """Leaves the weights that are kept in `model`. Returns what there is to say. Raises ModelError.

        `say` is told the losses of each epoch.
        """
        total = self._order.steps * self._recipe.epochs
        self._resume()
        notes: list[str] = []
        begun, saved = 0.0, time.monotonic()
        remaining = range(self.course.step, total)
        ahead = Ahead(lambda task: self._views.learned(*task), self._order.tasks(remaining), self._jobs, self._lead())
        with closing(iter(ahead)) as images:
            for step in progress(remaining, len(remaining), "Training"):
                if self._patience_is_over():
                    break
                if not self._step(step, [next(images) for _ in self._order.places(step)]):
                    notes.append(self._wrecked(step, total))
                    break
                if not begun:
                    begun, ahead.waited = time.perf_counter(), 0.0
                self.course.step = step + 1
                if (step + 1) % self._order.steps == 0:
                    if not self._end_epoch(progress):
                        notes.append(self._wrecked(step, total))
                        break
                    say(self._losses())
                elif time.monotonic() - saved < _PAUSE:
                    continue
                self._save()
                saved = time.monotonic()
        self.waited = ahead.waited / max(time.perf_counter() - begun, 1e-9) if begun else None
        self._take_best()
        return (*notes, *self._said())

    def _step(self, step: int, batch: Sequence[Ready]) -> bool:
        """False where the loss is no finite number; nothing is changed then."""
        total = max(1.0, self._team.total([sum(one.share for one in batch)])[0])
        with torch.random.fork_rng(devices=self._devices()):
            loss = self._backward(step, batch, total)
        self._team.add_up(self.model.parameters())
        loss, bad = self._team.total([loss, float(not math.isfinite(loss))])
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.clip)
        if bad or not math.isfinite(float(norm)):
            self._optimiser.zero_grad(set_to_none=True)
            return False
        share = rate(step, self._order.steps * self._recipe.epochs, self._recipe.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.learning_rate * group["share"] * share
        self._optimiser.step()
        self.course.running += loss
        return True

    def _backward(self, step: int, batch: Sequence[Ready], total: float) -> float:
        """Gradients of the whole batch; the loss."""

        def begin() -> None:
            self._optimiser.zero_grad(set_to_none=True)
            torch.manual_seed(self._recipe.seed * 1_000_003 + step * self._team.size + self._team.rank)
            learning(self.model, self._start.fresh)

        def work(part: Sequence[Ready]) -> float:
            with self._accelerator.autocast():
                loss = self._task.total(self.model, part) / total
            self._accelerator.backward(loss)
            return float(loss.detach())

        return self._in_parts(batch, begin, work)

    def _in_parts(
        self, batch: Sequence[Ready], begin: Callable[[], Any], work: Callable[[Sequence[Ready]], float]
    ) -> float:
        """The sum of `work` over parts of a batch, begun anew with smaller ones until they fit into memory."""
        while True:
            begin()
            try:
                return sum(work(part) for part in parts_of(batch, self.course.most))
            except RuntimeError as error:
                self._smaller(error)

    def _smaller(self, error: RuntimeError) -> None:
        """Halves the parts. Raises the error where it is another, ModelError where parts are of one image already."""
        short = isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in _SHORT)
        if not short:
            raise error
        if self.course.most == 1:
            raise ModelError(
                "There is not memory enough to train on one image at a time.",
                remedy="Take a smaller model or 'precision: bfloat16', or another device.",
            ) from None
        self.course.most = max(1, min(self.course.most, self._recipe.batch) // 2)
        self._optimiser.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _end_epoch(self, progress: Progress) -> bool:
        """False where the loss over the validation part is no finite number."""
        course = self.course
        learned = course.running / self._order.steps
        course.running = 0.0
        judged = self._validate(progress) if self._found.validation else None
        course.losses.append((learned, judged))
        if judged is None:
            return True
        if judged < course.best:
            course.best, course.best_epoch, course.stale = judged, len(course.losses), 0
            if self._team.rank == 0:
                save_state(self._best, {"model": self.model.state_dict()}, {"start": self._start.digest})
        else:
            course.stale += 1
        return math.isfinite(judged)

    def _losses(self) -> str:
        """Those of the last epoch, in words."""
        course = self.course
        learned, judged = course.losses[-1]
        told = f"Epoch {len(course.losses):,} of {self._recipe.epochs:,}: loss {learned:.4f}"
        if judged is None:
            return told
        best = ", the best so far" if course.stale == 0 else f"; epoch {course.best_epoch:,} had {course.best:.4f}"
        return f"{told}, {judged:.4f} on the validation part{best}"

    def _validate(self, progress: Progress) -> float:
        """The mean loss over the validation part."""

        def work(part: Sequence[Ready]) -> float:
            with torch.no_grad(), self._accelerator.autocast():
                return float(self._task.total(self.model, part))

        mine = self._found.validation[self._team.rank :: self._team.size]
        ahead = Ahead(self._views.plain, mine, self._jobs, self._lead())
        summed = share = 0.0
        for batch in batches(progress(iter(ahead), len(mine), "Validating"), self._recipe.batch):
            summed += self._in_parts(batch, self.model.eval, work)
            share += sum(one.share for one in batch)
        summed, share = self._team.total([summed, share])
        return summed / max(1.0, share)

    def _lead(self) -> int:
        """Images that are made ready ahead of need: two batches, one being taken."""
        return 2 * self._recipe.batch + self._jobs

    def _patience_is_over(self) -> bool:
        return self._recipe.patience is not None and self.course.stale >= self._recipe.patience

    def _devices(self) -> list[Any]:
        return [self._accelerator.device] if self._accelerator.device.type == "cuda" else []

    def _wrecked(self, step: int, total: int) -> str:
        """What to say of a loss that is no finite number. Raises ModelError where nothing was kept."""
        if self.course.best_epoch:
            kept = f"the weights of epoch {self.course.best_epoch:,}"
        elif self._resume():
            kept = f"the weights of step {self.course.step:,}"
        else:
            raise diverged(step)
        return f"The loss was no finite number in step {step + 1:,} of {total:,}: {kept} are kept."

    def _take_best(self) -> None:
        """Those of the best epoch; without a validation part they stay as they are."""
        found = load_state(self._best) if self.course.best_epoch else None
        if found is not None:
            self.model.load_state_dict(found[0]["model"])
        self.model.eval()

    def _said(self) -> Iterator[str]:
        course, recipe = self.course, self._recipe
        if course.most < recipe.batch:
            yield (
                f"Memory was short: images went through at most {course.most:,} at a time. A step still learned from "
                f"{recipe.batch:,}."
            )
        if len(course.losses) < recipe.epochs and self._patience_is_over():
            yield (
                f"Stopped after {len(course.losses):,} of {recipe.epochs:,} epochs: none of the last {course.stale:,} was "
                f"better on the validation part than epoch {course.best_epoch:,}, which is kept."
            )

    def _save(self) -> None:
        if self._team.rank == 0:
            parts = {"model": self.model.state_dict(), "optimiser": optimiser_tensors(self._optimiser)}
            save_state(self._file, parts, asdict(self.course) | {"start": self._start.digest})

    def _resume(self) -> bool:
        """Whether there is a checkpoint of this training to go on from."""
        found = load_state(self._file)
        if found is None or found[1].pop("start", None) != self._start.digest:
            return False
        parts, facts = found
        self.model.load_state_dict(parts["model"])
        restore_optimiser(self._optimiser, parts.get("optimiser", {}))
        self.course = Course(**facts)
        return True
