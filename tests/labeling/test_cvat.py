"""CVAT files: what is written comes back; exports as CVAT makes them; broken ones."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.errors import StoreError
from datasetops.formats.geometry import geometry_area
from datasetops.labeling.base import AnsweredTask, ImageSize, Task
from datasetops.labeling.cvat import CvatFiles
from datasetops.labeling.masks import encoded
from datasetops.labeling.orientation import to_shown
from datasetops.progress import no_progress
from datasetops.schema import LabelSchema, load_schema

SCHEMAS = Path(__file__).parents[2] / "schemas"
WIDTH, HEIGHT = 64, 40


@pytest.fixture(scope="module")
def cells() -> LabelSchema:
    return load_schema(SCHEMAS / "blood_cells.yaml")


@pytest.fixture(scope="module")
def everything() -> LabelSchema:
    """All kinds of tasks and attributes."""
    points = ["nose", "left eye", "right eye"]
    return LabelSchema.model_validate(
        {
            "name": "street",
            "version": 1,
            "tasks": [
                {"kind": "classification"},
                {"kind": "box"},
                {"kind": "polygon"},
                {"kind": "mask"},
                {"kind": "keypoints", "keypoints": points, "skeleton": [["nose", "left eye"]]},
                {"kind": "text"},
            ],
            "classes": [
                {"id": 0, "name": "car"},
                {"id": 1, "name": "face", "kinds": ["keypoints"]},
                {"id": 2, "name": "sign", "kinds": ["text", "box"]},
            ],
            "attributes": [
                {"name": "parked", "type": "bool", "classes": ["car"]},
                {"name": "lane", "type": "number", "classes": ["car"]},
                {"name": "colour", "type": "choice", "values": ["red", "dark blue"], "classes": ["car"]},
                {"name": "plate", "type": "text", "classes": ["car"]},
            ],
        }
    )


def picture(orientation: int = 1, kind: str = "JPEG") -> bytes:
    photo = photos()[1].resize((WIDTH, HEIGHT))
    exif = photo.getexif()
    exif[0x0112] = orientation
    file = BytesIO()
    photo.save(file, kind, exif=exif)
    return file.getvalue()


def box(annotation_id: str, label: str, *sides: float, **more: Any) -> dict[str, Any]:
    row = {"annotation_id": annotation_id, "kind": "box", "label": label}
    return row | dict(zip(("x1", "y1", "x2", "y2"), sides, strict=True)) | more


def task(sample_id: str, *rows: dict[str, Any], orientation: int = 1) -> Task:
    return Task(sample_id, "b1", f"{sample_id}.jpg", ImageSize(WIDTH, HEIGHT, orientation), rows)


def write(tasks: list[Task], schema: LabelSchema, out: Path, kind: str = "JPEG") -> list[str]:
    media = {item.sample_id: picture(item.size.orientation, kind) for item in tasks}
    return CvatFiles().write(tasks, schema, out, read_media=media.__getitem__, progress=no_progress)


def read(path: Path, schema: LabelSchema, tasks: list[Task], actor: str | None = "ann") -> dict[str, AnsweredTask]:
    sizes = {item.sample_id: item.size for item in tasks}
    return {item.sample_id: item for item in CvatFiles().read(path, schema, sizes, actor=actor)}


def same(values: Any, row: Any) -> bool:
    """Whether all that the row says is in the values, numbers within 0.01."""
    if isinstance(row, dict):
        return all(same(values[name], value) for name, value in row.items() if name != "annotation_id")
    if isinstance(row, list):
        return len(values) == len(row) and all(map(same, values, row))
    if isinstance(row, float | int) and not isinstance(row, bool):
        return bool(abs(values - row) < 0.01)
    return bool(values == row and type(values) is type(row))


def test_boxes_come_back(cells: LabelSchema, tmp_path: Path) -> None:
    rows = [
        box("a1", "RBC", 1.25, 2, 30, 20.123456, attributes={"truncated": True, "difficult": False}),
        box("a2", "WBC", 3, 4, 50, 39, attributes={"wbc_state": "smudged", "truncated": False, "difficult": True}),
    ]
    tasks = [task("s1", *rows), task("s2"), task("odd/näme #1.x", box("a3", "Platelets", 0, 0, 9, 9))]
    losses = write(tasks, cells, tmp_path / "out.zip")
    assert losses == [
        "1 annotations leave 'truncated' open: CVAT answers false for them.",
        "1 annotations leave 'difficult' open: CVAT answers false for them.",
    ]
    answered = read(tmp_path / "out.zip", cells, tasks)
    assert sorted(answered) == sorted(item.sample_id for item in tasks)
    (answer,) = answered["s1"].answers
    assert [(r.name, r.derived_from) for r in answer.regions] == [("a1", "a1"), ("a2", "a2")]
    assert all(same(region.values, row) for region, row in zip(answer.regions, rows, strict=True))
    assert (answer.actor, answer.status, answer.unread, answer.problems) == ("ann", "done", (), ())
    assert answered["s2"].answers[0].regions == ()
    assert answered["odd/näme #1.x"].answers[0].regions[0].derived_from == "a3"


def kinds_of_rows() -> list[dict[str, Any]]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 7:30] = True
    mask[10:12, 9:15] = False
    attributes = {"parked": True, "lane": 2, "colour": "dark blue", "plate": " B <1> & \n x"}
    ring = to_ring(20, 20, 16, 6, 30)
    corners = np.reshape(ring, (-1, 2))
    turned = dict(zip(("x1", "y1", "x2", "y2"), [*corners.min(axis=0), *corners.max(axis=0)], strict=True))
    return [
        {"annotation_id": "c", "kind": "classification", "label": "car", "attributes": attributes},
        {"annotation_id": "r", "kind": "box", "label": "car", **turned, "geometry": {"polygons": [ring]}},
        {
            "annotation_id": "p",
            "kind": "polygon",
            "label": "car",
            "geometry": {"polygons": [[1, 1, 30.5, 1, 30, 20], [40, 2, 60, 2, 60, 30, 41, 31.25]]},
        },
        {"annotation_id": "m", "kind": "mask", "label": "car", "geometry": {"rle": encoded(mask)}},
        {
            "annotation_id": "k",
            "kind": "keypoints",
            "label": "face",
            "geometry": {"keypoints": [9, 8, 2, 4, 3, 1, 0, 0, 0]},
        },
        {
            "annotation_id": "k2",
            "kind": "keypoints",
            "label": "car",
            "geometry": {"keypoints": [1, 2, 2, 3, 4, 2, 5, 6, 2]},
        },
        box("t", "sign", 1, 2, 30, 12, kind="text", text="STOP & go"),
        box("u", "sign", 1, 2, 30, 12),
        {"annotation_id": "n", "kind": "text", "label": None, "text": "a street"},
    ]


def to_ring(x: float, y: float, width: float, height: float, degrees: float) -> list[float]:
    turn = np.exp(1j * np.radians(degrees))
    corners = [complex(dx, dy) * turn for dx, dy in ((0, 0), (width, 0), (width, height), (0, height))]
    return [value for corner in corners for value in (x + corner.real, y + corner.imag)]


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_all_kinds_come_back_in_every_orientation(everything: LabelSchema, tmp_path: Path, orientation: int) -> None:
    rows = kinds_of_rows()
    tasks = [task("s1", *rows, orientation=orientation)]
    write(tasks, everything, tmp_path / "out.zip")
    (answer,) = read(tmp_path / "out.zip", everything, tasks)["s1"].answers
    assert (answer.unread, answer.problems) == ((), ())
    found = {region.derived_from: region.values for region in answer.regions}
    assert list(found) == [row["annotation_id"] for row in rows]
    for row in rows:
        values = found[row["annotation_id"]]
        if row["annotation_id"] == "r" and orientation == 7:  # mirrored: the same corners, counted from another one
            assert geometry_area(values["geometry"]) == pytest.approx(16 * 6)
            got, want = (np.reshape(v["geometry"]["polygons"][0], (-1, 2)) for v in (values, row))
            np.testing.assert_allclose(sorted(got.round(3).tolist()), sorted(want.round(3).tolist()))
            row = {key: value for key, value in row.items() if key != "geometry"}
        assert same(values, row), (row, values)


def test_shown_coordinates_and_labels_are_what_cvat_imports(everything: LabelSchema, tmp_path: Path) -> None:
    tasks = [task("s1", box("u", "car", 1, 2, 30, 12), *kinds_of_rows()[3:5], orientation=6)]
    write(tasks, everything, tmp_path / "out.zip", "PNG")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == ["annotations.xml", "images/s1.png", "labels.json"]
        assert Image.open(BytesIO(archive.read("images/s1.png"))).size == (WIDTH, HEIGHT)
        root = ElementTree.fromstring(archive.read("annotations.xml"))
        labels = {label["name"]: label for label in json.loads(archive.read("labels.json"))}
    image = root.find("image")
    assert image is not None
    assert (image.get("name"), image.get("width"), image.get("height")) == ("s1.png", str(HEIGHT), str(WIDTH))
    first, mask = image.find("box"), image.find("mask")
    assert first is not None
    assert mask is not None
    corners = np.sort(to_shown([[1, 2], [30, 12]], ImageSize(WIDTH, HEIGHT, 6)), axis=0).ravel()
    assert [float(first.get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr")] == corners.tolist()
    runs = [int(part) for part in mask.get("rle", "").split(",")]
    assert runs[:3] == [0, 15 + 15 + 8, 2]  # the hole begins in the third row of the turned mask
    assert sum(runs) == int(mask.get("width", "")) * int(mask.get("height", "")) == 23 * 15
    assert {name: label["type"] for name, label in labels.items()} == {
        "car": "any",
        "car (keypoints)": "skeleton",
        "face": "skeleton",
        "sign": "any",
        "text": "any",
    }
    inputs = {a["name"]: (a["input_type"], a["values"]) for a in labels["car"]["attributes"]}
    assert inputs["colour"] == ("select", ["__undefined__", "red", "dark blue"])
    assert inputs["parked"] == ("checkbox", ["false"])
    assert inputs["lane"][0] == "number"
    assert inputs["plate"] == inputs["dsops_id"] == ("text", [""])
    assert [sub["name"] for sub in labels["face"]["sublabels"]] == ["nose", "left eye", "right eye"]
    svg = ElementTree.fromstring(f"<svg>{labels['face']['svg']}</svg>")
    assert [node.get("data-label-name") for node in svg.iter("circle")] == ["nose", "left eye", "right eye"]
    assert [(n.get("data-node-from"), n.get("data-node-to")) for n in svg.iter("line")] == [("1", "2")]


def test_says_what_cannot_be_written(cells: LabelSchema, tmp_path: Path) -> None:
    rows = [
        box("a1", "RBC", 1, 2, 3, 4, attributes={"truncated": 0, "difficult": True, "area": 12}),
        box("a2", "Dog", 1, 2, 3, 4),
        {"annotation_id": "a3", "kind": "keypoints", "label": "RBC", "geometry": {"keypoints": [1, 2, 2]}},
    ]
    tasks = [task("s1", *rows), task("s1", *rows), task("broken")]
    media = {"s1": picture(), "broken": b"GIF8 no picture"}
    out = tmp_path / "out.zip"
    losses = CvatFiles().write(tasks, cells, out, read_media=media.__getitem__, progress=no_progress)
    text = "\n".join(losses)
    assert "1 values of 'truncated' are not written: they do not fit its type." in losses
    assert "1 values of 'area' are not written: the schema does not ask for them." in losses
    assert "the schema has no class 'Dog'" in text
    assert "the schema names 0 points" in text
    assert "1 tasks ask for an image once more" in text
    assert "1 images are left out: unreadable" in text
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(StoreError, match="cannot be written"):
        CvatFiles().write(tasks, cells, out / "below.zip", read_media=media.__getitem__, progress=no_progress)


EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task><id>7</id><name>cells</name><updated>2024-05-01 10:00:00.5+02:00</updated>
      <owner><username>lead</username><email>l@x.org</email></owner>
      <assignee><username>bo</username><email>b@x.org</email></assignee></task>
    <dumped>2024-05-02 10:00:00+00:00</dumped>
  </meta>
  <image id="3" name="sub/s1.jpg" width="64" height="40">
    <box label="RBC" source="manual" occluded="1" xtl="10.00" ytl="10.00" xbr="30.00" ybr="20.00" z_order="0">
      <attribute name="truncated">true</attribute><attribute name="difficult">false</attribute>
      <attribute name="dsops_id">a1</attribute></box>
    <box label="RBC" source="manual" occluded="0" xtl="40" ytl="10" xbr="60" ybr="20" z_order="0">
      <attribute name="dsops_id">a1</attribute></box>
    <box label="rbc " source="manual" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2"/>
    <box label="Platelets" source="manual" occluded="0" xtl="50.00" ytl="30.00" xbr="70.00" ybr="39.00"/>
    <box label="WBC" source="manual" occluded="0" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.0">
      <attribute name="wbc_state">__undefined__</attribute></box>
    <box label="WBC" source="manual" occluded="0" xtl="wide" ytl="10" xbr="30" ybr="20"/>
    <box label="WBC" source="manual" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9">
      <attribute name="wbc_state">torn</attribute></box>
    <ellipse label="WBC" source="manual" occluded="0" cx="1" cy="1" rx="2" ry="2"/>
  </image>
  <image id="4" name="s2.jpg" width="64" height="40"></image>
</annotations>
"""


def test_an_export_of_cvat(cells: LabelSchema, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    file.write_text(EXPORT)
    answered = read(file, cells, [task("s1"), task("s2")], actor=None)
    (answer,) = answered["s1"].answers
    assert answer.actor == "bo"
    assert answer.updated_at == "2024-05-01T08:00:00.500000+00:00"
    assert [(r.values["label"], r.derived_from) for r in answer.regions] == [
        ("RBC", "a1"),
        ("RBC", None),  # copied in CVAT, with the attribute
        ("Platelets", None),
        ("WBC", None),
        ("WBC", None),
    ]
    assert answer.regions[0].values["attributes"] == {"truncated": True, "difficult": False}
    turned = answer.regions[3].values
    assert [turned[side] for side in ("x1", "y1", "x2", "y2")] == pytest.approx([15, 5, 25, 25])
    assert turned["geometry"]["polygons"][0] == pytest.approx([25, 5, 25, 25, 15, 25, 15, 5])
    assert turned["attributes"] is None
    assert answer.unread == (
        "box 6 (WBC) is left out: xtl 'wide' is not a number",
        "the attribute 'wbc_state' is left out: 'torn' is none of intact, smudged",
        "1 region is left out: the schema blood_cells has no class 'rbc '; did you mean 'RBC'?",
        "1 of the form ellipse left out: no kind of annotation has it",
    )
    assert answer.problems == (
        "'occluded' is left out: the schema has no such attribute of 'RBC'",
        "box 4 (Platelets): place (50, 30, 70, 39) reaches 6 px out of the 64 x 40 image; kept as it is",
    )
    assert answered["s2"].answers[0].regions == ()
    assert answered["s2"].answers[0].answer_id != answer.answer_id
    again = read(file, cells, [task("s1"), task("s2")])["s1"].answers[0]
    assert (again.answer_id, again.regions, again.actor) == (answer.answer_id, answer.regions, "ann")
    assert len({region.name for region in answer.regions}) == 5


def test_images_of_a_size_that_tells_of_no_orientation(cells: LabelSchema, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    file.write_text(EXPORT)
    turned = read(file, cells, [task("s1", orientation=6)])["s1"].answers[0]  # 64 x 40: it was not turned by the tool
    assert [turned.regions[0].values[side] for side in ("x1", "y2")] == [10, 20]
    sizes = {"s1": ImageSize(640, 400)}
    (other, _) = CvatFiles().read(file, cells, sizes, actor=None)
    assert other.answers[0].problems[0] == "the tool had 64 x 40 pixels, the image has 640 x 400; nothing is scaled"


def test_project_export_names_the_assignee_of_each_task(cells: LabelSchema, tmp_path: Path) -> None:
    names = [("1", "s1", "ann"), ("2", "s2", "bo")]
    tasks = "".join(f"<task><id>{i}</id><assignee><username>{who}</username></assignee></task>" for i, _, who in names)
    images = "".join(f'<image id="0" name="{s}.png" task_id="{i}" width="64" height="40"/>' for i, s, _ in names)
    file = tmp_path / "x.xml"
    file.write_text(
        f"<annotations><meta><project><id>9</id><tasks>{tasks}</tasks></project></meta>{images}</annotations>"
    )
    answered = read(file, cells, [task("s1"), task("s2")], actor=None)
    assert [answered[s].answers[0].actor for s in ("s1", "s2")] == ["ann", "bo"]
    assert answered["s1"].task_id == "task 1, image 0"


def test_real_boxes(data: Path, cells: LabelSchema, tmp_path: Path) -> None:
    document = json.loads((data / "bccd" / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    tasks, media = [], {}
    for image in document["images"][:12]:
        rows = []
        for entry in document["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, width, height = entry["bbox"]
                given = {name: bool(entry[name]) for name in ("truncated", "difficult")}
                label = names[entry["category_id"]]
                rows.append(box(str(entry["id"]), label, x, y, x + width, y + height, attributes=given))
        stem = Path(image["file_name"]).stem
        tasks.append(Task(stem, "b", image["file_name"], ImageSize(image["width"], image["height"]), tuple(rows)))
        media[stem] = (data / "bccd" / "images" / image["file_name"]).read_bytes()
    out = tmp_path / "bccd.zip"
    assert CvatFiles().write(tasks, cells, out, read_media=media.__getitem__, progress=no_progress) == []
    answered = read(out, cells, tasks)
    assert sum(len(item.annotations) for item in tasks) > 100
    for item in tasks:
        found = {region.derived_from: region.values for region in answered[item.sample_id].answers[0].regions}
        assert all(same(found[row["annotation_id"]], row) for row in item.annotations)
