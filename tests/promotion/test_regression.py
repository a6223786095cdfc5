"""Regression sets: what is expected of which items, by revision, and whether a model says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from datasetops.cli import promote as commands
from datasetops.errors import NotFoundError
from datasetops.evaluation.evaluate import evaluate
from datasetops.manifest import Change, Repository
from datasetops.promotion.policy import ModelPolicy
from datasetops.promotion.promote import promote
from datasetops.promotion.regression import add, check, failures_of, load_set, remove, set_names
from datasetops.scorecard.history import History
from datasetops.training.record import load_model_record

pytestmark = pytest.mark.slow
Copied = Callable[[Path], Repository]


def run(repository: Repository, *arguments: str) -> Result:
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, ["regress", *arguments, "-C", str(repository.root)])


def test_a_set_grows_by_revisions(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    version = repository.version()
    first = add(repository, "night", version, ["s002", "s005"], reason="seen at night")
    assert [item.expected for item in first.items] == [({"label": "0"},), ({"label": "0"},)]
    again = add(repository, "night", version, ["s002"], reason="seen at night")
    assert again.revision == first.revision
    more = add(repository, "night", version, ["s070"])
    assert (len(more.items), more.revision != first.revision) == (3, True)
    assert load_set(repository, "night", first.revision).items == first.items
    less = remove(repository, "night", ["s070"], reason="the label was wrong")
    assert less.revision == first.revision
    event = next(repository.ledger.backwards()).event
    assert (event.kind, event.parameters["reason"]) == ("regress", "the label was wrong")
    with pytest.raises(ValueError, match="reason"):
        remove(repository, "night", ["s002"], reason="")
    with pytest.raises(NotFoundError, match="no sample 's070'"):
        remove(repository, "night", ["s070"], reason="twice")
    with pytest.raises(NotFoundError, match="v1 has no sample"):
        add(repository, "night", version, ["s00"])
    remove(repository, "night", ["s002", "s005"], reason="none is left")
    assert set_names(repository) == ()


def test_two_writers_lose_nothing(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    version = repository.version()
    names = [f"s{number:03}" for number in range(10)]

    def several(part: list[str]) -> None:
        own = Repository.open(str(repository.root))
        for one in part:
            add(own, "both", version, [one])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(several, (names[:5], names[5:])))
    assert [item.sample_id for item in load_set(repository, "both").items] == names


def test_failures_of_an_evaluation_fail_again_until_they_are_put_right(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    found = evaluate(repository, repository.version(), "model:m1", resamples=100)
    wrong = failures_of(found)
    assert wrong
    made = run(repository, "add", "field", "--from-evaluation", found.evaluation_id[:8], "--json")
    assert made.exit_code == 0, made.stderr
    assert {item["sample_id"] for item in json.loads(made.stdout)["items"]} == set(wrong)
    by_model = run(repository, "add", "field", "--from-evaluation", "m1", "--json")
    assert json.loads(by_model.stdout) == json.loads(made.stdout)
    assert "none of a model of that name" in run(repository, "add", "field", "--from-evaluation", "m2").stderr
    checked = run(repository, "check", "field", "m1")
    assert checked.exit_code == 3
    assert f"m1: 0 of {len(wrong)} items of field are right." in checked.stdout
    right = sorted(set(repository.version().where("split = 'test'")) - set(wrong))
    assert run(repository, "add", "known", *(f"--sample={one}" for one in right)).exit_code == 0
    assert check(repository, load_set(repository, "known"), "model:m1").failed == {}
    asked = ModelPolicy.model_validate({"name": "own", "regression": {}})
    refused = promote(repository, load_model_record(repository, "m1"), asked)
    assert [rule.rule for rule in refused.failed] == ["regression"]
    evidence = refused.failed[0].evidence
    assert evidence["known"]["revision"] == load_set(repository, "known").revision
    assert set(evidence["field"]["failed"]) == set(wrong)
    history = History(repository)
    assert history.outcomes(repository.version(), ["m1"])["promotion"] == [False]
    sets = history.regression(load_model_record(repository, "m1"))
    assert {name: (one["right"], one["items"]) for name, one in sets.items()} == {
        "field": (0, len(wrong)),
        "known": (len(right), len(right)),
    }
    own = ModelPolicy.model_validate({"name": "own", "regression": {"sets": ["known"]}})
    assert promote(repository, load_model_record(repository, "m1"), own).promoted
    assert "known" in run(repository, "list").stdout
    assert wrong[0] in run(repository, "show", "field").stdout


def test_labels_of_the_version_that_is_named_are_expected(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    row = repository.version().labels().to_pylist()[2]
    corrected = "2" if row["label"] != "2" else "1"
    before = add(repository, "one", repository.version(), [row["sample_id"]])
    repository.commit(Change(annotations=[{**row, "label": corrected, "source": "human"}]), message="put right")
    after = add(repository, "one", repository.version(), [row["sample_id"]])
    assert before.items[0].expected == ({"label": row["label"]},)
    assert (after.items[0].expected, after.items[0].version) == (({"label": corrected},), "v2")


def test_boxes_are_right_where_all_are_found_and_no_other(copied: Copied, trained_head: Path) -> None:
    repository = copied(trained_head)
    version = repository.version()
    sample = "s10"
    chosen = add(repository, "boxes", version, [sample])
    assert sorted(one["label"] for one in chosen.items[0].expected) == ["disc", "square"]
    assert check(repository, chosen, "model:m1").right == 1
    labels = [row for row in version.labels().to_pylist() if row["sample_id"] == sample]
    gone = next(row for row in labels if row["label"] == "disc")
    repository.commit(Change(remove_annotations=[gone["annotation_id"]]), message="as if there were none")
    missing = check(repository, add(repository, "boxes", repository.version(), [sample]), "model:m1")
    assert missing.failed == {sample: "did not find nothing; found disc where none is"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "x"], "one of --sample, --where and --from-evaluation"),
        (["add", "no name", "--sample", "s002"], "expected letters"),
        (["add", "x", "--where", "split = 'nowhere'"], "at least one"),
        (["show", "x"], "There is no regression set 'x'"),
        (["remove", "x"], "--sample"),
    ],
)
def test_misuse_is_told(copied: Copied, trained_probe: Path, arguments: list[str], told: str) -> None:
    answer = run(copied(trained_probe), *arguments)
    assert answer.exit_code in (1, 2)
    assert told in answer.stderr
