"""What is shown to a model that is fine-tuned: boxes and masks that move with the image, and what is not asked."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.errors import NotFoundError, SchemaError
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Change, Repository
from datasetops.training.data import choose_parts
from datasetops.training.finetune_data import REST, SILENT, Example, Outlines, examples
from datasetops.training.finetune_images import Ahead, Views, changes, hidden
from datasetops.training.head_data import Picture
from datasetops.training.recipe import Augmentation, FinetuneRecipe, parse_recipe
from datasetops.training.targets import Objects

from .coloured import COLOURS, Make

pytestmark = pytest.mark.slow
NO_BOXES = np.zeros((0, 4), np.float32)


def recipe(task: str, **changes: Any) -> FinetuneRecipe:
    given = {"kind": "finetune", "name": "x", "task": task, "model": "local:x"}
    return FinetuneRecipe.model_validate(given | changes)


def found(repository: Repository, chosen: FinetuneRecipe, name: str = "main") -> Any:
    version = repository.version(name)
    parts = choose_parts(version, "train", chosen)
    return examples(repository, version, parts, chosen, False, lambda items, total, label: iter(items))[0]


def as_it_is(images: Image.Image, return_tensors: str) -> dict[str, Any]:
    """A processor that changes nothing."""
    return {"pixel_values": np.asarray(images).transpose(2, 0, 1)[None]}


def views(repository: Repository, chosen: FinetuneRecipe, rest: int = 3) -> Views:
    assert repository.root is not None
    return Views(chosen, as_it_is, lambda uri: (repository.root / uri).read_bytes(), rest)


EVERYTHING = {"crop": 0.4, "colour": 0.2, "flips": {"horizontal": True, "vertical": True}}


def test_boxes_move_with_what_is_in_them(make: Make) -> None:
    repository = make("box")
    chosen = recipe("box", augmentation=EVERYTHING)
    shown = views(repository, chosen)
    sizes = set()
    for place, example in enumerate(found(repository, chosen).train * 2):
        ready = shown.learned(example, 0, place)
        pixels = ready.inputs["pixel_values"].astype(int)
        sizes.add(pixels.shape)
        for (x, y, width, height), label in zip(ready.target["boxes"], ready.target["class_labels"], strict=True):
            rows, columns = pixels.shape[1:]
            left, right = round((x - width / 2) * columns), round((x + width / 2) * columns)
            top, bottom = round((y - height / 2) * rows), round((y + height / 2) * rows)
            coloured = np.ptp(pixels, axis=0) > 60
            covered = np.zeros_like(coloured)
            covered[top:bottom, left:right] = True
            assert (coloured == covered).mean() > 0.99
            channel = pixels[:, (top + bottom) // 2, (left + right) // 2].argmax()
            assert channel == np.argmax(COLOURS[("red", "green", "blue")[label]])
    assert len(sizes) > 5


def test_masks_move_with_the_image(make: Make) -> None:
    repository = make("mask")
    chosen = recipe("mask", augmentation=EVERYTHING)
    shown = views(repository, chosen)
    for place, example in enumerate(found(repository, chosen).train):
        ready = shown.learned(example, 1, place)
        coloured = np.ptp(ready.inputs["pixel_values"].astype(int), axis=0) > 60
        assert ((ready.target["label"] != 3) == coloured).mean() > 0.99
        assert ready.share == coloured.size


def test_what_is_shown_depends_on_seed_epoch_and_place_alone(make: Make) -> None:
    repository = make("classification")
    chosen = recipe("classification", augmentation=EVERYTHING)
    one, other = views(repository, chosen), views(repository, chosen)
    example = found(repository, chosen).train[0]
    one.learned(example, 0, 7)
    first, again = one.learned(example, 1, 2), other.learned(example, 1, 2)
    assert np.array_equal(first.inputs["pixel_values"], again.inputs["pixel_values"])
    later = other.learned(example, 2, 2)
    assert not np.array_equal(later.inputs["pixel_values"], again.inputs["pixel_values"])


def test_a_box_that_a_crop_cuts_off_is_not_asked_for() -> None:
    change = changes(Augmentation.model_validate({"crop": 0.25, "colour": 0.0}))
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[0, 0, 10, 10], [30, 30, 70, 70]], np.float32)
    kept = []
    for seed in range(30):
        change.set_random_seed(seed)
        labels = change(image=image, bboxes=boxes, labels=np.array([0, 1]))["labels"]
        assert 1 in labels
        kept.append(0 in labels)
    assert 0 < sum(kept) < 30


def test_areas_that_teach_nothing_are_hidden_but_for_what_is_asked_for() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    ignored, box = np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 5, 8, 8]], np.float32)
    result = hidden(image, Objects(box, np.zeros(1, np.int64), np.ones(1, np.float32), ignored))
    assert (result[0, 0] == 100).all()
    assert (result[6, 6] == 0).all()
    assert (result[15, 5] == 0).all()


def test_smaller_outlines_lie_on_top_and_turn_with_the_picture() -> None:
    ring = json.dumps({"polygons": [[0, 0, 4, 0, 4, 2, 0, 2]]})
    inner = json.dumps({"polygons": [[0, 0, 1, 0, 1, 2, 0, 2]]})
    outlines = Outlines(ImageSize(4, 3, 6), (1, SILENT), (0.5, 1.0), (ring, inner))  # shown turned to the right
    labels, weights = outlines.painted(7)
    assert labels.tolist() == [[7, SILENT, SILENT], *[[7, 1, 1]] * 3]
    assert weights[1].tolist() == [1.0, 0.5, 0.5]


def test_pixels_without_a_label_are_background_or_not_asked(make: Make) -> None:
    repository = make("mask")
    background = found(repository, recipe("mask", class_weights="balanced"))
    assert background.names == (*background.classes, REST)
    assert background.weights[3] < 1 < background.weights[0]
    ignored = found(repository, recipe("mask", unlabeled="ignore"))
    assert ignored.names == ignored.classes == ("red", "green", "blue")
    ready = views(repository, recipe("mask", unlabeled="ignore"), SILENT).plain(ignored.train[0])
    assert ready.share == (ready.target["label"] == 0).sum() < 64 * 64


def test_rare_classes_are_looked_at_as_often(make: Make) -> None:
    repository = make("box", count=27)
    repository.commit(Change(remove_samples=["s00", "s03", "s09"]), message="fewer red ones")
    train = found(repository, recipe("box")).train
    by_class = {}
    for example in train:
        by_class.setdefault(int(example.picture.objects.labels[0]), []).append(example.rarity)
    assert {len(own) for own in by_class.values()} == {3, 6}
    assert len({round(sum(own), 6) for own in by_class.values()}) == 1


def test_an_image_that_has_gone_is_named(make: Make) -> None:
    picture = Picture(
        "s", "gone.png", "0" * 64, (4, 4), Objects(NO_BOXES, np.zeros(0, np.int64), np.zeros(0, np.float32), NO_BOXES)
    )
    shown = Views(recipe("classification"), as_it_is, lambda uri: b"no image", 0)
    with pytest.raises(NotFoundError, match=r"gone\.png cannot be used"):
        shown.plain(Example(picture, 0))


def test_threads_are_ahead_but_not_too_far() -> None:
    begun, lock = [], threading.Lock()

    def make(number: int) -> int:
        with lock:
            begun.append(number)
        return number * 2

    ahead = iter(Ahead(make, range(100), jobs=3, most=10))
    assert [next(ahead) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(begun) <= 14
    assert list(ahead) == [2 * number for number in range(5, 100)]


def test_the_recipe_in_the_guide_can_be_read() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert parse_recipe(text.encode(), "docs/training.md").name == "cells"


@pytest.mark.parametrize("more", ["class_weights: balanced", "noise: {findings: down-weight}"])
def test_what_detectors_cannot_weigh_is_refused(more: str) -> None:
    with pytest.raises(SchemaError, match="detectors of transformers cannot weigh"):
        parse_recipe(f"kind: finetune\nname: x\ntask: box\nmodel: local:x\n{more}\n".encode(), "my.yaml")
