"""A trained head as a predictor: boxes on frozen activations of the built-in network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasetops.manifest import Repository
from datasetops.models.families.base import TOGETHER, box_predictions, failed
from datasetops.models.nms import suppress
from datasetops.models.predictor import Prediction, Request
from datasetops.training.head_net import Head
from datasetops.training.kept import Kept
from datasetops.training.maps import STRIDES, MapBank, scale_of
from datasetops.training.record import WEIGHTS, ModelRecord, model_file
from datasetops.training.targets import cell_middles

OPTIONS: Final[Mapping[str, Any]] = {"min_score": 0.02, "nms_iou": 0.55, "max_boxes": 300}
CANDIDATES: Final = 1000  # best cells that overlaps are looked at of


def detections(
    head: Head, levels: Sequence[Tensor], scale: tuple[float, float], size: tuple[int, int], options: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Boxes (N, 4) in pixels of an image of this width and height, scores (N,) and classes (N,), best first.

    `levels` are its maps (channels, rows, columns), `scale` what `scale_of` gives.
    """
    boxes, scores, labels = candidates(head, levels, scale, options["min_score"])
    boxes = np.clip(boxes, 0, [size[0], size[1], size[0], size[1]])
    sound = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, labels = boxes[sound], scores[sound], labels[sound]
    kept = suppress(boxes, labels, options["nms_iou"])[: options["max_boxes"]]
    return boxes[kept], scores[kept], labels[kept]


def candidates(
    head: Head, levels: Sequence[Tensor], scale: tuple[float, float], min_score: float
) -> tuple[Any, Any, Any]:
    """The best cells' boxes, scores and classes, before those that overlap are left out."""
    middles, _ = cell_middles([(int(level.shape[1]), int(level.shape[2])) for level in levels], STRIDES)
    with torch.inference_mode():
        logits, sides = head([level[None].to(head.stretch.device) for level in levels])
    scores = logits[0].sigmoid().cpu().numpy()
    cell, label = np.nonzero(scores >= min_score)
    best = np.argsort(-scores[cell, label], kind="stable")[:CANDIDATES]
    cell, label = cell[best], label[best]
    reach, middle = sides[0].cpu().numpy()[cell, label].astype(np.float64), middles[cell]
    boxes = np.concatenate([middle - reach[:, :2], middle + reach[:, 2:]], axis=1)
    return boxes / np.array([*scale, *scale]), scores[cell, label], label


class HeadPredictor(Kept):
    """See `Predictor`. On the CPU calls of several threads run beside each other."""

    def __init__(
        self, repository: Repository, record: ModelRecord, description: dict[str, Any], cache: Path, request: Request
    ) -> None:
        from safetensors.torch import load

        self._options = request.choose(dict(OPTIONS))
        super().__init__(repository, record, self._options)
        self._side = int(description["side"])
        self._bank = MapBank(cache, self._side, None)
        self._head = Head(len(record.classes), int(description["width"]))
        self._head.load_state_dict(load(model_file(repository, record, WEIGHTS)))
        self._head.eval()
        self.lanes = 0
        self.batch = TOGETHER

    def prepare(self, image: Image.Image) -> tuple[tuple[int, int], list[Tensor]]:
        """Its width and height, and its maps."""
        levels = self._bank.make(image, (False, False))
        return image.size, [torch.from_numpy(level).float() for level in levels]

    def predict(self, prepared: Sequence[tuple[tuple[int, int], list[Tensor]]]) -> list[list[Prediction]]:
        """Images one by one: they may have other sizes, and are answered the same in any company."""
        found = []
        for size, levels in prepared:
            boxes, scores, labels = candidates(
                self._head, levels, scale_of(size, self._side), self._options["min_score"]
            )
            sane = np.isfinite(scores).all()
            answer = box_predictions(self.vocabulary, scores, labels, boxes, size[::-1], self._options)
            found.append(answer if sane else failed("box"))
        return found
