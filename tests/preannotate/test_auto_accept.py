"""Rows that are accepted by their score, the QA plan that comes with them, and the gate that asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from colours import NAMES, add_image, picture, run

from datasetops.gate.accept import accept
from datasetops.gate.policy import Policy
from datasetops.gate.rules import Case, RuleResult, evaluate
from datasetops.manifest import Change, Repository
from datasetops.preannotate import run as module
from datasetops.preannotate.auto_accept import auto_accepted, condition, ensure_plan
from datasetops.preannotate.result import PreannotateResult
from datasetops.qa.plan import load_plan, make_plan, plan_names
from datasetops.qa.verdicts import Verdict, take
from datasetops.schema import LabelSchema

CLASSES = LabelSchema.model_validate(
    {
        "name": "colours",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": index, "name": name} for index, name in enumerate(NAMES)],
    }
)
NOTHING = Policy.model_validate({"name": "nothing", "migrations_finished": True})
ACCEPTED = condition(0.85)

pytestmark = pytest.mark.slow


@pytest.fixture
def labeled(root: Path) -> Repository:
    """600 images, of which people labeled 450; the others are s450, s451, …"""
    repository = Repository.init(root, CLASSES)
    samples, rows = [], []
    for number in range(600):
        image = picture(40, 30, (number % 29, 2, number % 29 + 9, 8 + number // 29), number % 3)
        samples.append(add_image(root, f"s{number:03}", image))
        row = {"annotation_id": f"s{number:03}/label", "sample_id": f"s{number:03}", "kind": "classification"}
        rows.append(row | {"label": NAMES[number % 3], "source": "human", "actor": "ann"})
    repository.commit(Change(samples=samples, annotations=rows[:450]), message="labels")
    return repository


def automatic(repository: Repository, **options: Any) -> PreannotateResult:
    chosen: dict[str, Any] = {"thresholds": None, "target_precision": 0.85, "auto_accept": True}
    return run(repository, **(chosen | options))


def gate(repository: Repository, policy: Policy = NOTHING) -> RuleResult:
    found = {result.rule: result for result in evaluate(Case(repository, repository.version(), policy, "lea"))}
    return found["seen_by_people"]


def review(repository: Repository, name: str, *, wrong: int = 0) -> None:
    plan = load_plan(repository, name)
    items = [item for stage in range(len(plan.stages)) for item in plan.to_review(stage)]
    said = [Verdict(item, "zoe", "wrong" if at < wrong else "right") for at, item in enumerate(dict.fromkeys(items))]
    take(repository, plan, said, origin="test")


def test_rows_are_marked_and_a_plan_is_made_over_exactly_their_samples(labeled: Repository) -> None:
    assert "seen_by_people" not in [rule.rule for rule in evaluate(Case(labeled, labeled.version(), NOTHING, "lea"))]
    made = automatic(labeled)
    assert (made.version, made.qa_plan, made.as_dict()["qa_plan"]) == ("v2", "q1", "q1")
    version = labeled.version()
    rows = version.annotations()
    written = rows[rows["source"] == "model"]
    assert len(written) == 150
    assert list(written["attributes"]) == [{"auto_accepted": 0.85}] * 150
    assert version.where(ACCEPTED) == sorted(written["sample_id"])
    plan = load_plan(labeled, "q1")
    assert (plan.where, plan.version, plan.confidence, plan.design.population) == (ACCEPTED, "v2", 0.95, 150)
    assert plan.limit == pytest.approx(0.15)
    (event,) = [entry.event for entry in labeled.ledger.backwards() if entry.event.kind == "preannotate"]
    assert event.parameters["auto_accept"] is True
    again = automatic(labeled)
    assert (again.version, again.qa_plan, plan_names(labeled)) == (None, "q1", ["q1"])
    other = automatic(labeled, target_precision=0.8)
    assert (other.version, other.qa_plan) == ("v3", "q2")
    plain = run(labeled, thresholds=None, target_precision=0.85)  # no more accepted by their score
    assert (plain.counts["updated"], plain.qa_plan) == (150, None)
    assert auto_accepted(labeled.version()) == {}


def test_boxes_of_images_that_nobody_boxed(root: Path) -> None:
    tasks = [{"kind": "box"}]
    boxes = LabelSchema.model_validate(CLASSES.model_dump(mode="json", exclude_none=True) | {"tasks": tasks})
    repository = Repository.init(root, boxes)
    samples, rows = [], []
    for number in range(600):
        box = (number % 29, 2, number % 29 + 9, 8 + number // 29)
        samples.append(add_image(root, f"s{number:03}", picture(40, 30, box, number % 3)))
        row = {"annotation_id": f"s{number:03}/box", "sample_id": f"s{number:03}", "kind": "box"}
        corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
        rows.append(row | {"label": NAMES[number % 3], "source": "human", "actor": "ann"} | corners)
    repository.commit(Change(samples=samples, annotations=rows[:450]), message="boxes")
    made = automatic(repository, task="box")
    version = repository.version()
    written = version.annotations()
    written = written[written["source"] == "model"]
    assert set(written["kind"]) == {"box"}
    assert set(written["sample_id"]) == {f"s{number:03}" for number in range(450, 600)}
    assert list(written["attributes"]) == [{"auto_accepted": 0.85}] * len(written)
    assert (made.qa_plan, load_plan(repository, "q1").design.population) == ("q1", 150)
    review(repository, "q1")
    assert gate(repository).passed


def test_a_run_killed_before_the_plan_is_mended_by_the_next(
    labeled: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "ensure_plan", killed)
        with pytest.raises(KeyboardInterrupt):
            automatic(labeled)
    assert (labeled.version().name, plan_names(labeled)) == ("v2", [])
    found = gate(labeled)
    assert not found.passed
    assert "150 samples were accepted by their score, and no plan covers them" in found.message
    assert f'dsops qa plan v2 --pass 0.85 --where "{ACCEPTED}"' in found.remedy
    again = automatic(labeled)
    assert (again.version, again.qa_plan, plan_names(labeled)) == (None, "q1", ["q1"])


def test_the_gate_asks_for_the_plan_whatever_the_policy_says(labeled: Repository) -> None:
    automatic(labeled)
    found = gate(labeled)
    assert not found.passed
    assert found.message == "150 samples were accepted by their score, and the plan q1 is not reviewed"
    assert found.remedy.startswith(
        "Review a sample: dsops qa push q1. Or let people label them: dsops label push v2 --where"
    )
    refused = accept(labeled, labeled.version(), NOTHING)
    assert [rule.rule for rule in refused.failed] == ["seen_by_people"]
    review(labeled, "q1")
    assert gate(labeled).passed
    assert accept(labeled, labeled.version(), NOTHING).accepted


def test_a_sample_that_fails_names_the_plan(labeled: Repository) -> None:
    automatic(labeled)
    review(labeled, "q1", wrong=40)
    found = gate(labeled)
    assert "150 samples were accepted by their score, and the plan q1 is reject" in found.message
    assert "dsops qa result q1" in found.remedy
    assert automatic(labeled).qa_plan == "q1"  # drawing again is no remedy
    done = accept(labeled, labeled.version(), NOTHING, override={"seen_by_people": "a trial"})
    assert done.accepted
    assert "seen_by_people" in done.overridden


def test_a_plan_of_an_earlier_version_counts_where_the_rows_are_the_same(labeled: Repository) -> None:
    automatic(labeled)
    review(labeled, "q1")
    version = labeled.version()
    # A person answers one of them, another sample comes, and somebody labels something else.
    own = version.annotations().set_index("sample_id").loc["s451"]
    answer = {"annotation_id": own["annotation_id"], "sample_id": "s451", "kind": "classification", "label": "green"}
    answer |= {"source": "human", "actor": "ann", "attributes": {"auto_accepted": 0.85}}
    assert labeled.root is not None
    more = add_image(labeled.root, "t0", picture(40, 30, (1, 1, 30, 20), 1))
    labeled.commit(Change(annotations=[answer], samples=[more]), message="work goes on")
    assert "s451" not in labeled.version().where(ACCEPTED)
    assert gate(labeled).passed
    # The model writes one row more: nobody has drawn from that.
    made = automatic(labeled)
    assert (made.counts["inserted"], made.qa_plan) == (1, "q2")
    assert gate(labeled).message == "1 samples were accepted by their score, and the plan q2 is not reviewed"
    review(labeled, "q2")
    assert gate(labeled).passed
    # A row that changes, or its image, is another row.
    row = labeled.version().annotations().set_index("sample_id").loc["s452"]
    changed = {"annotation_id": row["annotation_id"], "sample_id": "s452", "kind": "classification", "label": "red"}
    changed |= {"source": "model", "model": row["model"], "score": row["score"], "attributes": {"auto_accepted": 0.85}}
    labeled.commit(Change(annotations=[changed]), message="by a script")
    assert gate(labeled).message.startswith("1 samples were accepted by their score, and no plan covers them")
    image = add_image(labeled.root, "s453", picture(40, 30, (1, 1, 20, 20), 2))
    labeled.commit(Change(samples=[image]), message="another image")
    assert gate(labeled).message.startswith("2 samples were accepted by their score, and no plan covers them")


def test_a_plan_about_more_vouches_only_where_its_bound_leaves_no_room(labeled: Repository) -> None:
    automatic(labeled)
    make_plan(labeled, labeled.version(), pass_rate=0.85, second=0, stages=1, seed="a")
    review(labeled, "q2", wrong=3)
    assert (
        gate(labeled).message == "150 samples were accepted by their score, and the plan q1 is not reviewed"
    )  # more than 22 of 600 may be wrong, and these may all be among the 150
    review(labeled, "q1", wrong=40)
    assert "q1 is reject" in gate(labeled).message
    make_plan(labeled, labeled.version(), pass_rate=0.97, second=0, stages=1, seed="b")
    review(labeled, "q3")
    assert gate(labeled).passed
    make_plan(labeled, labeled.version(), pass_rate=0.85, confidence=0.5, where=ACCEPTED, second=0, stages=1, seed="c")
    review(labeled, "q4")
    assert "the plan q4 is less sure than 95%" in gate(labeled).message


def test_nothing_to_draw_from(labeled: Repository) -> None:
    assert ensure_plan(labeled, labeled.version(), 0.85, 0.95) is None
    made = automatic(labeled, target_precision=0.99)  # too few labels: no promise, no row
    assert (made.version, made.qa_plan, plan_names(labeled)) == (None, None, [])
    with pytest.raises(ValueError, match="give a target precision"):
        run(labeled, auto_accept=True, thresholds=None)
