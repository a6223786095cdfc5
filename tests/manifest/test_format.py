"""docs/format.md, checked by a reader of its own: pyarrow, json and hashlib, and nothing of dsops."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rows import labeled, labels

from datasetops.manifest import Change, Repository, verify
from datasetops.records import canonical_json

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
LATE = ("event_id", "created_at", "answer")


def cell(value: Any) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    if isinstance(value, str):
        data = value.encode()
    elif isinstance(value, float):
        data = struct.pack("<d", value + 0.0)
    elif isinstance(value, datetime):
        data = struct.pack("<q", round(value.timestamp() * 1_000_000))
    else:
        data = struct.pack("<q", value)
    return struct.pack("<I", len(data)) + data


def row_bytes(values: dict[str, Any], columns: list[str]) -> bytes:
    ordered = [name for name in columns if name not in LATE] + [name for name in columns if name in LATE]
    return b"".join(cell(values.get(name)) for name in ordered)


def identity(table: str, columns: list[str], digests: list[bytes]) -> str:
    header = f"dsops-segment-1\n{table}\n{','.join(columns)}\n".encode()
    return hashlib.sha256(header + b"".join(digests)).hexdigest()


def row_digest(salt: bytes, op: int, data: bytes) -> bytes:
    return hashlib.sha256(salt + bytes([op]) + data).digest()


def test_vectors() -> None:
    vectors = json.loads(re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0])
    key = bytes(range(32))
    digests = []
    for row in vectors["rows"]:
        data = row_bytes(row["values"], vectors["columns"])
        assert data.hex() == row["bytes"]
        content = row_bytes(row["values"], [name for name in vectors["columns"] if name not in LATE])
        assert hashlib.sha256(key + content).digest()[:16].hex() == row["salt"]
        digests.append(row_digest(bytes.fromhex(row["salt"]), row["op"], data))
        assert digests[-1].hex() == row["digest"]
    assert identity(vectors["table"], vectors["columns"], digests) == vectors["identity"]


def check_version(root: Path, name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Verify a version from its files and return its rows by table and key."""
    commit_id = json.loads((root / f"refs/versions/{name}").read_text())["commit"]
    raw = (root / f"commits/{commit_id}.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == commit_id
    commit = json.loads(raw)
    schema = (root / f"schemas/{commit['schema']}.json").read_bytes()
    assert hashlib.sha256(schema).hexdigest() == commit["schema"]
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for table, segments in commit["tables"].items():
        rows: dict[str, dict[str, Any]] = {}
        for segment in segments:
            file = root / f"segments/{table}/{segment['id']}.parquet"
            about = json.loads(file.with_suffix(".json").read_text())
            assert hashlib.sha256(file.read_bytes()).hexdigest() == about["sha256"]
            read = pq.read_table(file, page_checksum_verification=True).to_pylist()
            columns = [column for column in pq.read_schema(file).names if column not in ("_op", "_salt")]
            digests = [row_digest(row["_salt"], row["_op"], row_bytes(row, columns)) for row in read]
            assert identity(table, columns, digests) == segment["id"]
            key = columns[0]
            assert [row[key].encode() for row in read] == sorted(row[key].encode() for row in read)
            for row in read:
                op = row.pop("_op")
                del row["_salt"]
                if op == 3:
                    del rows[row[key]]
                else:
                    assert (op == 2) == (row[key] in rows)
                    rows[row[key]] = row
        assert len(rows) == commit["counts"][table]
        tables[table] = rows
    return tables


def test_a_repository_can_be_verified_and_read_with_other_tools(repository: Repository) -> None:
    repository.commit(labeled(a="cat", b="dog", c="bird"), message="three")
    repository.commit(Change(annotations=labels(a="dog"), remove_samples=["b"]), message="less")
    repository.commit(labeled(d="cat"), message="more")
    root = Path(repository.store.url)
    for version in repository.versions():
        tables = check_version(root, version.name)
        for table, rows in tables.items():
            expected = version.table(table).to_pylist()
            assert [rows[row[f"{table[:-1]}_id"]] for row in expected] == expected

    previous = None
    for number in range(len(list((root / "ledger").glob("*.json")))):
        raw = (root / f"ledger/{number:012d}.json").read_bytes()
        assert json.loads(raw)["previous"] == previous
        previous = hashlib.sha256(raw).hexdigest()


def test_an_erased_row_leaves_its_version_verifiable(repository: Repository) -> None:
    """Row and salt gone, digest kept: the version still verifies, and the row is not among those that are read."""
    version = repository.commit(labeled(a="cat", b="dog", c="bird"), message="three").version
    info = version.commit.tables["annotations"][0]
    file = Path(repository.store.url) / f"segments/annotations/{info.id}.parquet"
    rows = pq.read_table(file)
    gone = rows.slice(1, 1).to_pylist()[0]
    columns = [name for name in rows.column_names if name not in ("_op", "_salt")]
    digest = row_digest(gone["_salt"], gone["_op"], row_bytes(gone, columns))
    left = pa.concat_tables([rows.slice(0, 1), rows.slice(2)])
    pq.write_table(left, file, write_page_checksum=True, store_schema=False)
    about = json.loads(file.with_suffix(".json").read_text())
    about |= {"erased": {"1": digest.hex()}, "bytes": file.stat().st_size}
    about["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_suffix(".json").write_bytes(canonical_json(about))

    assert verify(Repository.open(repository.root or "")) == []
    assert b"dog" not in file.read_bytes()
