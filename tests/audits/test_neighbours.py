"""Nearest neighbours against scikit-learn and faiss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasetops.audits.images import neighbours
from datasetops.audits.images.neighbours import Metric, nearest, pairs_within

pytestmark = pytest.mark.slow

Floats = npt.NDArray[np.float32]
METRICS: list[Metric] = ["cosine", "euclidean"]


def clustered(n: int, d: int, seed: int = 0, copies: int = 0) -> Floats:
    """Rectified features of a mixture; the last `copies` rows are near copies of the first."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(30, 8))[rng.integers(0, 30, n)] + 0.5 * rng.normal(size=(n, 8))
    vectors = np.maximum(latent @ rng.normal(size=(8, d)), 0) + 0.1 * rng.random((n, d))
    if copies:
        vectors[-copies:] = vectors[:copies] * (1 + 0.01 * rng.normal(size=(copies, d)))
    return vectors.astype(np.float32)


def reference(vectors: Floats, k: int, metric: Metric) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """scikit-learn in double precision: distances and indices of the k nearest other rows."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(vectors.astype(np.float64))
    distances, indices = model.kneighbors()
    return distances, indices


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(2, 3, 1), (7, 1, 6), (500, 16, 10), (1500, 40, 3)])
def test_exact_is_scikit_learns(n: int, d: int, k: int, metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(n, d)
    distances, _ = reference(vectors, k, metric)
    for block in (2048, 100):
        monkeypatch.setattr(neighbours, "_BLOCK", block)
        found = nearest(vectors, k, metric=metric, jobs=2)
        assert found.exact
        assert found.recall == 1
        np.testing.assert_allclose(found.distances, distances, atol=2e-6, rtol=1e-5)
        check_consistent(vectors, found, metric)


def check_consistent(vectors: Floats, found: neighbours.Neighbours, metric: Metric) -> None:
    """The distances are those of the rows named, and no row names itself or another twice."""
    from sklearn.metrics.pairwise import paired_distances

    n, k = found.indices.shape
    each = np.repeat(np.arange(n), k)
    assert not (found.indices == np.arange(n)[:, None]).any()
    assert (np.diff(np.sort(found.indices, axis=1), axis=1) > 0).all()
    told = paired_distances(vectors[each].astype(np.float64), vectors[found.indices.ravel()], metric=metric)
    np.testing.assert_allclose(found.distances.ravel(), told, atol=2e-6, rtol=1e-5)


def test_exact_is_faiss_flat() -> None:
    import faiss

    vectors = clustered(3000, 32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(32)
    index.add(vectors)
    similarity, _ = index.search(vectors, 9)
    np.testing.assert_allclose(nearest(vectors, 8).distances, 1 - similarity[:, 1:], atol=2e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 4), st.integers(1, 8), st.sampled_from(METRICS))
@settings(max_examples=60)
def test_exact_with_many_ties(seed: int, n: int, d: int, k: int, metric: Metric) -> None:
    """Small integers: equal rows, equal distances, and more neighbours wanted than there are."""
    vectors = np.random.default_rng(seed).integers(1, 4, (n, d)).astype(np.float32)
    found = nearest(vectors, k, metric=metric)
    known = min(k, n - 1)
    distances, _ = reference(vectors, known, metric)
    np.testing.assert_allclose(found.distances[:, :known], distances, atol=1e-6, rtol=1e-5)
    assert (found.indices[:, known:] == -1).all()
    assert np.isinf(found.distances[:, known:]).all()
    check_consistent(
        vectors, neighbours.Neighbours(found.indices[:, :known], found.distances[:, :known], True, 1), metric
    )


@pytest.mark.parametrize("metric", METRICS)
def test_approximate_tells_its_recall(metric: Metric) -> None:
    vectors = clustered(6000, 48, seed=1)
    k = 10
    true = nearest(vectors, k, metric=metric, exact=True)
    found = nearest(vectors, k, metric=metric, exact=False, seed=4)
    assert not found.exact
    check_consistent(vectors, found, metric)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(true.indices, found.indices, strict=True)])
    assert recall > 0.9
    assert found.recall == pytest.approx(recall, abs=0.03)


def test_approximate_is_the_same_for_the_same_seed() -> None:
    vectors = clustered(4000, 24, seed=2)
    first, again, other = (nearest(vectors, 5, exact=False, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.indices, again.indices)
    np.testing.assert_array_equal(first.distances, again.distances)
    assert first.recall == again.recall
    assert (first.indices != other.indices).any()


def test_the_search_switches_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(600, 8)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 600)
    assert nearest(vectors, 2).exact
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 599)
    assert not nearest(vectors, 2).exact
    assert nearest(vectors, 2, exact=True).exact


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_cannot_be_compared_are_left_out(metric: Metric, exact: bool) -> None:
    vectors = clustered(400, 12)
    bad = [0, 17, 399]
    vectors[bad] = np.array([np.nan, np.inf, 0], dtype=np.float32)[:, None]
    if metric == "euclidean":
        bad = bad[:2]
    found = nearest(vectors, 4, metric=metric, exact=exact)
    assert (found.indices[bad] == -1).all()
    assert np.isinf(found.distances[bad]).all()
    assert not np.isin(found.indices, bad).any()
    if exact:
        kept = np.delete(np.arange(400), bad)
        distances, _ = reference(vectors[kept], 4, metric)
        np.testing.assert_allclose(found.distances[kept], distances, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_equal_rows_are_at_distance_zero_far_from_the_origin(exact: bool) -> None:
    vectors = clustered(300, 20) + 1000
    vectors[200:] = vectors[:100]
    for metric in METRICS:
        found = nearest(vectors, 1, metric=metric, exact=exact)
        assert (found.distances[:100] == 0).all()
        np.testing.assert_array_equal(found.indices[:100, 0], np.arange(200, 300))


def test_all_rows_equal() -> None:
    for n, exact in ((5000, True), (5000, False), (3, False)):
        found = nearest(np.ones((n, 4), dtype=np.float32), 2, exact=exact)
        assert (found.distances == 0).all()
        assert (found.indices >= 0).all()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("metric", "threshold"), [("cosine", 0.001), ("euclidean", 1.0)])
def test_pairs_within(metric: Metric, threshold: float, exact: bool) -> None:
    from scipy.spatial.distance import cdist

    vectors = clustered(2500, 30, seed=3, copies=100)
    distances = np.triu(cdist(vectors.astype(np.float64), vectors.astype(np.float64), metric) + 9 * np.tri(2500))
    expected = np.argwhere((distances > 0) & (distances <= threshold))
    assert len(expected) >= 100
    found = pairs_within(vectors, threshold, metric=metric, exact=exact)
    assert found.exact == exact
    assert not found.truncated
    if exact:
        np.testing.assert_array_equal(found.indices, expected)
        np.testing.assert_allclose(found.distances, distances[tuple(expected.T)], atol=2e-6, rtol=1e-4)
    else:
        assert set(map(tuple, found.indices)) <= set(map(tuple, expected))
        assert len(found.indices) > 0.95 * len(expected)


def test_pairs_at_distance_zero() -> None:
    vectors = clustered(50, 6)
    vectors[[31, 8]] = vectors[4]
    assert pairs_within(vectors, 0).indices.tolist() == [[4, 8], [4, 31], [8, 31]]


def test_pairs_of_many_equal_rows_are_limited_and_still_connect_them() -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    vectors = clustered(900, 6)
    vectors[100:700] = vectors[0]
    found = pairs_within(vectors, 1e-6, limit=16)
    assert found.truncated
    assert len(found.indices) <= 16 * 601
    graph = coo_array((np.ones(len(found.indices)), tuple(found.indices.T)), shape=(900, 900))
    _, group = connected_components(graph, directed=False)
    assert len(set(group[100:700]) | {group[0]}) == 1


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare(n: int) -> None:
    vectors = np.ones((n, 4), dtype=np.float32)
    for exact in (True, False):
        found = nearest(vectors, 3, exact=exact)
        assert found.indices.tolist() == [[-1, -1, -1]] * n
        assert pairs_within(vectors, 0.1, exact=exact).indices.shape == (0, 2)


def test_memory_map(tmp_path: Path) -> None:
    vectors = clustered(300, 8)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest(mapped, 3).indices, nearest(vectors, 3).indices)


@pytest.mark.parametrize("exact", [True, False])
def test_progress_is_told(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        seen = list(items)
        told.append((label, total, len(seen)))
        return iter(seen)

    monkeypatch.setattr(neighbours, "_BLOCK", 100)
    nearest(clustered(450, 8), 2, exact=exact, progress=progress)
    assert told
    assert all(total == seen > 0 for _, total, seen in told)


@pytest.mark.parametrize(
    ("vectors", "k", "options", "message"),
    [
        (np.ones(4, np.float32), 1, {}, r"vectors: expected \(N, D\) float32; got \(4,\)"),
        (np.ones((4, 2)), 1, {}, "float32; got .* float64"),
        (np.ones((4, 2), np.float32), 0, {}, "k: expected at least 1; got 0"),
        (np.ones((4, 2), np.float32), 1, {"metric": "dot"}, "metric: expected cosine or euclidean; got 'dot'"),
    ],
)
def test_misuse_is_told(vectors: Any, k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(vectors, k, **options)


def test_threshold_misuse_is_told() -> None:
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="threshold: expected a distance"):
            pairs_within(np.ones((4, 2), dtype=np.float32), threshold)
