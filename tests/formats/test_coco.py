from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from format_cases import (
    assert_same,
    coco_annotation,
    coco_document,
    coco_schema,
    coco_source,
    export_again,
    ingested,
    jpeg,
    make_schema,
    messages,
    read,
    write,
)
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from datasetops.errors import FormatError
from datasetops.formats.coco_write import side_of
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", kinds=("box", "polygon", "mask", "classification", "text"))


@pytest.mark.parametrize("name", ["bccd/coco.json", "coco_tiny/coco.json", "coco_ann/persons_val2017_rebuilt.json.gz"])
def test_exported_and_read_again_nothing_differs(data: Path, tmp_path: Path, name: str) -> None:
    path = data / name
    version = ingested(read("coco", path, coco_schema(path)), path.parent, coco_schema(path))
    again, report, _ = export_again("coco", version, tmp_path / "out")
    assert_same(version, again)
    assert len(version.annotations) > 800
    assert [sentence for sentence in report.lost if "no image" not in sentence] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_export_is_what_pycocotools_reads(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "coco_tiny" / "coco.json"
    version = ingested(read("coco", path, coco_schema(path)), path.parent, coco_schema(path))
    export_again("coco", version, tmp_path / "out")
    ours, theirs = COCO(str(tmp_path / "out/annotations/instances.json")), COCO(str(path))
    capsys.readouterr()
    assert ours.imgs.keys() == theirs.imgs.keys()
    assert ours.anns.keys() == theirs.anns.keys()
    for number, mine in ours.anns.items():
        given_ = theirs.anns[number]
        assert mine["bbox"] == given_["bbox"]
        assert mine["area"] == given_["area"]
        assert (ours.annToMask(mine) == theirs.annToMask(given_)).all()
    names = {number: category["name"] for number, category in theirs.cats.items()}
    assert {n: ours.cats[a["category_id"]]["name"] for n, a in ours.anns.items()} == {
        n: names[a["category_id"]] for n, a in theirs.anns.items()
    }


def test_kinds_boxes_and_geometry(tmp_path: Path, pets: LabelSchema) -> None:
    crowd = {"size": [48, 64], "counts": [0, 48 * 64]}
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    rows = [
        coco_annotation(id=1),
        coco_annotation(id=2, segmentation=[square], area=400.0, iscrowd=0, note="x"),
        coco_annotation(id=3, segmentation=crowd, iscrowd=1),
        coco_annotation(id=4, segmentation=[square], keypoints=[15, 15, 2, 0, 0, 0], num_keypoints=1),
        {"id": 5, "image_id": 7, "category_id": 4, "segmentation": [square]},
        {"id": 6, "image_id": 7, "caption": "a cat"},
        coco_annotation(id=7, score=0.5),
    ]
    parsed = read("coco", coco_source(tmp_path, coco_document(annotations=rows)), pets)
    assert messages(parsed) == []
    table = parsed.annotations.to_pylist()
    assert [row["kind"] for row in table] == ["box", "polygon", "mask", "keypoints", "polygon", "text", "box"]
    assert [table[0][side] for side in ("x1", "y1", "x2", "y2")] == [10, 10, 30, 30]
    assert [json.loads(row["geometry"] or "{}") for row in table[:5]] == [
        {},
        {"polygons": [square]},
        {"rle": crowd},
        {"keypoints": [15, 15, 2, 0, 0, 0], "polygons": [square]},
        {"polygons": [square]},
    ]
    assert [table[i]["attributes"] for i in (0, 1, 2, 3)] == [
        None,
        '{"area":400.0,"note":"x"}',
        '{"iscrowd":1}',
        '{"num_keypoints":1}',
    ]
    assert (table[4]["x1"], table[5]["text"], table[5]["label"], table[6]["score"]) == (None, "a cat", None, 0.5)
    version = ingested(parsed, tmp_path / "set", pets)
    assert_same(version, export_again("coco", version, tmp_path / "out")[0])


def test_image_fields(tmp_path: Path, pets: LabelSchema) -> None:
    image = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48, "license": 2, "light": "day"}
    licenses = [{"id": 2, "name": "CC BY", "url": "https://cc/by"}]
    content = coco_document(images=[image | {"date_captured": "2013-11-14 11:18:45"}], licenses=licenses)
    parsed = read("coco", coco_source(tmp_path, content), pets)
    (row,) = parsed.samples.to_pylist()
    assert (row["key"], row["media"], row["sample_id"], row["license"]) == ("7", "a.jpg", None, "CC BY")
    assert row["captured_at"].isoformat() == "2013-11-14T11:18:45+00:00"
    assert json.loads(row["metadata"]) == {"image_id": 7, "light": "day", "license_url": "https://cc/by"}

    content = coco_document(images=[image | {"license": 9, "date_captured": "soon"}], licenses=licenses)
    parsed = read("coco", coco_source(tmp_path, content), pets)
    (row,) = parsed.samples.to_pylist()
    assert (row["license"], row["captured_at"], json.loads(row["metadata"])["date_captured"]) == ("9", None, "soon")
    assert messages(parsed) == ["coco.json: license 9 of 1 images is not among the file's licenses"]


def test_an_images_own_columns_are_those_of_the_sample(tmp_path: Path, pets: LabelSchema) -> None:
    own = {"group": "bg13", "split": "night", "origin": "north", "license": "CC BY", "consent": "c1"}
    times = {"expires_at": "2030-01-31", "date_captured": "2024-05-31T13:45:00+02:00"}
    image = coco_document()["images"][0] | own | times
    parsed = read("coco", coco_source(tmp_path, coco_document(images=[image])), pets, split="train")
    (row,) = parsed.samples.to_pylist()
    assert {name: row[name] for name in own} == own
    assert row["captured_at"].isoformat() == "2024-05-31T11:45:00+00:00"
    assert row["expires_at"].isoformat() == "2030-01-31T00:00:00+00:00"
    assert json.loads(row["metadata"]) == {"image_id": 7}

    image |= {"group": 13, "origin": ["a"], "captured_at": "soon", "split": ""}
    parsed = read("coco", coco_source(tmp_path, coco_document(images=[image])), pets, split="train")
    (row,) = parsed.samples.to_pylist()
    assert (row["group"], row["origin"], row["split"], row["captured_at"].year) == ("13", None, "train", 2024)
    assert json.loads(row["metadata"]) == {"captured_at": "soon", "image_id": 7, "origin": ["a"]}
    assert messages(parsed) == [
        "coco.json: image 7: origin ['a'] is no text; kept as metadata",
        "coco.json: image 7: captured_at 'soon' is no time such as 2024-05-31T13:45:00Z; kept as metadata",
    ]
    version = ingested(parsed, tmp_path / "set", pets)
    assert_same(version, export_again("coco", version, tmp_path / "out")[0])


def test_annotations_without_any_image_keep_their_file_names(tmp_path: Path, pets: LabelSchema) -> None:
    images = [{"id": n, "file_name": f"part/{n}.jpg", "width": 64, "height": 48} for n in (7, 8)]
    path = write(tmp_path, {"coco.json": json.dumps(coco_document(images=images))}) / "coco.json"
    parsed = read("coco", path, pets)
    assert parsed.samples["sample_id"].to_pylist() == ["part/7.jpg", "part/8.jpg"]
    assert json.loads(parsed.samples["metadata"][0].as_py()) == {"file_name": "part/7.jpg", "image_id": 7}
    assert [f.severity for f in parsed.findings] == ["low"]
    assert parsed.rejected == 0


def test_a_folder_holds_one_file_for_each_split(tmp_path: Path, pets: LabelSchema) -> None:
    rows = {}
    for year, name in (("train2017", "a"), ("val2017", "b")):
        images = [{"id": 7, "file_name": f"{name}.jpg", "width": 64, "height": 48}]
        rows[f"annotations/instances_{year}.json"] = json.dumps(coco_document(images=images))
    write(tmp_path / "set", rows | {"train2017/a.jpg": jpeg(), "val2017/b.jpg": jpeg(colour=9), "notes.json": "[]"})
    parsed = read("coco", tmp_path / "set", pets)
    assert parsed.samples.select(["media", "split"]).to_pylist() == [
        {"media": "train2017/a.jpg", "split": "train"},
        {"media": "val2017/b.jpg", "split": "val"},
    ]
    assert len(set(parsed.samples["key"].to_pylist())) == 2
    assert set(parsed.annotations["key"].to_pylist()) == set(parsed.samples["key"].to_pylist())
    assert messages(parsed) == ["notes.json: not a COCO annotation file; left alone"]
    version = ingested(parsed, tmp_path / "set", pets)
    assert_same(version, export_again("coco", version, tmp_path / "out")[0])

    first = json.loads(rows["annotations/instances_train2017.json"])
    write(tmp_path / "set", {"annotations/train_first_pass.json": json.dumps(first)})
    with pytest.raises(
        FormatError, match=r"instances_train2017.json and .*first_pass.json both list the image 'train2017/a"
    ):
        read("coco", tmp_path / "set", pets)


def test_splits_of_any_name_with_images_of_the_same_name(tmp_path: Path, pets: LabelSchema) -> None:
    rows = {}
    for number, name in enumerate(("fold_1", "fold 2.0", "train", "train-b/x")):
        own = {"split": None if name == "train" else name}
        images = [{"id": number, "file_name": f"{number}/a.jpg", "width": 64, "height": 48, "dsops": own}]
        rows[f"{number}/a.jpg"] = jpeg(colour=70 * number)
        rows[f"{number}/x.json"] = json.dumps(
            coco_document(images=images, annotations=[coco_annotation(image_id=number)])
        ).encode()
    parsed = read("coco", write(tmp_path / "set", rows), pets)
    assert parsed.samples["split"].to_pylist() == ["fold_1", "fold 2.0", None, "train-b/x"]
    version = ingested(parsed, tmp_path / "set", pets)
    again, _, parsed = export_again("coco", version, tmp_path / "out")
    assert_same(version, again)
    assert len(set(again.samples["sample_id"].to_pylist())) == 4
    assert (tmp_path / "out/images/fold_1/a.jpg").is_file()


@given(st.lists(st.tuples(*[st.floats(0, 5000).map(lambda v: round(v, 4))] * 2), min_size=1, max_size=20))
def test_exported_widths_lead_to_the_same_corner(pairs: list[tuple[float, float]]) -> None:
    near, width = np.array(pairs).T
    far = near + width
    assert (near + side_of(near, far) == far).all()


def test_own_columns_come_back(tmp_path: Path) -> None:
    """What COCO has no field for, and metadata that has the names of COCO's fields."""
    schema = make_schema("cat", kinds=("box", "classification", "text", "mask"))
    counts = mask_api.encode(np.asfortranarray(np.eye(48, 64, dtype=np.uint8)))["counts"].decode()
    own = {
        "annotation_id": "human-1",
        "source": "human",
        "actor": "kim",
        "derived_from": "x",
        "attributes": {"bbox": 1, "odd": None},
        "kind": "classification",
    }
    rows = [
        {"id": 1, "image_id": 7, "category_id": 3, "dsops": own},
        coco_annotation(id=2, dsops={"kind": "text", "text": "STOP", "model": "m", "source": "model"}, score=0.25),
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": {"size": [48, 64], "counts": counts}},
    ]
    image = coco_document()["images"][0] | {
        "dsops": {
            "sample_id": "mine",
            "split": "hold/out",
            "group": "g",
            "origin": "o",
            "consent": "c",
            "expires_at": "2030-01-01T00:00:00.5+00:00",
            "captured_at": "2020-01-01T00:00:00.25+00:00",
            "metadata": {"id": 5, "license": None},
        }
    }
    content = coco_document(images=[image], annotations=rows, categories=[{"id": 3, "name": "cat"}])
    version = ingested(read("coco", coco_source(tmp_path, content), schema), tmp_path / "set", schema)
    (sample,) = version.samples.to_pylist()
    assert (sample["sample_id"], sample["split"], sample["group"]) == ("mine", "hold/out", "g")
    assert version.annotations["kind"].to_pylist() == ["classification", "text", "mask"]
    assert version.annotations["annotation_id"].to_pylist() == ["human-1", "mine#2", "mine#3"]
    assert_same(version, export_again("coco", version, tmp_path / "out")[0])
