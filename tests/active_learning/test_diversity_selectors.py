"""Each selector against a plain reference, or where the answer is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy.cluster.vq import kmeans2

from datasetops.active_learning.diversity import farthest
from datasetops.active_learning.diversity.badge import badge
from datasetops.active_learning.diversity.clusters import k_means, share_out
from datasetops.active_learning.diversity.covering import prob_cover
from datasetops.active_learning.diversity.farthest import k_center
from datasetops.active_learning.diversity.mixtures import blend, cluster_margin
from datasetops.active_learning.diversity.sampling import draw_apart
from datasetops.active_learning.diversity.space import Space
from datasetops.active_learning.diversity.typical import central, typicality, typiclust

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NONE = np.arange(0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def distances(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    apart: Floats = np.linalg.norm(a[:, None].astype(np.float64) - b, axis=2)
    return apart


def spots(*sizes: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], Ints]:
    """Rows around distant centres, as many around each as `sizes` tell, and the centre of each."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    centres = 40 * np.eye(len(sizes), 8)
    return (centres[of] + rng(seed).standard_normal((len(of), 8))).astype(np.float32), of


def plain_k_center(rows: npt.NDArray[np.float32], centres: list[int], n: int) -> list[int]:
    nearest = distances(rows, rows[centres]).min(axis=1)
    chosen: list[int] = []
    for _ in range(n):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances(rows, rows[chosen[-1:]])[:, 0])
    return chosen


@pytest.mark.parametrize("front", [7, 60, 2048])
def test_k_center_is_the_plain_greedy(front: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where few rows are brought up to date at a time, and covered rows are met in several turns."""
    monkeypatch.setattr(farthest, "_FRONT", front)
    monkeypatch.setattr(farthest, "_FIRST", 5)
    rows = rng(1).standard_normal((400, 6)).astype(np.float32)
    covered = np.arange(0, 400, 20)
    candidates = np.setdiff1d(np.arange(400), covered)
    chosen, far = k_center(rows, candidates, covered, 60, rng())
    assert chosen.tolist() == plain_k_center(rows, covered.tolist(), 60)
    assert all(a >= b for a, b in pairwise(far.tolist()))
    before = np.concatenate([covered, chosen[:-1]])
    assert far[-1] == pytest.approx(distances(rows[chosen[-1:]], rows[before]).min(), rel=1e-4)


def test_k_center_does_not_depend_on_the_order_of_rows() -> None:
    rows = rng(2).standard_normal((300, 5)).astype(np.float32)
    order = rng(3).permutation(300)
    place = np.argsort(order)
    chosen, _ = k_center(rows, np.arange(10, 300), np.arange(10), 30, rng())
    moved, _ = k_center(rows[order], np.sort(place[10:]), np.sort(place[:10]), 30, rng(9))
    assert order[moved].tolist() == chosen.tolist()


def test_k_center_takes_copies_last() -> None:
    rows = np.repeat(rng(4).standard_normal((5, 8)).astype(np.float32) * 100, 10, axis=0)
    chosen, far = k_center(rows, np.arange(10, 50), np.arange(10), 12, rng())
    assert sorted(chosen[:4] // 10) == [1, 2, 3, 4]
    assert (far[:4] > 0).all()
    assert (far[4:] == 0).all()


def test_one_distant_row_does_not_make_all_others_copies() -> None:
    rows = rng(5).standard_normal((200, 8)).astype(np.float32)
    rows[17] = 1e5
    chosen, far = k_center(rows, np.arange(1, 200), np.array([0]), 50, rng())
    assert chosen[0] == 17
    assert (far > 0).all()


def test_draws_have_the_probabilities_of_k_means_plus_plus() -> None:
    """The second and third row of three draws, against the law worked out by hand, over 3,000 seeds."""
    places = np.array([0.0, 1.0, 2.0, 4.0, 7.0])

    def between(rows: Ints, others: Ints) -> Floats:
        return np.subtract.outer(places[rows], places[others]) ** 2

    law = np.zeros((5, 5))
    second = places**2 / (places**2).sum()
    for j in range(1, 5):
        left = np.minimum(places**2, (places - places[j]) ** 2)
        law[j] = second[j] * left / left.sum()
    seen = np.zeros((5, 5))
    for seed in range(3000):
        drawn, _ = draw_apart(0, np.full(5, np.inf), 3, between, rng(seed))
        seen[drawn[1], drawn[2]] += 1
    assert np.abs(seen / 3000 - law).max() < 4 * np.sqrt(law.max() / 3000)


def test_badge_measures_gradients_as_they_are() -> None:
    generator = rng(6)
    rows = generator.standard_normal((60, 7)).astype(np.float32)
    p = generator.dirichlet(np.ones(4), 60)
    gradient = ((p - np.eye(4)[p.argmax(axis=1)])[:, :, None] * rows[:, None]).reshape(60, -1)
    chosen, far = badge(rows, p, np.arange(10, 60), 20, rng())
    assert chosen[0] == 10 + np.argmax(np.linalg.norm(gradient[10:], axis=1))
    for i in range(1, 20):
        before = np.concatenate([gradient[chosen[:i]], np.zeros((1, 28))])  # what is covered stands at zero
        assert far[i] == pytest.approx(np.linalg.norm(before - gradient[chosen[i]], axis=1).min(), rel=1e-3)


def test_badge_takes_what_the_model_is_sure_of_last() -> None:
    rows = rng(7).standard_normal((30, 5)).astype(np.float32)
    p = np.tile([1.0, 0.0], (30, 1))
    p[[4, 9]] = [0.6, 0.4]
    chosen, far = badge(rows, p, np.arange(30), 6, rng())
    assert set(chosen[:2].tolist()) == {4, 9}
    assert (far[2:] == 0).all()


def test_k_means_is_as_good_as_scipys() -> None:
    rows = rng(8).standard_normal((1500, 6)).astype(np.float32)
    ours = [k_means(Space(rows, np.arange(1500)), 20, rng(seed)).square.sum() for seed in range(3)]
    theirs = [kmeans2(rows, 20, iter=50, minit="++", rng=seed)[0] for seed in range(3)]
    assert np.mean(ours) < 1.01 * np.mean([(distances(rows, centres).min(axis=1) ** 2).sum() for centres in theirs])


def test_k_means_of_equal_rows_and_of_fewer_rows_than_clusters() -> None:
    equal = k_means(Space(np.ones((9, 3), np.float32), np.arange(9)), 4, rng())
    assert set(equal.home.tolist()) == {0}
    few = k_means(Space(np.eye(3, dtype=np.float32), np.arange(3)), 4, rng())
    assert sorted(few.home.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("choose", [typiclust, central])
def test_clusters_with_covered_rows_come_last_and_the_largest_first(choose: object) -> None:
    assert callable(choose)
    rows, spot = spots(60, 30, 90, 40)
    covered = np.flatnonzero(spot == 2)[:1]
    candidates = np.setdiff1d(np.arange(len(rows)), covered)
    chosen, scores = choose(rows, candidates, covered, 3, rng())
    assert spot[chosen].tolist() == [0, 3, 1]
    for row, score in zip(chosen, scores, strict=True):
        members = rows[spot == spot[row]]
        if choose is typiclust:
            k = min(20, len(members) // 2)
            near = np.sort(distances(members, members), axis=1)[:, 1 : k + 1].mean(axis=1)
            assert score == pytest.approx(1 / near.min(), rel=1e-4)
        else:
            assert score == pytest.approx(-distances(members, members.mean(axis=0)[None]).min(), rel=1e-3)


def test_stray_rows_come_after_clusters() -> None:
    rows, spot = spots(50, 1, 40, 2)
    chosen, _ = typiclust(rows, np.arange(len(rows)), NONE, 4, rng())
    assert spot[chosen[:2]].tolist() == [0, 2]
    assert set(spot[chosen].tolist()) <= {0, 2}


def test_turns_go_to_who_holds_least() -> None:
    left, held, order = np.array([5, 1, 5]), np.array([1, 0, 0]), np.array([0, 2, 1])
    assert share_out(left, held, 6, order).tolist() == [2, 1, 0, 2, 0, 2]
    assert share_out(left, held, 99, order).size == 11


def test_prob_cover_is_the_plain_greedy_cover() -> None:
    rows, _ = spots(40, 40, 40)
    covered, candidates = np.arange(5), np.arange(5, 120)
    chosen, gains, radius = prob_cover(rows, candidates, covered, 8, 3, rng())
    near = distances(rows, rows) < radius
    open_ = ~near[candidates][:, covered].any(axis=1)
    for row, gain in zip(chosen, gains, strict=True):
        would = (near[candidates][:, candidates] & open_).sum(axis=1)
        assert gain == would[row - 5] == would.max()
        open_ &= ~near[row, candidates]


def test_the_radius_leaves_19_of_20_balls_pure() -> None:
    rows, spot = spots(50, 50)
    _, _, radius = prob_cover(rows, np.arange(100), NONE, 1, 2, rng())
    other = np.where(spot[:, None] != spot, distances(rows, rows), np.inf).min(axis=1)
    assert (other >= radius * (1 - 1e-5)).mean() == pytest.approx(0.95)


def test_what_is_left_when_all_is_covered_is_the_farthest() -> None:
    rows, _ = spots(20, 20)
    chosen, gains, _ = prob_cover(rows, np.arange(40), NONE, 10, 2, rng())
    first = np.count_nonzero(gains)
    assert 0 < first < 10
    left = np.setdiff1d(np.arange(40), chosen[:first])
    farther, _ = k_center(rows, left, chosen[:first], 10 - first, rng())
    assert chosen[first:].tolist() == farther.tolist()


def test_cluster_margin_spreads_over_the_uncertain() -> None:
    rows, spot = spots(100, 100, 100, 100)
    unsure = np.where(spot == 3, 0.0, rng(9).random(400))
    unsure[spot == 0] += 1
    chosen, scores = cluster_margin(rows, unsure, np.arange(400), 30, rng(), width=8)
    assert {1, 2} <= set(spot[chosen].tolist())
    assert 3 not in spot[chosen]
    np.testing.assert_array_equal(scores, unsure[chosen])
    best, _ = cluster_margin(rows, unsure, np.arange(400), 30, rng(), width=1)
    assert set(best.tolist()) == set(np.argsort(-unsure)[:30].tolist())


def test_the_blend_goes_from_uncertainty_to_k_center() -> None:
    rows = rng(10).standard_normal((300, 6)).astype(np.float32)
    unsure = rng(11).random(290)
    candidates, covered = np.arange(10, 300), np.arange(10)
    alone, scores = blend(rows, unsure, candidates, covered, 20, rng(), diversity=0)
    assert alone.tolist() == (10 + np.argsort(-unsure)[:20]).tolist()
    assert scores == pytest.approx(np.sort(unsure)[::-1][:20])
    spread, _ = blend(rows, unsure, candidates, covered, 20, rng(), diversity=1)
    assert spread.tolist() == k_center(rows, candidates, covered, 20, rng())[0].tolist()
    both, _ = blend(rows, unsure, candidates, covered, 20, rng(), diversity=0.5)
    assert unsure[spread - 10].mean() < unsure[both - 10].mean() < unsure[alone - 10].mean()
    with pytest.raises(ValueError, match="0 to 1"):
        blend(rows, unsure, candidates, covered, 20, rng(), diversity=2)


def test_a_row_alone_is_not_typical() -> None:
    space = Space(np.eye(3, dtype=np.float32), np.arange(3))
    assert typicality(space, np.array([1]), np.array([1])).tolist() == [0]
    assert typicality(space, np.array([1]), np.arange(3)) == pytest.approx([1 / np.sqrt(2)])
