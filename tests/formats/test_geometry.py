from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from datasetops.formats.extents import extent_faults
from datasetops.formats.geometry import geometry_area, geometry_extent
from datasetops.formats.rle import rle_area, rle_extent, rle_fault, run_lengths


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return generator.random((height, width)) < draw(st.sampled_from([0.01, 0.5, 0.99]))


@given(masks())
def test_rle_agrees_with_pycocotools(mask: np.ndarray) -> None:
    height, width = mask.shape
    encoded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    rle = {"size": [height, width], "counts": encoded["counts"].decode()}
    if not mask.any():
        assert rle_fault(rle, width, height) == "mask is empty"
        return
    assert rle_fault(rle, width, height) is None
    assert rle_area(rle) == mask_api.area(encoded)
    x, y, w, h = mask_api.toBbox(encoded).tolist()
    assert rle_extent(rle) == (x, y, x + w, y + h)
    runs = run_lengths(rle["counts"]).tolist()
    assert rle_area({"counts": runs}) == mask_api.area(encoded)
    assert mask_api.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"] == encoded["counts"]


@pytest.mark.parametrize(
    ("rle", "text"),
    [
        ({"counts": [1]}, "needs `size`"),
        ({"size": [2, 0], "counts": [1]}, "needs `size`"),
        ({"size": [2, 2], "counts": [0, 4, 1]}, "cover 5 pixels, not 4"),
        ({"size": [2, 2], "counts": [-1, 5]}, "negative run length"),
        ({"size": [2, 2], "counts": [0.5, 3.5]}, "whole numbers"),
        ({"size": [2, 2], "counts": "o" * 30}, "damaged"),
        ({"size": [3, 2], "counts": [0, 6]}, "does not fit the 2 x 2 image"),
    ],
)
def test_faulty_rle(rle: dict[str, Any], text: str) -> None:
    assert text in str(rle_fault(rle, 2, 2))


def test_rle_of_an_image_of_unknown_size() -> None:
    assert rle_fault({"size": [2, 2], "counts": [0, 4]}, float("nan"), float("nan")) is None


@pytest.mark.parametrize(
    ("geometry", "extent", "area"),
    [
        ({"polygons": [[0, 0, 4, 0, 4, 3], [5, 5, 6, 5, 6, 6, 5, 6]]}, (0, 0, 6, 6), 7.0),
        ({"rle": {"size": [4, 4], "counts": [5, 2, 9]}}, (1, 1, 2, 3), 2.0),
        ({"keypoints": [9, 9, 0, 1, 2, 2, 3, 4, 1]}, (1, 2, 3, 4), None),
        ({"keypoints": [9, 9, 0]}, (9, 9, 9, 9), None),
    ],
)
def test_extent_and_area(geometry: dict[str, Any], extent: tuple[float, ...], area: float | None) -> None:
    assert geometry_extent(geometry) == extent
    assert geometry_area(geometry) == area


def test_extents_of_images_of_unknown_size_are_checked_for_what_can_be() -> None:
    nan = np.full(3, np.nan)
    boxes = np.array([[0, 0, 9e9, 5], [-1, 0, 5, 5], [3, 3, 3, 5]])
    assert [fault.row for fault in extent_faults(boxes, nan, nan, noun="box")] == [1, 2]
