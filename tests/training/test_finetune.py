"""Fine-tuning real checkpoints of transformers, small ones: what they learn, and what becomes of a training that fails."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load
from tiny_checkpoints import save_family

from datasetops.errors import ModelError, NotFoundError
from datasetops.manifest import Repository
from datasetops.models.predictor import Request
from datasetops.training.finetune_model import Task
from datasetops.training.predictor import open_model
from datasetops.training.record import DESCRIPTION, WEIGHTS, ModelRecord, model_file
from datasetops.training.train import reproduce, train

from .coloured import Make, fit, recipe

pytestmark = pytest.mark.slow


def answers(repository: Repository, record: ModelRecord, numbers: list[int], **options: Any) -> list[Any]:
    assert repository.root is not None
    model = open_model(
        record.name, repository.root / "opened", Request(repository=str(repository.root), options=options)
    )
    assert model.vocabulary == record.classes
    return model.predict(
        [model.prepare(Image.open(repository.root / f"{number:02}.png").convert("RGB")) for number in numbers]
    )


def test_classes_are_learned_and_the_same_comes_out_again(make: Make, tmp_path: Path) -> None:
    repository = make("classification")
    record = fit(repository, recipe("classification", "vit", tmp_path))
    assert record.metrics["accuracy"] == 1.0
    assert record.classes == ("red", "green", "blue")
    found = answers(repository, record, [0, 1, 2])
    assert [own[0].name for own in found] == ["red", "green", "blue"]
    assert set(found[0][0].scores) == {"red", "green", "blue"}
    again = reproduce(repository, record)
    assert (again.agrees, again.same_weights, again.changed) == (True, True, ())


def test_several_classes_may_hold(make: Make, tmp_path: Path) -> None:
    repository = make("classification", multi=True)
    record = fit(repository, recipe("classification", "convnext", tmp_path, epochs=2))
    assert record.metric == "mean_average_precision"
    found = answers(repository, record, [0], min_score=0.0)[0]
    assert sum(item.score for item in found) != pytest.approx(1)
    assert len(found) == 3


def test_boxes_are_learned(make: Make, tmp_path: Path) -> None:
    repository = make("box")
    record = fit(repository, recipe("box", "detr", tmp_path, epochs=25, batch=4, patience=None))
    assert record.metrics["AP50"] > 0.4
    best = answers(repository, record, [0])[0][0]
    assert 0 <= best.box[0] < best.box[2] <= 64


@pytest.mark.parametrize("family", ["rt-detr", "rt-detr-v2", "d-fine"])
def test_detectors_that_learn_from_noised_boxes(make: Make, tmp_path: Path, family: str) -> None:
    repository = make("box")
    record = fit(repository, recipe("box", family, tmp_path, epochs=2, batch=4, sampling="balanced"))
    first, last = epochs_of(repository, record)
    assert last[0] < first[0]
    assert answers(repository, record, [0])[0]


def test_masks_are_learned(make: Make, tmp_path: Path) -> None:
    repository = make("mask")
    record = fit(repository, recipe("mask", "segformer", tmp_path, epochs=30, batch=4, patience=None))
    assert record.metrics["mean_iou"] > 0.5
    found = answers(repository, record, [0])[0]
    assert {item.name for item in found} <= set(record.classes)
    whole = found[0]
    assert whole.geometry is not None
    assert whole.geometry["rle"]["size"] == [64, 64]


def epochs_of(repository: Repository, record: ModelRecord) -> list[Any]:
    return list(json.loads(model_file(repository, record, DESCRIPTION))["epochs"])


def test_a_killed_training_goes_on_to_the_same_end(make: Make, tmp_path: Path) -> None:
    repository = make("classification")
    chosen = recipe("classification", "vit", tmp_path, epochs=4, batch=4, augmentation={"crop": 0.5})
    config = tmp_path / "vit" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_dropout_prob": 0.1}))
    whole = fit(repository, chosen)
    code = f"""
from datasetops.manifest import Repository
from datasetops.training import finetune_run as runs
from datasetops.training.recipe import parse_recipe
from datasetops.training.train import train

def told(items, total, label):
    for number, item in enumerate(items):
        print(label, number, flush=True)
        yield item

runs._PAUSE = 0
repository = Repository.open({str(repository.root)!r})
recipe = parse_recipe({chosen.canonical_bytes()!r}, "recipe")
train(repository, repository.version(), recipe, experiment=True, device="cpu", progress=told)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "Training 4\n":  # the second step of the second epoch
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    steps: list[int] = []

    def counted(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        if label == "Training":
            steps.append(total)
        return iter(items)

    told: list[str] = []
    version = repository.version()
    resumed = train(repository, version, chosen, experiment=True, device="cpu", progress=counted, say=told.append)
    learned, judged = epochs_of(repository, resumed)[-1]
    assert told[-1].startswith(f"Epoch 4 of 4: loss {learned:.4f}, {judged:.4f} on the validation part")
    assert steps[0] in (8, 7)  # the fifth step may have ended before the kill came
    assert resumed.files["weights"] == whole.files["weights"]
    assert resumed.metrics == whole.metrics


def test_where_memory_is_short_smaller_parts_teach_the_same(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make("classification")
    chosen = recipe("classification", "vit", tmp_path, epochs=1, learning_rate=1e-3)
    whole = fit(repository, chosen)
    fits = [3]
    real = transformers.ViTForImageClassification.forward

    def narrow(self: Any, pixel_values: Any, **more: Any) -> Any:
        if len(pixel_values) > fits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, pixel_values, **more)

    monkeypatch.setattr(transformers.ViTForImageClassification, "forward", narrow)
    fits[0] = 4
    record = fit(repository, chosen)
    assert any("at most 4 at a time. A step still learned from 8" in note for note in record.notes)
    one, other = (load(model_file(repository, item, WEIGHTS)) for item in (whole, record))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    fits[0] = 0
    with pytest.raises(ModelError, match="one image at a time"):
        fit(repository, chosen)


def test_a_loss_that_is_no_number_stops_and_keeps_the_best_epoch(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make("classification")
    real, bad = Task.total, [False]

    def wrecked(self: Any, model: Any, batch: Any) -> Any:
        return real(self, model, batch) * (math.nan if bad[0] and model.training else 1)

    def until(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            bad[0] = bad[0] or (label == "Training" and number == 3)
            yield item

    monkeypatch.setattr(Task, "total", wrecked)
    chosen = recipe("classification", "vit", tmp_path)
    record = train(repository, repository.version(), chosen, experiment=True, device="cpu", progress=until)
    assert "The loss was no finite number in step 4 of 12: the weights of epoch 1 are kept." in record.notes
    assert record.metrics["accuracy"] > 0
    with pytest.raises(ModelError, match="diverged"):
        fit(repository, chosen)


def test_training_stops_when_it_gets_no_better_and_keeps_the_best_epoch(make: Make, tmp_path: Path) -> None:
    repository = make("classification")
    record = fit(repository, recipe("classification", "vit", tmp_path, epochs=9, patience=1, learning_rate=0.5))
    told = json.loads(model_file(repository, record, DESCRIPTION))
    losses = [judged for _, judged in told["epochs"]]
    assert len(losses) < 9
    assert told["best_epoch"] == losses.index(min(losses)) + 1 == len(losses) - 1
    assert any(f"Stopped after {len(losses)} of 9 epochs" in note for note in record.notes)


@pytest.mark.parametrize(("task", "family"), [("classification", "vit"), ("box", "rt-detr-v2"), ("mask", "segformer")])
def test_half_the_precision_trains_too(make: Make, tmp_path: Path, task: str, family: str) -> None:
    repository = make(task)
    record = fit(repository, recipe(task, family, tmp_path, epochs=1, precision="bfloat16"))
    assert record.environment["precision"] == "bfloat16"
    assert {value.dtype for value in load(model_file(repository, record, WEIGHTS)).values()} <= {
        torch.float32,
        torch.int64,
    }


def test_an_image_that_cannot_be_read_is_named_and_may_be_left_out(make: Make, tmp_path: Path) -> None:
    repository = make("mask")
    assert repository.root is not None
    (repository.root / "04.png").write_bytes(b"no image")
    chosen = recipe("mask", "segformer", tmp_path, epochs=1)
    with pytest.raises(NotFoundError, match=r"04\.png"):
        fit(repository, chosen)
    record = fit(repository, chosen, skip_unreadable=True)
    assert record.samples == {"train": 11, "validation": 6}
    assert any("04.png" in note for note in record.notes)


def _nothing_yet(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    raise RuntimeError(f"{label} {total} came before")


def test_what_cannot_be_tuned_is_said(make: Make, tmp_path: Path) -> None:
    repository = make("classification")
    good = recipe("classification", "vit", tmp_path)
    for model, words in {
        f"local:{tmp_path / 'nowhere'}": "holds no saved model",
        "builtin:efficientnet-lite0": "nothing that can be fine-tuned",
    }.items():
        with pytest.raises(ModelError, match=words):
            fit(repository, good.model_copy(update={"model": model}), progress=_nothing_yet)
    with pytest.raises(ModelError, match="which the schema 'squares' does not ask for"):
        fit(repository, good.model_copy(update={"task": "mask"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        fit(repository, good.model_copy(update={"model": f"local:{save_family('sam', tmp_path / 'sam')}"}))
    (tmp_path / "vit" / "model.safetensors").rename(tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        fit(repository, good)
