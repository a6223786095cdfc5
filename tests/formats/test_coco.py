from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_cases import assert_same, export_again, ingested, jpeg, make_schema, messages, read, write
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from datasetops.errors import FormatError
from datasetops.formats.coco_write import _side
from datasetops.schema import LabelSchema


def load(path: Path) -> Any:
    return json.loads(gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes())


def schema_of(path: Path) -> LabelSchema:
    names = [category["name"] for category in load(path)["categories"]]
    return make_schema(*names, kinds=("box", "polygon", "mask"))


def document(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    } | changes


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 2, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20]} | changes


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", kinds=("box", "polygon", "mask", "classification", "text"))


def source(tmp_path: Path, content: dict[str, Any]) -> Path:
    write(tmp_path / "set", {"coco.json": json.dumps(content), "a.jpg": jpeg(64, 48)})
    return tmp_path / "set" / "coco.json"


@pytest.mark.parametrize("name", ["bccd/coco.json", "coco_tiny/coco.json", "coco_ann/persons_val2017_rebuilt.json.gz"])
def test_exported_and_read_again_nothing_differs(data: Path, tmp_path: Path, name: str) -> None:
    path = data / name
    version = ingested(read("coco", path, schema_of(path)), path.parent, schema_of(path))
    again, report, _ = export_again("coco", version, tmp_path / "out")
    assert_same(version, again)
    assert len(version.annotations) > 800
    assert [sentence for sentence in report.lost if "no image" not in sentence] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_export_is_what_pycocotools_reads(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "coco_tiny" / "coco.json"
    version = ingested(read("coco", path, schema_of(path)), path.parent, schema_of(path))
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


@pytest.mark.parametrize(
    ("name", "duplicates"), [("taco_annotations.json.gz", 2), ("taco_annotations_unofficial.json.gz", 0)]
)
def test_every_listed_defect_is_found_and_no_other(data: Path, name: str, duplicates: int) -> None:
    path = data / "coco_ann" / name
    listed = load(data / "coco_ann/taco_real_defects.json")[name.removeprefix("taco_").removesuffix(".gz")]
    parsed = read("coco", path, schema_of(path))
    found = Counter(int(m[1]) for text in messages(parsed) if (m := re.search(r": annotation (\d+) ", text)))
    used_twice = [text for text in messages(parsed, "high") if "its id is used already" in text]
    assert len(used_twice) == duplicates
    assert len(found) - duplicates == len(listed)
    assert {entry["annotation_id"] for entry in listed} <= found.keys()
    lost = [entry for entry in listed if "non_positive_size" in entry["defects"]]
    kept = len(load(path)["annotations"]) - parsed.rejected
    assert len(parsed.annotations) == kept
    assert parsed.rejected >= len(lost) + duplicates


def test_zero_area_box_of_real_data(data: Path) -> None:
    parsed = read("coco", data / "bccd/coco.json", make_schema("RBC", "WBC", "Platelets"))
    assert messages(parsed) == [
        "coco.json: annotation 1971 (image 338): box (504, 337, 504, 337) has zero area",
    ]
    assert (len(parsed.samples), len(parsed.annotations), parsed.rejected) == (182, 2412, 1)


def test_kinds_boxes_and_geometry(tmp_path: Path, pets: LabelSchema) -> None:
    crowd = {"size": [48, 64], "counts": [0, 48 * 64]}
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    rows = [
        annotation(id=1),
        annotation(id=2, segmentation=[square], area=400.0, iscrowd=0, note="x"),
        annotation(id=3, segmentation=crowd, iscrowd=1),
        annotation(id=4, segmentation=[square], keypoints=[15, 15, 2, 0, 0, 0], num_keypoints=1),
        {"id": 5, "image_id": 7, "category_id": 4, "segmentation": [square]},
        {"id": 6, "image_id": 7, "caption": "a cat"},
        annotation(id=7, score=0.5),
    ]
    parsed = read("coco", source(tmp_path, document(annotations=rows)), pets)
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
    content = document(images=[image | {"date_captured": "2013-11-14 11:18:45"}], licenses=licenses)
    parsed = read("coco", source(tmp_path, content), pets)
    (row,) = parsed.samples.to_pylist()
    assert (row["key"], row["media"], row["sample_id"], row["license"]) == ("7", "a.jpg", None, "CC BY")
    assert row["captured_at"].isoformat() == "2013-11-14T11:18:45+00:00"
    assert json.loads(row["metadata"]) == {"image_id": 7, "light": "day", "license_url": "https://cc/by"}

    content = document(images=[image | {"license": 9, "date_captured": "soon"}], licenses=licenses)
    parsed = read("coco", source(tmp_path, content), pets)
    (row,) = parsed.samples.to_pylist()
    assert (row["license"], row["captured_at"], json.loads(row["metadata"])["date_captured"]) == ("9", None, "soon")
    assert messages(parsed) == ["coco.json: license 9 of 1 images is not among the file's licenses"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"bbox": [10, 10, 0, 5]}, "zero area"),
        ({"bbox": [10, 10, -5, 5]}, "ends before it begins"),
        ({"bbox": [10, 10, NAN, 5]}, "not a number"),
        ({"bbox": [NAN, NAN, NAN, NAN]}, "not a number"),
        ({"bbox": [INF, INF, -INF, -INF]}, "not a number"),
        ({"bbox": [100, 10, 5, 5]}, "wholly outside the 64 x 48 image"),
        ({"bbox": [1, 2, 3]}, "not a list of four numbers"),
        ({"bbox": "1,2,3,4"}, "not a list of four numbers"),
        ({"bbox": ["1", "2", "3", "4"]}, "not a list of four numbers"),
        ({"bbox": None}, "no bbox, segmentation or keypoints"),
        ({"image_id": 8}, "lists no such image"),
        ({"image_id": [7]}, "lists no such image"),
        ({"category_id": None}, "no category_id"),
        ({"category_id": 99}, "not in the file's categories"),
        ({"category_id": [3]}, "not in the file's categories"),
        ({"id": 1}, "its id is used already"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygon 0 has 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, NAN]]}, "polygon 0 has a coordinate that is not a number"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "polygon 0 has a coordinate that is not a number"),
        ({"segmentation": {"size": [48, 60], "counts": [0, 48 * 60]}}, "does not fit the 64 x 48 image"),
        ({"segmentation": {"size": [48, 64], "counts": [5]}}, "cover 5 pixels"),
        ({"segmentation": {"size": [48, 64], "counts": "\x01"}}, "damaged"),
        ({"segmentation": "x"}, "neither a list of polygons nor an RLE mask"),
        ({"keypoints": [1, 2]}, "triples"),
    ],
)
def test_faulty_annotation_is_left_out_and_the_rest_kept(
    tmp_path: Path, pets: LabelSchema, fault: dict[str, Any], text: str
) -> None:
    rows = [annotation(id=1), annotation(**fault), annotation(id=3)]
    parsed = read("coco", source(tmp_path, document(annotations=rows)), pets)
    (message,) = messages(parsed, "high")
    assert text in message
    assert message.startswith("coco.json: ")
    assert parsed.findings[0].uri == str(tmp_path / "set/coco.json")
    assert parsed.annotations["external_id"].to_pylist() == ["1", "3"]
    assert (len(parsed.samples), parsed.rejected) == (1, 1)


@pytest.mark.parametrize(
    ("bbox", "severity"),
    [([-3, 0, 10, 10], "medium"), ([60, 40, 10, 5], "medium"), ([-0.2, 0, 10, 10], "low"), ([60, 40, 4.4, 5], None)],
)
def test_boxes_out_of_the_image_are_kept_and_told(
    tmp_path: Path, pets: LabelSchema, bbox: list[float], severity: str | None
) -> None:
    parsed = read("coco", source(tmp_path, document(annotations=[annotation(bbox=bbox)])), pets)
    assert [f.severity for f in parsed.findings] == ([severity] if severity else [])
    (row,) = parsed.annotations.to_pylist()
    assert [row["x1"], row["y1"]] == bbox[:2]
    assert parsed.rejected == 0


def test_unknown_classes_are_one_finding_each(tmp_path: Path, pets: LabelSchema) -> None:
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "Dog"}, {"id": 5, "name": "zebra"}]
    rows = [annotation(id=n, category_id=3 + n % 3) for n in range(30)]
    parsed = read("coco", source(tmp_path, document(annotations=rows, categories=categories)), pets)
    assert messages(parsed) == [
        "coco.json: category 4: the schema test has no class 'Dog'; did you mean 'dog'? (10 annotations left out)",
        "coco.json: category 5: the schema test has no class 'zebra' (10 annotations left out)",
    ]
    assert [(f.given, f.suggested) for f in parsed.findings] == [("Dog", "dog"), ("zebra", None)]
    assert (len(parsed.annotations), parsed.rejected) == (10, 20)


@pytest.mark.parametrize(
    ("image", "text", "lost"),
    [
        ({"id": 8, "file_name": "b.jpg"}, "'b.jpg' is listed, but is not below", 2),
        ({"id": 8, "file_name": "../../etc/passwd.jpg"}, "leads out of the folder", 1),
        ({"id": 8, "file_name": "/etc/a.jpg"}, "not a relative path", 1),
        ({"id": 7, "file_name": "a.jpg"}, "image id 7 is used twice", 1),
        ({"file_name": "a.jpg"}, "has no id", 1),
        ({"id": 8, "file_name": "a.jpg"}, "same file 'a.jpg' as image 7", 1),
        ("nothing", "1 entries of 'images' are not objects", 1),
    ],
)
def test_faulty_image_is_left_out(tmp_path: Path, pets: LabelSchema, image: Any, text: str, lost: int) -> None:
    images = [document()["images"][0], image]
    rows = [annotation(id=1), *([annotation(id=2, image_id=8)] if "b.jpg" in str(image) else [])]
    parsed = read("coco", source(tmp_path, document(images=images, annotations=rows)), pets)
    (message,) = messages(parsed, "high")
    assert text in message
    assert (parsed.samples["media"].to_pylist(), len(parsed.annotations)) == (["a.jpg"], 1)
    assert parsed.rejected == lost


def test_wrong_sizes(tmp_path: Path, pets: LabelSchema) -> None:
    image = {"id": 7, "file_name": "a.jpg", "width": -3, "height": "48"}
    parsed = read("coco", source(tmp_path, document(images=[image])), pets)
    assert [text.partition(": ")[2] for text in messages(parsed, "medium")] == [
        "image 7: width -3 is not a number of pixels; taken as unknown",
        "image 7: height '48' is not a number of pixels; taken as unknown",
    ]
    (row,) = parsed.samples.to_pylist()
    assert (row["width"], row["height"], len(parsed.annotations)) == (None, None, 1)


def test_annotations_without_any_image_keep_their_file_names(tmp_path: Path, pets: LabelSchema) -> None:
    images = [{"id": n, "file_name": f"part/{n}.jpg", "width": 64, "height": 48} for n in (7, 8)]
    path = write(tmp_path, {"coco.json": json.dumps(document(images=images))}) / "coco.json"
    parsed = read("coco", path, pets)
    assert parsed.samples["sample_id"].to_pylist() == ["part/7.jpg", "part/8.jpg"]
    assert json.loads(parsed.samples["metadata"][0].as_py()) == {"file_name": "part/7.jpg", "image_id": 7}
    assert [f.severity for f in parsed.findings] == ["low"]
    assert parsed.rejected == 0


def test_a_folder_holds_one_file_for_each_split(tmp_path: Path, pets: LabelSchema) -> None:
    rows = {}
    for year, name in (("train2017", "a"), ("val2017", "b")):
        images = [{"id": 7, "file_name": f"{name}.jpg", "width": 64, "height": 48}]
        rows[f"annotations/instances_{year}.json"] = json.dumps(document(images=images))
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
            document(images=images, annotations=[annotation(image_id=number)])
        ).encode()
    parsed = read("coco", write(tmp_path / "set", rows), pets)
    assert parsed.samples["split"].to_pylist() == ["fold_1", "fold 2.0", None, "train-b/x"]
    version = ingested(parsed, tmp_path / "set", pets)
    again, _, parsed = export_again("coco", version, tmp_path / "out")
    assert_same(version, again)
    assert len(set(again.samples["sample_id"].to_pylist())) == 4
    assert (tmp_path / "out/images/fold_1/a.jpg").is_file()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"images": [],\n "annotations": [}', r"line 2, column 18: broken JSON"),
        (b'{"images": []}', "no list 'annotations'"),
        (b"[]", "COCO results file"),
        (json.dumps(document(images=[])).encode(), "the set is empty"),
        (gzip.compress(json.dumps(document()).encode())[:60], "cannot be unpacked"),
        (b'{"images": [\n"\xff"]}', "line 2: not UTF-8"),
        (b'{"images": ["\\ud800"]}', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, pets: LabelSchema, content: bytes, text: str) -> None:
    path = write(tmp_path, {"x.json": content}) / "x.json"
    with pytest.raises(FormatError, match=text):
        read("coco", path, pets)


@given(st.lists(st.tuples(*[st.floats(0, 5000).map(lambda v: round(v, 4))] * 2), min_size=1, max_size=20))
def test_exported_widths_lead_to_the_same_corner(pairs: list[tuple[float, float]]) -> None:
    near, width = np.array(pairs).T
    far = near + width
    assert (near + _side(near, far) == far).all()


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
        annotation(id=2, dsops={"kind": "text", "text": "STOP", "model": "m", "source": "model"}, score=0.25),
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": {"size": [48, 64], "counts": counts}},
    ]
    image = document()["images"][0] | {
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
    content = document(images=[image], annotations=rows, categories=[{"id": 3, "name": "cat"}])
    version = ingested(read("coco", source(tmp_path, content), schema), tmp_path / "set", schema)
    (sample,) = version.samples.to_pylist()
    assert (sample["sample_id"], sample["split"], sample["group"]) == ("mine", "hold/out", "g")
    assert version.annotations["kind"].to_pylist() == ["classification", "text", "mask"]
    assert version.annotations["annotation_id"].to_pylist() == ["human-1", "mine#2", "mine#3"]
    assert_same(version, export_again("coco", version, tmp_path / "out")[0])


def test_images_that_are_not_where_the_user_says(tmp_path: Path, pets: LabelSchema) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FormatError, match=r"none of the 1 listed images is below .*elsewhere"):
        read("coco", source(tmp_path, document()), pets, tmp_path / "elsewhere")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "a.jpg", "../a", "\x00", "7"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "kind", "size"]), inner, max_size=3)
    ),
    max_leaves=5,
)
IMAGE_FIELDS = ["id", "file_name", "width", "height", "license", "date_captured", "dsops", "coco_url", "other"]
FIELDS = ["id", "image_id", "category_id", "bbox", "segmentation", "keypoints", "iscrowd", "caption", "score", "area"]
OWN = ["computed", "attributes", "metadata", "kind", "split", "annotation_id", "source", "expires_at"]


@given(
    st.dictionaries(st.sampled_from(IMAGE_FIELDS), JSON, max_size=2),
    st.dictionaries(st.sampled_from([*FIELDS, "dsops"]), JSON, max_size=2),
    st.dictionaries(st.sampled_from(OWN), JSON, max_size=3),
    st.sampled_from(["images", "annotations", "categories", "licenses", "info", "none"]),
    JSON,
)
def test_no_content_is_more_than_a_finding_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, image: Any, row: Any, own: Any, part: str, value: Any
) -> None:
    schema = make_schema("cat", "dog")
    images = [*document()["images"], {"id": 8, "file_name": "b.jpg", "dsops": own} | image]
    content = document(images=images, annotations=[annotation(), annotation(id=3, dsops=own) | row])
    path = source(tmp_path_factory.mktemp("fuzz"), content | ({part: value} if part != "none" else {}))
    try:
        parsed = read("coco", path, schema)
    except FormatError:
        return
    assert set(parsed.annotations["key"].to_pylist()) <= set(parsed.samples["key"].to_pylist())
    for geometry in parsed.annotations["geometry"].to_pylist():
        assert "null" not in (geometry or "")
