from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from datasetops.audits.sampling.bounds import clopper_pearson
from datasetops.audits.sets.coverage import Coded
from datasetops.evaluation.resampling import MacroF1, Ratio, draws, estimate
from datasetops.evaluation.slices import FEWEST, by_slice, difference, differences_by_slice, slice_values
from datasetops.evaluation.texts import text_errors
from datasetops.records import SAMPLES
from datasetops.schema import LabelSchema


def accuracy(right: np.ndarray) -> Ratio:
    return Ratio(right.astype(np.float64), np.ones(len(right)))


@given(st.integers(0, 10_000))
@settings(max_examples=6)
def test_macro_f1_of_weighted_items_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    weights = rng.integers(0, 3, 60).astype(np.float64)
    there = np.unique(truth[weights > 0])
    expected = f1_score(truth, predicted, labels=there, average="macro", sample_weight=weights, zero_division=0)
    metric = MacroF1.of(truth, predicted, 4)
    assert metric.values(weights[None])[0] == pytest.approx(expected)
    groups = rng.integers(-1, 5, 60)
    inside = (groups >= 0).astype(np.float64)
    assert metric.grouped(groups, 5).values(np.ones((1, 5)))[0] == pytest.approx(metric.values(inside[None])[0])


def test_interval_of_a_share_is_that_of_the_binomial() -> None:
    right = np.arange(2_000) % 5 != 0
    found = estimate(accuracy(right), np.arange(2_000), seed=1)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2_000)
    assert found.value == pytest.approx(0.8)
    assert (found.low, found.high) == (pytest.approx(0.8 - half, abs=0.003), pytest.approx(0.8 + half, abs=0.003))


def test_groups_make_intervals_as_wide_as_they_are() -> None:
    right = np.repeat(np.arange(50) % 2 == 0, 40)
    alone = estimate(accuracy(right), np.arange(2_000))
    grouped = estimate(accuracy(right), np.repeat(np.arange(50), 40))
    assert (grouped.high - grouped.low) > 5 * (alone.high - alone.low)
    assert math.isnan(estimate(accuracy(right), np.zeros(2_000, np.int64)).low)


def test_draws_are_the_same_for_a_seed_and_as_many_as_there_are_groups() -> None:
    one, other = (np.concatenate(list(draws(30, 50, 7))) for _ in range(2))
    assert np.array_equal(one, other)
    assert one.shape == (50, 30)
    assert (one.sum(axis=1) == 30).all()


def test_worst_slices_first_and_small_ones_last() -> None:
    light = np.repeat([0, 1, 2], [400, 100, 4])  # 90 %, 60 % and 0 % right
    right = np.concatenate([np.arange(400) % 10 != 0, np.arange(100) % 10 < 6, np.zeros(4, bool)])
    parts = {"light": Coded(light, ("light = day", "light = night", "light = dusk"))}
    found = by_slice(accuracy(right), parts, np.arange(504))
    assert [one.name for one in found] == ["light = night", "light = day", "light = dusk"]
    assert found[0].value == pytest.approx(0.6)
    assert found[0].value < found[0].shrunk < 0.85
    assert found[0].low < 0.6 < found[0].high < 0.9
    assert (found[2].small, found[2].items) == (True, 4)
    assert math.isnan(found[2].low)
    errors = by_slice(accuracy(~right), parts, np.arange(504), larger_is_better=False)
    assert [one.name for one in errors] == ["light = night", "light = day", "light = dusk"]


def test_a_dozen_unlucky_items_do_not_stand_before_a_hundred_bad_ones() -> None:
    codes = np.repeat([0, 1, 2], [1_000, 300, 12])
    right = np.concatenate([np.arange(1_000) % 20 != 0, np.arange(300) % 2 == 0, np.arange(12) % 12 < 5])
    parts = {"k": Coded(codes, ("k = a", "k = b", "k = c"))}
    found = by_slice(accuracy(right), parts, np.arange(1_312))
    assert found[0].name == "k = b"
    assert found[1].value < found[0].value
    assert found[1].groups >= FEWEST


def test_paired_differences_are_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(1_000)
    first, second = hard > 0.3, hard > 0.33
    found = difference(accuracy(first), accuracy(second), np.arange(1_000))
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.worse
    assert found.sure
    assert found.high - found.low < 0.03
    same = difference(accuracy(first), accuracy(first), np.arange(1_000))
    assert (same.difference, same.low, same.high, same.worse, same.sure) == (0.0, 0.0, 0.0, False, False)


def test_every_slice_that_loses_a_point_is_named() -> None:
    codes = np.repeat([0, 1], 500)
    first = np.arange(1_000) % 10 != 0
    second = first.copy()
    second[500:510] = False  # loses nine of five hundred there
    second[first.argmin()] = True
    parts = {"k": Coded(codes, ("k = a", "k = b"))}
    found = differences_by_slice(accuracy(first), accuracy(second), parts, np.arange(1_000))
    assert [(one.name, one.worse) for one in found] == [("k = b", True), ("k = a", False)]
    assert found[0].difference == pytest.approx(-9 / 500)
    cheaper = differences_by_slice(accuracy(~first), accuracy(~second), parts, np.arange(1_000), larger_is_better=False)
    assert [one.name for one in cheaper if one.worse] == ["k = b"]


def test_text_error_rates() -> None:
    errors = text_errors(["kitten", "a big cat", "", "same"], ["sitting", "a cat", "ab", "same"])
    assert errors.edits.tolist() == [3, 4, 2, 0]
    assert errors.word_edits.tolist() == [1, 1, 1, 0]
    ones = np.ones((1, 4))
    assert errors.cer.values(ones)[0] == pytest.approx(9 / (7 + 5 + 2 + 4))
    assert errors.wer.values(ones)[0] == pytest.approx(3 / 5)


def test_a_share_without_an_exception_is_no_certainty() -> None:
    right = Ratio(np.ones(150), np.ones(150))
    found = estimate(right, np.arange(150))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(clopper_pearson(150, 150, 0.975)[0], abs=1e-9)
    wrong = estimate(Ratio(np.zeros(150), np.ones(150)), np.repeat(np.arange(30), 5))
    assert wrong.low == 0.0
    assert wrong.high == pytest.approx(clopper_pearson(0, 30, 0.975)[1], abs=1e-9)


def test_a_name_of_its_own_for_each_sample_makes_no_slice() -> None:
    told = [{"image_id": n % 9, "camera": n, "serial": f"a{n}", "light": ["day", "night"][n % 2]} for n in range(18)]
    samples = pd.DataFrame({"metadata": [json.dumps(values) for values in told]}).reindex(columns=SAMPLES.names)
    schema = LabelSchema.model_validate(
        {"name": "x", "version": 1, "tasks": [{"kind": "classification"}], "classes": [{"id": 0, "name": "a"}]}
    )
    assert set(slice_values(samples, schema)) == {"light"}
