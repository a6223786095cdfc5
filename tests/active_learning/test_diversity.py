"""Strategies that choose samples unlike each other: what holds for all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasetops.active_learning.diversity import DIVERSE
from datasetops.active_learning.pool import Picks, Pool, Strategy

CLASSES = 3
all_strategies = pytest.mark.parametrize("strategy", DIVERSE, ids=[strategy.name for strategy in DIVERSE])


def make_pool(embeddings: npt.NDArray[np.float32], covered: list[int], *, left_out: tuple[int, ...] = ()) -> Pool:
    count = len(embeddings)
    labels = np.full(count, -1)
    labels[covered] = 0
    return Pool(
        classes=CLASSES,
        candidates=np.setdiff1d(np.arange(count), [*covered, *left_out]),
        covered=np.array(sorted(covered), np.int64),
        labels=labels,
        embeddings=embeddings,
        probabilities=np.random.default_rng(7).dirichlet(np.full(CLASSES, 0.5), count),
    )


def blobs(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = 5 * rng.standard_normal((6, 8))
    return (centres[rng.integers(0, 6, count)] + rng.standard_normal((count, 8))).astype(np.float32)


def pick(strategy: Strategy, pool: Pool, n: int, seed: int = 0) -> Picks:
    picks = strategy.pick(pool, n, np.random.default_rng(seed))
    assert len(picks.rows) == len(picks.scores) == len(picks.reasons) == min(n, len(pool.candidates))
    assert len(set(picks.rows.tolist())) == len(picks.rows)
    assert np.isin(picks.rows, pool.candidates).all()
    return picks


@all_strategies
def test_the_same_seed_gives_the_same_picks(strategy: Strategy) -> None:
    pool = make_pool(blobs(200), [3, 50])
    first, second = pick(strategy, pool, 20, seed=5), pick(strategy, pool, 20, seed=5)
    assert first.rows.tolist() == second.rows.tolist()
    assert first.reasons == second.reasons
    np.testing.assert_array_equal(first.scores, second.scores)


@all_strategies
@given(data=st.data())
@settings(max_examples=25)
def test_picks_are_candidates_never_twice(strategy: Strategy, data: st.DataObject) -> None:
    """For rows that are few, equal, on a grid or without variance in a dimension; n below and above the candidates."""
    count = data.draw(st.integers(1, 40))
    levels = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    embeddings = rng.integers(0, levels, (count, 4)).astype(np.float32)
    embeddings[:, 0] = 3
    roles = rng.integers(0, 3, count)
    pool = make_pool(embeddings, np.flatnonzero(roles == 1).tolist(), left_out=tuple(np.flatnonzero(roles == 2)))
    pick(strategy, pool, data.draw(st.integers(0, 50)))


@all_strategies
def test_rows_without_embedding_are_told(strategy: Strategy) -> None:
    embeddings = blobs(40)
    embeddings[[11, 30]] = np.nan
    with pytest.raises(ValueError, match=r"2 rows have none \(not finite\), the first is row 11"):
        pick(strategy, make_pool(embeddings, [2, 3]), 5)
    pick(strategy, make_pool(embeddings, [2, 3], left_out=(11, 30)), 5)


@all_strategies
def test_embeddings_of_another_shape_are_refused(strategy: Strategy) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(N, D\)"):
        strategy.pick(make_pool(blobs(10)[:, 0], []), 2, np.random.default_rng(0))


@all_strategies
def test_far_from_the_origin_as_at_it(strategy: Strategy) -> None:
    """Distances between rows do not drown in those from the origin (BADGE's gradients do depend on the origin)."""
    if strategy.name == "badge":
        pytest.skip("gradients depend on the origin")
    rows = np.round(blobs(300) * 64) / 64
    near, far = make_pool(rows, [0]), make_pool(rows + 4096, [0])
    assert pick(strategy, near, 12).rows.tolist() == pick(strategy, far, 12).rows.tolist()
