"""The verb on images with several classes, and on texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import NAMES, add_image, picture
from PIL import Image

from datasetops.engine.local import LocalEngine
from datasetops.evaluation.evaluate import evaluate
from datasetops.evaluation.record import Evaluation
from datasetops.evaluation.report import write_report
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.labelers import EngineLabeler
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

pytestmark = pytest.mark.slow
WORDS = ("one", "two", "three")


def schema(**task: Any) -> LabelSchema:
    classes = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    return LabelSchema.model_validate({"name": "several", "version": 1, "tasks": [task], "classes": classes})


class Answering:
    """Says of each image what a function of its pixels says."""

    name, revision, vocabulary, digest = "answering", None, NAMES, "d" * 64

    def __init__(self, kind: str, answer: Any) -> None:
        self.kinds, self._answer = (kind,), answer

    def prepare(self, image: Image.Image) -> np.ndarray[Any, Any]:
        return np.asarray(image, dtype=np.float64)

    def predict(self, prepared: Sequence[np.ndarray[Any, Any]]) -> list[list[Prediction]]:
        return [self._answer(pixels) for pixels in prepared]


def run(repository: Repository, predictor: Answering) -> Evaluation:
    media = Media(repository.store, repository.root)
    labeler = EngineLabeler(predictor, LocalEngine(jobs=1), media.read)
    return evaluate(repository, repository.version(), labeler, split=None, resamples=100)


def colours_there(pixels: np.ndarray[Any, Any]) -> list[Prediction]:
    shares = {name: 0.9 if (pixels[..., channel] > 200).any() else 0.1 for channel, name in enumerate(NAMES)}
    return [Prediction("classification", name, score, scores=shares) for name, score in shares.items() if score > 0.5]


def test_several_classes_an_image(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "set", schema(kind="classification", multi=True))
    samples, rows = [], []
    for number in range(30):
        image = picture(40, 30, (2, 2, 12, 12), number % 3)
        image.paste(picture(40, 30, (20, 2, 30, 12), (number // 3) % 3).crop((20, 0, 40, 30)), (20, 0))
        sample = add_image(tmp_path / "set", f"s{number:02}", image)
        name = sample["sample_id"]
        there = {NAMES[number % 3], NAMES[(number // 3) % 3]}
        if name == "s05":
            there = {"red", "green", "blue"}  # of which one is not in the image
        samples.append(sample)
        rows += [
            {"annotation_id": f"{name}{label}", "sample_id": name, "kind": "classification", "label": label}
            | {"source": "human"}
            for label in sorted(there)
        ]
    repository.commit(Change(samples=samples, annotations=rows), message="several")
    found = run(repository, Answering("classification", colours_there))
    assert found.info["items"] == {"chosen": 30, "judged": 30, "errors": 1}
    assert found.metrics["accuracy"] == pytest.approx(29 / 30)
    assert found.failures[["sample_id", "error"]].values.tolist() == [["s05", "missed"]]
    classes = {item["name"]: item for item in found.info["details"]["classes"]}
    assert sorted(item["recall"] for item in classes.values())[1:] == [1.0, 1.0]
    write_report(repository, repository.version(), found, tmp_path / "r.html")
    assert "Classes, worst first" in (tmp_path / "r.html").read_text()


def test_texts(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "set", schema(kind="text"))
    samples, rows = [], []
    for number in range(12):
        sample = add_image(tmp_path / "set", f"s{number:02}", picture(40, 30, (2, 2, 12 + number, 12), 0))
        name = sample["sample_id"]
        samples.append(sample)
        # The second word of the first line stands a pixel higher than the first one.
        for word, text, box in ((0, "one", (1, 3, 9, 9)), (1, "two", (12, 2, 20, 8)), (2, "three", (1, 15, 20, 21))):
            corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
            own = {"annotation_id": f"{name}{word}", "sample_id": name, "kind": "text", "source": "human"}
            rows.append(own | {"text": text} | corners)
    repository.commit(Change(samples=samples, annotations=rows), message="texts")

    def read(pixels: np.ndarray[Any, Any]) -> list[Prediction]:
        wide = int((pixels[..., 0] > 200).any(axis=0).sum())
        last = "tree" if wide == 13 else "three"  # of s03
        whole = Prediction("text", None, 0.9, (1.0, 2.0, 20.0, 9.0), text="one two")
        return [whole, Prediction("text", None, 0.8, (1.0, 15.0, 20.0, 21.0), text=last)]

    found = run(repository, Answering("text", read))
    assert found.metrics["exact"] == pytest.approx(11 / 12)
    assert found.metrics["cer"] == pytest.approx(1 / (12 * len("one two three")))
    assert found.metrics["wer"] == pytest.approx(1 / 36)
    assert found.failures[["sample_id", "truth", "predicted", "note"]].values.tolist() == [
        ["s03", "one two three", "one two tree", "1 edit"]
    ]
