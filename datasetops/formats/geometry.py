"""Extent and area of what stands in `annotations.geometry`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasetops.formats.rle import rle_area, rle_extent


def geometry_extent(geometry: dict[str, Any]) -> tuple[float, float, float, float]:
    """The smallest xyxy box around a mask, polygons or keypoints (all of them where none is marked as labelled)."""
    if "rle" in geometry:
        return rle_extent(geometry["rle"])
    if "polygons" in geometry:
        points = np.concatenate([_pairs(ring) for ring in geometry["polygons"]])
    else:
        triples = np.asarray(geometry["keypoints"], np.float64).reshape(-1, 3)
        points = triples[triples[:, 2] > 0, :2] if (triples[:, 2] > 0).any() else triples[:, :2]
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2


def geometry_area(geometry: dict[str, Any]) -> float | None:
    """Square pixels of a mask, or of polygons by the shoelace formula; None for keypoints."""
    if "rle" in geometry:
        return float(rle_area(geometry["rle"]))
    if "polygons" in geometry:
        return float(sum(abs(_signed_area(_pairs(ring))) for ring in geometry["polygons"]))
    return None


def _pairs(ring: list[float]) -> NDArray[Any]:
    return np.asarray(ring, np.float64).reshape(-1, 2)


def _signed_area(points: NDArray[Any]) -> float:
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
