"""Doubts of single objects, summed up an image, and how far boxes move between views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasetops.active_learning.region_scores import (
    Detections,
    Sum,
    per_image,
    presence_entropy,
    stability,
)
from datasetops.audits.boxes.pairs import Boxes


def found(*rows: tuple[int, int, float, tuple[float, ...]]) -> Detections:
    """Rows of image, class, score and corners."""
    image, label, score, corners = (list(part) for part in zip(*rows, strict=True)) if rows else ([], [], [], [])
    places = Boxes(np.array(image, np.int64), np.array(label, np.int64), np.array(corners, float).reshape(-1, 4))
    return Detections(places, np.array(score, float))


def test_a_score_of_one_half_is_the_most_doubtful() -> None:
    np.testing.assert_allclose(presence_entropy([0.0, 0.5, 1.0, 0.25]), [0, 1, 0, 0.811278], atol=1e-6)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("max", [0.8, 0.25, 0.6]),
        ("mean", [0.5, 0.25, 0.5]),
        ("sum", [2 / 3, 0.25, 1 / 2]),
        ("top", [0.6, 0.25, 0.5]),
    ],
)
def test_objects_are_summed_up_an_image(how: Sum, expected: list[float]) -> None:
    image, values = np.array([2, 0, 0, 2, 0, 0]), [0.4, 0.2, 0.8, 0.6, 0.6, 0.4]
    np.testing.assert_allclose(per_image(image, values, 3, how, empty=0.25), expected)


@given(st.integers(0, 1000), st.sampled_from(["max", "mean", "sum", "top"]))
def test_the_order_of_objects_does_not_matter_and_scores_stay_within_bounds(seed: int, how: Sum) -> None:
    rng = np.random.default_rng(seed)
    image, values = rng.integers(0, 6, 30), rng.random(30)
    order = rng.permutation(30)
    one = per_image(image, values, 7, how)
    assert ((one >= 0) & (one <= 1)).all()
    assert one[6] == 0
    np.testing.assert_allclose(per_image(image[order], values[order], 7, how), one)
    slow = [values[image == i] for i in range(6)]
    if how == "top":
        np.testing.assert_allclose(one[:6], [np.sort(v)[::-1][:3].mean() if len(v) else 0 for v in slow])


def test_boxes_that_stay_have_no_spread_and_those_that_go_all_of_it() -> None:
    here = found(
        (0, 0, 0.9, (0, 0, 10, 10)), (1, 0, 0.5, (0, 0, 10, 10)), (2, 1, 0.8, (0, 0, 10, 10)),
        (2, 1, 0.4, (50, 50, 60, 60)), (4, 0, 0.7, (0, 0, 10, 10)),
    )  # fmt: skip
    there = found(
        (0, 0, 0.9, (0, 0, 10, 10)), (1, 0, 0.5, (0, 0, 10, 20)), (2, 0, 0.8, (0, 0, 10, 10)),
        (2, 1, 0.4, (50, 50, 60, 60)), (3, 0, 0.7, (0, 0, 10, 10)),
    )  # fmt: skip
    result = stability(here, [there], 6, empty=0.125)
    np.testing.assert_allclose(result.spread, [0, 0.5, 0, 1, 1, 0.125])
    np.testing.assert_allclose(result.flips, [0, 0, 0.8 / 1.2, 0, 0, 0])
    both = stability(here, [there, here], 6, empty=0.125)
    np.testing.assert_allclose(both.spread, [0, 0.25, 0, 0.5, 0.5, 0.125])
    np.testing.assert_allclose(both.flips, [0, 0, 0.8 / 2.4, 0, 0, 0])


def test_each_box_has_one_partner_at_most() -> None:
    """Two boxes on one: the nearer is its partner, the other counts as gone."""
    here = found((0, 0, 1.0, (0, 0, 10, 10)), (0, 0, 1.0, (0, 0, 10, 5)))
    there = found((0, 0, 1.0, (0, 0, 10, 10)))
    np.testing.assert_allclose(stability(here, [there], 1).spread, [1 - 2 / 3])
    np.testing.assert_allclose(stability(there, [here], 1).spread, [1 - 2 / 3])
    np.testing.assert_allclose(stability(found(), [found()], 1).spread, [0])


def test_what_cannot_be_is_refused() -> None:
    at = np.array([0, 1])
    with pytest.raises(ValueError, match="scores: expected numbers from 0 to 1"):
        presence_entropy([1.2])
    with pytest.raises(ValueError, match=r"expected shape \(P,\)"):
        presence_entropy([[0.5]])
    bad: list[tuple[Any, ...]] = [(at, [0.5, np.nan], 2, "max"), (at, [0.5], 2, "max"), (at, [0.5, 0.5], 1, "max")]
    bad += [(at, [0.5, 0.5], 2, "best")]
    for arguments in bad:
        with pytest.raises(ValueError, match=r"values|image|how"):
            per_image(*arguments)
    with pytest.raises(ValueError, match="views"):
        stability(found(), [], 1)
