"""Sampling plans and bounds: against exact arithmetic, the literature's figures, and simulation."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from datasetops.audits.sampling.bounds import (
    Drawn,
    clopper_pearson,
    few_found,
    lower_bound,
    many_found,
    upper_bound,
)
from datasetops.audits.sampling.estimates import false_alarm_bound, prediction_powered, ratio, rogan_gladen
from datasetops.audits.sampling.plan import allocate, design
from datasetops.audits.sets.multiple_tests import holm


def exact(found: int, population: int, defects: int, drawn: int) -> Fraction:
    """Chance of finding at most so many, in integers."""
    ways = sum(comb(defects, x) * comb(population - defects, drawn - x) for x in range(min(found, drawn) + 1))
    return Fraction(ways, comb(population, drawn))


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("population", "drawn", "found"), [(30, 7, 0), (30, 7, 3), (40, 40, 5), (25, 24, 1), (60, 1, 1)]
)
def test_simple_bounds_are_the_exact_ones(population: int, drawn: int, found: int) -> None:
    sample = Drawn((population,), (drawn,))
    possible = range(found, population - drawn + found + 1)
    assert upper_bound(found, sample, 0.95) == max(d for d in possible if exact(found, population, d, drawn) > 0.05)
    assert lower_bound(found, sample, 0.95) == min(
        d for d in possible if 1 - exact(found - 1, population, d, drawn) > 0.05
    )


def test_a_large_lot_has_clopper_and_pearsons_bounds() -> None:
    sample = Drawn((100_000_000,), (300,))
    low, high = clopper_pearson(5, 300, 0.95)
    assert upper_bound(5, sample, 0.95) / 1e8 == pytest.approx(high, abs=1e-6)
    assert lower_bound(5, sample, 0.95) / 1e8 == pytest.approx(low, abs=1e-6)
    interval = binomtest(5, 300).proportion_ci(0.9, "exact")
    assert (low, high) == pytest.approx((interval.low, interval.high))


def test_twenty_clean_frames_show_86_percent() -> None:
    assert 1 - clopper_pearson(0, 20, 0.95)[1] == pytest.approx(0.861, abs=0.001)


@pytest.mark.parametrize(
    ("sizes", "drawn"), [((8, 12), (4, 3)), ((6, 6, 6), (2, 3, 1)), ((3, 17), (0, 9)), ((10, 5), (10, 1))]
)
@pytest.mark.parametrize("sensitivity", [1.0, 0.7])
def test_no_way_to_spread_defects_breaks_the_tail_bounds(
    sizes: tuple[int, ...], drawn: tuple[int, ...], sensitivity: float
) -> None:
    sample = Drawn(sizes, drawn)
    for split in itertools.product(*(range(size + 1) for size in sizes)):
        law = np.array([1.0])
        for size, bad, n in zip(sizes, split, drawn, strict=True):
            part = hypergeom.pmf(np.arange(n + 1), size, bad, n)
            law = np.convolve(law, part)
        counts = np.arange(len(law))
        seen = np.array(
            [
                sum(law[k] * comb(k, x) * sensitivity**x * (1 - sensitivity) ** (k - x) for k in range(x, len(law)))
                for x in counts
            ]
        )
        for found in counts:
            below = few_found(int(found), sum(split), sample, sensitivity=sensitivity)
            assert seen[: found + 1].sum() <= below + 1e-9
            assert law[found:].sum() <= many_found(int(found), sum(split), sample) + 1e-9


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("sizes", "even"),
    [((1000,), True), ((200,), True), ((400, 300, 200, 100), True), ((400, 300, 200, 100), False), ((30,) * 20, False)],
)
def test_bounds_cover_the_truth(rate: float, sizes: tuple[int, ...], even: bool) -> None:
    """1,000 draws each: with 95 % coverage, fewer than 929 hits have a chance below 0.2 %."""
    rng = np.random.default_rng(7)
    total = round(rate * sum(sizes))
    split = (
        [round(rate * size) for size in sizes]
        if even
        else np.clip(total - (np.cumsum(sizes) - sizes), 0, sizes).tolist()
    )
    sample = Drawn(sizes, allocate(sizes, 120))
    found = sum(
        rng.hypergeometric(bad, size - bad, n, 1000) for size, bad, n in zip(sizes, split, sample.drawn, strict=True)
    )
    bounds = {int(x): (lower_bound(int(x), sample, 0.95), upper_bound(int(x), sample, 0.95)) for x in np.unique(found)}
    truth = sum(split)
    assert sum(bounds[int(x)][1] >= truth for x in found) >= 929
    assert sum(bounds[int(x)][0] <= truth for x in found) >= 929


@pytest.mark.slow
def test_bounds_cover_the_truth_where_reviewers_err() -> None:
    rng = np.random.default_rng(3)
    sample, bad = Drawn((500, 300), (100, 60)), (60, 12)
    seen = sum(
        rng.hypergeometric(b, size - b, n, 1000) for size, b, n in zip(sample.sizes, bad, sample.drawn, strict=True)
    )
    caught = rng.binomial(seen, 0.8)
    said = caught + rng.binomial(sample.checked - seen, 0.03)
    above = [upper_bound(int(x), sample, 0.95, sensitivity=0.8) >= sum(bad) for x in caught]
    below = [lower_bound(int(x), sample, 0.95, false_alarms=0.03) <= sum(bad) for x in said]
    assert min(sum(above), sum(below)) >= 929
    blind = [upper_bound(int(x), sample, 0.95) >= sum(bad) for x in caught]
    assert sum(blind) < 929  # what it would be if reviewers were taken to find everything


def test_holm_equals_statsmodels() -> None:
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    p = [0.01, 0.04, 0.03, 0.005, 0.5, 0.04]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_one_bad_annotator_of_ten_is_caught() -> None:
    """30 checks each, 5 % of the lot wrong, all by one: found in nine of ten cases, as published for this design."""
    rng = np.random.default_rng(0)
    caught = 0
    for _ in range(300):
        found = [rng.hypergeometric(bad, 200 - bad, 30) for bad in [60, *[4] * 9]]
        p = holm([hypergeom.sf(x - 1, 200, 10, 30) for x in found])
        caught += p[0] <= 0.05
    assert 0.85 <= caught / 300 <= 0.99


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 5 of a stratum of 5; got 6"):
        Drawn((5,), (6,))
    with pytest.raises(ValueError, match="confidence: expected a number between 0 and 1; got 1"):
        upper_bound(0, Drawn((5,), (2,)), 1.0)


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "accept", "good"), [(56, 0, 0.31), (117, 2, 0.58), (193, 5, 0.83), (308, 10, 0.98)])
def test_plans_for_a_lot_of_a_thousand(size: int, accept: int, good: float) -> None:
    plan = design([1000], stages=1, size=size)
    assert plan.stages[0].accept == accept
    assert plan.consumer_risk <= 0.05
    assert design([1000], stages=1, size=size - 1).stages[0].accept == accept - 1
    assert plan.acceptance(20)[0] == pytest.approx(good, abs=0.005)


@pytest.mark.parametrize(("population", "size"), [(500, 180), (10_000_000, 208)])
def test_a_smaller_lot_needs_fewer_checks(population: int, size: int) -> None:
    assert design([population], stages=1, size=size).stages[0].accept == 5
    assert design([population], stages=1, size=size - 1).stages[0].accept == 4


@pytest.mark.parametrize("sizes", [[1000], [600, 300, 90, 10], [50] * 10, [40], [3, 2], [1], [100_000_000]])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_both_risks_are_kept(sizes: list[int], stages: int) -> None:
    plan = design(sizes, stages=stages)
    population = sum(sizes)
    over = int(plan.limit * population + 1e-9) + 1
    assert plan.acceptance(over)[0] <= 0.05 + 1e-9
    assert plan.acceptance(over - 1)[1] <= 0.05 + 1e-9
    assert plan.acceptance(int(plan.expected * population))[0] >= 0.9 or plan.stages[-1].checked == population
    drawn = [stage.checked for stage in plan.stages]
    assert drawn == sorted(set(drawn))
    for before, after in itertools.pairwise(plan.stages):
        assert all(a <= b for a, b in zip(before.drawn, after.drawn, strict=True))


def test_the_operating_characteristic_is_what_happens() -> None:
    plan = design([800])
    rng = np.random.default_rng(5)
    for defects in (16, 41, 80):
        verdicts = []
        for _ in range(2000):
            first = rng.hypergeometric(defects, 800 - defects, plan.stages[0].checked)
            second = first + rng.hypergeometric(
                defects - first,
                800 - defects - (plan.stages[0].checked - first),
                plan.stages[1].checked - plan.stages[0].checked,
            )
            verdicts.append(_verdict(plan.stages[0], first) or _verdict(plan.stages[1], second) or "neither")
        accepted, rejected, _ = plan.acceptance(defects)
        assert verdicts.count("accept") / 2000 == pytest.approx(accepted, abs=0.035)
        assert verdicts.count("reject") / 2000 == pytest.approx(rejected, abs=0.035)


def _verdict(stage: object, found: int) -> str | None:
    return "accept" if found <= stage.accept else "reject" if found >= stage.reject else None  # type: ignore[attr-defined]


def test_proportional_shares_grow_with_the_sample() -> None:
    sizes = [997, 403, 51, 7, 1]
    before = (0,) * 5
    for count in range(sum(sizes) + 1):
        shares = allocate(sizes, count)
        assert sum(shares) == count
        assert all(b <= s <= size for b, s, size in zip(before, shares, sizes, strict=True))
        before = shares
    assert allocate([997, 403], 140) == (100, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pass_rate": 1.0}, "pass: expected a number between 0 and 1; got 1: no sample shows"),
        ({"pass_rate": 0.0}, "pass: expected"),
        ({"confidence": 1.2}, "confidence: expected"),
        ({"size": 101}, "size: expected 1 to 100, the items of the lot; got 101"),
        ({"expected": 0.07}, "expected: an error rate below 0.05"),
        ({"stages": 0}, "stages: expected 1 to 10"),
    ],
)
def test_plans_that_cannot_exist_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design([100], **options)  # type: ignore[arg-type]


def test_an_empty_lot_is_refused() -> None:
    with pytest.raises(ValueError, match="the lot is empty"):
        design([])


# --- estimates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("useful", [True, False])
def test_leaning_on_scores_keeps_coverage_and_saves_checks(rate: float, useful: bool) -> None:
    rng = np.random.default_rng(11)
    wrong = rng.random(4000) < rate
    scores = np.clip(np.where(wrong, 0.8, 0.1) + rng.normal(0, 0.1, 4000), 0, 1) if useful else rng.random(4000)
    hits, gains = 0, []
    for _ in range(500):
        drawn = rng.choice(4000, 400, replace=False)
        found = prediction_powered(scores[drawn], wrong[drawn], scores)
        if found is None:
            continue
        hits += found.low <= wrong.mean() <= found.high
        gains.append(found.gain)
    assert hits / len(gains) >= 0.92
    assert np.median(gains) > 2 if useful else 0.9 < np.median(gains) < 1.1


def test_no_estimate_from_a_handful_of_errors() -> None:
    assert prediction_powered(np.linspace(0, 1, 50), np.arange(50) < 4, np.linspace(0, 1, 500)) is None


def test_objects_of_one_image_are_not_independent() -> None:
    """Images are all right or all wrong: the interval must be as wide as the number of images says."""
    rng = np.random.default_rng(2)
    objects = rng.integers(5, 30, 3000)
    wrong = np.where(rng.random(3000) < 0.2, objects, 0)
    truth = wrong.sum() / objects.sum()
    hits = 0
    for _ in range(400):
        drawn = rng.choice(3000, 150, replace=False)
        found = ratio(wrong[drawn], objects[drawn], 3000)
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 400 <= 0.99


def test_reviewers_who_err() -> None:
    assert rogan_gladen(0.8 * 0.08 + 0.01 * 0.92, 0.8, 0.01) == pytest.approx(0.08)
    assert pytest.approx(0.073, abs=0.0005) == 0.8 * 0.08 + 0.01 * 0.92  # what a true 8 % looks like
    assert rogan_gladen(0.5, 0.4, 0.4) is None
    assert false_alarm_bound(0, 400, 0.99, 1.0) < 0.01
    assert false_alarm_bound(10, 10, 0.99, 0.5) == 0.5
    rng = np.random.default_rng(1)
    held = [
        false_alarm_bound(
            int((rng.random(100) < 0.05).astype(int).__ne__(rng.random(100) < 0.05).sum()), 100, 0.95, 1.0
        )
        >= 0.05
        for _ in range(400)
    ]
    assert np.mean(held) >= 0.93
