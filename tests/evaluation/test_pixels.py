"""Intersection over union of the classes of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datasetops.evaluation.pixels import pixel_metrics


def test_means_are_over_named_classes_that_are_there() -> None:
    table = np.array([[6, 2, 0, 0], [0, 4, 0, 4], [0, 0, 0, 0], [2, 0, 0, 82]])  # road, car, sky (absent), background
    found = pixel_metrics(table, ["road", "car", "sky"])
    assert found["classes"]["road"] == {"pixels": 8, "iou": 6 / 10, "recall": 6 / 8}
    assert found["classes"]["car"] == {"pixels": 8, "iou": 4 / 10, "recall": 4 / 8}
    assert "sky" not in found["classes"]
    assert found["mean_iou"] == pytest.approx(0.5)
    assert found["pixel_accuracy"] == pytest.approx(92 / 100)


def test_a_class_that_is_only_predicted_costs_the_others_nothing_twice() -> None:
    found = pixel_metrics(np.array([[5, 5], [0, 0]]), ["road", "car"])
    assert found["mean_iou"] == pytest.approx(0.5)
    assert list(found["classes"]) == ["road"]


def test_nothing_to_measure_is_no_number() -> None:
    assert math.isnan(pixel_metrics(np.zeros((2, 2), np.int64), ["road", "car"])["mean_iou"])
