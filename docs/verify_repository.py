"""Verify a dsops repository without dsops: this file, Python 3.11, pyarrow, and docs/format.md.

    python verify_repository.py FOLDER        # the store's folder, such as set/.dsops

Checks that every version is what its commit says, every commit what the ledger says, and that no entry of the ledger was
changed, put in or left out. What an erasure took away is told, and checked as far as digests reach. Signatures are told
by `dsops verify --all`. Exit status 0: whole; 1: not.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LATE = ("event_id", "created_at", "answer")  # columns that come last in a row's bytes
BLOCK = 50_000  # rows held at a time


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "ledger").is_dir():
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    root = Path(sys.argv[1])
    problems = list(check(root))
    for problem in problems:
        print(problem)  # noqa: T201
    entries = len(list((root / "ledger").glob("*.json")))
    versions = len(list((root / "refs" / "versions").glob("*")))
    erased = sum(_json(root / "erasures/segments.json", {}).values())
    verdict = "NOT whole" if problems else "whole"
    print(f"{entries} ledger entries, {versions} versions, {erased} erased rows: {verdict}.")  # noqa: T201
    return 1 if problems else 0


def check(root: Path) -> Iterator[str]:
    """Everything that is not as it should be, in words."""
    replaced = {key: tuple(pair) for key, pair in _json(root / "erasures/replaced.json", {}).items()}
    commits, named, swapped = {}, {}, {}
    before: set[str | None] = {None}
    for number, file in enumerate(sorted((root / "ledger").glob("*.json"))):
        key = f"ledger/{number:012d}.json"
        if file.name != f"{number:012d}.json":
            yield f"{key} is missing"
            return
        raw = file.read_bytes()
        entry = json.loads(raw)
        if canonical(entry) != raw:
            yield f"{key} is not in canonical form"
        if entry["number"] != number or entry["previous"] not in before:
            yield f"{key} does not follow from the entry before it"
        now = digest(raw)
        was, then = replaced.get(key, (None, None))
        before = {now, was} if then == now else {now}
        if entry["version"]:
            commits[entry["version"]] = entry["commit"]
        named |= entry["outputs"].get("files", {})
        if entry["kind"] == "erased":
            swapped |= {name: tuple(pair) for name, pair in entry["outputs"]["replaced"].items()}
    for key, pair in replaced.items():
        if swapped.get(key, (None, None))[1] != pair[1]:
            yield f"{key} was replaced, and no erasure in the ledger says so"
    for key, wanted in named.items():
        yield from same(root, key, wanted, replaced)
    segments: dict[tuple[str, str], int] = {}
    for name, commit_id in commits.items():
        if _json(root / "refs/versions" / name, {"commit": commit_id})["commit"] != commit_id:
            yield f"refs/versions/{name} does not agree with the ledger"
        key = f"commits/{commit_id}.json"
        found = list(same(root, key, commit_id, replaced))
        yield from found
        if found:
            continue
        commit = json.loads((root / key).read_bytes())
        yield from same(root, f"schemas/{commit['schema']}.json", commit["schema"], replaced)
        if commit["guide"]:
            yield from same(root, f"guides/{commit['guide']}.md", commit["guide"], replaced)
        for table, infos in commit["tables"].items():
            segments |= {(table, info["id"]): info["rows"] for info in infos}
    for (table, identity), rows in segments.items():
        yield from check_segment(root, table, identity, rows)
    hint = _json(root / "ledger/tail", None)
    if hint and not (newest := root / f"ledger/{hint['number']:012d}.json").is_file():
        yield f"ledger/{newest.name} is missing: the newest entries were removed"
    for file in sorted((root / "media").glob("*/*")):
        if digest(file.read_bytes()) != file.name.partition(".")[0]:
            yield f"media/{file.parent.name}/{file.name} does not hash to its name"


def same(root: Path, key: str, wanted: str, replaced: dict[str, Any]) -> Iterator[str]:
    """Whether an object hashes to what it should, or to what an erasure put in its place."""
    file = root / key
    now = digest(file.read_bytes()) if file.is_file() else None
    if now != wanted and replaced.get(key) != (wanted, now):
        yield f"{key} is missing" if now is None else f"{key} does not hash to {wanted}"


def check_segment(root: Path, table: str, identity: str, rows: int) -> Iterator[str]:
    """Whether the rows of a segment, with the digests of those that were erased, hash to its name."""
    file = root / f"segments/{table}/{identity}.parquet"
    if not file.is_file():
        yield f"{file.relative_to(root)} is missing"
        return
    about = _json(file.with_suffix(".json"), {})
    if digest(file.read_bytes()) != about.get("sha256"):
        yield f"{file.relative_to(root)} changed"
        return
    erased = {int(place): bytes.fromhex(one) for place, one in about["erased"].items()}
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    columns = [name for name in parquet.schema_arrow.names if name not in ("_op", "_salt")]
    total = hashlib.sha256(f"dsops-segment-1\n{table}\n{','.join(columns)}\n".encode())
    place = 0
    for row in (row for batch in parquet.iter_batches(BLOCK) for row in batch.to_pylist()):
        while place in erased:
            total.update(erased[place])
            place += 1
        total.update(hashlib.sha256(row["_salt"] + bytes([row["_op"]]) + row_bytes(row, columns)).digest())
        place += 1
    while place in erased:
        total.update(erased[place])
        place += 1
    if place != rows:
        yield f"{file.relative_to(root)} has {place} rows, and commits say {rows}"
    if total.hexdigest() != identity:
        yield f"{file.relative_to(root)}: its rows do not hash to its name"


def row_bytes(row: dict[str, Any], columns: list[str]) -> bytes:
    ordered = [name for name in columns if name not in LATE] + [name for name in columns if name in LATE]
    return b"".join(cell(row[name]) for name in ordered)


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


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(file: Path, missing: Any) -> Any:
    return json.loads(file.read_bytes()) if file.is_file() else missing


if __name__ == "__main__":
    sys.exit(main())
