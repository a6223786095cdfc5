"""Signed decisions, keys that are known and withdrawn, and what verify says of forged ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from datasetops.cli.main import app
from datasetops.ledger import Entry, Event, Ledger
from datasetops.manifest import Repository
from datasetops.manifest.verify import verify
from datasetops.schema import LabelSchema
from datasetops.signing import KeyFileError, check_signatures, load_key, make_key, signature_of, signer

pytest.importorskip("cryptography", reason="the extra 'keys' is not installed")
SCHEMA = {"name": "s", "version": 1, "tasks": [{"kind": "classification"}], "classes": [{"id": 0, "name": "a"}]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Repository.init(tmp_path / "set", LabelSchema.model_validate(SCHEMA))
    return tmp_path / "set"


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "-C", str(root)])


def entries(root: Path) -> list[Entry]:
    return list(Repository.open(root).ledger.backwards())[::-1]


def test_decisions_are_signed_and_verified(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lead.pem"
    made = run(root, "keys", "make", str(file), "--name", "lead", "--json")
    assert made.exit_code == 0, made.output
    assert file.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("DSOPS_KEY", str(file))
    repository = Repository.open(root)
    repository.ledger.record(Event("accept", "lead", inputs={"version": "v1"}))
    repository.ledger.record(Event("select", "lead"))
    signed = [entry for entry in entries(root) if signature_of(entry.event)]
    assert [entry.event.kind for entry in signed] == ["accept"]
    assert verify(repository) == []
    assert "lead" in run(root, "keys", "list").stdout
    # Somebody puts another decision under the same signature: the chain breaks, and so does the signature.
    forged = replace(signed[0], event=replace(signed[0].event, inputs={"version": "v9"}))
    others = [forged if entry.number == forged.number else entry for entry in entries(root)]
    assert list(check_signatures(others)) == [(forged.number, "its signature does not fit what it says")]
    assert list(check_signatures(others, [forged.number])) == []  # an erasure rewrote it
    assert run(root, "keys", "revoke", "lead", "--reason", "lost").exit_code == 0
    Repository.open(root).ledger.record(Event("accept", "lead", inputs={"version": "v2"}))
    (damage,) = verify(Repository.open(root))
    assert "a key that nobody had made known" in damage.problem
    assert "revoked" in run(root, "keys", "list").stdout
    found = json.loads(run(root, "verify", "--json").stdout)
    assert found["whole"] is False


def test_a_key_that_nobody_knows(root: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "own.pem")
    repository = Repository.open(root)
    Ledger(repository.store, signer(tmp_path / "own.pem")).record(Event("promote", "x", parameters={"model": "m1"}))
    (damage,) = verify(repository)
    assert "nobody had made known" in damage.problem


def test_keys_with_a_password_and_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSOPS_KEY_PASSWORD", "open sesame")
    make_key(tmp_path / "k.pem")
    assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()
    load_key(tmp_path / "k.pem")
    with pytest.raises(KeyFileError, match="exists"):
        make_key(tmp_path / "k.pem")
    monkeypatch.delenv("DSOPS_KEY_PASSWORD")
    with pytest.raises(KeyFileError) as caught:
        load_key(tmp_path / "k.pem")
    assert "DSOPS_KEY_PASSWORD" in caught.value.remedy
    (tmp_path / "no.pem").write_text("nothing")
    for name in ("no.pem", "none.pem"):
        with pytest.raises(KeyFileError):
            load_key(tmp_path / name)
    with pytest.raises(KeyFileError, match="cannot be written"):
        make_key(tmp_path / "nowhere" / "k.pem")


def test_an_unknown_key_is_told(root: Path) -> None:
    assert "no single key" in run(root, "keys", "revoke", "who", "--reason", "x").output
    assert "No key yet" in run(root, "keys", "list").stdout
