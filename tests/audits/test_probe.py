"""The probe against scikit-learn's discriminant and kernel ridge, and for what it must never do: see an item's label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from datasetops.audits.labels import probe
from datasetops.audits.labels.probe import assign_folds, out_of_sample_probabilities, principal_components

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def blobs(n: int, k: int, d: int = 12, spread: float = 1.0, seed: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return (rng.normal(size=(k, d))[y] * 2 + spread * rng.normal(size=(n, d))).astype(np.float32), y


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting, no temperature, and folds that do not depend on the labels: nothing is left to be chosen by them."""
    monkeypatch.setattr(probe, "_SHRINKAGES", (0.1,))
    monkeypatch.setattr(probe, "_RIDGES", (1.0,))
    monkeypatch.setattr(probe, "_tempered", lambda scores, y: (1.0, 0.0))
    folds = assign_folds
    monkeypatch.setattr(probe, "assign_folds", lambda y, groups, n, seed: folds(np.zeros_like(y), groups, n, seed))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("group_size", [1, 3])
def test_the_labels_of_an_items_group_have_no_part_in_its_row(group_size: int) -> None:
    x, y = blobs(300, 4)
    groups = np.random.default_rng(1).permutation(300) // group_size
    before = out_of_sample_probabilities(x, y, groups=groups, n_classes=4, seed=3)
    for group in (0, 17, 50):
        changed = y.copy()
        changed[groups == group] = (changed[groups == group] + 1) % 4
        after = out_of_sample_probabilities(x, changed, groups=groups, n_classes=4, seed=3)
        own = groups == group
        elsewhere = before.folds != before.folds[own][0]
        np.testing.assert_allclose(after.probabilities[own], before.probabilities[own], atol=2e-5)
        moved = np.abs(after.probabilities - before.probabilities).max(axis=1)
        assert (moved[elsewhere] > 1e-4).mean() > 0.5, "the change must be seen where it may be"


@pytest.mark.parametrize("grouped", [True, False])
def test_labels_drawn_at_random_cannot_be_told_unless_copies_are_torn_apart(grouped: bool) -> None:
    """Every item stands there twice, with the same random label: only a probe that sees the copy's label knows it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 40)).astype(np.float32), rng.integers(0, 4, 400)
    twice_x, twice_y = np.concatenate([x, x]), np.concatenate([y, y])
    groups = np.tile(np.arange(400), 2) if grouped else None
    found = out_of_sample_probabilities(twice_x, twice_y, groups=groups, n_classes=4)
    own = found.probabilities[np.arange(800), twice_y].mean()
    assert own < 0.27 if grouped else own > 0.5
    assert found.log_loss > np.log(4) - 0.01 if grouped else found.log_loss < 1


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("k", [2, 5])
def test_discriminant_is_scikit_learns(k: int) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    z, y = blobs(200, k, d=8, spread=3)
    z -= z.mean(axis=0)
    fold = np.arange(200) % 7
    posteriors = probe._discriminant(z, y, fold, {})
    for number in range(7):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(z[fold != number], y[fold != number])
        np.testing.assert_allclose(posteriors[fold == number], model.predict_proba(z[fold == number]), atol=1e-4)


@pytest.mark.usefixtures("settled")
def test_kernel_ridge_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every item a landmark nothing is approximated but for a little noise on the landmarks' own kernel."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
    from sklearn.preprocessing import KernelCenterer

    monkeypatch.setattr(probe, "_softmax", lambda scores: scores)
    z, y = blobs(150, 3, spread=3)
    fold, one_hot = np.arange(150) % 5, np.eye(3)[y]
    scores = probe._kernel_ridge(z, y, fold, 150, 0, {})
    kernel = rbf_kernel(z, gamma=1 / np.median(euclidean_distances(z, squared=True)))
    for number in range(5):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        centre, mean = KernelCenterer().fit(kernel[np.ix_(train, train)]), one_hot[train].mean(axis=0)
        model = KernelRidge(alpha=1.0, kernel="precomputed")
        model.fit(centre.transform(kernel[np.ix_(train, train)]), one_hot[train] - mean)
        expected = model.predict(centre.transform(kernel[np.ix_(test, train)])) + mean
        np.testing.assert_allclose(scores[test], expected, atol=2e-3)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (40, 90), (400, 300)])
def test_components_are_scikit_learns(n: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last case is large enough, for so few components, to be approximated."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(probe, "_COMPONENTS", 15)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, 10)) @ rng.normal(size=(10, d)) * 3 + rng.normal(size=(n, d))).astype(np.float32)
    x[:, 3] = 7
    ours = principal_components(x, 0)
    reference = PCA(min(15, n, d), svd_solver="full").fit_transform(
        StandardScaler().fit_transform(x.astype(np.float64))
    )
    assert ours.shape == reference.shape
    np.testing.assert_allclose(np.abs(ours[:, :10]), np.abs(reference[:, :10]), atol=0.02 * np.abs(reference).max())
    np.testing.assert_allclose(ours.var(axis=0), reference.var(axis=0), rtol=0.1)


@settings(max_examples=60)
@given(
    groups=st.none() | st.lists(st.integers(0, 12), min_size=1, max_size=60),
    n=st.integers(1, 60),
    folds=st.integers(2, 12),
    seed=st.integers(0, 3),
)
def test_folds_keep_groups_whole_and_are_of_nearly_equal_size(
    groups: list[int] | None, n: int, folds: int, seed: int
) -> None:
    codes = None if groups is None else np.array(groups)
    y = np.random.default_rng(seed).integers(0, 3, n if codes is None else len(codes))
    fold = assign_folds(y, codes, folds, seed)
    sizes = np.bincount(fold)
    several = np.arange(len(y)) if codes is None else codes
    assert len(sizes) == min(folds, len(np.unique(several)))
    assert (sizes > 0).all()
    for group in np.unique(several):
        assert len(set(fold[several == group])) == 1
    if codes is None:
        assert sizes.max() - sizes.min() <= 1
        for label in np.unique(y):
            shares = np.bincount(fold[y == label], minlength=len(sizes))
            assert shares.max() - shares.min() <= 1


ODD: dict[str, tuple[Floats, Ints, int]] = {
    "two classes": (*blobs(100, 2), 2),
    "a class for each of few": (*blobs(240, 120, d=60), 130),
    "fewer items than folds": (*blobs(6, 2), 2),
    "more columns than items": (*blobs(50, 3, d=400), 3),
    "constant": (np.ones((30, 5), np.float32), blobs(30, 3)[1], 3),
    "copies": (np.repeat(blobs(6, 3)[0], 10, axis=0), np.repeat(blobs(6, 3)[1], 10), 3),
    "one column": (*blobs(60, 2, d=1, spread=0.1), 2),
    "huge": (blobs(60, 3)[0] * np.float32(1e6), blobs(60, 3)[1], 3),
    "tiny": (blobs(60, 3)[0] * np.float32(1e-4), blobs(60, 3)[1], 3),
}


@pytest.mark.parametrize("case", ODD)
def test_rows_are_probabilities_whatever_comes(case: str) -> None:
    x, y, k = ODD[case]
    found = out_of_sample_probabilities(x, y, n_classes=k)
    assert found.probabilities.shape == (len(y), k)
    assert found.probabilities.dtype == np.float32
    assert np.isfinite(found.probabilities).all()
    assert (found.probabilities >= 0).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert not found.probabilities[:, sorted(set(range(k)) - set(y.tolist()))].any()
    assert np.isfinite(found.log_loss)
    if case in ("two classes", "copies", "one column", "huge", "tiny"):
        assert (found.probabilities.argmax(axis=1) == y).mean() > 0.8


def test_what_cannot_be_judged_is_nan() -> None:
    x, y = blobs(40, 2)
    x[5, 3] = np.nan
    x[6] = np.inf
    y = y.copy()
    y[7] = 2  # the only one of its class: no other item could have taught it
    found = out_of_sample_probabilities(x, y, n_classes=3)
    judged = np.isfinite(found.probabilities).all(axis=1)
    assert np.flatnonzero(~judged).tolist() == [5, 6, 7]
    assert np.flatnonzero(found.folds < 0).tolist() == [5, 6, 7]
    assert np.isfinite(found.log_loss)


@pytest.mark.parametrize("case", ["no items", "one item", "one group", "only NaN"])
def test_nothing_to_learn_from_leaves_nothing_judged(case: str) -> None:
    x, y = blobs({"no items": 0, "one item": 1}.get(case, 20), 2)
    groups = np.zeros(len(y)) if case == "one group" else None
    if case == "only NaN":
        x[:] = np.nan
    found = out_of_sample_probabilities(x, y, groups=groups, n_classes=2)
    assert np.isnan(found.probabilities).all()
    assert np.isnan(found.log_loss)
    assert (found.folds == -1).all()


def test_a_single_class_is_certain() -> None:
    found = out_of_sample_probabilities(blobs(30, 1)[0], np.zeros(30, np.int64), n_classes=2)
    np.testing.assert_allclose(found.probabilities, np.tile([1, 0], (30, 1)))


def test_same_arguments_same_answer() -> None:
    x, y = blobs(200, 3, spread=3)
    first, again = (out_of_sample_probabilities(x, y, n_classes=3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert first.chosen == again.chosen
    other = out_of_sample_probabilities(x, y, n_classes=3, seed=6)
    assert np.abs(other.probabilities - first.probabilities).max() > 1e-4


def test_with_too_many_items_for_landmarks_the_discriminant_judges_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_KERNEL_CELLS", 1e4)
    x, y = blobs(600, 3)
    found = out_of_sample_probabilities(x, y, n_classes=3)
    assert set(found.chosen) == {"shrinkage", "shrinkage_temperature", "temperature"}
    assert (found.probabilities.argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize("wrong", ["length", "range", "folds"])
def test_misuse_is_a_value_error(wrong: str) -> None:
    x, y = blobs(20, 2)
    arguments: dict[str, Any] = {"n_classes": 2}
    if wrong == "length":
        y = y[:-1]
    elif wrong == "range":
        arguments["n_classes"] = 1
    else:
        arguments["folds"] = 1
    with pytest.raises(ValueError, match=wrong if wrong != "range" else "labels"):
        out_of_sample_probabilities(x, y, **arguments)


@pytest.mark.slow
def test_wrong_labels_of_real_digits_come_first() -> None:
    from sklearn.metrics import roc_auc_score

    x, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    given_labels = truth.copy()
    wrong = rng.choice(len(truth), 180, replace=False)
    given_labels[wrong] = (truth[wrong] + rng.integers(1, 10, 180)) % 10
    found = out_of_sample_probabilities(x.astype(np.float32), given_labels, n_classes=10)
    own = found.probabilities[np.arange(len(truth)), given_labels]
    assert roc_auc_score(given_labels != truth, 1 - own) > 0.99
    assert (found.probabilities.argmax(axis=1) == truth).mean() > 0.97
