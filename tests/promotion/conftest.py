"""Two small accepted sets with a trained model each: digits with a probe, and shapes with a head."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import write_digits
from PIL import Image, ImageDraw

from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema
from datasetops.training.recipe import parse_recipe
from datasetops.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # tiny_checkpoints
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # coloured
CLASSES = 3
PER_CLASS = 24
SIDE = 128
COLOURS = {"disc": (230, 40, 40), "square": (40, 60, 230)}
PROBE = b"{kind: probe, name: probe, method: logistic}"
HEAD = b"{kind: head, name: small, side: 128, width: 16, epochs: 25, batch: 4, learning_rate: 0.005}"


@pytest.fixture(scope="session", autouse=True)
def _one_job() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSOPS_JOBS", "1")
        yield


@pytest.fixture(scope="session")
def trained_probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1: digits of the splits train, val and test; m1 is a probe on the built-in network."""
    root = tmp_path_factory.mktemp("digits") / "repository"
    schema = {
        "name": "digits",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": number, "name": str(number)} for number in range(CLASSES)],
    }
    repository = Repository.init(root, LabelSchema.model_validate(schema))
    samples, annotations = [], []
    for number, file in enumerate(write_digits(root / "images", PER_CLASS, side=32, classes=CLASSES)):
        name = f"s{number:03}"
        split = ("train", "val", "test")[number % 3]
        samples.append(_sample(name, root, file, 32) | {"split": split})
        row = {
            "annotation_id": f"{name}c",
            "sample_id": name,
            "kind": "classification",
            "label": str(_label(number, int(file.parent.name))),
        }
        annotations.append(row | {"source": "human", "actor": "ann"})
    repository.commit(Change(samples=samples, annotations=annotations), message="digits")
    _accept(repository)
    train(repository, repository.version(), parse_recipe(PROBE, "probe"))
    return root


@pytest.fixture(scope="session")
def trained_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1: pictures with a red disc and a blue square, some of them wider than high; m1 is a head."""
    root = tmp_path_factory.mktemp("shapes") / "repository"
    schema = {
        "name": "shapes",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}],
    }
    repository = Repository.init(root, LabelSchema.model_validate(schema))
    samples, annotations = [], []
    for number in range(16):
        file = root / f"{number}.png"
        name = f"s{number:02}"
        width, boxes = _shapes(number, file)
        split = "train" if number < 10 else ("val", "test")[number % 2]
        samples.append(_sample(name, root, file, SIDE) | {"width": width, "split": split})
        for label, corners in boxes.items():
            row = {"annotation_id": f"{name}/{label}", "sample_id": name, "kind": "box", "label": label}
            annotations.append({**row, **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)), "source": "human"})
    repository.commit(Change(samples=samples, annotations=annotations), message="shapes")
    _accept(repository)
    train(repository, repository.version(), parse_recipe(HEAD, "small"))
    return root


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Repository]:
    """A repository of one's own, from a prepared one."""

    def copy(root: Path) -> Repository:
        shutil.copytree(root, tmp_path / "repository")
        return Repository.open(tmp_path / "repository")

    return copy


def _label(number: int, digit: int) -> int:
    """One in seven is wrong, so that no probability is 0 or 1."""
    return (digit + 1) % CLASSES if number % 7 == 0 else digit


def _sample(name: str, root: Path, file: Path, side: int) -> dict[str, Any]:
    return {
        "sample_id": name,
        "uri": file.relative_to(root).as_posix(),
        "sha256": sha256_hex(file.read_bytes()),
        "width": side,
        "height": side,
        "media_type": "image/png",
    }


def _shapes(number: int, path: Path) -> tuple[int, dict[str, tuple[float, ...]]]:
    rng = np.random.default_rng(number)
    width = SIDE + 64 * (number % 3 == 0)
    image = Image.new("RGB", (width, SIDE), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    found = {}
    for name, left in (("disc", 8), ("square", 72)):
        side = int(rng.integers(28, 44))
        x, y = int(left + rng.integers(0, 8)), int(rng.integers(8, 70))
        (draw.ellipse if name == "disc" else draw.rectangle)((x, y, x + side, y + side), fill=COLOURS[name])
        found[name] = (x, y, x + side + 1, y + side + 1)
    image.save(path)
    return width, found


def _accept(repository: Repository) -> None:
    """As the gate does when a version passes."""
    version = repository.version()
    repository.ledger.record(Event("accept", "ann", inputs={"version": version.name, "commit": version.digest}))
