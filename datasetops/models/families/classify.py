"""Image classifiers with a trained head: ViT, DINOv2, ConvNeXt, Swin and the like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import TransformersPredictor, failed, vocabulary_of
from datasetops.models.predictor import Prediction, Request


class Classifier(TransformersPredictor):
    """The most probable class (softmax), or for a head of several labels each class from `min_score` on (sigmoid)."""

    kinds = ("classification",)

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        config = checkpoint.model.config
        self.vocabulary: tuple[str, ...] = vocabulary_of(config)
        self._several = config.problem_type == "multi_label_classification" or len(self.vocabulary) == 1
        options = request.choose({"min_score": 0.05 if self._several else 0.0})
        super().__init__(checkpoint, options)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        logits = self._model(**inputs).logits.float()
        scores = logits.sigmoid() if self._several else logits.softmax(-1)
        best = None if self._several else 1
        return [classification(self.vocabulary, row, self._options["min_score"], best) for row in scores.cpu().numpy()]


def classification(names: tuple[str, ...], scores: Any, min_score: float, most: int | None) -> list[Prediction]:
    """The best `most` names (None: all) from `min_score` on; each carries the scores (C,) of all names."""
    if np.isnan(scores).any():
        return failed("classification")
    table = dict(zip(names, np.minimum(scores, 1.0).tolist(), strict=True))
    ranked = sorted(table, key=table.__getitem__, reverse=True)[:most]
    return [
        Prediction("classification", name, table[name], scores=table) for name in ranked if table[name] >= min_score
    ]
