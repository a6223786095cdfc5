"""Confident learning against cleanlab, flag for flag."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasetops.audits.labels import confident
from datasetops.audits.labels.confident import FilterBy

FILTERS = get_args(FilterBy)
Pair = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]


def reference(labels: npt.NDArray[Any], probs: npt.NDArray[Any], filter_by: str, minimum: int = 1) -> npt.NDArray[Any]:
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each class with few examples
        mask: npt.NDArray[Any] = find_label_issues(
            labels, probs, filter_by=filter_by, min_examples_per_class=minimum, n_jobs=1
        )
    return mask


def noisy(n: int, k: int, *, seed: int, noise: float = 0.2, signal: float = 3.0, dtype: type = np.float32) -> Pair:
    """Softmax scores around a truth, and that truth with some labels exchanged."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), truth] += signal
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = np.where(rng.random(n) < noise, rng.integers(0, k, n), truth)
    return labels, probs.astype(dtype)


@st.composite
def small_sets(draw: st.DrawFn) -> Pair:
    """Few rows, coarse probabilities (many ties), classes that are rare or absent."""
    n, k = draw(st.integers(2, 40)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, draw(st.integers(2, 9)), (n, k)) + np.eye(k, dtype=int)[rng.integers(0, k, n)]
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 0.5)))
    labels[:2] = 0, 1  # cleanlab wants two classes
    probs = weights / weights.sum(axis=1, keepdims=True)
    return labels, probs.astype(draw(st.sampled_from([np.float32, np.float64])))


@pytest.mark.slow
@given(small_sets(), st.sampled_from(FILTERS), st.integers(0, 6))
@settings(max_examples=400)
def test_flags_are_cleanlabs_on_small_and_tied_data(data: Pair, filter_by: FilterBy, minimum: int) -> None:
    labels, probs = data
    found = confident.find_label_issues(labels, probs, filter_by=filter_by, min_examples_per_class=minimum)
    np.testing.assert_array_equal(found, reference(labels, probs, filter_by, minimum))


@given(small_sets())
@settings(max_examples=150)
def test_joint_and_thresholds_are_cleanlabs(data: Pair) -> None:
    from cleanlab.count import compute_confident_joint, get_confident_thresholds

    labels, probs = data
    joint = confident.confident_joint(labels, probs)
    np.testing.assert_array_equal(joint, compute_confident_joint(labels, probs))
    np.testing.assert_array_equal(joint.sum(axis=1), np.bincount(labels, minlength=probs.shape[1]))
    np.testing.assert_array_equal(confident.class_thresholds(labels, probs), get_confident_thresholds(labels, probs))


@pytest.mark.parametrize("filter_by", FILTERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "k", "noise", "signal"),
    [(3000, 2, 0.1, 1), (3000, 3, 0.4, 0.5), (4000, 10, 0.2, 3), (4000, 60, 0.4, 6), (2000, 200, 0.1, 4)],
)
def test_flags_are_cleanlabs_on_random_data(
    n: int, k: int, noise: float, signal: float, dtype: type, filter_by: FilterBy, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, probs = noisy(n, k, seed=n + k, noise=noise, signal=signal, dtype=dtype)
    expected = reference(labels, probs, filter_by)
    np.testing.assert_array_equal(confident.find_label_issues(labels, probs, filter_by=filter_by), expected)
    # Many blocks, columns ranked one by one, two threads: the same flags.
    monkeypatch.setattr(confident, "_BLOCK", 1000)
    monkeypatch.setattr(confident, "_CHUNK", 1)
    np.testing.assert_array_equal(confident.find_label_issues(labels, probs, filter_by=filter_by, jobs=2), expected)


def test_cuts_below_zero_are_found() -> None:
    """A class that never leads has a low threshold: many rows are counted for it, and the cut falls among rows whose
    given class leads. A few rows are led by a third class: whether they are flagged depends on where the cut is."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], [600, 600, 100])
    first = np.where(labels == 0, rng.uniform(0.5, 0.9, labels.size), rng.uniform(0.5, 0.7, labels.size))
    probs = np.stack([first, 0.8 * (1 - first), 0.2 * (1 - first)], axis=1)
    probs[1200:] = rng.dirichlet([2, 2, 8], 100)
    odd = rng.choice(600, 60, replace=False)
    probs[odd] = rng.dirichlet([12, 4, 16], 60)
    counts = confident.confident_joint(labels, probs)[0]
    assert (probs[:600, 1] > probs[:600, 0]).sum() < counts[1]
    flagged = confident.find_label_issues(labels, probs)
    assert 0 < flagged[:600].sum() < (probs[:600].argmax(axis=1) != 0).sum()
    np.testing.assert_array_equal(flagged, reference(labels, probs, "prune_by_noise_rate"))


def test_near_ties_of_the_given_label_go_to_the_first_class() -> None:
    for dtype in (np.float32, np.float64):
        less = dtype(0.4)
        more = less + dtype(confident.TOLERANCE)
        probs = np.array([[less, more, 1 - less - more], [more, less, 1 - less - more]], dtype=dtype)
        labels = np.array([0, 1])
        found = confident.find_label_issues(labels, probs, filter_by="predicted_neq_given")
        assert found.tolist() == [False, True] == reference(labels, probs, "predicted_neq_given").tolist()


@pytest.mark.parametrize("decimals", [1, 2])
def test_rounded_probabilities(decimals: int) -> None:
    labels, probs = noisy(5000, 5, seed=1, signal=2)
    probs = probs.round(decimals)
    kept = np.abs(probs.sum(axis=1) - 1) < 1e-3
    labels, probs = labels[kept], probs[kept]
    for filter_by in FILTERS:
        np.testing.assert_array_equal(
            confident.find_label_issues(labels, probs, filter_by=filter_by), reference(labels, probs, filter_by)
        )


def test_self_confidence_is_the_probability_of_the_given_label() -> None:
    from cleanlab.rank import get_label_quality_scores

    labels, probs = noisy(500, 7, seed=2)
    np.testing.assert_array_equal(confident.self_confidence(labels, probs), get_label_quality_scores(labels, probs))


def test_layout_and_label_types_do_not_matter() -> None:
    labels, probs = noisy(800, 9, seed=5)
    expected = confident.find_label_issues(labels, probs)
    for given_labels in (labels.tolist(), labels.astype(np.uint8), pd.Series(labels)):
        np.testing.assert_array_equal(confident.find_label_issues(given_labels, probs), expected)
    wide = np.hstack([probs, probs])[:, :9]
    for layout in (np.asfortranarray(probs), wide):
        np.testing.assert_array_equal(confident.find_label_issues(labels, layout), expected)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_map(tmp_path: Path, mode: Any) -> None:
    labels, probs = noisy(2000, 11, seed=6)
    np.save(tmp_path / "probs.npy", probs)
    mapped = np.load(tmp_path / "probs.npy", mmap_mode=mode)
    changed = probs.copy()
    if mode != "r":  # what was written to the map must not be lost when its pages are given back
        mapped[:500] = mapped[:500, ::-1]
        changed[:500] = changed[:500, ::-1]
    expected = confident.find_label_issues(labels[100:], changed[100:])
    np.testing.assert_array_equal(confident.find_label_issues(labels[100:], mapped[100:]), expected)
    np.testing.assert_array_equal(mapped, changed)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are read from /proc/self/smaps")
def test_memory_map_pages_are_given_back(tmp_path: Path) -> None:
    labels, probs = noisy(40_000, 50, seed=7)
    path = tmp_path / "probs.npy"
    np.save(path, probs)
    mapped = np.load(path, mmap_mode="r")
    confident.find_label_issues(labels, mapped)
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("probs.npy"))
    resident = next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))
    assert resident < 1024 < path.stat().st_size // 1024  # KiB


def test_nothing_to_audit() -> None:
    empty = np.empty((0, 3), dtype=np.float32)
    for filter_by in FILTERS:
        assert confident.find_label_issues([], empty, filter_by=filter_by).shape == (0,)
    assert confident.estimate_errors([], empty) == 0
    assert confident.confident_joint([], empty).sum() == 0


def test_one_class_given() -> None:
    _, probs = noisy(300, 3, seed=8)
    labels = np.zeros(300, dtype=int)
    for filter_by in ("prune_by_noise_rate", "prune_by_class", "both"):  # cleanlab refuses the others
        np.testing.assert_array_equal(
            confident.find_label_issues(labels, probs, filter_by=filter_by), reference(labels, probs, filter_by)
        )


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"labels: expected shape \(1,\)"),
        ([[0], [1]], [[0.5, 0.5], [0.5, 0.5]], "labels: expected shape"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"labels: expected integers in \[0, 2\); got 0 to 2"),
        ([-1, 0], [[0.5, 0.5], [0.5, 0.5]], "got -1 to 0"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "labels: expected integers"),
        ([0, 1], [0.5, 0.5], "probs: expected shape"),
        ([0, 1], [[1.0], [1.0]], "at least two classes"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.6]], "row 1 sums to 1.1"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "row 0 sums to nan"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0]], "row 1 sums to inf"),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], r"values in \[0, 1\]; row 1 has -0.5"),
    ],
)
def test_misuse_is_told(labels: Any, probs: Any, message: str) -> None:
    for function in (confident.self_confidence, confident.find_label_issues, confident.estimate_errors):
        with pytest.raises(ValueError, match=message):
            function(np.asarray(labels), np.asarray(probs))


def test_more_misuse_is_told() -> None:
    labels, probs = noisy(10, 3, seed=0)
    with pytest.raises(ValueError, match="float32 or float64; got float16"):
        confident.find_label_issues(labels, probs.astype(np.float16))
    with pytest.raises(ValueError, match="filter_by: expected one of prune_by_noise_rate"):
        confident.find_label_issues(labels, probs, filter_by="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 0; got -1"):
        confident.find_label_issues(labels, probs, min_examples_per_class=-1)


def test_the_bad_row_is_named_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probs = noisy(100, 4, seed=0)
    probs[77] = 1
    monkeypatch.setattr(confident, "_BLOCK", 40)
    with pytest.raises(ValueError, match="row 77 sums to 4"):
        confident.self_confidence(labels, probs)


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.4])
def test_errors_are_estimated_from_well_informed_probabilities(noise: float) -> None:
    """True class nearly certain from the input; the model told P(given | input), as one trained on given labels does."""
    rng = np.random.default_rng(11)
    k, n = 6, 20_000
    channel = (1 - noise) * np.eye(k) + noise * rng.dirichlet(np.ones(k), k).T  # P(given | true), a column per class
    _, certain = noisy(n, k, seed=12, signal=9, dtype=np.float64)
    truth = (certain.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    labels = (channel[:, truth].T.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    wrong = int((labels != truth).sum())
    assert confident.estimate_errors(labels, certain @ channel.T) == pytest.approx(wrong, rel=0.1)


@pytest.mark.skipif("DSOPS_TEST_DATA" not in os.environ, reason="DSOPS_TEST_DATA is not set: no real data to read")
def test_real_label_errors() -> None:
    folder = Path(os.environ["DSOPS_TEST_DATA"]) / "cifar10n"
    columns = ["clean_label", "aggre_label", "random_label1", "worse_label"]
    table = pd.read_parquet(folder / "data.parquet", columns=columns)
    with np.load(folder / "oof_pred_probs.npz") as file:
        for column in columns[1:]:
            labels, probs = table[column].to_numpy(), file[column].astype(np.float32)
            for filter_by in FILTERS:
                np.testing.assert_array_equal(
                    confident.find_label_issues(labels, probs, filter_by=filter_by),
                    reference(labels, probs, filter_by),
                )
            wrong = (labels != table.clean_label).to_numpy()
            flagged = confident.find_label_issues(labels, probs)
            assert wrong[flagged].mean() > 1.5 * wrong.mean()
