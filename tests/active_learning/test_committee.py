"""Disagreement of several models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasetops.active_learning.committee import COMMITTEE, bald, consensus_entropy, disagreement, vote_entropy
from datasetops.active_learning.pool import Pool

SCORES = (bald, consensus_entropy, vote_entropy, disagreement)
A, B, C, EVEN = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3]


@st.composite
def committees(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(2, 5)))
    raw = np.random.default_rng(draw(st.integers(0, 10_000))).dirichlet(np.full(shape[2], 0.5), shape[:2])
    p: np.ndarray[Any, Any] = np.maximum(raw, 1e-9) / np.maximum(raw, 1e-9).sum(axis=2, keepdims=True)
    return p


def test_sure_members_who_contradict_each_other_score_highest() -> None:
    """Items: all agree; each says another class; all are torn; two against one."""
    committee = np.array([[A, A, EVEN, A], [A, B, EVEN, A], [A, C, EVEN, B]])
    two_to_one = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)
    np.testing.assert_allclose(bald(committee), [0, 1, 0, two_to_one], atol=1e-12)
    np.testing.assert_allclose(consensus_entropy(committee), [0, 1, 1, two_to_one], atol=1e-12)
    np.testing.assert_allclose(vote_entropy(committee), [0, 1, 0, two_to_one], atol=1e-12)
    np.testing.assert_allclose(disagreement(committee), [0, 1, 0, 0.5], atol=1e-12)


@given(committees())
def test_bald_is_the_mean_divergence_from_the_consensus(committee: np.ndarray[Any, Any]) -> None:
    mean = committee.mean(axis=0)
    divergence = (committee * np.log(committee / mean)).sum(axis=2).mean(axis=0)
    most = np.log(min(committee.shape[0], committee.shape[2]))
    np.testing.assert_allclose(bald(committee), divergence / most, atol=1e-9)


@given(committees(), st.randoms(use_true_random=False))
def test_the_order_of_members_and_classes_does_not_matter(committee: np.ndarray[Any, Any], random: Any) -> None:
    members, classes = list(range(committee.shape[0])), list(range(committee.shape[2]))
    random.shuffle(members)
    random.shuffle(classes)
    for score in SCORES:
        found = score(committee)
        assert ((found >= 0) & (found <= 1)).all()
        np.testing.assert_allclose(score(committee[members][:, :, classes]), found, atol=1e-9)


@given(committees())
def test_members_who_are_all_alike_disagree_in_nothing(committee: np.ndarray[Any, Any]) -> None:
    alike = np.repeat(committee[:1], len(committee), axis=0)
    for score in (bald, vote_entropy, disagreement):
        np.testing.assert_allclose(score(alike), 0, atol=1e-9)


def test_what_is_no_committee_is_refused() -> None:
    with pytest.raises(ValueError, match="two members"):
        bald([[A, B]])
    with pytest.raises(ValueError, match=r"committee: member 1, probabilities: row 0 is not a distribution"):
        vote_entropy([[A], [[0.5, 0.6, 0.0]]])
    with pytest.raises(ValueError, match="member 0"):
        consensus_entropy([[[np.nan, 0.5, 0.5]], [A]])


@pytest.mark.parametrize("strategy", COMMITTEE, ids=lambda strategy: strategy.name)
def test_strategies_take_the_contested_candidates_only(strategy: Any) -> None:
    committee = np.array([[A, A, A, A], [A, B, A, B], [A, C, A, A]])
    pool = Pool(3, np.array([0, 2, 3]), np.array([1]), np.full(4, -1), committee=committee)
    picks = strategy.pick(pool, 2, np.random.default_rng(0))
    assert picks.rows[0] == 3
    assert len(picks.rows) == len(set(picks.rows.tolist())) == 2
    assert f"{picks.scores[0]:.3f}" in picks.reasons[0]
    with pytest.raises(ValueError, match="missing"):
        strategy.pick(Pool(3, np.array([0]), np.array([]), np.array([-1])), 1, np.random.default_rng(0))
