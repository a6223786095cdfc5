"""Sets that the real DVC tracks, ingested from its workspace, its cache and its remote."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pictures import write_digits

from datasetops.errors import DamagedError, DatasetOpsError, FormatError, NotFoundError, StoreError
from datasetops.ingest import IngestResult, ingest
from datasetops.manifest import Repository, verify
from datasetops.schema import load_schema
from datasetops.store.dvc_files import find_tracked
from datasetops.store.source import open_source
from datasetops.store.source_local import LocalTree
from datasetops.store.tree import Unusable

DVC = Path(__file__).parents[2] / "build" / "dvc" / "bin" / "dvc"
pytestmark = [pytest.mark.server, pytest.mark.skipif(not DVC.exists(), reason="there is no DVC: make build/dvc/.done")]


def run(folder: Path, *words: str | Path) -> str:
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "tester@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of git and DVC: a folder and a file by .dvc files, a folder by a stage; all pushed to a local remote."""
    top = tmp_path_factory.mktemp("dvc")
    folder = top / "work"
    write_digits(folder / "digits", 2)
    (folder / "table.csv").write_text("path,label\ndigits/0/0000.png,zero\n")
    run(folder, "git", "init", "-q")
    run(folder, DVC, "init", "-q")
    (folder / "dvc.yaml").write_text(
        "stages:\n  copy:\n    wdir: made\n    cmd: cp -r ../digits some\n    deps: [../digits]\n    outs: [some]\n"
    )
    (folder / "made").mkdir()
    run(folder, DVC, "add", "-q", "digits", "table.csv")
    run(folder, DVC, "repro", "-q")
    run(folder, DVC, "remote", "add", "-q", "-d", "here", top / "remote")
    run(folder, DVC, "push", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "one")
    return top


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "work", tmp_path / "work", symlinks=True)
    shutil.copytree(made / "remote", tmp_path / "remote")
    config = tmp_path / "work" / ".dvc" / "config"
    config.write_text(config.read_text().replace(str(made), str(tmp_path)))
    return tmp_path / "work"


@pytest.fixture
def digits(tmp_path: Path) -> Repository:
    return Repository.init(tmp_path / "set", load_schema("digits"))


def check(repository: Repository, result: IngestResult) -> list[dict[str, object]]:
    """What the ledger has of DVC, after a look at the version."""
    assert (result.samples, result.annotations, result.rejected) == (20, 20, 0)
    assert verify(repository, media=True) == []
    tail = repository.ledger.tail()
    assert tail is not None
    return list(tail.event.inputs["dvc"])


def objects(folder: Path) -> Path:
    return folder / ".dvc" / "cache" / "files" / "md5"


def test_a_folder_from_the_workspace(folder: Path, digits: Repository) -> None:
    told = check(digits, ingest(digits, str(folder / "digits.dvc")))
    md5 = next(line for line in (folder / "digits.dvc").read_text().split() if line.endswith(".dir"))
    head = run(folder, "git", "rev-parse", "HEAD")
    assert told == [{"file": "digits.dvc", "path": "digits", "md5": md5, "git": head, "committed": True}]
    assert digits.version().samples()["uri"].str.startswith(f"{folder}/digits/").all()
    assert not ingest(digits, str(folder / "digits")).changed
    write_digits(folder / "digits", 3)
    run(folder, DVC, "add", "-q", "digits")
    result = ingest(digits, str(folder / "digits"))
    assert (result.samples, result.counts["samples"]["added"]) == (30, 10)
    tail = digits.ledger.tail()
    assert tail is not None
    assert (tail.event.inputs["dvc"][0]["committed"], tail.event.inputs["dvc"][0]["md5"] == md5) == (False, False)


@pytest.mark.parametrize("place", ["cache", "remote"])
@pytest.mark.parametrize("name", ["digits.dvc", "made/some"])
def test_what_is_not_checked_out_is_taken_from_dvc(folder: Path, digits: Repository, name: str, place: str) -> None:
    shutil.rmtree(folder / "digits")
    shutil.rmtree(folder / "made" / "some")
    shutil.rmtree(folder / ".dvc" / "cache" if place == "remote" else folder.parent / "remote")
    result = ingest(digits, str(folder / name))
    told = check(digits, result)
    assert (told[0]["file"], told[0]["path"]) == {
        "digits.dvc": ("digits.dvc", "digits"),
        "made/some": ("dvc.lock", "made/some"),
    }[name]
    assert "20 images that DVC keeps are not checked out" in " ".join(result.notes)
    names = digits.version().samples()["uri"]
    assert (names.str.startswith("media:") & names.str.endswith(".png")).all()


def test_a_file_and_a_part_of_a_folder(folder: Path) -> None:
    (folder / "table.csv").unlink()
    table = open_source(folder / "table.csv.dvc")
    assert (table.single_file, table.read("table.csv")) == ("table.csv", b"path,label\ndigits/0/0000.png,zero\n")
    part = open_source(folder / "digits" / "3")
    assert [entry.path for entry in part.walk()] == ["0003.png", "0013.png"]
    assert open_source(folder / "digits" / "3" / "0003.png").single_file == "0003.png"
    with pytest.raises(NotFoundError, match="DVC tracks no such"):
        open_source(folder / "digits" / "none")
    (folder / "other").mkdir()
    assert isinstance(open_source(folder / "other"), LocalTree)


def test_what_dvc_has_not_is_told_with_the_remedy(folder: Path, digits: Repository) -> None:
    changed, gone = folder / "digits" / "0" / "0000.png", folder / "digits" / "1" / "0001.png"
    write_digits(folder.parent / "new", 1)
    for file in (changed, gone):
        file.unlink()
    shutil.copy(folder.parent / "new" / "5" / "0005.png", changed)
    shutil.copy(changed, folder / "digits" / "0" / "extra.png")
    shutil.rmtree(folder.parent / "remote")
    for entry in objects(folder).rglob("*"):
        if entry.is_file() and entry.suffix != ".dir":
            entry.unlink()
    result = ingest(digits, str(folder / "digits.dvc"))
    assert (result.samples, result.rejected) == (18, 3)
    messages = {str(finding.uri).rpartition("/digits/")[2]: finding.message for finding in result.findings}
    assert "dvc add or dvc commit keeps the change" in str(messages)
    assert "1/0001.png: is not on this machine: dvc pull digits.dvc" in str(messages)
    assert "0/extra.png: is not tracked: dvc add" in str(messages)

    shutil.rmtree(folder / ".dvc" / "cache")
    with pytest.raises(NotFoundError, match=r"not on this machine.\nFetch it with: dvc pull digits.dvc"):
        open_source(folder / "digits.dvc")
    (folder / "table.csv").unlink()
    with pytest.raises(NotFoundError, match=r"table\.csv: is not on this machine: dvc pull"):
        open_source(folder / "table.csv.dvc")
    (folder / "table.csv").write_text("other")
    with pytest.raises(StoreError, match="is not what DVC tracks"):
        open_source(folder / "table.csv.dvc").read("table.csv")


def test_damage_in_the_cache_is_found(folder: Path) -> None:
    tracked = find_tracked(folder / "digits.dvc")
    assert tracked is not None
    shutil.rmtree(folder / "digits")
    tree = open_source(folder / "digits.dvc")
    entries = [entry for entry in tree.walk() if not isinstance(entry, Unusable)]
    assert len(entries) == 20
    md5 = entries[0].version[:32]
    file = objects(folder) / md5[:2] / md5[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="damaged in DVC's cache"):
        tree.read(entries[0].path, limit=4)
    listing = objects(folder) / tracked.md5[:2] / tracked.md5[2:]
    listing.chmod(0o644)
    listing.write_text("[]")
    with pytest.raises(DamagedError, match="does not hash to its name"):
        open_source(folder / "digits.dvc")


@pytest.mark.parametrize(
    "text",
    [
        "outs: 3\n",
        "outs:\n- path: x\n  md5: 12\n",
        "outs:\n- path: ../../x\n  md5: 00000000000000000000000000000000\n",
        "outs:\n- 3\n",
        "[",
        "- 1\n",
    ],
)
def test_faulty_files_of_dvc_are_clear_errors(folder: Path, text: str) -> None:
    (folder / "bad.dvc").write_text(text)
    with pytest.raises(FormatError) as raised:
        open_source(folder / "bad.dvc")
    assert str(folder / "bad.dvc") in raised.value.message


def test_a_dvc_file_on_its_own(tmp_path: Path) -> None:
    (tmp_path / "digits.dvc").write_text("outs:\n- path: digits\n  md5: 00000000000000000000000000000000.dir\n")
    with pytest.raises(DatasetOpsError, match=r"no folder above it has a \.dvc folder"):
        open_source(tmp_path / "digits.dvc")
