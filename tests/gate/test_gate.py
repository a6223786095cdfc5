"""The gate: each rule passes and fails for its reason, and acceptance is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datasetops.audits.run import audit
from datasetops.cli.main import app
from datasetops.errors import NotFoundError, RejectedError, SchemaError
from datasetops.gate.accept import accept, reject
from datasetops.gate.policy import Policy, current_policy, load_policy, set_policy
from datasetops.gate.rules import RULES, Case, RuleResult
from datasetops.gate.status import require_accepted, status_of
from datasetops.manifest import Change, Repository
from datasetops.qa.plan import load_plan, make_plan
from datasetops.qa.verdicts import Verdict, take
from datasetops.records import canonical_json

CLASSES = ("cat", "dog", "bird")
GUIDE = "# Pets\n" + "".join(
    f"## {name}\n### Definition\nA {name}.\n### What counts\nAll.\n### What does not count\nToys.\n### Edge cases\nTails.\n"
    for name in CLASSES
)


def sample(i: int, **more: Any) -> dict[str, Any]:
    split = "test" if i % 4 == 0 else "train"
    day = {"light": "day" if i % 2 else "night"}
    return {
        "sample_id": f"s{i:03}",
        "uri": f"s{i:03}.png",
        "split": split,
        "license": "CC-BY-4.0",
        "metadata": day,
    } | more


def label(i: int, name: str | None = None) -> dict[str, Any]:
    row = {"annotation_id": f"s{i:03}/c", "sample_id": f"s{i:03}", "kind": "classification", "source": "human"}
    return row | {"label": name or CLASSES[i % 3], "actor": "ann"}


@pytest.fixture
def full(repository: Repository) -> Repository:
    """120 labeled samples with split, licence, slices and guide."""
    rows, labels = [sample(i) for i in range(120)], [label(i) for i in range(120)]
    repository.commit(Change(samples=rows, annotations=labels, guide=GUIDE), message="all")
    return repository


@pytest.fixture
def judge(full: Repository) -> Callable[..., RuleResult]:
    def result(rule: str, asked: Any = True, actor: str = "lea") -> RuleResult:
        policy = Policy.model_validate({"name": "one", rule: asked})
        return RULES[rule](Case(full, full.version(), policy, actor))

    return result


def change(repository: Repository, **tables: Any) -> None:
    assert repository.commit(Change(**tables), message="change").changed


def review(repository: Repository, *, wrong: int = 0, **options: Any) -> None:
    plan = make_plan(repository, repository.version(), second=0, stages=1, seed="a", **options)
    said = [Verdict(item, "zoe", "wrong" if i < wrong else "right") for i, item in enumerate(plan.to_review(0))]
    take(repository, plan, said, origin="test")


def test_qa_asks_for_an_accepted_plan_of_this_version(full: Repository, judge: Callable[..., RuleResult]) -> None:
    assert "no QA plan" in judge("qa", {}).message
    review(full, where="split = 'train'")
    assert "a part of the version only" in judge("qa", {}).message
    review(full, pass_rate=0.9)
    assert "claims less" in judge("qa", {}).message
    assert judge("qa", {"pass": 0.9}).passed
    review(full, wrong=3)
    assert "inconclusive" in judge("qa", {}).message
    review(full)
    found = judge("qa", {})
    assert found.passed, found
    assert found.evidence["verdict"] == "accept"
    assert "attempt" in judge("qa", {"max_attempts": 2}).message
    change(full, samples=[sample(200)])
    assert "no QA plan" in judge("qa", {}).message


def test_a_plan_holds_for_the_same_images_and_labels_only(full: Repository, judge: Callable[..., RuleResult]) -> None:
    review(full)
    rows = full.version().samples().astype(object).to_dict("records")
    change(full, samples=[{"sample_id": row["sample_id"], "uri": row["uri"], "license": "CC0-1.0"} for row in rows])
    found = judge("qa", {})
    assert found.passed, found
    assert "found out of v1, which has the same images and labels" in found.message
    assert load_plan(full, "v2").name == "q1"
    change(full, guide="# Another guide")
    assert "no QA plan of these images and labels" in judge("qa", {}).message
    full.commit(Change(guide=full.version("v2").guide or ""), message="back")
    change(full, annotations=[{**label(0), "label": "dog"}])
    assert "no QA plan of these images and labels" in judge("qa", {}).message


def test_a_plan_whose_items_were_picked_is_refused(full: Repository, judge: Callable[..., RuleResult]) -> None:
    make_plan(full, full.version(), second=0, stages=1)
    key = "qa/plans/q1.json"
    raw = json.loads(full.store.get(key))
    order = raw["strata"][0]["order"]
    outside = next(f"s{i:03}" for i in range(120) if f"s{i:03}" not in order)
    forged = {**raw, "strata": [{**raw["strata"][0], "order": [outside, *order[1:]]}]}
    full.store.put(key, canonical_json(forged))
    plan = load_plan(full, "q1")
    take(full, plan, [Verdict(item, "zoe", "right") for item in plan.to_review(0)], origin="test")
    assert "are not what its seed draws" in judge("qa", {}).message


def test_findings_ask_for_a_whole_audit_and_no_open_ones(full: Repository, judge: Callable[..., RuleResult]) -> None:
    asked = {"at": "medium", "checks": ["schema"]}
    found = judge("findings", asked)
    assert (found.message, found.remedy) == ("no audit of all samples", "Run: dsops audit v1 --check schema")
    assert judge("findings", {}).remedy == "Run: dsops audit v1"
    assert judge("leakage").remedy == "Run: dsops audit v1 --check leakage"
    audit(full, full.version(), checks=["schema"], split="train")
    assert "no audit of all samples" in judge("findings", asked).message
    audit(full, full.version(), checks=["balance"])
    assert judge("findings", asked).message == "these checks have not run over all samples: schema"
    audit(full, full.version(), checks=["schema"])
    assert judge("findings", asked).passed
    change(full, annotations=[label(0, "bird"), {**label(0), "annotation_id": "twice", "label": "dog"}])
    record = audit(full, full.version(), checks=["schema"])
    found = judge("findings", asked)
    assert not found.passed
    assert found.evidence["open"] == {"schema": 1}
    assert "ignore" not in found.remedy
    audit(full, full.version(), checks=["balance"])
    found = judge("findings", {"at": "medium", "checks": ["balance"], "ignore": ["text"]})
    assert found.remedy.endswith("leave them out with ignore: [text, schema]")
    assert judge("findings", asked | {"ignore": ["schema"]}).passed
    finding = record.findings["finding_id"][0].as_py()
    done = CliRunner().invoke(app, ["decide", "v2", finding, "--verdict", "fine", "-C", str(full.root)])
    assert done.exit_code == 0, done.output
    assert judge("findings", asked).passed


def test_leakage(full: Repository, judge: Callable[..., RuleResult]) -> None:
    audit(full, full.version(), checks=["leakage"])
    assert judge("leakage").passed
    change(full, samples=[sample(i, group="g") for i in range(8)])
    assert "no audit" in judge("leakage").message
    audit(full, full.version(), checks=["leakage"])
    assert not judge("leakage").passed


def test_coverage(full: Repository, judge: Callable[..., RuleResult]) -> None:
    assert judge("coverage", {"min_per_class": 40}).passed
    found = judge("coverage", {"min_per_class": 41, "min_per_class_in": {"test": 11}})
    assert "cat: 40 of 41" in found.message
    assert len(found.evidence["lacking"]) == 6
    change(full, samples=[sample(i, metadata={"light": "day"}) for i in range(120)])
    assert judge("coverage", {}).message == "1 too small: light = night: 0 of 2"


@pytest.mark.parametrize("column", ["license", "consent"])
def test_rights(full: Repository, judge: Callable[..., RuleResult], column: str) -> None:
    change(full, samples=[sample(i, license="MIT", consent="research") for i in range(120)])
    allowed = ["MIT", "research"]
    assert judge(column, {"allowed": allowed}).passed
    change(full, samples=[sample(0, consent="", license=None), sample(1, license="none", consent="none")])
    found = judge(column, {"allowed": allowed})
    assert found.evidence == {"missing": 1, "refused": 118 + 1 - 118}
    assert "1 have one that is not allowed: none" in found.message
    assert judge(column, {}).evidence == {"missing": 1, "refused": 0}


def test_expiry(full: Repository, judge: Callable[..., RuleResult]) -> None:
    soon = datetime.now(UTC) + timedelta(days=10)
    change(full, samples=[sample(0, expires_at=soon)])
    assert judge("expiry", {"days": 5}).passed
    assert judge("expiry", {"days": 15}).evidence == {"expired": 1}
    change(full, samples=[sample(0, expires_at=datetime(2020, 1, 1, tzinfo=UTC))])
    assert not judge("expiry", {}).passed


def test_guide(full: Repository, judge: Callable[..., RuleResult]) -> None:
    assert judge("guide").passed
    change(full, guide=GUIDE.replace("## bird", "## brid"))
    assert "no section" in judge("guide").message


def test_the_test_split_stays_or_its_change_has_a_reason(full: Repository, judge: Callable[..., RuleResult]) -> None:
    nothing = Policy.model_validate({"name": "n", "guide": True})
    assert judge("test_split", {}).passed
    assert accept(full, full.version(), nothing).accepted
    change(full, annotations=[label(1, "bird")])
    assert judge("test_split", {}).passed  # s001 is in train
    change(full, annotations=[label(4, "bird")])
    found = judge("test_split", {})
    assert not found.passed
    assert found.evidence["changed"] == 1
    assert judge("test_split", {"splits": ["val"]}).passed
    full.commit(Change(annotations=[label(8, "dog")]), message="signed", unseal="two wrong labels")
    assert "with the reason: two wrong labels" in judge("test_split", {}).message


def test_whoever_made_it_does_not_accept_it(full: Repository, judge: Callable[..., RuleResult]) -> None:
    author = full.version().commit.author
    assert not judge("reviewer_is_not_author", actor=author).passed
    assert judge("reviewer_is_not_author", actor="lea").passed


def test_migrations(full: Repository, judge: Callable[..., RuleResult]) -> None:
    assert judge("migrations_finished").passed
    change(full, annotations=[{**label(3), "attributes": {"relabel": ["cat", "dog"]}}])
    assert judge("migrations_finished").evidence == {"waiting": 1, "deprecated": 0}


def test_acceptance_is_recorded_and_can_be_taken_back(full: Repository) -> None:
    policy = Policy.model_validate({"name": "strict", "guide": True, "consent": {}})
    version = full.version()
    with pytest.raises(RejectedError, match="Training needs an accepted version; v1 is a draft"):
        require_accepted(full, version, purpose="Training")
    refused = accept(full, version, policy)
    assert [rule.rule for rule in refused.failed] == ["consent"]
    assert status_of(full, version).status == "draft"
    event = next(iter(full.ledger.backwards())).event
    assert (event.kind, event.parameters["asked"], event.inputs["commit"]) == ("refuse", "accept", version.digest)
    with pytest.raises(ValueError, match="give the reason"):
        accept(full, version, policy, override={"consent": " "})
    with pytest.raises(ValueError, match="Did you mean 'consent'"):
        accept(full, version, policy, override={"concent": "a typo"})
    with pytest.raises(RejectedError, match="'guide' passes"):
        accept(full, version, policy, override={"guide": "no need", "consent": "public data"})
    told = len(list(full.ledger.backwards()))
    assert accept(full, version, policy, override={"consent": "public data"}, dry_run=True).accepted is False
    assert len(list(full.ledger.backwards())) == told
    done = accept(full, version, policy, override={"consent": "public data"})
    assert done.accepted
    assert status_of(full, version).overridden == ("consent",)
    require_accepted(full, version, purpose="Training")
    event = next(e.event for e in full.ledger.backwards() if e.event.kind == "accept")
    assert event.inputs["policy"] == policy.digest
    record = json.loads(full.store.get(next(iter(event.outputs["files"]))))
    assert [rule["rule"] for rule in record["rules"]] == ["consent", "guide"]
    assert accept(full, version, policy, override={"consent": "public data"}).already
    reject(full, version, "consents were withdrawn")
    assert status_of(full, version).status == "rejected"


def test_policies(full: Repository, tmp_path: Path) -> None:
    default = current_policy(full)
    assert default.name == "default"
    assert set(default.rules) == set(RULES) - {"consent", "residency"}
    file = tmp_path / "policy.yaml"
    file.write_text("name: ours\nqa: {pass: 0.99}\n")
    set_policy(full, load_policy(file))
    assert current_policy(full).qa.pass_rate == 0.99  # type: ignore[union-attr]
    assert current_policy(full).rules == ("qa",)
    file.write_text("guide: true\n")
    assert load_policy(file).name == "policy"
    file.write_text("name: ours\nqa: {pass: 1.5}\nlicence: {}\n")
    with pytest.raises(SchemaError, match=r"policy.yaml, line 2: .*pass") as error:
        load_policy(file)
    assert "line 3" in str(error.value)
    file.write_text("name: ours\n")
    with pytest.raises(SchemaError, match="asks for nothing"):
        load_policy(file)
    with pytest.raises(NotFoundError):
        load_policy(tmp_path / "none.yaml")


def test_commands(full: Repository, tmp_path: Path) -> None:
    run, where = CliRunner().invoke, ["-C", str(full.root)]
    first = run(app, ["accept", "v1", *where])
    assert first.exit_code == 3
    assert "v1 is not accepted" in first.output
    file = tmp_path / "policy.yaml"
    file.write_text("name: small\nguide: true\nconsent: {}\n")
    assert run(app, ["policy", "set", str(file), *where]).exit_code == 0
    done = run(app, ["accept", "v1", "--override", "consent", "--reason", "public", *where])
    assert done.exit_code == 0, done.output
    assert "OVERRIDDEN consent: 120 samples name no consent. Reason: public" in done.output
    shown = run(app, ["show", "v1", *where]).output
    assert "accepted by" in shown
    assert "passing over consent" in shown
    assert json.loads(run(app, ["log", "--json", *where]).stdout)[0]["status"] == "accepted"
    assert run(app, ["reject", "v1", "--reason", "no", *where]).exit_code == 0
    assert json.loads(run(app, ["log", "--json", *where]).stdout)[0]["status"] == "rejected"
    printed = run(app, ["policy", "show", "--policy", "default", *where]).stdout
    file.write_text(printed)
    assert load_policy(file) == load_policy("default")
