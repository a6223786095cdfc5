"""Boxes for texts: OWL-ViT and OWLv2 (Minderer et al. 2022, 2023), Grounding DINO (Liu et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import TransformersPredictor, box_predictions
from datasetops.models.families.prompted import check_tokens, tokenized
from datasetops.models.predictor import Prediction, Prompts, Request

# They give several boxes a thing, unlike detectors with a fixed vocabulary; half of the union is the usual limit.
_OPTIONS: Final = {"min_score": 0.1, "max_boxes": 300, "nms_iou": 0.5}


class OwlDetector(TransformersPredictor):
    """OWL-ViT and OWLv2: each box takes the text that fits it best."""

    kinds = ("box",)
    reads_text = True

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        import torch

        prompts = request.require_prompts(checkpoint.name)
        self._names = prompts.names
        most = checkpoint.model.config.text_config.max_position_embeddings
        tokens, owners = tokenized(checkpoint.name, checkpoint.tokenizer, prompts, most=most, padding="max_length")
        listed = {key: value.tolist() for key, value in tokens.items()}
        super().__init__(checkpoint, request.choose(_OPTIONS), self._names, owners, listed)
        self._owners = np.array(owners)
        base = getattr(self._model, self._model.base_model_prefix)
        with torch.inference_mode():
            inputs = {key: value.to(self.device) for key, value in tokens.items()}
            queries = base.get_text_features(**inputs).pooler_output
            self._queries = queries / queries.norm(dim=-1, keepdim=True)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        grid = self._model.image_embedder(pixel_values=inputs["pixel_values"])[0]
        patches = grid.flatten(1, 2)
        logits = self._model.class_predictor(patches, self._queries.expand(len(grid), -1, -1))[0].float()
        boxes = self._model.box_predictor(patches, grid).float()
        best = logits.nan_to_num(math.nan, math.nan, math.nan).max(-1)  # NaN is more than any number
        read = self._processor.post_process_object_detection(  # knows how the image was padded
            SimpleNamespace(logits=best.values.nan_to_num()[..., None].cpu(), pred_boxes=boxes.cpu()),
            threshold=-1.0,
            target_sizes=sizes,
        )
        scores, texts = best.values.sigmoid().cpu().numpy(), best.indices.cpu().numpy()
        return [
            box_predictions(
                self._names, scores[i], self._owners[texts[i]], found["boxes"].numpy(), sizes[i], self._options
            )
            for i, found in enumerate(read)
        ]


@dataclass(frozen=True)
class _Caption:
    """Texts that fit into one caption: its token ids, the mean over each text's tokens (L, P), the texts' classes."""

    ids: Sequence[int]
    means: Any
    owners: Any


class GroundedDetector(TransformersPredictor):
    """Grounding DINO: a caption of all texts, as many captions as it takes. A text's score is the mean of its tokens'.

    So the model's own evaluation on COCO reads it, and "red cell" needs both words.
    """

    kinds = ("box",)
    reads_text = True

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        prompts = request.require_prompts(checkpoint.name)
        self._names = prompts.names
        self._captions = _captions(checkpoint, prompts)
        listed = [[list(caption.ids), caption.owners.tolist()] for caption in self._captions]
        super().__init__(checkpoint, request.choose(_OPTIONS), self._names, listed)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        import torch

        scores, labels, boxes = [], [], []
        for caption in self._captions:
            ids = torch.tensor([caption.ids] * len(sizes), device=self.device)
            output = self._model(**inputs, input_ids=ids)
            words = output.logits.float()[..., : ids.shape[1]].nan_to_num(math.nan, math.nan, math.nan).sigmoid()
            best = (words @ caption.means.to(self.device)).max(-1)
            scores.append(best.values.cpu().numpy())
            labels.append(caption.owners[best.indices.cpu().numpy()])
            boxes.append(_corners(output.pred_boxes.float().cpu().numpy()))
        every, named, places = (np.concatenate(parts, axis=1) for parts in (scores, labels, boxes))
        return [
            box_predictions(self._names, every[i], named[i], places[i] * [w, h, w, h], (h, w), self._options)
            for i, (h, w) in enumerate(sizes)
        ]


def _captions(checkpoint: Checkpoint, prompts: Prompts) -> list[_Caption]:
    """ "[CLS] a cat . a dog . [SEP]": full stops part the texts, so there is none within a text."""
    tokenizer = checkpoint.tokenizer
    owners = [index for index, texts in enumerate(prompts.texts.values()) for _ in texts]
    texts = [text.lower().replace(".", " ").replace("?", " ") for group in prompts.texts.values() for text in group]
    most = checkpoint.model.config.max_text_len - 3  # room for the two ends and a full stop
    rows = [row[:most] for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    check_tokens(checkpoint.name, tokenizer, prompts, owners, rows)
    groups: list[list[int]] = [[]]
    length = 0
    for index, row in enumerate(rows):
        if length + len(row) + 1 > most + 1:
            groups.append([])
            length = 0
        groups[-1].append(index)
        length += len(row) + 1
    return [_caption(tokenizer, [rows[i] for i in group], np.array([owners[i] for i in group])) for group in groups]


def _caption(tokenizer: Any, rows: list[list[int]], owners: Any) -> _Caption:
    import torch

    stop = tokenizer.convert_tokens_to_ids(".")
    ids = [tokenizer.cls_token_id]
    spans = []
    for row in rows:
        spans.append((len(ids), len(ids) + len(row)))
        ids += [*row, stop]
    ids.append(tokenizer.sep_token_id)
    means = torch.zeros(len(ids), len(rows))
    for column, (start, end) in enumerate(spans):
        means[start:end, column] = 1 / (end - start)
    return _Caption(ids, means, owners)


def _corners(boxes: Any) -> Any:
    """Centre and size (…, 4) as xyxy."""
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)
