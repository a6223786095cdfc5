"""Objects that nobody boxed, boxes of another class, badly located boxes, boxes drawn twice.

Each asks a detector's boxes where there are any, and the geometry of the given ones always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.boxes.classes import classes_by_crops
from datasetops.audits.boxes.counts import unlike_neighbours
from datasetops.audits.boxes.geometry import doubles, outlying, sparse
from datasetops.audits.boxes.pairs import Floats
from datasetops.audits.boxes.rows import BoxRows, Judged, box_rows, judged_boxes
from datasetops.audits.boxes.scores import MATCH, image_scores
from datasetops.audits.charts import bars, histogram
from datasetops.audits.rowwise import Doubt, RowFindings
from datasetops.audits.samplewise import SampleFindings, texts
from datasetops.records import Finding

_SURE: Final = 0.995  # chance from which, one box in twenty being wrong, nine in ten that it contradicts are wrong,
_NOT_AT_ALL: Final = 0.05  # and with which it does not see what is given
_LIKELY: Final = 0.8
_MORE_LIKELY: Final = 0.5  # than not: below, a look at it would mostly be in vain
_UNCONFIRMED: Final = 2 / 3  # chance from which a lack is told: most that are not confirmed are the detector's slips
_LOOSE: Final = 0.7  # intersection over union below which a box is worth moving: people agree to about 0.8
_BESIDE: Final = 0.25  # score of the location from which it is told: odds of three to one,
_FAR_BESIDE: Final = 0.1  # and of nine to one
_CLASSES: Final = 2  # with fewer there is nothing to mistake a class for
_NO_DETECTIONS: Final = "no detections: images or --detections are needed for more"


class MissingBox:
    name = "missing_box"
    title = "objects that nobody boxed; images with unusual numbers of boxes"
    needs = "boxes; for single objects, images or --detections"
    cost = "seconds for a million boxes; without --detections, the time of training a detector's head"

    def run(self, context: AuditContext) -> CheckResult:
        given = box_rows(context)
        if not len(given.rows):
            return skipped(given.lack)
        samples = context.samples
        about = SampleFindings(self.name, samples)
        score: Floats = np.ones(len(samples))
        findings: list[Finding] = []
        lacks = {(lack.image, lack.label): lack for lack in (*unlike_neighbours(given, context), *sparse(given))}
        for lack in lacks.values():
            score[lack.image] = min(score[lack.image], lack.score)
            findings.append(about.at(lack.image, lack.severity, lack.score, lack.message, suggested=lack.label))
        judged = judged_boxes(context)
        summary: dict[str, Any] = {"images with unusual counts": len(findings)}
        if judged is None:
            summary["detections"] = _NO_DETECTIONS
        else:
            missing = judged.scores.missing
            score = np.minimum(score, image_scores(missing, judged.detected.image, len(samples)))
            found = [
                _missing(about, given, judged, row) for row in np.flatnonzero(missing <= 1 - _UNCONFIRMED).tolist()
            ]
            findings += found
            by_class = Counter(finding.suggested for finding in found)
            summary |= judged.facts | {
                "objects without a box": len(found),
                "charts": [
                    bars("Objects without a box, by class", {str(k): n for k, n in by_class.most_common(30)}),
                    _histogram("Score of the detections: those on the left have no box", missing),
                ],
            }
        scores = pd.DataFrame({"sample_id": samples["sample_id"], "annotation_id": None, "score": score})
        return CheckResult(findings, scores, summary)


class SwappedBox:
    name = "swapped_box"
    title = "boxes whose object is of another class"
    needs = "boxes; images or --detections"
    cost = "seconds for a million boxes; without --detections, about 150 boxes a second and core"

    def run(self, context: AuditContext) -> CheckResult:
        given = box_rows(context)
        if not len(given.rows):
            return skipped(given.lack)
        if len(given.names) < _CLASSES:
            return skipped("there is one class only")
        if context.detections is None:
            if not context.at_hand.any():
                return skipped(_NO_DETECTIONS)
            return classes_by_crops(context, given)
        judged = judged_boxes(context)
        if judged is None:
            return skipped(_NO_DETECTIONS)
        about = SampleFindings(self.name, context.samples)
        scores = judged.scores
        told = (scores.other > scores.own) & (scores.other >= _MORE_LIKELY) & (scores.swapped < 1)
        at = np.flatnonzero(told)
        findings = [_swapped(about, given, judged, row) for row in at.tolist()]
        pairs = Counter((finding.given, finding.suggested) for finding in findings)
        summary = judged.facts | {
            "boxes": len(judged.of),
            "flagged": len(findings),
            "confusions": [{"given": a, "suggested": b, "count": n} for (a, b), n in pairs.most_common()],
            "charts": [
                bars("Flagged boxes: given → suggested", {f"{a} → {b}": n for (a, b), n in pairs.most_common(15)}),
                _histogram("Score of the given classes", scores.swapped),
            ],
        }
        return CheckResult(findings, _scores(given.rows.iloc[judged.of], scores.swapped), summary)


class MisplacedBox:
    name = "misplaced_box"
    title = "boxes beside their object, without an object, or of odd size, shape or place for their class"
    needs = "boxes; for single objects, images or --detections"
    cost = MissingBox.cost

    def run(self, context: AuditContext) -> CheckResult:
        given = box_rows(context)
        if not len(given.rows):
            return skipped(given.lack)
        told = RowFindings(self.name, context.samples, given.rows)
        told.add(outlying(given))
        judged = judged_boxes(context)
        summary: dict[str, Any] = {"detections": _NO_DETECTIONS}
        if judged is not None:
            told.add(_located(given, judged))
            seen = np.minimum(judged.scores.misplaced, judged.scores.spurious)
            told.score = np.minimum(told.score, judged.among_all(seen, len(given.rows)))
            summary = judged.facts | {"charts": [_histogram("Score of the given places", seen)]}
        return CheckResult(told.findings(), told.scores(), {"boxes": len(given.rows), **told.counts, **summary})


class DuplicateBox:
    name = "duplicate_box"
    title = "boxes drawn twice, of two classes at once, or inside another of their class where that is rare"
    needs = "boxes"
    cost = "seconds for a million boxes"

    def run(self, context: AuditContext) -> CheckResult:
        given = box_rows(context)
        if not given.drawn.any():
            return skipped("nothing is boxed; outlines are held against each other by the check mask")
        told = RowFindings(self.name, context.samples, given.rows)
        told.add(doubles(given, context.schema))
        scores = told.scores()[given.drawn]
        return CheckResult(told.findings(), scores, {"boxes": int(given.drawn.sum()), **told.counts})


def _missing(about: SampleFindings, given: BoxRows, judged: Judged, row: int) -> Finding:
    scores, detected = judged.scores, judged.detected
    chance, label = float(1 - scores.missing[row]), given.name(int(detected.label[row]))
    severity = "high" if chance >= _SURE else "medium" if chance >= _LIKELY else "low"
    x1, y1, x2, y2 = detected.corners[row].tolist()
    return about.at(
        int(detected.image[row]),
        severity,
        float(scores.missing[row]),
        f"no box where a detector sees {label} ({judged.confidence[row]:.2f}): "
        f"the given boxes confirm {scores.chance[row]:.1%} of detections like this",
        suggested=label,
        box=(x1, y1, x2, y2),
    )


def _swapped(about: SampleFindings, given: BoxRows, judged: Judged, row: int) -> Finding:
    scores, at = judged.scores, int(judged.of[row])
    own, other = float(scores.own[row]), float(scores.other[row])
    label, seen = (
        given.name(int(one)) for one in (given.boxes.label[at], judged.detected.label[scores.other_row[row]])
    )
    severity = "high" if other >= _SURE and own <= _NOT_AT_ALL else "medium" if other >= _LIKELY else "low"
    return about.at(
        int(given.boxes.image[at]),
        severity,
        float(scores.swapped[row]),
        f"labeled {label}, a detector sees {seen}: {other:.0%} against {own:.0%}",
        annotation_id=given.rows["annotation_id"].iloc[at],
        given=label,
        suggested=seen,
    )


def _located(given: BoxRows, judged: Judged) -> Iterator[Doubt]:
    """Boxes that overlap little with their own detection, and boxes where none is though such boxes have one."""
    scores, count = judged.scores, len(given.rows)
    sure = np.where(scores.own_row >= 0, scores.chance[scores.own_row], 0.0)
    beside = (scores.misplaced <= _BESIDE) & (scores.iou < _LOOSE)
    far = beside & (scores.misplaced <= _FAR_BESIDE)
    certain = far & (sure >= _SURE) & (scores.iou < MATCH)

    def seen(at: int) -> tuple[float, float, float, float]:
        row = int(np.searchsorted(judged.of, at))
        x1, y1, x2, y2 = judged.detected.corners[scores.own_row[row]].tolist()
        return x1, y1, x2, y2

    def away(at: int) -> str:
        row = int(np.searchsorted(judged.of, at))
        place = ", ".join(f"{value:.0f}" for value in seen(at))
        return (
            f"it shares {scores.iou[row]:.0%} with the detector's box, {scores.usual_iou[row]:.0%} being usual for the size; "
            f"the detector's: {place}"
        )

    def bare(at: int) -> str:
        row = int(np.searchsorted(judged.of, at))
        return (
            f"a detector sees nothing there, though it sees {scores.expected[row]:.0%} of boxes of this class and size"
        )

    unseen = scores.spurious <= 1 - _LIKELY
    for kind, which, severity, score, say in (
        ("beside its object", certain, "high", scores.misplaced, away),
        ("beside its object", far & ~certain, "medium", scores.misplaced, away),
        ("beside its object", beside & ~far, "low", scores.misplaced, away),
        ("without an object", unseen, "low", scores.spurious, bare),
    ):
        doubtful = np.zeros(count, dtype=bool)
        doubtful[judged.of[which]] = True
        place = seen if say is away else None
        yield Doubt(kind, doubtful, severity, judged.among_all(score, count), say, box=place)


def _scores(rows: pd.DataFrame, score: Floats) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": rows["sample_id"], "annotation_id": texts(rows["annotation_id"]), "score": score})


def _histogram(title: str, score: Floats) -> dict[str, Any]:
    return histogram(title, np.histogram(score, bins=20, range=(0, 1))[0].tolist(), 0, 1)
