"""Small pictures, their spectra, and turning both."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.audits.images.perceptual import (
    SIDE,
    SYMMETRIES,
    picture,
    pictures,
    spectra,
    transform,
    turned_spectra,
    upright,
)
from datasetops.errors import FormatError

SHOWN = np.stack([picture(photo) for photo in photos()])


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_a_turned_picture_has_the_turned_spectrum(symmetry: int) -> None:
    turned = np.asarray(transform(SHOWN, symmetry))
    assert np.allclose(spectra(turned), turned_spectra(spectra(SHOWN), symmetry), atol=1e-5)


def test_the_symmetries_are_those_of_pillow_and_all_differ() -> None:
    image = Image.fromarray(SHOWN[0])
    wanted = {np.asarray(image).tobytes()}
    wanted |= {np.asarray(image.transpose(way)).tobytes() for way in Image.Transpose}
    assert {np.asarray(transform(SHOWN[0], symmetry)).tobytes() for symmetry in range(SYMMETRIES)} == wanted
    assert len(wanted) == SYMMETRIES


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_however_a_picture_is_turned_upright_gives_the_same_vectors(symmetry: int) -> None:
    def vectors(shown: np.ndarray) -> list[list[float]]:
        found, rows, _ = upright(spectra(shown))
        assert set(rows.tolist()) == {0, 1}
        return sorted(np.round(found, 4).tolist())

    turned = np.ascontiguousarray(transform(SHOWN, symmetry))
    assert np.allclose(vectors(turned), vectors(SHOWN), atol=1e-3)


def test_flat_images_show_nothing_and_dark_ones_are_stretched() -> None:
    flat = picture(Image.new("RGB", (50, 40), (9, 9, 9)))
    assert not flat.any()
    assert upright(spectra(flat[None]))[0].shape == (0, 64)
    dark = picture(Image.fromarray((np.asarray(photos()[0]) // 12).astype(np.uint8)))
    assert (dark.min(), dark.max()) == (0, 255)
    assert np.corrcoef(dark.ravel(), SHOWN[0].ravel())[0, 1] > 0.99


def test_pictures_come_in_order_and_say_which_could_not_be_had() -> None:
    class Broken:
        def read(self, row: int) -> bytes:
            raise NotImplementedError

        def open(self, row: int) -> Image.Image:
            if row == 7:
                raise FormatError("truncated")
            return photos()[row % 2]

    shown, readable = pictures(Broken(), np.array([4, 7, 5]), jobs=2)
    assert shown.shape == (3, SIDE, SIDE)
    assert readable.tolist() == [True, False, True]
    assert (shown[0] == SHOWN[0]).all()
    assert not shown[1].any()
    assert (shown[2] == SHOWN[1]).all()
    assert pictures(Broken(), np.empty(0, np.int64))[0].shape == (0, SIDE, SIDE)
