"""Whatever becomes of a stored object, `verify` tells, and whoever reads gets what was written or an error that says so."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from mutations import mutated
from test_parsers import watched

from datasetops.audits.decisions import Decision, DecisionLog, decisions
from datasetops.audits.record import AuditRecord, latest_audit, scores_table, store_audit
from datasetops.erasure.erase import erase
from datasetops.errors import DatasetOpsError
from datasetops.gate.policy import Policy, current_policy, set_policy
from datasetops.gate.status import statuses
from datasetops.ledger import HINT
from datasetops.manifest import Change, Repository, verify
from datasetops.manifest.marks import erased_words
from datasetops.records import TABLES, Finding, findings_table
from datasetops.schema import LabelSchema

EXAMPLES = int(os.environ.get("DSOPS_FUZZ_EXAMPLES", "80"))
KINDS = {".json": "json", ".parquet": "bytes"}
# What they say is checked where it is read; a segment that there is not may be among the erased ones.
HARMLESS = (HINT, "erasures/marks.json", "erasures/segments.json")
READ_AS_THEY_ARE = ("ledger/", "erasures/marks.json")  # until `verify` follows the chain


def ask(repository: Repository) -> dict[str, Callable[[], Any]]:
    """What users read, by its name."""
    return {
        "branches": repository.branches,
        "ledger": lambda: [entry.event.kind for entry in repository.ledger.backwards()],
        "rows": lambda: [repository.version(f"v{n}").table(name).to_pylist() for n in (1, 2, 3) for name in TABLES],
        "schema": lambda: repository.version("v2").schema.digest,
        "guide": lambda: repository.version("v2").guide,
        "sql": lambda: repository.version("v1").sql("SELECT count(*) AS n FROM annotations")["n"].tolist(),
        "diff": lambda: repository.version("v2").summary()["by_class"],
        "decisions": lambda: [(item.finding_id, item.verdict) for item in decisions(repository)],
        "audit": lambda: latest_audit(repository, repository.version("v1")).findings.to_pylist(),
        "statuses": lambda: dict(statuses(repository)),
        "policy": lambda: current_policy(repository).digest,
        "erased": lambda: sorted(erased_words(repository.store, ["a", "b"])),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, an audit, a decision, a policy, an erased sample."""
    root = tmp_path_factory.mktemp("stored") / "repository"
    schema = LabelSchema.model_validate(
        {"name": "pets", "version": 1, "tasks": [{"kind": "classification"}], "classes": [{"id": 0, "name": "cat"}]}
    )
    repository = Repository.init(root, schema, guide="# Guide\n\n## cat\n\nA cat.\n")
    rows = [{"sample_id": name, "uri": f"{name}.png", "metadata": {"light": "day"}} for name in "abcd"]
    labels = [
        {
            "annotation_id": f"{name}/label",
            "sample_id": name,
            "kind": "classification",
            "label": "cat",
            "source": "human",
        }
        for name in "abcd"
    ]
    version = repository.commit(Change(samples=rows, annotations=labels), message="first").version
    found = [
        Finding("label_noise", "high", 0.1, "Looks otherwise.", sample_id="b", uri="b.png", annotation_id="b/label")
    ]
    info = {
        "audit": "0123456789ab", "version": "v1", "commit": version.digest, "notes": [], "models": {}, "samples": 4,
        "parameters": {"checks": ["label_noise"], "split": None, "where": None}, "annotations": 4, "unreadable": 0,
        "checks": {"label_noise": {"findings": 1, "seconds": 0.1, "severity": {}}},
    }  # fmt: skip
    store_audit(repository, AuditRecord("0123456789ab", info, findings_table(found), scores_table({}), {}))
    said = Decision(found[0].finding_id, "fine", "ann", "label_noise", "high", 0.1, sample_id="b", decision_id="d")
    DecisionLog(repository).add(version, [said])
    repository.commit(Change(remove_annotations=["c/label"]), message="second")
    set_policy(repository, Policy(name="small", leakage=True))
    erase(repository, ["a"], "asked for")
    return root


def test_damage_is_told_and_never_read_as_something_else(stored: Path) -> None:
    sound = Repository.open(stored)
    assert verify(sound) == []
    expected = {name: read() for name, read in ask(sound).items()}
    assert expected["erased"] == ["a"]
    store = sound.store
    objects = {key: store.get(key) for key in store.list("") if not key.startswith(("cache/", "tmp/"))}
    assert len(objects) > 30

    @hypothesis.settings(max_examples=EXAMPLES, derandomize=True, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.integers(0, 2**48))
    def check(number: int) -> None:
        key = random.Random(number).choice(sorted(objects))
        data = mutated(objects[key], KINDS.get(Path(key).suffix, "text"), number)
        if data == objects[key]:
            return
        store.put(key, data)
        try:
            with watched():
                told = told_by(lambda: verify(Repository.open(stored)))
                assert told or key in HARMLESS, f"{key}: not told"
                for name, read in ask(Repository.open(stored)).items():
                    found: list[Any] = []
                    refused = told_by(lambda read=read, found=found: found.append(read()))  # type: ignore[misc]
                    assert refused or found[0] == expected[name] or key.startswith(READ_AS_THEY_ARE), (key, name)
        finally:
            store.put(key, objects[key])
            for copy in (stored / ".dsops" / "cache").rglob("*.arrow"):
                copy.unlink()

    check()


def told_by(work: Callable[[], Any]) -> str:
    """What is told of damage; empty where nothing is."""
    try:
        answer = work()
    except DatasetOpsError as error:
        return str(error)
    return "; ".join(map(str, answer)) if isinstance(answer, list) else ""
