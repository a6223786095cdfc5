"""Hugging Face datasets: what is written opens in the real library, what the library writes is read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from format_cases import assert_same, export_again, ingested, jpeg, make_schema, messages, read, write
from PIL import Image

from datasetops.errors import DatasetOpsError, FormatError
from datasetops.formats import ExportData, detect_format, load_format
from datasetops.formats.hf_hub import fetched_set, is_hub_name
from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.records import ANNOTATIONS, SAMPLES, sha256_hex
from datasetops.schema import LabelSchema
from datasetops.store.source import open_source

datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'dsops[datasets]'")

SCHEMA = make_schema("cat", "dog", kinds=("classification", "box", "polygon", "mask", "text"))
RING = [1.5, 2.25, 30.0, 2.25, 30.0, 40.75]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the library, for each test; it shows no progress."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    datasets.disable_progress_bars()


def loaded(folder: Path, **options: Any) -> Any:
    return datasets.load_dataset(str(folder), **options)


def data(folder: Path, schema: LabelSchema = SCHEMA, **more: Any) -> ExportData:
    """Three images in two splits, with a class, a box, a polygon and a caption each."""
    samples, annotations = [], []
    for number in range(3):
        content = jpeg(colour=80 * number)
        write(folder, {f"{number}.jpg": content})
        digest = sha256_hex(content)
        key = digest[:24]
        samples.append(
            {
                "sample_id": key,
                "uri": str(folder / f"{number}.jpg"),
                "sha256": digest,
                "split": "val" if number else "train",
            }
            | {
                "width": 64,
                "height": 48,
                "media_type": "image/jpeg",
                "metadata": '{"light":"day"}',
                "license": "CC0-1.0",
            }
            | more
        )
        base = {"sample_id": key, "source": "import"}
        place = {"x1": 1.5, "y1": 2.25, "x2": 30.0, "y2": 40.75}
        annotations += [
            base | {"annotation_id": f"{key}/label", "kind": "classification", "label": ["cat", "dog"][number % 2]},
            base
            | {"annotation_id": f"{key}#1", "kind": "box", "label": "dog", "score": 0.25, "source": "model"}
            | place,
            base
            | {"annotation_id": f"{key}#2", "kind": "polygon", "label": "cat", "attributes": '{"size":"big"}'}
            | {"geometry": json.dumps({"polygons": [RING]}, separators=(",", ":"))}
            | place,
        ]
    tables = (pa.Table.from_pylist(samples, schema=SAMPLES), pa.Table.from_pylist(annotations, schema=ANNOTATIONS))
    return ExportData(*tables, schema, lambda uri: Path(uri).read_bytes())


def test_what_is_written_opens_in_the_library(tmp_path: Path) -> None:
    first = data(tmp_path / "media")
    report = load_format("hf").write(first, tmp_path / "out")
    assert report.lost == []
    found = loaded(tmp_path / "out")
    assert {name: len(split) for name, split in found.items()} == {"train": 1, "val": 2}
    features = found["train"].features
    assert features["image"] == datasets.Image()
    assert features["label"] == datasets.ClassLabel(names=["cat", "dog"])
    assert features["objects"]["category"] == datasets.List(datasets.ClassLabel(names=["cat", "dog"]))
    row = found["train"][0]
    assert row["image"].size == (64, 48)
    assert np.array_equal(row["image"], Image.open(tmp_path / "media/0.jpg"))
    assert row["label"] == 0
    assert row["objects"]["bbox"] == [[1.5, 2.25, 28.5, 38.5]] * 2
    assert row["objects"]["category"] == [1, 0]
    assert row["objects"]["area"] == [28.5 * 38.5, 28.5 * 38.5 / 2]
    assert (row["license"], json.loads(row["metadata"])) == ("CC0-1.0", {"light": "day"})
    assert len(loaded(tmp_path / "out", split="val")) == 2
    card = (tmp_path / "out/README.md").read_text()
    assert "task_categories:\n- image-classification\n- image-segmentation\n- object-detection\n" in card


@pytest.mark.parametrize("kept", ["parquet", "disk"])
def test_everything_comes_back_also_through_the_library(tmp_path: Path, kept: str) -> None:
    first = data(tmp_path / "media")
    again, report, parsed = export_again("hf", first, tmp_path / "out")
    assert (report.lost, messages(parsed)) == ([], [])
    assert_same(first, again)
    found = loaded(tmp_path / "out")
    if kept == "disk":
        found.save_to_disk(tmp_path / "saved")
    else:
        for name, split in found.items():
            split.to_parquet(tmp_path / "saved" / f"{name}-00000-of-00001.parquet")
    assert detect_format(open_source(tmp_path / "saved")).format == ("hf" if kept == "disk" else "table")
    parsed = read("hf", tmp_path / "saved", SCHEMA)
    assert messages(parsed) == []
    after = ingested(parsed, tmp_path / "saved", SCHEMA)
    objects = [row for row in first.annotations.to_pylist() if row["kind"] != "classification"]
    places = {row["annotation_id"]: row for row in after.annotations.to_pylist()}
    assert [places[row["annotation_id"]] for row in objects] == objects
    assert sorted(row["label"] for row in places.values() if row["kind"] == "classification") == ["cat", "cat", "dog"]
    assert sorted(after.samples["split"].to_pylist()) == ["train", "val", "val"]


def test_sets_of_the_hub_are_understood(tmp_path: Path) -> None:
    """A detection set as cppe-5 is: ClassLabels, numbered objects, other columns, a split called validation."""
    names = ["cat", "dog", "horse"]
    features = datasets.Features(
        {
            "image_id": datasets.Value("int64"),
            "image": datasets.Image(),
            "width": datasets.Value("int32"),
            "height": datasets.Value("int32"),
            "light": datasets.ClassLabel(names=["day", "night"]),
            "label": datasets.ClassLabel(names=names),
            "objects": {
                "id": datasets.List(datasets.Value("int64")),
                "area": datasets.List(datasets.Value("int64")),
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=names)),
            },
        }
    )
    rows = [
        {"image_id": n, "image": Image.new("RGB", (64, 48), (n, 0, 0)), "width": 64, "height": 48, "light": n % 2}
        | {"label": (0, -1, 2)[n]}
        | {
            "objects": {
                "id": [n],
                "area": [200],
                "bbox": [[10.0, 10.0, (20.0, 20.0, 0.0)[n], 10.0]],
                "category": [n % 2],
            }
        }
        for n in range(3)
    ]
    found = datasets.Dataset.from_list(rows, features=features)
    found.to_parquet(tmp_path / "set/data/validation-00000-of-00001.parquet")
    assert detect_format(open_source(tmp_path / "set")).format == "hf"
    parsed = read("hf", tmp_path / "set", SCHEMA)
    assert parsed.samples["split"].to_pylist() == ["val"] * 3
    assert json.loads(parsed.samples["metadata"][1].as_py()) == {"image_id": 1, "light": "night"}
    told = [
        (row["kind"], row["label"], row["x1"], row["x2"], row["external_id"]) for row in parsed.annotations.to_pylist()
    ]
    assert told == [
        ("classification", "cat", None, None, None),
        ("box", "cat", 10.0, 30.0, "0"),
        ("box", "dog", 10.0, 30.0, "1"),
    ]
    faults = messages(parsed, "high")
    assert any("no class 'horse'" in fault for fault in faults)
    assert any("row 2, object 0" in fault and "zero area" in fault for fault in faults)
    assert parsed.rejected == 2
    sizes = {ingested(parsed, tmp_path / "set", SCHEMA).samples["width"][row].as_py() for row in range(3)}
    assert sizes == {64}


def test_folders_of_images_with_metadata(tmp_path: Path) -> None:
    lines = [
        {
            "file_name": "a.jpg",
            "label": "dog",
            "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]},
            "text": "a dog",
        },
        {
            "file_name": "sub/b.jpg",
            "label": "cat",
            "objects": [{"bbox": [1, 2, 3, 4], "category": "dog", "iscrowd": 0}],
        },
        {"file_name": "gone.jpg", "label": "cat"},
    ]
    write(tmp_path / "set/train", {"a.jpg": jpeg(), "sub/b.jpg": jpeg(colour=9)})
    write(tmp_path / "set/train", {"metadata.jsonl": "\n".join(map(json.dumps, lines))})
    assert detect_format(open_source(tmp_path / "set")).format == "hf"
    parsed = read("hf", tmp_path / "set", SCHEMA)
    assert parsed.samples["media"].to_pylist() == ["train/a.jpg", "train/sub/b.jpg"]
    assert parsed.images is None
    told = [(row["kind"], row["label"], row["x2"], row["text"]) for row in parsed.annotations.to_pylist()]
    assert told == [
        *(("classification", "dog", None, None), ("text", None, None, "a dog"), ("box", "cat", 4.0, None)),
        *(("classification", "cat", None, None), ("box", "dog", 4.0, None)),
    ]
    assert messages(parsed, "high") == ["row 2: the image 'train/gone.jpg' is not there"]
    parsed = read("hf", tmp_path / "set", make_schema("cat", "dog", kinds=("classification",)))
    assert json.loads(parsed.samples["metadata"][0].as_py()) == {"text": "a dog"}
    write(tmp_path / "wrong", {"metadata.jsonl": '{"label": "cat"}'})
    with pytest.raises(FormatError, match="entry 1 names no file"):
        read("hf", tmp_path / "wrong", SCHEMA)
    write(tmp_path / "worse", {"metadata.jsonl": '{"file_name": "a.jpg"'})
    with pytest.raises(FormatError, match="line 1 is no JSON"):
        read("hf", tmp_path / "worse", SCHEMA)


def test_what_cannot_be_held_is_told(tmp_path: Path) -> None:
    first = data(tmp_path / "media")
    key = first.samples["sample_id"][0].as_py()
    base = {"sample_id": key, "source": "human", "actor": "kim"}
    more = [
        base | {"annotation_id": "own", "kind": "classification", "label": "dog"},
        base | {"annotation_id": "t1", "kind": "text", "text": "one"},
        base | {"annotation_id": "t2", "kind": "text", "text": "two"},
        base | {"annotation_id": "b", "kind": "box", "label": "cat"},
    ]
    table = pa.concat_tables([first.annotations, pa.Table.from_pylist(more, schema=ANNOTATIONS)])
    report = load_format("hf").write(ExportData(first.samples, table, SCHEMA, first.read_media), tmp_path / "out")
    told = "\n".join(report.lost)
    for part in (
        "1 further classes of images that have one are not written",
        "1 further texts of images that have one are not written",
        "1 annotations without a place are not written",
        "3 sources other than import",
        "3 actors are not written",
    ):
        assert part in told
    assert loaded(tmp_path / "out")["train"][0]["text"] == "one"


def test_names_of_splits_and_several_classes(tmp_path: Path) -> None:
    schema = make_schema("cat", "dog", multi=True, kinds=("classification",))
    first = data(tmp_path / "media", schema, split=None)
    key = first.samples["sample_id"].to_pylist()
    rows = [
        {"annotation_id": f"{key[0]}/label/{name}", "sample_id": key[0], "kind": "classification", "label": name}
        | {"source": "import"}
        for name in ("cat", "dog")
    ]
    table = pa.Table.from_pylist(rows, schema=ANNOTATIONS)
    again, report, _ = export_again(
        "hf", ExportData(first.samples, table, schema, first.read_media), tmp_path / "alone"
    )
    assert report.lost == []
    assert again.samples["split"].null_count == 3  # `datasets` calls it train, and it comes back as it was
    assert_same(ExportData(first.samples, table, schema, first.read_media), again)
    assert loaded(tmp_path / "alone", split="train")["labels"][:] == [[0, 1], [], []]
    odd = first.samples.set_column(
        first.samples.column_names.index("split"), "split", pa.array(["fold 1", "fold-1", None])
    )
    again, _, _ = export_again("hf", ExportData(odd, table, schema, first.read_media), tmp_path / "odd")
    assert sorted(map(str, again.samples["split"].to_pylist())) == ["None", "fold 1", "fold-1"]
    assert list(loaded(tmp_path / "odd")) == ["fold_1", "fold_1_2", "unsplit"]


def test_sets_that_could_be_misread_are_refused(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (64, 48)).save(image, "PNG")
    classes = datasets.ClassLabel(names=["cat", "dog"])
    row = {"image": {"bytes": image.getvalue(), "path": None}, "a": 0, "b": 1, "width": 64, "height": 48}
    row["objects"] = {"bbox": [[30.0, 20.0, 60.0, 40.0], [20.0, 10.0, 50.0, 30.0]], "category": ["cat", "dog"]}
    made = datasets.Dataset.from_list([row]).cast_column("a", classes).cast_column("b", classes)
    made.to_parquet(tmp_path / "set/train.parquet")
    with pytest.raises(FormatError, match="several columns of classes: a, b") as caught:
        read("hf", tmp_path / "set", SCHEMA)
    assert "--column label=a" in caught.value.remedy
    with pytest.raises(FormatError, match="leave their images"):
        read("hf", tmp_path / "set", SCHEMA, label="a")
    with pytest.raises(FormatError, match="has no column 'c'"):
        read("hf", tmp_path / "set", SCHEMA, label="c")
    made.remove_columns("objects").to_parquet(tmp_path / "set/train.parquet")
    assert read("hf", tmp_path / "set", SCHEMA, label="b").annotations["label"].to_pylist() == ["dog"]
    content = (tmp_path / "set/train.parquet").read_bytes()
    (tmp_path / "set/train.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=r"train\.parquet cannot be read"):
        read("hf", tmp_path / "set", SCHEMA)
    card = (
        "---\nconfigs:\n- config_name: one\n  data_files: a.parquet\n- config_name: two\n  data_files: b.parquet\n---\n"
    )
    write(tmp_path / "two", {"README.md": card, "a.parquet": content, "b.parquet": content})
    with pytest.raises(FormatError, match="several data sets: one, two"):
        read("hf", tmp_path / "two", SCHEMA)


def test_classes_of_a_card_name_numbers(tmp_path: Path) -> None:
    card = "---\ndataset_info:\n  features:\n  - name: label\n    dtype: {class_label: {names: {'0': dog}}}\n---\n"
    write(tmp_path / "set/train", {"a.jpg": jpeg(), "metadata.jsonl": '{"file_name": "a.jpg", "label": 0}'})
    write(tmp_path / "set", {"README.md": card})
    assert read("hf", tmp_path / "set", SCHEMA).annotations["label"].to_pylist() == ["dog"]


def test_images_inside_of_files_are_copied_and_ingesting_again_changes_nothing(tmp_path: Path) -> None:
    first = data(tmp_path / "media")
    load_format("hf").write(first, tmp_path / "out")
    repository = Repository.init(tmp_path / "set", SCHEMA)
    result = ingest(repository, str(tmp_path / "out"))
    assert (result.samples, result.annotations, result.rejected) == (3, 9, 0)
    assert any("3 images lie inside of the set's files, and are copied" in note for note in result.notes)
    uris = result.version.table("samples")["uri"].to_pylist()
    assert all(uri.startswith("media:") and uri.endswith(".jpg") for uri in uris)
    assert not ingest(repository, str(tmp_path / "out")).changed
    no_media = ExportData(first.samples, first.annotations, SCHEMA, first.read_media, copy_media=False)
    load_format("hf").write(no_media, tmp_path / "names")
    assert read("hf", tmp_path / "names", SCHEMA).samples["media"].to_pylist() == first.samples["uri"].to_pylist()


def test_the_hub_is_asked_for_names_and_its_absence_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Repository
) -> None:
    write(tmp_path, {"there": "x"})
    monkeypatch.chdir(tmp_path)
    names = {"rajpurkar/squad": True, "mnist@v1.0": True, "a/b:c@refs/pr/1": True, "there": False, "a/b/c": False}
    assert {name: is_hub_name(name) for name in names} == names
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DatasetOpsError, match="a/b@main is no file or folder here, and the Hugging Face Hub cannot be"
    ) as caught:
        ingest(repository, "a/b@main", format="hf")
    assert "hf download" in caught.value.remedy
    commit = "0" * 40  # fetched before: no network is needed
    load_format("hf").write(data(tmp_path / "media"), repository.cache / "hub/a-b" / commit)
    assert fetched_set(f"a/b@{commit}", repository.cache).revision == commit
    result = ingest(repository, f"a/b@{commit}", format="hf")
    event = next(entry.event for entry in repository.ledger.backwards())
    assert (event.inputs["source"], event.parameters["revision"]) == ("hf://datasets/a/b", commit)
    assert result.samples == 3
