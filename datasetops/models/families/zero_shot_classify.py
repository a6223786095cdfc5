"""Classification by texts: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import TransformersPredictor
from datasetops.models.families.classify import classification
from datasetops.models.families.prompted import tokenized
from datasetops.models.predictor import Prediction, Request

_SIGLIP_TOKENS: Final = 64  # SigLIP was trained on texts padded to this length, and reads its answer at the last place


class ZeroShotClassifier(TransformersPredictor):
    """The class whose texts are nearest to the image. Scores are softmax over the classes (CLIP), or each class's own
    probability (SigLIP: they do not add up to one). A class's embedding is the mean of its texts' (CLIP, section 3.1.4).
    """

    kinds = ("classification",)
    reads_text = True

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        prompts = request.require_prompts(checkpoint.name)
        options = request.choose({})
        self._names = prompts.names
        self._single = checkpoint.model.config.model_type.startswith("siglip")
        most = checkpoint.model.config.text_config.max_position_embeddings
        tokens, owners = tokenized(
            checkpoint.name,
            checkpoint.tokenizer,
            prompts,
            most=min(most, _SIGLIP_TOKENS) if self._single else most,
            padding="max_length" if self._single else True,
        )
        super().__init__(checkpoint, options, self._names, owners, {k: v.tolist() for k, v in tokens.items()})
        self._classes = self._class_embeddings(tokens, owners)

    def _class_embeddings(self, tokens: dict[str, Any], owners: list[int]) -> Any:
        """One unit vector a class (C, dim)."""
        import torch

        if self._single:
            tokens = {"input_ids": tokens["input_ids"]}  # SigLIP attends to the padding too
        with torch.inference_mode():
            inputs = {key: value.to(self.device) for key, value in tokens.items()}
            texts = _unit(self._model.get_text_features(**inputs).pooler_output)
            owner = torch.tensor(owners, device=texts.device)
            sums = texts.new_zeros(len(self._names), texts.shape[1]).index_add_(0, owner, texts)
            return _unit(sums)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        images = _unit(self._model.get_image_features(**inputs).pooler_output)
        logits = images @ self._classes.T * self._model.logit_scale.exp()
        scores = (logits + self._model.logit_bias).sigmoid() if self._single else logits.softmax(-1)
        return [classification(self._names, row, 0.0, 1) for row in scores.cpu().numpy()]


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=-1, keepdim=True)
