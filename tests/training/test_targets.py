"""Which cells answer for which object, and what a flip does to boxes."""

from __future__ import annotations

import numpy as np
import pytest

from datasetops.training.maps import STRIDES, scale_of
from datasetops.training.targets import Objects, assign, cell_middles, mirrored

SHAPES = [(60, 80), (30, 40), (15, 20)]  # of an image of 640 x 480
MIDDLES, STRIDE = cell_middles(SHAPES, STRIDES)


def objects(*boxes: tuple[float, float, float, float], labels: list[int] | None = None) -> Objects:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    codes = np.array(labels or [0] * len(boxes), dtype=np.int64)
    return Objects(corners, codes, np.ones(len(boxes), np.float32), np.zeros((0, 4), np.float32))


def test_cells_cover_the_image_level_by_level() -> None:
    assert len(MIDDLES) == sum(rows * columns for rows, columns in SHAPES)
    assert MIDDLES[0].tolist() == [4, 4]
    assert MIDDLES[-1].tolist() == [640 - 16, 480 - 16]
    assert STRIDE[[0, 4800, -1]].tolist() == [8, 16, 32]


@pytest.mark.parametrize(
    ("side", "strides"), [(20, {8}), (48, {8}), (68, {8, 16}), (96, {16}), (200, {32}), (450, {32})]
)
def test_the_size_of_an_object_chooses_its_levels(side: int, strides: set[int]) -> None:
    found = assign(objects((100, 20, 100 + side, 20 + side)), MIDDLES, STRIDE)
    assert set(STRIDE[found.cell].tolist()) == strides
    assert found.weight.sum() == pytest.approx(1)
    away = np.abs(MIDDLES[found.cell] - (100 + side / 2, 20 + side / 2)).max(axis=1)
    assert (away <= 1.5 * STRIDE[found.cell]).all()


@pytest.mark.parametrize("box", [(9, 9, 10, 10), (5, 5, 6, 300), (0, 0, 2, 2), (638, 478, 640, 480)])
def test_thin_and_tiny_objects_have_a_cell_too(box: tuple[float, float, float, float]) -> None:
    found = assign(objects(box), MIDDLES, STRIDE)
    assert len(found.cell) >= 1
    assert found.weight.sum() == pytest.approx(1)


def test_the_smaller_of_two_objects_of_a_class_gets_a_cell_that_both_want() -> None:
    large, small = (100, 100, 200, 200), (115, 115, 185, 185)
    for boxes, number in (((large, small), 1), ((small, large), 0)):
        found = assign(objects(*boxes), MIDDLES, STRIDE)
        shared = found.box[:, 0] == 115
        assert shared.all() or STRIDE[found.cell[~shared]].tolist() == [16] * int((~shared).sum())
        assert (found.box[shared] == np.array(boxes[number], np.float32)).all()
        assert len(np.unique(found.cell)) == len(found.cell)


def test_a_cell_may_answer_for_an_object_of_each_class() -> None:
    found = assign(objects((100, 100, 200, 200), (100, 100, 200, 200), labels=[0, 2]), MIDDLES, STRIDE)
    assert sorted(found.label.tolist()) == [0] * 9 + [2] * 9
    assert set(found.cell[found.label == 0]) == set(found.cell[found.label == 2])


def test_ignored_areas_are_not_asked() -> None:
    given = Objects(
        *(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)),
        np.array([[0, 0, 64, 64]], np.float32),
    )
    found = assign(given, MIDDLES, STRIDE)
    assert int(found.silent.sum()) == 64 + 16 + 4
    assert not len(found.cell)


@pytest.mark.parametrize("flip", [(True, False), (False, True), (True, True)])
def test_a_flip_undoes_itself_and_keeps_corners_in_order(flip: tuple[bool, bool]) -> None:
    boxes = np.array([[10, 20, 110, 60]], np.float32)
    once = mirrored(boxes, flip, 640, 480)
    assert (once[:, :2] < once[:, 2:]).all()
    assert (once != boxes).any()
    assert (mirrored(once, flip, 640, 480) == boxes).all()


def test_the_scale_is_that_of_the_scaled_image() -> None:
    assert scale_of((1280, 960), 640) == (0.5, 0.5)
