"""A store in a bucket of Google Cloud Storage or a container of Azure, with writes on condition that nothing is there."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.base import KeyExistsError
from datasetops.store.cloud_client import open_bucket, split_url, talking

_CHUNK = 1 << 20
_PART = 32 << 20  # bytes; larger files are uploaded in parts


class CloudStore:
    """Objects below one prefix. Immutable objects that are needed as files are kept in a local cache folder.

    `client` is one of obstore's stores, of the whole bucket.
    """

    def __init__(self, url: str, cache: Path, client: Any) -> None:
        self.scheme, self.bucket, self.prefix = split_url(url)
        self.url = f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")
        self._cache = cache / self.scheme / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._client = client

    def get(self, key: str) -> bytes:
        import obstore

        with talking(self._address(key)):
            return bytes(obstore.get(self._client, self._name(key)).bytes())

    def path(self, key: str) -> Path:
        file = self._cache / key
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{uuid.uuid4().hex}.part")
            try:
                with temporary.open("wb") as stream:
                    for chunk in self._chunks(key):
                        stream.write(chunk)
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        return file

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data, use_multipart=False)
        (self._cache / key).unlink(missing_ok=True)

    def put_hint(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """A request whose answer was lost is repeated by the client and then finds its own object: told apart by bytes."""
        try:
            self._put(key, data, mode="create", use_multipart=False)
        except KeyExistsError:
            try:
                if self.get(key) == data:
                    return
            except NotFoundError:  # deleted since
                pass
            raise

    def put_file(self, key: str, file: Path) -> None:
        self._put(key, file, chunk_size=_PART, max_concurrency=4)
        file.unlink()

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        import obstore

        start = len(self._name(""))
        folder = self._name(prefix.rpartition("/")[0])
        with talking(self.url):  # a client of obstore lists folders only, so it gives more than was asked for
            pages = list(obstore.list(self._client, folder.rstrip("/") or None, chunk_size=1000))
        keys = [item["path"][start:] for page in pages for item in page]
        return iter(sorted(key for key in keys if key.startswith(prefix)))

    def size(self, key: str) -> int:
        return int(self._head(key)["size"])

    def digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(key):
            digest.update(chunk)
        copy = self._cache / key
        if copy.is_file() and hashlib.sha256(copy.read_bytes()).hexdigest() != digest.hexdigest():
            copy.unlink()
        return digest.hexdigest()

    def age(self, key: str) -> float:
        return max(0.0, time.time() - float(self._head(key)["last_modified"].timestamp()))

    def delete(self, key: str) -> None:
        import obstore

        try:
            with talking(self._address(key)):
                obstore.delete(self._client, self._name(key))
        except NotFoundError:
            pass
        (self._cache / key).unlink(missing_ok=True)

    def _put(self, key: str, data: bytes | Path, **how: Any) -> None:
        import obstore

        try:
            with talking(self._address(key)):
                obstore.put(self._client, self._name(key), data, **how)
        except NotFoundError:  # a write misses nothing but the bucket
            raise StoreError(
                f"The bucket or container {self.bucket!r} does not exist.", remedy="Create it, or correct the address."
            ) from None

    def _chunks(self, key: str) -> Iterator[bytes]:
        import obstore

        with talking(self._address(key)):
            for chunk in obstore.get(self._client, self._name(key)).stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def _head(self, key: str) -> Any:
        import obstore

        with talking(self._address(key)):
            return obstore.head(self._client, self._name(key))

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _address(self, key: str) -> str:
        return f"{self.url}/{key}"


def open_cloud(url: str, cache: Path) -> CloudStore:
    """The store at gs://bucket/prefix or az://container/prefix."""
    scheme, bucket, _ = split_url(url)
    return CloudStore(url, cache, open_bucket(scheme, bucket))
