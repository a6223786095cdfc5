"""Images as a model of transformers takes them: decoded in threads ahead of need, and changed at random for learning."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import MissingDependencyError, NotFoundError
from datasetops.images import ImageError, decode_rgb
from datasetops.training.finetune_data import SILENT, Example
from datasetops.training.recipe import Augmentation, FinetuneRecipe
from datasetops.training.targets import Objects

_LEAST_LEFT: Final = 0.3  # share of a box that a crop must leave, else the box is not asked for
_Task = TypeVar("_Task")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Ready:
    """An image as the model takes it, with its target as arrays by name, and how much of a batch's loss is its own.

    `share`: images (classification), boxes, or pixels that are asked.
    """

    inputs: dict[str, npt.NDArray[Any]]
    target: dict[str, npt.NDArray[Any]]
    share: float


class Views:
    """Makes examples ready. `rest` is the class of pixels without a label; methods may be called from several threads."""

    def __init__(self, recipe: FinetuneRecipe, processor: Any, read: Callable[[str], bytes], rest: int) -> None:
        self._recipe, self._processor, self._read, self._rest = recipe, processor, read, rest
        self._own = threading.local()
        require_albumentations()

    def learned(self, example: Example, epoch: int, place: int) -> Ready:
        """A random variant: a function of the recipe's seed, the epoch and the place in it alone."""
        if not hasattr(self._own, "changes"):
            self._own.changes = changes(self._recipe.augmentation)
        state = np.random.SeedSequence([self._recipe.seed, epoch, place]).generate_state(1)
        self._own.changes.set_random_seed(int(state[0]))
        return self._ready(example, self._own.changes)

    def plain(self, example: Example) -> Ready:
        return self._ready(example, None)

    def _ready(self, example: Example, change: Any) -> Ready:
        picture = example.picture
        try:
            image = np.asarray(decode_rgb(self._read(picture.uri)))
            boxes, labels, maps = picture.objects.boxes, picture.objects.labels, []
            if self._recipe.task == "mask":
                maps = [one.astype(np.float32) for one in example.target.painted(self._rest)]
            if change is not None:
                image = hidden(image, picture.objects)
                shown = {"masks": maps} if maps else {}
                changed = change(image=image, bboxes=boxes, labels=labels, **shown)
                image, maps = changed["image"], changed.get("masks", [])
                boxes, labels = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4), np.asarray(changed["labels"])
            found = self._processor(images=Image.fromarray(image), return_tensors="np")
        except (ImageError, ValueError, ZeroDivisionError) as error:
            raise NotFoundError(
                f"{picture.uri} cannot be used: {error}.",
                remedy="Put it back as it was, or take it out of the version.",
            ) from error
        inputs = {key: np.asarray(found[key])[0] for key in ("pixel_values", "pixel_mask") if key in found}
        if self._recipe.task == "box":
            return Ready(inputs, _boxes(boxes, labels, image.shape), float(len(labels)))
        if self._recipe.task == "mask":
            label, weight = (_sampled(one, inputs["pixel_values"].shape[-2:]) for one in maps)
            target = {"label": label.astype(np.int64), "weight": weight}
            return Ready(inputs, target, float((target["label"] != SILENT).sum()))
        target = {"label": np.asarray(example.target), "weight": np.asarray(example.weight, np.float32)}
        return Ready(inputs, target, 1.0)


class Ahead:
    """`make` of each task in order, in `jobs` threads that are up to `most` tasks ahead. `waited`: seconds without one."""

    def __init__(self, make: Callable[[_Task], _Made], tasks: Iterable[_Task], jobs: int, most: int) -> None:
        self._make: Callable[[Any], Any] = make
        self._tasks, self._jobs, self._most = iter(tasks), jobs, most
        self.waited = 0.0

    def __iter__(self) -> Generator[Any]:
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                for task in self._tasks:
                    waiting.append(pool.submit(self._make, task))
                    if len(waiting) >= self._most:
                        yield self._next(waiting)
                while waiting:
                    yield self._next(waiting)
            finally:
                for future in waiting:
                    future.cancel()

    def _next(self, waiting: deque[Future[Any]]) -> Any:
        begun = time.perf_counter()
        made = waiting.popleft().result()
        self.waited += time.perf_counter() - begun
        return made


def parts_of(batch: Sequence[Ready], most: int) -> Iterator[list[Ready]]:
    """Images of one shape, at most so many together; none is ever padded."""
    alike: dict[Any, list[Ready]] = {}
    for one in batch:
        alike.setdefault(tuple(value.shape for value in one.inputs.values()), []).append(one)
    for own in alike.values():
        yield from batches(own, most)


def batches(items: Any, size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def require_albumentations() -> Any:
    """The module. Raises MissingDependencyError where it is not installed."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest release
    try:
        import albumentations
    except ImportError:
        raise MissingDependencyError("albumentations", extra="train", purpose="Fine-tuning") from None
    return albumentations


def changes(how: Augmentation) -> Any:
    """Random changes of an image with its boxes and masks, in one order; nothing is changed by albumentations' defaults."""
    library = require_albumentations()
    steps = []
    if how.crop < 1:
        most = (1 - np.sqrt(how.crop)) / 2  # off each edge, so that the least that may be left is left
        cut = {f"crop_{side}": float(most) for side in ("left", "right", "top", "bottom")}
        steps.append(library.RandomCropFromBorders(**cut, p=1))
    if how.flips.horizontal:
        steps.append(library.HorizontalFlip(p=0.5))
    if how.flips.vertical:
        steps.append(library.VerticalFlip(p=0.5))
    if how.colour:
        reach = (1 - how.colour, 1 + how.colour)
        steps.append(library.ColorJitter(brightness=reach, contrast=reach, saturation=reach, hue=(0, 0), p=1))
    boxes = library.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=_LEAST_LEFT, clip=True)
    return library.Compose(steps, bbox_params=boxes)


def hidden(image: npt.NDArray[np.uint8], objects: Objects) -> npt.NDArray[np.uint8]:
    """The image with its mean colour over areas that teach nothing: left as they are they would teach background."""
    if not len(objects.ignored):
        return image
    covered = np.zeros(image.shape[:2], bool)
    for value, areas in ((True, objects.ignored), (False, objects.boxes)):
        for x1, y1, x2, y2 in np.clip(np.round(areas), 0, None).astype(np.int64).tolist():
            covered[y1:y2, x1:x2] = value
    result = image.copy()
    result[covered] = image.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    return result


def _boxes(boxes: npt.NDArray[Any], labels: npt.NDArray[Any], shape: tuple[int, ...]) -> dict[str, npt.NDArray[Any]]:
    """As detectors of transformers are taught: middle and size, as shares of the image."""
    sides = np.array([shape[1], shape[0]], np.float32)
    low, high = boxes[:, :2] / sides, boxes[:, 2:] / sides
    placed = np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)
    return {"boxes": placed, "class_labels": labels.astype(np.int64)}


def _sampled(values: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """A map (h, w) at another size: for each place the value nearest to its middle."""
    rows, columns = (
        ((np.arange(count) + 0.5) * have / count).astype(np.int64)
        for count, have in zip(shape, values.shape, strict=True)
    )
    return values[rows[:, None], columns]
