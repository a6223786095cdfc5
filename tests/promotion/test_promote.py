"""The gate of models: every rule, its refusal and its remedy, promotion and rollback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from datasetops.cli import promote as commands
from datasetops.cli import train as training
from datasetops.errors import NotFoundError, RejectedError, SchemaError
from datasetops.manifest import Change, Repository
from datasetops.promotion.policy import ModelPolicy, current_model_policy, load_model_policy, set_model_policy
from datasetops.promotion.promote import PromotionResult, promote, rollback
from datasetops.schema import LabelSchema
from datasetops.training.predictor import open_model
from datasetops.training.recipe import parse_recipe
from datasetops.training.record import load_model_record, promoted
from datasetops.training.train import train

pytestmark = pytest.mark.slow
Copied = Callable[[Path], Repository]


def run(repository: Repository, *arguments: str) -> Result:
    app = typer.Typer()
    commands.register(app)
    training.register(app)
    return CliRunner().invoke(app, [*arguments, "-C", str(repository.root)])


def policy(**rules: Any) -> ModelPolicy:
    return ModelPolicy.model_validate({"name": "own", **rules})


def gate(repository: Repository, model: str = "m1", **rules: Any) -> PromotionResult:
    return promote(repository, load_model_record(repository, model), policy(**rules), dry_run=True)


def outcome(found: PromotionResult, name: str) -> tuple[bool, str]:
    (rule,) = (rule for rule in found.rules if rule.rule == name)
    return rule.passed, f"{rule.message} | {rule.remedy}"


def test_from_a_model_to_production_and_back(copied: Copied, trained_probe: Path, tmp_path: Path) -> None:
    repository = copied(trained_probe)
    asked = tmp_path / "policy.yaml"
    asked.write_text(run(repository, "model-policy", "show").stdout.replace("ece: 0.1", "ece: 0.9"))
    assert run(repository, "model-policy", "set", str(asked)).exit_code == 0
    refused = run(repository, "promote", "m1", "--json")
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["failed"] == ["parity", "latency", "size", "memory"]
    assert "m1 has not been exported" in run(repository, "promote", "m1").stdout
    made = run(repository, "export-model", "m1", "--to", str(tmp_path / "out"), "--images", "6", "--batch", "1")
    assert made.exit_code == 0, made.stderr
    assert "100.0% of 6 images are answered as by m1 itself" in made.stdout
    first = run(repository, "promote", "m1", "--note", "the first")
    assert first.exit_code == 0, first.stdout
    assert "m1 is in production, by" in first.stdout
    assert "m1 is in production already" in run(repository, "promote", "m1").stdout
    train(
        repository, repository.version(), parse_recipe(b"{kind: probe, name: other, seed: 5, validation: 0.3}", "other")
    )
    second = run(
        repository, "promote", "m2", "--override", "parity", "--override", "latency", "--override", "size",
        "--override", "memory", "--reason", "it runs on a server of its own", "--json",
    )  # fmt: skip
    assert second.exit_code == 0, second.stdout + second.stderr
    told = json.loads(second.stdout)
    assert (told["promoted"], told["before"]) == (True, "m1")
    compared = next(rule for rule in told["rules"] if rule["rule"] == "against_production")
    assert {"difference", "low", "high", "first", "second"} <= set(compared["evidence"])
    assert open_model("production", tmp_path, _request(repository)).name == "model:m2"
    listed = json.loads(run(repository, "models", "--json").stdout)
    assert [item["production"] for item in listed] == [False, True]
    back = run(repository, "rollback", "--reason", "worse at night")
    assert "m2 is taken back. m1 is in production now." in back.stdout
    assert promoted(repository) == "m1"
    event = next(repository.ledger.backwards()).event
    assert (event.kind, event.parameters["reason"]) == ("rollback", "worse at night")
    assert rollback(repository, "nor this one").model is None
    with pytest.raises(NotFoundError, match="No model is in production"):
        rollback(repository, "nothing left")


def _request(repository: Repository) -> Any:
    from datasetops.models.predictor import Request

    return Request(repository=str(repository.root))


def test_figures_against_their_limits(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    found = gate(repository, metric={"accuracy": 0.999}, calibration={"ece": 0.0}, slices={"least": 0.999})
    assert outcome(found, "judged_on")[0]
    passed, told = outcome(found, "metric")
    assert not passed
    assert "at least 0.999" in told
    assert not outcome(found, "calibration")[0]
    assert gate(repository, metric={"accuracy": 0.3}, calibration={"ece": 0.9}).failed == ()
    assert "accuracy" in outcome(gate(repository, metric={"sharpness": 0.3}), "metric")[1]


def test_what_cannot_be_judged_has_failed_and_says_what_to_do(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    passed, told = outcome(gate(repository, judged_on={"split": "none"}, metric={"accuracy": 0.1}), "metric")
    assert not passed
    assert "cannot be judged: v1 has no split 'none'" in told
    assert not outcome(gate(repository, regression={"sets": ["lost"]}), "regression")[0]
    assert "dsops regress add" in outcome(gate(repository, regression={"sets": ["lost"]}), "regression")[1]
    assert "dsops export-model m1" in outcome(gate(repository, latency={"p95_ms": 5}), "latency")[1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_was_learned_from_judges_nothing(copied: Copied, trained_probe: Path, split: str) -> None:
    passed, told = outcome(gate(copied(trained_probe), judged_on={"split": split}), "judged_on")
    assert not passed
    assert "of 24 samples" in told


def test_an_experiment_is_refused_unless_allowed(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    version = repository.commit(Change(samples=[{"sample_id": "s999", "uri": "none.png"}]), message="a draft")
    train(repository, repository.version(), parse_recipe(b"{kind: probe, name: draft}", "draft"), experiment=True)
    passed, told = outcome(gate(repository, "m2", trained_on={}), "trained_on")
    assert not passed
    assert "m2 is an experiment on v2" in told
    assert outcome(gate(repository, "m2", trained_on={"experiments": True}), "trained_on")[0]
    assert version is not None


def test_targets_of_critical_classes_on_another_version(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    classes = [item.model_dump(mode="json", exclude_none=True) for item in repository.version().schema.classes]
    classes[1]["critical"] = {"max_fnr": 0.001}
    schema = repository.version().schema.model_dump(mode="json", exclude_none=True) | {"version": 2, "classes": classes}
    repository.commit(Change(schema=LabelSchema.model_validate(schema)), message="one is critical")
    record = load_model_record(repository, "m1")
    asked = policy(critical=True, trained_on={})
    before = promote(repository, record, asked, dry_run=True)
    assert outcome(before, "critical") == (True, "the schema has no critical class | ")
    found = promote(repository, record, asked, version=repository.version(), dry_run=True)
    passed, told = outcome(found, "critical")
    assert not passed
    assert "1: FNR" in told
    assert "at most 0.1% allowed" in told
    passed, told = outcome(found, "trained_on")
    assert not passed
    assert "v1 is accepted, v2 is a draft" in told


def test_a_worse_model_is_not_promoted(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    record = load_model_record(repository, "m1")
    promote(repository, record, policy(trained_on={}))
    recipe = parse_recipe(b"{kind: probe, name: poor, method: logistic, noise: {findings: keep}}", "poor")
    train(repository, repository.version(), recipe, split="val", experiment=True)
    found = gate(repository, "m2", against_production={"not_worse_than": 0.0}, slices={})
    passed, told = outcome(found, "against_production")
    assert not passed
    assert "m1 has" in told
    assert "dsops compare m1 m2" in told


def test_what_slices_lost_is_shown_by_a_comparison(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    promote(repository, load_model_record(repository, "m1"), policy(trained_on={}))
    before = repository.version()
    samples = before.table("samples").to_pylist()
    halves = [row | {"metadata": {"light": ("day", "night")[at // 3 % 2]}} for at, row in enumerate(samples)]
    learned = {row["sample_id"] for row in samples if row["split"] == "val"}
    rows = before.annotations()[lambda frame: frame["sample_id"].isin(learned)]
    wrong = rows.assign(label=[str((int(label) + 1) % 3) for label in rows["label"]])
    names = ["annotation_id", "sample_id", "kind", "label", "source", "actor"]
    repository.commit(Change(samples=halves, annotations=wrong[names].to_dict("records")), message="wrong labels")
    recipe = parse_recipe(b"{kind: probe, name: poor, method: logistic}", "poor")
    poor = train(repository, repository.version(), recipe, split="val", experiment=True)
    asked = policy(slices={}, trained_on={"experiments": True})
    found = promote(repository, poor, asked, version=repository.version(), dry_run=True)
    passed, told = outcome(found, "slices")
    assert not passed
    assert "light = day: -" in told
    assert told.endswith("Look at them: dsops compare m1 m2 v2 --report FILE.html")


def test_overrides_need_a_rule_that_fails_and_a_reason(copied: Copied, trained_probe: Path) -> None:
    repository = copied(trained_probe)
    record = load_model_record(repository, "m1")
    with pytest.raises(ValueError, match="give the reason"):
        promote(repository, record, policy(size={"mib": 5}), override={"size": " "})
    with pytest.raises(ValueError, match="The policy does not ask for it"):
        promote(repository, record, policy(trained_on={}), override={"size": "why not"})
    with pytest.raises(RejectedError, match="passes"):
        promote(repository, record, policy(trained_on={}), override={"trained_on": "why not"})


def test_the_policy_is_kept_and_set(copied: Copied, trained_probe: Path, tmp_path: Path) -> None:
    repository = copied(trained_probe)
    assert current_model_policy(repository) == load_model_policy("default")
    file = tmp_path / "policy.yaml"
    file.write_text("name: own\nmetric: {accuracy: 0.5}\nprecision: int8\n")
    answer = run(repository, "model-policy", "set", str(file))
    assert "The model policy own holds from now on: judged_on, metric." in answer.stdout
    assert current_model_policy(repository).metric == {"accuracy": 0.5}
    assert json.loads(run(repository, "model-policy", "show", "--json").stdout)["precision"] == "int8"
    set_model_policy(repository, replace_name(load_model_policy("default")))
    assert current_model_policy(repository).name == "again"
    file.write_text("name: own\nlatency: {p59_ms: 5}\n")
    with pytest.raises(SchemaError, match="line 2"):
        load_model_policy(file)


def replace_name(given: ModelPolicy) -> ModelPolicy:
    return given.model_copy(update={"name": "again"})
