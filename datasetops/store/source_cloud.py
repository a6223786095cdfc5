"""Objects below a prefix of Google Cloud Storage or Azure Blob Storage as a `SourceTree`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasetops.errors import FormatError, NotFoundError, StoreError
from datasetops.store.cloud_client import open_bucket, split_url, talking
from datasetops.store.tree import FileEntry, UnreadableError, Unusable, check_path


def open_cloud_source(url: str) -> CloudTree:
    """The tree at gs://bucket/prefix or az://container/prefix; a URL that names an object opens what lies beside it,
    `single_file` set.

    Raises FormatError without a bucket, NotFoundError where there is nothing, StoreError where the cloud refuses.
    """
    try:
        scheme, bucket, prefix = split_url(url)
    except StoreError as error:
        raise FormatError(error.message, remedy=error.remedy) from None
    client = open_bucket(scheme, bucket)
    if prefix and not url.endswith("/"):
        folder, _, name = prefix.rpartition("/")
        beside = CloudTree(client, scheme, bucket, folder, single_file=name)
        if beside.stat(name) is not None:
            return beside
    tree = CloudTree(client, scheme, bucket, prefix)
    import obstore

    with talking(tree.url):
        first = next(iter(obstore.list(client, prefix or None, chunk_size=1)), None)
    if not first:
        raise NotFoundError(f"{url}: there is no object of that name, and none below it.", remedy="Check the prefix.")
    return tree


@dataclass(frozen=True)
class CloudTree:
    """Objects below scheme://bucket/prefix; a file's version is its ETag. `client` is obstore's, of the whole bucket.

    Empty objects that stand for a folder are left out. Names with `//` or `..` cannot be listed: StoreError.
    """

    client: Any
    scheme: str
    bucket: str
    prefix: str
    single_file: str | None = None
    url: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/"))

    def walk(self) -> Iterator[FileEntry | Unusable]:
        import obstore

        start = len(f"{self.prefix}/") if self.prefix else 0
        with talking(self.url):
            pages = list(obstore.list(self.client, self.prefix or None, chunk_size=1000))
        items = sorted((item["path"][start:], item["size"], _version(item)) for page in pages for item in page)
        folders = {path.rpartition("/")[0] for path, _, _ in items}
        for path, size, version in items:
            if path and (size or path not in folders):
                yield FileEntry(path, size, version)

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        import obstore

        name = self._name(path)
        try:
            with talking(self.uri(path)):
                if limit is None:
                    return bytes(obstore.get(self.client, name).bytes())
                size = min(limit, int(obstore.head(self.client, name)["size"]))
                return bytes(obstore.get_range(self.client, name, start=0, length=size)) if size else b""
        except StoreError as error:
            if "access denied" in error.message:
                raise UnreadableError(error.message, remedy=error.remedy) from None
            raise

    def stat(self, path: str) -> FileEntry | None:
        import obstore

        name = self._name(path)
        try:
            with talking(self.uri(path)):
                item = obstore.head(self.client, name)
        except NotFoundError:
            return None
        return FileEntry(path, item["size"], _version(item))

    def uri(self, path: str) -> str:
        return f"{self.url}/{path}"

    def _name(self, path: str) -> str:
        return f"{self.prefix}/{check_path(path)}" if self.prefix else check_path(path)


def _version(item: Any) -> str:
    return str(item["e_tag"] or item["version"] or item["last_modified"]).strip('"')
