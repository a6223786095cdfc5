"""Which pixels of an image are probably labeled wrong, by class probabilities of every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

TEMPERATURE: Final = 0.1  # of the soft minimum, as in cleanlab
BINS: Final = 20  # of the probabilities that given classes have
_UNLIKELY: Final = 0.1  # probability of the given class below which a pixel is doubted, where another one is likely
_LIKELY: Final = 0.5
_DEEP: Final = 0.03  # of the image's side: nearer to a border, labels and predictions differ for no reason


@dataclass(frozen=True)
class LabelMap:
    """What each pixel is labeled as: `classes` (H, W), and the annotation's number `owner` (H, W); −1 for nothing, and
    an owner below that for what is not judged."""

    classes: npt.NDArray[np.int16]
    owner: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Region:
    """Pixels of one annotation, or of none (`owner` −1), that look like the class `suggested`.

    `area` in pixels; `depth`: how far the innermost one is from its border, as a share of the image's side, the root of
    its area; `box` xyxy of the deepest piece; `given` and `sure`: mean probabilities of label and suggestion.
    """

    owner: int
    label: int
    suggested: int
    area: int
    depth: float
    box: tuple[float, float, float, float]
    given: float
    sure: float


@dataclass(frozen=True)
class Judgement:
    """Of one image: its `score` in [0, 1], NaN without labels, and the `regions` that look wrong.

    Of its annotations: `owners` (A,), `areas` (A,) in pixels that can be seen, `means` (A,) of the label's probability.
    `histogram` (K, BINS): labeled pixels by their class and its probability.
    """

    score: float
    owners: Ints
    areas: Ints
    means: npt.NDArray[np.float64]
    histogram: Ints
    regions: list[Region]


def softmin(scores: npt.NDArray[Any], temperature: float = TEMPERATURE) -> float:
    """A soft minimum of pixel scores: their mean, weighted by a softmax of (1 − score) / temperature.

    As the scores of images in `cleanlab.segmentation.rank` (Lad and Mueller, 2023, arXiv:2307.05080). NaN for none.
    """
    values = scores.astype(np.float64).ravel()
    if not len(values):
        return float("nan")
    weights = np.exp((values.min() - values) / temperature)
    return float(values @ weights / weights.sum())


def judge_image(labels: LabelMap, bands: Iterable[tuple[slice, Floats]], classes: int) -> Judgement:
    """`bands`: rows of pixels and the probabilities (K, rows, W) of `classes` classes, from top to bottom."""
    given, best, sure = _reduced(labels.classes, bands)
    known = labels.classes >= 0
    scores, owner = given[known], labels.owner[known]
    numbers, where = np.unique(owner, return_inverse=True)
    areas = np.bincount(where, minlength=len(numbers)).astype(np.int64)
    means = np.bincount(where, scores, minlength=len(numbers)) / np.maximum(areas, 1)
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(labels.classes[known].astype(np.int64) * BINS + bins, minlength=classes * BINS)
    doubted = (best != labels.classes) & (given < _UNLIKELY) & (sure > _LIKELY)
    return Judgement(
        softmin(scores),
        numbers.astype(np.int64),
        areas,
        means,
        counts.astype(np.int64).reshape(classes, BINS),
        list(_regions(labels, doubted, given, best, sure, classes)),
    )


def _reduced(classes: npt.NDArray[np.int16], bands: Iterable[tuple[slice, Floats]]) -> tuple[Floats, Ints, Floats]:
    """Probability of the given class, the likeliest class and its probability, each (H, W); 0 for no class."""
    given, sure = (np.zeros(classes.shape, np.float32) for _ in range(2))
    best = np.zeros(classes.shape, np.int64)
    for rows, band in bands:
        label = classes[rows].astype(np.int64)
        own = np.take_along_axis(band, np.maximum(label, 0)[None], axis=0)[0]
        given[rows] = np.where(label >= 0, own, 0)
        best[rows] = band.argmax(axis=0)
        sure[rows] = band.max(axis=0)
    return given, best, sure


def _regions(
    labels: LabelMap, doubted: Bools, given: Floats, best: Ints, sure: Floats, classes: int
) -> Iterator[Region]:
    """Doubted pixels of each annotation and suggestion that reach deep enough."""
    from scipy import ndimage

    height, width = doubted.shape
    side = float(np.sqrt(height * width))
    border = max(1, round(_DEEP * side))
    code = np.where(doubted & (labels.owner >= -1), (labels.owner.astype(np.int64) + 1) * classes + best, -1)
    codes, counts = np.unique(code[code >= 0], return_counts=True)
    large = codes[counts > (2 * border) ** 2]
    numbered = np.zeros(code.shape, np.int32)
    for number, one in enumerate(large, 1):
        numbered[code == one] = number
    for number, place in enumerate(ndimage.find_objects(numbered), 1):
        piece = np.pad(numbered[place] == number, 1)
        depth = ndimage.distance_transform_cdt(piece, "chessboard")
        if depth.max() <= border:
            continue
        parts, _ = ndimage.label(piece)
        deep = np.unique(parts[depth > border])
        inside = np.isin(parts, deep)[1:-1, 1:-1]
        rows, columns = ndimage.find_objects(parts)[parts.flat[int(depth.argmax())] - 1]
        top, left = (int(part.start) - 1 for part in place)
        owner, suggested = divmod(int(large[number - 1]), classes)
        yield Region(
            owner - 1,
            int(labels.classes[place][inside][0]),
            suggested,
            int(inside.sum()),
            float(depth.max() / side),
            (float(left + columns.start), float(top + rows.start), float(left + columns.stop), float(top + rows.stop)),
            float(given[place][inside].mean()),
            float(sure[place][inside].mean()),
        )
