"""COCO's run-length encoded masks: run lengths, checks and areas.

Runs count pixels column by column (Fortran order), first of the background. Compressed, they are a text of five bits a
character (`maskApi.c` of the COCO API, Dollár and Lin 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(counts: list[int] | str) -> NDArray[Any]:
    """Runs as int64 from either form of `counts`. Raises ValueError for what is neither."""
    if isinstance(counts, str):
        return _decompressed(counts)
    runs = np.asarray(counts)
    if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
        raise ValueError("run lengths are a list of whole numbers")
    return runs.astype(np.int64)


def _decompressed(text: str) -> NDArray[Any]:
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    more = (codes & 32) != 0
    if codes.min() < 0 or codes.max() > 63 or more[-1]:
        raise ValueError("the compressed run lengths are damaged")
    last = np.flatnonzero(~more)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 12:
        raise ValueError("the compressed run lengths are damaged")
    digit = np.arange(codes.size) - np.repeat(first, length)
    values = np.add.reduceat((codes & 31) << (5 * digit), first)
    values -= np.where(codes[last] & 16, np.int64(1) << (5 * length), 0)  # the top bit of the last digit is the sign
    # From the fourth on, a number is the difference to the run before the last one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def rle_fault(rle: Mapping[str, Any], width: float, height: float) -> str | None:
    """What is wrong with an RLE mask of a `width` x `height` image (NaN where not known), None if nothing is."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        return "mask needs `size` [height, width] and `counts`"
    if not all(isinstance(side, int) and side > 0 for side in size):
        return "mask needs `size` [height, width] and `counts`"
    if width == width and height == height and (size[1] != width or size[0] != height):
        return f"mask of {size[1]} x {size[0]} pixels does not fit the {width:g} x {height:g} image"
    try:
        runs = run_lengths(counts)
    except (ValueError, OverflowError) as error:
        return f"mask cannot be decoded: {error}"
    if runs.size and runs.min() < 0:
        return "mask has a negative run length"
    if int(runs.sum()) != size[0] * size[1]:
        return f"mask's runs cover {int(runs.sum())} pixels, not {size[0] * size[1]}"
    if not runs[1::2].sum():
        return "mask is empty"
    return None


def rle_area(rle: Mapping[str, Any]) -> int:
    """Foreground pixels of a sound mask."""
    return int(run_lengths(rle["counts"])[1::2].sum())


def rle_extent(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The smallest xyxy box around the foreground of a sound mask that is not empty."""
    height = rle["size"][0]
    runs = run_lengths(rle["counts"])
    ends = np.cumsum(runs)
    start, stop = (ends - runs)[1::2], ends[1::2]
    start, stop = start[stop > start], stop[stop > start]
    tall = start // height != (stop - 1) // height  # a run over several columns touches the top and the bottom
    top = 0 if tall.any() else int((start % height).min())
    bottom = height if tall.any() else int(((stop - 1) % height).max()) + 1
    return float(start[0] // height), float(top), float((stop[-1] - 1) // height + 1), float(bottom)
