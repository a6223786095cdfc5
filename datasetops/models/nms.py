"""Which of several boxes for the same thing to keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def suppress(boxes: npt.NDArray[np.float64], labels: npt.NDArray[np.integer], most_iou: float) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression within each label: indices of the boxes (N, 4), best first, that are kept.

    A box goes where it overlaps a better kept one of its label with an intersection over union above `most_iou`.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left: npt.NDArray[np.intp] = np.arange(len(boxes))
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[left, 2:], boxes[best, 2:]) - np.maximum(boxes[left, :2], boxes[best, :2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        united = areas[left] + areas[best] - shared
        left = left[(shared <= most_iou * united) | (labels[left] != labels[best])]
    return np.array(kept, dtype=np.intp)
