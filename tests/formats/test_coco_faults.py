from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from format_cases import (
    coco_annotation,
    coco_document,
    coco_schema,
    coco_source,
    load_json,
    make_schema,
    messages,
    read,
    write,
)
from hypothesis import given
from hypothesis import strategies as st

from datasetops.errors import FormatError
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", kinds=("box", "polygon", "mask", "classification", "text"))


@pytest.mark.parametrize(
    ("name", "duplicates"), [("taco_annotations.json.gz", 2), ("taco_annotations_unofficial.json.gz", 0)]
)
def test_every_listed_defect_is_found_and_no_other(data: Path, name: str, duplicates: int) -> None:
    path = data / "coco_ann" / name
    listed = load_json(data / "coco_ann/taco_real_defects.json")[name.removeprefix("taco_").removesuffix(".gz")]
    parsed = read("coco", path, coco_schema(path))
    found = Counter(int(m[1]) for text in messages(parsed) if (m := re.search(r": annotation (\d+) ", text)))
    used_twice = [text for text in messages(parsed, "high") if "its id is used already" in text]
    assert len(used_twice) == duplicates
    assert len(found) - duplicates == len(listed)
    assert {entry["annotation_id"] for entry in listed} <= found.keys()
    lost = [entry for entry in listed if "non_positive_size" in entry["defects"]]
    kept = len(load_json(path)["annotations"]) - parsed.rejected
    assert len(parsed.annotations) == kept
    assert parsed.rejected >= len(lost) + duplicates


def test_zero_area_box_of_real_data(data: Path) -> None:
    parsed = read("coco", data / "bccd/coco.json", make_schema("RBC", "WBC", "Platelets"))
    assert messages(parsed) == [
        "coco.json: annotation 1971 (image 338): box (504, 337, 504, 337) has zero area",
    ]
    assert (len(parsed.samples), len(parsed.annotations), parsed.rejected) == (182, 2412, 1)


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
    rows = [coco_annotation(id=1), coco_annotation(**fault), coco_annotation(id=3)]
    parsed = read("coco", coco_source(tmp_path, coco_document(annotations=rows)), pets)
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
    parsed = read("coco", coco_source(tmp_path, coco_document(annotations=[coco_annotation(bbox=bbox)])), pets)
    assert [f.severity for f in parsed.findings] == ([severity] if severity else [])
    (row,) = parsed.annotations.to_pylist()
    assert [row["x1"], row["y1"]] == bbox[:2]
    assert parsed.rejected == 0


def test_unknown_classes_are_one_finding_each(tmp_path: Path, pets: LabelSchema) -> None:
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "Dog"}, {"id": 5, "name": "zebra"}]
    rows = [coco_annotation(id=n, category_id=3 + n % 3) for n in range(30)]
    parsed = read("coco", coco_source(tmp_path, coco_document(annotations=rows, categories=categories)), pets)
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
    images = [coco_document()["images"][0], image]
    rows = [coco_annotation(id=1), *([coco_annotation(id=2, image_id=8)] if "b.jpg" in str(image) else [])]
    parsed = read("coco", coco_source(tmp_path, coco_document(images=images, annotations=rows)), pets)
    (message,) = messages(parsed, "high")
    assert text in message
    assert (parsed.samples["media"].to_pylist(), len(parsed.annotations)) == (["a.jpg"], 1)
    assert parsed.rejected == lost


def test_wrong_sizes(tmp_path: Path, pets: LabelSchema) -> None:
    image = {"id": 7, "file_name": "a.jpg", "width": -3, "height": "48"}
    parsed = read("coco", coco_source(tmp_path, coco_document(images=[image])), pets)
    assert [text.partition(": ")[2] for text in messages(parsed, "medium")] == [
        "image 7: width -3 is not a number of pixels; taken as unknown",
        "image 7: height '48' is not a number of pixels; taken as unknown",
    ]
    (row,) = parsed.samples.to_pylist()
    assert (row["width"], row["height"], len(parsed.annotations)) == (None, None, 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"images": [],\n "annotations": [}', r"line 2, column 18: broken JSON"),
        (b'{"images": []}', "no list 'annotations'"),
        (b"[]", "COCO results file"),
        (json.dumps(coco_document(images=[])).encode(), "the set is empty"),
        (gzip.compress(json.dumps(coco_document()).encode(), mtime=0)[:60], "cannot be unpacked"),
        (b'{"images": [\n"\xff"]}', "line 2: not UTF-8"),
        (b'{"images": ["\\ud800"]}', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, pets: LabelSchema, content: bytes, text: str) -> None:
    path = write(tmp_path, {"x.json": content}) / "x.json"
    with pytest.raises(FormatError, match=text):
        read("coco", path, pets)


def test_images_that_are_not_where_the_user_says(tmp_path: Path, pets: LabelSchema) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FormatError, match=r"none of the 1 listed images is below .*elsewhere"):
        read("coco", coco_source(tmp_path, coco_document()), pets, tmp_path / "elsewhere")


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
    images = [*coco_document()["images"], {"id": 8, "file_name": "b.jpg", "dsops": own} | image]
    content = coco_document(images=images, annotations=[coco_annotation(), coco_annotation(id=3, dsops=own) | row])
    path = coco_source(tmp_path_factory.mktemp("fuzz"), content | ({part: value} if part != "none" else {}))
    try:
        parsed = read("coco", path, schema)
    except FormatError:
        return
    assert set(parsed.annotations["key"].to_pylist()) <= set(parsed.samples["key"].to_pylist())
    for geometry in parsed.annotations["geometry"].to_pylist():
        assert "null" not in (geometry or "")
