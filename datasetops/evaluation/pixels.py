"""How well the class of every pixel is told: intersection over union, as Pascal VOC and Cityscapes count it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datasetops.evaluation.regions import Regions
from datasetops.evaluation.resampling import MeanIou


def pixel_metrics(table: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Of pixels by true class (rows) and predicted class (columns), a square table of at least as many as `names`.

    Classes beyond the names, such as background, count in `pixel_accuracy` but in no mean; nor do classes of which there
    is no pixel, whose numbers are NaN. Everingham et al., "The Pascal VOC Challenge" (IJCV 2010).
    """
    own = np.diagonal(table)[: len(names)].astype(np.float64)
    truth, found = (table.sum(axis=axis)[: len(names)].astype(np.float64) for axis in (1, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, recall = own / (truth + found - own), own / truth
    there = truth > 0
    total = table.sum()
    return {
        "mean_iou": float(iou[there].mean()) if there.any() else float("nan"),
        "mean_recall": float(recall[there].mean()) if there.any() else float("nan"),
        "pixel_accuracy": float(np.trace(table) / total) if total else float("nan"),
        "classes": {
            name: {"pixels": int(truth[code]), "iou": float(iou[code]), "recall": float(recall[code])}
            for code, name in enumerate(names)
            if there[code]
        },
    }


def shared_pixels(truth: Regions, found: Regions, images: int, classes: int) -> MeanIou:
    """Of each image and class the pixels within any region of it, in truth, in the answer, and in both.

    Groups of things that are not counted one by one count here.
    """
    from pycocotools import mask as coco

    held, said = (_unions(regions) for regions in (truth, found))
    both = {key: coco.merge([held[key], said[key]], intersect=True) for key in held.keys() & said.keys()}
    counts = [np.zeros((images, classes)) for _ in range(3)]
    for count, masks in zip(counts, (held, said, both), strict=True):
        for place, mask in masks.items():
            count[place] = coco.area(mask)
    return MeanIou(*counts)


def _unions(regions: Regions) -> dict[tuple[int, int], dict[str, Any]]:
    """The masks of each image and class as one, run-length encoded."""
    from pycocotools import mask as coco

    masks: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    places = zip(regions.boxes.image.tolist(), regions.boxes.label.tolist(), strict=True)
    for place, mask in zip(places, regions.masks or (), strict=True):
        masks[place].append(mask)
    return {place: coco.merge(found) for place, found in masks.items()}
