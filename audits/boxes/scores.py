"""How likely given boxes are wrong, from any detector's boxes: missing, of another class, badly located, without object.

The questions are those of ObjectLab (Tkachenko, Thyagarajan and Mueller, arXiv:2309.00832). The answers are weighed: a
detection counts by the chance that the given boxes confirm one of its class and score, so detectors need no
calibration and classes compare; each detection speaks for one given box; and what was seen nowhere says nothing.

A score s stands for odds (1 - s) / s of an error over none by what the detector saw, before anything else is known:
0.5 where it saw nothing to either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from datasetops.audits.boxes.pairs import Boxes, Flags, Floats, Ints, Overlaps, one_to_one, overlaps

MATCH: Final = 0.5  # intersection over union from which two boxes are of one object: PASCAL VOC's and COCO's
_TOUCH: Final = 0.1  # from which a detection may be of the given box's object: one half moved by half its side has 1/3
_ALIVE: Final = 0.02  # chance below which a detection neither is an object nor hides one
_IN_CROWD: Final = 0.5  # share of a detection inside a crowd region that counts as part of it, as in COCO
_DOUBT: Final = 0.05  # evidence that stands against whatever the detector says: one in twenty places it sees wrongly
_PRIOR: Final = 0.05  # share of wrong boxes taken for usual where scores of an image are joined
_PER_BIN: Final = 20  # items of a bin of scores or sizes: their share is then known to about a tenth
_BINS: Final = 50
_SIZES: Final = 8
_STILL: Final = 1e-3  # on the logistic scale
_FEWEST: Final = 30  # located boxes below which there is no telling how well boxes are located usually


@dataclass(frozen=True)
class BoxScores:
    """What the detections (D) say about the given boxes (G). Scores are in [0, 1], 1 = clean, see the module."""

    chance: Floats  # (D,) that the given boxes have one of its class there
    missing: Floats  # (D,) score: an object without a given box is low
    swapped: Floats  # (G,) score: a box whose object is of another class is low
    misplaced: Floats  # (G,) score: a box that lies beside its object is low
    spurious: Floats  # (G,) score: a box without any object is low
    own: Floats  # (G,) chance of the best detection of its class there, 0 without one
    other: Floats  # (G,) the same of other classes, less what the detector confuses by habit
    own_row: Ints  # (G,) the detection that was taken for the box's own, -1 for none
    other_row: Ints  # (G,) the best detection of another class there, -1 for none
    iou: Floats  # (G,) of the box and its own detection, 0 without one
    usual_iou: Floats  # (G,) median of that among boxes of its size, NaN where too few are located
    expected: Floats  # (G,) chance with which objects of its class and size are seen


def score_boxes(given: Boxes, detected: Boxes, score: Floats, *, classes: int, crowd: Flags | None = None) -> BoxScores:
    """Score every given box and every detection.

    `score` (D,) is the detector's confidence, on any scale. `crowd` (G,): regions of many objects, which explain the
    detections in them and are not judged (1 everywhere), like given boxes of label -1.
    """
    crowd = np.zeros(len(given), dtype=bool) if crowd is None else crowd
    judged = ~crowd & (given.label >= 0)
    in_crowd = _inside(given[crowd], detected)
    pairs = overlaps(given, detected, iou=_TOUCH)
    pairs = pairs[~crowd[pairs.first]]
    same = given.label[pairs.first] == detected.label[pairs.second]

    located = pairs[same & (pairs.iou >= MATCH)]
    confirmed = np.zeros(len(detected))
    confirmed[located.second[one_to_one(located, score[located.second])]] = 1
    chance = np.zeros(len(detected))
    free = ~in_crowd
    chance[free] = confirmed_share(confirmed[free], score[free], detected.label[free], classes)

    rows = np.flatnonzero(same)
    mine = pairs[rows]
    chosen = rows[one_to_one(mine, chance[mine.second] * mine.iou)]
    own_pair = np.full(len(given), -1)
    own_pair[pairs.first[chosen]] = chosen
    has_own = own_pair >= 0
    nearness = np.clip((pairs.iou - _TOUCH) / (MATCH - _TOUCH), 0, 1)
    claimed = np.zeros(len(detected))
    claimed[pairs.second[chosen]] = nearness[chosen]

    weight = chance[pairs.second] * nearness
    own = np.zeros(len(given))
    np.maximum.at(own, pairs.first[same], weight[same])
    other, other_row = _other_class(given, detected, pairs[~same], (weight * (1 - claimed[pairs.second]))[~same])
    other = _less_habit(given.label, detected.label, own, other, other_row, classes)
    own_row = np.where(has_own, pairs.second[own_pair], -1) if len(pairs) else own_pair
    iou = np.where(has_own, pairs.iou[own_pair], 0.0) if len(pairs) else np.zeros(len(given))
    sure = np.where(has_own, chance[own_row], 0.0) if len(detected) else np.zeros(len(given))
    misplaced, usual = _location(given, iou, sure, judged & has_own)
    seen = np.maximum(own, other)
    expected = np.zeros(len(given))
    size = np.log(given.area)
    expected[judged] = confirmed_share(seen[judged], size[judged], given.label[judged], classes)
    nothing = (1 - expected) / (2 - expected)

    standing_for_others = np.zeros(len(detected))
    apart = pairs[~same]
    np.maximum.at(standing_for_others, apart.second, nearness[~same] * (1 - own[apart.first]))
    unexplained = chance * (1 - claimed) * (1 - standing_for_others) * free
    unexplained *= 1 - _shadowed(detected, np.maximum(chance, claimed), unexplained)
    return BoxScores(
        chance=chance,
        missing=1 - unexplained,
        swapped=np.where(judged, (own + _DOUBT) / (own + other + 2 * _DOUBT), 1.0),
        misplaced=np.where(judged, misplaced, 1.0),
        spurious=np.where(judged, seen + (1 - seen) * nothing, 1.0),
        own=own,
        other=other,
        own_row=own_row,
        other_row=other_row,
        iou=iou,
        usual_iou=usual,
        expected=expected,
    )


def image_scores(score: Floats, image: Ints, images: int) -> Floats:
    """Scores (N,) of boxes as one of each image (`images`,): the chance that none of its boxes is wrong.

    Each score's odds are taken times those of the usual share of wrong boxes; an image without boxes has 1.
    """
    score = np.clip(score, 1e-9, 1)
    odds = (1 - score) / score * (_PRIOR / (1 - _PRIOR))
    return np.exp(-np.bincount(image, np.log1p(odds), minlength=images))


def confirmed_share(hits: Floats, value: Floats, label: Ints, classes: int) -> Floats:
    """The expected hit (N,) in [0, 1] of each item by its value and class.

    A rising function of the value, the same for all classes (isotonic over bins of equally many items, with half a hit
    and half a miss in each beforehand), then moved for each class on the logistic scale, with a prior of one item's
    weight at no move.
    """
    from scipy.optimize import isotonic_regression

    count = len(hits)
    if not count:
        return np.zeros(0)
    bins = int(np.clip(count // _PER_BIN, 1, _BINS))
    order = np.argsort(value, kind="stable")
    of = np.empty(count, dtype=np.int64)
    of[order] = np.arange(count) * bins // count
    held = np.bincount(of, minlength=bins)
    share = isotonic_regression((np.bincount(of, hits, minlength=bins) + 0.5) / (held + 1), weights=held).x
    middle = np.bincount(of, value, minlength=bins) / held
    base = np.interp(value, middle, _logit(share))
    move = np.zeros(classes)
    for _ in range(20):  # Newton's steps, each by one at most
        now = _logistic(base + move[label])
        slope = np.bincount(label, hits - now, minlength=classes) - move
        curve = np.bincount(label, now * (1 - now), minlength=classes) + 1
        step = np.clip(slope / curve, -1, 1)
        move += step
        if np.abs(step).max(initial=0) < _STILL:
            break
    return _logistic(base + move[label])


def _inside(crowds: Boxes, detected: Boxes) -> Flags:
    """Detections that lie mostly in a crowd region."""
    result = np.zeros(len(detected), dtype=bool)
    found = overlaps(crowds, detected)
    area, theirs = crowds.area[found.first], detected.area[found.second]
    shared = found.covered * np.minimum(area, theirs)
    result[found.second[shared >= _IN_CROWD * theirs]] = True
    return result


def _other_class(given: Boxes, detected: Boxes, pairs: Overlaps, weight: Floats) -> tuple[Floats, Ints]:
    """For each given box the greatest weight of a detection of another class at its place, and that detection."""
    order = np.argsort(weight, kind="stable")
    row = np.full(len(given), -1)
    row[pairs.first[order]] = pairs.second[order]  # the last write stays
    best = np.zeros(len(given))
    np.maximum.at(best, pairs.first, weight)
    row[best <= 0] = -1
    return best, row


def _less_habit(label: Ints, detected_label: Ints, own: Floats, other: Floats, other_row: Ints, classes: int) -> Floats:
    """`other` (G,) less what the detector always does: boxes of this class that it names as that other one.

    Counted among the other boxes of the class; a detector that does not know a class at all then says nothing on it.
    """
    named = np.where((other_row >= 0) & (other > own) & (label >= 0), 1, 0).astype(bool)
    pair = label[named] * classes + detected_label[other_row[named]]
    _, of, count = np.unique(pair, return_inverse=True, return_counts=True)
    agreed = np.bincount(label[(label >= 0) & (own > other)], minlength=classes)[label[named]] + 1
    result = other.copy()
    result[named] *= agreed / (agreed + count[of] - 1)
    return result


def _location(given: Boxes, iou: Floats, sure: Floats, located: Flags) -> tuple[Floats, Floats]:
    """Scores of the overlap with the own detection, and what is usual for the size.

    Usual is a normal distribution of the overlap's logit, by size, from its median and its upper half, since the lower
    half holds the errors. A misplaced box may overlap by any amount alike.
    """
    score, usual = np.full(len(given), 0.5), np.full(len(given), np.nan)
    rows = np.flatnonzero(located)
    if len(rows) < _FEWEST:
        return score, usual
    size = np.log(given.area[rows])
    overlap = np.clip(iou[rows], 0.01, 0.99)
    height, weight = _logit(overlap), sure[rows]
    bins = int(np.clip(len(rows) // _FEWEST, 1, _SIZES))
    parts = np.array_split(np.argsort(size, kind="stable"), bins)
    middles, medians, spreads = [], [], []
    for part in parts:
        median = _weighted_median(height[part], weight[part])
        upper = part[height[part] > median]
        above = _weighted_median(height[upper] - median, weight[upper]) if len(upper) else 0.0
        middles.append(size[part].mean())
        medians.append(median)
        spreads.append(max(above / 0.6745, 0.1))
    median, spread = np.interp(size, middles, medians), np.interp(size, middles, spreads)
    scale = np.sqrt(2 * np.pi) * spread

    def density(at: Floats) -> Floats:
        share = _logistic(at)
        result: Floats = np.exp(-(((at - median) / spread) ** 2) / 2) / (scale * share * (1 - share))
        return result

    usually = np.where(
        height < median, density(height), np.maximum(density(height), density(median))
    )  # more is no fault
    usually = weight * usually + (1 - weight)
    score[rows] = usually / (usually + 1)
    usual[rows] = _logistic(median)
    return score, usual


def _shadowed(detected: Boxes, sure: Floats, unexplained: Floats) -> Floats:
    """How far (D,) each unexplained detection is another one of an object that a surer detection stands for."""
    rest, alive = np.flatnonzero(unexplained >= _ALIVE), np.flatnonzero(sure >= _ALIVE)
    pairs = overlaps(detected[rest], detected[alive], iou=0.4)
    one, other = rest[pairs.first], alive[pairs.second]
    behind = (sure[one] < sure[other]) | ((sure[one] == sure[other]) & (one > other))
    result = np.zeros(len(detected))
    np.maximum.at(result, one[behind], np.clip((pairs.iou[behind] - 0.4) / 0.2, 0, 1))  # around MATCH
    return result


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    sums = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(sums, sums[-1] / 2)])


def _logit(share: Floats) -> Floats:
    result: Floats = np.log(share / (1 - share))
    return result


def _logistic(value: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-value))
    return result
