"""The log of decisions: who came first, what is kept once, what is taken back, what an interruption leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from datasetops.audits.decisions import AlreadyDecidedError, Decision, DecisionLog, Fix, decide, decisions
from datasetops.audits.decisions import log as decision_log
from datasetops.errors import DamagedError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, Version
from datasetops.manifest.verify import verify
from datasetops.records import Finding, canonical_json, findings_table, sha256_hex

RELABELED = Fix("edit", ({"annotation_id": "a/label", "label": "dog"},))


@pytest.fixture
def version(repository: Repository) -> Version:
    return repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="one").version


def said(finding: str, actor: str = "ann", verdict: str = "error", sent: str = "", **more: Any) -> Decision:
    return Decision(finding, verdict, actor, "label_noise", "high", 0.1, sample_id="a", decision_id=sent, **more)


def test_what_is_kept_comes_back_whole(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    item = said("f", sent="1", fix=RELABELED, seconds=2.5, note="a dog", at_random=True)
    (kept,) = log.add(version, [item])
    assert kept.commit == version.digest
    assert kept.time
    assert (kept.fix, kept.seconds, kept.note, kept.at_random) == (RELABELED, 2.5, "a dog", True)
    again = Repository.open(repository.root or "")
    assert decisions(again) == log.standing() == log.of("f") == [kept]
    (entry,) = [entry for entry in again.ledger.backwards() if entry.event.kind == "decide"]
    assert (entry.event.actor, entry.event.inputs["version"]) == ("ann", "v1")
    assert verify(again) == []


def test_refresh_tells_what_other_processes_kept(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.refresh()
    before = log.entry
    other = DecisionLog(Repository.open(repository.root or ""))
    other.add(version, [said("f"), said("g")])
    assert [item.finding_id for item in log.refresh()] == ["f", "g"]
    assert log.refresh() == []
    assert log.since(before) == ["f", "g"]
    assert log.since(log.entry) == []
    middle = log.entry
    other.withdraw(version, ["g"], "ann")
    assert log.refresh() == []
    assert log.since(middle) == ["g"]
    assert log.of("g") == []


def test_another_reviewer_comes_second(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.add(version, [said("f")])
    with pytest.raises(AlreadyDecidedError, match="decided before: error, by ann") as refused:
        log.add(version, [said("e", "bob"), said("f", "bob", "fine")])
    assert refused.value.decision.actor == "ann"
    assert [item.finding_id for item in refused.value.decisions] == ["f"]
    assert log.of("e") == []  # all or none
    log.add(version, [said("f", "bob", "fine")], second=True)
    assert {(item.actor, item.verdict) for item in log.of("f")} == {("ann", "error"), ("bob", "fine")}


def test_a_reviewer_replaces_his_own(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.add(version, [said("f", sent="1")])
    log.add(version, [said("f", verdict="fine", sent="2")])
    assert [item.verdict for item in log.standing()] == ["fine"]
    with pytest.raises(ValueError, match="decides a finding twice"):
        log.add(version, [said("g"), said("g", verdict="fine")])


def test_unsure_leaves_it_to_others(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.add(version, [said("f", verdict="unsure")])
    log.add(version, [said("f", "bob", "fine")])
    with pytest.raises(AlreadyDecidedError, match="by bob"):
        log.add(version, [said("f", "ann", "error")])


def test_the_same_decision_sent_twice_is_kept_once(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    first = log.add(version, [said("f", sent="1"), said("g", sent="1")])
    number = log.entry
    later = DecisionLog(Repository.open(repository.root or ""))
    assert later.add(version, [said("g", sent="1"), said("f", sent="1")]) == first[::-1]
    assert later.entry == number
    later.withdraw(version, ["f"], "ann")
    later.add(version, [said("f", sent="1"), said("h", sent="1")])  # a late repeat does not bring it back
    assert {item.finding_id for item in decisions(repository)} == {"g", "h"}


def test_undo_takes_back_ones_own_only(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.add(version, [said("f")])
    log.add(version, [said("f", "bob")], second=True)
    stood = log.withdraw(version, ["f", "unknown"], "ann")
    assert [(item.finding_id, item.actor) for item in stood] == [("f", "ann")]
    assert [item.actor for item in log.of("f")] == ["bob"]
    number = log.entry
    assert log.withdraw(version, ["f"], "ann") == []
    assert log.entry == number
    assert decisions(Repository.open(repository.root or "")) == log.standing()
    log.withdraw(version, ["f"], "bob")
    log.add(version, [said("f", "carl")])
    assert [item.actor for item in log.standing()] == ["carl"]


def test_a_file_that_the_ledger_does_not_name_does_not_count(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    log.add(version, [said("f")])
    (key,) = repository.store.list("decisions/")
    repository.store.put("decisions/2999-01-01-stray.json", repository.store.get(key).replace(b'"f"', b'"stray"'))
    assert [item.finding_id for item in decisions(repository)] == ["f"]
    repository.store.delete(key)
    with pytest.raises(DamagedError, match="missing or damaged"):
        decisions(repository)


_KILLED = """
import os, sys
from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.ledger import Ledger
from datasetops.manifest import Repository
repository = Repository.open(sys.argv[1])
Ledger.append = lambda *args, **more: os._exit(9)  # the process ends before its entry is written
log = DecisionLog(repository)
log.add(repository.version(), [Decision("f", "fine", "ann", "mask", "low", 0.5, decision_id="1")])
"""


def test_a_process_that_ends_between_file_and_entry_kept_nothing(repository: Repository, version: Version) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(repository.root)], check=False)
    assert done.returncode == 9
    assert len(list(repository.store.list("decisions/"))) == 1
    assert decisions(repository) == []
    log = DecisionLog(repository)
    log.add(version, [said("f", "bob")])  # nobody was first
    with pytest.raises(AlreadyDecidedError):
        log.add(version, [said("f", "ann", "fine", sent="1")])
    assert verify(repository) == []


_MANY = """
import json, random, sys
from concurrent.futures import ThreadPoolExecutor
from datasetops.audits.decisions import AlreadyDecidedError, Decision, DecisionLog
from datasetops.manifest import Repository
repository = Repository.open(sys.argv[1])
version, log = repository.version(), DecisionLog(repository)
def review(actor):
    findings = [f"shared{n}" for n in range(30)] + [f"{actor}{n}" for n in range(5)]
    random.Random(actor).shuffle(findings)
    kept = []
    for name in findings:
        try:
            log.add(version, [Decision(name, "error", actor, "label_noise", "high", 0.1, decision_id=f"{actor}-{name}")])
            kept.append([name, actor])
        except AlreadyDecidedError as error:
            assert error.decision.actor != actor
    return kept
with ThreadPoolExecutor(8) as threads:
    print(json.dumps([item for kept in threads.map(review, sys.argv[2:]) for item in kept]))
"""


@pytest.mark.slow
def test_none_is_lost_and_none_decided_twice(repository: Repository, version: Version) -> None:
    """Eight reviewers in each of two processes, most after the same findings."""
    people = [[f"{side}{number}" for number in range(8)] for side in "ab"]
    command = [sys.executable, "-c", _MANY, str(repository.root)]
    running = [subprocess.Popen([*command, *names], stdout=subprocess.PIPE, text=True) for names in people]
    kept = [tuple(item) for one in running for item in json.loads(one.communicate()[0])]
    assert [one.returncode for one in running] == [0, 0]
    standing = [(item.finding_id, item.actor) for item in decisions(repository)]
    assert sorted(kept) == sorted(standing)
    assert len(standing) == len({name for name, _ in standing}) == 30 + 16 * 5
    assert verify(repository) == []


def test_threads_send_the_same_decision_at_once(repository: Repository, version: Version) -> None:
    log = DecisionLog(repository)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: log.add(version, [said("f", sent="1")]), range(16)))
    assert [entry.event.kind for entry in repository.ledger.backwards()].count("decide") == 1


def test_a_local_copy_says_what_the_files_say(
    repository: Repository, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "_WORTH", 3)
    log = DecisionLog(repository)
    for number in range(6):
        log.add(version, [said(f"f{number}", sent=str(number), fix=RELABELED)])
    log.withdraw(version, ["f1"], "ann")
    log.add(version, [said("f2", verdict="fine", sent="again")])
    log.add(version, [said("f0", "bob", "fine")], second=True)
    decisions(Repository.open(repository.root or ""))
    for key in list(repository.store.list("decisions/")):
        repository.store.delete(key)
    copied = DecisionLog(Repository.open(repository.root or ""))
    assert copied.refresh() == copied.standing() == log.standing()
    assert (copied.entry, copied.since(2), copied.of("f0")) == (log.entry, log.since(2), log.of("f0"))
    copied.add(version, [said("f1", sent="1")])  # a late repeat
    copied.add(version, [said("new")])
    with pytest.raises(AlreadyDecidedError):
        copied.add(version, [said("f0", "carl")])
    log.refresh()
    assert copied.standing() == log.standing()
    other = Repository.init(tmp_path / "other", version.schema)
    at = other.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="one").version
    for number in range(9):
        DecisionLog(other).add(at, [said(f"g{number}")])
    copy = repository.cache / "decisions.json"
    (other.cache / copy.name).write_bytes(copy.read_bytes())
    assert [item.finding_id for item in decisions(other)] == [f"g{number}" for number in range(9)]
    copy.write_text("{}")
    with pytest.raises(DamagedError, match="missing or damaged"):
        decisions(repository)


def test_files_from_before_fixes_load(repository: Repository, version: Version) -> None:
    old = {
        "finding_id": "f",
        "verdict": "fine",
        "actor": "ann",
        "check": "mask",
        "severity": "low",
        "score": 0.4,
        "note": "",
        "seconds": None,
    }
    event = Event("decide", "somebody", inputs={"version": version.name, "commit": version.digest})
    key, data = f"decisions/{event.time}-{event.event_id}.json", canonical_json([old])
    repository.store.put(key, data)
    outputs = {"decisions": 1, "files": {key: sha256_hex(data)}}
    repository.ledger.record(Event("decide", "somebody", event.inputs, outputs, time=event.time))
    assert decisions(repository) == [Decision(**old, commit=version.digest, time=event.time)]


def test_decide_keeps_several_peoples_decisions_from_one_sheet(repository: Repository, version: Version) -> None:
    found = findings_table([Finding("mask", "low", 0.4, "odd", sample_id="a")])
    name = found["finding_id"][0].as_py()
    lines = [{"finding_id": name[:8], "verdict": "fine", "actor": actor} for actor in ("ann", "bob", "ann")]
    made = decide(repository, version, found, lines)
    assert [(item.finding_id, item.actor, item.sample_id) for item in made] == [(name, "ann", "a"), (name, "bob", "a")]
    assert decisions(repository) == made
    with pytest.raises(ValueError, match="decided twice, as fine and error"):
        decide(repository, version, found, [lines[0], {**lines[0], "verdict": "error"}])
    assert decisions(repository) == made


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "drop"}, "kind: expected one of edit, exclude, relabel"),
        ({"kind": "edit"}, "says what to put or remove"),
        ({"kind": "exclude", "remove": ["a"]}, "has nothing to put"),
        ({"kind": "edit", "put": "a"}, "expected lists"),
        ({"kind": "edit", "more": 1}, "expected kind, put and remove"),
        ({"kind": "edit", "put": [1]}, "expected fields of an annotation"),
        ({"kind": "edit", "put": [{"annotation_id": "a"}]}, "fields to change"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "actor": "eve"}]}, "got 'actor'"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "label": 3}]}, "label: got 3"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "x1": True}]}, "x1: got True"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "x1": float("nan")}]}, "expected x1 < x2"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "x1": 9, "y1": 0, "x2": 1, "y2": 2}]}, "expected x1 < x2"),
        ({"kind": "edit", "put": [{"label": "cat"}]}, "kind: expected one of"),
        ({"kind": "edit", "put": [{"kind": "box", "label": "cat", "x1": 1}]}, "a new box has x1"),
        ({"kind": "edit", "put": [{"annotation_id": "a", "geometry": {"polygons": "x"}}]}, "geometry"),
        ({"kind": "edit", "remove": ["a", "a"]}, "stands in it twice"),
        ({"kind": "edit", "remove": [3]}, "expected annotation ids"),
    ],
)
def test_faulty_fixes_are_refused_by_field(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fix.from_dict(raw)


def test_only_an_error_has_a_fix() -> None:
    with pytest.raises(ValueError, match="only an error has one"):
        said("f", verdict="fine", fix=RELABELED)
    assert Fix.from_dict(RELABELED.as_dict()) == RELABELED
