"""A repository of handwritten digits, and an embedder that is an exact function of pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import write_digits
from PIL import Image

from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema

from .coloured import Make, squares

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # tiny_checkpoints

CLASSES = 4
PER_CLASS = 30
MakeDigits = Callable[..., Repository]


class Pixels:
    """Brightness of the 64 places of a scan."""

    digest = "a" * 64
    dim = 64
    side = 8

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        return np.asarray(image.convert("L").resize((8, 8)))

    def embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return batch.reshape(len(batch), -1).astype(np.float32) / 16


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeds without a network wherever a probe is trained or opened."""
    for place in ("probe", "predictor"):
        monkeypatch.setattr(f"datasetops.training.{place}.open_embedder", lambda *_, **__: Pixels())


@pytest.fixture
def make_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDigits:
    """`make_digits(split=…, label=…, multi=…)` with functions of the number of a scan; the newest version is v1."""
    monkeypatch.setenv("DSOPS_JOBS", "1")

    def make(
        split: Callable[[int], str | None] = lambda number: None,
        label: Callable[[int, int], list[int]] = lambda number, digit: [digit],
        *,
        multi: bool = False,
        classes: int = CLASSES,
    ) -> Repository:
        schema = {
            "name": "digits",
            "version": 1,
            "tasks": [{"kind": "classification", "multi": multi}],
            "classes": [{"id": number, "name": str(number)} for number in range(classes)],
        }
        root = tmp_path / "repository"
        repository = Repository.init(root, LabelSchema.model_validate(schema))
        samples, annotations = [], []
        for number, file in enumerate(write_digits(root / "images", PER_CLASS, classes=CLASSES)):
            sample = f"s{number:03}"
            samples.append(
                {
                    "sample_id": sample,
                    "uri": file.relative_to(root).as_posix(),
                    "sha256": sha256_hex(file.read_bytes()),
                    "width": 8,
                    "height": 8,
                    "media_type": "image/png",
                    "split": split(number),
                }
            )
            for code in label(number, int(file.parent.name)):
                row = {"annotation_id": f"{sample}/{code}", "sample_id": sample, "kind": "classification"}
                annotations.append({**row, "label": str(code), "source": "human", "actor": "ann"})
        repository.commit(Change(samples=samples, annotations=annotations), message="digits")
        return repository

    return make


def accept(repository: Repository, name: str = "main") -> None:
    """As the gate does when a version passes."""
    version = repository.version(name)
    repository.ledger.record(Event("accept", "ann", inputs={"version": version.name, "commit": version.digest}))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make("box")` and the like: see `squares`."""
    monkeypatch.setenv("DSOPS_JOBS", "1")
    monkeypatch.setenv("DSOPS_CACHE", str(tmp_path / "cache"))
    return lambda kind, **more: squares(tmp_path / "repository", kind, **more)
