"""A predictor that is an exact function of pixels, and small repositories of images for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasetops.engine.local import LocalEngine
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.result import PreannotateResult
from datasetops.preannotate.rows import Thresholds
from datasetops.preannotate.run import preannotate
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema

NAMES = ("red", "green", "blue")
SCHEMA = LabelSchema.model_validate(
    {
        "name": "colours",
        "version": 1,
        "tasks": [{"kind": "classification"}, {"kind": "box"}],
        "classes": [{"id": index, "name": name} for index, name in enumerate(NAMES)],
    }
)


class MeanColour:
    """Class: shares of the mean colour. Boxes: around the pixels where one channel alone is above 200, score by area."""

    name, revision, kinds = "mean-colour", None, ("classification", "box")

    def __init__(self, digest: str = "a" * 64, names: Sequence[str] = NAMES, name: str | None = None) -> None:
        self.digest, self.vocabulary, self.seen = digest, tuple(names), 0
        self.name = name or self.name

    def prepare(self, image: Image.Image) -> np.ndarray[Any, Any]:
        return np.asarray(image, dtype=np.float64)

    def predict(self, prepared: Sequence[np.ndarray[Any, Any]]) -> list[list[Prediction]]:
        self.seen += len(prepared)
        return [self._one(pixels) for pixels in prepared]

    def _one(self, pixels: np.ndarray[Any, Any]) -> list[Prediction]:
        mean = pixels.mean(axis=(0, 1))
        if mean.sum() == 0:
            return [Prediction("classification", self.vocabulary[0], float("nan"))]
        shares = dict(zip(self.vocabulary, (mean / mean.sum()).tolist(), strict=True))
        best = max(shares, key=shares.__getitem__)
        found = [Prediction("classification", best, shares[best], scores=shares)]
        for channel, name in enumerate(self.vocabulary):
            mask = (pixels[..., channel] > 200) & (np.delete(pixels, channel, axis=2).max(axis=2) < 60)
            rows, columns = np.nonzero(mask)
            if len(rows):
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                found.append(Prediction("box", name, float(mask.mean()), tuple(map(float, box))))  # type: ignore[arg-type]
        return found


def picture(width: int, height: int, box: tuple[int, int, int, int], channel: int) -> Image.Image:
    """Grey with a box (x1, y1, x2, y2) of one colour."""
    pixels = np.full((height, width, 3), 30, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2, channel] = 250
    pixels[y1:y2, x1:x2, [other for other in range(3) if other != channel]] = 0
    return Image.fromarray(pixels)


def fill(root: Path, count: int = 12, schema: LabelSchema = SCHEMA) -> Repository:
    """v1: samples s00, s01, … each with a box of another place, colour and size; nothing is labeled."""
    repository = Repository.init(root, schema)
    rows = []
    for number in range(count):
        image = picture(40, 30, (number, 2, number + 8 + number % 5, 20 + number % 7), number % 3)
        rows.append(add_image(root, f"s{number:02}", image))
    repository.commit(Change(samples=rows), message="images")
    return repository


def add_image(root: Path, name: str, image: Image.Image, **options: Any) -> dict[str, Any]:
    """The sample of an image that is written to the repository's folder; `exif` among the options."""
    file = root / f"{name}.png"
    image.save(file, **options)
    data = file.read_bytes()
    return {
        "sample_id": name,
        "uri": file.name,
        "sha256": sha256_hex(data),
        "width": image.width,
        "height": image.height,
        "media_type": "image/png",
    }


def run(
    repository: Repository, predictor: Any = None, version: str = "main", thresholds: Thresholds = 0.0, **options: Any
) -> PreannotateResult:
    engine = LocalEngine(jobs=2)
    return preannotate(
        repository,
        repository.version(version),
        predictor or MeanColour(),
        thresholds=thresholds,
        engine=engine,
        **options,
    )


if __name__ == "__main__":  # a process that a test kills: python colours.py ROOT IMAGES_BEFORE_DEATH
    import signal

    from datasetops.preannotate import compute as module

    class Deadly(MeanColour):
        def predict(self, prepared: Sequence[np.ndarray[Any, Any]]) -> list[list[Prediction]]:
            if self.seen >= int(sys.argv[2]):
                while not list(Path(sys.argv[1]).rglob("predictions/**/*.parquet")):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().predict(prepared)

    module._FLUSH_IMAGES = 4  # type: ignore[misc]
    run(Repository.open(sys.argv[1]), Deadly())
