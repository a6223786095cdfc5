"""The export to FiftyOne, against a running database that speaks MongoDB's protocol; read back with FiftyOne."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fiftyone_cases import MASK, commit, counted, export, found, labels, noise, sample
from pictures import write_digits
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import ConflictError, MissingDependencyError, StoreError
from datasetops.fiftyone import database
from datasetops.fiftyone.values import Values
from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.records import Finding
from datasetops.schema import load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("fiftyone")]


def test_every_kind_of_label_arrives(everything: Repository, fiftyone: Any, name: str) -> None:
    result = export(everything, name)
    assert (result.samples, result.labels, counted(result)) == (5, 30, (5, 0, 0, 0))
    dataset = fiftyone.load_dataset(name)
    assert dataset.persistent
    assert dataset.media_type == "image"
    assert dataset.values("sample_id") == ["s0", "s1", "s2", "s3", "s4"]
    first = dataset.first()
    assert Path(first.filepath) == everything.root / "0.jpg"  # type: ignore[operator]
    assert (first.tags, first.split, first.group) == (["train"], "train", "garden")
    assert (first.metadata.width, first.metadata.height) == (640, 427)
    assert first.captured_at == datetime(2024, 5, 6, 7, 8, 9, 123000)
    assert (first.light, first.age, first.score, first.filepath_) == ("day", 0, 0.0, "theirs")
    assert dataset.values("mixed") == ["no", "1", "no", "1", "no"]
    assert (first.classification.label, first.classification.annotation_id) == ("cat", "s0c")
    (box,) = first.boxes.detections
    assert box.bounding_box == pytest.approx([0.1, 0.1, 0.4, 0.4])
    assert (box.label, box.source, box.actor, box.occluded, box.tags_) == ("dog", "human", "ann", True, "x")
    (polygon,) = first.polygons.polylines
    assert (polygon.closed, polygon.filled, polygon.confidence) == (True, True, 0.5)
    assert np.allclose(polygon.points, [[[0, 0], [0.1, 0], [0.1, 0.1]]] * 2)
    (mask,) = first.masks.detections
    assert np.array_equal(mask.mask, MASK[100:200, 300:340])
    assert mask.bounding_box == pytest.approx([300 / 640, 100 / 427, 40 / 640, 100 / 427])
    (points,) = first.keypoints.keypoints
    assert points.points[0] == pytest.approx([0.1, 0.1])
    assert math.isnan(points.points[1][0])
    assert points.visibility == [2, 0]
    assert dataset.skeletons["keypoints"].labels == ["nose", "tail"]
    assert dataset.skeletons["keypoints"].edges == [[0, 1]]
    assert first.texts.classifications[0].text == "a garden"
    assert dataset.classes["boxes"] == ["cat", "dog"]
    schema = dataset.get_field_schema(flat=True)
    kinds = {
        "age": fiftyone.IntField,
        "score": fiftyone.FloatField,
        "mixed": fiftyone.StringField,
        "captured_at": fiftyone.DateTimeField,
    }
    kinds |= {
        "boxes.detections.occluded": fiftyone.BooleanField,
        "boxes.detections.annotation_id": fiftyone.StringField,
    }
    assert {path: type(schema[path]) for path in kinds} == kinds


def test_labels_lie_where_viewers_show_the_image(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    turned = fiftyone.load_dataset(name).match({"sample_id": "s3"}).first()
    assert (turned.metadata.width, turned.metadata.height) == (427, 640)
    assert turned.boxes.detections[0].bounding_box == pytest.approx([0.5, 0.1, 0.4, 0.4])
    (mask,) = turned.masks.detections
    assert np.array_equal(mask.mask, np.rot90(MASK[100:200, 300:340], -1))
    assert mask.bounding_box == pytest.approx([(427 - 200) / 427, 300 / 640, 100 / 427, 40 / 640])


def test_findings_become_tags_fields_proposals_and_views(everything: Repository, fiftyone: Any, name: str) -> None:
    box = Finding("missing_box", "medium", 0.2, "nobody boxed this", "s2", suggested="cat", box=(0.0, 0.0, 64.0, 42.7))
    copies = Finding("exact_duplicate", "medium", 0.3, "is a copy", "s0", related=("s2", "s4"))
    found(
        everything,
        noise(4, 0.3),
        noise(0, 0.4, "low"),
        noise(1, 0.1),
        box,
        copies,
        Finding("balance", "low", 0.5, "few"),
    )
    result = export(everything, name)
    assert result.findings == 5
    assert any("1 findings are about no single sample" in note for note in result.notes)
    dataset = fiftyone.load_dataset(name)
    tags = {"train": 3, "test": 2, "finding:label_noise": 3, "finding:missing_box": 1, "finding:exact_duplicate": 1}
    tags |= {"finding:severity_high": 2, "finding:severity_medium": 2, "finding:severity_low": 1}
    assert dataset.count_sample_tags() == tags
    assert dataset.count_label_tags("classification") == {"finding:label_noise": 3}
    views = {view: dataset.load_saved_view(view).values("sample_id") for view in dataset.list_saved_views()}
    assert views == {
        "exact_duplicate": ["s0"],
        "label_noise": ["s1", "s4", "s0"],  # worst first
        "missing_box": ["s2"],
        "severity_high": ["s1", "s4"],
        "severity_low": ["s0"],
        "severity_medium": ["s2", "s0"],
    }
    assert result.views == sorted(views)
    first = dataset.first()
    assert [item.check for item in first.findings] == ["exact_duplicate", "label_noise"]
    assert first.findings[0].related == ["s2", "s4"]
    worst = dataset.load_saved_view("label_noise").first()
    (finding,) = worst.findings
    assert (finding.severity, finding.score, finding.given, finding.suggested) == ("high", 0.1, "cat", "dog")
    assert worst.classification.finding == "label_noise: is probably a dog (0.1)"
    (proposal,) = dataset.load_saved_view("missing_box").first().suggested.detections
    assert (proposal.label, proposal.tags, proposal.score) == ("cat", ["finding:missing_box"], 0.2)
    assert proposal.bounding_box == pytest.approx([0, 0, 0.1, 0.1])
    assert dataset.count_values("findings.check") == {"label_noise": 3, "exact_duplicate": 1, "missing_box": 1}


def test_a_second_export_changes_nothing(everything: Repository, fiftyone: Any, name: str) -> None:
    found(everything, noise(1, 0.1))
    export(everything, name)
    before = {item.id: item.to_dict(include_private=True) for item in fiftyone.load_dataset(name)}
    assert counted(export(everything, name)) == (0, 0, 5, 0)
    dataset = fiftyone.load_dataset(name)
    dataset.reload()
    assert repr({item.id: item.to_dict(include_private=True) for item in dataset}) == repr(before)
    assert dataset.list_saved_views() == ["label_noise", "severity_high"]


def test_a_later_version_brings_the_dataset_up_to_date(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    dataset = fiftyone.load_dataset(name)
    first = dataset.first()
    first.tags.append("look again")
    first["theirs"] = 7
    first.boxes.detections[0].tags.append("nice")
    first.boxes.detections[0]["eval"] = "tp"
    first.save()
    moved = {"x1": 0.0, "y1": 42.7, "x2": 320.0, "y2": 213.5}
    box = {"annotation_id": "s0b", "sample_id": "s0", "kind": "box", "label": "cat", "source": "human", "actor": "bob"}
    metadata = {"light": "night", "age": "old"}  # `once` and `score` are gone, `age` was a number
    samples = [sample(0, split="val", metadata=metadata), sample(5, uri="0.jpg", group=None)]
    commit(everything, samples, [box | moved], remove_samples=["s4"], remove_annotations=["s1b"])
    result = export(everything, name)
    assert (counted(result), result.kept) == ((1, 4, 0, 1), 0)  # `age` is text now, in all samples
    dataset.reload()
    assert sorted(dataset.values("sample_id")) == ["s0", "s1", "s2", "s3", "s5"]
    assert "once" not in dataset.get_field_schema()
    first = dataset.match({"sample_id": "s0"}).first()
    assert (first.split, first.tags, first["theirs"]) == ("val", ["val", "look again"], 7)
    assert (first.light, first.age, first.mixed, first.score) == ("night", "old", None, None)
    (changed,) = first.boxes.detections
    assert (changed.label, changed.actor, changed["eval"], changed.tags) == ("cat", "bob", "tp", ["nice"])
    assert changed.bounding_box == pytest.approx([0.0, 0.1, 0.5, 0.4])
    assert "occluded" not in changed.to_dict()
    assert dataset.match({"sample_id": "s1"}).first().boxes is None
    assert dataset.info["dsops"]["version"] == "v2"
    assert counted(export(everything, name)) == (0, 0, 5, 0)


def test_labels_that_people_changed_there_stay(everything: Repository, fiftyone: Any, name: str) -> None:
    export(everything, name)
    dataset = fiftyone.load_dataset(name)
    edited, last = dataset.first(), dataset.last()
    edited.boxes.detections[0].label = "cat"
    edited.boxes.detections.append(fiftyone.Detection(label="dog", bounding_box=[0.5, 0.5, 0.1, 0.1]))
    edited.save()
    last.classification = None
    last.save()
    commit(everything, remove_samples=["s4"], annotations=[labels(0)[0] | {"label": "dog"}])
    found(everything, noise(0, 0.2))
    result = export(everything, name)
    assert (result.kept, result.removed) == (1, 0)
    assert any("1 samples have labels that were changed in FiftyOne" in note for note in result.notes)
    assert any("1 samples are no longer in v2" in note for note in result.notes)
    dataset.reload()
    first = dataset.first()
    assert [box.label for box in first.boxes.detections] == ["cat", "dog"]
    assert (first.classification.label, first.classification.tags) == ("dog", ["finding:label_noise"])
    assert len(dataset) == 5
    assert export(everything, name).kept == 1  # until somebody decides
    result = export(everything, name, overrule=True)
    assert (result.kept, result.updated) == (0, 1)
    dataset.reload()
    assert [box.label for box in dataset.first().boxes.detections] == ["dog"]


def test_a_new_audit_takes_the_marks_of_the_last_one_away(everything: Repository, fiftyone: Any, name: str) -> None:
    proposal = Finding(
        "missing_box", "medium", 0.2, "nobody boxed this", "s2", suggested="cat", box=(0.0, 0.0, 64.0, 42.7)
    )
    found(everything, noise(0, 0.2), proposal)
    export(everything, name)
    dataset = fiftyone.load_dataset(name)
    dataset.save_view("image_quality", dataset.limit(1))
    blurry = Finding("image_quality", "low", 0.2, "is blurry", "s3")
    found(everything, noise(1, 0.2), blurry)
    found(
        everything, Finding("missing_box", "low", 0.4, "perhaps a dog", "s1", suggested="dog", box=(1.0, 1.0, 9.0, 9.0))
    )
    result = export(everything, name)
    assert any("were left alone: image_quality" in note for note in result.notes)
    dataset.reload()
    assert dataset.count_label_tags() == {"finding:label_noise": 1, "finding:missing_box": 1}
    assert dataset.list_saved_views() == [
        "image_quality",
        "label_noise",
        "missing_box",
        "severity_high",
        "severity_low",
    ]
    assert len(dataset.load_saved_view("image_quality")) == 1
    assert dataset.match_tags("finding:missing_box").values("sample_id") == ["s1"]
    assert [len(value) if value else 0 for value in dataset.values("suggested.detections")] == [0, 1, 0, 0, 0]
    first = dataset.first()
    assert (first.tags, first.findings, first.finding_rank) == (["train"], None, None)


def test_datasets_of_others_are_not_touched(
    everything: Repository, fiftyone: Any, name: str, repository: Repository
) -> None:
    fiftyone.Dataset(name, persistent=True)
    with pytest.raises(ConflictError, match="not made by dsops"):
        export(everything, name)
    fiftyone.delete_dataset(name)
    result = export(everything, name, where="split = 'test'")
    assert (result.samples, result.labels) == (2, 12)
    with pytest.raises(ConflictError, match="where split = 'test'"):
        export(everything, name)
    commit(repository, [sample(0)])
    with pytest.raises(ConflictError, match="another repository"):
        export(repository, name)
    assert fiftyone.load_dataset(name).values("sample_id") == ["s3", "s4"]


def test_an_interrupted_export_of_many_samples_goes_on(repository: Repository, fiftyone: Any, name: str) -> None:
    rows = [{"sample_id": f"{n:04}", "uri": "none.tif", "width": 8, "height": 8} for n in range(600)]
    base = {"kind": "box", "label": "cat", "source": "import", "x1": 0.0, "y1": 0.0, "x2": 4.0, "y2": 4.0}
    boxes = [base | {"annotation_id": f"b{n}", "sample_id": f"{n // 2:04}"} for n in range(1200)]
    commit(repository, [row | {"media_type": "image/tiff"} for row in rows], boxes)

    def until_400(items: Iterable[int], total: int, label: str) -> Iterator[int]:
        for item in items:
            if item == 400:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        export(repository, name, progress=until_400)
    result = export(repository, name)
    assert counted(result) == (100, 0, 500, 0)
    assert any("600 images cannot be shown" in note and "none.tif does not exist" in note for note in result.notes)
    assert any("600 images are TIFF" in note for note in result.notes)
    dataset = fiftyone.load_dataset(name)
    assert (len(dataset), dataset.count("boxes.detections")) == (600, 1200)
    assert set(dataset.distinct("boxes.detections.annotation_id")) == {f"b{n}" for n in range(1200)}
    drawn = sorted(dataset.take(100, seed=1).values("sample_id"))
    assert drawn[0] < "0100" < "0500" < drawn[-1]


def test_labels_without_a_place_are_told(repository: Repository, fiftyone: Any, name: str) -> None:
    box = {"kind": "box", "label": "cat", "source": "import", "x1": 0.0, "y1": 0.0, "x2": 4.0, "y2": 4.0}
    commit(repository, [{"sample_id": "a", "uri": "gone.jpg"}], [box | {"annotation_id": "b", "sample_id": "a"}])
    result = export(repository, name)
    assert result.labels == 0
    assert any("1 labels were left out: the size of the image is not known" in note for note in result.notes)


def test_images_in_s3_are_copied_once(s3: str, fiftyone: Any, name: str, tmp_path: Path) -> None:
    import boto3

    write_digits(tmp_path / "digits", 1)
    repository = Repository.init(f"{s3}/set", load_schema("digits"))
    ingest(repository, tmp_path / "digits", copy=True)
    export(repository, name)
    files = [Path(path) for path in fiftyone.load_dataset(name).values("filepath")]
    assert all(file.is_relative_to(repository.cache) for file in files)
    originals = {file.read_bytes() for file in (tmp_path / "digits").rglob("*.png")}
    assert {file.read_bytes() for file in files} == originals
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for item in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/set/media/")["Contents"]:
        client.delete_object(Bucket=bucket, Key=item["Key"])
    files[0].unlink()
    result = export(repository, name)
    assert counted(result) == (0, 0, 10, 0)
    assert any("1 images cannot be shown" in note for note in result.notes)


def test_the_command(tmp_path: Path, fiftyone: Any, address: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_digits(tmp_path / "digits", 2)
    files[0].with_name("copy.png").write_bytes(files[0].read_bytes())

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "-C", "set"])

    assert CliRunner().invoke(app, ["init", "set", "--schema", "digits"]).exit_code == 0
    assert run("ingest", "digits").exit_code == 0
    first = run("export", "v1", "--to", "fiftyone", "--database", address, "--name", name, "--json")
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert (answer["added"], answer["labels"], answer["audit"], answer["views"]) == (21, 21, None, [])
    assert "v1 has not been audited" in answer["notes"][0]
    assert run("audit", "v1", "--check", "exact_duplicate").exit_code == 0
    second = run("export", "v1", "--to", "fiftyone", "--database", address, "--name", name)
    assert "0 samples added" in second.stdout
    assert f"dsops explore v1 --name {name} --database {address}" in second.stdout
    assert set(fiftyone.load_dataset(name).list_saved_views()) >= {"exact_duplicate"}
    assert run("log").exit_code == 0
    for wrong in (["v1"], ["v1", "out", "--to", "fiftyone"], ["v1", "--to", "nowhere"], ["v1", "out", "--overrule"]):
        assert run("export", *wrong).exit_code == 2
    assert run("export", "v1", "out", "--format", "voc").exit_code == 0


def test_without_a_database_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, fiftyone: Any) -> None:
    monkeypatch.setattr(database, "_WAIT_MS", 200)
    with pytest.raises(StoreError, match=r"answers at mongodb://127\.0\.0\.1:1") as caught:
        database.connect("mongodb://me:secret@127.0.0.1:1")
    assert "--database" in caught.value.remedy
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="No database answers"):
        database.connect("nonsense://")
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dsops\[fiftyone\]'"):
        database.connect()


def test_one_process_uses_one_database(fiftyone: Any, address: str) -> None:
    with pytest.raises(ConflictError, match="already"):
        database.connect(address.replace("127.0.0.1", "localhost"))


def test_values_get_one_type_and_a_free_name_each() -> None:
    rows = [
        {"a": 1, "b": True, "c": 1, "d": [1], "x.y": "k", "_id": None},
        {"a": 2.5, "b": 0, "c": 2**70, "taken": "z"},
    ]
    values = Values(rows, taken={"taken", "x_y"})
    assert values.types == {"a": "number", "b": "text", "c": "text", "d": "text", "taken_": "text", "x_y_": "text"}
    assert values.fields(rows[0]) == {"a": 1.0, "b": "true", "c": "1", "d": "[1]", "x_y_": "k"}
