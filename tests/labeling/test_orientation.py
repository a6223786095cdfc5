"""EXIF orientation of points and masks, against Pillow on a real photo."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pictures import photos
from PIL import Image, ImageOps

from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import mask_to_shown, mask_to_stored, shown_size, to_shown, to_stored

ORIENTATIONS = range(1, 9)

sizes = st.builds(ImageSize, st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(ORIENTATIONS))
coordinates = st.floats(-1e4, 1e4, allow_nan=False)
point_lists = arrays.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(2)), elements=coordinates)


@given(point_lists, sizes)
def test_each_direction_undoes_the_other(points: np.ndarray, size: ImageSize) -> None:
    np.testing.assert_allclose(to_stored(to_shown(points, size), size), points, atol=1e-9)
    np.testing.assert_allclose(to_shown(to_stored(points, size), size), points, atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(ORIENTATIONS), st.data())
def test_masks_come_back_as_they_were(width: int, height: int, orientation: int, data: st.DataObject) -> None:
    size = ImageSize(width, height, orientation)
    mask = data.draw(arrays.arrays(bool, (height, width)))
    shown = mask_to_shown(mask, size)
    assert shown.shape == shown_size(size)[::-1]
    np.testing.assert_array_equal(mask_to_stored(shown, size), mask)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_shows_what_pillow_shows(orientation: int) -> None:
    photo = photos()[0].crop((0, 0, 64, 40))
    exif = photo.getexif()
    exif[0x0112] = orientation
    file = BytesIO()
    photo.save(file, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    size = ImageSize(64, 40, orientation)
    assert shown_size(size) == (expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(mask_to_shown(np.asarray(photo), size), expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_move_with_their_pixel(orientation: int) -> None:
    size = ImageSize(64, 40, orientation)
    mask = np.zeros((40, 64), bool)
    mask[7, 51] = True
    shown = mask_to_shown(mask, size)
    y, x = np.argwhere(shown)[0]
    np.testing.assert_array_equal(to_shown([[51.5, 7.5]], size), [[x + 0.5, y + 0.5]])


def test_refuses_what_it_cannot_turn() -> None:
    with pytest.raises(ValueError, match="orientation: expected 1 to 8; got 9"):
        shown_size(ImageSize(4, 3, 9))
    with pytest.raises(ValueError, match=r"points: expected the shape \(N, 2\)"):
        to_shown([1.0, 2.0], ImageSize(4, 3))
    with pytest.raises(ValueError, match="mask: expected 4 x 3 pixels"):
        mask_to_shown(np.zeros((4, 3), bool), ImageSize(4, 3, 6))
