"""Few-shot labeling: on the handwritten digits of scikit-learn, and with the built-in weights on real photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from datasetops.errors import ModelError
from datasetops.preannotate.discriminant import best_temperature, discriminants, log_loss, softmax
from datasetops.preannotate.fewshot import learn

pytestmark = pytest.mark.slow

Ints = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def digits() -> tuple[npt.NDArray[np.float32], Ints]:
    """1,797 scans as square roots of 64 grey values, and the digit that each shows."""
    scans = load_digits()
    return np.sqrt(scans.data).astype(np.float32), scans.target.astype(np.int64)


def some_labels(truth: Ints, per_class: int, seed: int = 0) -> Ints:
    """The labels of a few of each class, -1 for all other items."""
    rng = np.random.default_rng(seed)
    given = np.full(len(truth), -1, dtype=np.int64)
    for number in np.unique(truth):
        rows = rng.permutation(np.flatnonzero(truth == number))[:per_class]
        given[rows] = number
    return given


def right(probabilities: Any, truth: Ints, rows: Any) -> float:
    return float((probabilities[rows].argmax(axis=1) == truth[rows]).mean())


@pytest.mark.parametrize(("per_class", "least"), [(1, 0.6), (5, 0.82), (20, 0.92)])
def test_the_rest_is_told_from_a_few(digits: Any, per_class: int, least: float) -> None:
    features, truth = digits
    given = some_labels(truth, per_class)
    learned = learn(features, given, 10)
    assert learned.probabilities.shape == (len(truth), 10)
    assert np.allclose(learned.probabilities.sum(axis=1), 1, atol=1e-5)
    assert right(learned.probabilities, truth, given < 0) > least
    again = learn(features, given, 10)
    assert np.array_equal(learned.probabilities, again.probabilities)


def test_probabilities_are_as_often_right_as_they_say(digits: Any) -> None:
    features, truth = digits
    gaps, losses = [], []
    for seed in range(3):
        given = some_labels(truth, 10, seed)
        learned = learn(features, given, 10)
        rest = given < 0
        top = learned.probabilities[rest].max(axis=1)
        gaps.append(float(top.mean()) - right(learned.probabilities, truth, rest))
        losses.append(log_loss(learned.probabilities[rest], truth[rest]) - learned.log_loss)
    assert abs(np.mean(gaps)) < 0.05
    assert abs(np.mean(losses)) < 0.2


def test_unlabeled_items_help(digits: Any) -> None:
    """The same labels and the same items to judge, with and without 1,500 others around them."""
    features, truth = digits
    judged = np.arange(len(truth)) >= 1_600
    alone, among = [], []
    for seed in range(3):
        given = some_labels(truth[~judged], 3, seed)
        all_given = np.concatenate([given, np.full(judged.sum(), -1)])
        few = (all_given >= 0) | judged
        alone.append(right(learn(features[few], all_given[few], 10).probabilities, truth[few], judged[few]))
        among.append(right(learn(features, all_given, 10).probabilities, truth, judged))
    assert np.mean(among) > np.mean(alone) + 0.02


def test_labeled_items_are_judged_without_their_own_label(digits: Any) -> None:
    features, truth = digits
    given = some_labels(truth, 10)
    wrong = np.flatnonzero(given >= 0)[::10]
    given[wrong] = (given[wrong] + 1) % 10
    found = learn(features, given, 10).probabilities[wrong]
    assert (found.argmax(axis=1) == truth[wrong]).mean() > 0.7


def test_groups_do_not_teach_their_own() -> None:
    """Each class is five pairs of near-copies; labels are random, so that only copies tell anything."""
    rng = np.random.default_rng(0)
    shots = rng.normal(size=(60, 16))
    features = np.repeat(shots, 2, axis=0) + rng.normal(size=(120, 16)) * 0.01
    labels = np.repeat(rng.integers(0, 3, 60), 2)
    groups = np.repeat(np.arange(60), 2)
    open_ = learn(features, labels, 3).log_loss
    held = learn(features, labels, 3, groups=groups).log_loss
    assert open_ < held - 0.1
    assert held > 1.0  # as good as knowing nothing: log 3 is 1.1


def test_a_class_without_labels_has_no_chance(digits: Any) -> None:
    features, truth = digits
    given = some_labels(truth, 10)
    found = learn(features, given, 11).probabilities[given < 0]
    assert found.shape == ((given < 0).sum(), 11)
    assert (found[:, 10] == 0).all()
    assert right(found, truth[given < 0], slice(None)) > 0.88


def test_unreadable_items_are_left_out(digits: Any) -> None:
    features, truth = digits
    given = some_labels(truth, 10)
    broken = np.array([np.flatnonzero(given >= 0)[0], np.flatnonzero(given < 0)[0]])
    damaged = features.copy()
    damaged[broken[0]] = np.nan
    damaged[broken[1], 3] = np.inf
    found = learn(damaged, given, 10).probabilities
    assert np.isnan(found[broken]).all()
    assert np.isfinite(np.delete(found, broken, axis=0)).all()


def test_one_label_a_class_is_not_calibrated_and_says_so(digits: Any) -> None:
    features, truth = digits
    learned = learn(features, some_labels(truth, 1), 10)
    assert np.isnan(learned.log_loss)
    assert learned.probabilities.max() < 0.99


@pytest.mark.parametrize("labels", [[-1, -1, -1, -1], [0, -1, -1, -1], [0, 0, -1, -1]])
def test_too_few_labels_are_told(labels: list[int]) -> None:
    with pytest.raises(ModelError, match="nothing to learn from"):
        learn(np.eye(4), np.array(labels), 2)


def test_small_and_odd_pools() -> None:
    assert learn(np.eye(4), np.array([0, 1, -1, -1]), 2).probabilities.shape == (4, 2)
    same = learn(np.ones((5, 3)), np.array([0, 1, 0, 1, -1]), 2).probabilities
    assert np.allclose(same.sum(axis=1), 1)
    nothing_left = learn(np.eye(4), np.array([0, 1, 0, 1]), 2).probabilities
    assert np.isfinite(nothing_left).all()


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="same length"):
        learn(np.eye(4), np.zeros(3, dtype=np.int64), 2)
    with pytest.raises(ValueError, match="same length"):
        learn(np.eye(4), np.array([0, 1, 0, 1]), 2, groups=np.zeros(2))
    with pytest.raises(ValueError, match="from -1 to 1"):
        learn(np.eye(4), np.array([0, 1, 2, -1]), 2)


@pytest.mark.parametrize(("rows", "columns"), [(200, 6), (12, 40)])
def test_the_discriminant_is_the_one_of_the_books(rows: int, columns: int) -> None:
    """With the covariance inverted as it stands, also where there are fewer rows than columns."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = (rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) + 2 * y[:, None]).astype(np.float32)
    means = np.stack([x[y == number].mean(axis=0) for number in range(3)])
    within = (x - means[y]).T @ (x - means[y]) / (rows - 3)
    inverse = np.linalg.inv((0.7 * within + 0.3 * 5.0 * np.eye(columns)).astype(np.float64))
    expected = x @ inverse @ means.T - 0.5 * np.einsum("kd,de,ke->k", means, inverse, means) + np.log(1 / 3)
    (found,) = discriminants(x, y, 4, 5.0, [0.3])
    scores = found.scores(x)
    # The fourth class has no label: it counts in the shares of the prior, and never wins.
    assert np.isneginf(scores[:, 3]).all()
    centred = scores[:, :3] - scores[:, :3].mean(axis=1, keepdims=True)
    assert centred == pytest.approx(expected - expected.mean(axis=1, keepdims=True), rel=1e-3, abs=1e-2)


def test_the_temperature_undoes_a_scale() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 4)).astype(np.float32)
    y = (softmax(scores).cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    factor, loss = best_temperature(scores * np.float32(50), y)
    assert factor == pytest.approx(1 / 50, rel=0.05)
    assert loss == pytest.approx(log_loss(softmax(scores), y), abs=1e-3)


def test_real_photos_with_the_built_in_weights(data: Path, tmp_path: Path) -> None:
    """2,000 photos of CIFAR-10: 50 clean labels a class tell what most of the others show."""
    from datasetops.models import embed_images, open_embedder

    table = pq.read_table(data / "cifar10n" / "data.parquet", columns=["image", "clean_label"]).slice(0, 2_000)
    images = [one["bytes"] if isinstance(one, dict) else one for one in table["image"].to_pylist()]
    truth = table["clean_label"].to_numpy().astype(np.int64)
    names = json.loads((data / "cifar10n" / "classes.json").read_text())
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path)
    features = embed_images(embedder, [str(row) for row in range(len(images))], lambda row: images[row])
    given = some_labels(truth, 50)
    found = learn(features, given, len(names)).probabilities
    assert right(found, truth, given < 0) >= 0.74
