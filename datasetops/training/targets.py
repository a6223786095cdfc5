"""Which cells of a detector's maps answer for which object.

An object is the business of the cells around its middle (Tian et al., "FCOS", ICCV 2019), on the level whose stride fits
its size, or on two where it lies between. As boxes are regressed for each class, a cell may answer for one object of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

_FITTING: Final = 6.0  # strides across an object that a level is for
_REACH: Final = 0.75  # octaves around it: neighbouring levels share what lies between them
_RADIUS: Final = 1.5  # strides from the middle


@dataclass(frozen=True)
class Objects:
    """Objects of an image in scaled pixels: `boxes` (N, 4) xyxy, `labels` (N,), `weights` (N,). `ignored` (M, 4): areas
    that teach nothing."""

    boxes: Floats
    labels: Ints
    weights: Floats
    ignored: Floats

    def flipped(self, flip: tuple[bool, bool], width: float, height: float) -> Objects:
        return Objects(
            mirrored(self.boxes, flip, width, height), self.labels, self.weights,
            mirrored(self.ignored, flip, width, height),
        )  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """P cells that answer for an object: `cell`, `label`, `box` (P, 4), `weight`, those of an object summing to its own.
    `silent`: cells that are not asked."""

    cell: Ints
    label: Ints
    box: Floats
    weight: Floats
    silent: npt.NDArray[np.bool_]


def cell_middles(shapes: Sequence[tuple[int, int]], strides: Sequence[int]) -> tuple[Floats, Floats]:
    """Middles (C, 2) in scaled pixels and strides (C,) of the cells of all levels, of rows and columns `shapes`."""
    middles, own = [], []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y, x = np.divmod(np.arange(rows * columns), columns)
        middles.append(np.stack([x + 0.5, y + 0.5], axis=1) * stride)
        own.append(np.full(rows * columns, stride))
    return np.concatenate(middles).astype(np.float32), np.concatenate(own).astype(np.float32)


def assign(objects: Objects, middles: Floats, strides: Floats) -> Targets:
    """Cells for each object; where two objects of a class want a cell the smaller one gets it."""
    boxes = objects.boxes
    silent = np.asarray(_inside(middles, objects.ignored).any(axis=1))
    if not len(boxes):
        none = np.zeros(0, dtype=np.int64)
        return Targets(none, none, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), silent)
    sides = boxes[:, 2:] - boxes[:, :2]
    away = np.abs(middles[:, None] - (boxes[None, :, :2] + boxes[None, :, 2:]) / 2).max(axis=2)  # (C, N)
    octave = np.log2(np.maximum(np.sqrt(sides.prod(axis=1)), 1e-3) / _FITTING)
    own = np.log2(strides)
    octave = np.clip(octave, own.min(), own.max())
    fits = np.abs(own[:, None] - octave[None]) <= _REACH
    wanted = fits & (away <= _RADIUS * strides[:, None]) & _inside(middles, boxes)
    lost = np.flatnonzero(~wanted.any(axis=0))
    if len(lost):  # thin or tiny: the nearest cell of a fitting level
        distance = np.where(fits[:, lost], away[:, lost], np.inf)
        wanted[distance.argmin(axis=0), lost] = True
    cell, number = np.nonzero(wanted)
    label = objects.labels[number]
    order = np.lexsort((number, sides[number].prod(axis=1), label, cell))
    cell, number, label = cell[order], number[order], label[order]
    first = np.ones(len(cell), dtype=bool)
    first[1:] = (cell[1:] != cell[:-1]) | (label[1:] != label[:-1])
    cell, number, label = cell[first], number[first], label[first]
    shares = np.bincount(number, minlength=len(boxes))
    weight = (objects.weights[number] / shares[number]).astype(np.float32)
    return Targets(cell, label, boxes[number], weight, silent)


def mirrored(boxes: Floats, flip: tuple[bool, bool], width: float, height: float) -> Floats:
    x1, y1, x2, y2 = boxes.T
    if flip[0]:
        x1, x2 = width - x2, width - x1
    if flip[1]:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def _inside(points: Floats, boxes: Floats) -> npt.NDArray[Any]:
    """(C, N)"""
    x, y = points[:, :1], points[:, 1:]
    return (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
