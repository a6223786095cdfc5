"""Shifts in the use of a class and in box sizes: their tests against other packages, planted ones found, chance kept out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.people.guideline_drift import (
    GuidelineDrift,
    Use,
    change_points,
    comes_sorted,
    share_shifts,
    size_shifts,
)
from datasetops.records import ANNOTATIONS, SAMPLES, canonical_json
from datasetops.schema import LabelSchema

NAMES = ["cat", "dog", "bird"]
START = pd.Timestamp("2026-03-01", tz="UTC")


def check(rows: list[dict[str, Any]], names: list[str] = NAMES) -> CheckResult:
    schema = LabelSchema.model_validate(
        {
            "name": "drift",
            "version": 1,
            "tasks": [{"kind": "classification"}, {"kind": "box"}],
            "classes": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
    )
    ids = sorted({row["sample_id"] for row in rows})
    context = AuditContext(
        samples=pa.Table.from_pylist([{"sample_id": one, "uri": one} for one in ids], SAMPLES).to_pandas(),
        annotations=pa.Table.from_pylist(rows, ANNOTATIONS).to_pandas(),
        schema=schema,
        images=None,  # type: ignore[arg-type]
        embeddings=None,  # type: ignore[arg-type]
    )
    return GuidelineDrift().run(context)


def answer(
    image: int, who: int, label: str, *, batch: str | None = None, minute: int | None = None, **more: Any
) -> Any:
    told = {"answer_id": f"{image}.{who}"} | ({"batch": batch} if batch else {})
    row = {"annotation_id": f"{image}/label", "sample_id": f"s{image:05}", "kind": "classification", "label": label}
    row |= {"source": "human", "actor": f"w{who}", "answer": canonical_json(told).decode()}
    row |= {"created_at": START + pd.Timedelta(minutes=minute or 0)}
    return row | more


def use_of(who: Any, batch: Any, label: Any, time: Any = None) -> Use:
    n = len(who)
    people, batches = ([f"{c}{i}" for i in range(int(np.max(codes)) + 1)] for c, codes in (("w", who), ("b", batch)))
    moment = np.arange(n, dtype=float) if time is None else time
    names = [f"c{k}" for k in range(int(np.max(label)) + 1)]
    return Use(moment, np.asarray(who), np.asarray(batch), people, batches, np.arange(n), np.asarray(label), names)


# -- tests of shares


def test_shares_in_strata_equal_mantel_and_haenszel() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 4, 900)
    who = np.where(rng.random(900) < 0.3 + 0.1 * batch, 0, 1)
    label = (rng.random(900) < 0.2 + 0.15 * batch + 0.05 * who).astype(int)
    table = share_shifts(use_of(who, batch, label), who, batch)
    counts = [
        np.array([[((batch == b) & (who == w) & (label == k)).sum() for k in (1, 0)] for w in (0, 1)]) for b in range(4)
    ]
    expected = tables.StratifiedTable(counts).test_null_odds(correction=True).pvalue
    adjusted = min(1.0, 4 * expected)  # two annotators and two classes, all the same test
    assert table["p"].to_numpy() == pytest.approx([adjusted] * 4)
    row = table[(table["group"] == 0) & (table["label"] == 1)].iloc[0]
    assert row["share"] == pytest.approx(label[who == 0].mean())
    others = sum((batch == b)[who == 0].sum() * label[(batch == b) & (who == 1)].mean() for b in range(4))
    assert row["others"] == pytest.approx(others / (who == 0).sum())


def test_a_batch_of_other_images_is_not_held_against_its_annotator() -> None:
    rng = np.random.default_rng(1)
    batch = np.repeat([0, 1], 1000)
    who = np.where(
        batch == 0, rng.choice([0, 1, 2], 2000, p=[0.1, 0.45, 0.45]), rng.choice([0, 1, 2], 2000, p=[0.8, 0.1, 0.1])
    )
    label = (rng.random(2000) < np.where(batch == 0, 0.2, 0.6)).astype(int)
    use = use_of(who, batch, label)
    assert (share_shifts(use, who, batch)["p"] > 0.05).all()
    assert (share_shifts(use, batch, np.zeros_like(batch))["p"] < 1e-6).all()
    assert (share_shifts(use, who, np.zeros_like(batch))["p"] < 1e-6).any()  # without strata it would be


@pytest.mark.slow
def test_rare_classes_are_not_named_by_chance() -> None:
    named = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        who = rng.integers(0, 8, 600)
        label = rng.choice(4, 600, p=[0.9, 0.06, 0.03, 0.01])
        table = share_shifts(use_of(who, np.zeros_like(who), label), who, np.zeros_like(who))
        named += bool((table["p"] < 0.05).any())
    assert named <= 8  # at most one set in twenty, and three deviations


def test_a_group_alone_in_its_stratum_is_not_compared() -> None:
    who, batch, label = np.repeat([0, 1], 60), np.repeat([0, 1], 60), np.repeat([0, 1], 60)
    assert share_shifts(use_of(who, batch, label), who, batch).empty


# -- tests of sizes


def test_sizes_equal_mann_and_whitney() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    values, group = rng.normal(size=300), rng.integers(0, 3, 300)
    label, one = rng.integers(0, 2, 300), np.zeros(300, dtype=int)
    values += 0.3 * (group == 1)
    table = size_shifts(values, label, group, one)
    assert len(table) == 6
    for row in table.itertuples():
        own = values[(label == row.label) & (group == row.group)]
        rest = values[(label == row.label) & (group != row.group)]
        assert row.n == len(own)
        expected = mannwhitneyu(own, rest, method="asymptotic", use_continuity=False).pvalue
        assert row.p == pytest.approx(expected)


def test_sizes_in_strata_of_other_sizes() -> None:
    rng = np.random.default_rng(1)
    stratum = rng.integers(-1, 3, 800)
    group = np.where(rng.random(800) < 0.2 + 0.2 * stratum, 0, 1)
    zero = np.zeros(800, dtype=int)
    values = 2.0 * stratum + rng.normal(size=800)
    assert (size_shifts(values, zero, group, stratum)["p"] > 0.01).all()
    assert (size_shifts(values, zero, group, zero)["p"] < 1e-6).all()
    assert (size_shifts(values + 0.5 * group, zero, group, stratum)["p"] < 1e-4).all()


# -- changes in time


def test_a_change_in_time_is_found_where_it_is() -> None:
    rng = np.random.default_rng(0)
    held = np.r_[rng.random(700) < 0.2, rng.random(500) < 0.5, rng.random(600) < 0.2]
    cuts = change_points(held, np.arange(1800.0), error_rate=0.05)
    assert len(cuts) == 2
    assert np.abs(np.array(cuts) - [700, 1200]).max() <= 40
    instants = np.arange(1800.0) // 100  # a hundred answers are of one instant: none is cut
    assert all(cut % 100 == 0 for cut in change_points(held, instants, error_rate=0.05))
    assert change_points(held[:90], np.arange(90.0), error_rate=0.05) == []
    assert change_points(np.ones(300, dtype=bool), np.arange(300.0), error_rate=0.05) == []


@pytest.mark.parametrize("run", [1, 4, 10])
def test_no_change_is_found_in_answers_that_come_in_runs(run: int) -> None:
    named = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        held = np.repeat(rng.random(1200 // run) < 0.3, run)
        named += bool(change_points(held, np.arange(float(len(held))), error_rate=0.05))
    assert named <= 12


def test_a_trifle_in_a_large_set_is_not_named() -> None:
    rng = np.random.default_rng(0)
    held = np.r_[rng.random(100_000) < 0.30, rng.random(100_000) < 0.33]
    assert change_points(held, np.arange(200_000.0), error_rate=0.05) == []
    who = rng.integers(0, 2, 200_000)
    label = (rng.random(200_000) < 0.30 + 0.03 * who).astype(int)
    table = share_shifts(use_of(who, np.zeros_like(who), label), who, np.zeros_like(who))
    assert (table["p"] < 1e-6).all()
    assert (table["h"].abs() < 0.2).all()


def test_images_that_came_sorted_tell_nothing_of_time() -> None:
    label = np.repeat([0, 1, 2], 200)
    who = np.tile([0, 1], 300)
    assert comes_sorted(use_of(who, np.zeros_like(who), label))
    assert not comes_sorted(use_of(who, np.zeros_like(who), np.random.default_rng(0).permutation(label)))
    assert not comes_sorted(use_of(np.arange(3), np.zeros(3, dtype=int), np.arange(3)))


# -- the check


def stream(rng: np.random.Generator, n: int = 1200) -> list[dict[str, Any]]:
    """Answers of five annotators in three batches of alike images, one a minute."""
    return [
        answer(i, int(rng.integers(5)), NAMES[int(rng.choice(3, p=[0.5, 0.3, 0.2]))], batch=f"b{i * 3 // n}", minute=i)
        for i in range(n)
    ]


@pytest.mark.slow
def test_nothing_is_said_where_nothing_changed() -> None:
    found = [check(stream(np.random.default_rng(seed))).findings for seed in range(3)]
    assert sum(map(len, found)) <= 1


def test_an_annotator_who_uses_a_class_otherwise() -> None:
    rng = np.random.default_rng(0)
    rows = stream(rng)
    for row in rows:
        if row["actor"] == "w3" and row["label"] == "cat" and rng.random() < 0.5:
            row["label"] = "dog"
    result = check(rows)
    assert [finding.message.split(" uses ")[0] for finding in result.findings] == ["w3"]
    finding = result.findings[0]
    assert finding.severity == "medium"
    assert "dog in 66.5%" in finding.message
    assert "the others in the same batches 29.1%" in finding.message
    assert result.summary["charts"][0]["values"]["w3"]


def test_a_batch_of_other_images() -> None:
    rng = np.random.default_rng(1)
    rows = stream(rng)
    for row in rows:
        if '"b1"' in row["answer"] and row["label"] == "cat" and rng.random() < 0.6:
            row["label"] = "bird"
    found = [finding for finding in check(rows).findings if finding.message.startswith("the batch b1 uses")]
    assert len(found) == 1
    assert found[0].severity == "low"
    assert "its images differ, or the guide was read otherwise" in found[0].message


def test_a_change_on_a_day_among_the_same_people() -> None:
    rng = np.random.default_rng(2)
    rows = stream(rng)
    for minute, row in enumerate(rows):
        row["answer"] = None
        if minute >= 700 and row["label"] == "cat" and rng.random() < 0.6:
            row["label"] = "dog"
    findings = check(rows).findings
    assert len(findings) == 1
    assert findings[0].severity == "medium"
    assert findings[0].message.startswith("from 2026-03-01 1")
    assert "among the people of both times" in findings[0].message
    for row in rows:  # the same, but others answer by then
        if row["created_at"] >= START + pd.Timedelta(minutes=700):
            row["actor"] += "x"
    later = [finding for finding in check(rows).findings if finding.message.startswith("from ")]
    assert [finding.severity for finding in later] == ["low"]
    assert "other people answered by then" in later[0].message


def test_what_cannot_be_judged_is_said() -> None:
    plain = answer(0, 0, "cat") | {"actor": None, "source": "import"}
    assert "which person" in check([plain]).summary["skipped"]
    one = check([answer(i, 0, NAMES[i % 3]) for i in range(200)])
    assert one.summary["skipped"].startswith("annotators: there is one annotator; batches: ")
    assert "time: all answers are of one instant" in one.summary["skipped"]
    imported = [answer(i, i % 4, NAMES[i * i % 3], minute=i) | {"source": "import"} for i in range(300)]
    assert "only an ingest tells their time" in check(imported).summary["not judged"]
    canonical_json(check(imported).summary)


def boxes_of(data: Path, tighter: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Real boxes of blood cells, their images dealt to four annotators, of whom w0 draws otherwise."""
    source = json.loads((data / "bccd" / "coco.json").read_text())
    names = {item["id"]: item["name"] for item in source["categories"]}
    rng = np.random.default_rng(0)
    dealt = {item["id"]: int(rng.integers(4)) for item in source["images"]}
    rows = []
    for number, item in enumerate(source["annotations"]):
        x, y, width, height = item["bbox"]
        who = dealt[item["image_id"]]
        inset = tighter if who == 0 else 0.0
        corners = {"x1": x + inset * width, "y1": y + inset * height}
        corners |= {"x2": x + width - inset * width, "y2": y + height - inset * height}
        label = names[item["category_id"]]
        row = answer(item["image_id"], who, label, kind="box", annotation_id=str(number))
        rows.append(row | corners)
    return rows, list(names.values())


def test_an_annotator_who_draws_tighter_boxes(data: Path) -> None:
    rows, names = boxes_of(data, 0.0)
    assert not check(rows, names).findings
    rows, names = boxes_of(data, 0.08)
    found = check(rows, names).findings
    assert found
    assert all(finding.message.startswith("w0 draws ") and "median area 0." in finding.message for finding in found)
    assert "RBC" in {finding.given for finding in found}
