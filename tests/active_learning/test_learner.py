"""Learners: class probabilities of all items from the labels of a few."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from datasetops.active_learning.learner import LEARNERS, _LeftOut, features, find_learner, probe
from datasetops.audits.labels.probe import assign_folds
from datasetops.errors import ModelError, NotFoundError
from datasetops.preannotate.discriminant import out_of_fold_scores

K = 4


def blobs(n: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=n)
    centres = np.random.default_rng(99).normal(size=(K, 12))
    return (centres[y] + spread * rng.normal(size=(n, 12))).astype(np.float32), y


def some(y: np.ndarray, count: int) -> np.ndarray:
    labels = np.full(len(y), -1)
    labels[:count] = y[:count]
    return labels


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_probabilities_are_distributions_and_the_same_each_time(name: str) -> None:
    x, y = blobs(300)
    found = find_learner(name).fit_predict(x, some(y, 40), K)
    assert found.shape == (300, K)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found, find_learner(name).fit_predict(x, some(y, 40), K))
    assert (found[40:].argmax(axis=1) == y[40:]).mean() > 0.8


def test_the_probe_is_as_good_as_a_tuned_logistic_regression() -> None:
    ours, theirs = [], []
    for seed in range(5):
        x, y = blobs(1200, seed, spread=2.0)
        found = probe(x, some(y, 200), K).probabilities
        ours.append((found[200:].argmax(axis=1) == y[200:]).mean())
        tried = [LogisticRegression(C=c, max_iter=500).fit(x[:200], y[:200]) for c in (0.01, 0.1, 1.0)]
        theirs.append(max(model.score(x[200:], y[200:]) for model in tried))
    assert np.mean(ours) > np.mean(theirs) - 0.01


@pytest.mark.parametrize("count", [9, 60])  # fewer labels than columns, and more
def test_what_folds_would_say_is_exact(count: int) -> None:
    x, y = blobs(count)
    fold = assign_folds(y, None, 5, 0)
    left_out = _LeftOut(x.astype(np.float64), y, fold, K, 1.0)
    for shrinkage in (0.1, 0.9):
        expected = out_of_fold_scores(x, y, fold, K, 1.0, [shrinkage])[0]
        np.testing.assert_allclose(left_out.scores(shrinkage, np.unique(fold)), expected, rtol=1e-3, atol=1e-2)


def test_labeled_items_are_judged_without_their_own_label_and_their_groups() -> None:
    x, y = blobs(200)
    wrong = y.copy()
    wrong[:20] = (y[:20] + 1) % K  # a tenth is labeled wrongly, and the learner is not to repeat it
    found = probe(x, wrong, K).probabilities
    assert (found[:20].argmax(axis=1) == y[:20]).mean() > 0.8
    twice, labels = np.repeat(x, 3, axis=0), np.repeat(wrong, 3)
    alone = probe(twice, labels, K).probabilities[:60]
    grouped = probe(twice, labels, K, groups=np.repeat(np.arange(200), 3)).probabilities[:60]
    right = np.repeat(y[:20], 3)
    assert (grouped.argmax(axis=1) == right).mean() > (alone.argmax(axis=1) == right).mean()
    nobody = np.full(600, -1)
    np.testing.assert_array_equal(probe(twice, labels, K, groups=nobody).probabilities[:60], alone)


def test_a_class_without_labels_has_no_probability() -> None:
    x, y = blobs(300)
    labels = np.where(y == 2, -1, some(y, 60))
    found = probe(x, labels, K).probabilities
    assert (found[:, 2] == 0).all()
    assert np.isfinite(found).all()


def test_one_label_a_class_is_enough_to_begin() -> None:
    x, y = blobs(100, spread=0.3)
    first = np.array([np.flatnonzero(y == one)[0] for one in range(K)])
    labels = np.full(100, -1)
    labels[first] = y[first]
    learned = probe(x, labels, K)
    assert np.isnan(learned.log_loss)
    rest = np.setdiff1d(np.arange(100), first)
    assert (learned.probabilities[rest].argmax(axis=1) == y[rest]).mean() > 0.9
    assert np.isfinite(learned.probabilities).all()


def test_probabilities_are_calibrated() -> None:
    x, y = blobs(3000, spread=2.5)
    learned = probe(x, some(y, 300), K)
    held = learned.probabilities[300:]
    loss = -np.log(held[np.arange(len(held)), y[300:]]).mean()
    assert learned.log_loss == pytest.approx(loss, abs=0.15)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_items_without_features_are_left_out(name: str) -> None:
    x, y = blobs(200)
    x[[3, 150]] = np.nan
    found = find_learner(name).fit_predict(x, some(y, 50), K)
    assert np.isnan(found[[3, 150]]).all()
    assert np.isfinite(np.delete(found, [3, 150], axis=0)).all()


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_single_class_is_too_little(name: str) -> None:
    x, y = blobs(50)
    with pytest.raises(ModelError, match="nothing to learn from"):
        find_learner(name).fit_predict(x, np.where(y == 1, 1, -1), K)


def test_wrong_arguments_are_told() -> None:
    x, y = blobs(20)
    with pytest.raises(ValueError, match="same length"):
        probe(x, y[:10], K)
    with pytest.raises(ValueError, match="from -1 to 1"):
        probe(x, y, 2)
    with pytest.raises(NotFoundError, match="no learner 'prob'"):
        find_learner("prob")


def test_features_have_one_length_and_keep_what_is_missing() -> None:
    x, _ = blobs(60)
    x[7] = np.nan
    found = features(x)
    assert np.isnan(found[7]).all()
    np.testing.assert_allclose(np.linalg.norm(np.delete(found, 7, axis=0), axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found, features(x))
