"""Repositories as earlier versions of dsops wrote them are read, verified and gone on with: see make.py."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import DatasetOpsError
from datasetops.manifest import Change, Repository, diff, verify
from datasetops.records import TABLES, canonical_json

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
GOLDEN = sorted(path.parent.name for path in HERE.glob("*/expected.json"))
COMMITS = {"efb8e68": 5, "d93ffeb": 7, "147ca47": 8}  # versions in each


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / request.param, tmp_path / "repository"))


every = pytest.mark.parametrize("written", GOLDEN, indirect=True)


def test_all_are_here_and_small() -> None:
    assert sorted(COMMITS) == GOLDEN
    for name in GOLDEN:
        files = [path for path in (HERE / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 100_000
        assert {path.suffix for path in files} <= {".json", ".parquet", ".md", ".png", ".toml", ".html", ""}


@every
def test_every_version_says_what_it_said(written: Path) -> None:
    repository = Repository.open(written)
    expected = json.loads((written / "expected.json").read_text())
    for name, tables in expected.items():
        for table in TABLES:
            found = json.loads(json.dumps(repository.version(name).table(table).to_pylist(), default=str))
            assert [{k: value for k, value in row.items() if value is not None} for row in found] == tables[table]


@every
def test_it_verifies_here_and_by_the_document(written: Path) -> None:
    assert verify(Repository.open(written)) == []
    document = HERE.parents[1] / "docs" / "verify_repository.py"
    done = subprocess.run([sys.executable, str(document), str(written / "store")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@every
def test_what_says_the_same_as_before_is_no_change(written: Path) -> None:
    repository = Repository.open(written)
    head = repository.version()
    rows = {name: head.table(name).to_pylist() for name in TABLES}
    again = repository.commit(Change(samples=rows["samples"], annotations=rows["annotations"]), message="the same")
    assert not again.changed
    assert again.version.name == head.name


@every
def test_it_is_gone_on_with(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)  # where the report goes
    repository = Repository.open(written)
    before = repository.version()
    row = {"annotation_id": "b/label", "sample_id": "b", "kind": "classification", "label": "cat", "source": "human"}
    after = repository.commit(Change(annotations=[row]), message="later").version
    assert int(after.name[1:]) == 1 + len(json.loads((written / "expected.json").read_text()))
    assert diff(before, after).annotations.changed.to_pylist() == ["b/label"]
    for line in ("log", "show v1", "diff v1 v2", f"select {after.name} --n 1 --strategy random --where true --no-spread",
                 "query 'SELECT count(*) FROM events'", f"audit {after.name} --check schema", f"provenance version {after.name}",
                 "branch", "verify --all"):  # fmt: skip
        done = CliRunner().invoke(app, [*shlex.split(line), "-C", str(written), "--quiet"])
        assert done.exit_code == 0, (line, done.output)
    gone = CliRunner().invoke(
        app, ["erase", "--sample", "b", "--reason", "asked", "--yes", "-C", str(written), "--quiet"]
    )
    assert gone.exit_code == 0, gone.output
    assert verify(Repository.open(written)) == []


def test_a_newer_format_is_refused_in_words(tmp_path: Path) -> None:
    """Of a newer commit, and of a repository whose own number is another one."""
    root = Path(shutil.copytree(HERE / "efb8e68", tmp_path / "repository"))
    config = json.loads((root / "store" / "repository.json").read_text())
    (root / "store" / "repository.json").write_bytes(canonical_json(config | {"format": 2}))
    with pytest.raises(DatasetOpsError, match="format 2"):
        Repository.open(root)
