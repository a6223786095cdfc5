"""What stores in buckets have in common: names below one prefix, and a cache of files on the disk."""

from __future__ import annotations

import hashlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from datasetops.errors import NotFoundError
from datasetops.store.base import KeyExistsError

CHUNK: Final = 1 << 20  # bytes
_ATTEMPTS: Final = 8


class RemoteStore(ABC):
    """Objects below one prefix. Immutable objects that are needed as files are kept in a local cache folder."""

    def __init__(self, scheme: str, bucket: str, prefix: str, cache: Path) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        self._cache = cache / scheme / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @abstractmethod
    def get(self, key: str) -> bytes: ...

    @abstractmethod
    def size(self, key: str) -> int: ...

    @abstractmethod
    def _put(self, key: str, data: bytes, *, new: bool) -> None:
        """`new`: only where nothing is there, else KeyExistsError."""

    @abstractmethod
    def _chunks(self, key: str) -> Iterable[bytes]: ...

    @abstractmethod
    def _delete(self, key: str) -> None:
        """Deleting what is not there is no error."""

    def _download(self, key: str, file: Path) -> None:
        with file.open("wb") as stream:
            stream.writelines(self._chunks(key))

    def path(self, key: str) -> Path:
        file = self._cache / key
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{uuid.uuid4().hex}.part")
            try:
                self._download(key, temporary)
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        return file

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data, new=False)
        (self._cache / key).unlink(missing_ok=True)

    def put_hint(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """A request whose answer was lost is repeated by the client and then finds its own object: told apart by bytes."""
        for attempt in range(_ATTEMPTS):
            try:
                self._put(key, data, new=True)
                return
            except KeyExistsError:
                try:
                    if self.get(key) == data:
                        return
                except NotFoundError:  # deleted since, or a conflict with a writer that has not finished: ask again
                    time.sleep(0.05 * 2**attempt)
                    continue
                raise
        raise KeyExistsError(key)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(key):
            digest.update(chunk)
        copy = self._cache / key
        if copy.is_file() and hashlib.sha256(copy.read_bytes()).hexdigest() != digest.hexdigest():
            copy.unlink()
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        self._delete(key)
        (self._cache / key).unlink(missing_ok=True)

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key
