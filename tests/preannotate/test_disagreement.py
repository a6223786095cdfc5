"""Where models differ from each other and from people."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colours import MeanColour, run

from datasetops.errors import NotFoundError
from datasetops.manifest import Change, Repository
from datasetops.preannotate.disagreement import (
    DISAGREEMENT,
    Voice,
    disagreement_scores,
    disagreements,
    keep_disagreement,
    summary,
)
from datasetops.records import canonical_json


def voice(name: str, rows: list[tuple[Any, ...]], answered: list[str]) -> Voice:
    names = ("sample_id", "label", "score", "x1", "y1", "x2", "y2")[: len(rows[0]) if rows else 3]
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    types = [pa.string(), pa.string(), *[pa.float64()] * 5]
    table = pa.table({key: pa.array(list(col), kind) for key, col, kind in zip(names, columns, types, strict=False)})
    return Voice(name, table, pa.array(answered, pa.string()))


def test_classes_of_three_voices() -> None:
    people = voice("people", [("a", "x", None), ("b", "y", None)], ["a", "b"])
    first = voice("first", [("a", "x", 0.9), ("b", "x", 0.8), ("c", "x", 0.7)], ["a", "b", "c", "d"])
    second = voice("second", [("c", "y", 0.9)], ["d", "c"])
    table = disagreements([people, first, second], "classification")
    assert table.schema == DISAGREEMENT
    columns = ("sample_id", "one", "other", "disagreement", "one_said", "other_said")
    assert [tuple(row[name] for name in columns) for row in table.to_pylist()] == [
        ("a", "people", "first", 0.0, "x", "x"),
        ("b", "people", "first", 1.0, "y", "x"),
        ("c", "first", "second", 1.0, "x", "y"),
        ("d", "first", "second", 0.0, "", ""),
    ]
    assert summary(table) == [
        {"one": "people", "other": "first", "samples": 2, "differ": 1, "mean": 0.5, "outside": 0},
        {"one": "first", "other": "second", "samples": 2, "differ": 1, "mean": 0.5, "outside": 0},
    ]


def test_boxes_by_the_share_that_only_one_has() -> None:
    one = voice(
        "one", [("a", "x", 0.9, 0, 0, 10, 10), ("a", "x", 0.8, 50, 0, 60, 10), ("b", "x", 0.9, 0, 0, 9, 9)], ["a", "b"]
    )
    other = voice("other", [("a", "x", 0.5, 0, 0, 10, 9)], ["a", "b"])
    found = disagreements([one, other], "box").to_pylist()
    assert [row["disagreement"] for row in found] == pytest.approx([1 - 2 / 3, 1.0])
    assert [row["one_said"] for row in found] == ["x, x", "x"]
    swapped = disagreements([other, one], "box").to_pylist()
    assert [row["disagreement"] for row in swapped] == pytest.approx([1 - 2 / 3, 1.0])


def test_nobody_to_compare_with() -> None:
    one, other = voice("one", [("a", "x", 0.9)], ["a"]), voice("other", [("b", "x", 0.9)], ["b"])
    assert len(disagreements([one, other], "classification")) == 0
    assert len(disagreements([one], "classification")) == 0


def test_stored_predictions_and_people(coloured: Repository) -> None:
    with pytest.raises(
        NotFoundError, match=r"nobody said something of the kind classification in v1\.\nPeople said nothing"
    ):
        keep_disagreement(coloured, coloured.version(), "classification")
    rows = [
        {"annotation_id": f"l{n}", "sample_id": f"s{n:02}", "kind": "classification", "label": "red", "source": "human"}
        for n in range(6)
    ]
    coloured.commit(Change(annotations=rows), message="all red, they say")
    run(coloured, also_labeled=True)
    run(coloured, MeanColour("c" * 64, ("green", "red", "blue"), "other"), also_labeled=True)
    run(coloured, MeanColour("b" * 64, ("green", "red", "blue"), "other"), also_labeled=True)  # two names are exchanged
    key, table = keep_disagreement(coloured, coloured.version(), "classification")
    pairs = {(row["one"][:6], row["other"][-4:]): (row["differ"], row["samples"]) for row in summary(table)}
    assert pairs == {("people", "aaaa"): (4, 6), ("people", "bbbb"): (4, 6), ("mean-c", "bbbb"): (8, 12)}
    kept = pq.read_table(BytesIO(coloured.store.get(key)))
    assert kept.equals(table)
    assert keep_disagreement(coloured, coloured.version(), "classification")[0] == key
    again = run(coloured, also_labeled=True)
    assert again.computed == 0  # the table does not count as predictions
    older = keep_disagreement(coloured, coloured.version(), "classification", mappings={"c" * 64: None})[1]
    assert {row["other"] for row in summary(older)} == {"mean-colour#aaaaaaaaaaaa", "other#cccccccccccc"}
    with pytest.raises(ValueError, match="classification or box"):
        keep_disagreement(coloured, coloured.version(), "mask")


def test_what_is_no_class_of_the_schema_is_told_apart(coloured: Repository) -> None:
    rows = [
        {"annotation_id": f"l{n}", "sample_id": f"s{n:02}", "kind": "classification", "label": "red", "source": "human"}
        for n in range(6)
    ]
    coloured.commit(Change(annotations=rows), message="all red, they say")
    run(coloured, MeanColour(names=("red", "green", "mauve")), also_labeled=True)
    table = keep_disagreement(coloured, coloured.version(), "classification")[1]
    (pair,) = summary(table)
    assert (pair["samples"], pair["differ"], pair["outside"], pair["mean"]) == (4, 2, 2, 0.5)
    assert set(disagreement_scores(table)["sample_id"].to_pylist()) == {"s00", "s01", "s03", "s04"}


def test_why_there_is_nothing_to_compare(coloured: Repository) -> None:
    ring = canonical_json({"polygons": [[0, 2, 8, 2, 8, 20]]}).decode()
    row = {"annotation_id": "p", "sample_id": "s00", "kind": "polygon", "label": "red", "source": "human"}
    coloured.commit(Change(annotations=[row | {"geometry": ring}]), message="an outline")
    run(coloured, also_labeled=True)
    with pytest.raises(NotFoundError, match=r"only mean-colour#a+ said something of the kind box") as caught:
        keep_disagreement(coloured, coloured.version(), "box")
    assert caught.value.remedy == "What people said there is of the kind polygon. Compare with a second model."
