"""A small repository that went through the verbs: ingested, labeled by a person and a model, audited, reviewed, accepted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import write_digits
from typer.testing import CliRunner, Result

from datasetops.audits.decisions import decide
from datasetops.audits.run import audit
from datasetops.cli.main import app
from datasetops.evidence.story import Story
from datasetops.gate.accept import accept
from datasetops.gate.policy import Policy, set_policy
from datasetops.ingest import ingest
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.qa.plan import make_plan
from datasetops.qa.verdicts import Verdict, take
from datasetops.schema import LabelSchema
from datasetops.training.record import Trained, record_model

CLASSES = ("0", "1", "2", "other|<b>")
POLICY = {"name": "small", "findings": {"at": "high", "checks": ["schema"]}, "license": {}, "consent": {}}
MARKUP = "<script>alert(1)</script>"

Run = Callable[..., Result]


def open_as(root: Path, actor: str) -> Repository:
    found = Repository.open(root)
    return Repository(found.store, found.settings.model_copy(update={"actor": actor}), found.root)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1: 12 images, half of them with consent; v2: one label corrected, one by a model; v2 is accepted, v3 a draft."""
    folder = tmp_path_factory.mktemp("evidence")
    files = write_digits(folder / "scans", 4, classes=3)
    with (folder / "scans" / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label", "split", "license", "origin", "consent", "light"])
        for number, file in enumerate(files):
            split, consent = "test" if number % 4 == 3 else "train", "training" if number % 2 else ""
            origin = "post office" if number < 9 else f"bank|{MARKUP}"
            place = file.relative_to(folder / "scans").as_posix()
            rows.writerow([place, file.parent.name, split, "CC-BY-4.0", origin, consent, "day"])
    schema = LabelSchema.model_validate(
        {
            "name": "scans",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
            "slices": [{"key": "light", "values": ["day", "night"], "min_count": 2}],
        }
    )
    Repository.init(folder / "set", schema, guide="# Scans\n")
    lead = open_as(folder / "set", "lead@example.org")
    ingest(lead, str(folder / "scans" / "rows.csv"), format="table")
    set_policy(lead, Policy.model_validate(POLICY))
    audit(lead, lead.version(), checks=["schema", "coverage"])
    rows_ = lead.version().table("annotations").to_pylist()
    changed = [
        rows_[0] | {"source": "human", "actor": "ann"},
        rows_[1] | {"source": "model", "actor": None, "model": "hf:digits", "score": 0.75},
    ]
    kept = [{key: value for key, value in row.items() if key not in ("event_id", "created_at")} for row in changed]
    lead.commit(Change(annotations=kept), message="Correct two", event=Event("label-pull", "ann"))
    version = lead.version()
    found = audit(lead, version, checks=["schema", "coverage"]).findings
    decide(lead, version, found, [{"finding_id": found["finding_id"][0].as_py(), "verdict": "fine"}])
    plan = make_plan(lead, version, pass_rate=0.6, second=0, stages=1, seed="a")
    take(lead, plan, [Verdict(item, "zoe", "right") for item in plan.to_review(0)], origin="test")
    boss = open_as(folder / "set", "boss")
    policy = Policy.model_validate(POLICY | {"findings": {"at": "high", "checks": ["schema"], "ignore": ["coverage"]}})
    set_policy(boss, policy)
    assert not accept(boss, version, policy).accepted
    assert accept(boss, version, policy, override={"consent": f"asked for {MARKUP}"}, note="for trials").accepted
    ids = version.table("samples")["sample_id"].to_pylist()
    record_model(
        lead,
        version,
        Trained("classification", CLASSES, b"weights", {"kind": "probe"}, "accuracy", {"accuracy": 0.75}),
        split="train",
        samples={"train": ids[:6], "validation": ids[6:8]},
        recipe={"name": "probe"},
        recipe_digest="d" * 64,
        code={},
        environment={},
        seed=3,
    )
    lead.commit(Change(remove_samples=[ids[0]]), message="Take one out", event=Event("remove", "lead"))
    return folder / "set"


@pytest.fixture
def story(root: Path) -> Story:
    repository = Repository.open(root)
    return Story(repository, repository.version("v2"))


@pytest.fixture
def run(root: Path) -> Run:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["evidence", *arguments, "-C", str(root)])

    return call
