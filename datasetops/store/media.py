"""Media bytes by uri: files beside the repository, anywhere on disk, in a bucket, or copied into the store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.base import Store
from datasetops.store.cloud_client import is_cloud

_SCHEME = "media:"


class Media:
    """Reads what `samples.uri` names.

    `media:<sha256>.<suffix>#<original path>` is a file copied into the store; s3://…, gs://… and az://… an object;
    everything else a path, relative to the repository's folder unless it is absolute.
    """

    def __init__(self, store: Store, root: Path | None) -> None:
        self._store = store
        self._root = root

    def read(self, uri: str) -> bytes:
        """Raises NotFoundError, StoreError."""
        if uri.startswith(_SCHEME):
            return self._store.get(_object_key(uri))
        if uri.startswith("s3://"):
            return self._read_s3(uri)
        if is_cloud(uri):
            return _read_cloud(uri)
        if self._root is None and not Path(uri).is_absolute():
            raise NotFoundError(
                f"{uri} is relative to a folder, but the repository has none.", remedy="Open it by folder."
            )
        path = (self._root or Path()) / uri
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"{path} does not exist.", remedy="Put the file back, or ingest it again.") from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}.", remedy="Check the file's permissions.") from None

    def locate(self, uri: str) -> str:
        """Where the media is: an absolute path, or an address like s3://bucket/key."""
        if uri.startswith(_SCHEME):
            key = _object_key(uri)
            return f"{self._store.url}/{key}" if "://" in self._store.url else str(self._store.path(key))
        return uri if "://" in uri else str((self._root or Path()).absolute() / uri)

    def add(self, data: bytes, *, sha256: str, path: str) -> str:
        """Copy a file into the store, once; returns its uri."""
        uri = media_uri(sha256, path)
        key = _object_key(uri)
        if not self._store.exists(key):
            self._store.put(key, data)
        return uri

    def relative(self, uri: str) -> str:
        """The uri to record for a file: relative to the repository's folder if it lies inside it."""
        if self._root is None or "://" in uri or not Path(uri).is_absolute():
            return uri
        try:
            return Path(uri).relative_to(self._root).as_posix()
        except ValueError:
            return uri

    def _read_s3(self, uri: str) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        from datasetops.store.s3 import split_url

        bucket, key = split_url(uri)
        try:
            return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            raise NotFoundError(f"{uri}: {error.response['Error'].get('Code')}.", remedy="Check the address.") from None
        except BotoCoreError as error:
            raise StoreError(f"{uri}: {type(error).__name__}.", remedy="Check connection and credentials.") from None

    @cached_property
    def _client(self) -> Any:
        from datasetops.store.s3 import s3_client

        return s3_client()


def _read_cloud(uri: str) -> bytes:
    from datasetops.store.cloud_client import open_bucket, split_url, talking

    scheme, bucket, key = split_url(uri)
    client = open_bucket(scheme, bucket)
    import obstore

    with talking(uri):
        return bytes(obstore.get(client, key).bytes())


def media_uri(sha256: str, path: str) -> str:
    return f"{_SCHEME}{sha256}{Path(path).suffix.lower()}#{path}"


def base_name(uri: str) -> str:
    """File name that a sample's media had where it came from."""
    return uri.rpartition("#")[2].rpartition("/")[2]


def _object_key(uri: str) -> str:
    name = uri.removeprefix(_SCHEME).partition("#")[0]
    return f"media/{name[:2]}/{name}"
