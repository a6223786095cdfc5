"""Each kind of error by hand."""

from __future__ import annotations

import numpy as np
import pytest
from random_regions import regions, scene

from datasetops.evaluation.error_kinds import ERROR_KINDS, ErrorKinds, error_kinds
from datasetops.evaluation.regions import pairs_of

OBJECT = [0, 0, 100, 100]
OTHER = [200, 200, 300, 300]


def judged(found: list[tuple[int, list[int], float]], truth: list[tuple[int, list[int]]]) -> ErrorKinds:
    there = regions([0] * len(truth), [label for label, _ in truth], np.array([box for _, box in truth]))
    boxes = np.array([box for _, box, _ in found]).reshape(-1, 4)
    said = regions([0] * len(found), [one[0] for one in found], boxes, np.array([one[2] for one in found]))
    return error_kinds(said, there, pairs_of(said, there), 2)


@pytest.mark.parametrize(
    ("found", "kind", "gain"),
    [
        ((1, OBJECT, 0.9), "classification", 1.0),
        ((0, [0, 0, 100, 40], 0.9), "localisation", 1.0),
        ((1, [0, 0, 100, 40], 0.9), "both", 0.0),
        ((0, [500, 500, 600, 600], 0.9), "background", 0.0),
    ],
)
def test_one_false_detection_of_one_object(found: tuple[int, list[int], float], kind: str, gain: float) -> None:
    result = judged([found], [(0, OBJECT)])
    assert {name: n for name, n in result.counts.items() if n} == ({kind: 1} if gain else {kind: 1, "missed": 1})
    assert result.ap50 == 0.0
    assert result.costs[kind] == gain


def test_a_duplicate_costs_where_it_stands_before_another_object() -> None:
    truth = [(0, OBJECT), (0, OTHER)]
    result = judged([(0, OBJECT, 0.9), (0, [0, 0, 100, 90], 0.8), (0, OTHER, 0.7)], truth)
    assert result.counts["duplicate"] == 1
    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result.costs["duplicate"] == pytest.approx(1 - result.ap50)
    assert result.false_positives == pytest.approx(1 - result.ap50)


def test_missed_objects() -> None:
    result = judged([(0, OBJECT, 0.9)], [(0, OBJECT), (0, OTHER)])
    assert result.counts["missed"] == 1
    assert result.ap50 == pytest.approx(51 / 101)
    assert result.costs["missed"] == pytest.approx(50 / 101)
    assert result.false_negatives == pytest.approx(50 / 101)


def test_the_best_of_several_mends_an_object_and_the_others_go() -> None:
    result = judged([(1, OBJECT, 0.9), (0, [0, 0, 100, 45], 0.6)], [(0, OBJECT)])
    assert (result.counts["classification"], result.counts["localisation"], result.counts["missed"]) == (1, 1, 0)
    assert result.costs["classification"] == 1.0
    assert result.costs["localisation"] == 0.0  # the other one is the better heir


def test_crowds_are_no_errors() -> None:
    there = regions([0, 0], [0, 0], np.array([OBJECT, OTHER]), crowd=np.array([False, True]))
    said = regions([0, 0], [0, 0], np.array([OBJECT, [210, 210, 230, 230]]), np.array([0.5, 0.9]))
    result = error_kinds(said, there, pairs_of(said, there), 1)
    assert result.ap50 == 1.0
    assert not any(result.counts.values())


@pytest.mark.parametrize("seed", range(5))
def test_every_detection_is_right_or_of_one_kind(seed: int) -> None:
    truth, found = scene(seed, crowds=0.0)
    result = error_kinds(found, truth, pairs_of(found, truth), 3)
    assert sum(result.counts[name] for name in ERROR_KINDS[:-1]) == int((result.kind >= 0).sum())
    assert int((result.kind == -1).sum()) + int((result.kind >= 0).sum()) == len(found)
    assert all(0 <= cost <= 1 - result.ap50 + 1e-12 for cost in result.costs.values())
