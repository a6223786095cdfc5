"""What a store promises: named byte objects, written whole or not at all, on a disk or in a bucket.

Everything above the store keeps its promises with two primitives: `put_new` (write only if the key does not exist yet,
atomically, also against other machines) and `put` (replace as a whole).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class KeyExistsError(Exception):
    """`put_new` found the key taken. Internal: callers turn it into a retry or a ConflictError."""


class Store(Protocol):
    """A plugin of the entry-point group `datasetops.stores`, by URL scheme.

    Every method raises StoreError where the medium fails (full, unreachable, refused); nothing half-written is ever
    visible under a key.
    """

    url: str

    def get(self, key: str) -> bytes:
        """Raises NotFoundError."""

    def path(self, key: str) -> Path:
        """A local file with the object's bytes, for memory mapping; immutable keys only. Raises NotFoundError."""

    def put(self, key: str, data: bytes) -> None: ...

    def put_hint(self, key: str, data: bytes) -> None:
        """As `put`, for what may be lost or empty after a crash since it can be made again; it waits for no disk."""

    def put_new(self, key: str, data: bytes) -> None:
        """Raises KeyExistsError; of several writers racing for one key exactly one succeeds."""

    def put_file(self, key: str, file: Path) -> None:
        """Take a finished local file over under `key`; the file is moved or uploaded."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, sorted."""

    def size(self, key: str) -> int:
        """Bytes. Raises NotFoundError."""

    def digest(self, key: str) -> str:
        """Hex SHA-256 of the bytes as the medium has them now, never of a copy. Raises NotFoundError."""

    def age(self, key: str) -> float:
        """Seconds since the object was written. Raises NotFoundError."""

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
