"""The evidence pack: what is in it, that it proves itself, and that it is always the same."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from datasetops.errors import RejectedError
from datasetops.evidence.pack import evidence_pack
from datasetops.evidence.story import Story
from datasetops.export import export
from datasetops.gate.accept import reject
from datasetops.manifest import Change, Repository

pytestmark = pytest.mark.slow

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def files(root: Path) -> dict[str, bytes]:
    repository = Repository.open(root)
    with zipfile.ZipFile(io.BytesIO(evidence_pack(Story(repository, repository.version("v2"))))) as archive:
        assert archive.namelist()[0] == "index.html"
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_manifest_names_every_other_file(files: dict[str, bytes], story: Story) -> None:
    manifest = json.loads(files["manifest.json"])
    assert manifest["commit"] == story.version.digest
    assert manifest["files"].keys() == files.keys() - {"manifest.json"}
    for name, told in manifest["files"].items():
        assert told == {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}


def test_identities_are_what_the_files_hash_to(files: dict[str, bytes]) -> None:
    found = json.loads(files["identities.json"])
    for name, digest in (("commit.json", found["commit"]), ("schema.json", found["schema"]["sha256"])):
        assert hashlib.sha256(files[f"identities/{name}"]).hexdigest() == digest
    assert hashlib.sha256(files["identities/guide.md"]).hexdigest() == found["guide"]
    lines = {hashlib.sha256(line).hexdigest(): json.loads(line) for line in files["events.jsonl"].splitlines()}
    accepted = lines[found["acceptance"]["ledger_digest"]]
    assert (accepted["kind"], accepted["number"]) == ("accept", found["acceptance"]["ledger_entry"])
    assert hashlib.sha256(files["policy.json"]).hexdigest() == accepted["inputs"]["policy"]
    assert hashlib.sha256(files["gate.json"]).hexdigest() in accepted["outputs"]["files"].values()
    commit = json.loads(files["identities/commit.json"])
    assert found["segments"]["samples"] == [segment["id"] for segment in commit["tables"]["samples"]]


def test_only_events_about_the_version_and_those_before_it(files: dict[str, bytes]) -> None:
    events = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    kinds = [event["kind"] for event in events]
    assert [event["number"] for event in events] == sorted(event["number"] for event in events)
    assert kinds[:2] == ["init", "ingest"]
    assert "remove" not in kinds
    assert [kinds.count(kind) for kind in ("label-pull", "audit", "refuse", "accept", "train", "policy")] == [
        *(1, 2, 1, 1, 1),
        1,  # the policy that judged it, not the one before
    ]


def test_audits_and_approvals(files: dict[str, bytes]) -> None:
    audits = json.loads(files["audits.json"])
    coverage = audits["checks"]["coverage"]
    assert coverage["findings"] == sum(coverage[level] for level in ("high", "medium", "low"))
    assert (coverage["fine"], coverage["undecided"]) == (1, coverage["findings"] - 1)
    assert audits["checks"]["schema"]["findings"] == 0
    assert next(row for row in audits["earlier"] if row["check"] == "coverage")["version"] == "v1"
    assert [run["by"] for run in audits["runs"]] == ["lead@example.org"]
    refused, accepted = json.loads(files["approvals.json"])
    assert (refused["who"], accepted["who"], accepted["what"]) == ("boss", "boss", "accepted")
    assert (accepted["override"], accepted["note"]) == (
        {"consent": "asked for <script>alert(1)</script>"},
        "for trials",
    )
    rules = {rule["rule"]: rule["passed"] for rule in json.loads(files["gate.json"])["rules"]}
    assert rules == {"findings": True, "license": True, "consent": False}


def test_qa_says_what_was_drawn_and_what_it_proves(files: dict[str, bytes]) -> None:
    plan, verdicts, result = (json.loads(files[f"qa/q1/{name}.json"]) for name in ("plan", "verdicts", "result"))
    assert {item["sample_id"] for item in verdicts} == set(plan["strata"][0]["order"])
    assert (result["verdict"], result["wrong"]) == ("accept", 0)


def test_the_page(files: dict[str, bytes]) -> None:
    page = files["index.html"].decode()
    assert "Evidence for scans v2" in page
    assert "Accepted by boss" in page
    assert "WARNING" not in page
    assert "OVERRIDDEN" in page
    assert "<script>" not in page
    assert "http://" not in page
    for name in files:
        assert name in page or any(f"{folder}/" in page for folder in ("identities", "qa", "lineage"))


def test_the_same_bytes_whenever_it_is_asked_for(root: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    repository = Repository.open(root)
    version = repository.version("v2")
    before = evidence_pack(Story(repository, version))
    export(repository, version, tmp_path / "out", format="coco", copy_media=False)
    assert evidence_pack(Story(Repository.open(root), version)) == before
    assert zipfile.ZipFile(io.BytesIO(before)).read("manifest.json") == files["manifest.json"]


def test_a_draft_is_refused_or_says_so(run: Run, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    refused = run("v3", "--out", str(pack))
    assert (refused.exit_code, pack.exists()) == (3, False)
    assert "v3 is a draft" in refused.output
    assert "dsops accept v3 --dry-run" in refused.output
    assert run("v3", "--out", str(pack), "--draft", "--json").exit_code == 0
    archive = zipfile.ZipFile(pack)
    assert "WARNING: this version is a draft" in archive.read("index.html").decode()
    assert "policy.json" not in archive.namelist()
    assert json.loads(archive.read("approvals.json")) == []


def test_a_rejected_version(repository: Repository) -> None:
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="one")
    reject(repository, repository.version(), "blurred <b>")
    story = Story(repository, repository.version())
    with pytest.raises(RejectedError, match="v1 is rejected"):
        evidence_pack(story)
    page = zipfile.ZipFile(io.BytesIO(evidence_pack(story, draft=True))).read("index.html").decode()
    assert "this version is rejected" in page
    assert "the reason: blurred &lt;b&gt;" in page


def test_the_command(run: Run, tmp_path: Path) -> None:
    pack = tmp_path / "pack.zip"
    done = run("v2", "--out", str(pack), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["sha256"] == hashlib.sha256(pack.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [pack]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("v9", "--out", "x.zip"), 1, "no version or branch 'v9'"),
        (("v2", "--only", "provv", "--out", "x"), 2, "Did you mean 'prov'?"),
        (("v2", "--out", "nowhere/x.zip"), 1, "there is no folder"),
        (("v2", "--only", "card", "--out", "nowhere/x.md"), 1, "there is no folder"),
        (("v2", "--out", "."), 1, "is a folder"),
        (("v2",), 2, "give --out FILE"),
        (("v2", "--only", "card", "--url", "http://x"), 2, "--url goes with --only openlineage"),
        (("v2", "--only", "openlineage", "--url", "ftp://x"), 2, "an address like http://marquez:5000"),
        (("v2", "--only", "openlineage", "--url", "http://x", "--out", "y"), 2, "not both"),
        (("v2", "--only", "card", "--draft", "--out", "x"), 2, "--draft is for the whole pack"),
    ],
)
def test_wrong_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert found.exit_code == status, found.output
    assert said in found.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "part"), [("prov.model", "prov"), ("mlcroissant", "croissant")])
def test_without_the_packages_of_the_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, part: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = run("v2", "--only", part, "--out", str(tmp_path / "x.json"))
    assert found.exit_code == 1
    assert "pip install 'dsops[evidence]'" in found.output
    assert run("v2", "--only", "card", "--out", str(tmp_path / "x.md")).exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["x.md"]
