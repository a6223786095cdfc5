"""Which class labels are probably wrong: confident learning on out-of-sample probabilities."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars, histogram
from datasetops.audits.labels.confident import estimate_errors, find_label_issues, self_confidence
from datasetops.audits.labels.label_probabilities import label_probabilities
from datasetops.audits.labels.multilabel import multilabel_result
from datasetops.records import Finding

_SURE = 0.05  # given-label probability below which a flag is severity high if the suggestion is as sure
_DOUBTFUL = 0.25
_LIKELIER = 0.5  # than not: the suggestion of a flag that is worth more than a low one


@dataclass(frozen=True)
class Judgement:
    """By item: `score` (N,) in [0, 1], 1 = clean; `flagged` (N,); `suggested` class (N,); `confidence` of it (N,)."""

    score: npt.NDArray[np.float64]
    flagged: npt.NDArray[np.bool_]
    suggested: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]


def judge_labels(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[Any], *, jobs: int = 1) -> Judgement:
    """Score every given label, and flag the suspect ones by cleanlab's prune-by-class rule.

    labels (N,) in [0, K); probabilities (N, K), out-of-sample. The score is the given label's probability.
    Northcutt, Jiang and Chuang, JAIR 70 (2021).
    """
    suggested = probabilities.argmax(axis=1)
    return Judgement(
        score=np.clip(self_confidence(labels, probabilities, jobs=jobs).astype(np.float64), 0.0, 1.0),
        flagged=find_label_issues(labels, probabilities, filter_by="prune_by_class", jobs=jobs) & (suggested != labels),
        suggested=suggested,
        confidence=probabilities[np.arange(len(labels)), suggested].astype(np.float64),
    )


class LabelNoise:
    name = "label_noise"
    title = "class labels that a model, not trained on them, contradicts"
    needs = "class labels; images, or --probabilities"
    cost = "one pass of the embedding model, about 200 images a second a core, kept for the next audit; then seconds"

    def run(self, context: AuditContext) -> CheckResult:
        if context.schema.multi_label:
            return multilabel_result(context)
        known = label_probabilities(context)
        if known.skipped:
            return skipped(known.skipped)
        rows, labels, probabilities, names = known.rows, known.labels, known.probabilities, list(known.names)
        summary = dict(known.summary)
        found = judge_labels(labels, probabilities, jobs=context.jobs)
        by_id = context.samples.set_index("sample_id")[["uri", "split"]]
        findings = [
            _finding(row, by_id.loc[str(row.sample_id)], names, labels[i], found, i)
            for i, row in enumerate(rows.itertuples())
            if found.flagged[i]
        ]
        confusions = Counter((names[labels[i]], names[found.suggested[i]]) for i in np.flatnonzero(found.flagged))
        summary |= {
            "items": len(labels),
            "flagged": int(found.flagged.sum()),
            "estimated_errors": float(estimate_errors(labels, probabilities)),
            "confusions": [{"given": a, "suggested": b, "count": n} for (a, b), n in confusions.most_common()],
            "charts": [
                bars(
                    "Flagged labels: given → suggested", {f"{a} → {b}": n for (a, b), n in confusions.most_common(15)}
                ),
                histogram(
                    "Probability of the given label",
                    np.histogram(found.score, bins=20, range=(0, 1))[0].tolist(),
                    0,
                    1,
                    note="Items on the left are contradicted by the model.",
                ),
            ],
        }
        scores = pd.DataFrame(
            {"sample_id": rows["sample_id"], "annotation_id": rows["annotation_id"], "score": found.score}
        )
        return CheckResult(findings, scores, summary)


def _finding(row: Any, sample: Any, names: list[str], label: int, found: Judgement, i: int) -> Finding:
    score, sure = float(found.score[i]), float(found.confidence[i])
    given, suggested = names[label], names[found.suggested[i]]
    severity = "low"
    if score <= _DOUBTFUL and sure >= _LIKELIER:
        severity = "high" if score <= _SURE and sure >= 1 - _DOUBTFUL else "medium"
    return Finding(
        check=LabelNoise.name,
        severity=severity,
        score=score,
        message=f"labeled {given}, looks like {suggested}: {sure:.0%} against {score:.0%}",
        sample_id=row.sample_id,
        uri=sample["uri"],
        annotation_id=row.annotation_id,
        split=sample["split"],
        given=given,
        suggested=suggested,
    )
