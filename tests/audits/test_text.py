"""Texts: characters, lengths against boxes, and what readers of the pictures say."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from datasetops.audits.texts.reading import Reader, edit_distance, letters
from datasetops.audits.texts.text import Texts
from datasetops.errors import ModelError
from datasetops.models.ocr import installed_reader
from datasetops.records import Finding
from datasetops.schema import LabelSchema

PLATES = ["B 4711", "M 2029", "HH 305", "K 8123", "S 6640", "DD 917", "KI 058", "L 7384"]


def schema_of(**more: Any) -> LabelSchema:
    return LabelSchema.model_validate({"name": "texts", "version": 1, "tasks": [{"kind": "text", **more}]})


def text(number: int, content: str | None, box: tuple[float, ...] | None = None, **more: Any) -> dict[str, Any]:
    own = {"annotation_id": f"t{number}", "sample_id": "s00000", "kind": "text", "text": content}
    return own | dict(zip(("x1", "y1", "x2", "y2"), box or (), strict=False)) | more


class Silent:
    """Reads nothing."""

    name = "silent"

    def read(self, crop: Image.Image) -> tuple[str, float]:
        return "", 0.0


@pytest.fixture
def told(build: Any) -> Any:
    def findings(*rows: dict[str, Any], **task: Any) -> list[Finding]:
        result = Texts(Silent()).run(build([None], rows, schema=schema_of(**task), width=[640], height=[480]))
        assert len(result.scores) == len(rows)
        assert result.scores["score"].between(0, 1).all()
        return result.findings

    return findings


@pytest.mark.parametrize(
    ("content", "severity", "message", "suggested"),
    [
        ("", "medium", "the text is empty", None),
        (None, "medium", "the text is empty", None),
        (" \u3000", "medium", "the text is blank", None),
        ("ab ", "low", "there is space before or behind the text", None),
        ("a\tb", "medium", "it has characters that cannot be seen: (U+0009) at 2", None),
        ("ab\u200b", "medium", "it has characters that cannot be seen: (U+200B, Zero width space) at 3", None),
        (
            "e\u0301te",
            "low",
            "it is not in the normal form NFC: the same text can be written with other characters",
            "éte",
        ),
        (
            "P\u0430ris",
            "medium",
            "\u0430 (U+0430, Cyrillic small letter a) at 2 stands in a Latin word and looks like Latin a",
            "Paris",
        ),
        (
            "\u041c\u043e\u0441\u043aва oни",
            "medium",
            "o (U+006F, Latin small letter o) at 8 stands in a Cyrillic word and looks like Cyrillic \u043e",
            "\u041c\u043e\u0441\u043aва \u043eни",
        ),
    ],
)
def test_a_fault_of_characters(
    told: Any, content: str | None, severity: str, message: str, suggested: str | None
) -> None:
    (finding,) = told(text(1, content), text(2, "fine"))
    assert (finding.annotation_id, finding.given) == ("t1", content)
    assert (finding.severity, finding.message, finding.suggested) == (severity, message, suggested)


@pytest.mark.parametrize(
    "content",
    ["two\nlines", "5 μm, 3 kΩ", "naïve", "日本 Tokyo", "می\u200cخواهم", "Привет, Anna", "Aβ42", "👩\u200d🔧"],
)
def test_usual_characters_are_not_told(told: Any, content: str) -> None:
    assert told(text(1, content)) == []


def test_alphabet_and_length_of_the_schema(told: Any) -> None:
    rows = [text(1, "AB-01"), text(2, "ab_0ÄÄ"), text(3, "AB" * 9), text(4, "A]^\\")]
    found = told(*rows, alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-]^\\", max_length=8)
    assert [(f.annotation_id, f.severity) for f in found] == [("t2", "high"), ("t3", "high")]
    assert found[0].message == (
        "not in the alphabet: a (U+0061, Latin small letter a) at 1; b (U+0062, Latin small letter b) at 2; "
        "_ (U+005F, Low line) at 3; Ä (U+00C4, Latin capital letter a with diaeresis) at 5, 6"
    )
    assert found[1].message == "the text has 18 characters; at most 8 are allowed"


def test_texts_that_do_not_fit_their_box(told: Any) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(100):
        content = "n" * int(rng.integers(3, 20))
        height = float(rng.uniform(10, 40))
        width = len(content) * height * float(rng.uniform(0.45, 0.65))
        corners = (5.0, 5.0, 5 + width, 5 + height) if number % 3 else (5.0, 5.0, 5 + height, 5 + width)
        rows.append(text(number, content, corners, label="line"))
    rows[10] = text(10, "nnn", (0, 0, 400, 20), label="line")
    rows[20] = text(20, "n" * 60, (0, 0, 40, 20), label="line")
    rows[21] = text(21, "n" * 60 + "\n" + "n" * 60, (0, 0, 40, 20), label="line")
    rows[22] = text(22, "n", (0, 0, 400, 20), label="line")
    first, second = told(*rows)
    assert first.message.startswith("3 characters in a box of 400 x 20 pixels: too few by ")
    assert second.message.startswith("60 characters in a box of 40 x 20 pixels: too many by ")


def test_without_texts_it_says_so(build: Any) -> None:
    assert Texts().run(build([None], schema=schema_of())).summary == {"skipped": "there are no texts"}


def test_edit_distance() -> None:
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("ab", "ba"), ("x", "x"))] == [
        *(3, 3, 2, 0)
    ]
    assert letters(" a\u3000e\u0301\n") == "aé"


def written(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (400, 40 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((10, 40 * number + 5), line, fill="black", font=FONT)
    return image


FONT = ImageFont.load_default(size=24)


class Matching:
    """Reads lines of a known set by comparing pixels: what it was shown and a crop of the same line are equal."""

    name = "matching"

    def __init__(self, lines: list[str], confidence: float) -> None:
        self._known = {line: np.asarray(written([line]).crop(place(0))) for line in lines}
        self._confidence = confidence

    def read(self, crop: Image.Image) -> tuple[str, float]:
        pixels = np.asarray(crop)
        for line, known in self._known.items():
            if known.shape == pixels.shape and (known == pixels).all():
                return line, self._confidence
        return "", 0.0


def place(number: int) -> tuple[int, int, int, int]:
    return 5, 40 * number, 200, 40 * number + 40


def read(build: Any, reader: Reader, labels: list[str], **image: Any) -> Any:
    rows = [text(number, label, place(number)) for number, label in enumerate(labels)]
    sink = io.BytesIO()
    written(PLATES).save(sink, "PNG", **image)
    return Texts(reader).run(build([sink.getvalue()], rows, schema=schema_of(), width=[400], height=[40 * len(PLATES)]))


def test_what_a_sure_reader_reads_otherwise(build: Any) -> None:
    labels = [*PLATES]
    labels[1], labels[2], labels[4] = "M 2O29", "HH 305X9", "S6640"
    result = read(build, Matching(PLATES, 0.99), labels)
    assert [(f.annotation_id, f.severity, f.suggested, f.message) for f in result.findings] == [
        ("t1", "low", "M 2029", "a reader reads 'M 2029', sure to 99%: letters that look alike"),
        ("t2", "medium", "HH 305", "a reader reads 'HH 305', sure to 99%: character error rate 0.29"),
    ]
    assert result.summary["read"] == {"texts": 8, "sure": 8}
    assert result.summary["character error rate"] == round(3 / 42, 4)


def test_a_reader_that_is_unsure_or_hopeless_says_nothing(build: Any) -> None:
    labels = [line[::-1] for line in PLATES]
    unsure = read(build, Matching(PLATES, 0.6), labels)
    hopeless = read(build, Matching(PLATES, 0.99), labels)
    assert unsure.findings == hopeless.findings == []
    assert unsure.summary["read"] == {"texts": 8, "sure": 0}
    assert hopeless.summary["read"]["left out"].startswith("the reader cannot read these texts")


def test_images_that_viewers_turn_are_not_read(build: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(build, Matching(PLATES, 0.99), ["X 1", *PLATES[1:]], exif=exif)
    assert turned.summary["read"] == {"texts": 0, "sure": 0}


def test_an_image_that_cannot_be_read_is_passed_over(build: Any) -> None:
    rows = [text(0, "A 1", place(0)), text(1, "A 1")]
    result = Texts(Matching(PLATES, 0.99)).run(build([b"no image"], rows, schema=schema_of(), width=[400], height=[40]))
    assert (result.findings, result.summary["read"]) == ([], {"texts": 0, "sure": 0})


READERS = [name for name in ("rapidocr", "rapidocr_onnxruntime") if importlib.util.find_spec(name)]


@pytest.mark.skipif(bool(READERS), reason="a reader is installed")
def test_without_a_reader_the_summary_says_so(build: Any) -> None:
    with pytest.raises(ModelError, match="No reader of texts is installed"):
        installed_reader()
    result = Texts().run(build([None], [text(1, "fine")], schema=schema_of()))
    assert result.summary["reader"] == "none: No reader of texts is installed. Install one with: pip install rapidocr"


@pytest.mark.slow
@pytest.mark.skipif(not READERS, reason="neither rapidocr nor rapidocr_onnxruntime is installed")
def test_an_installed_reader_reads_plain_lines(build: Any) -> None:
    labels = [*PLATES]
    labels[3] = "WRONG 1"
    result = read(build, installed_reader(), labels)
    assert "t3" in {finding.annotation_id for finding in result.findings}
    assert result.summary["character error rate"] < 0.3
