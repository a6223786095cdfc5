"""Choosing by chance, the likelier the higher the score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datasetops.active_learning.pool import Pool
from datasetops.active_learning.stochastic import STOCHASTIC, Chance, draw, log_chances

SCORES = np.array([0.1, 0.2, 0.3, 0.4])
TRIES = 1500


def pool_of(n: int, **known: Any) -> Pool:
    """Every other row may be chosen."""
    return Pool(2, np.arange(n) * 2, np.array([], np.int64), np.full(2 * n, -1), **known)


@pytest.mark.parametrize(
    ("chance", "beta", "weights"),
    [
        ("power", 1.0, SCORES),
        ("power", 2.0, SCORES**2),
        ("softmax", 5.0, np.exp(5 * SCORES)),
        ("softrank", 1.0, 1 / np.array([4, 3, 2, 1])),
        ("power", 0.0, np.ones(4)),
    ],
)
def test_the_first_drawn_has_the_stated_chances(chance: Chance, beta: float, weights: np.ndarray[Any, Any]) -> None:
    rng, pool = np.random.default_rng(1), pool_of(4)
    first = [draw(pool, SCORES, 1, rng, "{}", chance, beta).rows[0] // 2 for _ in range(TRIES)]
    shares = np.bincount(first, minlength=4) / TRIES
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=4 * np.sqrt(0.25 / TRIES))


def test_a_second_one_is_drawn_from_those_that_are_left() -> None:
    """The chance of a pair under power: w_i / 1 * w_j / (1 - w_i)."""
    rng, pool = np.random.default_rng(2), pool_of(4)
    pairs = np.array([draw(pool, SCORES, 2, rng, "{}").rows // 2 for _ in range(TRIES)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    share = ((pairs == [3, 2]).all(axis=1)).mean()
    assert share == pytest.approx(0.4 * 0.3 / 0.6, abs=4 * np.sqrt(0.16 / TRIES))


def test_what_scores_nothing_comes_last_and_still_comes() -> None:
    orders = [
        draw(pool_of(4), np.array([0, 0.5, 0, 0]), 4, np.random.default_rng(seed), "{}").rows for seed in range(9)
    ]
    assert all(order[0] == 2 and set(order) == {0, 2, 4, 6} for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_reasons_tell_score_and_rank_and_a_seed_fixes_the_draw() -> None:
    picks = [draw(pool_of(4), SCORES, 9, np.random.default_rng(3), "margin score {:.3f}") for _ in range(2)]
    assert picks[0].reasons == picks[1].reasons
    assert len(picks[0].rows) == 4
    for row, score, reason in zip(picks[0].rows, picks[0].scores, picks[0].reasons, strict=True):
        assert score == SCORES[row // 2]
        assert reason.startswith(f"margin score {score:.3f}, {4 - row // 2} of 4;")


def test_equal_scores_have_equal_chances_by_rank() -> None:
    assert len(set(log_chances([0.3, 0.3, 0.3], "softrank"))) == 1


@pytest.mark.parametrize("bad", [[-0.1, 0.5], [np.nan], [[0.5]]])
def test_scores_that_cannot_be_chances_are_refused(bad: list[Any]) -> None:
    with pytest.raises(ValueError, match="scores"):
        log_chances(bad, "power")
    with pytest.raises(ValueError, match="beta"):
        log_chances([0.5], "power", -1)
    with pytest.raises(ValueError, match="chance"):
        log_chances([0.5], "best")  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STOCHASTIC, ids=lambda strategy: strategy.name)
def test_strategies_prefer_the_unsure(strategy: Any) -> None:
    sure, torn = [0.99, 0.01], [0.5, 0.5]
    p = np.array([sure, torn] * 20, np.float32)[np.repeat(np.arange(40), 2)]
    other = p.copy()
    other[2::4] = [1.0, 0.0]
    known = {"probabilities": p, "committee": np.stack([p, other, p])}
    rows = strategy.pick(pool_of(40, **known), 10, np.random.default_rng(0)).rows
    assert (rows % 4 == 2).mean() > 0.6
