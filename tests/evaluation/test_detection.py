from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_regions import SIDE, regions, scene

from datasetops.errors import MissingDependencyError
from datasetops.evaluation import detection
from datasetops.evaluation.detection import coco_metrics, evaluator_name
from datasetops.evaluation.matching import Curves, match
from datasetops.evaluation.pixels import shared_pixels
from datasetops.evaluation.regions import Regions, found_regions, pairs_of, truth_regions
from datasetops.evaluation.resampling import AveragePrecision
from datasetops.labeling.masks import encoded

pytest.importorskip("hotcoco")
CLASSES = ("a", "b", "c")
COCO_NAMES = {
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
    "ARs": "AR_small",
    "ARm": "AR_medium",
    "ARl": "AR_large",
}


def sizes(images: int) -> np.ndarray:
    return np.full((images, 2), SIDE)


def curves_of(found: Regions, truth: Regions, images: int, **options: bool) -> Curves:
    return Curves.of(found, truth, match(found, truth, pairs_of(found, truth)), images, 3, **options)


def published(data: Path, name: str, masks: bool) -> tuple[Regions, Regions, np.ndarray, tuple[str, ...]]:
    """COCO's 100 images as tables of annotations and detections, read as evaluation reads them."""
    folder = data / "coco_ann"
    document = json.loads((folder / "instances_val2014_100.json").read_text())
    answers = json.loads((folder / name).read_text())
    names = {item["id"]: item["name"] for item in document["categories"]}

    def table(entries: list[dict[str, object]], scored: bool) -> pa.Table:
        rows = []
        for entry in entries:
            x, y, width, height = entry.get("bbox") or (0.0, 0.0, 1.0, 1.0)  # type: ignore[misc]
            shape = entry.get("segmentation")
            geometry = None if shape is None else {"rle" if isinstance(shape, dict) else "polygons": shape}
            told = {} if scored else {"area": entry["area"], "iscrowd": entry["iscrowd"]}
            rows.append(
                {"sample_id": str(entry["image_id"]), "kind": "polygon", "label": names[entry["category_id"]]}  # type: ignore[index]
                | {"x1": x, "y1": y, "x2": x + width, "y2": y + height, "score": entry.get("score")}
                | {"geometry": geometry and orjson.dumps(geometry).decode(), "attributes": orjson.dumps(told).decode()}
            )
        return pa.Table.from_pylist(rows)

    images = sorted(document["images"], key=lambda item: item["id"])  # equal scores count in the order of the images
    ids = pa.array([str(item["id"]) for item in images])
    shape = np.array([(item["width"], item["height"]) for item in images])
    classes, wanted = tuple(names.values()), shape if masks else None
    truth = truth_regions(table(document["annotations"], False), ids, classes, wanted)
    detections = table(answers, True)
    if masks:  # the file has no boxes: around the masks
        from pycocotools import mask as coco

        boxes = coco.toBbox([entry["segmentation"] for entry in answers])
        for place, corner in enumerate(("x1", "y1", "x2", "y2")):
            values = boxes[:, place] + (boxes[:, place - 2] if place > 1 else 0)
            detections = detections.set_column(detections.column_names.index(corner), corner, pa.array(values))
    return found_regions(detections, ids, classes, wanted), truth, shape, classes


@pytest.mark.parametrize("evaluator", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize(
    ("name", "masks", "reference"),
    [
        ("instances_val2014_fakebbox100_results.json", False, "val2014_100_fakebbox_bbox"),
        ("instances_val2014_fakesegm100_results.json", True, "val2014_100_fakesegm_segm"),
    ],
)
@pytest.mark.slow
def test_reference_numbers_of_coco(data: Path, name: str, masks: bool, reference: str, evaluator: str) -> None:
    found, truth, shape, classes = published(data, name, masks)
    expected = json.loads((data / "coco_ann" / "reference_metrics.json").read_text())[reference]
    summary = coco_metrics(found, truth, shape, classes, evaluator=evaluator).summary()
    for metric, value in expected.items():
        assert summary[COCO_NAMES.get(metric, metric)] == pytest.approx(value, abs=1e-6), metric
    own = Curves.of(found, truth, match(found, truth, pairs_of(found, truth)), len(shape), len(classes))
    metric = AveragePrecision(own)
    assert metric.values(np.ones((1, metric.units)))[0] == pytest.approx(expected["AP"], abs=1e-6)


@given(st.integers(0, 100_000))
@settings(max_examples=8)
def test_both_evaluators_and_the_matching_here_agree(seed: int) -> None:
    truth, found = scene(seed)
    one = coco_metrics(found, truth, sizes(12), CLASSES, evaluator="hotcoco")
    other = coco_metrics(found, truth, sizes(12), CLASSES, evaluator="pycocotools")
    assert np.allclose(one.precision, other.precision, atol=1e-12)
    assert np.allclose(one.recall, other.recall, atol=1e-12)
    here = curves_of(found, truth, 12).average_precision(np.ones((1, 12)))[0]
    there = one.precision[:, :, :, 0, 2].mean(axis=1).T
    assert np.allclose(np.nan_to_num(here, nan=-1), there, atol=1e-12)


@given(st.integers(0, 100_000))
@settings(max_examples=6)
def test_a_weight_of_two_is_an_image_twice_and_of_none_an_image_less(seed: int) -> None:
    truth, found = scene(seed)
    weights = np.random.default_rng(seed).integers(0, 3, 12)
    drawn = np.repeat(np.arange(12), weights)

    def repeated(part: Regions) -> Regions:
        rows = [(new, np.flatnonzero(part.boxes.image == old)) for new, old in enumerate(drawn.tolist())]
        chosen = np.concatenate([np.zeros(0, np.int64), *(row for _, row in rows)])
        image = np.repeat(np.arange(len(rows)), [len(row) for _, row in rows])
        score = part.score[chosen] - 1e-9 * np.arange(len(chosen)) * (part is found)  # no ties between copies
        return regions(image, part.boxes.label[chosen], part.boxes.corners[chosen], score, part.crowd[chosen])

    found = regions(
        found.boxes.image, found.boxes.label, found.boxes.corners, found.score - 1e-5 * np.arange(len(found))
    )  # nor between detections
    here = curves_of(found, truth, 12)
    expected = curves_of(repeated(found), repeated(truth), len(drawn)).average_precision(np.ones((1, len(drawn))))
    weighted = here.average_precision(weights[None].astype(np.float64))
    assert np.allclose(np.nan_to_num(weighted, nan=-1), np.nan_to_num(expected, nan=-1), atol=1e-12)
    together = here.grouped(np.where(weights > 0, np.arange(12) % 3, -1), 3)
    there = here.average_precision((weights[None] > 0).astype(np.float64))
    assert np.allclose(together.average_precision(np.ones((1, 3))), there, equal_nan=True, atol=1e-12)


def test_reading_precision_at_some_hits_only_is_near_enough() -> None:
    truth, found = scene(7, images=60, objects=600, detections=3_000)
    curves = curves_of(found, truth, 60)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=5).astype(np.float64)
    exact = curves.average_precision(weights)
    assert np.abs(curves.average_precision(weights, blocks=100) - exact).max() < 0.02
    assert np.array_equal(curves.average_precision(weights, blocks=10**6), exact)


def test_by_hand() -> None:
    truth = regions([0, 0, 1], [0, 0, 0], np.array([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]]))
    found = regions(
        [0, 0, 1], [0, 0, 0], np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 5]]), np.array([0.9, 0.8, 0.7])
    )
    metrics = coco_metrics(found, truth, sizes(2), ("a",))
    # Up to an overlap of .5 two of three objects are found, with precision 1 up to a third and then 2 / 3.
    assert metrics.summary()["AP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert metrics.summary()["AP75"] == pytest.approx(34 / 101)
    assert metrics.summary()["AR1"] == pytest.approx((2 / 3 + 9 * 1 / 3) / 10)
    assert metrics.by_class().keys() == {"a"}
    pooled = curves_of(found, truth, 2, pooled=True).average_precision(np.ones((1, 2)))
    assert pooled[0, 0, 0] == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_pooled_precision_counts_what_is_found_of_classes_that_are_not_there() -> None:
    truth = regions([0], [0], np.array([[0, 0, 10, 10]]))
    found = regions([0, 0], [1, 0], np.array([[50, 50, 60, 60], [0, 0, 10, 10]]), np.array([0.9, 0.8]))
    ones = np.ones((1, 1))
    assert AveragePrecision(curves_of(found, truth, 1)).values(ones)[0] == 1.0
    assert AveragePrecision(curves_of(found, truth, 1, pooled=True)).values(ones)[0] == pytest.approx(0.5)


def test_nothing_found_and_nothing_there() -> None:
    truth, found = scene(3)
    nothing = regions([], [], np.zeros((0, 4)))
    summary = coco_metrics(nothing, truth, sizes(12), CLASSES).summary()
    assert (summary["AP"], summary["AR100"]) == (0.0, 0.0)
    assert math.isnan(coco_metrics(found, nothing, sizes(12), CLASSES).summary()["AP"])
    assert np.nanmax(curves_of(nothing, truth, 12).average_precision(np.ones((2, 12)))) == 0.0
    assert np.isnan(curves_of(found, nothing, 12).average_precision(np.ones((2, 12)))).all()


def test_the_evaluator_is_named_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluator_name() == "hotcoco"
    with pytest.raises(ValueError, match="evaluator: expected hotcoco or pycocotools"):
        evaluator_name("other")
    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    assert evaluator_name() == "pycocotools"
    with pytest.raises(MissingDependencyError, match="hotcoco"):
        evaluator_name("hotcoco")


def test_shared_pixels_are_those_of_arrays() -> None:
    rng = np.random.default_rng(5)
    images, names = 6, ("a", "b", "c")
    arrays: dict[str, list[tuple[int, int, npt.NDArray[np.bool_]]]] = {"truth": [], "found": []}
    for part, number in (("truth", 11), ("found", 14)):
        for _ in range(number):
            mask = np.zeros((20, 30), bool)
            y, x = rng.integers(0, 12, 2)
            mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 15)] = True
            arrays[part].append((int(rng.integers(images)), int(rng.integers(2 if part == "truth" else 3)), mask))
    ids = pa.array([str(number) for number in range(images)])
    size = np.array([(30, 20)] * images)
    regions = {}
    for part, rows in arrays.items():
        table = pa.Table.from_pylist(
            [
                {"sample_id": str(image), "kind": "mask", "label": names[label], "score": 0.9, "attributes": "{}"}
                | {"geometry": json.dumps({"rle": encoded(mask)}), "annotation_id": f"{part}{number}"}
                | dict.fromkeys(("x1", "y1", "x2", "y2"), 0.0)
                for number, (image, label, mask) in enumerate(rows)
            ]
        )
        regions[part] = (truth_regions if part == "truth" else found_regions)(table, ids, names, size)
    weights = np.array([[1.0] * images, [0, 2, 1, 0, 3, 1]])
    shared = shared_pixels(regions["truth"], regions["found"], images, len(names))
    for weight, value in zip(weights, shared.values(weights), strict=True):
        ious = []
        for code in range(2):
            totals = np.zeros(2)
            for image in range(images):
                one, other = (
                    np.any(
                        [m for i, c, m in arrays[part] if (i, c) == (image, code)] or [np.zeros((20, 30), bool)], axis=0
                    )
                    for part in ("truth", "found")
                )
                totals += weight[image] * np.array([(one & other).sum(), (one | other).sum()])
            ious.append(totals[0] / totals[1])
        assert value == pytest.approx(np.mean(ious))
    halves = shared.grouped(np.array([0, 0, 0, 1, 1, 1]), 2).values(np.array([[1.0, 1.0]]))
    assert halves == pytest.approx(shared.values(np.ones((1, images))))
