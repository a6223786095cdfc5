"""Items are gone from every byte of a store, and every version still verifies."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from datasetops.cli.main import app
from datasetops.erasure import erase as erasing
from datasetops.erasure.erase import erase, resume
from datasetops.errors import ConflictError, NotFoundError
from datasetops.manifest import Change, Repository
from datasetops.manifest import erasing as rows_of
from datasetops.manifest.verify import verify
from datasetops.schema import LabelSchema

COUNT = 40
SUBJECT = [f"visit-{number:03}" for number in (3, 7)]
SCHEMA = LabelSchema.model_validate(
    {
        "name": "scans",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": 0, "name": "healthy"}, {"id": 1, "name": "ill"}],
    }
)
pytestmark = pytest.mark.slow


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "-C", str(root), "--quiet"])


def done(root: Path, *arguments: str) -> str:
    found = run(root, *arguments)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans copied in, audited, reviewed, chosen from, corrected, branched, exported."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "images").mkdir()
    lines = ["path,label,sample_id,group,ward"]
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"face-{number:03}.png")
        subject = "patient-9" if number in (3, 7) else f"patient-{100 + number}"
        lines.append(f"face-{number:03}.png,{('healthy', 'ill')[number % 2]},visit-{number:03},{subject},ward-{number}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    root = folder / "repository"
    repository = Repository.init(root, SCHEMA)
    done(root, "ingest", str(folder / "scans.csv"), "--images", str(folder / "images"), "--copy")
    change = {"annotation_id": "visit-003/second", "sample_id": "visit-003", "kind": "classification", "label": "ill"}
    repository.commit(Change(annotations=[change | {"source": "human", "actor": "ann"}]), message="visit-003 again")
    repository.create_branch("trial")
    repository.commit(Change(remove_annotations=["visit-003/second"]), message="taken back")
    row = {"annotation_id": "visit-007/x", "sample_id": "visit-007", "kind": "classification", "label": "healthy"}
    repository.commit(Change(annotations=[row | {"source": "human"}]), message="other branch", branch="trial")
    done(root, "audit", "main", "--report", str(folder / "audit.html"))
    done(root, "select", "main", "--where", "true", "--strategy", "random", "--n", "30", "--no-spread")
    done(root, "export", "main", str(folder / "out"), "--format", "table")
    return root


@pytest.fixture
def root(used: Path, tmp_path: Path) -> Path:
    shutil.copytree(used, tmp_path / "repository")
    return tmp_path / "repository"


def mentions(root: Path, words: list[str]) -> Iterator[str]:
    """Files that hold a word, as they are or unpacked."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            parts = [data]
            if path.suffix == ".parquet":
                table = pq.read_table(io.BytesIO(data))
                parts.append(repr(table.to_pydict()).encode())
            if path.suffix == ".arrow":
                parts.append(repr(pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pydict()).encode())
            if zipfile.is_zipfile(io.BytesIO(data)):
                archive = zipfile.ZipFile(io.BytesIO(data))
                parts += [archive.read(name) for name in archive.namelist()]
            for word in words:
                if any(word.encode() in part for part in parts):
                    yield f"{path.relative_to(root)}: {word}"


def words_of(repository: Repository) -> list[str]:
    rows = repository.version("v1").table("samples").to_pylist()
    mine = [row for row in rows if row["sample_id"] in SUBJECT]
    found = [row[name] for row in mine for name in ("sample_id", "uri", "sha256", "group")]
    return [*found, "face-003", "face-007", 'ward-3"', "visit-003/second", "visit-007/x"]


def standalone(root: Path) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[2] / "docs" / "verify_repository.py"
    return subprocess.run(
        [sys.executable, str(script), str(root / ".dsops")], capture_output=True, text=True, check=False
    )


def check_gone(root: Path, words: list[str]) -> None:
    assert list(mentions(root, words)) == []
    repository = Repository.open(root)
    assert verify(repository) == []
    for version in repository.versions():
        samples = version.table("samples")["sample_id"].to_pylist()
        assert len(samples) == COUNT - 2
        assert not set(SUBJECT) & set(version.table("annotations")["sample_id"].to_pylist())


def test_nothing_of_the_items_is_left_and_versions_verify(root: Path, used: Path, tmp_path: Path) -> None:
    scans = used.parent / "scans.csv"
    repository = Repository.open(root)
    words = words_of(repository)
    digests = {version.name: version.digest for version in repository.versions()}
    assert len(set(mentions(root, words))) > 10
    planned = json.loads(done(root, "erase", *(f"--sample={one}" for one in SUBJECT), "--reason", "asked to", "--json"))
    assert (planned["done"], planned["samples"], planned["annotations"]) == (False, 2, 4)
    assert planned["versions"] == ["v1", "v2", "v3", "v4"]
    assert len(set(mentions(root, words))) > 10
    certificate = tmp_path / "certificate.json"
    told = done(root, "erase", "--where", "\"group\" = 'patient-9'", "--reason", "asked to", "--yes",
                "--certificate", str(certificate))  # fmt: skip
    assert "the digests stay" in told
    check_gone(root, words)
    after = Repository.open(root)
    assert {name: after.version(name).digest for name in digests} == digests
    proof = json.loads(certificate.read_text())
    assert sorted(proof["sample_ids"]) == SUBJECT
    assert proof["versions"] == ["v1", "v2", "v3", "v4"]
    assert [one["version"] for one in proof["exports"]] == ["v3"]
    kept = json.loads(after.store.get(f"erasures/{proof['event_id']}.json"))
    assert kept["digests"] == proof["digests"]
    whole = standalone(root)
    assert (whole.returncode, whole.stdout.splitlines()[-1].endswith("whole.")) == (0, True), whole.stdout
    # The source still has them: they do not come back by themselves.
    source = ["ingest", str(scans), "--images", str(scans.parent / "images"), "--copy"]
    (note,) = json.loads(done(root, *source, "--json"))["notes"]
    assert "2 samples were erased from this repository, such as face-003.png: they are left out" in note
    check_gone(root, words)
    # What is left can be worked with, and looked for in vain.
    row = {"annotation_id": "n", "sample_id": "visit-001", "kind": "classification", "label": "ill", "source": "human"}
    after.commit(Change(annotations=[row]), message="more")
    done(root, "audit", "main", "--report", str(tmp_path / "audit.html"))
    assert len(json.loads(done(root, "rounds", "r1", "--json"))["samples"]) == 30
    with pytest.raises(NotFoundError, match="No version has ever had 1 of these samples, such as 'visit-003'"):
        erase(after, ["visit-003"], "again")


POINTS = ("erase_rows", "put", "delete", "commit")


@pytest.mark.parametrize("stop", range(1, 45, 3))
def test_an_interrupted_erasure_is_finished(
    root: Path, stop: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository, certificate = Repository.open(root), tmp_path / "proof.json"
    words = words_of(repository)
    counted = Counted(repository.store.put, stop)
    monkeypatch.setattr(repository.store, "put", counted)
    with pytest.raises(InterruptedError):
        erase(repository, SUBJECT, "asked to", certificate=certificate)
    again = Repository.open(root)
    problems = [damage.problem for damage in verify(again)]
    assert any("dsops erase --resume" in problem for problem in problems)
    with pytest.raises(ConflictError, match="interrupted"):
        erase(again, ["visit-001"], "another")
    assert "dsops erase --resume" in run(root, "log").output
    told = resume(again)
    assert sorted(json.loads(certificate.read_text())["sample_ids"]) == SUBJECT
    assert (told.samples, told.annotations, told.versions) == (2, 4, ("v1", "v2", "v3", "v4"))
    assert [one["version"] for one in told.exports] == ["v3"]
    check_gone(root, words)
    with pytest.raises(NotFoundError, match="No erasure was interrupted"):
        resume(again)


class Counted:
    """Fails at a call, as a process that is killed before it."""

    def __init__(self, function: Callable[[str, bytes], None], stop: int) -> None:
        self.function, self.left = function, stop

    def __call__(self, key: str, data: bytes) -> None:
        if self.left == 0:
            raise InterruptedError
        self.left -= 1
        self.function(key, data)


@pytest.mark.parametrize("kind", ["segments/samples", "commits", "ledger", "audits"])
def test_the_verifier_without_dsops_finds_what_was_changed(root: Path, kind: str) -> None:
    erase(Repository.open(root), SUBJECT, "asked to")
    file = sorted((root / ".dsops" / kind).rglob("*.parquet" if kind == "segments/samples" else "*.json"))[
        0 if kind == "audits" else 1
    ]
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    found = standalone(root)
    assert found.returncode == 1
    assert "NOT whole" in found.stdout


@pytest.mark.server
def test_in_a_bucket_other_machines_see_it_too(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that a machine has read before are read anew."""
    monkeypatch.setenv("DSOPS_CACHE", str(tmp_path / "here"))
    repository = Repository.init(f"{s3}/erasing", SCHEMA)
    rows = [{"sample_id": f"scan-{n}", "uri": f"scan-{n}.png", "width": 8, "height": 8} for n in range(30)]
    repository.commit(Change(samples=rows), message="all")
    monkeypatch.setenv("DSOPS_CACHE", str(tmp_path / "there"))
    assert len(Repository.open(f"{s3}/erasing").version("v1").table("samples")) == 30
    monkeypatch.setenv("DSOPS_CACHE", str(tmp_path / "here"))
    erase(Repository.open(f"{s3}/erasing"), ["scan-7"], "asked to")
    for place in ("here", "there"):
        monkeypatch.setenv("DSOPS_CACHE", str(tmp_path / place))
        again = Repository.open(f"{s3}/erasing")
        assert len(again.version("v1").table("samples")) == 29
        assert verify(again) == []
        assert not any(b"scan-7" in path.read_bytes() for path in (tmp_path / place).rglob("*") if path.is_file())


def test_what_was_tampered_with_is_named(root: Path) -> None:
    newest = sorted((root / ".dsops" / "ledger").glob("*.json"))[-1]
    kept = newest.read_bytes()
    newest.unlink()
    for found in (verify_words(root), standalone(root).stdout):
        assert "the newest entries were removed" in found
    newest.write_bytes(kept.replace(b"root", b"toor", 1) if b"root" in kept else kept.replace(b"2", b"3", 1))
    assert "was changed" in verify_words(root)
    newest.write_bytes(kept)
    image = next((root / ".dsops" / "media").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"x")
    assert f"{image.name} does not hash to its name" in standalone(root).stdout


def verify_words(root: Path) -> str:
    return " ".join(damage.problem for damage in verify(Repository.open(root)))


def test_images_that_others_have_stay(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "table.csv").write_text("path,label,sample_id\none.png,ill,scan-1\ntwo.png,ill,scan-2\n")
    repository = Repository.init(tmp_path / "set", SCHEMA)
    done(tmp_path / "set", "ingest", str(tmp_path / "table.csv"), "--images", str(tmp_path / "images"), "--copy")
    told = erase(Repository.open(tmp_path / "set"), ["scan-1"], "asked to")
    assert (told.images, told.shared, told.akin) == (0, 1, 1)
    assert len(list(repository.store.list("media/"))) == 1


def test_what_stays_is_told(root: Path) -> None:
    (root / "reports").mkdir()
    (root / "reports" / "v1.html").write_text("<li>visit-003</li>")
    (root / "notes.md").write_text("visit-004 is blurred; visit-0031 is not.")
    words = done(root, "erase", "--sample", "visit-003", "--reason", "asked to")
    assert "Other samples of the newest version, of the same group or the same file, that stay: 1." in words
    assert "delete or rewrite them: reports/v1.html." in words
    told = json.loads(done(root, "erase", "--sample", "visit-003", "--reason", "asked to", "--yes", "--json"))
    assert (told["files"], told["akin"]) == (["reports/v1.html"], 1)


def test_misuse_is_told(root: Path) -> None:
    assert run(root, "erase", "--reason", "x").exit_code == 2
    assert "say why" in run(root, "erase", "--sample", "visit-001").output
    assert "No erasure was interrupted" in run(root, "erase", "--resume").output
    found = run(root, "erase", "--sample", "visit-999", "--reason", "x", "--yes")
    assert (found.exit_code, "No version has ever had" in found.output) == (1, True)
    assert rows_of.erased_counts(Repository.open(root).store) == {}
    assert erasing.EVENT == "erase"
