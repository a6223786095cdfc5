"""Images that may tell who or where somebody is: faces and number plates in them, and what their files say beside them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.images.perceptual import in_threads
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.embedded import beside_pixels
from datasetops.errors import DatasetOpsError
from datasetops.models.predictor import Prediction, Predictor
from datasetops.records import Finding

NAME: Final = "personal_data"
_SURE: Final = 0.5  # score from which a detection is of severity medium
_WORDS: Final = ("face", "head", "person", "plate")  # names of a detector's classes that are meant, or parts of them
_BESIDE: Final = 0.2  # score of a file that tells place, person or device


class PersonalData:
    """Faces and plates are looked for where a detector is named: by the setting `personal_model`, or by this check's name.

    Of a general detector, the classes whose names have the word face, head, person or plate count.
    """

    name = NAME
    title = "faces, number plates, and files that say where, by whom or with whose device they were taken"
    needs = "images"
    cost = "reads every file; to look for faces decodes it, too: 1 to 2 images of 640 x 480 a second a core"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        rows = np.flatnonzero(context.at_hand)
        if not len(rows):
            return skipped("no image is at hand")
        detector = context.personal_detector() if context.personal_detector else None
        about = SampleFindings(self.name, samples)
        score = np.ones(len(samples))
        findings: list[Finding] = []
        counts: Counter[str] = Counter()

        def look(row: int) -> tuple[str, list[Prediction]] | None:
            try:
                beside = beside_pixels(context.images.read(row))
                return beside, _seen(detector, context, row) if detector else []
            except DatasetOpsError:
                return None

        looked = context.progress(in_threads(look, rows.tolist(), context.jobs), len(rows), "Looking for personal data")
        for row, found in zip(rows.tolist(), looked, strict=True):
            if found is None:
                score[row] = np.nan
                counts["unreadable"] += 1
                continue
            beside, seen = found
            if beside:
                counts.update(f"files that tell {kind}" for kind in beside.split(", "))
                findings.append(about.at(row, "medium", _BESIDE, f"its file tells more than its pixels: {beside}"))
            for thing in seen:
                counts[f"{thing.name}s"] += 1
                severity = "medium" if thing.score >= _SURE else "low"
                text = f"may be a {thing.name} (score {thing.score:.2f})"
                findings.append(about.at(row, severity, 1 - thing.score, text, box=thing.box))
            score[row] = min([1.0, *([_BESIDE] if beside else []), *(1 - thing.score for thing in seen)])
        read = context.at_hand & ~np.isnan(score)
        summary: dict[str, Any] = {"images": len(rows), **counts}
        summary["detector"] = (
            f"{detector.name} ({detector.digest[:12]})" if detector else "none; see docs/compliance.md"
        )
        return CheckResult(findings, sample_scores(samples, read, score), summary)


def _seen(detector: Predictor, context: AuditContext, row: int) -> list[Prediction]:
    (found,) = detector.predict([detector.prepare(context.images.open(row))])
    wanted = (thing for thing in found if thing.name and any(word in thing.name.lower() for word in _WORDS))
    return [thing for thing in wanted if thing.box is not None and np.isfinite(thing.score)]
