"""A store in a bucket of Google Cloud Storage or a container of Azure, with writes on condition that nothing is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.cloud_client import open_bucket, split_url, talking
from datasetops.store.remote import CHUNK, RemoteStore

_PART: Final = 32 << 20  # bytes; larger files are uploaded in parts


class CloudStore(RemoteStore):
    """`client` is one of obstore's stores, of the whole bucket."""

    def __init__(self, url: str, cache: Path, client: Any) -> None:
        super().__init__(*split_url(url), cache)
        self._client = client

    def get(self, key: str) -> bytes:
        import obstore

        with talking(self._address(key)):
            return bytes(obstore.get(self._client, self._name(key)).bytes())

    def put_file(self, key: str, file: Path) -> None:
        self._write(key, file, chunk_size=_PART, max_concurrency=4)
        file.unlink()

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

    def age(self, key: str) -> float:
        return max(0.0, time.time() - float(self._head(key)["last_modified"].timestamp()))

    def _head(self, key: str) -> Any:
        import obstore

        with talking(self._address(key)):
            return obstore.head(self._client, self._name(key))

    def _put(self, key: str, data: bytes, *, new: bool) -> None:
        self._write(key, data, mode="create" if new else "overwrite", use_multipart=False)

    def _write(self, key: str, data: bytes | Path, **how: Any) -> None:
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
            for chunk in obstore.get(self._client, self._name(key)).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def _delete(self, key: str) -> None:
        import obstore

        with suppress(NotFoundError), talking(self._address(key)):
            obstore.delete(self._client, self._name(key))

    def _address(self, key: str) -> str:
        return f"{self.url}/{key}"


def open_cloud(url: str, cache: Path) -> CloudStore:
    """The store at gs://bucket/prefix or az://container/prefix."""
    scheme, bucket, _ = split_url(url)
    return CloudStore(url, cache, open_bucket(scheme, bucket))
