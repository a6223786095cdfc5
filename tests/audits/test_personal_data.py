"""Faces of real photographs, mirrored too; what files tell beside their pixels; any detector by setting."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from typer.testing import CliRunner

from datasetops.audits.images.personal_data import PersonalData
from datasetops.audits.run import audit
from datasetops.cli.main import app
from datasetops.embedded import POSITION
from datasetops.errors import ModelError
from datasetops.manifest import Repository
from datasetops.models.faces import FACE, open_faces
from datasetops.models.predictor import Prediction, Request


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


# Faces of coco_tiny as seen by a person: file, and the middle of the face in pixels.
FACES = {"000000368402.jpg": (256, 136), "000000574769.jpg": (251, 172), "000000012448.jpg": (299, 297)}


class Everything:
    """A detector of many classes, which says all of them of every image."""

    name, revision, digest, kinds = "everything", None, "0" * 64, ("box",)
    vocabulary = ("car", "human head", "licence plate")

    def prepare(self, image: Image.Image) -> tuple[int, int]:
        return image.size

    def predict(self, prepared: Sequence[tuple[int, int]]) -> list[list[Prediction]]:
        return [[Prediction("box", name, 0.9, (0, 0, *size)) for name in self.vocabulary] for size in prepared]


def test_what_files_tell_is_found_without_a_detector(build: Any) -> None:
    image = Image.fromarray(np.full((30, 40, 3), 90, dtype=np.uint8))
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 12.0)})
    result = PersonalData().run(build([encoded(image), encoded(image, "JPEG", exif=exif), None]))
    (finding,) = result.findings
    assert (finding.sample_id, finding.severity) == ("s00001", "medium")
    assert finding.message == f"its file tells more than its pixels: {POSITION}"
    assert result.scores["score"].tolist() == [1.0, 0.2]
    assert result.summary["detector"].startswith("none")


def test_of_a_general_detector_people_and_plates_count(build: Any) -> None:
    image = encoded(Image.fromarray(np.full((30, 40, 3), 90, dtype=np.uint8)))
    result = PersonalData().run(replace(build([image]), personal_detector=Everything))
    assert [(finding.message, finding.box) for finding in result.findings] == [
        ("may be a human head (score 0.90)", (0, 0, 40, 30)),
        ("may be a licence plate (score 0.90)", (0, 0, 40, 30)),
    ]


@pytest.mark.slow
def test_faces_of_photographs_are_found_as_they_are_and_mirrored(data: Path) -> None:
    detector = open_faces("opencv", data, Request())
    for name, (x, y) in FACES.items():
        image = Image.open(data / "coco_tiny" / "images" / name).convert("RGB")
        for shown, middle in ((image, x), (ImageOps.mirror(image), image.width - x)):
            (found,) = detector.predict([detector.prepare(shown)])
            best = found[0]
            assert best.name == FACE
            assert best.score >= 0.5
            assert best.box is not None
            assert best.box[0] < middle < best.box[2]
            assert best.box[1] < y < best.box[3]
            assert found == detector.predict([detector.prepare(shown)])[0]
    flat = Image.fromarray(np.full((200, 300, 3), 90, dtype=np.uint8))
    tiny = Image.fromarray(np.full((5, 300, 3), 90, dtype=np.uint8))
    assert detector.predict([detector.prepare(one) for one in (flat, tiny)]) == [[], []]


def test_names_and_options_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no detector of faces 'opencvv'"):
        open_faces("opencvv", tmp_path, Request())
    with pytest.raises(ModelError, match="no option"):
        open_faces("opencv", tmp_path, Request(options={"sides": 3}))


@pytest.mark.slow
def test_the_command_looks_for_faces_where_the_check_is_named(data: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "0"
    photos.mkdir(parents=True)
    for name in FACES:
        shutil.copy(data / "coco_tiny" / "images" / name, photos)
    run = CliRunner()
    for words in (
        ["init", "--schema", "digits"],
        ["ingest", str(photos.parent)],
        ["audit", "v1", "--check", "personal_data", "--report", str(tmp_path / "report.html")],
    ):
        done = run.invoke(app, [*words, "-C", str(tmp_path)])
        assert done.exit_code == 0, done.output
    repository = Repository.open(tmp_path)
    named = audit(repository, repository.version("v1"), checks=["personal_data"])
    assert named.reused
    assert named.findings.num_rows >= len(FACES)
    assert named.info["parameters"]["personal_model"] == "faces:opencv"
    assert "personal_model" not in audit(repository, repository.version("v1"), checks=["balance"]).info["parameters"]
