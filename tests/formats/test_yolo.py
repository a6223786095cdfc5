from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from format_cases import assert_same, content, export_again, ingested, jpeg, make_schema, messages, read, write
from hypothesis import given
from hypothesis import strategies as st

from datasetops.errors import FormatError
from datasetops.formats.yolo import _DECIMALS, _line
from datasetops.formats.yolo_write import _text
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

NAMES = "names: [cat, dog]\n"


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog", kinds=("box", "polygon"))


def source(tmp_path: Path, labels: str | bytes, config: str = NAMES + "train: images/train\nval: images/val\n") -> Path:
    files: dict[str, str | bytes] = {"images/train/a.jpg": jpeg(100, 50), "images/val/b.jpg": jpeg(colour=9)}
    return write(tmp_path / "set", files | {"data.yaml": config, "labels/train/a.txt": labels})


def test_boxes_and_polygons_in_pixels(tmp_path: Path, pets: LabelSchema) -> None:
    parsed = read("yolo", source(tmp_path, "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.8\n"), pets)
    assert messages(parsed) == []
    assert parsed.samples.select(["media", "split", "width"]).to_pylist() == [
        {"media": "images/train/a.jpg", "split": "train", "width": None},
        {"media": "images/val/b.jpg", "split": "val", "width": None},
    ]
    box, polygon = parsed.annotations.to_pylist()
    assert [box[n] for n in ("kind", "label", "x1", "y1", "x2", "y2")] == ["box", "dog", 40, 15, 60, 35]
    assert (polygon["kind"], polygon["label"], polygon["x1"]) == ("polygon", "cat", None)
    assert json.loads(polygon["geometry"]) == {"polygons": [[10.0, 10.0, 30.0, 10.0, 30.0, 40.0]]}


def test_exported_boxes_read_again_do_not_differ(data: Path, tmp_path: Path) -> None:
    blood = make_schema("RBC", "WBC", "Platelets", kinds=("box",))
    version = ingested(read("coco", data / "bccd/coco.json", blood), data / "bccd", blood)
    first, report, _ = export_again("yolo", version, tmp_path / "first")
    held = [[row[n] for n in ("label", "x1", "y1", "x2", "y2")] for row in version.annotations.to_pylist()]
    assert sorted(held) == sorted(
        [row[n] for n in ("label", "x1", "y1", "x2", "y2")] for row in content(first.annotations)
    )
    assert report.lost == [
        "182 samples' metadata are not written: yolo has no place for them.",
        "2412 annotation ids are not written: yolo has no place for them.",
        "2412 attributes are not written: yolo has no place for them.",
    ]
    assert_same(first, export_again("yolo", first, tmp_path / "second")[0])


def test_exported_polygons_read_again_do_not_differ(data: Path, tmp_path: Path) -> None:
    path = data / "coco_tiny/coco.json"
    schema = make_schema(*[category["name"] for category in json.loads(path.read_bytes())["categories"]])
    version = ingested(read("coco", path, schema), path.parent, schema)
    first, report, _ = export_again("yolo", version, tmp_path / "first")
    rings = {
        json.dumps(ring)
        for row in version.annotations.to_pylist()
        for ring in json.loads(row["geometry"]).get("polygons", ())
    }
    again = {
        json.dumps(json.loads(row["geometry"] or "{}").get("polygons", [None])[0]) for row in content(first.annotations)
    }
    assert {json.dumps([float(v) for v in json.loads(ring)]) for ring in rings} == again - {"null"}
    assert "60 annotations of several polygons become one annotation for each of them." in report.lost
    assert "10 masks are written as their boxes." in report.lost
    assert "842 boxes beside polygons are not written." in report.lost
    assert_same(first, export_again("yolo", first, tmp_path / "second")[0])


@given(
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    st.tuples(*[st.floats(0, 9000, allow_subnormal=False)] * 4),
)
def test_pixels_survive_the_fractions(size: tuple[int, int], corners: tuple[float, float, float, float]) -> None:
    box = [round(value, _DECIMALS) for value in corners]
    _, *fractions = map(float, _text(0, box, size).split())
    line = _line("", "", 1, "", [*fractions])
    assert [round(v * size[i % 2], _DECIMALS) for i, v in enumerate(line.values)] == pytest.approx(box, abs=1e-9)


def test_classes_are_numbered_without_gaps(tmp_path: Path, pets: LabelSchema) -> None:
    classes = [{"id": 90, "name": "brush"}, {"id": 1, "name": "cat"}, {"id": 13, "name": "dog"}]
    gaps = LabelSchema.model_validate(pets.model_dump() | {"classes": classes})
    version = ingested(read("yolo", source(tmp_path, "0 .5 .5 .2 .2\n1 .5 .5 .4 .4\n"), gaps), tmp_path / "set", gaps)
    again, report, _ = export_again("yolo", version, tmp_path / "out")
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_bytes())["names"] == ["cat", "dog", "brush"]
    lines = (tmp_path / "out/labels/train/a.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == ["0", "1"]
    assert report.lost == [
        "3 class ids are not written: yolo counts classes from 0 without gaps, and names them in data.yaml."
    ]
    assert_same(version, again)


def test_splits_of_their_own_name_and_without_one(tmp_path: Path, pets: LabelSchema) -> None:
    config = yaml.safe_dump(
        {"path": "/elsewhere", "train": ["../train/images"], "night": "night/images", "names": ["cat"]}
    )
    names = ("train/images/a.jpg", "night/images/a.jpg", "more/a.jpg")
    files: dict[str, str | bytes] = {name: jpeg(colour=90 * index) for index, name in enumerate(names)}
    labels = {"train/labels/a.txt": "0 .5 .5 .1 .1", "more/a.txt": "0 .5 .5 .2 .2", "classes.txt": "cat"}
    parsed = read("yolo", write(tmp_path / "set", files | labels | {"data.yaml": config}), pets)
    assert messages(parsed) == []
    assert dict(zip(*parsed.samples.select(["media", "split"]).to_pydict().values(), strict=True)) == {
        "more/a.jpg": None,
        "night/images/a.jpg": "night",
        "train/images/a.jpg": "train",
    }
    assert parsed.annotations["key"].to_pylist() == ["more/a.jpg", "train/images/a.jpg"]
    version = ingested(parsed, tmp_path / "set", pets)
    again, report, _ = export_again("yolo", version, tmp_path / "out")
    assert_same(version, again)
    assert report.lost == []


def test_split_by_a_list_of_images(tmp_path: Path, pets: LabelSchema) -> None:
    folder = source(tmp_path, "", NAMES + "train: train.txt\nval: images/val\n")
    parsed = read("yolo", write(folder, {"train.txt": "./images/train/a.jpg\n"}), pets)
    assert parsed.samples["split"].to_pylist() == ["train", "val"]


def test_without_data_yaml_ids_are_those_of_the_schema(tmp_path: Path, pets: LabelSchema) -> None:
    folder = write(tmp_path, {"images/valid/a.jpg": jpeg(), "labels/valid/a.txt": "1 .5 .5 .1 .1\n2 .5 .5 .1 .1"})
    parsed = read("yolo", folder, pets)
    assert parsed.annotations["label"].to_pylist() == ["dog"]
    assert parsed.samples["split"].to_pylist() == ["valid"]
    assert messages(parsed) == ["labels/valid/a.txt, line 2: class 2 is not among the 2 of the schema"]


def test_labels_and_images_in_two_places(tmp_path: Path, pets: LabelSchema) -> None:
    write(tmp_path, {"pixels/train/a.jpg": jpeg(100, 50), "set/labels/train/a.txt": "1 .5 .5 .1 .1"})
    parsed = read("yolo", tmp_path / "set", pets, tmp_path / "pixels")
    assert parsed.annotations.select(["key", "x1"]).to_pylist() == [{"key": "train/a.jpg", "x1": 45.0}]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("2 .5 .5 .1 .1", "class 2 is not among the 2 of data.yaml"),
        ("-1 .5 .5 .1 .1", "class -1 is not among"),
        ("0.5 .5 .5 .1 .1", "class 0.5 is not among"),
        ("cat .5 .5 .1 .1", "not a number"),
        ("0 .5 .5 .1", "4 values"),
        ("0 .5 .5 .1 .1 .1 .1 .1", "8 values"),
        ("0 .5 .5 nan .1", "NaN or infinite"),
        ("0 .5 .5 0 .1", "zero area"),
        ("0 .5 .5 -.1 .1", "ends before it begins"),
        ("0 1.5 .5 .1 .1", "wholly outside the 100 x 50 image"),
    ],
)
def test_faulty_line_is_left_out_and_the_rest_kept(tmp_path: Path, pets: LabelSchema, line: str, text: str) -> None:
    parsed = read("yolo", source(tmp_path, f"0 .5 .5 .1 .1\n{line}\n1 .5 .5 .1 .1\n"), pets)
    (message,) = messages(parsed)
    assert text in message
    assert message.startswith("labels/train/a.txt, line 2")
    assert parsed.annotations["label"].to_pylist() == ["cat", "dog"]
    assert (len(parsed.samples), parsed.rejected) == (2, 1)


def test_other_faults(tmp_path: Path, pets: LabelSchema) -> None:
    folder = source(tmp_path, b"\xff\xfe0", "names: [cat, Dog]\n")
    labels = {
        "labels/train/none.txt": "0 .5 .5 .1 .1",
        "labels/val/b.txt": "1 .5 .5 .1 .1\n1 .5 .5 .2 .2\n0 .5 .5 .3 .3",
    }
    write(folder, labels | {"images/val/b.jpg": b"no image"})
    parsed = read("yolo", folder, pets)
    assert messages(parsed) == [
        "labels/train/none.txt: there is no image for these labels",
        "labels/train/a.txt: not UTF-8",
        "data.yaml: the schema test has no class 'Dog'; did you mean 'dog'? (2 annotations left out)",
        "images/val/b.jpg: unreadable: no image of a known type, or cut off in its header; its 1 labels are left out",
    ]
    assert (len(parsed.annotations), parsed.rejected) == (0, 5)


def test_boxes_rounded_beyond_the_edge_are_no_finding(tmp_path: Path, pets: LabelSchema) -> None:
    parsed = read("yolo", source(tmp_path, "0 0.049999 0.5 0.1 0.1\n0 0.04 0.5 0.1 0.1\n"), pets)
    assert [f.message for f in parsed.findings] == [
        "labels/train/a.txt, line 2 (cat): outline (-1, 22.5, 9, 27.5) reaches 1 px out of the 100 x 50 image; kept as it is"
    ]
    assert len(parsed.annotations) == 2


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("names: [a\nb: ]", "line 2, column 2: broken YAML"),
        ("[1]", "no mapping"),
        ("nc: 3", "no `names`"),
        ("names: {a: b}", "'a': 'b' is not an id and a name"),
        ("names: [a]\nkpt_shape: [17, 3]", "pose labels are not read"),
        ("a: \x00", "broken YAML"),
    ],
)
def test_faulty_data_yaml(tmp_path: Path, pets: LabelSchema, config: str, text: str) -> None:
    folder = source(tmp_path, "", config)
    with pytest.raises(FormatError, match=text):
        read("yolo", folder / "data.yaml", pets)


def test_empty_set(tmp_path: Path, pets: LabelSchema) -> None:
    with pytest.raises(FormatError, match="the set is empty"):
        read("yolo", write(tmp_path, {"labels/a.txt": "0 .5 .5 .1 .1"}), pets)
