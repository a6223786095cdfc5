"""Masks as boolean arrays (height, width) and as COCO's compressed RLE, the form of the column `geometry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datasetops.formats.rle import run_lengths
from datasetops.images import PIXEL_LIMIT


def decoded(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The array of a sound RLE mask (`formats.rle.rle_fault` tells whether it is). Raises ValueError for a huge one."""
    height, width = rle["size"]
    check_size(width, height)
    runs = run_lengths(rle["counts"])
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """`{"size": [height, width], "counts": compressed text}`, as in the column `geometry`."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def check_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise ValueError(f"the mask has {width} x {height} pixels, over the limit of {PIXEL_LIMIT:,}")
