"""Choosing what to label next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from datasetops.active_learning import load_round, rounds, select
from datasetops.active_learning.scores import entropy, least_confidence, margin
from datasetops.cli.main import app
from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository

SURE, TORN, EVEN = [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]


@pytest.fixture
def pool(repository: Repository) -> Repository:
    """Samples a to f: a has a person's label, b a model's, the others none."""
    samples = [{"sample_id": name, "uri": f"{name}.png", "width": 8, "height": 8} for name in "abcdef"]
    labels = [
        {
            "annotation_id": f"{name}/label",
            "sample_id": name,
            "kind": "classification",
            "label": "cat",
            "source": source,
        }
        for name, source in (("a", "human"), ("b", "model"))
    ]
    repository.commit(Change(samples=samples, annotations=labels), message="six")
    return repository


@pytest.mark.parametrize("score", [least_confidence, margin, entropy])
def test_a_sure_answer_scores_zero_and_an_even_one_is_never_below_another(score: object) -> None:
    assert callable(score)
    sure, torn, even = score([SURE, TORN, EVEN])
    assert sure == pytest.approx(0)
    assert even == pytest.approx(1)
    assert sure < torn <= even + 1e-12


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_scores_lie_between_zero_and_one_whatever_the_order_of_the_classes(rows: list[list[float]]) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    for score in (least_confidence, margin, entropy):
        found = score(p)
        assert ((found >= 0) & (found <= 1 + 1e-12)).all()
        np.testing.assert_allclose(found, score(p[:, ::-1]), atol=1e-12)


@pytest.mark.parametrize("bad", [[[0.5, 0.6]], [[np.nan, 1.0]], [[-0.1, 1.1]], [[1.0]], [0.5, 0.5]])
def test_what_is_no_distribution_is_refused(bad: list[object]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        margin(bad)


def test_the_least_sure_come_first_and_labeled_ones_not_at_all(pool: Repository) -> None:
    chances = {"a": EVEN, "b": TORN, "c": SURE, "d": EVEN, "e": [0.8, 0.1, 0.1], "f": SURE}
    made = select(pool, pool.version(), n=3, strategy="entropy", probabilities=chances)
    assert (made.name, made.samples, made.pool) == ("r1", ("d", "b", "e"), 5)
    assert load_round(pool, "r1") == made
    again = [
        select(pool, pool.version(), n=5, strategy="margin", probabilities=chances, seed=s).samples
        for s in (0, *range(12))
    ]
    assert again[0] == again[1]
    assert {order[-2:] for order in again} == {("c", "f"), ("f", "c")}  # equally sure: the seed decides
    assert [item.name for item in rounds(pool)] == [f"r{n}" for n in range(1, 15)]


def test_what_is_out_for_labeling_is_left_out(pool: Repository) -> None:
    pool.store.put("labeling/batches/x.json", json.dumps({"samples": ["b", "c", "d"]}).encode())
    pool.ledger.record(Event("label-push", "lead", outputs={"files": {"labeling/batches/x.json": ""}}))
    assert set(select(pool, pool.version(), n=9, strategy="random").samples) == {"e", "f"}
    with pytest.raises(DatasetOpsError, match="nothing left"):
        select(pool, pool.version(), n=9, strategy="random", where="sample_id IN ('b', 'c')")


def test_errors_say_what_is_missing(pool: Repository) -> None:
    with pytest.raises(NotFoundError, match="no strategy 'margins'") as unknown:
        select(pool, pool.version(), n=1, strategy="margins")
    assert "'margin'" in unknown.value.remedy
    with pytest.raises(ValueError, match="--probabilities FILE"):
        select(pool, pool.version(), n=1)
    with pytest.raises(ValueError, match="4 of the 5 items"):
        select(pool, pool.version(), n=1, probabilities={"c": SURE})
    with pytest.raises(NotFoundError, match="no round 'r9'"):
        load_round(pool, "r9")


def test_select_and_rounds_from_the_command_line(pool: Repository, tmp_path: Path) -> None:
    lines = [
        "sample_id,dog,cat,bird",
        *(f"{name},{0.9 if name == 'c' else 0.4},{0.1 if name == 'c' else 0.6},0" for name in "bcdef"),
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    place = ["-C", str(pool.root), "--json"]
    run = CliRunner().invoke
    done = run(app, ["select", "v1", "--n", "4", "--probabilities", str(tmp_path / "p.csv"), *place])
    assert done.exit_code == 0, done.output
    assert {item["sample_id"] for item in json.loads(done.stdout)["samples"]} == {"b", "d", "e", "f"}
    label = {"annotation_id": "d/label", "sample_id": "d", "kind": "classification", "label": "dog", "source": "human"}
    pool.commit(Change(annotations=[label]), message="labeled")
    listed = json.loads(run(app, ["rounds", *place]).stdout)
    assert [(item["round"], item["samples"], item["labeled"]) for item in listed] == [("r1", 4, 1)]
    assert run(app, ["label", "push", "v1", "--round", "r1", "--where", "true", *place]).exit_code == 2
    out = str(tmp_path / "t.zip")
    lost = run(app, ["label", "push", "v1", "--round", "r7", "--tool", "cvat", "--out", out, *place])
    assert "There is no round 'r7'" in lost.output
