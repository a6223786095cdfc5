"""Objects below an S3 prefix as a `SourceTree`. Endpoint, region and credentials come from the AWS_* variables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasetops.errors import DatasetOpsError, FormatError, NotFoundError, StoreError
from datasetops.store.s3 import s3_client
from datasetops.store.tree import FileEntry, UnreadableError, Unusable, check_path


def open_s3(url: str) -> S3Tree:
    """The tree at s3://bucket/prefix; a URL that names an object opens what lies beside it, `single_file` set.

    Raises FormatError without a bucket, NotFoundError where there is nothing, StoreError where S3 refuses.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise FormatError(f"{url}: the bucket's name is missing.", remedy="Write s3://bucket/prefix.")
    client = s3_client()
    prefix = key.rstrip("/")
    if prefix and not key.endswith("/") and _head(client, bucket, prefix) is not None:
        folder, _, name = prefix.rpartition("/")
        return S3Tree(client, bucket, folder, single_file=name)
    tree = S3Tree(client, bucket, prefix)
    if next(tree.walk(), None) is None:
        raise NotFoundError(f"{url}: there is no object of that name, and none below it.", remedy="Check the prefix.")
    return tree


@dataclass(frozen=True)
class S3Tree:
    """Objects below s3://bucket/prefix; a file's version is its ETag."""

    client: Any
    bucket: str
    prefix: str
    single_file: str | None = None
    url: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", f"s3://{self.bucket}/{self.prefix}".rstrip("/"))

    def walk(self) -> Iterator[FileEntry | Unusable]:
        start = f"{self.prefix}/" if self.prefix else ""
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for item in page.get("Contents", []):
                    path = item["Key"][len(start) :]
                    if path.endswith("/") or not path:
                        continue  # the placeholder by which some tools mark a folder
                    try:
                        yield FileEntry(check_path(path), item["Size"], item["ETag"].strip('"'))
                    except FormatError as error:
                        yield Unusable(path, error.message)
        except Exception as error:
            raise _explained(error, self.url) from error

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        wanted: dict[str, Any] = {"Bucket": self.bucket, "Key": self._key(path)}
        if limit is not None:
            wanted["Range"] = f"bytes=0-{limit - 1}"
        try:
            return bytes(self.client.get_object(**wanted)["Body"].read())
        except Exception as error:
            if _code(error) == "InvalidRange":  # what S3 answers for an empty object
                return b""
            raise _explained(error, self.uri(path)) from error

    def stat(self, path: str) -> FileEntry | None:
        head = _head(self.client, self.bucket, self._key(path))
        return None if head is None else FileEntry(path, head["ContentLength"], head["ETag"].strip('"'))

    def uri(self, path: str) -> str:
        return f"{self.url}/{path}"

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{check_path(path)}" if self.prefix else check_path(path)


def _head(client: Any, bucket: str, key: str) -> dict[str, Any] | None:
    try:
        return dict(client.head_object(Bucket=bucket, Key=key))
    except Exception as error:
        if _code(error) in ("404", "NoSuchKey", "NotFound"):
            return None
        raise _explained(error, f"s3://{bucket}/{key}") from error


def _code(error: Exception) -> str:
    from botocore.exceptions import ClientError

    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _explained(error: Exception, url: str) -> Exception:
    """boto3's error as one of ours; anything that is not boto3's is given back as it is."""
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

    if isinstance(error, DatasetOpsError) or not isinstance(error, BotoCoreError | ClientError):
        return error
    if _code(error) in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
        return NotFoundError(f"{url}: there is no such bucket or object.", remedy="Check the URL's spelling.")
    if _code(error) == "AccessDenied":
        return UnreadableError(f"{url} cannot be read: access denied.", remedy="Ask for the right to list and read it.")
    if isinstance(error, NoCredentialsError):
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    elif isinstance(error, EndpointConnectionError):
        remedy = "Check the network and AWS_ENDPOINT_URL."
    else:
        remedy = "Check the credentials, their rights to list and read, AWS_REGION and AWS_ENDPOINT_URL."
    return StoreError(f"{url} cannot be read: {error}", remedy=remedy)
