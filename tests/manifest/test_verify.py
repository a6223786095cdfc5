from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from rows import labeled, labels

from datasetops.errors import DamagedError, DatasetOpsError
from datasetops.manifest import Change, Repository, collect_garbage, segment, table, verify
from datasetops.records import TABLES, Finding, canonical_json, findings_table, sha256_hex


@pytest.fixture
def filled(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(segment, "MAPPED_FROM", 3)
    monkeypatch.setattr(table, "_DELTA_SHARE", 10)
    repository.commit(labeled(a="cat", b="dog", c="bird"), message="three")
    repository.commit(Change(annotations=labels(a="dog"), guide="# How to label\n"), message="one")
    repository.create_branch("trial")
    repository.commit(Change(remove_samples=["b"]), message="less", branch="trial")
    return repository


def objects(repository: Repository) -> list[Path]:
    root = Path(repository.store.url)
    files = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in files if path.relative_to(root).parts[0] not in ("tmp", "cache"))


def test_a_whole_repository_is_whole(filled: Repository) -> None:
    assert verify(filled) == []
    assert verify(filled, ["v1"]) == []


@pytest.mark.slow
def test_a_flipped_bit_in_any_object_is_found(filled: Repository) -> None:
    """Every object, several places in each: the first and last bytes and some between."""
    rng = random.Random(0)
    files = objects(filled)
    assert len(files) > 15
    for file in files:
        data = file.read_bytes()
        places = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(6))}
        for place in places:
            broken = bytearray(data)
            broken[place] ^= 1 << rng.randrange(8)
            file.write_bytes(broken)
            try:
                found = verify(Repository.open(filled.root or ""))
            except DatasetOpsError:
                found = [None]  # type: ignore[list-item]
            assert found, f"{file} byte {place}: not found"
            file.write_bytes(data)
    assert verify(filled) == []


def test_a_flipped_bit_in_a_local_copy_of_rows_is_found_and_the_copy_removed(filled: Repository) -> None:
    def copies() -> list[Path]:
        again = Repository.open(filled.root or "")
        for name in TABLES:
            again.version("v1").state(name).contains(pa.array(["a"]))  # makes what was removed
        return sorted((filled.cache / "segments").glob("*.arrow"))

    assert any(".keys" in copy.suffixes for copy in copies())
    for copy in copies():
        whole = pa.py_buffer((copies() and copy).read_bytes())
        first_key = pa.ipc.open_file(whole).get_batch(0).column(0).buffers()[2].address - whole.address
        data = bytearray(whole)
        data[first_key] ^= 1
        copy.write_bytes(data)
        assert any("local copy" in damage.problem for damage in verify(Repository.open(filled.root or ""))), copy.name
        assert not copy.exists()
    assert verify(Repository.open(filled.root or "")) == []


def test_a_missing_object_is_named_with_what_it_held(filled: Repository) -> None:
    info = filled.version("v1").commit.tables["annotations"][0]
    (Path(filled.store.url) / f"segments/annotations/{info.id}.parquet").unlink()
    (damage,) = verify(Repository.open(filled.root or ""))
    assert damage.object == f"segments/annotations/{info.id}.parquet"
    assert damage.problem == "the file is missing"
    assert damage.held == "3 rows of annotations in v1 to v3 (3 versions)"


def test_reading_a_damaged_segment_is_an_error_and_never_wrong_rows(repository: Repository) -> None:
    version = repository.commit(labeled(**{f"s{i:04}": "cat" for i in range(500)}), message="many").version
    expected = version.table("annotations")
    info = version.commit.tables["annotations"][0]
    file = Path(repository.store.url) / f"segments/annotations/{info.id}.parquet"
    data = file.read_bytes()
    rng = random.Random(1)
    wrong = 0
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        try:
            rows = Repository.open(repository.root or "").version().table("annotations")
            wrong += not rows.equals(expected)
        except DamagedError:
            pass
    assert wrong == 0


def test_refs_are_made_again_from_the_ledger(filled: Repository) -> None:
    for ref in (Path(filled.store.url) / "refs" / "versions").iterdir():
        ref.unlink()
    (Path(filled.store.url) / "ledger" / "tail").unlink()
    again = Repository.open(filled.root or "")
    assert [version.name for version in again.versions()] == ["v3", "v2", "v1"]
    assert verify(again) == []


def test_garbage_is_collected_and_versions_are_not(filled: Repository) -> None:
    before = objects(filled)
    filled.store.put("commits/" + "0" * 64 + ".json", b"{}")
    filled.store.put("tmp/leftover", b"x")
    filled.store.put(
        "findings/" + "1" * 64 + ".json", canonical_json(findings_table([Finding("ingest", "low", 0, "x")]).to_pylist())
    )
    assert collect_garbage(filled).keys == []  # too young
    told = collect_garbage(filled, dry_run=True, grace=0)
    assert told.keys == ["commits/" + "0" * 64 + ".json", "findings/" + "1" * 64 + ".json", "tmp/leftover"]
    assert collect_garbage(filled, grace=0).keys == told.keys
    assert objects(filled) == before
    assert verify(filled) == []


def test_images_of_older_versions_are_checked_too(repository: Repository) -> None:
    folder = Path(repository.root or "")

    def commit(**contents: bytes) -> None:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        rows = [
            {"sample_id": f"{name}-{sha256_hex(c)[:6]}", "uri": name, "sha256": sha256_hex(c)}
            for name, c in contents.items()
        ]
        head = repository.head("main")
        before = head.table("samples").to_pylist() if head else []
        old = [row["sample_id"] for row in before if row["uri"] in contents]
        repository.commit(Change(samples=rows, remove_samples=old), message="images")

    commit(a=b"first", b=b"same", c=b"gone")
    commit(a=b"first, and a byte")
    repository.commit(Change(guide="# How\n"), message="the same images")
    (folder / "c").unlink()
    assert verify(repository) == []
    found = {(item.object, item.problem, item.held) for item in verify(repository, media=True)}
    changed = ("a", "its bytes changed since it was ingested", "an image of v1")
    assert found == {changed, ("c", "it is missing", "an image of v1 to v3 (3 versions)")}
    assert [item.held for item in verify(repository, ["v2"], media=True)] == ["an image of v2"]
