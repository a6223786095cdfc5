"""A store in an S3 bucket, with conditional writes (If-None-Match) in place of links and renames."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.base import KeyExistsError

_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_ATTEMPTS = 8


def s3_client() -> Any:
    """A client for the standard AWS settings: AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID, …"""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"max_attempts": 4, "mode": "standard"}, connect_timeout=10))


def split_url(url: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` → ("bucket", "some/prefix"). Raises StoreError."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise StoreError(f"{url!r} is not an S3 address.", remedy="Write it as s3://bucket/prefix.")
    return parts.netloc, parts.path.strip("/")


class S3Store:
    """Objects below one prefix. Immutable objects that are needed as files are kept in a local cache folder."""

    def __init__(self, url: str, cache: Path) -> None:
        self.bucket, self.prefix = split_url(url)
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._cache = cache / "s3" / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._client = s3_client()

    def get(self, key: str) -> bytes:
        with self._talking(key):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].read())

    def path(self, key: str) -> Path:
        file = self._cache / key
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{uuid.uuid4().hex}.part")
            try:
                with self._talking(key):
                    self._client.download_file(self.bucket, self._name(key), str(temporary))
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        return file

    def put(self, key: str, data: bytes) -> None:
        with self._talking(key):
            self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data)
        (self._cache / key).unlink(missing_ok=True)

    def put_hint(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """A request whose answer was lost is repeated by the client and then finds its own object: told apart by bytes."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._talking(key):
                    self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data, IfNoneMatch="*")
                return
            except KeyExistsError:
                try:
                    if self.get(key) == data:
                        return
                except NotFoundError:  # a conflict with a writer that has not finished: ask again
                    time.sleep(0.05 * 2**attempt)
                    continue
                raise
        raise KeyExistsError(key)

    def put_file(self, key: str, file: Path) -> None:
        with self._talking(key):
            self._client.upload_file(str(file), self.bucket, self._name(key))
        file.unlink()

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        start = len(self._name(""))
        with self._talking(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._name(prefix)
            )
            keys = [item["Key"][start:] for page in pages for item in page.get("Contents", [])]
        return iter(sorted(keys))

    def size(self, key: str) -> int:
        with self._talking(key):
            return int(self._client.head_object(Bucket=self.bucket, Key=self._name(key))["ContentLength"])

    def digest(self, key: str) -> str:
        digest = hashlib.sha256()
        with self._talking(key):
            for chunk in self._client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].iter_chunks(1 << 20):
                digest.update(chunk)
        copy = self._cache / key
        if copy.is_file() and hashlib.sha256(copy.read_bytes()).hexdigest() != digest.hexdigest():
            copy.unlink()
        return digest.hexdigest()

    def age(self, key: str) -> float:
        with self._talking(key):
            modified = self._client.head_object(Bucket=self.bucket, Key=self._name(key))["LastModified"]
        return max(0.0, time.time() - float(modified.timestamp()))

    def delete(self, key: str) -> None:
        with self._talking(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))
        (self._cache / key).unlink(missing_ok=True)

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _talking(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise NotFoundError(f"{self.url}/{key} does not exist.") from None
            if code in _TAKEN:
                raise KeyExistsError(key) from None
            raise self._failed(key, code or str(error)) from error
        except (BotoCoreError, OSError) as error:
            raise self._failed(key, type(error).__name__) from error

    def _failed(self, key: str, what: str) -> StoreError:
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "the default AWS endpoint")
        if what == "NoSuchBucket":
            return StoreError(
                f"The bucket {self.bucket!r} does not exist.", remedy="Create it, or correct the address."
            )
        return StoreError(
            f"{self.url}/{key}: {what}.",
            remedy=f"Nothing was changed. Check the connection to {endpoint} and the credentials, then run it again.",
        )
