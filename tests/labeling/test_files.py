"""Tools that take and give files, through the same batches and the same merge."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from pictures import photos

from datasetops.errors import DatasetOpsError
from datasetops.labeling import file_project, make_batch, read_files, write_files
from datasetops.manifest import Change, Repository
from datasetops.schema import LabelSchema


@pytest.fixture
def boxes(tmp_path: Path) -> Repository:
    schema = LabelSchema.model_validate(
        {
            "name": "roofs",
            "version": 1,
            "tasks": [{"kind": "box"}],
            "classes": [{"id": 0, "name": "roof"}, {"id": 1, "name": "gate"}],
        }
    )
    repository = Repository.init(tmp_path / "repository", schema)
    samples, rows = [], []
    for number, photo in enumerate(photos()):
        photo.save(tmp_path / "repository" / f"{number}.png")
        name, size = f"s{number}", {"width": 640, "height": 427, "media_type": "image/png"}
        samples.append({"sample_id": name, "uri": f"{number}.png"} | size)
        box = {"kind": "box", "label": "roof", "x1": 10.5, "y1": 20.25, "x2": 200.0, "y2": 150.75}
        rows.append({"annotation_id": f"{name}#0", "sample_id": name, "source": "model", "model": "m1"} | box)
    repository.commit(Change(samples=samples, annotations=rows), message="two photos")
    return repository


def test_what_was_moved_in_cvat_comes_back_as_one_version(boxes: Repository, tmp_path: Path) -> None:
    project = file_project(boxes, "cvat")
    batch = make_batch(boxes, boxes.version(), ["s0", "s1"], project)
    assert write_files(boxes, batch, "cvat", tmp_path / "tasks.zip") == []
    with zipfile.ZipFile(tmp_path / "tasks.zip") as archive:
        assert sorted(name for name in archive.namelist() if name.endswith(".png")) == [
            "images/s0.png",
            "images/s1.png",
        ]
        text = archive.read("annotations.xml").decode()
    moved = text.replace('xtl="10.5', 'xtl="30.5', 1)
    assert moved != text
    (tmp_path / "annotations.xml").write_text(moved)

    result = read_files(boxes, project, "cvat", tmp_path / "annotations.xml", actor="ann")

    assert (result.version, result.answers, result.conflicts, result.unused) == ("v2", 2, (), ())
    rows = boxes.version().annotations().set_index("annotation_id")
    assert sorted(rows.index) == ["s0#0", "s1#0"]
    assert sorted(rows["x1"]) == [10.5, 30.5]
    assert sorted(row["changed"] for row in rows["answer"]) == [False, True]
    assert set(rows["source"]) == {"human"}
    assert set(rows["actor"]) == {"ann"}
    assert read_files(boxes, project, "cvat", tmp_path / "annotations.xml", actor="ann").version is None


def test_labelbox_answers_of_two_people_are_merged(boxes: Repository, tmp_path: Path) -> None:
    project = file_project(boxes, "labelbox")
    batch = make_batch(boxes, boxes.version(), ["s0"], project)
    write_files(boxes, batch, "labelbox", tmp_path / "rows.ndjson")

    def label(who: str, left: float) -> dict[str, object]:
        box = {"top": 20.0, "left": left, "height": 100.0, "width": 100.0}
        shape = {"feature_id": f"f-{who}", "name": "gate", "annotation_kind": "ImageBoundingBox", "bounding_box": box}
        return {
            "label_details": {"created_by": who, "created_at": "2026-01-01T00:00:00Z"},
            "performance_details": {"seconds_to_create": 12},
            "annotations": {"objects": [shape], "classifications": []},
        }

    line = {
        "data_row": {"id": "d1", "global_key": "s0", "external_id": "s0"},
        "media_attributes": {"width": 640, "height": 427},
        "projects": {"p1": {"name": "roofs", "labels": [label("ann", 30.0), label("bob", 40.0)]}},
    }
    (tmp_path / "export.ndjson").write_text(json.dumps(line) + "\n")
    result = read_files(boxes, project, "labelbox", tmp_path / "export.ndjson")
    assert result.version == "v2"
    rows = boxes.version().annotations_of(["s0"]).to_pylist()
    assert sorted((row["source"], row["role"] or "") for row in rows) == [
        ("consensus", ""),
        ("human", "vote"),
        ("human", "vote"),
    ]
    (final,) = (row for row in rows if row["source"] == "consensus")
    assert (final["label"], final["x1"], final["x2"]) == ("gate", 35.0, 135.0)
    assert len(json.loads(final["derived_from"])) == 2


def test_of_one_persons_two_answers_the_newer_counts(boxes: Repository, tmp_path: Path) -> None:
    project = file_project(boxes, "labelbox")
    write_files(boxes, make_batch(boxes, boxes.version(), ["s0"], project), "labelbox", tmp_path / "rows.ndjson")

    def label(day: int, left: float) -> dict[str, object]:
        box = {"top": 20.0, "left": left, "height": 100.0, "width": 100.0}
        shape = {"feature_id": f"f{day}", "name": "gate", "annotation_kind": "ImageBoundingBox", "bounding_box": box}
        details = {"created_by": "ann", "created_at": f"2026-01-0{day}T00:00:00Z"}
        return {"label_details": details, "annotations": {"objects": [shape], "classifications": []}}

    line = {
        "data_row": {"id": "d1", "global_key": "s0", "external_id": "s0"},
        "media_attributes": {"width": 640, "height": 427},
        "projects": {"p1": {"name": "roofs", "labels": [label(2, 40.0), label(1, 30.0)]}},
    }
    (tmp_path / "export.ndjson").write_text(json.dumps(line) + "\n")
    result = read_files(boxes, project, "labelbox", tmp_path / "export.ndjson")
    assert (result.answers, result.set_aside) == (2, 1)
    assert "1 older answers of the same person to the same item were set aside." in result.warnings
    (row,) = boxes.version().annotations_of(["s0"]).to_pylist()
    assert (row["source"], row["actor"], row["role"], row["x1"]) == ("human", "ann", None, 40.0)


def test_answers_before_anything_was_pushed_are_refused(boxes: Repository, tmp_path: Path) -> None:
    with pytest.raises(DatasetOpsError, match="Nothing was pushed"):
        read_files(boxes, file_project(boxes, "cvat"), "cvat", tmp_path / "nothing.xml")
