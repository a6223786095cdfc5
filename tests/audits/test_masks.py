"""Polygons and masks: measures against brute force, each fault by itself, and real annotation files."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from datasetops.audits.base import AuditContext
from datasetops.audits.outlines.geometries import batches
from datasetops.audits.outlines.mask_parts import measure
from datasetops.audits.outlines.masks import Masks
from datasetops.audits.outlines.polygons import crossings, perimeters, signed_areas, without_repeats
from datasetops.audits.sets.rules import Rules
from datasetops.records import Finding
from datasetops.schema import LabelSchema

SQUARE = [10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]


def schema_of(*names: str) -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "outlines",
            "version": 1,
            "tasks": [{"kind": "box"}, {"kind": "polygon"}, {"kind": "mask"}],
            "classes": [{"id": number, "name": name} for number, name in enumerate(names)],
        }
    )


def polygon(number: int, *rings: list[float], name: str = "cat", sample: int = 0, **more: Any) -> dict[str, Any]:
    return row(number, "polygon", {"polygons": list(rings)}, name, sample) | more


def mask(number: int, pixels: Any, name: str = "cat", sample: int = 0, **more: Any) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return row(number, "mask", {"rle": rle | {"counts": rle["counts"].decode()}}, name, sample) | more


def row(number: int, kind: str, geometry: Any, name: str, sample: int) -> dict[str, Any]:
    own = {"annotation_id": f"a{number}", "sample_id": f"s{sample:05}", "kind": kind, "label": name}
    return own | {"geometry": geometry if isinstance(geometry, str) else json.dumps(geometry)}


def corners(x1: float, y1: float, x2: float, y2: float) -> dict[str, float]:
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


@pytest.fixture
def told(build: Any) -> Any:
    def findings(*rows: dict[str, Any], size: tuple[int, int] = (100, 80), images: int = 1) -> list[Finding]:
        names = sorted({one["label"] for one in rows})
        sizes = {"width": [size[0]] * images, "height": [size[1]] * images}
        result = Masks().run(build([None] * images, rows, schema=schema_of(*names), **sizes))
        assert result.scores["score"].between(0, 1).all()
        return result.findings

    return findings


def context_of(build: Any, path: Path) -> AuditContext:
    """Annotations of a COCO file, without its images."""
    content = path.read_bytes()
    source = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    names = {item["id"]: item["name"].strip() for item in source["categories"]}
    place = {image["id"]: number for number, image in enumerate(source["images"])}
    rows = []
    for item in source["annotations"]:
        shape, (x, y, width, height) = item["segmentation"], item["bbox"]
        if not np.isfinite([x, y, width, height]).all() or not shape:
            continue  # ingest refuses these
        geometry = {"rle": shape} if isinstance(shape, dict) else {"polygons": shape}
        kind = "mask" if isinstance(shape, dict) else "polygon"
        more = corners(x, y, x + width, y + height) | {"attributes": '{"iscrowd":1}' if item.get("iscrowd") else None}
        rows.append(row(item["id"], kind, geometry, names[item["category_id"]], place[item["image_id"]]) | more)
    sizes = {side: [image[side] for image in source["images"]] for side in ("width", "height")}
    return build([None] * len(place), rows, schema=schema_of(*dict.fromkeys(names.values())), **sizes)


def rings_of(*rings: list[float]) -> Any:
    import pandas as pd

    ((_, shapes),) = batches(pd.Series([json.dumps({"polygons": [ring]}) for ring in rings]))
    return shapes.rings


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=9))
def test_crossings_are_those_of_exact_arithmetic(points: list[tuple[int, int]]) -> None:
    clean, _ = without_repeats(rings_of([value / 8 for point in points for value in point]))
    found = crossings(clean)
    exact = [tuple(map(Fraction, point)) for point in clean.points.tolist()]
    assert len(found.ring) == len(crossing_pairs(exact))
    assert ((found.share >= 0) & (found.share <= 0.5)).all()


def crossing_pairs(points: list[Any]) -> set[tuple[int, int]]:
    def side(a: Any, b: Any, c: Any) -> int:
        turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (turn > 0) - (turn < 0)

    n, pairs = len(points), set()
    for i, j in combinations(range(n), 2):
        if (i + 1) % n == j or (j + 1) % n == i:
            continue
        for one, other in ((i, j), (j, i)):
            a, b, c, d = (points[k % n] for k in (one, one + 1, other, other + 1))
            before, at, behind = side(a, b, c), side(a, b, d), side(a, b, points[(other + 2) % n])
            through = before * at < 0 or (at == 0 and before * behind < 0)
            if through and side(c, d, a) * side(c, d, b) < 0:
                pairs.add((i, j))
    return pairs


def test_area_and_length_of_polygons_far_from_the_origin() -> None:
    far = [value + 1e6 for value in SQUARE]
    rings = rings_of(SQUARE, far, [0, 0, 3, 4, 0, 4])
    assert np.abs(signed_areas(rings)).tolist() == [900.0, 900.0, 6.0]
    assert perimeters(rings).tolist() == [120.0, 120.0, 12.0]


def test_parts_and_holes_are_those_that_painting_finds() -> None:
    import pandas as pd
    from scipy import ndimage

    rng = np.random.default_rng(0)
    painted = [rng.random(rng.integers(1, 14, 2)) < rng.choice([0, 0.1, 0.3, 0.5, 0.7, 1]) for _ in range(150)]
    ((_, shapes),) = batches(pd.Series([mask(0, pixels)["geometry"] for pixels in painted]))
    found = measure(shapes.runs)
    assert found.sound.all()
    for number, pixels in enumerate(painted):
        parts, _ = ndimage.label(pixels, np.ones((3, 3)))
        rest, count = ndimage.label(~pixels)
        outside = {0, *rest[0], *rest[-1], *rest[:, 0], *rest[:, -1]}
        holes = [int((rest == one).sum()) for one in range(1, count + 1) if one not in outside]
        assert found.area[number] == pixels.sum()
        assert sorted(found.parts.area[found.parts.mask == number]) == sorted(np.bincount(parts.ravel())[1:])
        assert sorted(found.holes.area[found.holes.mask == number]) == sorted(holes)
        if pixels.any():
            ys, xs = np.nonzero(pixels)
            assert found.extent[number].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    ("ring", "severity", "text"),
    [
        ([0, 0, 40, 40, 40, 0, 0, 40], "high", "the outline crosses itself in one place, near (20, 20)"),
        ([0, 0, 40, 0, 40, 40, 10, 40, 10, 50, 20, 34, 0, 40], "medium", "near (16, 40), and a loop there has 2% of"),
        ([5, 5, 60, 5, 30, 5], "high", "the polygon of 3 points has no area"),
        ([5, 5, 5, 5, 5, 5], "high", "the polygon of 3 points has no area"),
        ([0, 0, 0, 0, 0, 0, 40, 0, 40, 0, 40, 40, 0, 40], "low", "3 of its 7 points repeat the one before"),
        ([60, 10, 109, 10, 109, 40], "medium", "the outline leaves the image by 9.0 pixels"),
    ],
)
def test_a_faulty_outline(told: Any, ring: list[float], severity: str, text: str) -> None:
    (finding,) = told(polygon(1, ring), polygon(2, SQUARE))
    assert (finding.annotation_id, finding.severity) == ("a1", severity)
    assert text in finding.message


@pytest.mark.parametrize("ring", [SQUARE, [*SQUARE, *SQUARE[:2]], [0, 0, 40, 0, 20, 0, 20, 30, 10, 30, 10, 0]])
def test_touching_and_closed_outlines_are_sound(told: Any, ring: list[float]) -> None:
    assert told(polygon(1, ring)) == []


def test_a_speck_and_a_part_without_area(told: Any) -> None:
    speck, line = [70.0, 60.0, 70.8, 60.0, 70.0, 60.8], [0.0, 0.0, 9.0, 9.0, 0.0, 0.0]
    first, second = told(polygon(1, SQUARE, speck), polygon(2, SQUARE, line, sample=1), images=2)
    assert (first.severity, first.message) == ("low", "1 tiny stray part or holes, one at (70, 60)")
    assert (second.severity, second.message) == ("medium", "1 of its 2 parts have no area")


def test_a_sliver_among_others_of_its_class(told: Any) -> None:
    rng = np.random.default_rng(1)
    rows = [polygon(n, (np.array(SQUARE) * rng.uniform(0.8, 1.2)).tolist(), sample=n) for n in range(60)]
    needle = [10.0, 10.0, 90.0, 70.0, 90.0, 70.8]
    ropes = [polygon(100 + n, needle, name="rope", sample=n) for n in range(60)]
    (finding,) = told(*rows, polygon(60, needle, sample=60), *ropes, images=61)
    assert finding.annotation_id == "a60"
    assert finding.message.startswith("a sliver: 4π area over squared perimeter is 0.0")


def test_masks_that_are_no_masks(told: Any) -> None:
    pixels = np.zeros((80, 100))
    pixels[20:40, 30:60] = 1
    empty = mask(1, pixels * 0, sample=0)
    other = mask(2, np.ones((100, 80)), sample=1)
    torn = mask(3, pixels, sample=2)
    torn["geometry"] = torn["geometry"].replace('"counts": "', '"counts": "0')
    holed = pixels.copy()
    holed[30, 40] = holed[5, 5] = 0
    holed[70, 90] = 1
    rows = [empty, other, torn, mask(4, holed, sample=3), mask(5, pixels, sample=4)]
    findings = told(*rows, images=5)
    assert [(f.annotation_id, f.severity, f.message) for f in findings] == [
        ("a1", "high", "the mask is empty"),
        ("a2", "high", "the mask has 80 x 100 pixels, the image 100 x 80"),
        ("a3", "high", "the mask's runs do not fill it"),
        ("a4", "low", "2 tiny stray parts or holes, one at (90, 70)"),
    ]


@pytest.mark.parametrize(
    ("geometry", "text"),
    [
        ("{", "the geometry is not JSON"),
        ("[1]", "the geometry is not a JSON object"),
        ('{"polygons": [[1, 2, "x", 4, 5, 6]]}', "the polygons are not lists of numbers"),
        ('{"polygons": [[1, 2, 3, 4, 5]]}', "a polygon is not a list of x, y pairs"),
        ('{"polygons": [[1, null, 3, 4, 5, 6]]}', "a polygon is not a list of x, y pairs"),
        ('{"polygons": []}', "the polygon has no outline"),
        ('{"rle": {"size": [80, 100]}}', "the mask needs `size` [height, width] and `counts`"),
        ('{"rle": {"size": [80, 100], "counts": [5, 2]}}', "the mask needs `size` [height, width] and `counts`"),
    ],
)
def test_geometry_that_cannot_be_read_leaves_the_rest(told: Any, geometry: str, text: str) -> None:
    broken = row(1, "polygon", geometry, "cat", 0)
    plain = {"size": [80, 100], "counts": [405, 30, *[50, 30] * 29, 5245]}  # not compressed
    good = row(2, "mask", {"rle": plain}, "dog", 0)
    (finding,) = told(broken, good, polygon(3, SQUARE))
    assert (finding.annotation_id, finding.severity, finding.message) == ("a1", "high", text)


def test_boxes_that_miss_their_outline(told: Any) -> None:
    rows = [polygon(n, SQUARE, sample=n) | corners(10, 10, 40, 40) for n in range(12)]
    rows[3] |= corners(10, 10, 45, 40)
    rows[5] |= corners(60, 60, 90, 75)
    first, second = told(*rows, images=12)
    assert (first.severity, second.severity) == ("medium", "high")
    assert first.message == "the box (10, 10, 45, 40) is not the outline's extent (10, 10, 40, 40): 5.0 pixels off"
    whole = [one | corners(10, 10, 60, 70) for one in rows]
    assert told(*whole, images=12) == []  # boxes of whole things around what is seen of them


def test_things_that_are_marked_twice(told: Any) -> None:
    near = [11.0, 10.0, 41.0, 10.0, 41.0, 40.0, 11.0, 40.0]
    pixels = np.zeros((80, 100))
    pixels[10:40, 10:40] = 1
    rows = [polygon(1, SQUARE), polygon(2, near), polygon(4, SQUARE, name="dog"), polygon(5, SQUARE, sample=1)]
    second, fourth = told(*rows, mask(3, pixels), mask(6, pixels, "dog"), mask(7, pixels, "dog"), images=2)
    assert (second.severity, fourth.severity) == ("medium", "high")
    assert second.message == "it shares 93.5% of its pixels with another outline of its class, a1"
    assert fourth.message == "it shares 100.0% of its pixels with another outline of its class, a6"


def test_instances_that_the_mask_of_their_class_contradicts(told: Any) -> None:
    pixels = np.zeros((80, 100))
    pixels[:45, :45] = 1
    rows: list[dict[str, Any]] = []
    for sample in range(6):
        rows += [mask(10 * sample, pixels, sample=sample), polygon(10 * sample + 1, SQUARE, sample=sample)]
    box = {"annotation_id": "box", "sample_id": "s00002", "kind": "box", "label": "cat"}
    good = box | {"annotation_id": "good", "sample_id": "s00003"} | corners(0, 0, 50, 50)
    away = [v + 40 if place % 2 else v for place, v in enumerate(SQUARE)]
    rows += [polygon(99, away, sample=1), box | corners(60, 50, 90, 75), good]
    findings = told(*rows, images=6)
    assert {(f.annotation_id, f.severity, f.message) for f in findings} == {
        ("a99", "medium", "100% of its pixels lie outside of the image's mask of cat"),
        ("box", "medium", "the image's mask of cat covers 0.0% of the box"),
    }


def test_a_crowd_is_no_mask_of_its_class(told: Any) -> None:
    pixels = np.zeros((80, 100))
    pixels[60:, 60:] = 1
    crowd = [mask(n, pixels, sample=n, attributes='{"iscrowd":1}') for n in range(4)]
    assert told(*crowd, *(polygon(10 + n, SQUARE, sample=n) for n in range(4)), images=4) == []


def test_without_outlines_it_says_so(build: Any) -> None:
    assert Masks().run(build([None], schema=schema_of("cat"))).summary == {
        "skipped": "there are no polygons and no masks"
    }


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("coco_tiny/coco.json", {"repeated points": 2}),
        ("coco_ann/instances_val2014_100.json", {}),
        ("coco_ann/lvis_val_100.json", {"box": 13, "specks": 1}),
        ("coco_ann/taco_annotations.json.gz", {"crossing itself": 57, "sliver": 5}),
        (
            "coco_ann/taco_annotations_unofficial.json.gz",
            {"crossing itself": 22, "duplicate": 1, "sliver": 10, "specks": 5},
        ),
    ],
)
def test_real_annotations(data: Path, build: Any, file: str, expected: dict[str, int]) -> None:
    context = context_of(build, data / file)
    result = Masks().run(context)
    assert result.summary["doubts"] == expected
    assert len(result.scores) == len(context.annotations)
    if file.startswith(("coco_tiny", "coco_ann/instances")):
        assert {finding.severity for finding in result.findings} <= {"low"}
    # A box out of its image is told by the check `schema` alone.
    outside = {finding.annotation_id for finding in Rules().run(context).findings}
    assert not outside & {f.annotation_id for f in result.findings if "leaves the image" in f.message}
    assert not Counter(finding.finding_id for finding in result.findings) - Counter(
        {finding.finding_id for finding in result.findings}
    )
