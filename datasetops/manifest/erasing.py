"""Erased rows and replaced objects: what reading and verifying need to know of them, and taking rows out of a segment.

`erasures/segments.json` has by segment how many of its rows were erased; `erasures/replaced.json` by key what an object
hashed to before and what it hashes to now (null: it was deleted). Both can be made again: the one from the descriptions
of segments, the other from the ledger's events of the kind `erased`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import DamagedError, NotFoundError
from datasetops.manifest.segment import SegmentInfo, digests_of, read_stored, segment_bytes, segment_key
from datasetops.records import TABLES, canonical_json, parse_json, sha256_hex
from datasetops.store import Store

ERASED: Final = "erased"  # the event that ends an erasure
SEGMENTS: Final = "erasures/segments.json"
REPLACED: Final = "erasures/replaced.json"
_TODO: Final = "erasures/todo/"
REQUEST: Final = f"{_TODO}request.json"  # there while an erasure is going on: in between rows may be missing

Rows = npt.NDArray[np.bool_]


def erased_counts(store: Store) -> Mapping[str, int]:
    """By segment, how many of its rows were erased."""
    counts = _read(store, SEGMENTS)
    if not all(type(count) is int and count > 0 for count in counts.values()):
        raise _damaged(SEGMENTS)
    return counts


def replaced_objects(store: Store) -> dict[str, tuple[str, str | None]]:
    """By key, the digest that an object had before an erasure, and the one that it has now; None: it is gone."""
    pairs = _read(store, REPLACED)
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs.values()):
        raise _damaged(REPLACED)
    return {key: (was, now) for key, (was, now) in pairs.items()}


def was_replaced(store: Store, key: str, was: str, now: str | None) -> bool:
    """Whether an erasure made of the object that hashed to `was` the one that hashes to `now`."""
    return replaced_objects(store).get(key) == (was, now)


def record_replaced(store: Store, changed: Mapping[str, tuple[str, str | None]]) -> None:
    """Add to what was replaced. Of an object that is replaced again the first digest is kept."""
    known = replaced_objects(store)
    for key, (was, now) in changed.items():
        known[key] = (known[key][0] if key in known else was, now)
    store.put(REPLACED, canonical_json({key: list(pair) for key, pair in known.items()}))


def erase_rows(store: Store, table: str, info: SegmentInfo, find: Callable[[pa.Table], Rows]) -> list[str]:
    """Take the rows that `find` tells out of a segment; their digests stay. Returns these, in hexadecimal.

    The segment keeps its identity, and every version that names it still verifies. What was interrupted is finished by
    the same call: first the rows and their digests are noted, then the file is replaced, then its description.
    """
    note, described = f"{_TODO}{table}-{info.id}.json", segment_key(table, info.id, "json")
    description = json.loads(store.get(described))
    before = {int(at): digest for at, digest in description["erased"].items()}
    rows = read_stored(store, table, info.id)
    pending = _read(store, note)
    described_too = bool(pending) and {int(at) for at in pending["erased"]} <= set(before)
    if described_too or (pending and len(rows) == info.rows - len(before) - len(pending["erased"])):
        _describe(store, info, described, description, pending)
        store.delete(note)
        return [*pending["erased"].values(), *erase_rows(store, table, info, find)]
    hit = find(rows)
    if not hit.any():
        return []
    places = np.delete(np.arange(info.rows), sorted(before))[hit]
    digests = [digest.hex() for digest in digests_of(rows.filter(pa.array(hit)))]
    data = segment_bytes(table, rows.filter(pa.array(~hit)))
    erased = {str(place): digest for place, digest in zip(places.tolist(), digests, strict=True)}
    pending = {"erased": erased, "bytes": len(data), "sha256": sha256_hex(data)}
    store.put(note, canonical_json(pending))
    store.put(segment_key(table, info.id), data)
    _describe(store, info, described, description, pending)
    store.delete(note)
    return digests


def finish_segments(store: Store) -> list[str]:
    """Describe the segments whose file was replaced before an interruption. Returns the digests of their rows."""
    found = []
    for note in list(store.list(_TODO)):
        table, _, identity = note.removeprefix(_TODO).removesuffix(".json").partition("-")
        if table in TABLES:
            rows = json.loads(store.get(segment_key(table, identity, "json")))["rows"]
            found += erase_rows(store, table, SegmentInfo(identity, rows), lambda rows: np.zeros(len(rows), bool))
    return found


def _describe(
    store: Store, info: SegmentInfo, key: str, description: dict[str, Any], pending: Mapping[str, Any]
) -> None:
    erased = {**description["erased"], **pending["erased"]}
    changed = {"erased": erased, "bytes": pending["bytes"], "sha256": pending["sha256"]}
    store.put(key, canonical_json(description | changed))
    store.put(SEGMENTS, canonical_json({**erased_counts(store), info.id: len(erased)}))


def contains_any(column: pa.ChunkedArray, wanted: pa.Array) -> Rows:
    found: Rows = pc.fill_null(pc.is_in(column, wanted), False).to_numpy(zero_copy_only=False)
    return found


def _read(store: Store, key: str) -> dict[str, Any]:
    try:
        found = parse_json(store.get(key))
    except NotFoundError:
        return {}
    except ValueError:
        raise _damaged(key) from None
    if not isinstance(found, dict):
        raise _damaged(key)
    return found


def _damaged(key: str) -> DamagedError:
    return DamagedError(f"{key} is damaged.", remedy="Put it back from a backup, then run `dsops verify`.")
