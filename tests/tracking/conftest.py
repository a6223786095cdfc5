"""A repository with a model and an evaluation to tell trackers of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "preannotate"))  # a predictor that is a function of pixels

from colours import NAMES, SCHEMA, MeanColour, add_image, picture

from datasetops.engine.local import LocalEngine
from datasetops.evaluation.evaluate import evaluate
from datasetops.evaluation.record import Evaluation
from datasetops.manifest import Change, Repository
from datasetops.preannotate.labelers import EngineLabeler
from datasetops.store.media import Media
from datasetops.training.record import ModelRecord, Trained, record_model


@pytest.fixture
def labeled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """v1: 12 images of one colour each, 6 of the split test."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "set"
    repository = Repository.init(root, SCHEMA)
    samples, annotations = [], []
    for number in range(12):
        sample = add_image(root, f"s{number:02}", picture(20, 20, (2, 2, 18, 18), number % 3))
        samples.append(sample | {"split": "test" if number < 6 else "train"})
        row = {"annotation_id": f"a{number}", "sample_id": f"s{number:02}", "kind": "classification"}
        annotations.append(row | {"label": NAMES[number % 3], "source": "human"})
    repository.commit(Change(samples=samples, annotations=annotations), message="labeled")
    return Repository.open(root)


@pytest.fixture
def model(labeled: Repository) -> ModelRecord:
    """m1, of 6 samples; its metrics have a class with an odd name, and it had two epochs."""
    metrics = {
        "accuracy": 0.75,
        "items": 4,
        "unknown": None,
        "classes": {"stop? (new)": {"AP": 0.5}, "../go": {"AP": float("nan")}, "a//b": {"AP": 0.25}},
    }
    description = {"kind": "finetune", "epochs": [[2.0, None], [1.0, 1.5]]}
    trained = Trained("classification", tuple(NAMES), b"weights", description, "accuracy", metrics)
    return record_model(
        labeled,
        labeled.version(),
        trained,
        split="train",
        samples={"train": ["s06", "s07"], "validation": ["s08"]},
        recipe={"name": "probe", "seed": 3, "optimiser": {"rate": 0.1}},
        recipe_digest="d" * 64,
        code={"version": "1"},
        environment={"device": "cpu"},
        seed=3,
    )


@pytest.fixture
def evaluation(labeled: Repository) -> Evaluation:
    asked = EngineLabeler(MeanColour(), LocalEngine(jobs=1), Media(labeled.store, labeled.root).read)
    return evaluate(labeled, labeled.version(), asked, resamples=100)
