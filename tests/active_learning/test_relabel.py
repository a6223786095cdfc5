"""Label something new or ask again: ActiveLab, with cleanlab as the oracle."""

from __future__ import annotations

from typing import Any

import cleanlab.internal.multiannotator_utils as oracle
import numpy as np
import pytest
from cleanlab.multiannotator import get_active_learning_scores

from datasetops.active_learning.pool import Pool, Votes
from datasetops.active_learning.relabel import ACTIVELAB, known_votes, urgency

Case = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
SEED = np.random.default_rng


def crowd(seed: int, *, n: int = 200, people: int = 8, most: int = 4, k: int = 3, skill: float = 0.8) -> Case:
    """Answers (n, people), NaN where there is none, and probabilities (2n, k); the second half has no answer."""
    rng = SEED(seed)
    truth = rng.integers(0, k, 2 * n)
    p = rng.dirichlet(np.ones(k), 2 * n) * 0.5
    p[np.arange(2 * n), truth] += 0.5
    table = np.full((n, people), np.nan)
    for row in range(n):
        who = rng.choice(people, rng.integers(1, most + 1), replace=False)
        table[row, who] = np.where(rng.random(len(who)) < skill, truth[row], rng.integers(0, k, len(who)))
    return table[:, ~np.isnan(table).all(axis=0)], p


def votes_of(table: np.ndarray[Any, Any]) -> Votes:
    item, who = np.nonzero(~np.isnan(table))
    return Votes(item, who, table[item, who].astype(np.int64))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """cleanlab 2.9.0 with one thing mended: it counts classes that are floats in the order in which they occur."""

    def count(labels: Any, num_classes: int) -> np.ndarray[Any, Any]:
        return np.bincount(np.asarray(labels, np.int64), minlength=num_classes)

    monkeypatch.setattr(oracle, "value_counts", count)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    "options", [{}, {"k": 2, "people": 4}, {"k": 5, "people": 30, "most": 6}, {"skill": 0.4}, {"most": 1}], ids=str
)
def test_scores_are_those_of_cleanlab(options: dict[str, Any]) -> None:
    for seed in range(3):
        table, p = crowd(seed, **options)
        n = len(table)
        old, new = get_active_learning_scores(table, p[:n], p[n:])
        found = urgency(votes_of(table), p, np.arange(2 * n))
        np.testing.assert_allclose(1 - found, np.concatenate([old, new]), atol=1e-12)
        some = np.array([3, 7, n + 1])
        np.testing.assert_allclose(urgency(votes_of(table), p, some), found[some], atol=1e-12)


def test_with_one_answer_an_item_or_none_scores_are_those_of_cleanlab_as_it_is() -> None:
    table, p = crowd(5, most=1)
    old, new = get_active_learning_scores(table, p[:200], p[200:])
    np.testing.assert_allclose(1 - urgency(votes_of(table), p, np.arange(400)), np.concatenate([old, new]), atol=1e-12)
    nothing = Votes(*(np.zeros(0, np.int64),) * 3)
    _, alone = get_active_learning_scores(None, None, p)
    np.testing.assert_allclose(1 - urgency(nothing, p, np.arange(400)), alone, atol=1e-12)


def test_numbers_of_annotators_and_the_order_of_answers_do_not_matter() -> None:
    table, p = crowd(6)
    votes, rows = votes_of(table), np.arange(400)
    shuffle, other = SEED(0).permutation(len(votes.item)), SEED(1).permutation(8) * 10
    mixed = Votes(votes.item[shuffle], other[votes.annotator[shuffle]], votes.label[shuffle])
    np.testing.assert_allclose(urgency(mixed, p, rows), urgency(votes, p, rows), atol=1e-12)


def test_a_contradicted_item_is_asked_again_before_a_clear_one_is_labeled() -> None:
    table, p = crowd(7, most=3)
    table[0, :] = np.nan
    table[0, :2] = [0, 1]
    p[0], p[200] = [0.5, 0.5, 0.0], [0.98, 0.01, 0.01]
    pool = Pool(3, np.array([0, 200]), np.array([], np.int64), np.full(400, -1), probabilities=p, votes=votes_of(table))
    picks = ACTIVELAB.pick(pool, 5, SEED(0))
    assert picks.rows.tolist() == [0, 200]
    assert picks.reasons[0].startswith(
        "label again: 1 of 2 answers agree, the model gives that class 50% (ActiveLab 0."
    )
    assert picks.reasons[1].startswith("label: nobody did, and the model is 98% sure (ActiveLab 0.")
    assert picks.scores[0] > picks.scores[1]


def test_labels_without_votes_are_the_answers_of_one_more_annotator() -> None:
    nothing = np.array([], np.int64)
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    bare = Pool(2, np.arange(3), nothing, np.array([1, 1, -1]), probabilities=p)
    assert [part.tolist() for part in vars(known_votes(bare)).values()] == [[0, 1], [0, 0], [1, 1]]
    assert ACTIVELAB.pick(bare, 1, SEED(0)).rows.tolist() == [0]  # its label and the model contradict each other
    told = Pool(
        2, np.arange(3), nothing, np.array([1, 1, -1]), votes=Votes(np.array([1]), np.array([4]), np.array([0]))
    )
    assert [part.tolist() for part in vars(known_votes(told)).values()] == [[1, 0], [4, 5], [0, 1]]


def test_labeled_rows_without_probabilities_are_left_out() -> None:
    table, p = crowd(8)
    p[:50] = np.nan
    rows = np.arange(200, 400)
    votes = votes_of(table[50:])
    rest = Votes(votes.item + 50, votes.annotator, votes.label)
    np.testing.assert_allclose(urgency(votes_of(table), p, rows), urgency(rest, p, rows), atol=1e-12)
    with pytest.raises(ValueError, match="probabilities"):
        urgency(votes_of(table), p, np.arange(400))


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (([0], [0], [2]), "label is a number from 0 to 1"),
        (([3], [0], [1]), "item is a number from 0 to 2"),
        (([0], [-1], [1]), "annotator is a number from 0"),
        (([0, 0], [1, 1], [1, 0]), "two answers to one item"),
        (([0, 0], [1], [1]), "different lengths"),
    ],
)
def test_votes_that_do_not_fit_are_refused(votes: tuple[list[int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        urgency(Votes(*(np.array(part) for part in votes)), np.full((3, 2), 0.5), np.arange(3))
