"""Masks as CVAT's runs, which go row by row through a bounding box, first of the background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasetops.labeling.masks import check_size


class Runs(NamedTuple):
    """CVAT's form of a mask: where its bounding box lies in the image, in pixels, and the runs in it."""

    runs: list[int]
    left: int
    top: int
    width: int
    height: int


def to_runs(mask: NDArray[np.bool_]) -> Runs:
    """Raises ValueError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("the mask is empty")
    top, left = int(rows[0]), int(columns[0])
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = inside.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return Runs([0, *runs] if flat[0] else runs, left, top, inside.shape[1], inside.shape[0])


def from_runs(runs: Runs, width: int, height: int) -> tuple[NDArray[np.bool_], int]:
    """The mask in an image of this size, and how many of its pixels lie outside and are cut off. Raises ValueError."""
    check_size(width, height)
    if runs.width > width or runs.height > height:
        raise ValueError(f"the mask is larger than the image: {runs.width} x {runs.height} pixels")
    lengths = np.asarray(runs.runs, np.int64)
    if runs.width < 1 or runs.height < 1 or (lengths.size and lengths.min() < 0):
        raise ValueError("a side or a run of the mask is negative or zero")
    if int(lengths.sum()) != runs.width * runs.height:
        raise ValueError(f"the mask's runs cover {int(lengths.sum())} pixels, not {runs.width} x {runs.height}")
    inside = np.repeat(np.arange(lengths.size) % 2 == 1, lengths).reshape(runs.height, runs.width)
    mask = np.zeros((height, width), bool)
    x1, y1 = max(runs.left, 0), max(runs.top, 0)
    x2, y2 = min(runs.left + runs.width, width), min(runs.top + runs.height, height)
    if x2 > x1 and y2 > y1:
        mask[y1:y2, x1:x2] = inside[y1 - runs.top : y2 - runs.top, x1 - runs.left : x2 - runs.left]
    if not mask.any():
        raise ValueError("the mask has no pixel in the image")
    return mask, int(inside.sum()) - int(mask.sum())
