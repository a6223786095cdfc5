"""`dsops train` and `dsops models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from datasetops.cli import train as commands
from datasetops.evaluation.evaluate import evaluate
from datasetops.manifest import Change, Repository

from .conftest import MakeDigits, accept

pytestmark = pytest.mark.usefixtures("pixels")
_GIVEN = ("sample_id", "kind", "label", "source", "actor")


def run(repository: Repository, *arguments: str) -> Result:
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, [*arguments, "-C", str(repository.root)])


def every_third(number: int) -> str:
    return ("train", "train", "val")[number % 3]


@pytest.mark.slow
def test_from_a_version_to_a_model_and_the_same_one_again(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    assert "No model was trained yet" in run(repository, "models").stdout
    draft = run(repository, "train", "v1", "--recipe", "probe")
    assert draft.exit_code == 3
    assert "needs an accepted version; v1 is a draft" in draft.stderr
    accept(repository)
    made = run(repository, "train", "v1", "--recipe", "probe", "--seed", "3")
    assert made.exit_code == 0, made.stderr
    assert "m1: probe on v1, 80 samples, 4 classes." in made.stdout
    assert "On 40 samples for validation: accuracy 0.9" in made.stdout
    again = run(repository, "train", "--reproduce", "m1", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["same_weights"]
    (listed,) = json.loads(run(repository, "models", "--json").stdout)
    assert (listed["name"], listed["seed"], listed["production"]) == ("m1", 3, False)
    assert "m1" in run(repository, "models").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "v1"], 2, "--recipe: name a YAML file"),
        (["train", "v1", "--recipe", "prob"], 1, "There is no recipe prob"),
        (["train", "v1", "--recipe", "probe", "--reproduce", "m1"], 2, "leave --recipe and --seed out"),
        (["train", "--reproduce", "m1"], 1, "There is no model 'm1'"),
        (["train", "v1", "--recipe", "probe", "--experiment", "--split", "trian"], 1, "no sample in the split 'trian'"),
        (["train", "v1", "--recipe", "probe", "--experiment", "--parent", "m3"], 1, "There is no model 'm3'"),
        (
            ["train", "v1", "--recipe", "head", "--experiment"],
            1,
            "finds boxes, which the schema 'digits' does not ask for",
        ),
    ],
)
def test_what_cannot_be_done_is_said(make_digits: MakeDigits, arguments: list[str], status: int, message: str) -> None:
    found = run(make_digits(every_third), *arguments)
    assert (found.exit_code, message in found.stderr) == (status, True), found.stderr


@pytest.mark.slow
def test_a_typo_in_a_recipe_names_line_and_nearest_key(make_digits: MakeDigits, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("kind: probe\nname: mine\nmodel_: builtin:efficientnet-lite1\n")
    found = run(make_digits(every_third), "train", "v1", "--recipe", str(recipe))
    assert found.exit_code == 1
    assert "mine.yaml, line 3: model_: there is no such field" in found.stderr
    assert "Did you mean 'model'" in found.stderr


@pytest.mark.slow
def test_a_test_split_that_changed_since_training_is_told(make_digits: MakeDigits) -> None:
    repository = make_digits(lambda number: ("train", "train", "test")[number % 3])
    accept(repository)
    assert run(repository, "train", "v1", "--recipe", "probe").exit_code == 0
    before = evaluate(repository, repository.version("v1"), "m1", resamples=100)
    assert before.info["warnings"] == []
    rows = repository.version().annotations()
    mended = rows[rows["sample_id"].isin(["s002", "s005", "s000"])].assign(label="3")  # two of the test split
    repository.commit(Change(annotations=mended[["annotation_id", *_GIVEN]].to_dict("records")), message="mended")
    found = evaluate(repository, repository.version(), "model:m1", resamples=100)
    assert found.info["warnings"][0] == (
        "2 samples of the split 'test' were added, removed or changed since v1, which the model was trained on."
    )
