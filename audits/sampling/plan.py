"""Sampling plans: how many items to check, in which stages, and when to accept, so that a claim can be made afterwards.

The claim is: with this confidence at most this share of the lot is wrong. The risk that it is false is spent over the
stages (Bonferroni), so that looking at the end of each stage keeps it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from datasetops.audits.sampling.bounds import Drawn, clopper_pearson, few_found, many_found
from datasetops.audits.sampling.estimates import false_alarm_bound

FOR_REVIEWERS: Final = 0.2  # of each risk, spent on not knowing how often reviewers err
_RATE_POINTS: Final = 41  # of the operating characteristic


@dataclass(frozen=True)
class Stage:
    """`drawn` (H,) items of each stratum have been checked when it ends, those of earlier stages included.

    At most `accept` defects found: the lot is accepted; `reject` or more: rejected. -1, or one more than all, never.
    """

    drawn: tuple[int, ...]
    risk: float
    accept: int
    reject: int

    @property
    def checked(self) -> int:
        return sum(self.drawn)


@dataclass(frozen=True)
class Plan:
    """`sizes` (H,) are the lot's strata; `limit` the share that may be wrong; `floor` the extra items a stratum gets so
    that it can be judged by itself, which never enter the claim about the lot. With `planted` errors beside the sample
    the numbers of its stages allow for what reviewers may miss although they found all of those; where the share `second`
    is reviewed twice, for the false alarms there may be although no two reviewers disagreed."""

    sizes: tuple[int, ...]
    limit: float
    confidence: float
    expected: float
    producer_risk: float
    stages: tuple[Stage, ...]
    floor: tuple[int, ...]
    planted: int = 0
    second: float = 0.0

    @property
    def population(self) -> int:
        return sum(self.sizes)

    @property
    def share_for_whole(self) -> float:
        """Of the risk of a false rejection, what goes to the test of the whole lot; the rest to those of its strata."""
        return 0.5 if len(self.sizes) > 1 else 1.0

    @cached_property
    def consumer_risk(self) -> float:
        """Chance of accepting a lot that is just over the limit, its defects spread evenly."""
        return self.acceptance(_over(self.limit, self.population))[0]

    def acceptance(self, defects: int) -> tuple[float, float, float]:
        """(chance of accepting, of rejecting, mean number of items checked), exact for defects spread evenly."""
        alive = np.array([1.0])
        accepted = rejected = cost = 0.0
        before = 0
        for stage in self.stages:
            step = stage.checked - before
            cost += step * float(alive.sum())
            alive = _after(alive, self.population - before, defects, step)
            accepted += float(alive[: stage.accept + 1].sum())
            rejected += float(alive[stage.reject :].sum())
            alive[: stage.accept + 1] = 0
            alive[stage.reject :] = 0
            before = stage.checked
        return accepted, rejected, cost

    def operating_characteristic(self) -> list[dict[str, float]]:
        """By true error rate from 0 to three times the limit: chances of each verdict, mean number of items checked."""
        rates = np.linspace(0, min(1.0, 3 * self.limit), _RATE_POINTS)
        counts = sorted({round(float(rate) * self.population) for rate in rates})
        rows = []
        for defects in counts:
            accepted, rejected, cost = self.acceptance(defects)
            rows.append(
                {
                    "rate": defects / self.population,
                    "accept": accepted,
                    "reject": rejected,
                    "inconclusive": max(0.0, 1 - accepted - rejected),
                    "checked": cost,
                }
            )
        return rows


def design(
    sizes: Sequence[int],
    *,
    pass_rate: float = 0.95,
    confidence: float = 0.95,
    producer_risk: float = 0.1,
    expected: float | None = None,
    stages: int = 2,
    floor: int = 0,
    size: int | None = None,
    planted: int = 0,
    second: float = 0.0,
) -> Plan:
    """The smallest plan that keeps both risks.

    A lot with more than 1 - `pass_rate` wrong is accepted with a chance of at most 1 - `confidence`, wherever its
    defects are; one with `expected` wrong (two fifths of the limit unless told) is not accepted with a chance of at most
    `producer_risk`. `sizes` (H,) are items by stratum, each of which gets `floor` checks at least. `size` fixes how many
    are checked in all stages together instead; `planted` and `second` as in Plan. Raises ValueError for a plan that cannot exist.
    """
    strata = tuple(int(size) for size in sizes)
    if not strata or min(strata) < 1:
        raise ValueError("the lot is empty: there is nothing to draw from")
    _check_rates(pass_rate, confidence, producer_risk, stages)
    limit = round(1 - pass_rate, 12)
    hoped = 0.4 * limit if expected is None else expected
    if not 0 <= hoped < limit:
        raise ValueError(f"expected: an error rate below {limit:.3g}, which is what may be wrong; got {hoped:g}")
    population = sum(strata)
    if size is not None and not 1 <= size <= population:
        raise ValueError(f"size: expected 1 to {population:,}, the items of the lot; got {size:,}")
    blank = Plan(
        strata, limit, confidence, hoped, producer_risk, (), tuple(min(floor, n) for n in strata), planted, second
    )
    if size is not None:
        return replace(blank, stages=_stages(blank, size, stages))
    good = math.floor(hoped * population + 1e-9)

    last = (1 - confidence) * stages / sum(range(1, stages + 1))
    for checked in _turning_points(strata, blank.limit, *_shared(last, planted)):
        plan = replace(blank, stages=_stages(blank, checked, stages))
        if plan.acceptance(good)[0] >= 1 - producer_risk:
            break
    return plan


def _turning_points(sizes: tuple[int, ...], limit: float, risk: float, sensitivity: float) -> Iterator[int]:
    """The least number of checks with which 0, 1, 2, … defects are still accepted; between them, more checks only make
    it harder to be accepted. The whole lot comes last."""
    over, population = _over(limit, sum(sizes)), sum(sizes)

    def enough(accept: int, checked: int) -> bool:
        return few_found(accept, over, Drawn(sizes, allocate(sizes, checked)), sensitivity=sensitivity) <= risk

    low = 0
    for accept in range(over):
        high = max(1, 2 * low)
        while high < population and not enough(accept, high):
            low, high = high, 2 * high
        high = min(high, population)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(accept, middle) else (middle, high)
        if high == population:
            break
        yield high
        low = high
    yield population


def allocate(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` items over strata in proportion to their sizes, by Webster's method: more items never take one away."""
    population = sum(sizes)
    if count >= population:
        return tuple(sizes)
    # All but the last few are clear at once; the rest go one by one to whoever is owed most.
    taken = [max(0, min(size, math.floor(size * (count - len(sizes)) / population))) for size in sizes]
    queue = [((taken[h] + 0.5) / size, h) for h, size in enumerate(sizes)]
    heapq.heapify(queue)
    for _ in range(count - sum(taken)):
        _, h = heapq.heappop(queue)
        taken[h] += 1
        if taken[h] < sizes[h]:
            heapq.heappush(queue, ((taken[h] + 0.5) / sizes[h], h))
    return tuple(taken)


def _stages(plan: Plan, checked: int, count: int) -> tuple[Stage, ...]:
    risk = 1 - plan.confidence
    shares = np.arange(1, count + 1) / sum(range(1, count + 1))
    made: list[Stage] = []
    for number, share in enumerate(shares, start=1):
        upto = math.ceil(checked * number / count)
        if made and upto == made[-1].checked:
            continue
        drawn = Drawn(plan.sizes, allocate(plan.sizes, upto))
        made.append(Stage(drawn.drawn, risk * float(share), *_numbers(drawn, plan, risk * float(share))))
    return tuple(made)


def _numbers(drawn: Drawn, plan: Plan, risk: float) -> tuple[int, int]:
    """(accept, reject) of a stage that may err with the chance `risk` either way."""
    over = _over(plan.limit, drawn.population)
    if drawn.checked == drawn.population and not plan.planted and not plan.second:
        return over - 1, over
    for_sample, sensitivity = _shared(risk, plan.planted)
    alarms, for_reject = 0.0, risk * plan.share_for_whole
    if twice := math.floor(plan.second * drawn.checked):
        for_reject *= 1 - FOR_REVIEWERS
        alarms = false_alarm_bound(0, twice, 1 - risk * FOR_REVIEWERS, 1 - plan.limit)
    low, high = -1, min(drawn.checked, math.ceil(drawn.expected(over)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if few_found(middle, over, drawn, sensitivity=sensitivity) <= for_sample
            else (low, middle - 1)
        )
    accept = low
    low, high = accept + 1, drawn.checked + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if many_found(middle, over - 1, drawn, false_alarms=alarms) <= for_reject
            else (middle + 1, high)
        )
    return accept, low


def _shared(risk: float, planted: int) -> tuple[float, float]:
    """(what is left of a risk for the sample, the least sensitivity) if all planted errors are found."""
    if not planted:
        return risk, 1.0
    return risk * (1 - FOR_REVIEWERS), clopper_pearson(planted, planted, 1 - risk * FOR_REVIEWERS)[0]


def _over(limit: float, population: int) -> int:
    """The least number of defects that is more than the limit; 1e-9 for what binary fractions lack."""
    return math.floor(limit * population + 1e-9) + 1


def _after(alive: npt.NDArray[np.float64], left: int, defects: int, step: int) -> npt.NDArray[np.float64]:
    """Chances of each number found after `step` more checks; `alive` (x,) before them, `left` items not yet checked.

    What lies twelve deviations from the mean is left out.
    """
    found = np.flatnonzero(alive)
    result = np.zeros(len(alive) + step)
    if not len(found):
        return result
    mean = step * defects / left
    reach = 12 * math.sqrt(mean) + 12
    more = np.arange(max(0, math.floor(mean - reach)), min(step, math.ceil(mean + reach)) + 1)
    chances = alive[found, None] * _hypergeometric(more, left, np.maximum(0, defects - found), step)
    np.add.at(result, (found[:, None] + more).ravel(), chances.ravel())
    return result


def _hypergeometric(
    found: npt.NDArray[np.int64], population: int, defects: npt.NDArray[np.int64], drawn: int
) -> npt.NDArray[np.float64]:
    """Chance (D, F) of each number found (F,), for each number of defects (D,).

    From sums of logarithms of ratios near one, which stay exact to 1e-12 in a lot of any size; many times faster than
    scipy.stats there.
    """

    def falling(start: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """log of start · (start - 1) · … / population^k, by k in 0 … drawn; -inf where it runs out."""
        left = np.maximum(0, start[:, None] - np.arange(drawn)) / population
        with np.errstate(divide="ignore"):
            return np.concatenate([np.zeros((len(start), 1)), np.cumsum(np.log(left), axis=1)], axis=1)

    bad = defects.astype(np.float64)
    ways = falling(bad)[:, found] + falling(population - bad)[:, drawn - found]
    choose = gammaln(drawn + 1) - gammaln(found + 1) - gammaln(drawn - found + 1)
    result: npt.NDArray[np.float64] = np.exp(choose + ways - falling(np.array([float(population)]))[:, drawn, None])
    return result


def _check_rates(pass_rate: float, confidence: float, producer_risk: float, stages: int) -> None:
    for name, value in (("pass", pass_rate), ("confidence", confidence), ("producer risk", producer_risk)):
        if not 0 < value < 1:
            remedy = ": no sample shows that nothing at all is wrong; check every item, or allow a little" * (
                value == 1
            )
            raise ValueError(f"{name}: expected a number between 0 and 1; got {value:g}{remedy}")
    if not 1 <= stages <= 10:
        raise ValueError(f"stages: expected 1 to 10; got {stages}")
