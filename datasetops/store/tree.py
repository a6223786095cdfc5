"""What a tree of files to read from is, and which paths may stand in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from datasetops.errors import FormatError, StoreError


@dataclass(frozen=True, slots=True)
class FileEntry:
    """`path` is relative, with forward slashes. `version` changes whenever the content does (mtime and size, or ETag)."""

    path: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something found in the tree that cannot be used, and why: a name that is not UTF-8, a symlink loop."""

    path: str
    reason: str


class UnreadableError(StoreError):
    """This one file cannot be read (its rights, a damaged disk block); others may be."""


class SourceTree(Protocol):
    """Files below one root. Paths that climb out of the root are refused with FormatError."""

    @property
    def url(self) -> str:
        """Absolute local path or an address like s3://bucket/prefix, as findings name it; no slash at its end."""

    @property
    def single_file(self) -> str | None:
        """Set where the user named one file: its path inside the tree."""

    def walk(self) -> Iterator[FileEntry | Unusable]:
        """All files below the root, sorted by path."""

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """The file's bytes, at most the first `limit`.

        Raises NotFoundError where there is no such file, UnreadableError where it cannot be read, StoreError where
        nothing can, FormatError for a path that leaves the tree.
        """

    def stat(self, path: str) -> FileEntry | None:
        """None where there is no such file. Raises FormatError for a path that leaves the tree."""

    def uri(self, path: str) -> str:
        """What to write into `samples.uri` for a file used by reference."""


def check_path(path: str) -> str:
    """`path` unchanged if it stays inside a tree; raises FormatError if it is absolute, climbs, or is not UTF-8."""
    parts = path.split("/")
    if not path or path.startswith(("/", "~/")) or (len(path) > 1 and path[1] == ":"):
        raise FormatError(f"{path!r} is not a relative path.", remedy="List files by their path inside the folder.")
    if ".." in parts or "\0" in path:
        raise FormatError(f"{path!r} leads out of the folder.", remedy="List files by their path inside the folder.")
    if not is_utf8(path):
        raise FormatError(f"{printable(path)}: the name is not UTF-8.", remedy="Rename the file.")
    return path


def is_utf8(name: str) -> bool:
    """False for names that Python had to carry as surrogate escapes: their bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """The name with bytes that are not UTF-8 shown as \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()
