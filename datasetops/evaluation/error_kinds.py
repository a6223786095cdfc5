"""What each kind of a detector's errors costs in average precision, by mending one kind at a time.

Bolya et al., "TIDE: a general toolbox for identifying object detection errors" (ECCV 2020): false positives are of one
kind each; of those that could find the same missed object, the best one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasetops.audits.boxes.pairs import Overlaps
from datasetops.evaluation.matching import MOST, match, single_average_precision
from datasetops.evaluation.regions import Flags, Floats, Ints, Regions, places, sorted_by

CLASSIFICATION: Final = "classification"  # right place, wrong class
LOCALISATION: Final = "localisation"  # right class, not quite the place
BOTH: Final = "both"  # overlaps something, and neither class nor place is right
DUPLICATE: Final = "duplicate"  # of an object that a better one found
BACKGROUND: Final = "background"  # nothing is there
MISSED: Final = "missed"  # an object that no error above stands for
ERROR_KINDS: Final = (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED)
FOREGROUND_IOU: Final = 0.5  # TIDE's t_f, from which a detection is right …
BACKGROUND_IOU: Final = 0.1  # … and t_b, up to which it overlaps nothing
_RIGHT, _OUT = -1, -2  # codes of detections that are no error, and of those that do not count


@dataclass(frozen=True)
class ErrorKinds:
    """`ap50` of the model as it is; by kind how many errors there are, and what mending them all would add to it.

    `kind` (N,) of each detection: its place in ERROR_KINDS, negative where it is none; `object` (N,): the one that it
    stands for, -1 for none; `missed` (M,): objects that nothing stands for. False positives and negatives as a whole:
    what removing all the former, or finding all the latter, would add.
    """

    ap50: float
    counts: dict[str, int]
    costs: dict[str, float]
    false_positives: float
    false_negatives: float
    kind: Ints
    object: Ints
    missed: Flags

    def as_dict(self) -> dict[str, Any]:
        kinds = {name: {"count": self.counts[name], "cost": self.costs[name]} for name in ERROR_KINDS}
        return {"AP50": self.ap50, "kinds": kinds} | {
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
        }


def error_kinds(found: Regions, truth: Regions, pairs: Overlaps, classes: int) -> ErrorKinds:
    """Errors of detections against objects, whose overlaps `pairs` are (see `pairs_of`).

    The best 100 detections of an image count, as TIDE has it. Those that lie in a crowd of their class count on neither
    side, and stand for no error.
    """
    counted = _best(found)
    pairs = pairs[counted[pairs.first]]
    matches = match(found, truth, pairs, np.array([FOREGROUND_IOU]), most=len(found))
    right, ignored = np.zeros(len(found), bool), np.zeros(len(found), bool)
    right[matches.rows] = matches.truth[:, 0] >= 0
    ignored[matches.rows] = matches.ignored[:, 0]
    used = np.zeros(len(truth), bool)
    used[matches.truth[matches.truth >= 0]] = True
    pairs = pairs[~truth.crowd[pairs.second]]
    kind, object_ = _kinds(found, truth, pairs, used, right, ignored | ~counted)
    free = (object_ >= 0) & ~used[np.maximum(object_, 0)]
    usable = np.zeros(len(truth), bool)
    usable[object_[free & np.isin(kind, (_code(CLASSIFICATION), _code(LOCALISATION)))]] = True
    missed = ~used & ~usable & ~truth.crowd
    heir = _heirs(found, object_, free & np.isin(kind, (_code(CLASSIFICATION), _code(LOCALISATION))))
    scores = _Scores(found, truth, counted & ~ignored, classes)
    base = scores.of(right)
    counts, costs = {}, {}
    for code, name in enumerate(ERROR_KINDS):
        mine = kind == code
        counts[name] = int(missed.sum()) if name == MISSED else int(mine.sum())
        mended = mine & heir
        label = None
        if name == CLASSIFICATION:
            label = np.where(mended, np.append(truth.boxes.label, 0)[object_], found.boxes.label)
        gone = missed if name == MISSED else None
        costs[name] = max(0.0, scores.of(right | mended, without=mine & ~mended, label=label, gone=gone) - base)
    unfound = ~used & ~truth.crowd
    precise, complete = scores.of(right, without=~right), scores.of(right, gone=unfound)
    return ErrorKinds(base, counts, costs, max(0.0, precise - base), max(0.0, complete - base), kind, object_, missed)


class _Scores:
    """AP50 over the classes with objects, with some detections or objects changed."""

    def __init__(self, found: Regions, truth: Regions, counted: Flags, classes: int) -> None:
        self._found, self._counted, self._order = found, counted, found.by_class()
        self._truth, self._classes = truth, classes
        self._there = self._objects(None) > 0

    def of(
        self, right: Flags, *, without: Flags | None = None, label: Ints | None = None, gone: Flags | None = None
    ) -> float:
        """Of detections but those `without`, which are `right` and of another `label`; of objects but those `gone`.

        A class all of whose objects are gone counts 0, as in TIDE.
        """
        own = self._found.boxes.label if label is None else label
        order = self._order if label is None else self._found.by_class(own)
        counted = self._counted if without is None else self._counted & ~without
        average = single_average_precision(own[order], right[order], counted[order], self._objects(gone))
        return float(average[self._there].mean()) if self._there.any() else float("nan")

    def _objects(self, gone: Flags | None) -> Ints:
        stays = ~self._truth.crowd if gone is None else ~self._truth.crowd & ~gone
        return np.bincount(self._truth.boxes.label[stays], minlength=self._classes)


def _kinds(found: Regions, truth: Regions, pairs: Overlaps, used: Flags, right: Flags, out: Flags) -> tuple[Ints, Ints]:
    """The kind of each detection, and the object that it stands for."""
    n = len(found)
    same = found.boxes.label[pairs.first] == truth.boxes.label[pairs.second]
    own, own_object = _nearest(pairs, same, n)
    other, other_object = _nearest(pairs, ~same, n)
    again, again_object = _nearest(pairs, same & used[pairs.second], n)
    any_, _ = _nearest(pairs, np.ones(len(pairs), bool), n)
    conditions = [
        (own >= BACKGROUND_IOU) & (own <= FOREGROUND_IOU),
        other >= FOREGROUND_IOU,
        again >= FOREGROUND_IOU,
        any_ <= BACKGROUND_IOU,
    ]
    codes = [_code(name) for name in (LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND)]
    kind = np.select(conditions, codes, _code(BOTH)).astype(np.int64)
    object_ = np.select(conditions[:3], [own_object, other_object, again_object], -1).astype(np.int64)
    kind[right], kind[out] = _RIGHT, _OUT
    object_[right | out] = -1
    return kind, object_


def _nearest(pairs: Overlaps, which: Flags, n: int) -> tuple[Floats, Ints]:
    """The largest overlap of each detection (n,) among some pairs, and the object that has it; 0 and -1 for none."""
    rows = np.flatnonzero(which)  # by detection, as the pairs are
    iou, nearest = np.zeros(n), np.full(n, -1, np.int64)
    starts = np.flatnonzero(np.diff(pairs.first[rows], prepend=-1))
    if len(starts):
        largest = np.maximum.reduceat(pairs.iou[rows], starts)
        has_it = rows[pairs.iou[rows] == np.repeat(largest, np.diff(starts, append=len(rows)))][::-1]
        iou[pairs.first[rows[starts]]] = largest
        nearest[pairs.first[has_it]] = pairs.second[has_it]  # of several writes the last one stays: the first object
    return iou, nearest


def _heirs(found: Regions, object_: Ints, candidates: Flags) -> Flags:
    """Of the candidates for each object the one with the highest score, the first of equals."""
    rows = np.flatnonzero(candidates)
    rows = rows[np.lexsort((-found.score[rows], object_[rows]))]
    heir = np.zeros(len(found), bool)
    heir[rows[np.diff(object_[rows], prepend=-1) != 0]] = True
    return heir


def _best(found: Regions) -> Flags:
    """The best detections of each image, of all classes together."""
    order = sorted_by(found.boxes.image, found.by_score)
    result: Flags = places(order, np.diff(found.boxes.image[order], prepend=-1) != 0) < MOST
    return result


def _code(name: str) -> int:
    return ERROR_KINDS.index(name)
