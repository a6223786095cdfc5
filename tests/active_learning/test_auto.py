"""The strategy that changes with what is labeled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasetops.active_learning.auto import AUTO, FEW, choice
from datasetops.active_learning.learner import probe
from datasetops.active_learning.pool import Pool
from datasetops.active_learning.replays import shares_by_group
from datasetops.active_learning.simulate import Replay, simulate

K = 3


def pool(each: int, *, learned: bool = True, classes: int = K) -> Pool:
    """300 items of three classes, of which so many of each are labeled."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % K
    x = (rng.normal(size=(K, 8))[y] * 2 + rng.normal(size=(300, 8))).astype(np.float32)
    labels = np.full(300, -1)
    labels[: each * K] = y[: each * K]
    chances = probe(x, labels, classes).probabilities if learned and each else None
    return Pool(classes, np.arange(each * K, 300), np.arange(each * K), labels, x, chances)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (0, "typiclust"),
        (FEW - 1, "typiclust"),
        (FEW, "cluster_margin"),
        (50, "cluster_margin"),
    ],
)
def test_it_changes_with_the_labels_of_the_usual_class(each: int, expected: str) -> None:
    name, why = choice(pool(each))
    assert name == expected
    assert (f"{each} labels" if each else "nothing is labeled") in why


def test_neither_a_frequent_class_nor_one_that_never_turns_up_decides() -> None:
    some = pool(FEW)
    labels = some.labels.copy()
    labels[(np.arange(300) % K == 0)] = 0  # one class has a hundred
    assert choice(replace(some, labels=labels))[0] == "cluster_margin"
    assert choice(pool(FEW, classes=50))[0] == "cluster_margin"


def test_a_model_that_knows_nothing_is_not_listened_to() -> None:
    some = pool(FEW)
    lots = np.random.default_rng(1).dirichlet(np.ones(K), size=300)
    name, why = choice(replace(some, probabilities=lots))
    assert name == "typiclust"
    assert "how frequent each class is" in why
    unknown = lots.copy()
    unknown[some.labels >= 0] = np.nan  # it was never asked about these
    assert choice(replace(some, probabilities=unknown))[0] == "cluster_margin"


def test_it_makes_do_with_what_there_is() -> None:
    assert choice(pool(FEW, learned=False))[0] == "typiclust"
    assert choice(replace(pool(FEW), embeddings=None))[0] == "margin"
    blind = replace(pool(0), embeddings=None)
    assert choice(blind)[0] == "random"
    assert "no model says" in choice(blind)[1]
    picks = AUTO.pick(blind, 5, np.random.default_rng(0))
    assert len(picks.rows) == 5
    assert picks.reasons[0].startswith("random: ")


@pytest.mark.parametrize("each", [0, 2, FEW])
def test_picks_are_as_asked_and_the_same_each_time(each: int) -> None:
    some = pool(each)
    first, again = (AUTO.pick(some, 20, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert len(set(first.rows.tolist())) == len(first.reasons) == len(first.scores) == 20
    assert np.isin(first.rows, some.candidates).all()
    left = len(some.candidates)
    assert len(AUTO.pick(some, 1000, np.random.default_rng(0)).rows) == left


@pytest.mark.slow
def test_it_is_far_above_chance_where_classes_are_clusters() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(6, size=900, p=[0.5, 0.3, 0.08, 0.06, 0.04, 0.02])
    x = (rng.normal(size=(6, 10))[y] * 2 + rng.normal(size=(900, 10))).astype(np.float32)
    replay = Replay(x, y, y, 6, shares_by_group(np.full(900, -1), 0.3, 4))
    found = simulate(replay, strategies=["auto", "random"], budgets=[6, 12, 24, 48, 96, 192], seeds=4)
    gain = found.measured("auto") - found.measured("random")
    assert gain.mean() > 0.02
    assert (gain.mean(axis=0) > -0.01).all()
