"""What the verdicts on a plan's items prove: one of three verdicts, bounds that hold, and who or what is worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from datasetops.audits.people.agreement import agreement
from datasetops.audits.sampling.bounds import Drawn, clopper_pearson, lower_bound, many_found, upper_bound
from datasetops.audits.sampling.estimates import Estimate, false_alarm_bound, prediction_powered, ratio, rogan_gladen
from datasetops.audits.sampling.plan import FOR_REVIEWERS
from datasetops.audits.sets.multiple_tests import holm
from datasetops.qa.plan import QaPlan
from datasetops.qa.verdicts import Verdict

_ENDED: Final = ("right", "wrong")


@dataclass(frozen=True)
class StratumResult:
    """Rates in [0, 1]. `low` and `high` hold with the plan's confidence each, for this stratum alone, at the end of every
    stage, and allow for reviewers' errors. `p` is Holm's, of being no worse than the limit."""

    name: str
    size: int
    checked: int
    wrong: int
    open: int
    rate: float | None
    low: float
    high: float
    p: float
    worse: bool


@dataclass(frozen=True)
class Coefficient:
    """An agreement between reviewers, with its 95 % interval by bootstrap over items; None where it is undefined."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Reviewers:
    """How far verdicts can be trusted. `sensitivity` and `false_alarms` are the bounds that the interval uses.

    `twice` items have the verdicts of two reviewers or more; `disagree` of them not the same ones. Krippendorff's `alpha`
    and Fleiss' `kappa` of those are None where every verdict is the same.
    """

    people: Mapping[str, int]
    planted: int
    caught: int
    sensitivity: float
    twice: int
    disagree: int
    alpha: Coefficient | None
    kappa: Coefficient | None
    false_alarms: float


@dataclass(frozen=True)
class QaResult:
    """`verdict`: accept (at most `limit` is wrong), reject (more is), inconclusive (`next_stage` was planned for that), or
    unfinished (`left` items of this stage have no verdict). `low` and `high` hold with `confidence` each, at the end of
    every stage. `open` items were reviewed without an outcome and count against whatever is claimed.
    """

    plan: str
    version: str
    commit: str
    verdict: str
    stage: int
    stages: int
    left: int
    next_stage: int | None
    population: int
    checked: int
    wrong: int
    open: int
    limit: float
    confidence: float
    rate: float
    corrected_rate: float | None
    low: float
    high: float
    attempt: int
    strata: tuple[StratumResult, ...]
    reviewers: Reviewers
    objects: Estimate | None
    with_scores: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def worse(self) -> list[str]:
        return [stratum.name for stratum in self.strata if stratum.worse]


def evaluate(plan: QaPlan, verdicts: Sequence[Verdict], scores: Mapping[str, float] | None = None) -> QaResult:
    """Judge a plan by the verdicts so far, stage by stage as it was planned; deterministic.

    `scores`: an audit's by sample_id, 1 = clean; where every item of the lot has one, an estimate leans on them.
    Items without a verdict count as wrong for the upper bound and as right for the lower one.
    """
    outcome = {name: _outcome(said) for name, said in _by_item(verdicts).items()}
    result = _stage_result(plan, 0, verdicts, outcome, scores)
    for number in range(1, len(plan.stages)):
        if result.verdict != "inconclusive":
            break
        fresh = set(plan.to_review(number)) - set(plan.to_review(number - 1))
        if fresh and not fresh & outcome.keys():  # where strata had their floor already, nothing is left to be sent
            break
        result = _stage_result(plan, number, verdicts, outcome, scores)
    return result


def _stage_result(
    plan: QaPlan,
    number: int,
    verdicts: Sequence[Verdict],
    outcome: Mapping[str, str],
    scores: Mapping[str, float] | None,
) -> QaResult:
    stage = plan.stages[number]
    main = plan.main(number)
    drawn = Drawn(plan.design.sizes, stage.drawn)
    population = drawn.population
    wrong = sum(outcome.get(item) == "wrong" for item in main)
    unclear = sum(outcome.get(item) not in _ENDED for item in main)
    left = sum(item not in outcome for item in plan.to_review(number))
    reviewers = _reviewers(plan, number, verdicts, outcome, stage.risk, (wrong + unclear) / max(1, len(main)))
    high = _high(wrong + unclear, drawn, stage.risk, reviewers)
    low = _low(wrong, drawn, stage.risk * plan.design.share_for_whole, reviewers)
    strata = _strata(plan, number, outcome, reviewers)
    most = plan.limit * population + 1e-9
    if low > most or any(stratum.worse for stratum in strata):
        verdict = "reject"
    elif high <= most and not (left and plan.per):
        verdict = "accept"
    else:
        verdict = "unfinished" if left else "inconclusive"
    rate = sum(s.size * (s.rate if s.rate is not None else wrong / max(1, len(main))) for s in strata) / population
    caught = reviewers.caught / reviewers.planted if reviewers.planted else 1.0
    alarms = reviewers.disagree / (2 * reviewers.twice) if reviewers.twice else 0.0
    measured = reviewers.planted or reviewers.twice
    return QaResult(
        plan=plan.name,
        version=plan.version,
        commit=plan.commit,
        verdict=verdict,
        stage=number + 1,
        stages=len(plan.stages),
        left=left,
        next_stage=number + 2 if verdict == "inconclusive" and number + 1 < len(plan.stages) else None,
        population=population,
        checked=len(main),
        wrong=wrong,
        open=unclear,
        limit=plan.limit,
        confidence=plan.confidence,
        rate=rate,
        corrected_rate=rogan_gladen(rate, caught, alarms) if measured else None,
        low=low / population,
        high=high / population,
        attempt=plan.attempt,
        strata=strata if plan.per else (),
        reviewers=reviewers,
        objects=_objects(main, verdicts, outcome, population),
        with_scores=_with_scores(plan, main, outcome, scores),
    )


def _by_item(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.sample_id, []).append(verdict)
    return found


def _outcome(said: Sequence[Verdict]) -> str:
    """What most reviewers say, without those who are unsure; "open" where they are evenly divided or all unsure."""
    counts = Counter(item.verdict for item in said if item.verdict in _ENDED)
    if not counts or counts["right"] == counts["wrong"]:
        return "open"
    return counts.most_common(1)[0][0]


def _reviewers(
    plan: QaPlan,
    number: int,
    verdicts: Sequence[Verdict],
    outcome: Mapping[str, str],
    risk: float,
    suspected: float,
) -> Reviewers:
    planted = plan.planted or {}
    caught = sum(outcome.get(item) == "wrong" for item in planted)
    drawn = set(plan.to_review(number)) - planted.keys()
    several = {
        item: [v.verdict for v in said]
        for item, said in _by_item([v for v in verdicts if v.verdict in _ENDED]).items()
        if item in drawn and len(said) > 1
    }
    disagree = sum(len(set(said)) > 1 for said in several.values())
    sure = 1 - risk * FOR_REVIEWERS
    return Reviewers(
        people=dict(Counter(item.reviewer for item in verdicts)),
        planted=len(planted),
        caught=caught,
        sensitivity=clopper_pearson(caught, len(planted), sure)[0] if planted else 1.0,
        twice=len(several),
        disagree=disagree,
        **_agreement(list(several.values())),
        false_alarms=false_alarm_bound(disagree, len(several), sure, 1 - suspected) if several else 0.0,
    )


def _agreement(said: Sequence[Sequence[str]]) -> dict[str, Coefficient | None]:
    items = np.repeat(np.arange(len(said)), [len(item) for item in said])
    labels = np.array([verdict == "wrong" for item in said for verdict in item], dtype=np.int64)
    found = agreement(items, labels)

    def coefficient(value: float, *ends: float) -> Coefficient | None:
        low, high = (None if np.isnan(end) else end for end in ends)
        return None if np.isnan(value) else Coefficient(value, low, high)

    return {
        "alpha": coefficient(found.alpha.value, found.alpha.low, found.alpha.high),
        "kappa": coefficient(found.fleiss.value, found.fleiss.low, found.fleiss.high),
    }


def _high(found: int, drawn: Drawn, risk: float, reviewers: Reviewers) -> int:
    """The most items that can be wrong, where planted errors were sought as far as reviewers found those."""
    for_sample = risk * (1 - FOR_REVIEWERS * (reviewers.planted > 0))
    return upper_bound(found, drawn, 1 - for_sample, sensitivity=reviewers.sensitivity)


def _low(found: int, drawn: Drawn, risk: float, reviewers: Reviewers) -> int:
    """The fewest, where second reviews were made without the false alarms that those allow for."""
    for_sample = risk * (1 - FOR_REVIEWERS * (reviewers.twice > 0))
    return lower_bound(found, drawn, 1 - for_sample, false_alarms=reviewers.false_alarms)


def _strata(plan: QaPlan, number: int, outcome: Mapping[str, str], reviewers: Reviewers) -> tuple[StratumResult, ...]:
    risk = plan.stages[number].risk
    tallies = []
    for stratum, n in zip(plan.strata, plan.stages[number].drawn, strict=True):
        items = stratum.order[: max(n, stratum.floor)]
        wrong = sum(outcome.get(item) == "wrong" for item in items)
        unclear = sum(outcome.get(item) not in _ENDED for item in items)
        tallies.append((stratum, Drawn((stratum.size,), (len(items),)), wrong, unclear))
    chances = [
        many_found(wrong, int(plan.limit * stratum.size + 1e-9), drawn, false_alarms=reviewers.false_alarms)
        for stratum, drawn, wrong, _ in tallies
    ]
    for_tests = risk * (1 - plan.design.share_for_whole) * (1 - FOR_REVIEWERS * (reviewers.twice > 0))
    return tuple(
        StratumResult(
            name=stratum.name,
            size=stratum.size,
            checked=drawn.checked,
            wrong=wrong,
            open=unclear,
            rate=wrong / (drawn.checked - unclear) if drawn.checked > unclear else None,
            low=_low(wrong, drawn, risk, reviewers) / stratum.size,
            high=_high(wrong + unclear, drawn, risk, reviewers) / stratum.size,
            p=float(p),
            worse=len(plan.strata) > 1 and bool(p <= for_tests),
        )
        for (stratum, drawn, wrong, unclear), p in zip(tallies, holm(chances), strict=True)
    )


def _objects(
    main: Sequence[str], verdicts: Sequence[Verdict], outcome: Mapping[str, str], population: int
) -> Estimate | None:
    first = {item.sample_id: item for item in reversed(verdicts) if item.objects is not None}
    counted = [first[item] for item in main if item in first]
    if not counted or len(counted) < sum(item in outcome for item in main) or all(v.objects == 1 for v in counted):
        return None
    wrong = np.array([item.wrong_objects or 0 for item in counted])
    return ratio(wrong, np.array([item.objects for item in counted]), population)


def _with_scores(
    plan: QaPlan, main: Sequence[str], outcome: Mapping[str, str], scores: Mapping[str, float] | None
) -> Estimate | None:
    judged = [item for item in main if outcome.get(item) in _ENDED]
    if not scores or len(scores) < plan.design.population or any(item not in scores for item in judged):
        return None
    sampled = np.array([1 - scores[item] for item in judged])
    wrong = np.array([outcome[item] == "wrong" for item in judged])
    return prediction_powered(sampled, wrong, 1 - np.fromiter(scores.values(), dtype=float), plan.confidence)
