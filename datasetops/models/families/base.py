"""What all models through transformers share: preparing one image, batches of equal shape, boxes in pixels."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.images import ImageError
from datasetops.models.checkpoint import TRANSFORMERS, Checkpoint, checkpoint_digest, plain
from datasetops.models.nms import suppress
from datasetops.models.predictor import Prediction
from datasetops.records import canonical_json, sha256_hex

TOGETHER: Final = 4  # images of a call on the CPU: more are no faster there, and calls of one size give equal results


@dataclass(frozen=True)
class Prepared:
    """One image as the model takes it. `size` is that of the image itself: height, width."""

    inputs: Mapping[str, npt.NDArray[Any]]
    size: tuple[int, int]


class TransformersPredictor:
    """A loaded checkpoint as a Predictor; a family says what its outputs mean."""

    kinds: ClassVar[tuple[str, ...]]
    reads_text: ClassVar[bool] = False
    vocabulary: tuple[str, ...] | None = None
    packages: ClassVar[tuple[str, ...]] = TRANSFORMERS

    def __init__(self, checkpoint: Checkpoint, options: Mapping[str, Any], *inputs: Any) -> None:
        """`options` and `inputs` (JSON-able: what else predictions depend on) go into the digest."""
        self.name, self.revision, self.device = checkpoint.name, checkpoint.revision, checkpoint.device
        self._model, self._processor, self._options = checkpoint.model, checkpoint.processor, options
        on_cpu = str(self.device) == "cpu"
        self.lanes = 0 if on_cpu else 1  # calls of one thread each keep processors busier than one call of several
        self.batch: int | None = (TOGETHER if self._one_shape() else 1) if on_cpu else None
        self._turn: AbstractContextManager[Any] = nullcontext() if on_cpu else threading.Lock()
        parts = [type(self).__name__, checkpoint_digest(self._model, self._processor), plain(options), plain(inputs)]
        self.digest = sha256_hex(canonical_json(parts))

    @property
    def model(self) -> Any:
        """The torch module."""
        return self._model

    @property
    def options(self) -> Mapping[str, Any]:
        """As they were chosen when it was opened."""
        return self._options

    @property
    def processor(self) -> Any:
        """What prepares its images."""
        return self._processor

    def prepare(self, image: Image.Image) -> Prepared:
        """Raises ImageError for an image that the model's own preparation cannot resize, such as 1 x 5,000 pixels."""
        try:
            inputs = self._processor(images=image, return_tensors="np")
        except (ValueError, ZeroDivisionError) as error:
            raise ImageError(f"{image.width} x {image.height} pixels do not fit the model: {error}") from error
        kept = {key: np.asarray(inputs[key])[0] for key in ("pixel_values", "pixel_mask") if key in inputs}
        return Prepared(kept, (image.height, image.width))

    def _one_shape(self) -> bool:
        """Whether images of all shapes come out in one."""
        sizes = ((96, 64), (64, 96))
        wide, high = (TransformersPredictor.prepare(self, Image.new("RGB", size)).inputs for size in sizes)
        return [value.shape for value in wide.values()] == [value.shape for value in high.values()]

    def predict(self, prepared: Sequence[Prepared]) -> list[list[Prediction]]:
        """Images of one prepared shape go through together; none is ever padded to the size of another."""
        import torch

        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(prepared):
            groups.setdefault(tuple(value.shape for value in item.inputs.values()), []).append(index)
        results: list[list[Prediction]] = [[] for _ in prepared]
        with self._turn, torch.inference_mode():
            for indices in groups.values():
                items = [prepared[index] for index in indices]
                inputs = {
                    key: torch.from_numpy(np.stack([item.inputs[key] for item in items])).to(self.device)
                    for key in items[0].inputs
                }
                found = self._found(inputs, [item.size for item in items])
                for index, predictions in zip(indices, found, strict=True):
                    results[index] = predictions
        return results

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        """Predictions for a batch of tensors; `sizes` are height and width of each image."""
        raise NotImplementedError


def vocabulary_of(config: Any) -> tuple[str, ...]:
    """The names of a classification or detection head by index; one that stands for two things gets its index."""
    names = [str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels)]
    return tuple(f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names))


def failed(kind: str) -> list[Prediction]:
    """What a model gives for an image on which it came out with NaN."""
    return [Prediction(kind, None, float("nan"))]


def box_predictions(
    names: Sequence[str],
    scores: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    boxes: npt.NDArray[Any],
    size: tuple[int, int],
    options: Mapping[str, Any],
) -> list[Prediction]:
    """Boxes (N, 4) in pixels with scores (N,) and indices into `names` (N,), best first; failed where one is NaN.

    Boxes are cut at the image's edges; those outside it are left out, as are those that `min_score`, `nms_iou` (within
    a class) and `max_boxes` of the options leave out.
    """
    if np.isnan(scores).any() or not np.isfinite(boxes).all():
        return failed("box")
    height, width = size
    boxes = np.clip(boxes.astype(np.float64), 0.0, [width, height, width, height])
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    kept = np.flatnonzero(inside & (scores >= options["min_score"]))
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    if options["nms_iou"] < 1:
        kept = kept[suppress(boxes[kept], labels[kept], options["nms_iou"])]
    kept = kept[: options["max_boxes"]]
    return [
        Prediction("box", names[label], min(float(score), 1.0), (box[0], box[1], box[2], box[3]))
        for label, score, box in zip(labels[kept].tolist(), scores[kept], boxes[kept].tolist(), strict=True)
    ]
