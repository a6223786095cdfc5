from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from format_cases import assert_same, export_again, ingested, jpeg, make_schema, messages, read, write

from datasetops.errors import FormatError
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

BLOOD = make_schema("RBC", "WBC", "Platelets", kinds=("box",))


@pytest.fixture
def pets() -> LabelSchema:
    return make_schema("cat", "dog")


def voc(*objects: str, name: str = "a.jpg", size: str = "<size><width>64</width><height>48</height></size>") -> str:
    return f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def box(label: str = "cat", corners: tuple[object, ...] = (10, 10, 30, 30), more: str = "") -> str:
    values = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{label}</name>{more}<bndbox>{values}</bndbox></object>"


def source(tmp_path: Path, text: str | bytes) -> Path:
    return write(tmp_path / "set", {"Annotations/a.xml": text, "JPEGImages/a.jpg": jpeg(64, 48)})


@pytest.mark.parametrize("name", ["annotations_voc", "annotations_first_pass_voc"])
def test_exported_and_read_again_nothing_differs(data: Path, tmp_path: Path, name: str) -> None:
    images = data / "bccd/images"
    version = ingested(read("voc", data / "bccd" / name, BLOOD, images), images, BLOOD)
    again, report, _ = export_again("voc", version, tmp_path / "out")
    assert_same(version, again)
    assert report.lost == []
    assert len(version.annotations) > 1900


def test_corners_are_those_of_the_files(data: Path) -> None:
    folder = data / "bccd/annotations_voc"
    parsed = read("voc", folder, BLOOD, data / "bccd/images")
    rows = parsed.annotations.to_pylist()
    given = []
    for path in sorted(folder.glob("*.xml")):
        for element in ElementTree.parse(path).iter("object"):
            corners = [float(element.findtext(f"bndbox/{n}", "")) for n in ("xmin", "ymin", "xmax", "ymax")]
            given.append([path.stem, element.findtext("name"), *corners])
    given.remove(["BloodImage_00338", "RBC", 504.0, 337.0, 504.0, 337.0])
    assert [[row[n] for n in ("key", "label", "x1", "y1", "x2", "y2")] for row in rows] == given
    assert json.loads(rows[0]["attributes"]) == {"difficult": False, "pose": "Unspecified", "truncated": False}
    metadata = json.loads(parsed.samples["metadata"][0].as_py())
    assert metadata == {
        "depth": 3,
        "folder": "JPEGImages",
        "path": "/home/pi/detection_dataset/JPEGImages/BloodImage_00000.jpg",
        "segmented": 0,
        "source": {"database": "Unknown"},
    }
    assert messages(parsed) == [
        "BloodImage_00338.xml, object 13 (RBC): box (504, 337, 504, 337) has zero area",
    ]


def test_typos_of_real_data_are_found_and_the_class_meant_is_named(data: Path) -> None:
    parsed = read("voc", data / "bccd/annotations_raw_names_voc", BLOOD, data / "bccd/images")
    typos = [(Path(f.uri or "").stem, f.given, f.suggested) for f in parsed.findings if f.given]
    listed = json.loads((data / "bccd/known_issues.json").read_bytes())["class_name_typos_in_annotations_raw_names_voc"]
    assert typos == [(image, name, "Platelets") for image, name in listed]


def test_other_elements_and_splits(tmp_path: Path, pets: LabelSchema) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    text = voc(box(more=f"<pose>Left</pose><difficult>1</difficult>{part}{part}<code>007</code>"))
    write(tmp_path / "set", {"ImageSets/Main/train.txt": "a\n", "ImageSets/Main/cat_train.txt": "a  1\n"})
    write(tmp_path / "set", {"ImageSets/Main/trainval.txt": "a\n"})
    parsed = read("voc", source(tmp_path, text.replace("<annotation>", '<annotation verified="no">')), pets, split="x")
    assert json.loads(parsed.annotations["attributes"][0].as_py()) == {
        "code": "007",
        "difficult": True,
        "part": [{"bndbox": {"xmin": 1}, "name": "head"}] * 2,
        "pose": "Left",
    }
    (sample,) = parsed.samples.to_pylist()
    assert (sample["split"], sample["metadata"]) == ("train", '{"@verified":"no"}')
    version = ingested(parsed, tmp_path / "set", pets)
    again, report, _ = export_again("voc", version, tmp_path / "out")
    assert_same(version, again)
    assert report.lost == []
    assert "<difficult>1</difficult>" in (tmp_path / "out/Annotations/a.xml").read_text()


def test_flags_are_numbers_where_the_schema_says_so(tmp_path: Path, pets: LabelSchema) -> None:
    declared = {"attributes": [{"name": "difficult", "type": "number"}]}
    schema = LabelSchema.model_validate(pets.model_dump() | declared)
    flags = "<difficult>1</difficult><truncated>0</truncated><occluded>2</occluded>"
    parsed = read("voc", source(tmp_path, voc(box(more=flags))), schema)
    expected = '{"difficult":1,"occluded":2,"truncated":false}'
    assert parsed.annotations["attributes"].to_pylist() == [expected]
    version = ingested(parsed, tmp_path / "set", schema)
    assert export_again("voc", version, tmp_path / "out")[0].annotations["attributes"].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (box(corners=(10, 10, 10, 30)), "zero area"),
        (box(corners=(30, 10, 10, 30)), "ends before it begins"),
        (box(corners=("nan", 10, 20, 30)), "not a number"),
        (box(corners=("ten", 10, 20, 30)), "xmin 'ten' is not a number"),
        (box(corners=(70, 10, 80, 30)), "wholly outside the 64 x 48 image"),
        ("<object><name>cat</name></object>", "no bndbox"),
        ("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>", "no ymin"),
        (box(label=""), "no name"),
        (box(label="cta"), "no class 'cta'"),
    ],
)
def test_faulty_object_is_left_out_and_the_rest_kept(tmp_path: Path, pets: LabelSchema, fault: str, text: str) -> None:
    parsed = read("voc", source(tmp_path, voc(box(), fault, box("dog"))), pets)
    (message,) = messages(parsed)
    assert text in message
    assert message.startswith("Annotations/a.xml")
    assert parsed.annotations["label"].to_pylist() == ["cat", "dog"]
    assert parsed.rejected == 1


ENTITIES = '<!DOCTYPE x [<!ENTITY a "haha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<filename>b.jpg</annotation>", "bad.xml, line 2, column 18: broken XML: mismatched tag"),
        (f"{ENTITIES}]><annotation><filename>&i;</filename></annotation>", "bad.xml: XML with entities is refused"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>', "entities is refused"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "line 1"),
        (b"<annotation>\xff</annotation>", "line 1, column 13: broken XML"),
        (b"", "no element found"),
        (voc(name="../../x.jpg"), "leads out of the folder"),
        (voc(name="/x.jpg"), "not a relative path"),
        (voc(name="gone.jpg"), "'gone.jpg' is listed, but is not below"),
        (voc(name="a.jpg"), "its image 'JPEGImages/a.jpg' is that of Annotations/a.xml too"),
    ],
)
def test_faulty_file_is_left_out_and_the_rest_kept(
    tmp_path: Path, pets: LabelSchema, text: str | bytes, message: str
) -> None:
    folder = write(source(tmp_path, voc(box())), {"bad.xml": text})
    parsed = read("voc", folder, pets)
    (found,) = messages(parsed)
    assert message in found
    assert (parsed.samples["media"].to_pylist(), parsed.rejected) == (["JPEGImages/a.jpg"], 1)


def test_sizes_that_are_none(tmp_path: Path, pets: LabelSchema) -> None:
    size = "<size><width>0</width><height>many</height></size>"
    parsed = read("voc", source(tmp_path, voc(box(), size=size)), pets)
    assert [text.partition(": ")[2] for text in messages(parsed, "medium")] == [
        "width '0' is not a number of pixels; taken as unknown",
        "height 'many' is not a number of pixels; taken as unknown",
    ]
    assert len(parsed.annotations) == 1


def test_without_any_image_file_names_are_kept(tmp_path: Path, pets: LabelSchema) -> None:
    parsed = read("voc", write(tmp_path, {"a.xml": voc(box())}), pets)
    (sample,) = parsed.samples.to_pylist()
    assert (sample["sample_id"], sample["metadata"], sample["media"]) == ("a.jpg", '{"file_name":"a.jpg"}', None)
    assert parsed.rejected == 0
    version = ingested(parsed, tmp_path, pets)
    assert_same(version, export_again("voc", version, tmp_path / "out")[0])


def test_empty_set(tmp_path: Path, pets: LabelSchema) -> None:
    with pytest.raises(FormatError, match="the set is empty"):
        read("voc", write(tmp_path, {"notes.txt": "x"}), pets)


def test_what_voc_cannot_hold_is_told(data: Path, tmp_path: Path) -> None:
    path = data / "coco_tiny/coco.json"
    names = [category["name"] for category in json.loads(path.read_bytes())["categories"]]
    schema = make_schema(*names)
    version = ingested(read("coco", path, schema), path.parent, schema)
    again, report, _ = export_again("voc", version, tmp_path / "out")
    assert report.lost == [
        "100 values of license are not written: voc has no place for them.",
        "100 values of captured_at are not written: voc has no place for them.",
        "852 annotation ids are not written: voc has no place for them.",
        "852 polygons, masks or keypoints are not written: voc has no place for them.",
    ]
    key = [("sample_id", "ascending"), ("x1", "ascending"), ("y1", "ascending"), ("x2", "ascending")]
    held = ["sample_id", "label", "x1", "y1", "x2", "y2", "attributes"]
    first, second = (t.sort_by(key).select(held).to_pylist() for t in (version.annotations, again.annotations))
    assert first == second
