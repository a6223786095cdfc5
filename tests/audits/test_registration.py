"""Laying one picture over another and comparing their detail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import photos
from PIL import Image

from datasetops.audits.images.registration import align


def grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX))


def crops(left: int, top: int, size: int) -> npt.NDArray[np.uint8]:
    return np.stack([grey(photo.crop((left, top, left + size, top + size))) for photo in photos()])


def test_a_picture_agrees_with_itself_and_not_with_another() -> None:
    both = crops(100, 20, 320)
    same = align(both, both)
    assert (same.detail > 0.999).all()
    assert np.allclose(same.affine, np.eye(2, 3), atol=1e-3)
    assert align(both, both[::-1]).detail.max() < 0.3


@pytest.mark.parametrize(("left", "top", "size"), [(120, 20, 320), (100, 50, 320), (110, 30, 290), (84, 10, 350)])
def test_a_shifted_or_resized_crop_is_laid_over_the_other(left: int, top: int, size: int) -> None:
    found = align(crops(100, 20, 320), crops(left, top, size))
    assert (found.detail > 0.85).all()
    # From coordinates in the first crop to those in the second, both from -1 to 1.
    scale = 320 / size
    x, y = ((100 + 160 - left) * 2 / size - 1, (20 + 160 - top) * 2 / size - 1)
    assert np.allclose(found.affine, [[scale, 0, x], [0, scale, y]], atol=0.03)


def test_a_slight_turn_is_undone_and_a_half_as_sharp_copy_agrees() -> None:
    whole = photos()[0].crop((60, 0, 480, 420))
    turned = whole.rotate(4, Image.Resampling.BICUBIC).crop((50, 50, 370, 370))
    found = align(grey(whole.crop((50, 50, 370, 370)))[None], grey(turned)[None])
    assert found.detail[0] > 0.85
    small = whole.resize((32, 32), Image.Resampling.BOX)
    half = small.resize((16, 16), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BICUBIC)
    assert align(grey(small)[None], grey(half)[None]).detail[0] > 0.85


@settings(max_examples=20)
@given(gain=st.floats(0.2, 1.0), offset=st.integers(0, 50))
def test_brightness_and_contrast_do_not_matter(gain: float, offset: int) -> None:
    both = crops(100, 20, 320)
    dimmed = (both * gain * 0.8 + offset).astype(np.uint8)
    assert (align(both, dimmed).detail > 0.93).all()


def test_flat_pictures_no_pairs_and_wrong_shapes() -> None:
    flat = np.zeros((2, 32, 32), np.uint8)
    assert np.isfinite(align(flat, crops(0, 0, 400)).detail).all()
    assert align(flat, flat).detail.max() < 0.5
    assert align(flat[:0], flat[:0]).affine.shape == (0, 2, 3)
    with pytest.raises(ValueError, match=r"\(P, n, n\)"):
        align(flat, flat[:, :, :30])
