"""Coefficients of agreement against published tables and other packages."""

from __future__ import annotations

import numpy as np
import pytest

from datasetops.audits.people.agreement import (
    agreement,
    box_agreement,
    cohen_kappa,
    pairs_within,
    pairwise_agreement,
)

# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: four observers, twelve units.
UNITS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
# The worked example of "Fleiss' kappa", Wikipedia: counts of fourteen raters for ten subjects.
SUBJECTS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
# Fleiss, "Statistical methods for rates and proportions" (1981), table 13.1: two raters, a hundred subjects.
TWO_RATERS = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]


def crowd(seed: int, *, missing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items, annotators and labels in any order, and the same as a matrix with NaN."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, 120, p=[0.5, 0.3, 0.15, 0.05])
    wide = np.where(rng.random((120, 9)) < 0.6, truth[:, None], rng.integers(0, 4, (120, 9))).astype(float)
    wide[rng.random(wide.shape) < missing] = np.nan
    items, annotators = np.nonzero(~np.isnan(wide))
    order = rng.permutation(len(items))
    items, annotators = items[order], annotators[order]
    return items, annotators, wide[items, annotators].astype(np.int64), wide


def test_published_tables() -> None:
    units = np.array(UNITS)
    who, item = np.nonzero(units)
    assert agreement(item, units[who, item], resamples=0).alpha.value == pytest.approx(0.743, abs=5e-4)
    counts = np.array(SUBJECTS)
    subject, category = np.nonzero(counts)
    times = counts[subject, category]
    assert agreement(np.repeat(subject, times), np.repeat(category, times), resamples=0).fleiss.value == pytest.approx(
        0.210, abs=5e-4
    )
    first, second = np.nonzero(TWO_RATERS)
    times = np.array(TWO_RATERS)[first, second]
    assert cohen_kappa(np.repeat(first, times), np.repeat(second, times)).value == pytest.approx(0.676, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_equals_that_of_krippendorff(seed: int) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    items, _, labels, wide = crowd(seed, missing=0.7)  # some items with one answer, some with none
    expected = krippendorff.alpha(wide.T, level_of_measurement="nominal")
    assert agreement(items, labels, resamples=0).alpha.value == pytest.approx(expected, abs=1e-12)


def test_fleiss_equals_that_of_statsmodels() -> None:
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    items, _, labels, wide = crowd(1, missing=0.0)
    table = np.stack([(wide == k).sum(axis=1) for k in range(4)], axis=1)
    assert agreement(items, labels, resamples=0).fleiss.value == pytest.approx(rater.fleiss_kappa(table), abs=1e-12)


def test_pairs_equal_those_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    items, annotators, labels, wide = crowd(2, missing=0.5)
    pairs = pairwise_agreement(items, annotators, labels)
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(a, b) for a in range(9) for b in range(a + 1, 9)]
    for p, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        both = ~np.isnan(wide[:, a]) & ~np.isnan(wide[:, b])
        one, other = wide[both, a].astype(int), wide[both, b].astype(int)
        assert pairs.shared[p] == both.sum()
        assert pairs.agreed[p] == pytest.approx((one == other).mean())
        assert pairs.kappa[p] == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
        assert cohen_kappa(one, other).value == pytest.approx(pairs.kappa[p], abs=1e-12)
    fewer = pairwise_agreement(items, annotators, labels, least=33)
    assert fewer.first.tolist() == pairs.first[pairs.shared >= 33].tolist()


def test_all_agree_and_nobody_to_agree_with() -> None:
    items, labels = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0])
    found = agreement(items, labels)
    assert (found.raw.value, found.alpha.value, found.fleiss.value) == (1, 1, 1)
    assert (found.items, found.answers, found.raters) == (2, 4, (2, 2))
    assert np.isnan(
        agreement(items, np.zeros(5, dtype=int), resamples=0).alpha.value
    )  # one class: chance explains everything
    assert agreement(items, np.zeros(5, dtype=int), resamples=0).raw.value == 1
    alone = agreement(np.arange(4), np.array([0, 1, 0, 1]))
    assert np.isnan([alone.raw.value, alone.alpha.value, alone.fleiss.value, alone.alpha.low]).all()
    nobody = np.empty(0, dtype=np.int64)
    assert np.isnan(cohen_kappa(nobody, nobody, resamples=5).value)
    assert np.isnan(agreement(nobody, nobody, resamples=0).alpha.value)
    assert not len(pairwise_agreement(np.arange(3), np.arange(3), np.arange(3)).first)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Alpha of many crowds from one population, each with its interval, against alpha of a very large one."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        labels = np.where(rng.random((n, 3)) < 0.7, truth[:, None], rng.integers(0, 3, (n, 3)))
        return np.repeat(np.arange(n), 3), labels.ravel()

    true = agreement(*draw(np.random.default_rng(0), 300_000), resamples=0)
    inside = np.zeros(3)
    for seed in range(200):
        found = agreement(*draw(np.random.default_rng(seed + 1), 150), resamples=300, seed=seed)
        for i, name in enumerate(("raw", "alpha", "fleiss")):
            estimate = getattr(found, name)
            inside[i] += estimate.low <= getattr(true, name).value <= estimate.high
    assert (inside >= 180).all()  # 95 % of 200 are 190, with a deviation of 3
    assert (inside < 200).any()


def test_the_same_seed_gives_the_same_interval() -> None:
    items, _, labels, _ = crowd(3, missing=0.4)
    assert agreement(items, labels, seed=5) == agreement(items, labels, seed=5)
    assert agreement(items, labels, seed=5).alpha.low != agreement(items, labels, seed=6).alpha.low


def test_pairs_within_gives_each_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasetops.audits.people.agreement._CHUNK", 4)
    groups = np.array([7, 3, 7, 7, 3, 9, 2, 2])
    found = [tuple(sorted(pair)) for one, other in pairs_within(groups) for pair in zip(one, other, strict=True)]
    assert sorted(found) == [(0, 2), (0, 3), (1, 4), (2, 3), (6, 7)]


def test_boxes_are_matched_one_to_one_and_class_by_class() -> None:
    boxes = np.array(
        [
            [0, 0, 10, 10],  # a, image 0
            [20, 0, 30, 10],
            [0, 0, 10, 9],  # b: matches the first
            [0, 0, 9, 10],  # b: a second box of the same thing
            [20, 0, 30, 11],  # b: the second thing, called otherwise
            [0, 0, 10, 10],  # c: far from nothing, but alone in image 1
            [0, 0, 4, 4],  # c in image 0: too small to match
        ],
        dtype=float,
    )
    images, people = np.array([0, 0, 0, 0, 0, 1, 0]), np.array([0, 0, 1, 1, 1, 2, 2])
    found = box_agreement(images, people, np.array([5, 5, 5, 5, 6, 5, 5]), boxes)
    told = dict(
        zip(zip(found.first, found.second, strict=True), zip(found.matched, found.alike, strict=True), strict=True)
    )
    assert told == {(0, 1): (2, 1), (0, 2): (0, 0), (1, 2): (0, 0)}
    assert found.f1.tolist() == [2 / 5, 0, 0]
    assert set(found.image) == {0}


def test_the_same_class_is_matched_before_a_better_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 7]], dtype=float)
    found = box_agreement(np.zeros(3, dtype=int), np.array([0, 1, 1]), np.array([1, 2, 1]), boxes)
    assert (found.matched.tolist(), found.alike.tolist()) == ([1], [1])


def test_matching_equals_a_plain_greedy_loop() -> None:
    rng = np.random.default_rng(0)
    corner = rng.random((60, 2)) * 30
    boxes = np.concatenate([corner, corner + 10 + rng.random((60, 2)) * 10], axis=1)
    images, people, labels = rng.integers(0, 2, 60), rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    found = box_agreement(images, people, labels, boxes)
    for row in range(len(found.image)):
        a, b = (
            np.flatnonzero((images == found.image[row]) & (people == p)) for p in (found.first[row], found.second[row])
        )
        low, high = (
            np.maximum(boxes[a, None, :2], boxes[None, b, :2]),
            np.minimum(boxes[a, None, 2:], boxes[None, b, 2:]),
        )
        inner = (high - low).clip(0).prod(axis=2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        iou = inner / (area[a, None] + area[None, b] - inner)
        rank = np.where(iou >= 0.5, iou + (labels[a, None] == labels[None, b]), -1)
        matched = alike = 0
        while rank.size and rank.max() > 0:
            i, j = np.unravel_index(rank.argmax(), rank.shape)
            matched, alike = matched + 1, alike + int(labels[a[i]] == labels[b[j]])
            rank[i, :], rank[:, j] = -1, -1
        assert (found.matched[row], found.alike[row], found.boxes[row]) == (matched, alike, len(a) + len(b))
