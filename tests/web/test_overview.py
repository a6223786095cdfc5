"""The overview page, on real repositories, drawn with the app's templates."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from datasetops.audits.decisions import Decision, DecisionLog, Fix, decide
from datasetops.audits.record import latest_audit
from datasetops.audits.run import audit
from datasetops.gate.accept import accept, reject
from datasetops.gate.policy import load_policy
from datasetops.manifest import Change, Repository, Version
from datasetops.qa.plan import make_plan
from datasetops.qa.verdicts import Verdict, take
from datasetops.schema import LabelSchema
from datasetops.web.overview import overview
from datasetops.web.render import page_context, render

EVIL = '<script>alert("x")</script>'


def fill(repository: Repository, count: int = 12, *, message: str = "labels") -> Version:
    """Samples of three classes by two people, in two splits; every third is of the night."""
    samples, rows = [], []
    for i in range(count):
        name = f"s{i:03}"
        light = {"light": "day" if i % 3 else "night"}
        samples.append(
            {"sample_id": name, "uri": f"{name}.png", "split": "test" if i % 4 == 0 else "train", "metadata": light}
        )
        rows.append(
            {
                "annotation_id": f"{name}/c", "sample_id": name, "kind": "classification", "source": "human",
                "label": ("cat", "dog", "bird")[i % 3], "actor": ("ann", "bob")[i % 2],
            }
        )  # fmt: skip
    return repository.commit(Change(samples=samples, annotations=rows), message=message).version


def page(repository: Repository, version: Version) -> str:
    names = [item.name for item in repository.versions()]
    data = overview(repository, version)
    assert json.loads(json.dumps(data)) == data
    html = render(
        "overview.html", page_context(title="t", version=version.name, versions=names, nav="overview", data=data)
    )
    assert not re.search(r"\sstyle\s*=|<style|\son\w+=", html)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html.partition("<main")[2])]
    assert levels[0] == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    return html


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_what_nobody_has_done_yet_is_said(tmp_path: Path) -> None:
    schema = LabelSchema.model_validate(
        {"name": "bare", "version": 1, "tasks": [{"kind": "classification"}], "classes": [{"id": 0, "name": "cat"}]}
    )
    repository = Repository.init(tmp_path, schema)
    version = repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="no label").version
    data = overview(repository, version)
    assert (data["version"]["status"], data["versions"]["total"]) == ("draft", 1)
    assert data["findings"] == {"skipped": "v1 has not been audited.", "remedy": "dsops audit v1"}
    assert data["coverage"] == {"skipped": "The schema names no slices."}
    assert (data["qa"]["rows"], data["decisions"]["total"], data["classes"]["unlabelled"]) == ([], 0, 1)
    text = words(page(repository, version))
    for said in ("dsops audit v1", "dsops qa plan v1", "1 of 1 samples have no label", "names no slices", "no labels"):
        assert said in text
    assert "/compare/" not in page(repository, version)


def test_classes_are_counted_by_split_and_votes_are_not(repository: Repository) -> None:
    fill(repository)
    vote = {"annotation_id": "v", "sample_id": "s000", "kind": "classification", "label": "dog", "role": "vote"}
    version = repository.commit(Change(annotations=[vote | {"source": "human"}]), message="a vote").version
    found = overview(repository, version)["classes"]
    assert found["splits"] == ["train", "test"]
    assert {row["name"]: row["parts"] for row in found["rows"]} == {"bird": [3, 1], "cat": [3, 1], "dog": [3, 1]}
    assert (found["labels"], found["unlabelled"], found["most"]) == (12, 0, 4)
    assert found["rows"][0]["colour"].startswith("#")


def test_many_splits_are_taken_together(repository: Repository) -> None:
    samples = [{"sample_id": f"s{i}", "uri": f"{i}.png", "split": f"part{i}"} for i in range(8)]
    rows = [
        {"annotation_id": f"s{i}/c", "sample_id": f"s{i}", "kind": "classification", "label": "cat", "source": "human"}
        for i in range(8)
    ]
    version = repository.commit(Change(samples=samples, annotations=rows), message="m").version
    found = overview(repository, version)["classes"]
    assert found["splits"][-1] == "others"
    assert [sum(row["parts"]) for row in found["rows"]] == [8, 0, 0]


def test_slices_are_held_against_the_schema(repository: Repository) -> None:
    version = fill(repository, 4)  # two of the night, two of the day
    (key,) = overview(repository, version)["coverage"]["keys"]
    assert key == {
        "name": "light",
        "rows": [{"value": "day", "count": 2, "wanted": 2}, {"value": "night", "count": 2, "wanted": 2}],
    }
    version = repository.commit(Change(remove_samples=["s000"]), message="one less").version
    assert "1 lacking" in words(page(repository, version))


def test_history_follows_who_made_the_labels(repository: Repository) -> None:
    first = fill(repository)
    change = [
        {"annotation_id": "s000/c", "sample_id": "s000", "kind": "classification", "label": "cat", "source": "model",
         "model": "net", "score": 0.9}
    ]  # fmt: skip
    repository.commit(Change(annotations=change), message="a model")
    last = repository.commit(Change(remove_samples=["s001", "s003"]), message="less").version
    found = overview(repository, last)["history"]
    assert [row["version"] for row in found["rows"]] == ["v1", "v2", "v3"]
    shares = [dict(zip(found["sources"], row["sources"], strict=True)) for row in found["rows"]]
    assert shares == [{"human": 12, "model": 0}, {"human": 11, "model": 1}, {"human": 9, "model": 1}]
    people = [dict(zip(found["annotators"], row["annotators"], strict=True)) for row in found["rows"]]
    assert people == [
        {"ann": 6, "bob": 6, "net": 0}, {"ann": 5, "bob": 6, "net": 1}, {"ann": 5, "bob": 4, "net": 1}
    ]  # fmt: skip
    assert [row["version"] for row in overview(repository, first)["history"]["rows"]] == ["v1"]


@pytest.fixture
def audited(repository: Repository) -> Version:
    """With findings of the checks that need no picture."""
    version = fill(repository)
    broken = [
        {"annotation_id": f"s{i:03}/b", "sample_id": f"s{i:03}", "kind": "box", "label": "cat", "source": "human",
         "x1": 5.0, "y1": 5.0, "x2": 5.0, "y2": 9.0}
        for i in range(6)
    ]  # fmt: skip
    version = repository.commit(Change(annotations=broken), message="thin boxes").version
    audit(repository, version, checks=["schema", "coverage", "balance", "keypoints"])
    return version


def test_pairs_that_lack_samples_come_from_the_audit(repository: Repository, audited: Version) -> None:
    found = overview(repository, audited)["coverage"]
    summary = latest_audit(repository, audited).summaries["coverage"]
    assert found["index"] == summary["coverage index"]
    assert found["lacking_total"] == sum(cell["and"] is not None and cell["collect"] > 0 for cell in summary["cells"])
    assert f"Coverage index {found['index']:.3f}" in words(page(repository, audited))


def test_findings_are_counted_and_linked(repository: Repository, audited: Version) -> None:
    found = overview(repository, audited)["findings"]
    (row,) = [row for row in found["rows"] if row["check"] == "schema"]
    assert (row["total"], row["decided"]) == (6, 0)
    (cell,) = [cell for cell in row["cells"] if cell["total"]]
    assert (cell["left"], cell["queued"]) == (6, 6)
    assert found["left_out"] == [{"check": "keypoints", "why": "no task has keypoints"}]
    html = page(repository, audited)
    assert f'href="/v/v2/review?check=schema&amp;severity={cell["severity"]}"' in html
    assert "annotations and values that break the schema" in html
    balance = [row for row in found["rows"] if row["check"] == "balance"]
    assert balance
    assert all(cell["queued"] == 0 for row in balance for cell in row["cells"])
    assert "review?check=balance" not in html  # it is about no sample, so the queue does not hold it


def test_decisions_are_counted_by_reviewer(repository: Repository, audited: Version) -> None:
    findings = latest_audit(repository, audited).findings
    rows = [row for row in findings.to_pylist() if row["check"] == "schema"]
    said = [
        {"finding_id": rows[0]["finding_id"], "verdict": "fine", "actor": "ann"},
        {"finding_id": rows[1]["finding_id"], "verdict": "unsure", "actor": "bob"},
    ]
    decide(repository, audited, findings, said)
    facts = {name: rows[2][name] for name in ("finding_id", "check", "severity", "score", "sample_id")}
    fix = Fix("edit", remove=(rows[2]["annotation_id"],))
    DecisionLog(repository).add(audited, [Decision(verdict="error", actor="ann", fix=fix, **facts)])
    data = overview(repository, audited)
    assert data["decisions"]["by_verdict"] == {"error": 1, "fine": 1, "unsure": 1}
    assert [(one["name"], one["total"]) for one in data["decisions"]["reviewers"]] == [("ann", 2), ("bob", 1)]
    assert (data["decisions"]["fixes"], data["findings"]["decided"]) == (1, 2)
    text = words(page(repository, audited))
    assert "1 finding has a fix" in text
    assert "dsops review apply v2" in text


def test_plans_tell_what_they_prove(repository: Repository) -> None:
    version = fill(repository, 200)
    plan = make_plan(repository, version, second=0, seed="a")
    assert "Check blind: " in words(page(repository, version))
    take(repository, plan, [Verdict(item, "zoe", "right") for item in plan.to_review(0)], origin="test")
    later = repository.commit(Change(remove_samples=["s001"]), message="less").version
    (row,) = overview(repository, version)["qa"]["rows"]
    assert (row["verdict"], row["wrong"], row["left"], row["own"]) == ("accept", 0, 0, True)
    assert any(line.startswith("ACCEPT") for line in row["words"])
    html = page(repository, version)
    assert "Check blind" not in html
    (other,) = overview(repository, later)["qa"]["rows"]
    assert (other["own"], other["words"]) == (False, [])
    assert "Plans of other versions" in page(repository, later)


def test_the_gate_says_what_is_missing(repository: Repository) -> None:
    version = fill(repository)
    gate = overview(repository, version)["gate"]
    assert gate["failed"] == sum(not rule["passed"] for rule in gate["rules"])
    assert not gate["rules"][0]["passed"]
    text = words(page(repository, version))
    assert "What stands against acceptance" in text
    assert "no QA plan of these images and labels has been made" in text
    policy = load_policy("default")
    over = {rule["rule"]: "known" for rule in gate["rules"] if not rule["passed"]}
    assert accept(repository, version, policy, override=over).accepted
    html = page(repository, version)
    assert '<span class="badge good">accepted</span>' in html
    assert "passing over" in html
    reject(repository, version, f"bad {EVIL}")
    text = page(repository, version)
    assert '<span class="badge high">rejected</span>' in text
    assert "<script>alert" not in text


def test_versions_lead_to_their_comparison(repository: Repository) -> None:
    fill(repository)
    version = repository.commit(Change(remove_samples=["s001"]), message="one less\n\nwith reasons").version
    html = page(repository, version)
    assert 'href="/compare/v1/v2"' in html
    rows = overview(repository, version)["versions"]["rows"]
    assert [(row["name"], row["parent"], row["current"], row["message"]) for row in rows] == [
        ("v2", "v1", True, "one less"), ("v1", None, False, "labels")
    ]  # fmt: skip


def test_what_stands_in_the_data_is_text(tmp_path: Path) -> None:
    names = [f'{EVIL}"', "x" * 200]
    schema = LabelSchema.model_validate(
        {
            "name": "evil", "version": 1, "tasks": [{"kind": "classification"}],
            "classes": [{"id": i, "name": name} for i, name in enumerate(names)],
            "slices": [{"key": EVIL, "values": [EVIL], "min_count": 3}],
        }
    )  # fmt: skip
    repository = Repository.init(tmp_path, schema)
    sample: dict[str, Any] = {
        "sample_id": EVIL,
        "uri": f"{EVIL}.png",
        "split": EVIL,
        "metadata": {EVIL: "z" * 1_000_000},
    }
    row = {"annotation_id": "a", "sample_id": EVIL, "kind": "classification", "label": names[0], "source": "human"}
    version = repository.commit(Change(samples=[sample], annotations=[row | {"actor": EVIL}]), message=EVIL).version
    audit(repository, version, checks=["coverage", "balance"])
    html = page(repository, version)
    assert "<script>alert" not in html
    assert len(html) < 60_000
