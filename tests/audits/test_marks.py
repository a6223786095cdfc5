"""Annotations drawn on the pictures of a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.audits.images.marks import mark
from datasetops.records import canonical_json


def marked(geometry: dict[str, Any], offset: tuple[int, int] = (0, 0), scale: float = 1.0) -> Any:
    """Which pixels (60, 80) of a black picture are changed."""
    picture = mark(Image.new("RGB", (80, 60)), canonical_json(geometry).decode(), offset, scale)
    return np.asarray(picture).any(axis=2)


def test_outlines_masks_and_labeled_points_stand_where_they_are() -> None:
    outline = marked({"polygons": [[10, 10, 40, 10, 40, 30, 10, 30]]})
    assert outline[10, 10:41].all()
    assert outline[10:31, 10].all()
    assert not outline[11:30, 11:40].any()
    points = marked({"keypoints": [20, 20, 2, 60, 40, 0]})
    assert points[20, 20]
    assert not points[40, 60]
    inside = marked({"rle": {"size": [60, 80], "counts": [60 * 10, 60 * 5, 60 * 65]}})
    assert inside[:, 10:15].all()
    assert inside.sum() == 60 * 5


def test_a_part_of_an_image_is_marked_at_its_scale() -> None:
    points = marked({"keypoints": [110, 70, 2]}, offset=(100, 60), scale=2.0)
    assert points[20, 20]
    assert points.sum() < 60
    inside = marked({"rle": {"size": [120, 160], "counts": [120 * 110, 120 * 5, 120 * 45]}}, (100, 60), 2.0)
    assert inside[:, 22:28].all()
    assert not inside[:, 35:].any()


@pytest.mark.parametrize(
    "geometry",
    [{"polygons": [[]]}, {"polygons": [[1, 2, 3]]}, {"keypoints": [1]}, {"rle": {"size": [60, 80], "counts": [1]}}, {}],
)
def test_what_cannot_be_drawn_is_left_out(geometry: dict[str, Any]) -> None:
    assert not marked(geometry).any()
