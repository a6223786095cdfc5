"""The schema's rules on real annotations with known defects, and each rule by itself."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasetops.audits.base import AuditContext
from datasetops.audits.sets.rules import Rules, is_one_of
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema


def schema_of(**more: Any) -> LabelSchema:
    return LabelSchema.model_validate({"name": "rules", "version": 1, "tasks": [{"kind": "box"}], **more})


def classes(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names)]


def box(row: int, number: int, corners: tuple[float, ...], name: str | None = "cat", **more: Any) -> dict[str, Any]:
    place = dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
    own = {"annotation_id": f"b{row}.{number}", "sample_id": f"s{row:05}", "kind": "box", "label": name}
    return own | place | more


def class_label(row: int, name: str, **more: Any) -> dict[str, Any]:
    own = {"annotation_id": f"c{row}.{name}", "sample_id": f"s{row:05}", "kind": "classification", "label": name}
    return own | more


def told(context: AuditContext) -> list[str]:
    return [f"{finding.severity}: {finding.message}" for finding in Rules().run(context).findings]


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("taco_annotations.json.gz", "annotations.json"),
        ("taco_annotations_unofficial.json.gz", "annotations_unofficial.json"),
    ],
)
def test_geometry_defects_of_taco(data: Path, build: Any, file: str, listed: str) -> None:
    source = json.loads(gzip.decompress((data / "coco_ann" / file).read_bytes()))
    names = {item["id"]: item["name"] for item in source["categories"]}
    row_of = {image["id"]: row for row, image in enumerate(source["images"])}
    rows = []
    for item in source["annotations"]:
        x, y, width, height = item["bbox"]
        with np.errstate(invalid="ignore"):
            corners = (x, y, x + width, y + height)
        name = names[item["category_id"]]
        rows.append(box(row_of[item["image_id"]], 0, corners, name) | {"annotation_id": str(item["id"])})
    sizes = {side: [image[side] for image in source["images"]] for side in ("width", "height")}
    schema = schema_of(classes=classes(*sorted(set(names.values()))))
    result = Rules().run(build([None] * len(row_of), rows, schema=schema, **sizes))
    # Known ones of less than rounding are none: one box begins 0.000006 pixels to the left of its image.
    known = {
        str(item["annotation_id"])
        for item in json.loads((data / "coco_ann" / "taco_real_defects.json").read_text())[listed]
        if not -1e-3 < min(item["bbox"][0], item["bbox"][1]) < 0
    }
    assert {finding.annotation_id for finding in result.findings} == known
    assert (result.scores["score"] == 0).sum() == len(known)


def test_misspelt_names_and_a_box_without_area_of_bccd(data: Path, build: Any) -> None:
    from defusedxml.ElementTree import parse

    files = sorted((data / "bccd" / "annotations_raw_names_voc").glob("*.xml"))
    rows = []
    for row, file in enumerate(files):
        for number, item in enumerate(parse(file).getroot().iter("object")):
            corners = tuple(float(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            rows.append(box(row, number, corners, item.findtext("name")))
    schema = schema_of(classes=classes("RBC", "WBC", "Platelets"))
    sizes = {"width": [640] * len(files), "height": [480] * len(files)}
    found = Rules().run(build([None] * len(files), rows, schema=schema, **sizes)).findings
    assert Counter(finding.message.split(":")[0] for finding in found) == {
        "the class is not in the schema": 2,
        "the box has no area": 1,
    }
    assert {(f.given, f.suggested) for f in found if f.suggested} == {
        ("Platetlets", "Platelets"),
        ("Platetets", "Platelets"),
    }


def test_ages_of_nih_patients_hold_one_slip(data: Path, build: Any) -> None:
    table = pd.read_csv(data / "grouped" / "nih_chestxray_sample.csv")
    metadata = [canonical_json(row).decode() for row in table.to_dict("records")]
    found = Rules().run(build([None] * len(table), schema=schema_of(classes=classes("a")), metadata=metadata)).findings
    (finding,) = found
    assert finding.message == "Patient Age is far from all other values: 411"
    assert table["Image Index"][int(str(finding.sample_id)[1:])] == "00020900_002.png"


@pytest.mark.parametrize("table", ["covid_chestxray_metadata", "ham10000_metadata", "exdark_slices"])
def test_other_metadata_raises_no_alarm(data: Path, build: Any, table: str) -> None:
    rows = pd.read_csv(data / "grouped" / f"{table}.csv")
    metadata = [canonical_json({k: v for k, v in row.items() if v == v}).decode() for row in rows.to_dict("records")]
    assert told(build([None] * len(rows), schema=schema_of(classes=classes("a")), metadata=metadata)) == []


def test_coordinates_that_are_missing_or_leave_the_image(build: Any) -> None:
    sizes = {"width": [100], "height": [80]}
    rows = [
        box(0, 0, (0, 0, 100, 80)),
        box(0, 1, (-0.01, 0, 100.02, 80)),
        box(0, 2, (0, 0, 100.3, 80)),
        box(0, 3, (0, -7, 50, 80)),
        box(0, 4, (5, 5, np.inf, 9)),
        box(0, 5, (9, 5, 5, 9)),
    ]
    rows.append({k: v for k, v in box(0, 6, (0, 0, 0, 0)).items() if k != "y2"})
    assert told(build([None], rows, schema=schema_of(classes=classes("cat")), **sizes)) == [
        "high: the box has no complete coordinates",
        "high: the box has no complete coordinates",
        "high: the box has no area",
        "low: the box leaves the image by 0.30 pixels",
        "medium: the box leaves the image by 7.0 pixels",
    ]
    # Where the image's size is not known, only its left and upper edge are.
    assert told(build([None], [rows[2], rows[3]], schema=schema_of(classes=classes("cat")))) == [
        "medium: the box leaves the image by 7.0 pixels"
    ]


def test_classes_kinds_and_attributes(build: Any) -> None:
    schema = schema_of(
        tasks=[{"kind": "box"}, {"kind": "polygon"}],
        classes=[*classes("cat", "dog"), {"id": 2, "name": "lawn", "kinds": ["polygon"]}],
        attributes=[
            {"name": "seen", "type": "bool"},
            {"name": "age", "type": "number", "classes": ["dog"]},
            {"name": "note", "type": "text"},
        ],
        limits=[{"unit": "relative", "max_area": 0.5}, {"min_points": 4}, {"min_area": 20}],
    )
    square = (10.0, 10.0, 20.0, 20.0)

    def text(**values: Any) -> str:
        return canonical_json(values).decode()

    rows = [
        box(0, 0, square, "lawn"),
        box(0, 1, square, "cat", attributes=text(seen=1, age="old")),
        box(0, 2, square, "dog", attributes=text(age="old", note=True)),
        box(0, 3, square, "dog", attributes=text(age=3, seen=False, note="a", iscrowd=1)),
        box(0, 4, (0, 0, 90, 60), "cat"),
        box(0, 5, square, "cat", kind="polygon", geometry=text(polygons=[[10, 10, 20, 10, 20, 20]])),
        box(0, 6, (1, 1, 5, 5), "cat"),
        box(0, 7, square, None),
        box(0, 8, square, "cat", kind="mask"),
        box(0, 9, square, "cat", kind="mask", attributes=text(iscrowd=1)),
    ]
    assert told(build([None], rows, schema=schema, width=[100], height=[80])) == [
        "low: an area of many objects (iscrowd), kept as a mask; the schema has no task of that kind, so trainers may not "
        "expect it",
        "high: the schema has no task of the kind mask",
        "medium: lawn is for polygon, not for box",
        "high: it has no class",
        "medium: seen: expected true or false; got 1",
        "medium: age: expected a number; got 'old'",
        "medium: note: expected a text; got True",
        "medium: area 0.675; the schema says at most 0.5",
        "medium: points of a polygon 3; the schema says at least 4",
        "medium: area 16 square px; the schema says at least 20",
    ]


def test_single_labels(build: Any) -> None:
    schema = schema_of(tasks=[{"kind": "classification"}], classes=classes("cat", "dog"))
    rows = [
        class_label(0, "cat"),
        class_label(1, "cat", actor="a"),
        class_label(1, "dog", actor="b"),
        class_label(2, "cat"),
        class_label(2, "dog"),
        class_label(3, "cat"),
    ]
    several = "high: it has several class labels, and the schema allows one"
    assert told(build([None] * 5, rows, schema=schema)) == ["medium: it has no class label", several]
    # The others are waiting to be labeled.
    assert told(build([None] * 6, rows, schema=schema)) == [several]
    assert told(build([None] * 20, rows, schema=schema)) == [several]
    assert Rules().run(build([None] * 20, rows, schema=schema)).summary["samples without any annotation"] == 16


def test_slice_values_are_equal_as_json(build: Any) -> None:
    schema = schema_of(classes=classes("cat"), slices=[{"key": "hour", "values": [1, 2]}])
    metadata = ['{"hour":1}', '{"hour":"1"}', '{"hour":3}', '{"hour":[1]}', "{}", None]
    assert told(build([None] * 6, schema=schema, metadata=metadata)) == [
        f"low: hour has a value that the schema does not list: {value}" for value in ("'1'", "3", "[1]")
    ]
    assert is_one_of(pd.Series([True, 1, "1"], dtype=object), [1]).tolist() == [False, True, False]
