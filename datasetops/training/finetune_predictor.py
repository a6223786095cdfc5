"""A fine-tuned model as a predictor: its files as a folder, opened by what opens `local:DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image

from datasetops.manifest import Repository
from datasetops.models.families import open_local
from datasetops.models.families.base import TransformersPredictor
from datasetops.models.predictor import Prediction, Request
from datasetops.training.finetune_model import unpacked
from datasetops.training.kept import Kept
from datasetops.training.record import WEIGHTS, ModelRecord, model_file

_FOLDER: Final = "finetuned"  # of the cache


class FinetunedPredictor(Kept):
    """See `Predictor`; `inner` is the model as its family opens it. What one of masks says of pixels of no class is left
    out."""

    def __init__(
        self, repository: Repository, record: ModelRecord, description: dict[str, Any], cache: Path, request: Request
    ) -> None:
        folder = unpacked(model_file(repository, record, WEIGHTS), description, cache / _FOLDER / record.digest[:32])
        self.inner = open_tuned(folder, description, cache, request)
        super().__init__(repository, record, {"inner": self.inner.digest})
        self.lanes, self.batch, self.device = self.inner.lanes, self.inner.batch, self.inner.device

    def prepare(self, image: Image.Image) -> Any:
        return self.inner.prepare(image)

    def predict(self, prepared: Sequence[Any]) -> list[list[Prediction]]:
        """As the model's family does."""
        found: list[list[Prediction]] = self.inner.predict(prepared)
        names = {None, *self.vocabulary}  # None: the model failed on the image
        return [[item for item in own if item.name in names] for own in found]


def open_tuned(folder: Path, description: dict[str, Any], cache: Path, request: Request) -> TransformersPredictor:
    """What `unpacked` left in a folder; `options` of the description hold where the request has no others."""
    options = {**description["options"], **request.options}
    opened: Any = open_local(str(folder), cache, replace(request, options=options))
    return cast("TransformersPredictor", opened)
