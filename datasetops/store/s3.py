"""A store in an S3 bucket, with conditional writes (If-None-Match) in place of links and renames."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.base import KeyExistsError
from datasetops.store.remote import CHUNK, RemoteStore

_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


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


class S3Store(RemoteStore):
    def __init__(self, url: str, cache: Path) -> None:
        super().__init__("s3", *split_url(url), cache)
        self._client = s3_client()

    def get(self, key: str) -> bytes:
        with self._talking(key):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].read())

    def put_file(self, key: str, file: Path) -> None:
        with self._talking(key):
            self._client.upload_file(str(file), self.bucket, self._name(key))
        file.unlink()

    def list(self, prefix: str) -> Iterator[str]:
        start = len(self._name(""))
        with self._talking(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._name(prefix)
            )
            keys = [item["Key"][start:] for page in pages for item in page.get("Contents", [])]
        return iter(sorted(keys))

    def size(self, key: str) -> int:
        return int(self._head(key)["ContentLength"])

    def age(self, key: str) -> float:
        return max(0.0, time.time() - float(self._head(key)["LastModified"].timestamp()))

    def _head(self, key: str) -> Any:
        with self._talking(key):
            return self._client.head_object(Bucket=self.bucket, Key=self._name(key))

    def _put(self, key: str, data: bytes, *, new: bool) -> None:
        condition = {"IfNoneMatch": "*"} if new else {}
        with self._talking(key):
            self._client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data, **condition)

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._talking(key):
            yield from self._client.get_object(Bucket=self.bucket, Key=self._name(key))["Body"].iter_chunks(CHUNK)

    def _download(self, key: str, file: Path) -> None:
        with self._talking(key):  # in several streams at once
            self._client.download_file(self.bucket, self._name(key), str(file))

    def _delete(self, key: str) -> None:
        with self._talking(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

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
