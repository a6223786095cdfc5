"""What is annotated, drawn on a picture: the outline of polygons, the pixels of masks, keypoints."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson
from PIL import Image, ImageDraw

from datasetops.audits.outlines.overlaps import draw, pixels

_COLOUR: Final = (255, 214, 10)
_OPACITY: Final = 0.45  # of a mask
_DOT: Final = 2.5  # radius of a keypoint


def mark(picture: Image.Image, geometry: str, offset: tuple[float, float], scale: float) -> Image.Image:
    """The RGB picture with an annotation's geometry on it; unchanged if that cannot be read.

    The picture shows an image from `offset` (x, y in the image's pixels) on, `scale` times as large.
    """
    try:
        return _mark(picture.copy(), orjson.loads(geometry), np.asarray(offset, np.float64), scale)
    except (ArithmeticError, LookupError, TypeError, ValueError):  # the check `mask` tells of broken ones
        return picture


def _mark(picture: Image.Image, geometry: dict[str, Any], offset: Any, scale: float) -> Image.Image:
    pen = ImageDraw.Draw(picture)
    for ring in geometry.get("polygons", ()):
        points = [tuple(point) for point in ((np.reshape(ring, (-1, 2)) - offset) * scale).tolist()]
        pen.line([*points, points[0]], fill=_COLOUR, width=1)
    for x, y, labeled in np.reshape(geometry.get("keypoints", ()), (-1, 3)).tolist():
        if labeled:
            across, down = (np.array([x, y]) - offset) * scale
            pen.ellipse((across - _DOT, down - _DOT, across + _DOT, down + _DOT), fill=_COLOUR, outline=(0, 0, 0))
    if "rle" in geometry:
        inside = pixels(draw(geometry, *geometry["rle"]["size"]))
        left, top = (int(side) for side in offset)
        size = (round(picture.width / scale), round(picture.height / scale))
        shown = Image.fromarray(inside.astype(np.uint8) * round(255 * _OPACITY))
        shown = shown.crop((left, top, left + size[0], top + size[1])).resize(picture.size)
        picture.paste(Image.new("RGB", picture.size, _COLOUR), mask=shown)
    return picture
