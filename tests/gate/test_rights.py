"""What breaks a policy's rights is found in every version, in models, and keeps a version from being exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner, Result

from datasetops.cli.main import app
from datasetops.errors import RejectedError, SchemaError
from datasetops.gate.accept import ACCEPT
from datasetops.gate.policy import Policy, load_policy, set_policy
from datasetops.gate.rights import Judge, clear_for_export, residencies
from datasetops.gate.rules import RULES, Case
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version
from datasetops.training.record import Trained, record_model
from datasetops.training.rights import check_rights

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ASKED = Policy.model_validate(
    {
        "name": "rights",
        "license": {"allowed": ["CC0"]},
        "consent": {"allowed": ["research"]},
        "expiry": {"days": 30},
        "residency": {"allowed": ["eu"]},
    }
)


def sample(name: str, **more: Any) -> dict[str, Any]:
    fine = {"license": "CC0", "consent": "research", "metadata": {"residency": "eu"}}
    return {"sample_id": name, "uri": f"{name}.png"} | fine | more


@pytest.fixture
def filled(repository: Repository) -> Repository:
    """v1 has a sample for each way to break; v2 mends `nd`, removes `late` and adds one that is fine."""
    rows = [
        sample("fine"),
        sample("nd", license="CC-BY-ND"),
        sample("bare", license=None, consent=""),
        sample("late", expires_at=NOW - timedelta(days=1)),
        sample("soon", expires_at=NOW + timedelta(days=40)),
        sample("far", expires_at=NOW + timedelta(days=400)),
        sample("abroad", metadata={"residency": "us", "light": "day"}),
        sample("nowhere", metadata={}),
    ] + [sample(f"more{i:02}") for i in range(30)]
    repository.commit(Change(samples=rows), message="first")
    repository.commit(Change(samples=[sample("nd"), sample("zz")], remove_samples=["late"]), message="second")
    return repository


def judged(version: Version, policy: Policy = ASKED, days: int = 90) -> dict[str, Any]:
    found = Judge(policy, NOW, NOW + timedelta(days=days)).version(version)
    return {
        "rules": {one.rule: dict(one.values) for one in found.breaches},
        "broken": sorted(found.broken.to_pylist()),
        "expiring": found.expiring.to_pylist(),
        "first": found.first_expiry,
        "samples": found.samples,
    }


def test_each_right_is_found_where_it_breaks(filled: Repository) -> None:
    assert judged(filled.version("v1")) == {
        "rules": {
            "license": {"(none)": 1, "CC-BY-ND": 1},
            "consent": {"(none)": 1},
            "expiry": {"2026-12-31": 1},
            "residency": {"(none)": 1, "us": 1},
        },
        "broken": ["abroad", "bare", "late", "nd", "nowhere"],
        "expiring": ["soon"],
        "first": NOW + timedelta(days=40),
        "samples": 38,
    }
    assert judged(filled.version("v1"), days=39)["expiring"] == []
    assert judged(filled.version("v1"), days=400)["expiring"] == ["far", "soon"]


def test_what_was_mended_or_removed_does_not_count_in_later_versions(filled: Repository) -> None:
    assert len(filled.version("v2").state("samples").segments) == 2
    found = judged(filled.version("v2"))
    assert found["broken"] == ["abroad", "bare", "nowhere"]
    assert found["samples"] == 38


def test_any_stack_of_changes_is_judged_like_its_plain_table(repository: Repository) -> None:
    rng = np.random.default_rng(0)
    licences = ["CC0", "BY", None]
    for number in range(6):
        size = 200 if number == 0 else 8
        rows = [sample(f"s{i:03}", license=licences[rng.integers(3)]) for i in rng.choice(260, size, replace=False)]
        gone = (
            []
            if number == 0
            else [f"s{i:03}" for i in rng.choice(260, 3) if f"s{i:03}" not in {r["sample_id"] for r in rows}]
        )
        version = repository.commit(Change(samples=rows, remove_samples=gone), message=str(number)).version
        plain = version.table("samples")
        wrong = plain.filter(pc.invert(pc.fill_null(pc.equal(plain["license"], "CC0"), False)))["sample_id"]
        found = judged(version)
        assert found["broken"] == wrong.to_pylist()
        assert found["samples"] == len(plain)


def test_rules_that_are_not_asked_for_break_nothing(filled: Repository) -> None:
    only = Policy.model_validate({"name": "one", "license": {}})
    assert judged(filled.version("v1"), only)["rules"] == {"license": {"(none)": 1}}
    assert judged(filled.version("v1"), Policy.model_validate({"name": "none", "guide": True}))["broken"] == []


def test_residency_is_a_rule_of_the_gate(filled: Repository, tmp_path: Path) -> None:
    def gate(**asked: Any) -> Any:
        policy = Policy.model_validate({"name": "one", "residency": asked})
        return RULES["residency"](Case(filled, filled.version(), policy, "lea"))

    assert not (found := gate(allowed=["eu"])).passed
    assert found.message == "2 samples have no residency that is allowed: us, none"
    assert gate(key="consent", allowed=["research"]).evidence == {"refused": 1}
    assert gate(key="uri", allowed=filled.version().table("samples")["uri"].to_pylist()).passed
    assert residencies(filled.version().table("samples"), "light").drop_null().to_pylist() == ["day"]
    file = tmp_path / "policy.yaml"
    file.write_text("residency: {key: region, allowed: []}\n")
    with pytest.raises(SchemaError, match="allowed"):
        load_policy(file)


def test_the_digest_of_a_policy_without_residency_stays() -> None:
    assert b"residency" not in load_policy("default").canonical_bytes()
    assert b"residency" in ASKED.canonical_bytes()


def _accepted(repository: Repository, name: str) -> None:
    version = repository.version(name)
    repository.ledger.record(Event(ACCEPT, "lea", inputs={"version": name, "commit": version.digest}))


def _train(repository: Repository, name: str, train: list[str], validation: list[str]) -> None:
    trained = Trained("classification", ("cat",), b"weights", {}, "accuracy", {"accuracy": 1.0})
    record_model(
        repository,
        repository.version(name),
        trained,
        samples={"train": train, "validation": validation},
        recipe={"name": "head"},
        recipe_digest="",
        code={},
        environment={},
        split="train",
        seed=0,
    )


def test_accepted_versions_and_models_are_looked_at(filled: Repository) -> None:
    _accepted(filled, "v1")
    _train(filled, "v1", ["fine", "nd", "late"], ["abroad", "soon"])
    _train(filled, "v1", ["fine"], ["more01"])
    report = check_rights(filled, ASKED, now=NOW)
    assert [(one.version, report.status[one.version]) for one in report.versions] == [
        ("v2", "draft"),
        ("v1", "accepted"),
    ]
    (model,) = report.models
    assert (model.model, dict(model.broken), dict(model.expiring)) == (
        "m1",
        {"train": 2, "validation": 1},
        {"train": 0, "validation": 1},
    )
    assert report.models_looked_at == 2
    alone = check_rights(filled, ASKED, filled.version("v2"), now=NOW)
    assert [one.version for one in alone.versions] == ["v2"]
    assert dict(alone.models[0].broken) == {"train": 0, "validation": 1}


def test_an_export_is_refused_unless_a_reason_is_given(filled: Repository) -> None:
    version = filled.version()
    assert clear_for_export(filled, version) == {}  # no policy was set
    set_policy(filled, Policy.model_validate({"name": "other", "guide": True}))
    assert clear_for_export(filled, version) == {}
    set_policy(filled, ASKED)
    with pytest.raises(RejectedError, match="3 samples of v2 may not be exported") as caught:
        clear_for_export(filled, filled.version("v2"), where="sample_id not like 'more%'")
    assert "--override-rights REASON" in caught.value.remedy
    refused = next(iter(filled.ledger.backwards())).event
    assert (refused.kind, refused.inputs) == ("export-refused", {"version": "v2"})
    assert refused.parameters["breaches"]
    kept = clear_for_export(filled, version, reason="court order 7")
    assert kept["override_rights"] == "court order 7"
    assert kept["policy"] == ASKED.digest
    fine = "sample_id like 'more%'"
    assert clear_for_export(filled, version, where=fine) == {}
    with pytest.raises(RejectedError, match="No sample breaks"):
        clear_for_export(filled, version, where=fine, reason="just so")
    with pytest.raises(ValueError, match="reason"):
        clear_for_export(filled, version, reason=" ")


@pytest.fixture
def run(filled: Repository) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, [*words, "-C", str(filled.root)])


def test_the_commands(filled: Repository, run: Callable[..., Result], tmp_path: Path) -> None:
    set_policy(filled, ASKED)
    checked = run("policy", "check", "v2", "--within", "9999d")
    assert checked.exit_code == 3
    assert "us 1, (none) 1" in checked.stdout.replace("(none) 1, us 1", "us 1, (none) 1")
    assert "will expire within 9999 days, the first on 2027-02-10" in checked.stdout
    assert "Worked out from 38 samples of 1 version and 0 models, by the policy rights" in checked.stdout
    answer = json.loads(run("policy", "check", "--json").stdout)
    assert answer["broken"]
    assert answer["versions"][0]["rules"]["license"] == {"samples": 1, "values": {"(none)": 1}}
    assert run("policy", "check", "--within", "soon").exit_code == 2
    (tmp_path / "guide.yaml").write_text("guide: true\n")
    silent = run("policy", "check", "--policy", str(tmp_path / "guide.yaml"))
    assert silent.exit_code == 0
    assert "asks nothing of" in silent.stdout

    out = ("export", "v2", str(tmp_path / "out"), "--format", "table", "--no-media")
    assert (refused := run(*out)).exit_code == 3
    assert "may not be exported" in refused.output
    assert not (tmp_path / "out").exists()
    assert "OVERRIDDEN" in run(*out, "--override-rights", "ticket 12").stdout
    tail = filled.ledger.tail()
    assert tail is not None
    assert tail.event.kind == "export"
    assert tail.event.parameters["override_rights"] == "ticket 12"
    assert {breach["rule"] for breach in tail.event.parameters["breaches"]} == {"license", "consent", "residency"}
