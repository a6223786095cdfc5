"""Detectors with a vocabulary of their own: DETR, RT-DETR, RT-DETRv2, D-FINE, YOLOS and their kin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import TransformersPredictor, box_predictions, failed, vocabulary_of
from datasetops.models.predictor import Prediction, Request


class Detector(TransformersPredictor):
    """Boxes as the model's own image processor reads them from its output."""

    kinds = ("box",)

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        self.vocabulary: tuple[str, ...] = vocabulary_of(checkpoint.model.config)
        # These models are trained to give one box a thing, so nothing is suppressed.
        options = request.choose({"min_score": 0.05, "max_boxes": 300, "nms_iou": 1.0})
        super().__init__(checkpoint, options)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        output = self._model(**inputs)
        logits, boxes = output.logits.float().cpu(), output.pred_boxes.float().cpu()
        sound = (logits.isfinite().flatten(1).all(1) & boxes.isfinite().flatten(1).all(1)).tolist()
        read = self._processor.post_process_object_detection(
            SimpleNamespace(logits=logits, pred_boxes=boxes), threshold=-1.0, target_sizes=sizes
        )
        results = []
        for good, found, size in zip(sound, read, sizes, strict=True):
            scores, labels, places = (found[key].numpy() for key in ("scores", "labels", "boxes"))
            results.append(
                box_predictions(self.vocabulary, scores, labels, places, size, self._options) if good else failed("box")
            )
        return results
