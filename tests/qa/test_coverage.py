"""The staged verdict holds its promises: simulated reviews of lots with a known number of wrong items."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from datasetops.audits.sampling.plan import design
from datasetops.qa.plan import QaPlan, Stratum
from datasetops.qa.result import QaResult, evaluate
from datasetops.qa.verdicts import Verdict

RUNS = 120
RISK = 0.05
MOST = RISK * RUNS + 3 * np.sqrt(RISK * (1 - RISK) * RUNS)  # what chance brings in so many runs


@dataclass
class Tally:
    """How often something went wrong in all runs of one setting."""

    accepted: int = 0
    rejected: int = 0
    below: int = 0
    above: int = 0
    strata: dict[str, list[int]] = field(default_factory=dict)  # ends that missed: [below, above]


def plan_of(sizes: list[int], rng: np.random.Generator, blank: Any, planted: int, second: float) -> QaPlan:
    """The plan with its items in a random order, named "<stratum>.<number>"."""
    strata = []
    for h, size in enumerate(sizes):
        most = max(blank.stages[-1].drawn[h], blank.floor[h])
        order = tuple(f"{h}.{i}" for i in rng.permutation(size)[:most])
        strata.append(Stratum(f"s{h}", size, blank.floor[h], order))
    chosen = [item for stratum in strata for item in stratum.order]
    return QaPlan(
        name="q1", version="v1", commit="c", where=None, per=("annotator",) if len(sizes) > 1 else (), seed="s",
        created="", actor="lead", confidence=blank.confidence, limit=blank.limit, expected=blank.expected,
        producer_risk=blank.producer_risk, stages=blank.stages, strata=tuple(strata), iou=0.5, attempt=1, left_out=0,
        second=tuple(rng.permutation(chosen)[: round(second * len(chosen))].tolist()),
        planted={f"p.{i}": "cat" for i in range(planted)},
    )  # fmt: skip


def reviewed(
    plan: QaPlan, bad: set[str], rng: np.random.Generator, sensitivity: float, false_alarms: float
) -> list[QaResult]:
    """Results after each stage that was reached, as a lead sees them who looks whenever a stage ends."""
    verdicts: list[Verdict] = []
    results: list[QaResult] = []
    seen: set[str] = set()
    for stage in range(len(plan.stages)):
        for item in plan.to_review(stage):
            if item in seen:
                continue
            seen.add(item)
            for who in ("zoe", "yan")[: 1 + (item in plan.second)]:
                wrong = item in bad or item.startswith("p.")
                says = rng.random() < (sensitivity if wrong else false_alarms)
                verdicts.append(Verdict(item, who, "wrong" if says else "right"))
        results.append(evaluate(plan, verdicts))
        if results[-1].verdict != "inconclusive":
            break
    return results


def simulate(
    sizes: list[int], counts: list[int], *, planted: int = 0, second: float = 0.0, sensitivity: float = 1.0,
    false_alarms: float = 0.0, floor: int = 0, **options: Any,
) -> Tally:  # fmt: skip
    rng = np.random.default_rng(7)
    blank = design(sizes, floor=floor, planted=planted, second=second, **options)
    tally = Tally(strata={f"s{h}": [0, 0] for h in range(len(sizes))})
    true = sum(counts) / sum(sizes)
    for _ in range(RUNS):
        plan = plan_of(sizes, rng, blank, planted, second)
        bad = {
            f"{h}.{i}" for h, (size, n) in enumerate(zip(sizes, counts, strict=True)) for i in rng.permutation(size)[:n]
        }
        results = reviewed(plan, bad, rng, sensitivity, false_alarms)
        tally.accepted += results[-1].verdict == "accept"
        tally.rejected += results[-1].verdict == "reject"
        tally.below += any(result.low > true + 1e-12 for result in results)
        tally.above += any(result.high < true - 1e-12 for result in results)
        for h, count in enumerate(counts):
            own = [stratum for result in results for stratum in result.strata if stratum.name == f"s{h}"]
            tally.strata[f"s{h}"][0] += any(stratum.low > count / sizes[h] + 1e-12 for stratum in own)
            tally.strata[f"s{h}"][1] += any(stratum.high < count / sizes[h] - 1e-12 for stratum in own)
    return tally


def holds(tally: Tally) -> None:
    assert max(tally.below, tally.above) <= MOST
    assert max(max(ends) for ends in tally.strata.values()) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([1000], [51]),  # just over the limit of 5 %
        ([300], [16]),
        ([400, 400, 200], [21, 20, 11]),  # in every stratum
        ([400, 400, 200], [0, 0, 51]),  # heaped in the smallest
        ([500, *[25] * 10], [40, *[0] * 10]),
    ],
)
def test_a_lot_over_the_limit_is_seldom_accepted(sizes: list[int], counts: list[int], stages: int) -> None:
    tally = simulate(sizes, counts, stages=stages, floor=20)
    assert tally.accepted <= MOST
    holds(tally)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(
    ("sizes", "counts"), [([1000], [50]), ([300], [15]), ([400, 400, 200], [20, 20, 10]), ([100] * 10, [5] * 10)]
)
def test_a_lot_at_the_limit_is_seldom_rejected(sizes: list[int], counts: list[int], stages: int) -> None:
    """Neither as a whole nor for a stratum, each of which is at the limit too."""
    tally = simulate(sizes, counts, stages=stages, floor=20)
    assert tally.rejected <= MOST
    holds(tally)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.3])
def test_intervals_hold_at_other_rates(rate: float) -> None:
    for sizes in ([200], [2000], [300, 100, 50]):
        holds(simulate(sizes, [round(rate * size) for size in sizes], floor=20))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1000], [500, 300, 200]])
def test_reviewers_who_err_do_not_break_the_promises(sizes: list[int]) -> None:
    over, at = [round(0.052 * size) for size in sizes], [round(0.05 * size) for size in sizes]
    missing = simulate(sizes, over, planted=60, sensitivity=0.85, floor=20)
    assert missing.accepted <= MOST
    holds(missing)
    alarming = simulate(sizes, at, second=0.5, false_alarms=0.03, floor=20)
    assert alarming.rejected <= MOST
    holds(alarming)


@pytest.mark.slow
def test_what_the_bounds_take_for_granted_matters() -> None:
    """The same reviewers break the promises where nothing was planted: the tests above can fail."""
    blind = simulate([1000], [60], sensitivity=0.5, size=400)
    assert blind.accepted > MOST
    assert blind.above > MOST


def test_a_bad_stratum_rejects_the_lot() -> None:
    rng = np.random.default_rng(3)
    sizes = [300, 300, 300]
    blank = design(sizes, pass_rate=0.9, floor=60)
    plan = plan_of(sizes, rng, blank, 0, 0.0)
    bad = {f"1.{i}" for i in range(120)}
    result = reviewed(replace(plan, per=("annotator",)), bad, rng, 1.0, 0.0)[-1]
    assert result.verdict == "reject"
    assert result.worse == ["s1"]
    assert [stratum.name for stratum in result.strata if stratum.p > 0.05] == ["s0", "s2"]
