"""Datasets of FiftyOne that dsops did not make, ingested from a running database."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.errors import FormatError, NotFoundError
from datasetops.fiftyone import export_to_fiftyone, ingest_from_fiftyone, owner_of
from datasetops.ingest import IngestResult
from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("fiftyone")]


@pytest.fixture
def empty(tmp_path: Path, everything: Repository) -> Repository:
    return Repository.init(tmp_path / "taken", LabelSchema.model_validate(everything.schema.model_dump()))


@pytest.fixture
def theirs(tmp_path: Path, fiftyone: Any, name: str) -> Any:
    """Two images, the second one held upright, with labels of every kind that can be taken and two that cannot."""
    fo = fiftyone
    for number in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6 if number else 1
        photos()[number].save(tmp_path / f"{number}.jpg", exif=exif)
    mask = np.ones((107, 64), bool)
    truth = fo.Detections(
        detections=[
            fo.Detection(label="cat", bounding_box=[0.1, 0.1, 0.4, 0.4], confidence=0.5, occluded=True, size="big"),
            fo.Detection(label="dog", bounding_box=[0.5, 0.5, 0.1, 0.25], mask=mask),
            fo.Detection(label="Cat", bounding_box=[0.5, 0.5, 0.1, 0.25]),
            fo.Detection(label="cat", bounding_box=[0.5, 0.5, 0, 0]),
        ]
    )
    first = fo.Sample(str(tmp_path / "0.jpg"), tags=["validation", "blurry"], truth=truth, light="day", turns=[1, 2])
    first["kind"] = fo.Classification(label="cat")
    first["shapes"] = fo.Polylines(
        polylines=[fo.Polyline(label="dog", points=[[(0, 0), (0.5, 0), (0.5, 0.5)]], closed=True)]
    )
    first["poses"] = fo.Keypoints(
        keypoints=[fo.Keypoint(label="dog", points=[(0.5, 0.5), (float("nan"), float("nan"))])]
    )
    first["captured_at"] = datetime(2024, 5, 6, 7, 8, 9)
    first["heat"] = fo.Heatmap(map=np.zeros((2, 2)))
    second = fo.Sample(
        str(tmp_path / "1.jpg"),
        truth=fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0.5, 0.1, 0.4, 0.4])]),
    )
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples([first, second], dynamic=True)
    return dataset


FIELDS = ("truth", "kind", "shapes", "poses")


def take(repository: Repository, name: str, *fields: str, **options: Any) -> IngestResult:
    return ingest_from_fiftyone(repository, name, fields=fields or FIELDS, **options)


def test_images_and_labels_of_every_kind_are_taken(empty: Repository, theirs: Any, name: str) -> None:
    assert owner_of(empty, name) == "others"
    result = take(empty, name, tags="marks")
    assert (result.version.name, result.samples, result.annotations, result.rejected) == ("v1", 2, 6, 2)
    one, two = sorted(result.version.table("samples").to_pylist(), key=lambda row: row["uri"])
    assert (one["split"], two["split"]) == ("val", None)
    assert json.loads(one["metadata"]) == {"light": "day", "marks": "blurry"}
    assert one["captured_at"].isoformat() == "2024-05-06T07:08:09+00:00"
    rows = {(row["sample_id"], row["kind"]): row for row in result.version.table("annotations").to_pylist()}
    box = rows[one["sample_id"], "box"]
    assert [box[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx([64, 42.7, 320, 213.5])
    assert (box["label"], box["score"], box["source"]) == ("cat", 0.5, "import")
    assert json.loads(box["attributes"]) == {"occluded": True, "size": "big"}
    upright = rows[two["sample_id"], "box"]  # relative to the image as it is shown
    assert [upright[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx([64, 42.7, 320, 213.5])
    assert rows[one["sample_id"], "classification"]["label"] == "cat"
    assert json.loads(rows[one["sample_id"], "polygon"]["geometry"])["polygons"] == [
        pytest.approx([0, 0, 320, 0, 320, 213.5])
    ]
    assert json.loads(rows[one["sample_id"], "keypoints"]["geometry"])["keypoints"] == pytest.approx(
        [320, 213.5, 2, 0, 0, 0]
    )
    extent = [rows[one["sample_id"], "mask"][side] for side in ("x1", "y1", "x2", "y2")]
    assert extent == pytest.approx([320, 214, 384, 321])
    told = [finding.message for finding in result.findings]
    assert any("no class 'Cat'; did you mean 'cat'?" in message for message in told)
    assert any("has no area" in message for message in told)
    assert any("field 'turns' holds more than a number" in note for note in result.notes)


def test_taking_it_again_changes_nothing_but_what_changed_there(empty: Repository, theirs: Any, name: str) -> None:
    take(empty, name)
    assert not take(empty, name).changed
    first, second = theirs
    first.truth.detections[0].label = "dog"
    first.save()
    second.truth = None
    second.save()
    counts = take(empty, name).counts["annotations"]
    assert counts == {"added": 0, "changed": 1, "removed": 1}


def test_which_field_is_meant_has_to_be_said(empty: Repository, theirs: Any, name: str) -> None:
    with pytest.raises(FormatError, match="several label fields: heat, kind, poses, shapes, truth"):
        ingest_from_fiftyone(empty, name)
    with pytest.raises(NotFoundError, match="no label field 'truths'"):
        take(empty, name, "truths")
    with pytest.raises(NotFoundError, match="no dataset 'nothing'"):
        take(empty, "nothing")
    result = take(empty, name, "heat", "kind")
    assert result.annotations == 1
    assert "1 values were not taken: labels of heat are Heatmaps, which have no place here" in result.notes


def test_what_was_exported_comes_back_as_a_source_to_the_bit(
    everything: Repository, empty: Repository, fiftyone: Any, name: str
) -> None:
    export_to_fiftyone(everything, everything.version(), name=name)
    assert (owner_of(everything, name), owner_of(empty, name), owner_of(empty, "nothing")) == (
        "ours",
        "others",
        "nobody",
    )
    result = take(empty, name, "boxes", "masks")
    before = {row["annotation_id"]: row for row in everything.version().table("annotations").to_pylist()}
    for row in result.version.table("annotations").to_pylist():
        old = before[json.loads(row["attributes"])["annotation_id"]]
        assert (row["kind"], row["label"], row["geometry"]) == (old["kind"], old["label"], old["geometry"])
        if row["kind"] == "box":
            assert [row[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx(
                [old[side] for side in ("x1", "y1", "x2", "y2")]
            )
