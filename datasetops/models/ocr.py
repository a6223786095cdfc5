"""Texts in images, read by RapidOCR, whose models come with its package: `ocr:rapidocr`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError, did_you_mean
from datasetops.models.predictor import Prediction, Predictor, Request
from datasetops.records import canonical_json, sha256_hex

PACKAGES: Final = ("rapidocr", "rapidocr_onnxruntime")  # the same reader, its newer releases first
_NAME: Final = "rapidocr"
_OPTIONS: Final = {"min_score": 0.5}  # RapidOCR's own
_READING: Final = 2  # raised whenever the same models and options give other predictions


class Line(NamedTuple):
    """A line of text: its corners (4, 2) in pixels, in the order of reading, and how sure the reading is, in [0, 1]."""

    corners: npt.NDArray[np.float64]
    text: str
    score: float


def lines_of(found: Iterable[tuple[Any, Any, Any]]) -> list[Line]:
    """Lines from corners, text and score each: without blanks at the ends, and without those of blanks alone."""
    lines = [Line(np.asarray(box, np.float64), str(text).strip(), float(score)) for box, text, score in found]
    return [line for line in lines if line.text]


class TextReader:
    """One of the packages, opened. One call at a time: each runs on all processors."""

    def __init__(self, package: str) -> None:
        self.name = package
        module = importlib.import_module(package)
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._engine = module.RapidOCR(**({"params": {"Global.log_level": "error"}} if package == _NAME else {}))
        self._folder = Path(str(module.__file__)).parent
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the package's version and its models."""
        models = [sha256_hex(file.read_bytes()) for file in sorted(self._folder.rglob("*.onnx"))]
        return sha256_hex(canonical_json([self.name, _version(self.name), *models]))

    def read(self, crop: Image.Image) -> tuple[str, float]:
        """The text of a picture of one line, and how sure that is; an empty text where there is none."""
        answer = self._run(crop, use_det=False, use_cls=False, use_rec=True)
        if isinstance(answer, tuple):  # rapidocr_onnxruntime: lists of text and score, and times
            lines = [(line[0], line[1]) for line in answer[0] or ()]
        else:
            lines = _pairs(answer.txts, answer.scores)
        return (str(lines[0][0]).strip(), float(lines[0][1])) if lines else ("", 0.0)

    def find(self, image: Image.Image, min_score: float) -> list[Line]:
        """All lines in an RGB image that are read with at least this score."""
        answer = self._run(image, text_score=min_score)
        if isinstance(answer, tuple):
            found = [(line[0], line[1], line[2]) for line in answer[0] or ()]
        elif answer.boxes is None or answer.txts is None:
            found = []
        else:
            found = list(zip(answer.boxes, answer.txts, answer.scores, strict=True))
        return lines_of(found)

    def _run(self, image: Image.Image, **options: Any) -> Any:
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        with self._lock:
            return self._engine(pixels, **options)


def installed_reader() -> TextReader:
    """Raises ModelError where no reader is installed, or it cannot be used."""
    found = [package for package in PACKAGES if importlib.util.find_spec(package)]
    if not found:
        raise ModelError("No reader of texts is installed.", remedy=f"Install one with: pip install {PACKAGES[0]}")
    try:
        return TextReader(found[0])
    except Exception as error:
        raise ModelError(f"{found[0]} cannot be used: {error}.", remedy="Install it again, or remove it.") from None


class TextPredictor:
    """Lines of text with the boxes around them; of slanted lines the box is larger than the line.

    See `Predictor`. What it gives has no class. The option `min_score` is the least score of a reading.
    """

    name = _NAME
    revision = None
    kinds = ("text",)
    vocabulary: tuple[str, ...] = ()

    def __init__(self, reader: TextReader, request: Request) -> None:
        request.require_task(self.name, self.kinds)
        self._reader, self._options = reader, request.choose(_OPTIONS)
        self.packages = (reader.name, "onnxruntime")
        self.digest = sha256_hex(canonical_json(["ocr", _READING, reader.digest, self._options]))

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def predict(self, prepared: Sequence[Image.Image]) -> list[list[Prediction]]:
        return [self._found(image) for image in prepared]

    def _found(self, image: Image.Image) -> list[Prediction]:
        lines = self._reader.find(image, self._options["min_score"])
        return [_prediction(line, image) for line in sorted(lines, key=lambda line: -line.score)]


def open_ocr(name: str, cache: Path, request: Request) -> Predictor:
    """The reader called `name`, of which there is one: rapidocr. Raises ModelError where it is not installed."""
    if name != _NAME:
        raise ModelError(f"There is no reader of texts {name!r}.", remedy=did_you_mean(name, [_NAME], noun="readers"))
    return TextPredictor(installed_reader(), request)


def _prediction(line: Line, image: Image.Image) -> Prediction:
    corners = np.clip(line.corners, 0, [image.width, image.height])
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return Prediction("text", None, min(max(line.score, 0.0), 1.0), (x1, y1, x2, y2), text=line.text)


def _pairs(texts: Sequence[str] | None, scores: Sequence[float] | None) -> list[tuple[str, float]]:
    return list(zip(texts or (), scores or (), strict=False))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
