"""The detector's head: what its loss asks for, and training that goes on after a kill and stops before a wreck."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from datasetops.errors import ModelError, NotFoundError
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Request
from datasetops.progress import Progress, no_progress
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema
from datasetops.training import head as trainer
from datasetops.training.head_net import Head, losses
from datasetops.training.maps import CHANNELS
from datasetops.training.predictor import open_model
from datasetops.training.recipe import HeadRecipe
from datasetops.training.record import ModelRecord
from datasetops.training.state import Say, silent
from datasetops.training.targets import Objects, assign, cell_middles
from datasetops.training.train import reproduce, train

SIDE = 128
COLOURS = {"disc": (230, 40, 40), "square": (40, 60, 230)}


def recipe(**changes: Any) -> HeadRecipe:
    given = {
        "kind": "head",
        "name": "small",
        "side": SIDE,
        "width": 16,
        "epochs": 30,
        "batch": 4,
        "learning_rate": 5e-3,
    }
    return HeadRecipe.model_validate(given | changes)


def picture(number: int, path: Path) -> list[tuple[str, float, float, float, float]]:
    """A grey image with a red disc on the left and a blue square on the right."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    found = []
    for name, left in (("disc", 8), ("square", 72)):
        side = int(rng.integers(28, 44))
        x, y = int(left + rng.integers(0, 8)), int(rng.integers(8, 70))
        shape = draw.ellipse if name == "disc" else draw.rectangle
        shape((x, y, x + side, y + side), fill=COLOURS[name])
        found.append((name, x, y, x + side + 1, y + side + 1))
    image.save(path)
    return found


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("DSOPS_JOBS", "1")
    schema = {
        "name": "shapes",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}],
    }
    root = tmp_path / "repository"
    repository = Repository.init(root, LabelSchema.model_validate(schema))
    samples, annotations = [], []
    for number in range(16):
        file = root / f"{number}.png"
        boxes = picture(number, file)
        facts = {"sha256": sha256_hex(file.read_bytes()), "width": SIDE, "height": SIDE, "media_type": "image/png"}
        samples.append(
            {"sample_id": f"s{number:02}", "uri": file.name, "split": "val" if number > 11 else "train", **facts}
        )
        for label, *corners in boxes:
            row = {
                "annotation_id": f"s{number:02}/{label}",
                "sample_id": f"s{number:02}",
                "kind": "box",
                "label": label,
            }
            annotations.append({**row, **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)), "source": "human"})
    repository.commit(Change(samples=samples, annotations=annotations), message="shapes")
    return repository


def fit(repository: Repository, chosen: HeadRecipe, progress: Progress = no_progress, say: Say = silent) -> ModelRecord:
    return train(repository, repository.version(), chosen, experiment=True, progress=progress, say=say)


def interrupted(after: int) -> Callable[[Iterable[Any], int, str], Iterator[Any]]:
    """Progress that ends the training as a kill would, between two steps."""

    def progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if label == "Training" and number == after:
                raise KeyboardInterrupt
            yield item

    return progress


def test_the_loss_is_least_where_the_boxes_are() -> None:
    middles, strides = cell_middles([(16, 16), (8, 8), (4, 4)], (8, 16, 32))
    box = np.array([[30, 40, 78, 80]], np.float32)
    aim = assign(Objects(box, np.array([1]), np.ones(1, np.float32), np.zeros((0, 4), np.float32)), middles, strides)
    given = [
        torch.from_numpy(np.asarray(value)) for value in (middles, aim.cell, aim.label, aim.box, aim.weight, aim.silent)
    ]

    def loss(right: bool, shift: float) -> float:
        logits = torch.full((len(middles), 3), -9.0)
        if right:
            logits[given[1], given[2]] = 9.0
        sides = torch.ones(len(middles), 3, 4)
        x1, y1, x2, y2 = box[0] + shift
        sides[:, :] = torch.stack(
            [given[0][:, 0] - x1, given[0][:, 1] - y1, x2 - given[0][:, 0], y2 - given[0][:, 1]], 1
        )[:, None]
        return float(losses(logits, sides, *given))

    best = loss(right=True, shift=0)
    assert best == pytest.approx(0, abs=1e-3)
    assert loss(right=True, shift=5) > best + 0.1
    assert loss(right=False, shift=0) > best + 0.5


def test_the_head_is_small_and_first_sure_of_nothing() -> None:
    torch.manual_seed(0)
    head = Head(3, 64)
    assert sum(value.numel() for value in head.parameters()) < 130_000
    levels = [torch.randn(1, channels, 32 // by, 32 // by) for channels, by in zip(CHANNELS, (1, 2, 4), strict=True)]
    with torch.inference_mode():
        logits, sides = head(levels)
    assert logits.shape == (1, 32 * 32 + 16 * 16 + 8 * 8, 3)
    assert sides.shape == (*logits.shape, 4)
    assert float(logits.sigmoid().max()) < 0.2
    assert float(sides.min()) > 0


@pytest.mark.slow
def test_a_head_learns_and_predicts_by_its_name(shapes: Repository, tmp_path: Path) -> None:
    record = fit(shapes, recipe())
    assert record.task == "box"
    assert record.samples == {"train": 12, "validation": 4}
    assert record.metrics["AP50"] > 0.9
    model = open_model("m1", tmp_path / "cache", Request(repository=str(shapes.root)))
    images = [Image.open(tmp_path / "repository" / f"{number}.png").convert("RGB") for number in (12, 13)]
    together = model.predict([model.prepare(image) for image in images])
    assert together[1] == model.predict([model.prepare(images[1])])[0]
    assert {one.name for one in together[0][:2]} == {"disc", "square"}
    wide = images[0].resize((256, 64))
    assert all(
        one.box is not None and one.box[2] <= 256 and one.box[3] <= 64
        for one in model.predict([model.prepare(wide)])[0]
    )
    again = reproduce(shapes, record)
    assert (again.agrees, again.same_weights) == (True, True)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_end(shapes: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_SAVED", 2)
    chosen = recipe(epochs=4)
    whole = fit(shapes, chosen)
    with pytest.raises(KeyboardInterrupt):
        fit(shapes, chosen, interrupted(after=7))
    steps: list[int] = []

    def counted(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        if label == "Training":
            steps.append(total)
        return iter(items)

    told: list[str] = []
    resumed = fit(shapes, chosen, counted, told.append)
    assert steps == [12 - 6]
    assert [line.partition(":")[0] for line in told] == ["Epoch 3 of 4", "Epoch 4 of 4"]
    assert resumed.files["weights"] == whole.files["weights"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(
    shapes: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVED", 4)
    real, calls = trainer.losses, [0]

    def wrecked(*given: Any) -> Any:
        calls[0] += 1
        return real(*given) * (math.nan if calls[0] > 30 else 1)

    monkeypatch.setattr(trainer, "losses", wrecked)
    record = fit(shapes, recipe(epochs=4))
    assert any("no finite number in step 8 of 12: the weights of step 4 are kept" in note for note in record.notes)
    assert math.isfinite(record.metrics["AP50"])
    calls[0] = 100
    with pytest.raises(ModelError, match="diverged"):
        fit(shapes, recipe(epochs=5))


@pytest.mark.slow
def test_a_missing_image_is_named(shapes: Repository) -> None:
    assert shapes.root is not None
    (shapes.root / "3.png").write_bytes(b"no image")
    with pytest.raises(NotFoundError, match=r"3\.png"):
        fit(shapes, recipe(epochs=1))
