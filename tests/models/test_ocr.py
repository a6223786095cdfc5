"""Texts in images: what an installed RapidOCR reads, and where it is not installed, what is said."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from datasetops.errors import ModelError
from datasetops.models.ocr import PACKAGES, installed_reader, lines_of, open_ocr
from datasetops.models.predictor import Prediction, Predictor, Request

pytestmark = pytest.mark.slow

INSTALLED = [name for name in PACKAGES if importlib.util.find_spec(name)]
needs_reader = pytest.mark.skipif(not INSTALLED, reason=f"neither {' nor '.join(PACKAGES)} is installed")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_ocr("rapidocr", Path(), Request("text"))


def sign() -> Image.Image:
    """Two lines: black at (60, 40), red at (260, 180), 40 pixels high."""
    image = Image.new("RGB", (640, 300), "white")
    font = ImageFont.load_default(40)
    draw = ImageDraw.Draw(image)
    draw.text((60, 40), "PARKING 24", font=font, fill="black")
    draw.text((260, 180), "Exit 7", font=font, fill="red")
    return image


def by_text(predictions: list[Prediction]) -> dict[str, Prediction]:
    return {(one.text or "").replace(" ", ""): one for one in predictions}


@pytest.mark.skipif(bool(INSTALLED), reason="a reader is installed")
def test_without_a_reader_the_remedy_names_the_package() -> None:
    with pytest.raises(ModelError, match=r"No reader of texts is installed\.\nInstall one with: pip install rapidocr"):
        open_ocr("rapidocr", Path(), Request())


def test_there_is_one_reader() -> None:
    with pytest.raises(ModelError, match=r"no reader of texts 'tesseract'.*\n.*rapidocr"):
        open_ocr("tesseract", Path(), Request())


@needs_reader
def test_lines_are_read_where_they_stand(predictor: Predictor) -> None:
    image = sign()
    answers, nothing = predictor.predict([predictor.prepare(image), Image.new("RGB", (64, 64), "white")])
    assert nothing == []
    assert [one.score for one in answers] == sorted((one.score for one in answers), reverse=True)
    found = by_text(answers)
    assert set(found) == {"PARKING24", "Exit7"}
    for text, (x, y) in (("PARKING24", (60, 40)), ("Exit7", (260, 180))):
        one = found[text]
        assert (one.kind, one.name) == ("text", None)
        assert one.box is not None
        assert 0.8 < one.score <= 1
        assert abs(one.box[0] - x) < 15
        assert y - 10 < one.box[1] < one.box[3] < y + 60


def test_blanks_at_the_ends_of_a_line_are_no_part_of_it() -> None:
    corners = [[0, 0], [9, 0], [9, 9], [0, 9]]
    found = lines_of([(corners, " Exit 7 ", 0.9), (corners, "  ", 0.8), (corners, "x", 0.7)])
    assert [(line.text, line.score) for line in found] == [("Exit 7", 0.9), ("x", 0.7)]


@needs_reader
def test_slanted_lines_stay_within_the_image(predictor: Predictor) -> None:
    image = sign().rotate(15, expand=True, fillcolor="white")
    (answers,) = predictor.predict([predictor.prepare(image)])
    assert "PARKING24" in by_text(answers)
    for one in answers:
        assert one.box is not None
        assert 0 <= one.box[0] < one.box[2] <= image.width
        assert 0 <= one.box[1] < one.box[3] <= image.height


@needs_reader
def test_options_and_tasks() -> None:
    strict = open_ocr("rapidocr", Path(), Request(options={"min_score": 1.0}))
    assert by_text(strict.predict([strict.prepare(sign())])[0]) == {}
    assert strict.digest != open_ocr("rapidocr", Path(), Request()).digest
    assert strict.digest == open_ocr("rapidocr", Path(), Request(options={"min_score": 1})).digest
    with pytest.raises(ModelError, match="gives text, not box"):
        open_ocr("rapidocr", Path(), Request("box"))


@needs_reader
def test_a_single_line_is_read_without_looking_for_it() -> None:
    text, score = installed_reader().read(sign().crop((40, 30, 400, 100)))
    assert text.replace(" ", "") == "PARKING24"
    assert score > 0.8
