"""Outputs of detectors, as each family writes them, for one image: boxes in pixels of the model's input.

Every function gives boxes (N, 4) as xyxy, scores (N,) and class indices (N,), without suppression; ValueError where an
output has not the shape that its family has.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

_STRIDES: Final = (8, 16, 32)
_CORNERS: Final = 4
_LONGEST: Final = 20.0  # of a logarithm of a side in cells: beyond, exp() makes no pixels of it


class Decoded(NamedTuple):
    """Boxes (N, 4), scores (N,), class indices (N,)."""

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.intp]


def yolox(output: Floats, size: tuple[int, int], classes: int) -> Decoded:
    """(A, 5 + K): place in its cell and logarithm of the sides, in cells; objectness; class scores.

    Cells of strides 8, 16 and 32 over an input of `size` (height, width), row by row. Ge et al., "YOLOX", 2021.
    """
    grids = []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    cells = np.concatenate(grids).astype(np.float32)
    _check(output, (len(cells), 5 + classes), "(cells of strides 8, 16 and 32, 5 + classes)")
    stride = cells[:, 2:]
    middle = (output[:, :2] + cells[:, :2]) * stride
    sides = np.exp(np.minimum(output[:, 2:4], _LONGEST)) * stride
    return _best_class(_corners(middle, sides), output[:, 5:] * output[:, 4:5])


def yolov5(output: Floats, classes: int) -> Decoded:
    """(A, 5 + K): middle and sides in pixels, objectness, class scores. Also YOLOv7's."""
    _check(output, (None, 5 + classes), "(boxes, 5 + classes)")
    return _best_class(_corners(output[:, :2], output[:, 2:4]), output[:, 5:] * output[:, 4:5])


def yolov8(output: Floats, classes: int) -> Decoded:
    """(4 + K, A): middle and sides in pixels, class scores. Also YOLO11's."""
    _check(output, (4 + classes, None), "(4 + classes, boxes)")
    return _best_class(_corners(output[:2].T, output[2:4].T), output[4:].T)


def rt_detr(scores: Floats, boxes: Floats, size: tuple[int, int]) -> Decoded:
    """Probabilities (Q, K) and boxes (Q, 4) as middle and sides, in shares of the input's `size` (height, width).

    Each query may stand for several classes: the Q best pairs of query and class. Zhao et al., "DETRs beat YOLOs on
    real-time object detection", CVPR 2024.
    """
    _check(boxes, (len(scores), _CORNERS), "(queries, 4)")
    scale = np.array([size[1], size[0]], dtype=np.float32)
    corners = _corners(boxes[:, :2] * scale, boxes[:, 2:] * scale)
    flat = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
    queries, labels = np.unravel_index(flat, scores.shape)
    return Decoded(corners[queries], scores[queries, labels], labels)


def rows(output: Floats) -> Decoded:
    """(N, 6): x1, y1, x2, y2 in pixels, score, class index; of models that choose their boxes themselves, as YOLOv10."""
    _check(output, (None, _CORNERS + 2), "(boxes, 4 corners + score + class)")
    return Decoded(output[:, :_CORNERS], output[:, _CORNERS], output[:, _CORNERS + 1].astype(np.intp))


def split_rt_detr(output: Floats, classes: int) -> tuple[Floats, Floats]:
    """Scores (Q, K) and boxes (Q, 4) from an output that has both: (Q, 4 + K), boxes first."""
    _check(output, (None, _CORNERS + classes), "(queries, 4 + classes)")
    return output[:, _CORNERS:], output[:, :_CORNERS]


def activated(scores: Floats, activation: str) -> Floats:
    """Scores (…, K) after `none`, `sigmoid` or `softmax` over the classes."""
    if activation == "none":
        return scores
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)), dtype=np.float32)
    exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True), dtype=np.float32)


def _best_class(boxes: Floats, scores: Floats) -> Decoded:
    labels = scores.argmax(axis=1)
    return Decoded(boxes, scores[np.arange(len(scores)), labels], labels)


def _corners(middle: Floats, sides: Floats) -> Floats:
    return np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)


def _check(output: Floats, shape: tuple[int | None, int | None], meaning: str) -> None:
    fits = output.ndim == 2 and all(want in (None, got) for want, got in zip(shape, output.shape, strict=True))
    if not fits:
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"expected {wanted} {meaning}; got {' x '.join(map(str, output.shape))}")
