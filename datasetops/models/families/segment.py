"""Models that name the class of every pixel: SegFormer, UPerNet, BEiT, DPT, MobileViT and the like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.errors import ModelError
from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import TransformersPredictor, failed, vocabulary_of
from datasetops.models.families.masks import mask_prediction
from datasetops.models.predictor import Prediction, Request

WHOLE: Final = "whole"
PARTS: Final = "parts"


class Segmenter(TransformersPredictor):
    """Masks of the pixels whose most probable class is the same; the score is its mean probability over them.

    With the option `regions`, `whole` gives one mask for each class, `parts` one for each region that hangs together
    (corners included). Masks of fewer pixels than `min_pixels` are left out.
    """

    kinds = ("mask",)

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        self.vocabulary: tuple[str, ...] = vocabulary_of(checkpoint.model.config)
        options = request.choose({"regions": WHOLE, "min_score": 0.05, "min_pixels": 16})
        if options["regions"] not in (WHOLE, PARTS):
            raise ModelError(
                f"The option 'regions' is {WHOLE} or {PARTS}; got {options['regions']!r}.",
                remedy=f"Its default is {WHOLE!r}.",
            )
        super().__init__(checkpoint, options)

    def _found(self, inputs: dict[str, Any], sizes: list[tuple[int, int]]) -> list[list[Prediction]]:
        chances = self._model(**inputs).logits.float().softmax(1)
        return [self._masks(own, size) for own, size in zip(chances, sizes, strict=True)]

    def _masks(self, chances: Any, size: tuple[int, int]) -> list[Prediction]:
        """Of the probabilities (K, h, w) of an image of this height and width."""
        if not bool(chances.isfinite().all()):
            return failed("mask")
        label, chance = _best(chances, size)
        found = []
        for code in np.unique(label).tolist():
            for inside in self._regions(label == code):
                score = float(chance[inside].mean(dtype=np.float64))
                if score >= self._options["min_score"]:
                    found.append(mask_prediction(self.vocabulary[code], min(score, 1.0), inside, None))
        return sorted(found, key=lambda item: -item.score)

    def _regions(self, inside: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.bool_]]:
        if self._options["regions"] == WHOLE:
            if np.count_nonzero(inside) >= self._options["min_pixels"]:
                yield inside
            return
        from scipy.ndimage import label

        numbers, count = label(inside, structure=np.ones((3, 3)))
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        for number in np.flatnonzero(sizes[1:] >= self._options["min_pixels"]) + 1:
            yield numbers == number


def _best(chances: Any, size: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The best class of each pixel, and its probability; class by class, as all at once may not fit into memory."""
    import torch
    from torch.nn.functional import interpolate

    best = torch.full(size, -1.0, device=chances.device)
    label = torch.zeros(size, dtype=torch.int64, device=chances.device)
    for code in range(len(chances)):
        own = interpolate(chances[None, code : code + 1], size=size, mode="bilinear", align_corners=False)[0, 0]
        better = own > best
        label[better] = code
        best = torch.where(better, own, best)
    return label.cpu().numpy(), best.cpu().numpy()
