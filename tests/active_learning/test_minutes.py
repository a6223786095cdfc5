"""Annotation minutes from past lead times, and budgets."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from datasetops.active_learning.minutes import (
    Answers,
    Minutes,
    fill_budget,
    learn_pace,
    minutes_spent,
    parse_budget,
    past_answers,
    predict_minutes,
)
from datasetops.manifest import Change, Repository


def answers(seconds: Any, regions: Any = None, label: Any = None, actor: Any = None) -> Answers:
    n = len(seconds)
    words = [np.full(n, "", object) if part is None else np.array(part, object) for part in (label, actor)]
    return Answers(np.array(seconds, float), np.zeros(n) if regions is None else np.array(regions, float), *words)


def known(regions: list[float], label: list[str] | None = None) -> tuple[Any, Any]:
    return np.array(regions), np.array(label or [""] * len(regions), object)


def test_an_answer_takes_what_past_ones_took_on_average_without_those_left_open() -> None:
    pace, told = learn_pace(answers([4.0, 6.0] * 50 + [3600.0, 9000.0]))
    assert pace is not None
    np.testing.assert_allclose(pace.seconds(*known([math.nan, 3.0], ["", "cat"])), 5)
    assert told == "100 past answers took 5.0 s on average; 2 that were left open are left out."


def test_hard_items_are_not_taken_for_those_left_open() -> None:
    """Times up to eight times the upper quartile always stay."""
    pace, told = learn_pace(answers([5.0] * 99 + [39.0]))
    assert pace is not None
    assert pace.mean == pytest.approx(5.34)
    assert "left out" not in told


def test_regions_count_where_they_explain_the_time() -> None:
    rng = np.random.default_rng(0)
    regions = rng.integers(1, 20, 400)
    pace, told = learn_pace(answers(6 + 3 * regions + rng.normal(0, 1, 400), regions))
    assert pace is not None
    np.testing.assert_allclose(pace.seconds(*known([2.0, 10.0])), [12, 36], rtol=0.05)
    assert pace.seconds(*known([math.nan]))[0] == pytest.approx(pace.mean)
    assert told.endswith(", and 3.0 s more a region.")
    alike, _ = learn_pace(answers(rng.uniform(10, 20, 400), regions))
    assert alike is not None
    assert len(set(alike.seconds(*known([1.0, 20.0])))) == 1


def test_classes_count_where_they_explain_the_time() -> None:
    rng = np.random.default_rng(0)
    label = np.where(np.arange(400) % 4 == 0, "hard", "easy")
    pace, told = learn_pace(answers(np.where(label == "hard", 40, 5) * rng.uniform(0.8, 1.2, 400), label=label))
    assert pace is not None
    hard, easy, other = pace.seconds(*known([math.nan] * 3, ["hard", "easy", "new"])).tolist()
    assert (hard, easy, other) == pytest.approx((40, 5, pace.mean), rel=0.1)
    assert told.endswith(", by class.")


def test_too_few_answers_tell_nothing() -> None:
    assert learn_pace(answers([5.0] * 19)) == (None, "19 past answers tell how long they took, and 20 are needed.")


def test_batches_fall_into_their_interval_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(3), 0
    for _ in range(60):
        pace, _ = learn_pace(answers(rng.lognormal(2, 0.7, 100)))
        assert pace is not None
        minutes = Minutes(None, "", pace.spread, pace.error)
        total, low, high = minutes.total(np.full(50, pace.mean / 60))
        assert 0 <= low < total < high
        inside += low <= rng.lognormal(2, 0.7, 50).sum() / 60 <= high
    assert 0.85 <= inside / 60 <= 1


def test_few_annotators_of_unlike_pace_make_the_interval_wider() -> None:
    seconds = np.repeat([5.0, 20.0, 10.0], 50) * np.random.default_rng(0).uniform(0.9, 1.1, 150)
    one, _ = learn_pace(answers(seconds))
    three, _ = learn_pace(answers(seconds, actor=np.repeat(["a", "b", "c"], 50)))
    assert one is not None
    assert three is not None
    assert three.error > 5 * one.error


@pytest.mark.parametrize(
    ("text", "minutes"), [("8h", 480), ("90m", 90), ("480", 480), (" 1h30m ", 90), ("1.5H", 90), ("2h15", 135)]
)
def test_budgets_are_read(text: str, minutes: float) -> None:
    assert parse_budget(text) == minutes


@pytest.mark.parametrize("text", ["", "h", "8 days", "-3h", "0h", "nan", "inf", "1e3", "30m1h"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--budget: expected hours or minutes above zero, such as 8h, 90m or 480"):
        parse_budget(text)


def test_a_budget_is_filled_in_order() -> None:
    assert [fill_budget([2.0, 3.0, 1.0], budget) for budget in (0.0, 1.9, 2, 5, 5.9, 6, 99)] == [0, 0, 1, 2, 2, 3, 3]
    assert fill_budget([0.1] * 10, 1.0) == 10  # though the sum is 0.9999999999999999
    assert fill_budget([], 5.0) == 0
    with pytest.raises(ValueError, match="minutes"):
        fill_budget([1.0, math.nan], 5.0)


def test_minutes_come_from_the_answers_in_a_version(repository: Repository) -> None:
    """30 images of n boxes each that took 10 + 2n seconds, and 2 answered twice; three new ones, two with a model's boxes."""
    samples = [{"sample_id": f"s{i:02}", "uri": f"{i}.png", "width": 9, "height": 9} for i in range(33)]
    rows: list[dict[str, Any]] = []

    def box(sample: int, number: int, **more: Any) -> None:
        place = {"kind": "box", "label": "cat", "x1": 1.0, "y1": 1.0, "x2": 5.0, "y2": 5.0}
        key = f"s{sample:02}#{len(rows)}"
        rows.append({"annotation_id": key, "sample_id": f"s{sample:02}", **place, **more})

    for i in range(30):
        count = i % 5 + 1
        told = json.dumps({"answer_id": str(i), "lead_time": 10.0 + 2 * count, "tool": "label-studio"})
        for number in range(count):
            box(i, number, source="human", actor="ann", answer=told)
    for who in ("bob", "cy"):  # votes on one image
        told = json.dumps({"answer_id": who, "lead_time": 12.0})
        box(0, 0, source="human", actor=who, answer=told, role="vote")
    box(0, 1, source="human", actor="dee", answer=json.dumps({"answer_id": "x", "tool": "review", "lead_time": 500.0}))
    box(0, 2, source="human", actor="eve", answer=json.dumps({"answer_id": "y"}))
    for number in range(4):
        box(30, number, source="model", model="m", score=0.5)
    box(31, 0, source="model", model="m", score=0.5)
    repository.commit(Change(samples=samples, annotations=rows), message="timed")
    version = repository.version()
    past = past_answers(version)
    assert sorted(zip(past.seconds, past.regions, past.actor, strict=True))[:3] == [
        (12.0, 1.0, "ann"),
        (12.0, 1.0, "ann"),
        (12.0, 1.0, "ann"),
    ]
    assert len(past.seconds) == 32
    found = predict_minutes(version, ["s30", "s32", "s31"])
    assert found.each is not None
    np.testing.assert_allclose(found.each * 60, [18, past.seconds.mean(), 12])
    assert found.reason.startswith("32 past answers took ")


def test_classes_are_read_from_a_version_and_nothing_is_said_of_too_few(repository: Repository) -> None:
    samples = [{"sample_id": f"s{i:02}", "uri": f"{i}.png", "width": 9, "height": 9} for i in range(42)]
    rows = []
    for i in range(41):
        name = ("cat", "dog")[i % 2]
        told = json.dumps({"answer_id": str(i), "lead_time": (4.0, 30.0)[i % 2] + i % 3})
        source = {"source": "human", "actor": "ann", "answer": told} if i < 40 else {"source": "model", "model": "m"}
        rows.append(
            {"annotation_id": f"s{i:02}/label", "sample_id": f"s{i:02}", "kind": "classification", "label": name}
        )
        rows[-1].update(source)
    repository.commit(Change(samples=samples, annotations=rows[:10]), message="few")
    few = predict_minutes(repository.version(), ["s00"])
    assert (few.each, few.reason) == (None, "10 past answers tell how long they took, and 20 are needed.")
    repository.commit(Change(annotations=rows[10:]), message="more")
    found = predict_minutes(repository.version(), ["s40", "s41"])
    assert found.each is not None
    assert found.reason.endswith(", by class.")
    assert found.each[0] < 0.6 * found.each[1]
    sure = predict_minutes(repository.version(), ["s40", "s41"], np.array([[np.nan] * 3, [1.0, 0.0, 0.0]]))
    torn = predict_minutes(repository.version(), ["s41"], np.array([[0.5, 0.5, 0.0]]))
    assert sure.each is not None
    assert torn.each is not None
    np.testing.assert_allclose(sure.each, [found.each[0]] * 2)  # what is marked, and a sure cat: as a model's cat
    assert found.each[0] < torn.each[0] < found.each[1] * 1.2
    mean = predict_minutes(repository.version(), ["s41"], np.array([[0.0, 1.0, 0.0]])).each
    assert mean is not None
    np.testing.assert_allclose(torn.each, (sure.each[1] + mean) / 2)


def test_time_that_nobody_worked_is_in_no_sum(repository: Repository) -> None:
    samples = [{"sample_id": f"s{i:02}", "uri": f"{i}.png", "width": 9, "height": 9} for i in range(30)]
    rows = [
        {"annotation_id": f"s{i:02}/label", "sample_id": f"s{i:02}", "kind": "classification", "label": "cat"}
        | {"source": "human", "actor": "ann"}
        | {"answer": json.dumps({"answer_id": str(i), "lead_time": 36_000.0 if i == 3 else 6.0})}
        for i in range(30)
    ]
    repository.commit(Change(samples=samples, annotations=rows), message="timed")
    owner = {f"s{i:02}": int(i >= 10) for i in range(25)}
    assert minutes_spent(repository.version(), owner, 3) == [(0.9, 1), (1.5, 0), (None, 0)]
