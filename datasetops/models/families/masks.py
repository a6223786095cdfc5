"""Masks from SAM (Kirillov et al. 2023): outlines of given boxes, or of all that a grid of points hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.models.checkpoint import Checkpoint
from datasetops.models.families.base import Prepared, TransformersPredictor, failed
from datasetops.models.nms import suppress
from datasetops.models.predictor import Prediction, Predictor, Request, open_predictor

_POINTS_AT_ONCE: Final = 64
_PIXELS_AT_ONCE: Final = 2**24  # of full-size masks held as numbers: 64 MB
_STABLE_OFFSET: Final = 1.0  # a mask is stable if it hardly changes between the thresholds -1 and +1 (SAM, appendix B)
_ANYTHING: Final = "object"  # the one name for what a point hits


@dataclass(frozen=True)
class _Outlined:
    """An image with the boxes to outline, or None for a grid of points; `other`: it for the model that finds boxes."""

    image: Prepared
    boxes: tuple[Prediction, ...] | None = None
    other: Any = None


class MaskPredictor(TransformersPredictor):
    """Masks as run lengths. With the option `boxes`, a reference to a model for boxes, it outlines what that one finds
    and keeps its names; scores are then the box's times the mask's predicted quality. Without, it outlines everything
    under the one name "object", by the settings of SAM's own mask generator. `prepare_boxes` outlines given boxes.
    """

    kinds = ("mask",)

    def __init__(self, checkpoint: Checkpoint, request: Request, cache: Path) -> None:
        options = request.choose(
            {
                "boxes": "",
                "boxes_min_score": 0.25,
                "points_per_side": 32,
                "min_score": 0.88,
                "min_stability": 0.95,
                "nms_iou": 0.7,
            }
        )
        self._finder: Predictor | None = None
        self.vocabulary: tuple[str, ...] | None = (_ANYTHING,)
        if options["boxes"]:
            self._finder = open_predictor(
                options["boxes"], cache=cache, task="box", prompts=request.prompts, device=request.device
            )
            self.vocabulary = self._finder.vocabulary
        super().__init__(checkpoint, options | {"boxes": self._finder.digest if self._finder else ""})
        self.batch = 1  # it goes about them one by one anyway

    def prepare(self, image: Image.Image) -> Any:
        other = self._finder.prepare(image) if self._finder else None
        return _Outlined(super().prepare(image), None, other)

    def prepare_boxes(self, image: Image.Image, boxes: Sequence[Prediction]) -> Any:
        """Raises ValueError for a prediction without a box."""
        if any(item.box is None for item in boxes):
            raise ValueError("boxes: expected predictions that have a box")
        return _Outlined(super().prepare(image), tuple(boxes))

    def predict(self, prepared: Sequence[Any]) -> list[list[Prediction]]:
        """Best first; for given boxes in their order. One image at a time: the image encoder is most of the work."""
        import torch

        asked: list[tuple[Prediction, ...] | None] = [item.boxes for item in prepared]
        if self._finder is not None:
            open_ones = [index for index, item in enumerate(prepared) if item.boxes is None]
            for index, found in zip(
                open_ones, self._finder.predict([prepared[index].other for index in open_ones]), strict=True
            ):
                # A NaN score stays: it marks an image on which the model failed.
                asked[index] = tuple(box for box in found if not box.score < self._options["boxes_min_score"])
        with self._turn, torch.inference_mode():
            return [self._masks(item.image, boxes) for item, boxes in zip(prepared, asked, strict=True)]

    def _masks(self, image: Prepared, boxes: tuple[Prediction, ...] | None) -> list[Prediction]:
        import torch

        if boxes is not None and (not boxes or any(box.box is None for box in boxes)):
            return failed("mask") if boxes else []
        pixels = torch.from_numpy(image.inputs["pixel_values"][None]).to(self.device)
        features = self._model.get_image_embeddings(pixels)
        if bool(features.isnan().any()):
            return failed("mask")
        if boxes is None:
            return self._everything(features, image.size)
        return self._outlines(features, image.size, boxes)

    def _outlines(self, features: Any, size: tuple[int, int], boxes: tuple[Prediction, ...]) -> list[Prediction]:
        result: list[Prediction] = []
        for start in range(0, len(boxes), _POINTS_AT_ONCE):
            part = boxes[start : start + _POINTS_AT_ONCE]
            corners = np.array([box.box for box in part]).reshape(-1, 2, 2) * self._scale(size)
            output = self._model(
                image_embeddings=features,
                input_boxes=self._tensor(corners.reshape(1, -1, 4)),
                multimask_output=False,
            )
            scores = output.iou_scores[0, :, 0].float().cpu().numpy().clip(0, 1)
            full = (mask[0].cpu().numpy() > 0 for mask in self._full_size(output.pred_masks[0], size))
            for box, score, mask in zip(part, scores.tolist(), full, strict=True):
                result.append(mask_prediction(box.name, box.score * score, mask, box.box))
        return result

    def _everything(self, features: Any, size: tuple[int, int]) -> list[Prediction]:
        """The settings and steps of SAM's automatic mask generator, on the whole image."""
        side = self._options["points_per_side"]
        steps = (np.arange(side) + 0.5) / side
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * [size[1], size[0]] * self._scale(size)
        found: list[Prediction] = []
        for start in range(0, len(grid), _POINTS_AT_ONCE):
            points = self._tensor(grid[start : start + _POINTS_AT_ONCE].reshape(1, -1, 1, 2))
            output = self._model(image_embeddings=features, input_points=points, multimask_output=True)
            scores = output.iou_scores.flatten().float()
            if bool(scores.isnan().any()):
                return failed("mask")
            good = scores >= self._options["min_score"]
            small = output.pred_masks[0].flatten(0, 1)[good.to(output.pred_masks.device)][:, None]
            for score, mask in zip(scores[good].tolist(), self._full_size(small, size), strict=True):
                inner, outer = (int((mask > level).sum()) for level in (_STABLE_OFFSET, -_STABLE_OFFSET))
                if outer and inner >= self._options["min_stability"] * outer and bool((mask > 0).any()):
                    found.append(mask_prediction(_ANYTHING, min(max(score, 0.0), 1.0), mask[0].cpu().numpy() > 0, None))
        found.sort(key=lambda item: -item.score)
        boxes = np.array([item.box for item in found]).reshape(-1, 4)
        return [found[index] for index in suppress(boxes, np.zeros(len(found), int), self._options["nms_iou"])]

    def _full_size(self, masks: Any, size: tuple[int, int]) -> Iterator[Any]:
        """Masks (N, 1, h, w) as numbers, each (1, height, width) in the image's own pixels; few at a time."""
        at_once = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
        resized = self._resized(size)
        for start in range(0, len(masks), at_once):
            part = masks[start : start + at_once].float()
            yield from self._processor.post_process_masks([part], [size], [resized], binarize=False)[0]

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width to which the processor brings an image before it pads it."""
        scale = self._processor.size["longest_edge"] / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def _scale(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        height, width = self._resized(size)
        return np.array([width / size[1], height / size[0]])

    def _tensor(self, values: npt.NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(values.astype(np.float32)).to(self.device)


def mask_prediction(
    name: str | None, score: float, mask: npt.NDArray[np.bool_], box: tuple[float, float, float, float] | None
) -> Prediction:
    """A mask (height, width) with the box around it; an empty mask keeps the box that was asked for and scores 0."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    geometry = {"rle": {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}}
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Prediction("mask", name, score * 0.0, box, geometry)
    tight = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Prediction("mask", name, score, tight, geometry)
