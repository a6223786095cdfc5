from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from datasetops.audits.sampling.bounds import clopper_pearson
from datasetops.evaluation.classification import (
    classify,
    classify_several,
    critical_rates,
    precision_recall_curve,
    roc_curve,
)
from datasetops.evaluation.judged import plain_rate, verdict_of
from datasetops.schema.model import Critical

NAMES = ("ant", "bee", "cat", "dog")


def items(seed: int, n: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 1, n)  # the last class has no example
    logits = rng.normal(size=(n, classes)) + 1.5 * (truth[:, None] == np.arange(classes))
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), truth


@given(st.integers(0, 10_000))
@settings(max_examples=6)
def test_numbers_are_those_of_scikit_learn(seed: int) -> None:
    probabilities, truth = items(seed)
    predicted = probabilities.argmax(axis=1)
    found = classify(probabilities, truth, NAMES)
    there = np.unique(truth)
    assert found.accuracy == sk.accuracy_score(truth, predicted)
    assert np.array_equal(found.confusion, sk.confusion_matrix(truth, predicted, labels=range(4)))
    precision, recall, f1, count = sk.precision_recall_fscore_support(truth, predicted, labels=there, zero_division=0)
    for place, code in enumerate(there.tolist()):
        one = found.classes[code]
        assert (one.examples, one.recall, one.f1) == (count[place], recall[place], pytest.approx(f1[place]))
        assert np.nan_to_num(one.precision) == precision[place]
        assert one.average_precision == sk.average_precision_score(truth == code, probabilities[:, code])
        assert one.roc_area == sk.roc_auc_score(truth == code, probabilities[:, code])
    assert found.means.macro_f1 == pytest.approx(f1.mean())
    assert found.means.weighted_precision == pytest.approx(np.average(precision, weights=count))


def test_a_class_without_examples_counts_in_no_mean() -> None:
    probabilities, truth = items(0)
    last = classify(probabilities, truth, NAMES).classes[3]
    assert last.examples == 0
    assert math.isnan(last.recall)
    assert math.isnan(last.average_precision)
    nothing = classify(np.zeros((0, 4)), np.zeros(0, np.int64), NAMES)
    assert math.isnan(nothing.accuracy)
    assert math.isnan(nothing.means.macro_f1)


def test_top_confusions_are_counted_and_ordered() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    said = np.array([1, 1, 0, 1, 2, 2])
    found = classify(np.eye(3)[said], truth, NAMES[:3]).top_confusions()
    assert [(one["truth"], one["predicted"], one["count"]) for one in found] == [("ant", "bee", 2), ("bee", "cat", 1)]
    assert found[0]["share"] == pytest.approx(2 / 3)


def test_several_classes_an_item() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((300, 4)) < 0.3
    scores = np.clip(0.5 * truth + 0.6 * rng.random((300, 4)), 0, 1)
    found = classify_several(scores, truth, NAMES)
    assert found.confusion is None
    assert found.top_confusions() == []
    assert found.means.mean_average_precision == pytest.approx(
        sk.average_precision_score(truth, scores, average="macro")
    )
    assert found.means.macro_f1 == pytest.approx(sk.f1_score(truth, scores >= 0.5, average="macro"))
    assert found.accuracy == sk.accuracy_score(truth, scores >= 0.5)


def test_curves_run_from_end_to_end() -> None:
    probabilities, truth = items(3, n=2_000)
    points = roc_curve(probabilities[:, 0], truth == 0)
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert len(points) <= 200
    curve = precision_recall_curve(probabilities[:, 0], truth == 0)
    assert [recall for recall, _ in curve] == sorted(recall for recall, _ in curve)
    assert curve[-1][0] == 1.0
    assert roc_curve(probabilities[:, 3], truth == 3) == []
    assert precision_recall_curve(probabilities[:, 3], truth == 3) == []


@pytest.mark.parametrize(
    ("misses", "verdict", "told"),
    [
        (0, "met", "met"),
        (3, "open", "open; at this rate about 243 more independent items would show it to be met"),
        (6, "open", "open; at this rate no number of items would show it to be met"),
        (30, "missed", "missed"),
    ],
)
def test_critical_classes_are_held_against_their_targets(misses: int, verdict: str, told: str) -> None:
    truth = np.zeros((100, 2), bool)
    truth[:, 0] = True
    predicted = truth.copy()
    predicted[:misses, 0] = False
    (rate,) = critical_rates(truth, predicted, ("ant", "bee"), {"ant": Critical(max_fnr=0.05)}, np.arange(100))
    assert (rate.kind, rate.rate.right, rate.rate.count, rate.verdict) == ("fnr", misses, 100, verdict)
    assert verdict_of(plain_rate(rate)) == told
    if verdict == "open" and rate.more:
        count = 100 + rate.more
        _, high = clopper_pearson(round(0.03 * count), count, 0.95)
        assert high == pytest.approx(0.05, abs=0.002)


def test_without_an_error_so_far_as_many_more_do_as_the_rule_of_three_says() -> None:
    truth = np.ones((20, 1), bool)
    (rate,) = critical_rates(truth, truth, ("ant",), {"ant": Critical(max_fnr=0.05)}, np.arange(20))
    assert rate.more == 59 - 20


def test_copies_of_one_item_prove_little() -> None:
    truth = np.ones((100, 1), bool)
    (rate,) = critical_rates(truth, truth, ("ant",), {"ant": Critical(max_fnr=0.05)}, np.zeros(100, np.int64))
    assert rate.verdict == "open"
    (rate,) = critical_rates(truth, truth, ("ant",), {"ant": Critical(max_fpr=0.05)}, np.arange(100))
    assert rate.verdict == "no items"
