"""What counts as the same answer of two models."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from datasetops.models.predictor import Prediction
from datasetops.promotion.parity import parity

IMAGE = Image.new("RGB", (100, 100))


class Says:
    """Gives these answers about every image."""

    def __init__(self, *answers: Prediction) -> None:
        self.name, self.revision, self.digest, self.vocabulary = "says", None, "0" * 64, ("cat", "dog")
        self.kinds = (answers[0].kind,)
        self._answers = list(answers)

    def prepare(self, image: Image.Image) -> Any:
        return image

    def predict(self, prepared: Any) -> list[list[Prediction]]:
        return [self._answers for _ in prepared]


def box(score: float, *corners: float, name: str = "cat") -> Prediction:
    x1, y1, x2, y2 = corners
    return Prediction("box", name, score, (x1, y1, x2, y2))


def test_boxes_at_one_place_are_one_answer_however_sure() -> None:
    found = parity(Says(box(0.31, 10, 10, 50, 50)), Says(box(0.29, 10, 10, 50, 51)), [IMAGE, IMAGE])
    assert (found.images, found.answers, found.same) == (2, 2, 1.0)
    assert found.most_score == pytest.approx(0.02)
    assert found.most_pixels == 1


@pytest.mark.parametrize("other", [box(0.9, 30, 10, 70, 50), box(0.9, 10, 10, 50, 50, name="dog")])
def test_a_box_elsewhere_or_of_another_class_is_another_answer(other: Prediction) -> None:
    assert parity(Says(box(0.9, 10, 10, 50, 50)), Says(other), [IMAGE]).same == 0


def test_a_box_too_many_is_another_answer() -> None:
    one, more = box(0.9, 10, 10, 50, 50), box(0.8, 60, 60, 90, 90)
    assert parity(Says(one), Says(one, more), [IMAGE]).same == 0
    assert parity(Says(one), Says(one, box(0.1, 60, 60, 90, 90)), [IMAGE]).same == 1


def test_classes_are_compared_in_all_scores() -> None:
    one = Prediction("classification", "cat", 0.6, scores={"cat": 0.6, "dog": 0.4})
    near = Prediction("classification", "cat", 0.55, scores={"cat": 0.55, "dog": 0.45})
    other = Prediction("classification", "dog", 0.51, scores={"cat": 0.49, "dog": 0.51})
    assert parity(Says(one), Says(near), [IMAGE]).same == 1
    found = parity(Says(one), Says(other), [IMAGE])
    assert (found.same, found.most_pixels) == (0, None)
    assert found.most_score == pytest.approx(0.11)


def test_nothing_is_shown_without_an_image() -> None:
    with pytest.raises(ValueError, match="at least one"):
        parity(Says(box(0.9, 1, 1, 2, 2)), Says(box(0.9, 1, 1, 2, 2)), [])
