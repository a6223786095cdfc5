"""What a model of transformers is fine-tuned on: images with classes or boxes, and random changes that keep both right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from datasetops.errors import ModelError, NotFoundError
from datasetops.labeling.orientation import shown_size
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress
from datasetops.training.data import Parts, class_names, refuse_unlearnable, refuse_unreadable
from datasetops.training.head_data import Picture, gather, look_at
from datasetops.training.probe import class_counts, labeled, row_weights
from datasetops.training.recipe import Augmentation, FinetuneRecipe
from datasetops.training.targets import Floats, Objects

_LEAST_LEFT: Final = 0.3  # share of a box that a crop must leave, else the box is not asked for
_NOTHING: Final = Objects(
    *(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)), np.zeros((0, 4), np.float32)
)


@dataclass(frozen=True)
class Example:
    """An image; `target` is its class's number, a row of flags where several hold, or None where boxes are learned."""

    picture: Picture
    target: Any = None
    weight: float = 1.0


@dataclass(frozen=True)
class Examples:
    names: tuple[str, ...]
    several: bool
    train: list[Example]
    validation: list[Example]
    notes: tuple[str, ...]


def examples(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    """Raises what `refuse_unlearnable` and `label_weights` raise, and ModelError for what the schema does not ask for."""
    if recipe.task == "box":
        if recipe.class_weights != "none" or recipe.noise.findings == "down-weight":
            raise ModelError(
                "Detectors of transformers cannot weigh boxes or classes.",
                remedy="Write 'class_weights: none' and 'findings: exclude' or 'keep' in the recipe.",
            )
        pictures, kept = gather(repository, version, parts, recipe, None, skip=skip, progress=progress)
        train, validation = ([Example(picture) for picture in part] for part in (pictures.train, pictures.validation))
        return Examples(pictures.names, False, train, validation, pictures.notes), kept
    return _classes(repository, version, parts, recipe, skip, progress)


def _classes(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    if "classification" not in version.schema.kinds:
        raise ModelError(
            f"The recipe gives classes of whole images, which the schema {version.schema.name!r} does not ask for.",
            remedy="Take a recipe with task: box.",
        )
    names = class_names(version, ["classification"])
    train = labeled(repository, version, parts.train, names, recipe)
    counts = class_counts(train.labels[train.weight > 0], len(names))
    there = refuse_unlearnable(version, dict(zip(names, counts.tolist(), strict=True)), recipe, "class label")
    if len(there) < 2 and not version.schema.multi_label:
        raise NotFoundError(
            f"All {int(counts.sum()):,} examples to train on are of one class, {there[0]!r}.",
            remedy="Label images of other classes too: one class cannot be told from nothing.",
        )
    train = labeled(repository, version, parts.train, there, recipe)
    counts = class_counts(train.labels[train.weight > 0], len(there))
    validation = labeled(repository, version, parts.validation, there, recipe)
    own = train.samples[train.weight > 0]
    found, faults = look_at(repository, Parts(own, validation.samples), None, [], progress)
    told = refuse_unreadable(faults, skip)
    seen = {sample: Picture(sample, uri, key, shown_size(size), _NOTHING) for sample, uri, key, size in found}
    weight = train.weight * row_weights(train.labels, counts, recipe)

    def of(samples: pd.DataFrame, labels: Any, weights: Any) -> list[Example]:
        rows = zip(samples["sample_id"], labels, weights, strict=True)
        return [Example(seen[one], label, float(value)) for one, label, value in rows if one in seen and value > 0]

    both = of(train.samples, train.labels, weight), of(validation.samples, validation.labels, validation.weight)
    kept = Parts(own[own["sample_id"].isin(seen)], validation.samples[validation.samples["sample_id"].isin(seen)])
    return Examples(there, version.schema.multi_label, *both, (*parts.notes, *train.notes, *told)), kept


def changed(
    image: Image.Image, objects: Objects, how: Augmentation, rng: np.random.Generator
) -> tuple[Image.Image, Objects]:
    """A random variant of an image with its boxes, both in pixels of the new image."""
    if how.crop < 1:
        image, objects = _cropped(image, objects, how.crop, rng)
    if how.flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
        objects = objects.flipped((True, False), image.width, image.height)
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if how.colour:
            image = kind(image).enhance(float(rng.uniform(1 - how.colour, 1 + how.colour)))
    return image, objects


def _cropped(
    image: Image.Image, objects: Objects, least: float, rng: np.random.Generator
) -> tuple[Image.Image, Objects]:
    """A window of the image's own aspect, of `least` to all of its area."""
    share = float(np.sqrt(rng.uniform(least, 1)))
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    window = image.crop((left, top, left + width, top + height))
    boxes = _within(objects.boxes, left, top, width, height)
    whole, rest = _area(objects.boxes), _area(boxes)
    kept = rest > np.maximum(_LEAST_LEFT * whole, 0)
    return window, replace(
        objects, boxes=boxes[kept], labels=objects.labels[kept], weights=objects.weights[kept],
        ignored=_within(objects.ignored, left, top, width, height),
    )  # fmt: skip


def _within(boxes: Floats, left: int, top: int, width: int, height: int) -> Floats:
    moved = boxes - np.array([left, top, left, top], dtype=np.float32)
    return np.clip(moved, 0, np.array([width, height, width, height], dtype=np.float32))


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def as_coco(objects: Objects) -> list[dict[str, Any]]:
    """Boxes as the image processors of detectors take them."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    rows: Sequence[Any] = np.concatenate([objects.boxes[:, :2], sides], axis=1).tolist()
    return [
        {"bbox": box, "category_id": int(label), "area": box[2] * box[3], "iscrowd": 0}
        for box, label in zip(rows, objects.labels, strict=True)
    ]
