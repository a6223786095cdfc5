"""How far a review is, and whether the errors that are left lie where it says."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.manifest import Change, Repository, Version
from datasetops.records import Finding, findings_table
from datasetops.review.filters import Filters
from datasetops.review.order import by_lot, with_lot
from datasetops.review.progress import agreed, progress, reviewers
from datasetops.review.queue import Queue
from datasetops.review.remaining import CONFIDENCE, FEWEST, Lot, Remaining, remaining

pytestmark = pytest.mark.slow

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]


class Simulation:
    """Findings of several checks, whose chance of being an error rises as the score falls; reviewed in order."""

    def __init__(self, seed: int, sizes: tuple[int, ...], *, skill: float = 1.0) -> None:
        """`skill`: how much of the chance of being an error depends on the score."""
        rng = np.random.default_rng(seed)
        total = sum(sizes)
        self.cells = np.repeat(np.arange(len(sizes)), sizes)
        self.scores = np.round(rng.random(total), 2)
        self.ids = rng.integers(0, 2**63, total).astype(np.uint64)
        usual = rng.uniform(0.05, 0.9, len(sizes))[self.cells]
        chance = usual * (1 - skill + 2 * skill * (1 - self.scores) ** 2)
        self.wrong = rng.random(total) < np.clip(chance, 0, 1)
        self.lot = by_lot(self.ids)
        self.places = Lot(self.cells, np.array(sizes), self.scores, self.ids, self.lot)
        best = np.lexsort((self.ids, self.scores, self.cells))
        self.order, self.at_random = with_lot(best, np.argsort(self.lot))
        self.rng = rng

    def after(self, count: int, only: Bools | None = None, unsure: float = 0.0) -> tuple[Remaining, int]:
        """(what is said, what is true) after so many decisions in order, of some findings only."""
        ranks = np.arange(len(self.order)) if only is None else np.flatnonzero(only[self.order])
        return self.said(self.order[ranks[:count]], self.at_random[ranks[:count]], unsure)

    def said(self, seen: Ints, at_random: Bools, unsure: float = 0.0) -> tuple[Remaining, int]:
        doubt = self.rng.random(len(seen)) < unsure
        usual = np.full(len(self.places.sizes), 0.5)
        found = remaining(self.places, seen, self.wrong[seen] & ~doubt, doubt, at_random, usual)
        return found, int(self.wrong.sum() - self.wrong[seen[~doubt]].sum())

    def first_of(self, chosen: Bools, count: int, then: int) -> tuple[Remaining, int]:
        """The first `count` of those chosen by some filter, then the first of all others, up to `then`."""
        first = np.flatnonzero(chosen[self.order])[:count]
        rest = np.setdiff1d(np.arange(len(self.order)), first)
        ranks = np.concatenate([first, rest[: then - count]])
        return self.said(self.order[ranks], self.at_random[ranks])

    def opened_again(self, count: int, more: int) -> tuple[Remaining, int]:
        """After `count` decisions another check comes first, and `more` are made in the new order."""
        seen, at_random = self.order[:count], self.at_random[:count]
        open_ = np.setdiff1d(np.arange(len(self.order)), seen)
        best = open_[np.lexsort((self.ids[open_], self.scores[open_], (self.cells[open_] + 2) % 3))]
        order, drawn = with_lot(best, open_[np.argsort(self.lot[open_])])
        return self.said(np.concatenate([seen, order[:more]]), np.concatenate([at_random, drawn[:more]]))


def coverage(outcomes: list[tuple[Remaining, int]]) -> tuple[float, float]:
    """(share of intervals that hold the truth, how wide they are) of those that are bounds."""
    bounds = [(said, true) for said, true in outcomes if said.bound]
    assert len(bounds) > 0.8 * len(outcomes)
    inside = [said.low <= true <= said.high for said, true in bounds]
    return float(np.mean(inside)), float(np.mean([said.high - said.low for said, _ in bounds]))


SEEDS = 120


@pytest.mark.parametrize("skill", [0.0, 1.0])
@pytest.mark.parametrize("count", [250, 450, 700])
def test_the_interval_holds_when_the_worst_are_decided_first(count: int, skill: float) -> None:
    outcomes = [Simulation(seed, (150, 400, 250), skill=skill).after(count) for seed in range(SEEDS)]
    share, width = coverage(outcomes)
    assert share >= CONFIDENCE - 0.02
    assert width < 800 - count  # it says more than that anything may be left


def test_the_estimate_is_right_on_average() -> None:
    outcomes = [Simulation(seed, (150, 400, 250)).after(500) for seed in range(SEEDS)]
    apart = np.array([said.estimate - true for said, true in outcomes if said.bound])
    assert abs(apart.mean()) < 3 * apart.std() / np.sqrt(len(apart))


def test_it_holds_for_one_check_alone() -> None:
    outcomes = []
    for seed in range(SEEDS):
        simulation = Simulation(seed, (150, 1_000, 250))
        outcomes.append(simulation.after(700, simulation.cells == 1))
    assert coverage(outcomes)[0] >= CONFIDENCE - 0.02


def test_it_holds_where_people_filter_first() -> None:
    outcomes = []
    for seed in range(SEEDS):
        simulation = Simulation(seed, (150, 400, 250))
        chosen = simulation.rng.random(800) < np.where(simulation.wrong, 0.7, 0.4)  # say a class that is often wrong
        outcomes.append(simulation.first_of(chosen, 250, 500))
    assert coverage(outcomes)[0] >= CONFIDENCE - 0.02


def test_it_holds_where_the_queue_was_opened_again() -> None:
    outcomes = [Simulation(seed, (150, 400, 250)).opened_again(200, 250) for seed in range(SEEDS)]
    assert coverage(outcomes)[0] >= CONFIDENCE - 0.02


def test_it_holds_where_reviewers_are_often_unsure() -> None:
    outcomes = [Simulation(seed, (150, 400, 250)).after(400, unsure=0.1) for seed in range(SEEDS)]
    assert coverage(outcomes)[0] >= CONFIDENCE - 0.02


def test_what_is_decided_in_full_is_exact() -> None:
    said, true = Simulation(1, (30, 40)).after(70)
    assert (said.estimate, said.low, said.high, said.bound, true) == (0.0, 0, 0, True, 0)


def test_no_bound_without_enough_at_random() -> None:
    said, _ = Simulation(1, (300, 300)).after(10 * (FEWEST - 1))
    assert not said.bound
    assert (said.low, said.high) == (0, 600 - 10 * (FEWEST - 1))
    assert said.estimate == 0.5 * said.high
    assert "random" in said.basis
    said, _ = Simulation(1, (300, 300)).after(0)
    assert (said.bound, said.high) == (False, 600)


def test_decisions_chosen_by_people_do_not_count_as_drawn() -> None:
    simulation = Simulation(2, (600,))
    worst = np.argsort(~simulation.wrong, kind="stable")[:200]  # somebody found most errors by other means
    nobody = np.zeros(len(worst), dtype=bool)
    said = remaining(simulation.places, worst, simulation.wrong[worst], nobody, nobody, np.array([0.1]))
    assert not said.bound


@pytest.fixture
def version(repository: Repository) -> Version:
    repository.commit(Change(samples=[{"sample_id": "s", "uri": "s.png"}]), message="one")
    return repository.version()


FINDINGS = findings_table(
    [
        Finding(check, "medium", number / 400, "it looks wrong", sample_id=f"s{number}")
        for number in range(400)
        for check in ("label_noise", "outlier")
    ]
)


def test_progress_of_a_queue(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    queue = Queue(version, FINDINGS, log)
    before = progress(queue)
    assert (before["total"], before["decided"], before["left"]) == (800, 0, 800)
    assert before["agreement"] is None
    assert before["reviewers"] == []
    assert before["errors_left"]["bound"] is False
    assert before["minutes_left"] == pytest.approx(400 * (6 + 8) / 60, abs=0.1)
    rows = queue.page(Filters(), 0, 300).rows
    said = [
        Decision(
            row["finding_id"],
            "error" if int(row["sample_id"][1:]) < 200 else "fine",
            "ann",
            row["check"],
            row["severity"],
            row["score"],
            seconds=3.0,
            at_random=row["at_random"],
        )
        for row in rows
    ]
    log.add(version, said)
    after = progress(queue, log)
    assert (after["decided"], after["left"]) == (300, 500)
    assert after["by_verdict"]["unsure"] == 0
    assert sum(after["by_verdict"].values()) == 300
    left = 400 - after["by_verdict"]["error"]
    assert after["errors_left"]["bound"] is True
    assert after["errors_left"]["low"] <= left <= after["errors_left"]["high"]
    assert after["errors_left"]["sampled"] >= 20
    assert after["minutes_left"] < before["minutes_left"] / 2  # fewer are left, and people are quick
    log.withdraw(version, [row["finding_id"] for row in rows], "ann")
    assert progress(queue, log)["decided"] == 0


def test_the_rest_of_a_queue_is_exact(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    queue = Queue(version, FINDINGS.slice(0, 30), log)
    rows = queue.page(Filters(), 0, 30).rows
    log.add(
        version,
        [
            Decision(
                row["finding_id"],
                "fine",
                "ann",
                row["check"],
                row["severity"],
                row["score"],
                at_random=row["at_random"],
            )
            for row in rows[1:]
        ]
        + [Decision(rows[0]["finding_id"], "unsure", "ann", "label_noise", "medium", 0.5)],
    )
    left = progress(queue, log)["errors_left"]
    assert (left["low"], left["high"], left["bound"]) == (0, 1, True)
    assert 0 < left["estimate"] < 1


def decision(name: str, actor: str, verdict: str, time: str = "") -> Decision:
    return Decision(name, verdict, actor, "outlier", "low", 0.5, time=time)


def test_pace_leaves_out_pauses() -> None:
    made = [decision(f"f{second}", "ann", "fine", f"2026-03-01T10:00:{second:02}+00:00") for second in range(0, 60, 6)]
    made.append(decision("late", "ann", "fine", "2026-03-01T18:00:00+00:00"))
    made.append(decision("one", "bob", "fine", "2026-03-01T18:00:00+00:00"))
    assert reviewers(made) == [
        {"name": "ann", "decided": 11, "per_minute": 10.0, "last": "2026-03-01T18:00:00+00:00"},
        {"name": "bob", "decided": 1, "per_minute": None, "last": "2026-03-01T18:00:00+00:00"},
    ]


def test_agreement_of_two_reviewers() -> None:
    import krippendorff

    pairs = [("error", "error")] * 8 + [("fine", "fine")] * 7 + [("error", "fine")] * 3 + [("fine", "unsure")] * 4
    made = [
        decision(f"f{at}", who, said) for at, pair in enumerate(pairs) for who, said in zip("ab", pair, strict=True)
    ]
    found = agreed(made)
    assert found is not None
    assert found["items"] == 18
    assert found["agree"] == pytest.approx(15 / 18, abs=1e-4)
    values = np.array([[said == "error" for said in side] for side in zip(*pairs[:18], strict=True)], dtype=float)
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert found["alpha"] == pytest.approx(expected, abs=1e-4)
    assert found["low"] < found["alpha"] < found["high"]
    assert agreed(made[:1]) is None
