"""Places in an image as it is stored, and as viewers show it: EXIF orientation 1 to 8 (Exif 2.32, tag 0x0112).

Points are continuous pixels: an image of width w spans x from 0 to w, so edges map to edges. Both directions are exact
inverses but for the rounding of a subtraction.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasetops.labeling.base import ImageSize

# Orientation → whether to mirror left and right, then top and bottom, then swap the axes.
_STEPS: Final = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


def shown_size(size: ImageSize) -> tuple[int, int]:
    """Width and height in pixels as viewers show the image. Raises ValueError for an orientation outside 1 to 8."""
    return (size.height, size.width) if _steps(size)[2] else (size.width, size.height)


def to_shown(points: ArrayLike, size: ImageSize) -> NDArray[np.float64]:
    """Points (N, 2), x and y in pixels as stored, as (N, 2) in the shown image. Raises ValueError as `shown_size`."""
    left_right, top_bottom, swap = _steps(size)
    result = _mirrored(_pairs(points), size, left_right, top_bottom)
    return result[:, ::-1].copy() if swap else result


def to_stored(points: ArrayLike, size: ImageSize) -> NDArray[np.float64]:
    """Points (N, 2) of the shown image as (N, 2) in the stored one; undoes `to_shown`."""
    left_right, top_bottom, swap = _steps(size)
    pairs = _pairs(points)
    return _mirrored(pairs[:, ::-1] if swap else pairs, size, left_right, top_bottom)


def mask_to_shown(mask: NDArray[Any], size: ImageSize) -> NDArray[Any]:
    """A mask or picture (height, width, …) as stored, as it is shown. Raises ValueError where it has another size."""
    _check_shape(mask, (size.height, size.width))
    left_right, top_bottom, swap = _steps(size)
    turned = _flipped(mask, left_right, top_bottom)
    return np.swapaxes(turned, 0, 1) if swap else turned


def mask_to_stored(mask: NDArray[Any], size: ImageSize) -> NDArray[Any]:
    """Undoes `mask_to_shown`; the mask (height, width, …) has the size of the shown image."""
    _check_shape(mask, shown_size(size)[::-1])
    left_right, top_bottom, swap = _steps(size)
    return _flipped(np.swapaxes(mask, 0, 1) if swap else mask, left_right, top_bottom)


def _steps(size: ImageSize) -> tuple[bool, bool, bool]:
    if size.orientation not in _STEPS:
        raise ValueError(f"orientation: expected 1 to 8; got {size.orientation!r}")
    return _STEPS[size.orientation]


def _pairs(points: ArrayLike) -> NDArray[np.float64]:
    pairs = np.asarray(points, np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"points: expected the shape (N, 2); got {pairs.shape}")
    return pairs


def _mirrored(points: NDArray[np.float64], size: ImageSize, left_right: bool, top_bottom: bool) -> NDArray[np.float64]:
    result = points.copy()
    if left_right:
        result[:, 0] = size.width - points[:, 0]
    if top_bottom:
        result[:, 1] = size.height - points[:, 1]
    return result


def _flipped(mask: NDArray[Any], left_right: bool, top_bottom: bool) -> NDArray[Any]:
    return mask[:: -1 if top_bottom else 1, :: -1 if left_right else 1]


def _check_shape(mask: NDArray[Any], expected: tuple[int, int]) -> None:
    if mask.shape[:2] != expected:
        raise ValueError(f"mask: expected {expected[1]} x {expected[0]} pixels; got {mask.shape[1]} x {mask.shape[0]}")
