"""Texts in images, read by RapidOCR through the whole verb."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from colours import add_image
from PIL import Image, ImageDraw, ImageFont

from datasetops.manifest import Change, Repository, verify
from datasetops.models.ocr import PACKAGES
from datasetops.preannotate.opening import open_labeler
from datasetops.preannotate.result import PreannotateResult
from datasetops.preannotate.run import preannotate
from datasetops.schema import LabelSchema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(name) for name in PACKAGES), reason="no reader: pip install 'dsops[ocr]'"
    ),
]
SIGNS = {
    "parking": {"PARKING 24": (60, 40), "Exit 7": (260, 180)},
    "invoice": {"Invoice 4711": (40, 30), "Total 89.50": (40, 120), "Thank you": (300, 230)},
    "turned": {"Platform 9": (80, 60)},
    "empty": {},
}
_HEIGHT, _WIDTH = 320, 640


@pytest.fixture
def signs(root: Path) -> Repository:
    """Black on white, 40 pixels high; one photo is stored on its side."""
    schema = {"name": "signs", "version": 1, "tasks": [{"kind": "text"}], "classes": [{"id": 0, "name": "sign"}]}
    repository = Repository.init(root, LabelSchema.model_validate(schema))
    rows = []
    for name, lines in SIGNS.items():
        image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
        for text, place in lines.items():
            ImageDraw.Draw(image).text(place, text, font=ImageFont.load_default(40), fill="black")
        exif = Image.Exif()
        if name == "turned":
            exif[0x0112] = 6  # to be shown turned to the right
            image = image.rotate(90, expand=True)
        rows.append(add_image(root, name, image, exif=exif))
    repository.commit(Change(samples=rows), message="signs")
    return repository


def read(repository: Repository, **options: Any) -> PreannotateResult:
    version = repository.version()
    labeler, prompts = open_labeler(repository, version, "ocr:rapidocr", **options)
    return preannotate(repository, version, labeler, prompts=prompts)


def test_lines_of_text_become_rows_where_they_stand(signs: Repository) -> None:
    made = read(signs)
    assert (made.computed, made.counts["inserted"], made.faults) == (4, 6, ())
    rows = signs.version().annotations()
    assert set(rows["kind"]) == {"text"}
    assert set(rows["source"]) == {"model"}
    assert rows["label"].isna().all()
    for name, lines in SIGNS.items():
        own = rows[rows["sample_id"] == name]
        assert sorted(text.replace(" ", "") for text in own["text"]) == sorted(line.replace(" ", "") for line in lines)
        for row in own.itertuples():
            x, y = next(place for line, place in lines.items() if line.replace(" ", "") == row.text.replace(" ", ""))
            box = (row.x1, row.y1, row.x2, row.y2)
            if name == "turned":  # from the image as stored to the one that is shown
                box = (_WIDTH - row.y2, row.x1, _WIDTH - row.y1, row.x2)
            assert abs(box[0] - x) < 15
            assert y - 10 < box[1] < box[3] < y + 60
            assert 0.8 < row.score <= 1
    assert verify(signs) == []
    again = read(signs)
    assert (again.version, again.computed, again.known) == (None, 0, 4)


def test_what_people_wrote_stays(signs: Repository) -> None:
    own = {"annotation_id": "p/0", "sample_id": "parking", "kind": "text", "text": "PARKING 24 h", "source": "human"}
    corners = dict(zip(("x1", "y1", "x2", "y2"), (60, 40, 300, 90), strict=True))
    signs.commit(Change(annotations=[own | corners]), message="by hand")
    made = read(signs)
    assert (made.asked, made.labeled) == (3, 1)
    rows = signs.version().annotations()
    assert rows[rows["sample_id"] == "parking"]["text"].tolist() == ["PARKING 24 h"]
    assert len(rows) == 5
