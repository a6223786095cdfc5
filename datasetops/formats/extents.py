"""Checks of boxes and of the extents of polygons against their image, many rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Image sizes are whole numbers and coordinates often are not, so a far edge may overshoot by rounding. The near edge is
# at exactly 0: anything below it is outside, however little.
TOLERANCE = 0.5  # pixels


class ExtentFault(NamedTuple):
    """`severity` is high where the row cannot be used, else what lies outside the image says how much it matters."""

    row: int
    severity: str
    message: str


def extent_faults(
    extents: NDArray[Any], width: NDArray[Any], height: NDArray[Any], *, noun: str, near_tolerance: bool = False
) -> Iterator[ExtentFault]:
    """At most one fault for each row of `extents` (N, 4), xyxy pixels; sizes (N,) are NaN where they are not known.

    High: a coordinate that is no number, no area, wholly outside the image. Medium: out of the image by more than
    `TOLERANCE`; low: by less, at the near edges (not with `near_tolerance`, for coordinates rounded as fractions).
    """
    x1, y1, x2, y2 = extents.T
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(extents).all(axis=1)
        empty = (x2 <= x1) | (y2 <= y1)
        outside = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
        near = np.maximum(-x1, -y1)
        over = np.fmax(near, np.fmax(x2 - width, y2 - height))
        faulty = ~finite | empty | outside | ((near > 0) & (not near_tolerance)) | (over > TOLERANCE)
    for row in np.flatnonzero(faulty).tolist():
        corners = ", ".join(f"{v:g}" for v in extents[row])
        place = f"{noun} ({corners})"
        size = f"{width[row]:g} x {height[row]:g} image"
        if not finite[row]:
            yield ExtentFault(row, "high", f"{place} has a coordinate that is not a number")
        elif empty[row]:
            what = "has zero area" if (x2[row] == x1[row] or y2[row] == y1[row]) else "ends before it begins"
            yield ExtentFault(row, "high", f"{place} {what}")
        elif outside[row]:
            yield ExtentFault(row, "high", f"{place} lies wholly outside the {size}")
        else:
            severity = "medium" if over[row] > TOLERANCE else "low"
            yield ExtentFault(row, severity, f"{place} reaches {over[row]:.3g} px out of the {size}; kept as it is")
