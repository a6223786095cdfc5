"""Whether two predictors say the same of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from datasetops.models.predictor import Prediction, Predictor
from datasetops.preannotate.rows import DEFAULT_THRESHOLDS

SAME_PLACE: Final = 0.9  # overlap from which two boxes are one: a twentieth of a side apart


@dataclass(frozen=True)
class Parity:
    """Of `images`: the largest difference of a score, of a box's corner in pixels (None: no boxes), and the share of images
    of which both say the same. A box counts as an answer from `score` on, and is the same where the other model has one
    of its class at its place, however sure of it. `answers`: how many the first model gave."""

    images: int
    answers: int
    score: float
    most_score: float
    most_pixels: float | None
    same: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parity(first: Predictor, second: Predictor, images: Iterable[Image.Image]) -> Parity:
    """Raises ValueError without an image, and what the predictors raise."""
    kind = first.kinds[0]
    least = DEFAULT_THRESHOLDS.get(kind, 0.0)
    scores: list[float] = []
    pixels: list[float] = []
    same, answers, count = 0, 0, 0
    for image in images:
        count += 1
        one, other = (model.predict([model.prepare(image)])[0] for model in (first, second))
        if kind == "classification":
            equal = [item.name for item in one] == [item.name for item in other]
            apart = _class_scores(one, other)
            answers += len(one)
        else:
            equal, apart, corners = _boxes(one, other, least)
            pixels += corners
            answers += sum(item.score >= least for item in one)
        scores += apart
        same += equal
    if not count:
        raise ValueError("images: expected at least one")
    far = max(pixels, default=0.0) if kind != "classification" else None
    return Parity(count, answers, least, max(scores, default=0.0), far, same / count)


def _class_scores(one: Sequence[Prediction], other: Sequence[Prediction]) -> list[float]:
    told = [next((dict(item.scores) for item in found if item.scores), {}) for found in (one, other)]
    return [abs(told[0].get(name, 0.0) - told[1].get(name, 0.0)) for name in {*told[0], *told[1]}]


def _boxes(
    one: Sequence[Prediction], other: Sequence[Prediction], least: float
) -> tuple[bool, list[float], list[float]]:
    """Whether all answers of both are there in both, and differences of the scores and corners of these."""
    equal, scores, corners = True, [], []
    for mine, theirs in ((one, other), (other, one)):
        for item in mine:
            if item.score < least:
                continue
            twin = _twin(item, theirs)
            if twin is None:
                equal = False
                continue
            scores.append(abs(item.score - twin.score))
            corners += [abs(a - b) for a, b in zip(item.box or (), twin.box or (), strict=True)]
    return equal, scores, corners


def _twin(item: Prediction, others: Sequence[Prediction]) -> Prediction | None:
    """The box of the same class that overlaps it most, where that is as good as the same place."""
    named = [other for other in others if other.name == item.name]
    overlaps = [_overlap(item.box, other.box) for other in named]
    best = int(np.argmax(overlaps)) if named else -1
    return named[best] if best >= 0 and overlaps[best] >= SAME_PLACE else None


def _overlap(one: Any, other: Any) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.clip(sides, 0, None).prod())
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / max(float(sum(areas)) - shared, 1e-9)
