"""Box checks on real annotations with known faults, and each rule by itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.checks import DuplicateBox, MisplacedBox, MissingBox, SwappedBox
from datasetops.audits.boxes.counts import unlike_neighbours
from datasetops.audits.boxes.rows import box_rows
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema

CORNERS = ("x1", "y1", "x2", "y2")
SIZE = {"width": 640, "height": 480}


def rows(build: Any, names: list[str], places: list[tuple[int, str, tuple[float, ...]]], **more: Any) -> AuditContext:
    """A context with a box at each place; `more`: columns of the samples."""
    schema = LabelSchema.model_validate(
        {
            "name": "boxes",
            "version": 1,
            "tasks": [{"kind": kind} for kind in ("box", "polygon", "mask")],
            "classes": [{"id": number, "name": name} for number, name in enumerate(names)],
        }
    )
    entries = [
        {"annotation_id": str(number), "sample_id": f"s{image:05}", "kind": "box", "label": label}
        | dict(zip(CORNERS, corners, strict=True))
        for number, (image, label, corners) in enumerate(places)
    ]
    count = more.pop("images")
    return build(
        [None] * count, entries, schema=schema, **{side: [size] * count for side, size in SIZE.items()}, **more
    )


def coco(build: Any, path: Path) -> tuple[AuditContext, list[str]]:
    """A context of a COCO file's boxes, and the names of its images."""
    document = json.loads(path.read_text())
    names = {item["id"]: item["name"] for item in document["categories"]}
    row_of = {image["id"]: row for row, image in enumerate(document["images"])}
    places = []
    for item in document["annotations"]:
        x, y, width, height = item["bbox"]
        places.append((row_of[item["image_id"]], names[item["category_id"]], (x, y, x + width, y + height)))
    context = rows(build, list(names.values()), places, images=len(row_of))
    return context, [Path(image["file_name"]).stem for image in document["images"]]


def without_detections(context: AuditContext) -> AuditContext:
    context.memo["detections"] = None
    return context


def test_blood_cells_that_nobody_boxed(data: Path, build: Any) -> None:
    context, names = coco(build, data / "bccd" / "coco.json")
    result = MissingBox().run(without_detections(context))
    known = json.loads((data / "bccd" / "known_issues.json").read_text())
    told = {names[int(str(f.sample_id)[1:])] for f in result.findings if f.severity == "medium"}
    assert told == set(known["no_RBC_boxes_though_RBCs_are_visible_checked_by_eye"])
    assert Counter(f.severity for f in result.findings) == {"medium": 10, "low": 4}
    assert {f.suggested for f in result.findings if f.severity == "medium"} == {"RBC"}
    assert len(result.scores) == len(names)


def test_blood_cells_boxed_twice(data: Path, build: Any) -> None:
    context, _ = coco(build, data / "bccd" / "coco.json")
    result = DuplicateBox().run(without_detections(context))
    assert [f.severity for f in result.findings] == ["medium"] * 4
    assert result.scores["score"].between(0, 1).all()
    assert SwappedBox().run(context).summary["skipped"].startswith("no detections")
    placed = MisplacedBox().run(context)
    assert Counter(f.severity for f in placed.findings)["high"] == 0
    assert len(placed.findings) <= 10


GRID = [(x, y, x + 50.0, y + 40.0) for x in (20.0, 120.0, 220.0, 320.0) for y in (20.0, 120.0)]


def test_duplicates_by_geometry(build: Any) -> None:
    places = [(image, "cat" if i % 2 else "dog", box) for image in range(40) for i, box in enumerate(GRID)]
    places += [
        (0, "dog", (20.5, 20, 70.5, 60)),  # 320: a copy of box 0
        (1, "dog", (23, 21, 73, 62)),  # 321: of the dog in image 1, less exactly
        (2, "cat", (20, 20, 70, 60)),  # 322: where a dog is
        (3, "dog", (25, 25, 45, 40)),  # 323: inside a dog
        (4, "dog", (500, 300, 500, 310)),  # without area: the check `schema` tells it
    ]
    result = DuplicateBox().run(without_detections(rows(build, ["cat", "dog"], places, images=40)))
    told = [(f.annotation_id, f.severity, f.given, f.message) for f in result.findings]
    assert told == [
        ("320", "high", "dog", "it shares 98% with another box of its class, 0"),
        ("321", "medium", "dog", "it shares 83% with another box of its class, 8"),
        ("322", "medium", "cat", "it shares 100% with a box of the class 'dog', 16"),
        ("323", "low", "dog", "100% of it lies in a larger box of its class, 24; of 163 boxes of dog 1 lie so"),
    ]
    assert len(result.scores) == 324


def test_what_is_meant_so_is_no_duplicate(build: Any) -> None:
    """Nested boxes and double classes that a data set has by habit, a class and its parent, outlines."""
    places = [(image, "cat", box) for image in range(40) for box in GRID[:4]]
    places += [(image, "cat", (box[0] + 5, box[1] + 5, box[0] + 20, box[1] + 20)) for image, _, box in places[::4]]
    places += [(image, "dog", GRID[7]) for image in range(40)] + [(image, "hat", GRID[7]) for image in range(0, 40, 4)]
    context = rows(build, ["cat", "dog", "hat"], places, images=40)
    assert DuplicateBox().run(without_detections(context)).findings == []

    twice = [(0, "cat", GRID[0]), (0, "dog", GRID[0])]
    assert len(DuplicateBox().run(without_detections(rows(build, ["cat", "dog"], twice, images=1))).findings) == 1
    context = rows(build, ["cat", "dog"], twice, images=1)
    items = [item.model_dump() for item in context.schema.classes]
    context.schema = context.schema.model_copy(update={"classes": [items[0], items[1] | {"parent": "cat"}]})
    assert DuplicateBox().run(without_detections(context)).findings == []
    context = rows(build, ["cat"], [twice[0], twice[0]], images=1)
    context.annotations["kind"] = "polygon"
    assert "skipped" in DuplicateBox().run(without_detections(context)).summary


def test_odd_sizes_shapes_and_places(build: Any) -> None:
    rng = np.random.default_rng(0)
    places = []
    for image in range(60):
        x, y, width = rng.normal(300, 15), rng.normal(200, 15), rng.normal(60, 4)
        places.append((image, "cat", (x, y, x + width, y + width / 2 + rng.normal(0, 2))))
    places += [
        (0, "cat", (300, 200, 303, 202)),
        (1, "cat", (300, 190, 312, 250)),
        (2, "cat", (570, 200, 630, 230)),
        (3, "cat", (0, 200, 20, 230)),  # cut off at the edge: an odd place, but its shape says nothing
        (4, "cat", (700, 200, 760, 230)),  # outside: the check `schema` tells it
    ]
    found = MisplacedBox().run(without_detections(rows(build, ["cat"], places, images=60)))
    told = {f.annotation_id: f.message for f in found.findings}
    assert set(told) == {"60", "61", "62", "63"}
    assert told["60"].startswith("share of the image: 0.00%; usual for cat: 0.")
    assert told["61"].startswith("width over height: 0.2; usual for cat: 1.98")
    assert told["63"].startswith("middle from the left")
    assert "share" not in told["63"]
    assert {f.severity for f in found.findings} <= {"low", "medium"}
    few = rows(build, ["cat"], places[:20] + places[60:], images=60)
    assert MisplacedBox().run(without_detections(few)).findings == []


def test_images_without_boxes(build: Any) -> None:
    places = [(image, "cat", GRID[0]) for image in range(38)]
    result = MissingBox().run(without_detections(rows(build, ["cat"], places, images=40)))
    assert [(f.sample_id, f.severity) for f in result.findings] == [("s00038", "low"), ("s00039", "low")]
    waiting = MissingBox().run(without_detections(rows(build, ["cat"], places[:10], images=40)))
    assert waiting.findings == []
    assert "skipped" in MissingBox().run(without_detections(rows(build, ["cat"], [], images=40))).summary


def test_boxes_around_outlines(build: Any) -> None:
    context = rows(build, ["cat"], [(0, "cat", GRID[0])] * 3, images=1)
    ring = {"polygons": [[10, 20, 40, 20, 40, 60], [5, 30, 8, 30, 8, 35]]}
    mask = {"rle": {"size": [480, 640], "counts": [480 * 10 + 20, 40, 480 * 640 - 480 * 10 - 60]}}
    context.annotations["kind"] = ["polygon", "mask", "box"]
    context.annotations["geometry"] = [canonical_json(shape).decode() for shape in (ring, mask)] + [None]
    context.annotations.loc[:1, list(CORNERS)] = np.nan
    places = box_rows(context).boxes.corners.tolist()
    assert places == [[5, 20, 40, 60], [10, 20, 11, 60], list(GRID[0])]


def detected(context: AuditContext, places: list[tuple[int, str, tuple[float, ...], float]]) -> AuditContext:
    context.detections = pd.DataFrame(
        [(f"s{image:05}", label, *corners, score) for image, label, corners, score in places],
        columns=["sample_id", "label", *CORNERS, "score"],
    )
    return context


@pytest.mark.parametrize(("images", "severity"), [(100, "medium"), (700, "high")])
def test_findings_from_detections(build: Any, images: int, severity: str) -> None:
    """The more a detector has been right, the surer is its word."""
    rng = np.random.default_rng(0)
    given, found = [], []
    for image in range(images):
        for i, box in enumerate(GRID):
            name = "cat" if i % 2 else "dog"
            given.append((image, name, box))
            found.append((image, name, tuple(np.array(box) + rng.normal(0, 1, 4)), rng.uniform(0.9, 1)))
    given[8 * 10] = (10, "cat", given[8 * 10][2])
    x1, y1, x2, y2 = given[8 * 20][2]
    given[8 * 20] = (20, given[8 * 20][1], (x1 + 20, y1, x2 + 20, y2))
    del given[8 * 5]  # of image 5
    context = detected(rows(build, ["cat", "dog"], given, images=images + 1), found)

    (lacking,) = [f for f in MissingBox().run(context).findings if f.box]
    assert (lacking.sample_id, lacking.suggested, lacking.severity) == ("s00005", "dog", severity)
    np.testing.assert_allclose(lacking.box, GRID[0], atol=4)
    swapped = SwappedBox().run(context)
    (finding,) = swapped.findings
    assert (finding.annotation_id, finding.given, finding.suggested, finding.severity) == ("79", "cat", "dog", severity)
    assert swapped.summary["judged"] == f"{images} of {images + 1} images"
    placed = MisplacedBox().run(context)
    (finding,) = placed.findings
    assert (finding.annotation_id, finding.severity) == ("159", severity)
    assert "the detector's" in finding.message
    assert placed.scores.set_index("annotation_id")["score"].idxmin() == "159"
    for check in (MissingBox, SwappedBox, MisplacedBox, DuplicateBox):
        canonical_json(check().run(context).summary)


def test_detections_under_wrong_ids_are_doubted(build: Any) -> None:
    given = [(image, "cat" if i % 2 else "dog", box) for image in range(20) for i, box in enumerate(GRID)]
    found = [(image, "dog" if label == "cat" else "cat", box, 0.9) for image, label, box in given]
    context = detected(rows(build, ["cat", "dog"], given, images=20), found)
    result = SwappedBox().run(context)
    assert "do not use the ids" in result.summary["doubt"]
    assert not [f for f in result.findings if f.severity == "high"]
    assert [f for f in MissingBox().run(context).findings if f.box] == []


def test_images_that_wait_for_their_boxes_are_not_judged(build: Any) -> None:
    given = [(image, "cat", box) for image in range(10) for box in GRID]
    found = [(image, "cat", box, 0.9) for image in range(30) for box in GRID]
    context = detected(rows(build, ["cat"], given, images=30), found)
    result = MissingBox().run(context)
    assert result.findings == []
    assert result.summary["judged"] == "10 of 30 images"


def test_no_boxes_at_all(build: Any) -> None:
    context = without_detections(build([None, None]))
    for check in (MissingBox, SwappedBox, MisplacedBox, DuplicateBox):
        result = check().run(context)
        assert result.findings == []
        assert "skipped" in result.summary


def test_counts_are_held_against_the_images_that_look_alike(build: Any) -> None:
    """Two kinds of scenes, full and nearly empty: a nearly empty image of the full kind is odd, one of the other is not."""
    rng = np.random.default_rng(0)
    kind = np.arange(240) % 2
    embeddings = np.eye(8, dtype=np.float32)[kind] + rng.normal(0, 0.02, (240, 8)).astype(np.float32)
    counts = np.where(kind == 0, rng.poisson(30, 240), rng.poisson(2, 240))
    counts[10], counts[11] = 3, 25
    places = [(image, "cat", (9.0 * x, 0.0, 9.0 * x + 5, 5.0)) for image, n in enumerate(counts) for x in range(n)]
    context = rows(build, ["cat"], places, images=240, embeddings=embeddings, sha256=list(map(str, range(240))))
    found = {lack.image: lack.message for lack in unlike_neighbours(box_rows(context), context)}
    assert set(found) == {10, 11}
    assert found[10].startswith("3 of cat, the ten images most like it have")


def masks(build: Any, *of_images: list[str]) -> AuditContext:
    """A context with a mask of each of the classes named, image by image."""
    places = [(image, name, (5.0, 5.0, 60.0, 50.0)) for image, names in enumerate(of_images) for name in names]
    context = rows(build, ["road", "sky", "car"], places, images=len(of_images))
    context.annotations["kind"] = "mask"
    return without_detections(context)


def test_masks_of_one_area_a_class_are_no_objects(build: Any) -> None:
    areas = masks(build, ["road", "sky"], ["road", "sky", "car"])
    assert not len(box_rows(areas).rows)
    for check in (MissingBox(), SwappedBox(), MisplacedBox()):
        assert "such as road or sky" in check.run(areas).summary["skipped"]
    assert len(box_rows(masks(build, ["road", "sky"], ["car", "car", "road"])).rows) == 5
    assert len(box_rows(masks(build, ["car"], ["car"], ["road"])).rows) == 3
