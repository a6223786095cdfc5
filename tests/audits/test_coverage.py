"""What samples cover: cells against a plain count, and what of them is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasetops.audits.base import CheckResult
from datasetops.audits.charts import bars, draw, grid, scatter
from datasetops.audits.sets.coverage import Coverage, attributes, count_values, slice_values, values_by_key
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema


def schema_of(*slices: dict[str, Any], classes: tuple[str, ...] = ("cat", "dog")) -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "covered",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": n, "name": name} for n, name in enumerate(classes)],
            "slices": list(slices),
        }
    )


def key(name: str, values: list[Any], least: int = 1) -> dict[str, Any]:
    return {"key": name, "values": values, "min_count": least}


def run(build: Any, frame: pd.DataFrame, schema: LabelSchema, labels: list[str] | None = None) -> CheckResult:
    metadata = [
        canonical_json({k: v for k, v in row.items() if v is not None and v == v}).decode()
        for row in frame.to_dict("records")
    ]
    rows = [
        {"annotation_id": f"s{n:05}/label", "sample_id": f"s{n:05}", "kind": "classification", "label": label}
        for n, label in enumerate(labels or [])
    ]
    return Coverage().run(build([None] * len(frame), rows, schema=schema, metadata=metadata))


def told(result: CheckResult) -> dict[str | None, tuple[str, str]]:
    return {finding.given: (finding.severity, finding.message) for finding in result.findings}


def product(light: dict[str, int], rain: dict[str, int]) -> pd.DataFrame:
    """Every pair as often as the product says."""
    rows = [(a, b) for a, n in light.items() for b, m in rain.items() for _ in range(n * m)]
    return pd.DataFrame(rows, columns=["light", "rain"])


def test_a_set_that_meets_every_minimum_evenly_lacks_nothing(build: Any) -> None:
    schema = schema_of(key("light", ["day", "night"], 30), key("rain", ["no", "some", "much"], 20))
    frame = product({"day": 10, "night": 10}, {"no": 1, "some": 1, "much": 1})
    result = run(build, frame, schema, ["cat", "dog"] * 30)
    assert result.findings == []
    assert result.summary["coverage index"] == 1.0
    assert result.summary["values covered"] == "5 of 5"
    assert result.summary["pairs lacking"] == "0 of 16"


def test_cells_and_the_index_are_a_plain_count(build: Any) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"light": rng.choice(["day", "night", "dusk"], 500, p=[0.7, 0.25, 0.05])})
    frame["rain"] = np.where(rng.random(500) < 0.1, "some", "no")
    labels = rng.choice(["cat", "dog"], 500, p=[0.8, 0.2]).tolist()
    result = run(
        build, frame, schema_of(key("light", ["day", "night", "dusk"], 60), key("rain", ["no", "some"], 60)), labels
    )
    frame["class"] = labels
    cells = {(cell["slice"], cell["and"]): cell for cell in result.summary["cells"]}
    reached = []
    for name in ("light", "rain"):
        for value, count in frame[name].value_counts().items():
            cell = cells.pop((f"{name} = {value}", None))
            assert (cell["count"], cell["wanted"]) == (count, 60)
            assert cell["share"] == pytest.approx(count / 500)
            reached.append(min(1, count / 60))
    wanted_of = {
        ("light", "rain"): lambda a, b: 20,  # of 60 at dusk 30 may fall to each of two kinds of rain, of 60 wet ones 20
        ("light", "class"): lambda a, b: int(60 * (frame["class"] == b).mean()),
        ("rain", "class"): lambda a, b: int(60 * (frame["class"] == b).mean()),
    }
    for (a, b), wanted in wanted_of.items():
        table = pd.crosstab(frame[a], frame[b])
        for x in table.index:
            for y in table.columns:
                cell = cells.pop((f"{a} = {x}", f"{b} = {y}"))
                assert (cell["count"], cell["wanted"]) == (table.loc[x, y], wanted(x, y))
                assert cell["expected"] == pytest.approx((frame[a] == x).sum() * (frame[b] == y).mean(), abs=0.006)
                reached.append(min(1, cell["count"] / cell["wanted"]))
    assert cells == {}
    assert result.summary["coverage index"] == pytest.approx(np.mean(reached), abs=1e-4)


def test_values_that_never_meet_are_reported_though_each_has_enough(build: Any) -> None:
    schema = schema_of(key("light", ["day", "night"], 100), key("rain", ["no", "much"], 100))
    frame = product({"day": 10, "night": 5}, {"no": 30, "much": 20})
    frame = frame[~((frame["light"] == "night") & (frame["rain"] == "much"))]
    result = told(run(build, frame, schema))
    assert result == {
        "light=night, rain=much": (
            "medium",
            "light = night and rain = much: 0 of at least 50; 46.2 would be expected if the two were independent; "
            "collect 50 more",
        )
    }


def test_pairs_without_a_minimum_of_their_own_are_reported_only_where_they_surprise(build: Any) -> None:
    schema = schema_of(key("light", ["day", "night"]), key("rain", ["no", "much"]))
    rare = product({"day": 20, "night": 1}, {"no": 20, "much": 1})
    assert run(build, rare[~((rare["light"] == "night") & (rare["rain"] == "much"))], schema).findings == []
    common = product({"day": 10, "night": 10}, {"no": 10, "much": 10})
    few = pd.concat([common[~((common["light"] == "night") & (common["rain"] == "much"))], common[-6:]])
    (finding,) = run(build, few, schema).findings
    assert (finding.severity, finding.given) == ("low", "light=night, rain=much")
    assert finding.message.endswith(
        "6 of at least 8; 36.7 would be expected if the two were independent; collect 2 more"
    )


def test_a_value_that_lacks_is_said_once_and_not_again_for_its_pairs(build: Any) -> None:
    schema = schema_of(key("light", ["day", "night", "dusk"], 30), key("rain", ["no", "some"], 30))
    frame = product({"day": 40, "night": 2}, {"no": 1, "some": 1})
    result = told(run(build, frame, schema, ["cat"] * 84))
    assert result == {
        "light=night": ("medium", "light = night: 4 of at least 30; collect 26 more"),
        "light=dusk": ("high", "light = dusk: 0 of at least 30; collect 30 more"),
    }


def test_classes_within_a_value_are_held_against_their_own_share(build: Any) -> None:
    frame = pd.DataFrame({"light": ["day"] * 400 + ["night"] * 100})
    labels = ["cat"] * 200 + ["dog"] * 196 + ["owl"] * 4 + ["cat"] * 100
    schema = schema_of(key("light", ["day", "night"], 50), classes=("cat", "dog", "owl"))
    result = told(run(build, frame, schema, labels))
    assert list(result) == ["light=night, class=dog"]  # that no owl, of which there are four, is at night is no news
    assert result["light=night, class=dog"][0] == "medium"


def test_missing_and_unlisted_values_are_said(build: Any) -> None:
    frame = pd.DataFrame({"light": ["day", "day", None, "noon", "noon", "dawn"]}, dtype=object)
    summary = run(build, frame, schema_of(key("light", ["day"]))).summary
    assert summary["samples without a value"] == "light: 1"
    assert summary["values that the schema does not list"] == "light: noon (2), dawn (1)"
    assert "pairs lacking" not in summary
    assert "skipped" in run(build, frame, schema_of()).summary


def test_slices_may_be_columns_and_one_key_may_have_several(build: Any) -> None:
    schema = schema_of(key("origin", ["Bern"], 3), key("origin", ["Basel"], 1), key("width", [64], 2))
    result = Coverage().run(
        build([None] * 4, schema=schema, origin=["Bern", "Bern", "Basel", None], width=[64, 64, 32, 64])
    )
    assert told(result) == {
        "origin=Bern": ("medium", "origin = Bern: 2 of at least 3; collect 1 more"),
        "origin=Basel, width=64": (
            "low",
            "origin = Basel and width = 64: 0 of at least 1; 0.7 would be expected if the two were independent; "
            "collect 1 more",
        ),
    }
    assert result.summary["values covered"] == "2 of 3"
    assert [chart["kind"] for chart in result.summary["charts"]] == ["bars", "bars", "grid"]
    assert all("<svg" in draw(chart) for chart in result.summary["charts"])


def test_impossible_pairs_of_photographs_are_never_high(data: Path, build: Any) -> None:
    frame = pd.read_csv(data / "grouped" / "exdark_slices.csv")
    slices = [key(name, sorted(frame[name].unique()), 100) for name in ("light", "in_out")]
    schema = schema_of(*slices, classes=tuple(sorted(frame["class"].unique())))
    result = run(build, frame[["light", "in_out"]], schema, frame["class"].tolist())
    found = told(result)
    assert found["light=Shadow"][1] == "light = Shadow: 56 of at least 100; collect 44 more"
    table = pd.crosstab(frame["light"], frame["in_out"])
    empty = {f"light={a}, in_out={b}" for a in table.index for b in table.columns if table.loc[a, b] == 0}
    assert empty == {
        *("light=Screen, in_out=Outdoor", "light=Window, in_out=Outdoor"),  # which are seen indoors
        *("light=Twilight, in_out=Indoor", "light=Shadow, in_out=Indoor"),
    }
    assert empty - set(found) == {"light=Shadow, in_out=Indoor"}  # of shadow there is too little anyway
    assert {severity for severity, _ in found.values()} == {"medium", "low"}


def test_values_are_equal_as_json(build: Any) -> None:
    metadata = ['{"hour":1}', '{"hour":"1"}', '{"hour":true}', '{"hour":[1]}', "{}", None, '{"hour":1,"a":"x"}']
    samples = build([None] * 7, metadata=metadata).samples
    hours = slice_values(samples, "hour")
    assert hours.tolist() == [1, "1", True, [1], None, None, 1]
    assert count_values(hours, [1, "1", 2]) == {1: 2, "1": 1, 2: 0}
    assert count_values(hours, [True]) == {True: 1}
    assert set(values_by_key(samples)) == {"hour", "a"}


def test_attributes_divide_samples_and_names_of_items_do_not(build: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "light": rng.choice(["day", "night"]),
            "hour": int(rng.integers(3)),
            "glare": float(rng.random()),
            "file": f"image {number}",
            "number": number,
            "site": "Bern",
        }
        for number in range(200)
    ]
    rows[0] = {}
    metadata = [canonical_json(row).decode() for row in rows]
    found = attributes(build([None] * 200, metadata=metadata, origin=["a", "b"] * 100).samples, bins=4)
    assert sorted(found) == ["glare", "hour", "light", "origin"]
    assert found["hour"].names == ("hour = 0", "hour = 1", "hour = 2")
    assert found["light"].codes[0] == -1
    assert [found["hour"].names[code] for code in found["hour"].codes[1:]] == [
        f"hour = {row['hour']}" for row in rows[1:]
    ]
    glare = found["glare"].codes
    assert glare[0] == -1
    assert np.bincount(glare[1:]).tolist() == pytest.approx([50] * 4, abs=1)
    assert (np.diff(glare[1:][np.argsort([row["glare"] for row in rows[1:]])]) >= 0).all()


def test_charts_hold_every_value_and_let_no_name_out() -> None:
    bad = "<script>&"
    charts = [
        bars("", {bad: {bad: 3.0, "b": 2.0}}, beside=True),
        grid("", [bad, "b"], ["x", bad], [[1, 2], [3, 4]]),
        scatter("", {bad: [(0, 1), (2, 3)], "b": [(1, 1)]}, across=bad, up=bad),
        scatter("", {bad: [(0, 1), (2, 3)]}, joined=True),
    ]
    drawn = [draw(chart) for chart in charts]
    assert all("&lt;script&gt;&amp;" in svg and "<script" not in svg for svg in drawn)
    assert [svg.count("<rect") for svg in drawn] == [4, 4, 2, 1]
    assert (drawn[2].count("<circle"), drawn[3].count("<circle")) == (3, 0)
    assert all("<svg" in draw(chart) for chart in (grid("", [], [], []), scatter("", {}), bars("", {}, beside=True)))
