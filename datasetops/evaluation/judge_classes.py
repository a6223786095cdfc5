"""Class probabilities against the classes that people gave."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.sets.slices import half_of
from datasetops.evaluation import classification as classes_of
from datasetops.evaluation.answers import Answers
from datasetops.evaluation.calibration import calibration, cross_fitted
from datasetops.evaluation.error_kinds import CLASSIFICATION, MISSED
from datasetops.evaluation.judged import Judged, critical_targets, failures_table, named, plain_rate
from datasetops.evaluation.regions import Flags, Floats, Ints
from datasetops.evaluation.resampling import MacroF1, Metric, Ratio
from datasetops.schema import LabelSchema


def judge_one_class(
    answers: Answers, samples: pd.DataFrame, annotations: pa.Table, schema: LabelSchema, groups: Ints
) -> Judged:
    probabilities = _given(answers)
    names = schema.class_names
    sample, label = _class_labels(samples, annotations, names)
    pairs = np.unique(sample * len(names) + label)
    count = np.bincount(pairs // len(names), minlength=len(samples))
    labels = np.full(len(samples), -1, np.int64)
    labels[pairs // len(names)] = pairs % len(names)
    rows = np.flatnonzero((count == 1) & answers.answered)
    truth, probabilities = labels[rows], probabilities[rows]
    result = classes_of.classify(probabilities, truth, names)
    predicted: Ints = probabilities.argmax(axis=1).astype(np.int64)
    one_hot = np.arange(len(names))
    half = half_of(np.unique(groups[rows], return_inverse=True)[1], 0)
    scaled = cross_fitted(probabilities, truth, half) if half.any() and not half.all() else None
    measured = calibration(probabilities, truth)
    right = predicted == truth
    numbers = {"accuracy": result.accuracy} | asdict(result.means)
    numbers |= {"ece": measured.ece, "brier": measured.brier, "nll": measured.nll}
    rates = classes_of.critical_rates(
        truth[:, None] == one_hot, predicted[:, None] == one_hot, names, critical_targets(schema), groups[rows]
    )
    details = {
        "classes": [asdict(item) for item in result.classes],
        "confusion": [] if result.confusion is None else result.confusion.tolist(),
        "confusions": result.top_confusions(),
        "critical": [plain_rate(rate) for rate in rates],
        "calibration": measured.as_dict(),
        "temperature": None if scaled is None else {"temperature": scaled.temperature, "after": scaled.after.as_dict()},
        "curves": _curves(probabilities, truth[:, None] == one_hot, names),
    }
    ids = samples["sample_id"].to_numpy(object)[rows]
    things = pd.DataFrame(
        {"sample_id": ids, "truth": named(names, truth), "said": named(names, predicted), "right": right}
    )
    wrong = np.flatnonzero(~right)
    told = probabilities[wrong, predicted[wrong]]
    failures = pd.DataFrame(
        {
            "sample_id": ids[wrong],
            "error": CLASSIFICATION,
            "truth": named(names, truth[wrong]),
            "predicted": named(names, predicted[wrong]),
            "score": told,
            "note": [f"the truth got {p:.0%}" for p in probabilities[wrong, truth[wrong]].tolist()],
        }
    )
    ones = np.ones(len(rows))
    metrics: dict[str, Metric] = {
        "accuracy": Ratio(right.astype(np.float64), ones),
        "macro_f1": MacroF1.of(truth, predicted, len(names)),
    }
    left_out = {
        "without a label by people": int(((count == 0) & answers.answered).sum()),
        "with several labels where one is allowed": int(((count > 1) & answers.answered).sum()),
    }
    return Judged(
        "classification", rows, metrics, numbers, details, things, failures_table(failures), "accuracy", left_out
    )


def judge_several_classes(
    answers: Answers, samples: pd.DataFrame, annotations: pa.Table, schema: LabelSchema, groups: Ints
) -> Judged:
    probabilities = _given(answers)
    names = schema.class_names
    sample, label = _class_labels(samples, annotations, names)
    labels = np.zeros((len(samples), len(names)), bool)
    labels[sample, label] = True
    labeled = labels.any(axis=1)
    rows = np.flatnonzero(labeled & answers.answered)
    truth, probabilities = labels[rows], probabilities[rows]
    result = classes_of.classify_several(probabilities, truth, names)
    predicted = probabilities >= classes_of.HALF
    numbers = {"accuracy": result.accuracy} | asdict(result.means)
    rates = classes_of.critical_rates(truth, predicted, names, critical_targets(schema), groups[rows])
    details = {
        "classes": [asdict(item) for item in result.classes],
        "critical": [plain_rate(rate) for rate in rates],
        "curves": _curves(probabilities, truth, names),
    }
    ids = samples["sample_id"].to_numpy(object)[rows]
    item, code = np.nonzero(truth)
    things = pd.DataFrame(
        {
            "sample_id": ids[item],
            "truth": named(names, code),
            "said": named(names, np.where(predicted[item, code], code, -1)),
            "right": predicted[item, code],
        }
    )
    item, code = np.nonzero(truth != predicted)
    failures = pd.DataFrame(
        {
            "sample_id": ids[item],
            "error": np.where(truth[item, code], MISSED, CLASSIFICATION),
            "truth": named(names, np.where(truth[item, code], code, -1)),
            "predicted": named(names, np.where(truth[item, code], -1, code)),
            "score": np.where(truth[item, code], 1 - probabilities[item, code], probabilities[item, code]),
            "note": "",
        }
    )
    hits = (truth & predicted).sum(axis=1)
    metrics: dict[str, Metric] = {
        "micro_f1": Ratio(2.0 * hits, (truth.sum(axis=1) + predicted.sum(axis=1)).astype(np.float64)),
        "accuracy": Ratio((truth == predicted).all(axis=1).astype(np.float64), np.ones(len(rows))),
    }
    numbers["micro_f1"] = float(metrics["micro_f1"].values(np.ones((1, len(rows))))[0])
    left_out = {"without a label by people": int((~labeled & answers.answered).sum())}
    return Judged(
        "classification",
        rows,
        metrics,
        numbers,
        details,
        things,
        failures_table(failures),
        "mean_average_precision",
        left_out,
    )


def _class_labels(samples: pd.DataFrame, annotations: pa.Table, names: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Row number and class of each label by people."""
    chosen = annotations.filter(pc.equal(annotations["kind"], "classification"))
    sample = pd.Index(samples["sample_id"]).get_indexer(pd.Index(chosen["sample_id"].to_pylist()))
    label = pd.Index(names).get_indexer(pd.Index(chosen["label"].to_pylist(), dtype=object))
    known = (sample >= 0) & (label >= 0)
    return sample[known].astype(np.int64), label[known].astype(np.int64)


def _given(answers: Answers) -> Floats:
    if answers.probabilities is None:
        raise ValueError("answers: expected probabilities of classes")
    return answers.probabilities


def _curves(scores: Floats, truth: Flags, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: {
            "precision_recall": classes_of.precision_recall_curve(scores[:, code], truth[:, code]),
            "roc": classes_of.roc_curve(scores[:, code], truth[:, code]),
        }
        for code, name in enumerate(names)
        if truth[:, code].any()
    }
