"""Boxes of another class than their cut-outs look like, where there are no detections to ask."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.boxes.crops import crop_probabilities
from datasetops.audits.boxes.rows import BoxRows
from datasetops.audits.charts import bars, histogram
from datasetops.audits.labels.label_noise import judge_labels
from datasetops.audits.samplewise import SampleFindings, texts

_CHECK: Final = "swapped_box"
_SURE: Final = 0.98  # probability of another class, and at most the rest of the given one
_LIKELY: Final = 0.75
_MORE_LIKELY: Final = 0.5  # than not: where no class is, a model knows too little to speak


def classes_by_crops(context: AuditContext, given: BoxRows) -> CheckResult:
    """Confident learning on out-of-sample probabilities of each box's cut-out; its score is that of the given class."""
    frame = crop_probabilities(context)
    if frame is None:
        return skipped(f"nothing to compare: {context.memo.get('crops', 'no images')}")
    names = frame.columns.tolist()
    probabilities = frame.to_numpy(dtype=np.float64)
    known = np.isfinite(probabilities).all(axis=1)
    at = np.flatnonzero(given.rows["annotation_id"].isin(frame.index).to_numpy())[known]
    probabilities = probabilities[known]
    labels = given.boxes.label[at]
    if len(np.unique(labels)) < 2:
        return skipped("fewer than two classes can be judged")
    found = judge_labels(labels, probabilities / probabilities.sum(axis=1, keepdims=True), jobs=context.jobs)
    about, ids = SampleFindings(_CHECK, context.samples), texts(given.rows["annotation_id"])
    findings = []
    for row in np.flatnonzero(found.flagged & (found.confidence >= _MORE_LIKELY)).tolist():
        own, other = float(found.score[row]), float(found.confidence[row])
        sure = other >= _SURE and own <= 1 - _SURE
        label, seen = names[labels[row]], names[found.suggested[row]]
        findings.append(
            about.at(
                int(given.boxes.image[at[row]]),
                "high" if sure else "medium" if other >= _LIKELY else "low",
                own,
                f"labeled {label}, what is in the box looks like {seen}: {other:.0%} against {own:.0%}",
                annotation_id=ids[at[row]],
                given=label,
                suggested=seen,
            )
        )
    pairs = Counter((finding.given, finding.suggested) for finding in findings)
    summary: dict[str, Any] = {
        "boxes": len(at),
        "flagged": len(findings),
        "probabilities": "probe of what is in the boxes",
        "confusions": [{"given": a, "suggested": b, "count": n} for (a, b), n in pairs.most_common()],
        "charts": [
            bars("Flagged boxes: given → suggested", {f"{a} → {b}": n for (a, b), n in pairs.most_common(15)}),
            histogram(
                "Probability of the given class", np.histogram(found.score, bins=20, range=(0, 1))[0].tolist(), 0, 1
            ),
        ],
    }
    rows = given.rows.iloc[at]
    scores = rows[["sample_id"]].assign(annotation_id=ids[at], score=found.score).reset_index(drop=True)
    return CheckResult(findings, scores, summary)
