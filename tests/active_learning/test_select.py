"""Choosing what to label next."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clusters import SCHEMA as CLASSES
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from typer.testing import CliRunner

from datasetops.active_learning import load_round, rounds, select
from datasetops.active_learning.scores import entropy, least_confidence, margin
from datasetops.cli.main import app
from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.labeling import batches, file_project, sent_samples
from datasetops.labeling.base import Answer, AnsweredTask, Pulled, Region
from datasetops.labeling.batch import Batch, save_batch
from datasetops.labeling.pull import apply
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


def table(**chances: list[float]) -> pd.DataFrame:
    """Probabilities by sample."""
    return pd.DataFrame.from_dict(chances, orient="index", columns=["cat", "dog", "bird"])


def test_the_least_sure_come_first_and_labeled_ones_not_at_all(pool: Repository) -> None:
    chances = table(a=EVEN, b=TORN, c=SURE, d=EVEN, e=[0.8, 0.1, 0.1], f=SURE)
    made = select(pool, pool.version(), n=3, strategy="entropy", probabilities=chances)
    assert (made.name, made.samples, made.pool) == ("r1", ("d", "b", "e"), 5)
    assert (made.commit, made.model, made.minutes) == (pool.version().digest, "given probabilities", None)
    assert made.reasons[0] == "entropy 1.000 of its maximum"
    assert load_round(pool, "r1") == made
    again = [
        select(pool, pool.version(), n=5, strategy="margin", probabilities=chances, seed=s) for s in (0, *range(12))
    ]
    assert again[0] == again[1]
    assert {item.samples[-2:] for item in again} == {("c", "f"), ("f", "c")}  # equally sure: the seed decides
    assert [item.name for item in rounds(pool)] == [f"r{n}" for n in range(1, 14)]  # of the two seeds 0 one


def test_auto_notes_what_it_took_and_why(pool: Repository) -> None:
    made = select(pool, pool.version(), n=2)
    assert made.notes == ("auto took random: no model says what the items may be.",)
    assert made.reasons == ("random: drawn at random",) * 2


def test_what_is_out_for_labeling_is_left_out(pool: Repository) -> None:
    pushed(pool, "x", "b", "c", "d")
    made = select(pool, pool.version(), n=9, strategy="random")
    assert set(made.samples) == {"e", "f"}
    assert made.notes == (
        "Left out: 3 samples that are out for labeling.",
        "9 were asked for, and the pool has 2.",
    )
    with pytest.raises(DatasetOpsError, match="nothing left"):
        select(pool, pool.version(), n=9, strategy="random", where="sample_id IN ('b', 'c')")


def test_what_came_back_without_a_label_may_be_chosen_again(tmp_path: Path) -> None:
    """Skipped, of an unknown class, of no class; but not what somebody is asked elsewhere, nor what is not back."""
    pool = Repository.init(tmp_path / "classes", CLASSES)
    samples = [{"sample_id": name, "uri": f"{name}.png", "width": 8, "height": 8} for name in "bcdef"]
    pool.commit(Change(samples=samples), message="five")
    pushed(pool, "x", "b", "c", "d", "e", "f")
    pushed(pool, "y", "d")
    unknown = Region("r", {"kind": "classification", "label": "zebra"})
    answers = {
        "b": Answer("1", "ann", "skipped"),
        "c": Answer("2", "ann", "done", (unknown,), unread=("the schema has no class 'zebra'",)),
        "d": Answer("3", "ann", "skipped"),
        "e": Answer("4", "ann", "done"),
    }
    told = Pulled(tuple(AnsweredTask(name, name, "x", (answer,)) for name, answer in answers.items()), {})
    project = file_project(pool, "cvat")
    apply(pool, project, {batch.name: batch for batch in batches(pool)}, told, Tool())
    made = select(pool, pool.version(), n=9, strategy="random")
    assert set(made.samples) == {"b", "c", "e"}
    assert "3 in the pool came back from labeling without a label." in made.notes
    assert sent_samples(pool).out == {"d", "f"}
    pool.commit(Change(annotations=[{"annotation_id": "b/label", "sample_id": "b", "kind": "classification"}
                                    | {"label": "cat", "source": "human"}]), message="told")  # fmt: skip
    assert set(select(pool, pool.version(), n=9, strategy="random").samples) == {"c", "e"}


class Tool:
    """What answers say they came from."""

    name, version = "cvat", "2"


def pushed(repository: Repository, name: str, *samples: str) -> None:
    """A batch that was sent, without a tool that got it."""
    project = file_project(repository, "cvat").name
    sizes = dict.fromkeys(samples, (8, 8, 1))
    batch = Batch(name, project, repository.version().name, samples, sizes=sizes)
    save_batch(repository, batch)
    outputs, told = {"files": {batch.key: ""}}, {"batch": name, "project": project}
    repository.ledger.record(Event("label-push", "lead", outputs=outputs, parameters=told))


def test_sealed_splits_are_not_chosen_from(pool: Repository) -> None:
    kept = {"sample_id": "t", "uri": "t.png", "width": 8, "height": 8, "split": "test"}
    pool.commit(Change(samples=[kept], sealed=["test"]), message="sealed")
    made = select(pool, pool.version(), n=9, strategy="random")
    assert "t" not in made.samples
    assert "Left out: 1 samples of sealed splits." in made.notes


def test_what_models_are_judged_on_is_chosen_on_request_only(pool: Repository) -> None:
    rows = [{"sample_id": "b", "uri": "b.png", "width": 8, "height": 8, "split": "validation"}]
    pool.commit(Change(samples=rows), message="split")
    made = select(pool, pool.version(), n=9, strategy="random")
    assert set(made.samples) == set("cdef")
    assert "Left out: 1 samples of splits that models are judged on (validation, val, test)." in made.notes
    assert select(pool, pool.version(), n=9, strategy="random", where="split = 'validation'").samples == ("b",)


def test_errors_say_what_is_missing(pool: Repository) -> None:
    with pytest.raises(NotFoundError, match="no strategy 'margins'") as unknown:
        select(pool, pool.version(), n=1, strategy="margins")
    assert "'margin'" in unknown.value.remedy
    with pytest.raises(DatasetOpsError, match="margin needs to know") as nothing:
        select(pool, pool.version(), n=1, strategy="margin")
    assert "--predictions MODEL" in nothing.value.remedy
    with pytest.raises(DatasetOpsError, match="bald compares several models"):
        select(pool, pool.version(), n=1, strategy="bald", probabilities=table(**dict.fromkeys("bcdef", SURE)))
    with pytest.raises(ValueError, match="4 of the 5 items"):
        select(pool, pool.version(), n=1, strategy="margin", probabilities=table(c=SURE))
    with pytest.raises(NotFoundError, match="no round 'r9'"):
        load_round(pool, "r9")
    for n, remedy in ((None, "how many with --n"), (2, "Leave --budget out")):
        with pytest.raises(DatasetOpsError, match="No budget can be filled: 0 past answers") as unknown_pace:
            select(pool, pool.version(), n=n, budget=60.0, strategy="random")
        assert remedy in unknown_pace.value.remedy
    with pytest.raises(DatasetOpsError, match="No sample of v1 fulfils --where \"split = 'night'\""):
        select(pool, pool.version(), n=1, strategy="random", where="split = 'night'")
    assert list(rounds(pool)) == []


@pytest.mark.parametrize(
    ("quotas", "told"),
    [
        (["light"], "expected KEY=VALUE:COUNT"),
        (["light=night:0"], "whole number of 1 or more"),
        (["light=night:120%"], "share above 0 %"),
        (["light=night:1", "light=night:2"], "given more than once"),
        (["light=night:3", "light=day:3"], "add up to 6, and the batch has 5"),
        (["lght=night:1"], "no sample of the pool has 'lght', as a column or in the metadata. Did you mean 'light'"),
        (["light=nite:1"], "no sample has light=nite. Did you mean 'night'"),
    ],
)
def test_quotas_that_cannot_be_are_refused(lit: Repository, quotas: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        select(lit, lit.version(), n=5, strategy="random", quotas=quotas)


@pytest.fixture
def lit(repository: Repository) -> Repository:
    """Forty samples without labels: four at night, two of those of one clip."""
    rows = [
        {
            "sample_id": f"s{number:02}",
            "uri": f"s{number:02}.png",
            "width": 8,
            "height": 8,
            "group": "clip" if number < 20 else f"clip{number}",
            "metadata": json.dumps({"light": "night" if number % 10 == 0 else "day"}),
        }
        for number in range(40)
    ]
    repository.commit(Change(samples=rows), message="forty")
    return repository


NIGHT = {"s00", "s10", "s20", "s30"}


def doubts(repository: Repository) -> pd.DataFrame:
    """The later in the alphabet, the surer."""
    ids = repository.version().table("samples")["sample_id"].to_pylist()
    doubt = np.linspace(0.5, 0.0, len(ids))
    return pd.DataFrame({"cat": 1 - doubt, "dog": doubt, "bird": 0.0}, index=pd.Index(ids, name="sample_id"))


def test_a_budget_counts_likely_classes_at_their_pace(lit: Repository) -> None:
    """Cats took 4 s and dogs 30 s; a model takes each item for a cat at seven to one."""
    rows = [
        {"annotation_id": f"s{n:02}/label", "sample_id": f"s{n:02}", "kind": "classification", "label": label}
        | {"source": "human", "actor": "ann"}
        | {"answer": json.dumps({"answer_id": str(n), "lead_time": 4.0 if label == "cat" else 30.0})}
        for n, label in enumerate(["cat", "dog"] * 10)
    ]
    more = [{"sample_id": f"t{n:03}", "uri": f"{n}.png", "width": 8, "height": 8} for n in range(100)]
    lit.commit(Change(samples=more, annotations=rows), message="timed")
    ids = lit.version().table("samples")["sample_id"].to_pylist()
    chances = pd.DataFrame({"cat": 7 / 8, "dog": 1 / 8, "bird": 0.0}, index=pd.Index(ids))
    made = select(lit, lit.version(), budget=3.0, strategy="margin", probabilities=chances)
    pace = {"cat": (10 * 4 + 10 * 17) / 20, "dog": (10 * 30 + 10 * 17) / 20}  # each class with ten answers of all
    expected = (7 * pace["cat"] + pace["dog"]) / 8
    assert made.asked == len(made.samples) == int(180 / expected)
    assert made.minutes == pytest.approx(len(made.samples) * expected / 60, abs=0.1)
    low, high = made.minutes_between
    assert low < made.minutes < high


def test_a_key_of_the_metadata_is_no_column_of_a_condition(lit: Repository) -> None:
    with pytest.raises(DatasetOpsError, match='"light" not found') as unknown:
        select(lit, lit.version(), n=1, strategy="random", where="light = 'night'")
    assert "write metadata->>'light'. The columns of samples are sample_id, " in unknown.value.remedy
    made = select(lit, lit.version(), n=9, strategy="random", where="metadata->>'light' = 'night'")
    assert set(made.samples) == NIGHT


def test_quotas_are_fulfilled_and_the_rest_goes_by_score(lit: Repository) -> None:
    made = select(lit, lit.version(), n=8, strategy="margin", probabilities=doubts(lit), quotas=["light=night:50%"],
                  spread=False)  # fmt: skip
    assert set(made.samples) >= NIGHT
    assert set(made.samples) - NIGHT == {"s01", "s02", "s03", "s04"}
    assert made.reasons[made.samples.index("s30")].endswith("; for the quota light=night")
    short = select(lit, lit.version(), n=8, strategy="margin", probabilities=doubts(lit), quotas=["light=night:6"])
    assert "The quota light=night asks for 6, and 4 could be had." in short.notes
    assert len(short.samples) == 8
    even = select(lit, lit.version(), n=8, strategy="random", balance="light")
    assert len(NIGHT & set(even.samples)) == 4


def test_no_group_takes_more_than_twice_its_share_unless_nothing_else_is_left(lit: Repository) -> None:
    made = select(lit, lit.version(), n=21, strategy="margin", probabilities=doubts(lit))
    assert sum(name < "s20" for name in made.samples) == 2  # 21 items, 21 groups
    packed = select(lit, lit.version(), n=21, strategy="margin", probabilities=doubts(lit), spread=False)
    assert sum(name < "s20" for name in packed.samples) == 20
    every = select(lit, lit.version(), n=40, strategy="margin", probabilities=doubts(lit))
    assert len(set(every.samples)) == 40


@pytest.mark.slow
def test_the_random_arm_is_drawn_from_the_whole_pool_and_mixed_in(lit: Repository) -> None:
    drawn = np.zeros(40)
    for seed in range(200):
        made = select(lit, lit.version(), n=10, strategy="margin", probabilities=doubts(lit), random_share=0.3,
                      seed=seed, spread=False)  # fmt: skip
        assert len(made.random) == 3
        assert len(set(made.samples)) == 10
        assert [score for name, score in zip(made.samples, made.scores, strict=True) if name in made.random] == [
            None
        ] * 3
        for name in made.random:
            drawn[int(name[1:])] += 1
    assert chisquare(drawn).pvalue > 0.001


def test_select_and_rounds_from_the_command_line(pool: Repository, tmp_path: Path) -> None:
    lines = [
        "sample_id,dog,cat,bird",
        *(f"{name},{0.9 if name == 'c' else 0.4},{0.1 if name == 'c' else 0.6},0" for name in "bcdef"),
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    place = ["-C", str(pool.root), "--json"]
    run = CliRunner().invoke
    done = run(
        app, ["select", "v1", "--n", "4", "--strategy", "margin", "--probabilities", str(tmp_path / "p.csv"), *place]
    )
    assert done.exit_code == 0, done.output
    assert {item["sample_id"] for item in json.loads(done.stdout)["samples"]} == {"b", "d", "e", "f"}
    twice = ["select", "v1", "--n", "4", "--strategy", "margin", "--probabilities", str(tmp_path / "p.csv"), *place]
    again = run(app, twice)
    assert (json.loads(again.stdout)["round"], json.loads(again.stdout)["made_before"]) == ("r1", True)
    assert "This is r1, made before" in again.stderr
    table = tmp_path / "r1.csv"
    assert run(app, ["rounds", "r1", "--out", str(table), *place]).exit_code == 0
    first = json.loads(run(app, ["rounds", "r1", *place]).stdout)["samples"][0]
    assert table.read_text().splitlines()[:2] == ["path,label", f"{first['path']},"]
    assert Path(first["path"]).is_absolute()
    dry = json.loads(run(app, ["select", "v1", "--n", "2", "--strategy", "random", "--dry-run", *place]).stdout)
    assert (dry["round"], len(dry["samples"])) == ("", 2)
    assert "There is no round 'r2'" in run(app, ["rounds", "r2", *place]).output
    label = {"annotation_id": "d/label", "sample_id": "d", "kind": "classification", "label": "dog", "source": "human"}
    pool.commit(Change(annotations=[label]), message="labeled")
    listed = json.loads(run(app, ["rounds", *place]).stdout)
    (bought,) = listed["rounds"]
    assert (bought["round"], bought["items"], bought["labeled"]) == ("r1", 4, 1)
    assert bought["corrections"] == 1  # the file said cat
    assert run(app, ["label", "push", "v1", "--round", "r1", "--where", "true", *place]).exit_code == 2
    out = str(tmp_path / "t.zip")
    lost = run(app, ["label", "push", "v1", "--round", "r7", "--tool", "cvat", "--out", out, *place])
    assert "There is no round 'r7'" in lost.output
