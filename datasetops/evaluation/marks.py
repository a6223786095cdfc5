"""Regions drawn on a small picture of their image: boxes as rectangles, polygons and masks as outlines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from datasetops.labeling.masks import decoded

Colour: TypeAlias = tuple[int, int, int]

GIVEN: Final = (64, 200, 90)  # what people drew
FOUND: Final = (255, 64, 64)  # what the model found, of two the second
FOUND_FIRST: Final = (64, 128, 255)  # what the first of two models found
_WIDTH: Final = 2  # pixels of a line


@dataclass(frozen=True)
class Mark:
    """A region by its `corners`, xyxy in the image's pixels, and by its `geometry` (JSON) where it has a shape."""

    corners: tuple[float, ...]
    geometry: str | None
    colour: Colour


def draw_marks(picture: Image.Image, marks: Iterable[Mark], scale: float) -> None:
    """Draw on an RGB picture that is `scale` times as large as its image."""
    pen = ImageDraw.Draw(picture)
    for mark in marks:
        shape = {} if mark.geometry is None else orjson.loads(mark.geometry)
        for ring in shape.get("polygons", ()):
            points = [(x, y) for x, y in (np.reshape(ring, (-1, 2)) * scale).tolist()]
            pen.line([*points, points[0]], fill=mark.colour, width=_WIDTH)
        if "rle" in shape:
            picture.paste(mark.colour, mask=_edge(shape["rle"], picture.size))
        if not {"polygons", "rle"} & set(shape):
            x1, y1, x2, y2 = (value * scale for value in mark.corners)
            corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            pen.rectangle(corners, outline=mark.colour, width=_WIDTH)


def _edge(rle: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    """The innermost pixels of a mask along its outline, in a picture of this size."""
    inside = Image.fromarray(decoded(rle).astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(2 * _WIDTH + 1)))
