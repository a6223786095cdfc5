"""Overlaps, chances and scores of boxes, by themselves and on planted errors with a real detector."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from datasetops.audits.boxes.pairs import Boxes, one_to_one, overlaps, overlaps_within
from datasetops.audits.boxes.scores import confirmed_share, image_scores, score_boxes
from datasetops.identity import pairwise_iou

ROOT = Path(__file__).parents[2]
CORNERS = ("x1", "y1", "x2", "y2")


def boxes(image: Any, label: Any, corners: Any) -> Boxes:
    return Boxes(np.array(image, np.int64), np.array(label, np.int64), np.array(corners, np.float64).reshape(-1, 4))


def some(count: int, images: int, seed: int, *, classes: int = 3) -> Boxes:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (count, 2))
    corners = np.hstack([low, low + rng.uniform(1, 40, (count, 2))])
    return boxes(np.sort(rng.integers(0, images, count)), rng.integers(0, classes, count), corners)


@pytest.mark.parametrize("images", [1, 7, 3000])  # 1: more pairs than are looked at together
def test_overlaps_are_those_of_all_pairs(images: int) -> None:
    one, other = some(1200, images, 0), some(900, images, 1)
    found = overlaps(one, other, iou=0.2)
    iou = np.where(one.image[:, None] == other.image[None, :], pairwise_iou(one.corners, other.corners), 0)
    first, second = np.nonzero(iou >= 0.2)
    np.testing.assert_array_equal(np.stack([found.first, found.second]), np.stack([first, second]))
    np.testing.assert_allclose(found.iou, iou[first, second])
    assert len(overlaps(one, other[np.zeros(0, np.int64)])) == 0


def test_overlaps_within_name_each_pair_once_and_the_covered_share() -> None:
    found = overlaps_within(boxes([0, 0, 1], [0, 0, 0], [[0, 0, 10, 10], [2, 2, 4, 4], [0, 0, 10, 10]]))
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])
    assert (found.iou.tolist(), found.covered.tolist()) == ([0.04], [1.0])


def test_one_to_one_takes_the_strongest_first() -> None:
    pairs = overlaps(some(300, 5, 2), some(300, 5, 3))
    strength = np.round(np.random.default_rng(4).random(len(pairs)), 1)  # with many ties
    kept, firsts, seconds = [], set(), set()
    for row in np.argsort(-strength, kind="stable").tolist():
        a, b = int(pairs.first[row]), int(pairs.second[row])
        if a not in firsts and b not in seconds:
            kept.append(row)
            firsts.add(a)
            seconds.add(b)
    assert np.flatnonzero(one_to_one(pairs, strength)).tolist() == sorted(kept)


def test_confirmed_share_is_learned_by_value_and_class() -> None:
    rng = np.random.default_rng(0)
    value, label = rng.random(20_000), rng.integers(0, 2, 20_000)
    true = np.where(label == 0, value**2, value**2 / 2)
    share = confirmed_share((rng.random(20_000) < true).astype(float), value, label, 2)
    assert np.abs(share - true).mean() < 0.03
    assert (np.diff(share[label == 0][np.argsort(value[label == 0])]) >= -1e-12).all()
    assert len(confirmed_share(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), 3)) == 0


def test_image_scores_join_the_boxes_of_an_image() -> None:
    score = image_scores(np.array([0.5, 0.5, 0.01, 1.0]), np.array([0, 0, 1, 3]), 5)
    assert score[0] == pytest.approx(0.95**2)
    assert score[1] < 0.2
    assert score[[2, 3, 4]].tolist() == [1, 1, 1]


class Scene:
    """200 images with a cat on the left and a dog on the right, both detected at their place."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.given = pd.DataFrame([(i, c) for i in range(200) for c in (0, 1)], columns=["image", "label"])
        corners = np.where(self.given["label"].to_numpy()[:, None] == 0, [10, 10, 60, 90], [110, 20, 190, 80])
        self.given[list(CORNERS)] = corners.astype(float)
        self.found = self.given.copy()
        self.found[list(CORNERS)] += rng.normal(0, 1.5, corners.shape)
        self.found["score"] = rng.uniform(0.8, 1, 400)
        self.crowd = np.zeros(400, dtype=bool)

    def add(self, image: int, label: int, corners: tuple[float, ...], score: float) -> int:
        """Adds a detection."""
        self.found.loc[len(self.found)] = [image, label, *corners, score]
        return len(self.found) - 1

    def scores(self) -> Any:
        order = np.argsort(self.found["image"].to_numpy(), kind="stable")
        found = self.found.iloc[order]
        given, detected = (boxes(f["image"], f["label"], f[list(CORNERS)]) for f in (self.given, found))
        result = score_boxes(given, detected, found["score"].to_numpy(), classes=4, crowd=self.crowd[: len(given)])
        missing = np.empty(len(order))
        missing[order] = result.missing  # by rows of `found`
        return result, missing


def test_a_clean_scene_is_clean() -> None:
    result, missing = Scene().scores()
    assert missing.min() > 0.9
    assert min(result.swapped.min(), result.spurious.min()) > 0.9
    assert np.median(result.misplaced) > 0.8


def test_a_missing_box_is_told_once() -> None:
    scene = Scene()
    scene.given = scene.given.drop(index=7).reset_index(drop=True)  # the dog of image 3
    twice = scene.add(3, 1, (112, 21, 188, 79), 0.7)
    _, missing = scene.scores()
    assert np.argmin(missing) == 7
    assert missing[7] < 0.1
    assert missing[twice] > 0.9


def test_a_detection_in_a_crowd_is_explained() -> None:
    scene = Scene()
    scene.given.loc[7, list(CORNERS)] = [100.0, 0.0, 200.0, 100.0]
    inside = scene.add(3, 1, (120, 30, 150, 70), 0.99)
    assert scene.scores()[1][inside] < 0.1
    scene.crowd[7] = True
    result, missing = scene.scores()
    assert missing[inside] == 1
    assert (result.swapped[7], result.misplaced[7], result.spurious[7]) == (1, 1, 1)


def test_a_swapped_box() -> None:
    scene = Scene()
    scene.given.loc[6, "label"] = 1
    result, missing = scene.scores()
    assert np.argmin(result.swapped) == 6
    assert result.swapped[6] < 0.1
    assert result.other_row[6] >= 0
    assert missing.min() > 0.9  # its detection is not a missing box too


def test_a_detector_that_does_not_know_a_class_says_nothing_about_it() -> None:
    scene = Scene()
    scene.given.loc[scene.given["label"] == 0, "label"] = 2  # foxes, of which it says cat
    result, missing = scene.scores()
    foxes = scene.given["label"].to_numpy() == 2
    assert result.swapped[foxes].min() > 0.3
    assert missing.min() > 0.9


def test_a_moved_box_and_one_without_an_object() -> None:
    scene = Scene()
    scene.given.loc[6, list(CORNERS)] += [0, 40, 0, 40]
    scene.found = scene.found.drop(index=10).reset_index(drop=True)
    result, _ = scene.scores()
    assert np.argmin(result.misplaced) == 6
    assert result.misplaced[6] < 0.1
    assert result.misplaced[10] == 0.5  # nothing was seen of it
    assert np.argmin(result.spurious) == 10
    assert result.spurious[10] < 0.1


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("box_data", ROOT / "benchmarks" / "box_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["box_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real(data: Path, bench: ModuleType) -> tuple[Any, pd.DataFrame]:
    """COCO images with the detections of a real detector."""
    tiny = bench.read(data / "coco_tiny" / "coco.json")
    model = data / "yolox_nano" / "yolox_nano.onnx"
    return tiny, bench.yolox(tiny, data / "coco_tiny" / "images", model)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "field", "least"), [("swapped", "swapped", 0.85), ("moved", "misplaced", 0.75)])
def test_planted_errors_are_ranked(real: Any, bench: ModuleType, kind: str, field: str, least: float) -> None:
    tiny, found = real
    values = []
    for seed in range(3):
        given, wrong, _ = bench.planted(tiny, kind, seed)
        mine, theirs = (boxes(f["image"], f["label"], f[list(CORNERS)]) for f in (given, found))
        crowd = given["crowd"].to_numpy()
        result = score_boxes(mine, theirs, found["score"].to_numpy(), classes=80, crowd=crowd)
        values.append(roc_auc_score(wrong, 1 - getattr(result, field)))
    assert np.mean(values) > least
