"""Commit objects: canonical JSON that names everything a version is made of, stored under its own SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datasetops.errors import DamagedError, NotFoundError
from datasetops.manifest.erasing import was_replaced
from datasetops.manifest.segment import SegmentInfo
from datasetops.records import canonical_json, parse_json, sha256_hex
from datasetops.store import Store

FORMAT = 1


@dataclass(frozen=True)
class Commit:
    """`tables` lists the segments of each table, oldest first; `counts` the live rows; `sealed` the sealed splits."""

    parents: tuple[str, ...]
    schema: str
    guide: str | None
    tables: Mapping[str, tuple[SegmentInfo, ...]]
    counts: Mapping[str, int]
    sealed: tuple[str, ...]
    author: str
    time: str
    message: str
    event_id: str

    def to_bytes(self) -> bytes:
        value: dict[str, Any] = asdict(self) | {"format": FORMAT}
        value["tables"] = {name: [info.as_dict() for info in infos] for name, infos in self.tables.items()}
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Commit:
        """Raises ValueError where the bytes are not a commit."""
        try:
            value = parse_json(data)
            if value.pop("format") != FORMAT:
                raise ValueError("unknown format; a newer dsops may have written it")
            value["tables"] = {
                name: tuple(SegmentInfo(**info) for info in infos) for name, infos in value["tables"].items()
            }
            value["parents"], value["sealed"] = tuple(value["parents"]), tuple(value["sealed"])
            return cls(**value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a commit: {error}") from None

    @property
    def digest(self) -> str:
        return sha256_hex(self.to_bytes())


def put_object(store: Store, folder: str, data: bytes, suffix: str = "json") -> str:
    """Store bytes under `<folder>/<sha256>.<suffix>`, once; returns the digest."""
    digest = sha256_hex(data)
    key = f"{folder}/{digest}.{suffix}"
    if not store.exists(key):
        store.put(key, data)
    return digest


def get_object(store: Store, folder: str, digest: str, suffix: str = "json") -> bytes:
    """Raises DamagedError where the object is missing or is not what its name says."""
    key = f"{folder}/{digest}.{suffix}"
    remedy = "Run `dsops verify`, and put the object back from a backup or another copy of the store."
    try:
        data = store.get(key)
    except NotFoundError:
        raise DamagedError(f"{key} is missing.", remedy=remedy) from None
    if (now := sha256_hex(data)) != digest and not was_replaced(store, key, digest, now):
        raise DamagedError(f"{key} is damaged: it does not hash to its name.", remedy=remedy)
    return data


def get_commit(store: Store, digest: str) -> Commit:
    try:
        return Commit.from_bytes(get_object(store, "commits", digest))
    except ValueError as error:
        raise DamagedError(f"commits/{digest}.json: {error}.", remedy="Update dsops, or run `dsops verify`.") from None
