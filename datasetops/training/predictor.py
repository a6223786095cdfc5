"""Trained models as predictors: `model:NAME`, and `model:production` for the one that was promoted last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError
from datasetops.manifest import Repository
from datasetops.models.families.base import TOGETHER
from datasetops.models.families.classify import classification
from datasetops.models.predictor import Prediction, Predictor, Request
from datasetops.models.reference import open_embedder
from datasetops.training.kept import Kept
from datasetops.training.linear import sigmoid, softmax
from datasetops.training.record import (
    DESCRIPTION,
    WEIGHTS,
    ModelRecord,
    load_model_record,
    model_file,
)

SURE: Final = 0.05  # least probability of a class that is named, where several may hold


def open_model(name: str, cache: Path, request: Request) -> Predictor:
    """The trained model of this name in the repository that the request names, else in the one of this folder.

    Raises NotFoundError for another name and where no model is in production, DamagedError for files that are not what
    the record says.
    """
    repository = Repository.open(request.repository or ".")
    record = load_model_record(repository, name)
    request.require_task(record.name, (record.task,))
    description = json.loads(model_file(repository, record, DESCRIPTION))
    kinds: dict[str, Any] = {"probe": ProbePredictor}
    if description["kind"] == "head":
        from datasetops.training.head_predictor import HeadPredictor

        kinds["head"] = HeadPredictor
    if description["kind"] == "finetune":
        from datasetops.training.finetune_predictor import FinetunedPredictor

        kinds["finetune"] = FinetunedPredictor
    if description["kind"] not in kinds:
        raise ModelError(
            f"The model {record.name} is a {description['kind']}, which this release cannot open.",
            remedy="Update dsops.",
        )
    opened: Predictor = kinds[description["kind"]](repository, record, description, cache, request)
    return opened


class ProbePredictor(Kept):
    """A linear classifier on an embedder's vectors. See `Predictor`."""

    def __init__(
        self, repository: Repository, record: ModelRecord, description: dict[str, Any], cache: Path, request: Request
    ) -> None:
        from safetensors.numpy import load

        self._several = bool(description["several"])
        options = request.choose({"min_score": SURE if self._several else 0.0})
        super().__init__(repository, record, options)
        told = description["embedder"]
        self._embedder = open_embedder(told["reference"], cache=cache)
        if self._embedder.digest != told["digest"]:
            raise ModelError(
                f"The embedder {told['reference']} is another one than {record.name} was trained with.",
                remedy="Install the release of it that the record names, or train again.",
            )
        arrays = load(model_file(repository, record, WEIGHTS))
        self._weight, self._bias = arrays["weight"], arrays["bias"]
        self._factor = np.float32(1 / description["temperature"])
        self._least = options["min_score"]
        self.lanes = int(getattr(self._embedder, "lanes", 0))
        self.batch = TOGETHER if self.lanes == 0 else None

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        return self._embedder.prepare(image)

    def predict(self, prepared: Sequence[npt.NDArray[Any]]) -> list[list[Prediction]]:
        if not prepared:
            return []
        vectors = self._embedder.embed(np.stack(list(prepared)))
        rounded = vectors.astype(np.float16).astype(np.float32)  # as they were when it learned
        return [self._named(row) for row in rounded]

    def _named(self, vector: npt.NDArray[np.float32]) -> list[Prediction]:
        """Each row alone: a product of matrices is rounded otherwise for other batches."""
        scores = (vector @ self._weight + self._bias)[None] * self._factor
        chances = sigmoid(scores)[0] if self._several else softmax(scores)[0]
        return classification(self.vocabulary, chances, self._least, None if self._several else 1)
