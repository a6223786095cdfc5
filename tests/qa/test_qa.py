"""Sampled QA from plan to verdict, on versions of a real repository."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import FormatError, NotFoundError
from datasetops.ledger import Event, Ledger
from datasetops.manifest import Change, Repository
from datasetops.qa.plan import QaPlan, load_plan, lot, make_plan, redraw
from datasetops.qa.result import evaluate
from datasetops.qa.verdicts import Verdict, compare, load_verdicts, read_sheet, take, write_sheet

PEOPLE = ("ann", "bob", "cem", "dee")
TRUTH = ("cat", "dog", "bird")


def fill(repository: Repository, count: int = 600, *, wrong: dict[str, float] | None = None) -> set[str]:
    """Commit samples with a class by four annotators, in turn; returns the ids of those that are wrong."""
    rng = np.random.default_rng(0)
    samples, rows, bad = [], [], set()
    for i in range(count):
        name, actor = f"s{i:04}", PEOPLE[i % 4]
        samples.append({"sample_id": name, "uri": f"{name}.png", "metadata": {"light": "day" if i % 5 else "night"}})
        is_wrong = rng.random() < (wrong or {}).get(actor, 0.0)
        bad |= {name} if is_wrong else set()
        label = TRUTH[(i + is_wrong) % 3]
        rows.append(
            {"annotation_id": f"{name}/c", "sample_id": name, "kind": "classification", "label": label,
             "source": "human", "actor": actor}
        )  # fmt: skip
    repository.commit(Change(samples=samples, annotations=rows), message="labels")
    return bad


def review(repository: Repository, plan: QaPlan, bad: set[str], stage: int = 0, who: str = "zoe") -> None:
    planted = plan.planted or {}
    verdicts = [
        Verdict(item, who, "wrong" if item in bad or item in planted else "right") for item in plan.to_review(stage)
    ]
    take(repository, plan, verdicts, origin="test")


def result(repository: Repository, plan: QaPlan) -> Any:
    return evaluate(plan, load_verdicts(repository, plan))


def test_a_good_version_is_accepted_after_the_first_stage(repository: Repository) -> None:
    bad = fill(repository)
    plan = make_plan(repository, repository.version(), second=0, seed="a")
    review(repository, plan, bad)
    found = result(repository, plan)
    assert (found.verdict, found.stage, found.wrong) == ("accept", 1, 0)
    assert found.low == 0 < found.high <= 0.05
    assert found.checked == plan.stages[0].checked == len(plan.to_review(0))


def test_a_bad_version_is_rejected(repository: Repository) -> None:
    bad = fill(repository, wrong=dict.fromkeys(PEOPLE, 0.3))
    plan = make_plan(repository, repository.version(), second=0, seed="a")
    review(repository, plan, bad)
    found = result(repository, plan)
    assert found.verdict == "reject"
    assert found.low > 0.05
    assert found.low <= len(bad) / 600 <= found.high


def test_a_version_at_the_limit_needs_the_second_stage(repository: Repository) -> None:
    bad = fill(repository, wrong=dict.fromkeys(PEOPLE, 0.04))
    plan = make_plan(repository, repository.version(), second=0, seed="seven")
    review(repository, plan, bad)
    found = result(repository, plan)
    assert (found.verdict, found.next_stage) == ("inconclusive", 2)
    assert set(plan.to_review(0)) < set(plan.to_review(1))
    review(repository, plan, bad, stage=1)
    later = result(repository, plan)
    assert later.stage == 2
    assert later.next_stage is None


def test_nothing_is_concluded_before_a_stage_is_finished(repository: Repository) -> None:
    bad = fill(repository)
    plan = make_plan(repository, repository.version(), second=0, seed="a")
    some = [Verdict(item, "zoe", "right") for item in plan.to_review(0)[:-5]]
    take(repository, plan, some, origin="test")
    found = result(repository, plan)
    assert (found.verdict, found.left) == ("unfinished", 5)
    review(repository, plan, bad)
    assert result(repository, plan).verdict == "accept"


def test_one_bad_annotator_is_named_although_the_whole_is_fine(repository: Repository) -> None:
    bad = fill(repository, 1200, wrong={"bob": 0.4})
    plan = make_plan(repository, repository.version(), pass_rate=0.9, per=["annotator"], second=0, seed="a")
    review(repository, plan, bad)
    found = result(repository, plan)
    assert found.verdict == "reject"
    assert found.worse == ["bob"]
    strata = {stratum.name: stratum for stratum in found.strata}
    assert set(strata) == set(PEOPLE)
    assert all(stratum.checked >= 30 for stratum in found.strata)
    share = sum(item in bad for item in lot_of(repository, "bob")) / 300
    assert strata["bob"].low <= share <= strata["bob"].high


def lot_of(repository: Repository, name: str) -> list[str]:
    frame, _ = lot(repository.version(), ["annotator"])
    ids: list[str] = frame[frame["stratum"] == name]["sample_id"].tolist()
    return ids


def test_anybody_can_draw_the_sample_again(repository: Repository) -> None:
    fill(repository)
    plan = make_plan(repository, repository.version(), per=["light"], planted=10, seed="a seed")
    assert redraw(repository, plan)
    again = make_plan(repository, repository.version(), per=["light"], planted=10, seed="a seed")
    assert [s.order for s in again.strata] == [s.order for s in plan.strata]
    other = make_plan(repository, repository.version(), per=["light"], planted=10)
    assert other.seed != plan.seed
    assert [s.order for s in other.strata] != [s.order for s in plan.strata]
    forged = QaPlan.from_bytes(plan.to_bytes().replace(plan.strata[0].order[0].encode(), b"s0599", 1))
    assert not redraw(repository, forged)
    events = [entry.event for entry in repository.ledger.backwards()]
    kinds = [event.kind for event in events]
    assert kinds.index("qa-plan") < kinds.index("qa-seed")  # newest first: the seed was there before the plan
    assert QaPlan.from_bytes(plan.to_bytes()) == plan


def test_a_plan_whose_command_was_killed_is_told_as_drawn(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repository, 50)
    record = Ledger.record

    def killed(ledger: Ledger, event: Event) -> Any:
        if event.kind == "qa-plan":
            raise KeyboardInterrupt
        return record(ledger, event)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            make_plan(repository, repository.version(), seed="a")
    assert make_plan(repository, repository.version(), seed="b").name == "q2"
    told = {
        entry.event.outputs["plan"]: entry.event
        for entry in repository.ledger.backwards()
        if entry.event.kind == "qa-plan"
    }
    assert sorted(told) == ["q1", "q2"]
    assert told["q1"].parameters["seed"] == "a"
    assert redraw(repository, load_plan(repository, "q1"))


def test_own_annotators_and_strangers_are_left_out(repository: Repository) -> None:
    fill(repository)
    plan = make_plan(repository, repository.version(), second=0, seed="a")
    drawn = plan.to_review(0)
    outside = next(item for item in lot(repository.version())[0]["sample_id"] if item not in plan.to_review(1))
    owner = {item: PEOPLE[int(item[1:]) % 4] for item in drawn}
    taken = take(
        repository, plan,
        [Verdict(drawn[0], owner[drawn[0]], "right"), Verdict(outside, "zoe", "wrong"), Verdict(drawn[1], "zoe", "right")],
        origin="test",
    )  # fmt: skip
    assert (taken.new, len(taken.own), len(taken.strangers)) == (1, 1, 1)
    assert [item.sample_id for item in load_verdicts(repository, plan)] == [drawn[1]]


def test_reviewing_flagged_items_alone_proves_nothing(repository: Repository) -> None:
    bad = fill(repository, wrong=dict.fromkeys(PEOPLE, 0.2))
    plan = make_plan(repository, repository.version(), second=0, seed="a")
    flagged = sorted(bad - set(plan.to_review(1)))
    taken = take(repository, plan, [Verdict(item, "zoe", "right") for item in flagged], origin="findings")
    assert taken.new == 0
    assert len(taken.strangers) == len(flagged)
    found = result(repository, plan)
    assert (found.verdict, found.high) == ("unfinished", 1.0)


def test_planted_errors_and_second_reviews_widen_the_interval(repository: Repository) -> None:
    bad = fill(repository)
    plan = make_plan(repository, repository.version(), planted=20, second=0.2, seed="one")
    assert set(plan.planted or {}).isdisjoint(item for stratum in plan.strata for item in stratum.order)
    assert all(TRUTH[int(item[1:]) % 3] != label for item, label in (plan.planted or {}).items())
    review(repository, plan, bad)
    sure = result(repository, plan)
    missed = sorted(plan.planted or {})[:8]
    take(repository, plan, [Verdict(item, "zoe", "right") for item in missed], origin="test")
    unsure = result(repository, plan)
    assert (sure.reviewers.caught, unsure.reviewers.caught) == (20, 12)
    assert unsure.reviewers.sensitivity < 0.6
    assert unsure.high > 1.5 * sure.high
    pairs = [item for item in plan.second if item in set(plan.main(0))]
    twice = [Verdict(item, "yan", "wrong" if i < 1 else "right") for i, item in enumerate(pairs)]
    take(repository, plan, twice, origin="test")
    both = result(repository, plan)
    assert (both.reviewers.twice, both.reviewers.disagree, both.open) == (len(pairs), 1, 1)
    assert 0 < both.reviewers.false_alarms < 0.5
    assert both.high >= unsure.high


def test_attempts_are_counted_along_the_line_of_versions(repository: Repository) -> None:
    bad = fill(repository, wrong=dict.fromkeys(PEOPLE, 0.3))
    first = make_plan(repository, repository.version(), second=0, seed="a")
    unused = make_plan(repository, repository.version(), second=0, seed="a")
    review(repository, first, bad)
    row = repository.version().table("annotations").slice(0, 1).to_pylist()[0]
    repository.commit(Change(annotations=[row | {"label": "bird", "attributes": None}]), message="mended")
    second = make_plan(repository, repository.version(), second=0, seed="a")
    assert (first.attempt, unused.attempt, second.attempt) == (1, 1, 2)


def test_boxes_are_compared_by_image() -> None:
    def box(label: str, x: float) -> dict[str, Any]:
        corners = {"x1": x, "y1": 0.0, "x2": x + 10, "y2": 10.0}
        rest = dict.fromkeys(("geometry", "text", "attributes"))
        return {"annotation_id": f"{label}{x}", "kind": "box", "label": label, **corners, **rest}

    given = [box("cat", 0), box("dog", 50), box("dog", 100)]
    assert compare(given, [box("cat", 1), box("dog", 50), box("dog", 99)], 0.5) == (3, 0, "")
    assert compare(given, [box("dog", 0), box("dog", 50)], 0.5) == (3, 2, "1 cat that is dog; 1 dog not there")
    assert compare(given[:1], [box("cat", 2)], 0.9) == (1, 1, "1 cat badly placed")
    assert compare([], [box("cat", 2)], 0.5) == (0, 1, "1 cat missing")
    assert compare([], [], 0.5) == (0, 0, "")


def test_a_sheet_goes_out_and_comes_back(repository: Repository, tmp_path: Path) -> None:
    fill(repository, 1500)
    plan = make_plan(repository, repository.version(), planted=60, second=0, seed="a")
    sheet = tmp_path / "sheet.csv"
    write_sheet(repository, plan, plan.to_review(0), sheet)
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    assert [row["sample_id"] for row in rows] == plan.to_review(0)
    for row in rows:
        assert row["given"] == (plan.planted or {}).get(row["sample_id"], TRUTH[int(row["sample_id"][1:]) % 3])
    with sheet.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "verdict": "Right", "reviewer": "zoe"} for row in rows[:3])
        writer.writerow(rows[4])
    assert [(v.verdict, v.reviewer) for v in read_sheet(sheet)] == [("right", "zoe")] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,verdict\ns1,rihgt\n", "line 2: verdict 'rihgt' is not known"),
        ("sample_id,verdict\ns1,right\n", "line 2: it does not say who reviewed it"),
        ("sample_id,reviewer\ns1,zoe\n", "line 1: there is no column verdict"),
        ("sample_id,verdict\ns1,\n", "no row has a verdict"),
    ],
)
def test_faulty_sheets_are_named(tmp_path: Path, text: str, message: str) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_sheet(sheet)


def test_lots_that_cannot_be_planned(repository: Repository) -> None:
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="no label")
    with pytest.raises(ValueError, match="no labeled sample to draw from"):
        make_plan(repository, repository.version(), seed="a")
    fill(repository, 10)
    with pytest.raises(NotFoundError, match="has an attribute 'lihgt'"):
        make_plan(repository, repository.version(), per=["lihgt"], seed="a")
    with pytest.raises(ValueError, match="no labeled sample to draw from that fulfils"):
        make_plan(repository, repository.version(), where="width > 5", seed="a")
    assert make_plan(repository, repository.version()).left_out == 1
    with pytest.raises(ValueError, match="planted: 5 are wanted, and only 0"):
        make_plan(repository, repository.version(), planted=5, seed="a")
    with pytest.raises(NotFoundError, match="There is no QA plan 'q9'"):
        load_plan(repository, "q9")


def test_commands(repository: Repository, tmp_path: Path) -> None:
    fill(repository)
    run = CliRunner().invoke
    where = ["-C", str(repository.root)]
    planned = run(app, ["qa", "plan", "v1", "--per", "annotator", "--second", "0", "--seed", "a", *where])
    assert planned.exit_code == 0, planned.output
    assert "It promises: if it is accepted, at most 5 %" in planned.output
    assert run(app, ["qa", "result", "q1", "--check", *where]).exit_code == 3
    sheet = tmp_path / "sheet.csv"
    assert run(app, ["qa", "push", "q1", "--out", str(sheet), *where]).exit_code == 0
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    with sheet.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "verdict": "right"} for row in rows)
    pulled = run(app, ["qa", "pull", "q1", "--file", str(sheet), "--reviewer", "zoe", "--json", *where])
    assert json.loads(pulled.stdout)["new"] == len(rows)
    again = run(app, ["qa", "pull", "v1", "--file", str(sheet), "--reviewer", "zoe", "--json", *where])
    assert json.loads(again.stdout) | {"known": 0} == json.loads(pulled.stdout) | {"new": 0}
    found = run(app, ["qa", "result", "v1", "--check", "--json", *where])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["verdict"] == "accept"
    assert "accept" in run(app, ["qa", "list", *where]).output
    refused = run(app, ["qa", "plan", "v1", "--pass", "1", *where])
    assert (refused.exit_code, "no sample shows" in refused.output) == (2, True)


def test_strata_that_had_their_floor_already_do_not_hold_up_the_second_stage(repository: Repository) -> None:
    bad = fill(repository, 200, wrong=dict.fromkeys(PEOPLE, 0.08))
    plan = make_plan(repository, repository.version(), pass_rate=0.85, per=["annotator"], floor=50, second=0, seed="s")
    assert set(plan.to_review(0)) == set(plan.to_review(1))
    review(repository, plan, bad)
    found = result(repository, plan)
    assert found.verdict != "inconclusive" or found.stage == 2


def test_planted_errors_and_second_reviews_move_the_plans_own_numbers(repository: Repository) -> None:
    fill(repository, 3000)
    plain = make_plan(repository, repository.version(), second=0, size=300, seed="s").design
    careful = make_plan(repository, repository.version(), second=0.1, planted=60, size=300, seed="s").design
    assert careful.stages[-1].accept < plain.stages[-1].accept
    assert careful.stages[-1].reject > plain.stages[-1].reject
