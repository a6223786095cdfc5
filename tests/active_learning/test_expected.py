"""Expected corrections, learned from past rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasetops.active_learning.expected import EXPECTED_GAIN, History, expected_gain, learn_gain
from datasetops.active_learning.pool import Pool


def history(n: int, seed: int = 0) -> History:
    """Picks whose labels contradict the model with the chance score ** 2."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return History(scores, rng.random(n) < scores**2)


def test_rates_are_found_again_and_rise() -> None:
    gain = learn_gain(history(20_000))
    wanted = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(gain(wanted), wanted**2, atol=0.06)
    assert (np.diff(gain(np.linspace(0, 1, 101))) >= 0).all()
    assert gain.overall == pytest.approx(1 / 3, abs=0.02)


def test_few_picks_say_little() -> None:
    """By hand: a part has 20 picks, and 10 more at the rate of all."""
    few = History(np.array([0.1] * 20 + [0.9] * 20), np.array([False] * 20 + [True] * 20))
    np.testing.assert_allclose(learn_gain(few)([0.0, 0.1, 0.5, 0.9, 1.0]), [5 / 30, 5 / 30, 0.5, 25 / 30, 25 / 30])
    one = learn_gain(History(np.array([0.5]), np.array([True])))
    np.testing.assert_allclose([one.overall, *one([0.0, 1.0])], 1.0)


def test_where_high_scores_bought_less_all_are_expected_alike_and_go_by_score() -> None:
    upside_down = History(np.linspace(0, 1, 200), np.arange(200) < 100)
    np.testing.assert_allclose(learn_gain(upside_down)([0.0, 0.5, 1.0]), 0.5)
    found = expected_gain(upside_down, [0.2, 0.9, 0.4])
    np.testing.assert_allclose(found, 0.5, atol=1e-5)
    assert found.argsort().tolist() == [0, 2, 1]


def test_what_takes_long_is_worth_less() -> None:
    past = history(5_000)
    assert expected_gain(past, [0.8, 0.8], minutes=[1.0, 4.0]) == pytest.approx([1.0, 0.25], abs=1e-5)
    slow = History(past.scores, past.bought, np.where(past.scores > 0.5, 10.0, 0.5))
    assert expected_gain(past, [0.4, 0.9]).argmax() == 1
    assert expected_gain(slow, [0.4, 0.9]).argmax() == 0


@given(st.integers(1, 300), st.integers(0, 1000))
def test_expectations_stay_within_bounds_and_never_fall_with_the_score(n: int, seed: int) -> None:
    found = expected_gain(history(n, seed), np.linspace(0, 1, 21))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


def test_what_cannot_be_is_refused() -> None:
    scores, bought = np.array([0.5]), np.array([True])
    with pytest.raises(ValueError, match="scores"):
        History(np.array([1.5]), bought)
    with pytest.raises(ValueError, match="bought"):
        History(scores, np.array([1.0]))
    with pytest.raises(ValueError, match="minutes"):
        History(scores, bought, np.array([0.0]))
    with pytest.raises(ValueError, match="at least one past pick"):
        learn_gain(History(np.array([]), np.array([], bool)))
    with pytest.raises(ValueError, match="minutes"):
        expected_gain(History(scores, bought), [0.5], minutes=[-1.0])


def test_the_strategy_takes_the_highest_candidates() -> None:
    uncertainty = np.array([0.9, 0.1, np.nan, 0.5])
    pool = Pool(2, np.array([1, 3]), np.array([]), np.full(4, -1), uncertainty=uncertainty)
    picks = EXPECTED_GAIN.pick(pool, 1, np.random.default_rng(0))
    assert (picks.rows.tolist(), picks.reasons) == ([3], ("expected gain 0.500, by past rounds",))
    with pytest.raises(ValueError, match="uncertainty"):
        EXPECTED_GAIN.pick(replace(pool, candidates=np.array([2])), 1, np.random.default_rng(0))
