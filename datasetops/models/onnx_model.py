"""Detectors and classifiers in ONNX files: `onnx:FILE`, with FILE's name ending in .yaml beside it (onnx_spec)."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from datasetops.errors import FormatError, ModelError, did_you_mean
from datasetops.models import onnx_decode as decode
from datasetops.models.dense import scaled_size
from datasetops.models.families.base import TOGETHER, box_predictions, failed
from datasetops.models.families.classify import classification
from datasetops.models.onnx_file import first_line, model_files, open_session, sha256_of
from datasetops.models.onnx_spec import InputSpec, read_spec
from datasetops.models.predictor import Prediction, Predictor, Request
from datasetops.records import canonical_json, sha256_hex

Floats: TypeAlias = npt.NDArray[np.float32]

_OPTIONS: Final = {"config": "", "min_score": 0.05, "nms_iou": 0.65, "max_boxes": 300}  # 0.65: YOLOX's own
_READING: Final = 2  # raised whenever the same model, description and options give other predictions
EXPORTED_FROM: Final = ("dsops.model", "dsops.digest")  # metadata of a file that dsops exported: the model that it was
_METADATA: Final = "names"  # where Ultralytics' exporter puts the classes
_RT_DETR: Final = ("logits", "pred_boxes")  # outputs of the export of transformers' models
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@dataclass(frozen=True)
class Prepared:
    """`pixels` as the model takes them. A point of the image is one of the input over `scale`, less `offset` before."""

    pixels: npt.NDArray[Any]
    size: tuple[int, int]  # height and width of the image
    scale: tuple[float, float]  # across, down
    offset: tuple[float, float] = (0.0, 0.0)


def open_onnx(name: str, cache: Path, request: Request) -> Predictor:
    """The model in the file `name`; the option `config` names another description than the file beside it.

    Raises ModelError where the file is missing, no ONNX, or other than described; NotFoundError and SchemaError for
    the description.
    """
    return OnnxPredictor(Path(name), request)


class OnnxPredictor:
    """See `Predictor`. On the CPU each call runs on one processor. `lanes` and `batch` are an engine's (see `Worker`)."""

    revision = None
    packages = ("onnxruntime", "onnx")

    def __init__(self, file: Path, request: Request) -> None:
        options = request.choose(_OPTIONS)
        if not file.is_file():
            raise ModelError(f"There is no file {file}.", remedy="Name the file that the model was exported to.")
        config = Path(options.pop("config") or file.with_suffix(".yaml"))
        self._spec = read_spec(config)
        self.name = file.stem
        self.kinds: tuple[str, ...] = (self._spec.kind,)
        request.require_task(self.name, self.kinds)
        options |= {name: value for name, value in self._spec.options.items() if name not in request.options}
        self._options = options
        files = model_files(file)
        self._session = open_session(file, request.device)
        about = self._session.get_modelmeta().custom_metadata_map
        told = [about.get(name) for name in EXPORTED_FROM]
        self.exported_from = None if None in told else told
        on_cpu = self._session.get_providers()[0] == "CPUExecutionProvider"
        self.lanes = 0 if on_cpu else 1
        self._where = str(config)
        self.vocabulary: tuple[str, ...] = self._spec.names or self._own_names()
        self._input, self._size, self._alone = self._read_input()
        self.batch = 1 if self._alone else TOGETHER if on_cpu else None
        self._outputs = self._read_outputs()
        parts = [self._spec.model_dump(mode="json"), list(self.vocabulary), options, [sha256_of(one) for one in files]]
        self.digest = sha256_hex(canonical_json(["onnx", _READING, *parts]))

    def prepare(self, image: Image.Image) -> Prepared:
        """One RGB image as the model takes it: (3, H, W), or (H, W, 3)."""
        spec = self._spec.input
        resized, scale, offset = fitted(image, self._size, spec)
        pixels = np.asarray(resized)
        if spec.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        kind = _TYPES[self._input.type]
        if kind is not np.uint8:
            mean, deviation = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
            pixels = (pixels / np.float32(spec.divide_by) - mean) / deviation
        if spec.layout == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        return Prepared(np.ascontiguousarray(pixels, dtype=kind), (image.height, image.width), scale, offset)

    def predict(self, prepared: Sequence[Prepared]) -> list[list[Prediction]]:
        """Raises ModelError where an output has another shape than described."""
        if self._alone:
            return [self._found(self._run([item]), 0, item) for item in prepared]
        outputs = self._run(prepared) if prepared else []
        return [self._found(outputs, row, item) for row, item in enumerate(prepared)]

    def _run(self, items: Sequence[Prepared]) -> list[Floats]:
        """The outputs, a row an image."""
        given = np.stack([item.pixels for item in items])
        try:
            outputs = self._session.run(self._outputs, {self._input.name: given})
        except Exception as error:
            if "allocat" in str(error).lower():
                raise MemoryError(str(error)) from None
            raise ModelError(f"The model {self.name!r} cannot be run: {first_line(error)}") from None
        for name, output in zip(self._outputs, outputs, strict=True):
            if not isinstance(output, np.ndarray) or output.ndim < 2 or len(output) != len(items):
                shape = getattr(output, "shape", type(output).__name__)
                raise self._wrong("output.names", f"{name!r} gives {shape} for {len(items)} images")
        return [output.astype(np.float32, copy=False) for output in outputs]

    def _found(self, outputs: Sequence[Floats], row: int, item: Prepared) -> list[Prediction]:
        outputs = [output[row] for output in outputs]
        if any(np.isnan(output).any() for output in outputs):
            return failed(self._spec.kind)
        try:
            if self._spec.kind == "classification":
                return self._classes(outputs[0])
            boxes, scores, labels = self._boxes(outputs)
        except ValueError as error:
            raise self._wrong("family", f"as {self._spec.family} {error}") from None
        corner = np.array(item.offset * 2, dtype=np.float64)
        places = (boxes - corner) / np.array(item.scale * 2, dtype=np.float64)
        return box_predictions(self.vocabulary, scores, labels, places, item.size, self._options)

    def _boxes(self, outputs: Sequence[Floats]) -> decode.Decoded:
        family, k, activation = self._spec.family, len(self.vocabulary), self._spec.output.activation
        if family == "rt-detr":
            scores, boxes = outputs if len(outputs) == 2 else decode.split_rt_detr(outputs[0], k)
            if scores.shape[1:] != (k,):
                raise ValueError(f"expected scores of {k} classes; got {' x '.join(map(str, scores.shape))}")
            return decode.rt_detr(decode.activated(scores, activation), boxes, self._size)
        if family == "yolox":
            boxes, scores, labels = decode.yolox(outputs[0], self._size, k)
        elif family == "boxes":
            boxes, scores, labels = decode.rows(outputs[0])
            if len(labels) and not (labels.min() >= 0 and labels.max() < k):
                raise ValueError(f"expected classes from 0 to {k - 1}; got {labels.min()} to {labels.max()}")
        elif family == "yolov5":
            boxes, scores, labels = decode.yolov5(outputs[0], k)
        else:
            boxes, scores, labels = decode.yolov8(outputs[0], k)
        return decode.Decoded(boxes, decode.activated(scores, activation), labels)

    def _classes(self, logits: Floats) -> list[Prediction]:
        if logits.shape != (len(self.vocabulary),):
            raise ValueError(f"expected {len(self.vocabulary)} scores; got {' x '.join(map(str, logits.shape))}")
        shares = np.clip(decode.activated(logits, self._spec.output.activation), 0.0, 1.0)
        return classification(self.vocabulary, shares, self._options["min_score"], None if self._spec.several else 1)

    def _read_input(self) -> tuple[Any, tuple[int, int], bool]:
        """The graph's input, height and width, and whether it takes one image at a time."""
        spec = self._spec.input
        inputs = {one.name: one for one in self._session.get_inputs()}
        if spec.name is None and len(inputs) > 1:
            raise self._wrong("input.name", f"the model has the inputs {', '.join(inputs)}: name that of the image")
        found = inputs.get(spec.name or next(iter(inputs)))
        if found is None:
            raise self._wrong(
                "input.name", f"there is no input {spec.name!r}", did_you_mean(str(spec.name), inputs, noun="inputs")
            )
        if len(inputs) > 1:
            raise self._wrong("input.name", f"the model has further inputs than {found.name!r}, which are not known")
        if found.type not in _TYPES:
            raise self._wrong("input.name", f"the input {found.name!r} is a {found.type}, not an image")
        axes = (1, 2, 3) if spec.layout == "nchw" else (3, 1, 2)
        if len(found.shape) != 4 or not (found.shape[axes[0]] in (3, None) or isinstance(found.shape[axes[0]], str)):
            raise self._wrong("input.layout", f"{spec.layout} has 3 channels; the input's shape is {found.shape}")
        sides = [found.shape[axis] for axis in axes[1:]]
        size = spec.size or tuple(sides)
        for own, wanted in zip(sides, size, strict=True):
            if not isinstance(wanted, int):
                raise self._wrong("input.size", "the model takes any size: give height and width, such as [640, 640]")
            if isinstance(own, int) and own != wanted:
                raise self._wrong("input.size", f"the model takes {sides}, not {list(size)}")
        if found.shape[0] not in (1, None) and not isinstance(found.shape[0], str):
            raise ModelError(
                f"The model {self.name!r} takes batches of {found.shape[0]} images only.",
                remedy="Export it with a batch of 1, or with a batch of any size.",
            )
        alone = found.shape[0] == 1 or spec.resize == "longer-side"
        return found, (int(size[0]), int(size[1])), alone

    def _read_outputs(self) -> list[str]:
        known = [one.name for one in self._session.get_outputs()]
        names = self._spec.output.names
        if names is None and self._spec.family == "rt-detr" and set(_RT_DETR) <= set(known):
            return list(_RT_DETR)
        if names is None:
            if len(known) > 1:
                raise self._wrong("output.names", f"the model has the outputs {', '.join(known)}: name what to read")
            return known
        for name in names:
            if name not in known:
                raise self._wrong(
                    "output.names", f"there is no output {name!r}", did_you_mean(name, known, noun="outputs")
                )
        return list(names)

    def _own_names(self) -> tuple[str, ...]:
        """The classes that the file itself names."""
        text = self._session.get_modelmeta().custom_metadata_map.get(_METADATA, "")
        try:
            value = ast.literal_eval(text)
            names = tuple(str(value[index]) for index in range(len(value)))
        except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
            names = ()
        if not names or len(set(names)) < len(names):
            raise self._wrong("names", "expected the classes by index; neither this file nor the model names them")
        return names

    def _wrong(self, field: str, message: str, remedy: str = "") -> FormatError:
        return FormatError(f"{self._where}: {field}: {message}.", remedy=remedy or f"Correct {field} there.")


def fitted(
    image: Image.Image, size: tuple[int, int], spec: InputSpec
) -> tuple[Image.Image, tuple[float, float], tuple[float, float]]:
    """The image at `size` (height, width), the scale across and down, and where its upper left corner came to lie."""
    height, width = size
    smoothing = Image.Resampling[spec.resample.upper()]
    if spec.resize in ("stretch", "longer-side"):
        if spec.resize == "longer-side":
            width, height = scaled_size(image.width, image.height, max(size))
        return image.resize((width, height), smoothing), (width / image.width, height / image.height), (0.0, 0.0)
    if spec.resize == "crop":
        ratio = max(width / image.width, height / image.height)
        offset = ((width - image.width * ratio) / 2, (height - image.height * ratio) / 2)
        return ImageOps.fit(image, (width, height), smoothing), (ratio, ratio), offset
    ratio = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    corner = (0, 0) if spec.resize == "letterbox-corner" else ((width - inner[0]) // 2, (height - inner[1]) // 2)
    canvas = Image.new("RGB", (width, height), (spec.fill,) * 3)
    canvas.paste(image.resize(inner, smoothing), corner)
    return canvas, (inner[0] / image.width, inner[1] / image.height), (float(corner[0]), float(corner[1]))
