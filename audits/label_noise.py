"""Which class labels are probably wrong: confident learning on out-of-sample probabilities."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.charts import bars, histogram
from datasetops.audits.confident import estimate_errors, find_label_issues, self_confidence
from datasetops.audits.probe import out_of_sample_probabilities
from datasetops.records import Finding

MIN_ITEMS_PER_CLASS = 2  # with fewer, an item of the class is never seen in training when it is judged
_CLASSES = 2  # with fewer there is nothing to mistake a label for
_SURE = 0.05  # given-label probability below which a flag is severity high if the suggestion is as sure
_DOUBTFUL = 0.25
_NAMED = 10  # classes that a sentence names at most


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
    needs = "one class label an image; images, or --probabilities"
    cost = "one pass of the embedding model, about 200 images a second a core, kept for the next audit; then seconds"

    def run(self, context: AuditContext) -> CheckResult:
        if context.schema.multi_label:
            return _skipped("the schema allows several labels an image")
        given = context.annotations[context.annotations["kind"] == "classification"]
        given = given[given["label"].notna()]
        rows = given[~given["sample_id"].duplicated(keep=False)]
        if not len(rows):
            return _skipped("no image has exactly one class label")
        names = list(context.schema.class_names)
        left_out = _LeftOut(len(given))
        left_out.add(len(given) - len(rows), "of images with several class labels")
        in_use = rows["label"].isin(names)
        left_out.of_classes(rows["label"][~in_use], "of classes that the schema no longer uses")
        rows = rows[in_use]
        position = pd.Series(context.samples.index, index=context.samples["sample_id"])
        at = position[rows["sample_id"]].to_numpy()
        labels = pd.Categorical(rows["label"], categories=names).codes.astype(np.int64)
        summary: dict[str, Any] = {"classes": names}
        if context.probabilities is not None:
            probabilities = context.probabilities.to_numpy()[at]
            known = ~np.isnan(probabilities).any(axis=1)
            left_out.add(int((~known).sum()), "without probabilities")
            summary["probabilities"] = "supplied"
        else:
            if len(np.unique(labels)) < _CLASSES:
                return _skipped(f"fewer than two classes are in use{left_out.because}")
            embeddings = context.embeddings()[at]
            known = np.isfinite(embeddings).all(axis=1)
            left_out.add(int((~known).sum()), "of images that cannot be read")
            groups = grouped_with_copies(context.samples).to_numpy()[at]
            probe = out_of_sample_probabilities(
                embeddings, labels, groups=groups, n_classes=len(names), seed=context.seed
            )
            probabilities = probe.probabilities
            summary |= {"probabilities": "probe", "log_loss": round(probe.log_loss, 4)}
        many = np.bincount(labels[known], minlength=len(names))[labels] >= MIN_ITEMS_PER_CLASS
        left_out.of_classes(rows["label"][known & ~many], "of classes with a single item")
        usable = known & many & ~np.isnan(probabilities).any(axis=1)
        left_out.of_classes(
            rows["label"][known & many & ~usable], "of classes that one group of images or copies holds"
        )
        if len(np.unique(labels[usable])) < _CLASSES:
            return _skipped(f"fewer than two classes can be judged{left_out.because}")
        if left_out.count:
            summary["left_out"] = left_out.sentence
        rows, labels, probabilities = rows[usable], labels[usable], np.ascontiguousarray(probabilities[usable])
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
        found = judge_labels(labels, probabilities, jobs=context.jobs)
        by_id = context.samples.set_index("sample_id")[["uri", "split"]]
        findings = [
            _finding(row, by_id.loc[row.sample_id], names, labels[i], found, i)
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


def grouped_with_copies(samples: pd.DataFrame) -> pd.Series:
    """A group for every sample: its own group, joined with those of byte-identical copies.

    Items of one group must not be split between training and judging.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(samples)
    keys = pd.concat([samples["group"].map(lambda x: f"g{x}", na_action="ignore"), samples["sha256"]])
    codes, uniques = pd.factorize(keys)
    rows = np.tile(np.arange(n), 2)[codes >= 0]
    columns = codes[codes >= 0] + n
    size = n + len(uniques)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return pd.Series(connected_components(graph, directed=False)[1][:n], index=samples.index)


class _LeftOut:
    """Labels that are not judged, and why."""

    def __init__(self, labels: int) -> None:
        self.count = 0
        self._labels = labels
        self._reasons: list[str] = []

    def add(self, count: int, reason: str) -> None:
        if count:
            self.count += count
            self._reasons.append(f"{count:,} {reason}")

    def of_classes(self, labels: pd.Series, reason: str) -> None:
        named = sorted(labels.unique())
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        self.add(len(labels), f"{reason} ({', '.join(named[:_NAMED])}{more})")

    @property
    def because(self) -> str:
        """The same behind another sentence."""
        return f": {self.sentence}" if self.count else ""

    @property
    def sentence(self) -> str:
        return f"{self.count:,} of {self._labels:,} labels were not judged: {'; '.join(self._reasons)}"


def _finding(row: Any, sample: Any, names: list[str], label: int, found: Judgement, i: int) -> Finding:
    score, sure = float(found.score[i]), float(found.confidence[i])
    given, suggested = names[label], names[found.suggested[i]]
    severity = "high" if score <= _SURE and sure >= 1 - _DOUBTFUL else "medium" if score <= _DOUBTFUL else "low"
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


def _skipped(reason: str) -> CheckResult:
    return CheckResult([], summary={"skipped": reason})
