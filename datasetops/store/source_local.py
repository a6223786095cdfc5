"""Files below a folder of this machine, and single ones anywhere on it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasetops.errors import FormatError, NotFoundError
from datasetops.store.tree import FileEntry, SourceTree, UnreadableError, Unusable, check_path, is_utf8, printable


@dataclass(frozen=True)
class LocalTree:
    """Files below a folder. `root` is absolute and has no symbolic links in it.

    Links to files and folders inside the root are followed, each folder once; links that leave the root, loop, or lead
    nowhere are `Unusable`, and so are devices, pipes and names that are not UTF-8.
    """

    root: Path
    single_file: str | None = None
    url: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", str(self.root))

    def walk(self) -> Iterator[FileEntry | Unusable]:
        yield from self._walk(str(self.root), "", frozenset({str(self.root)}), set())

    def files_beside(self, paths: Iterable[str]) -> Iterator[FileEntry]:
        """Files that can be used in the folders of some paths, without looking anywhere else.

        Raises FormatError for a path that leaves the tree.
        """
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            try:
                with os.scandir(self._resolve(folder) if folder else self.root) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError:  # there is no such folder, or it cannot be listed
                continue
            for one in listed:
                path = f"{folder}/{one.name}" if folder else one.name
                if not is_utf8(path) or (one.is_symlink() and not self._holds(os.path.realpath(one.path))):
                    continue
                entry = self._entry(one.path, path)
                if isinstance(entry, FileEntry):
                    yield entry

    def _walk(
        self, folder: str, prefix: str, chain: frozenset[str], linked: set[str]
    ) -> Iterator[FileEntry | Unusable]:
        """`chain`: real paths of the folders that are being walked; `linked`: those that a link has led to."""
        try:
            with os.scandir(folder) as entries:
                listed = [(e.name + "/" if _is_folder(e) else e.name, e) for e in entries]
        except OSError as error:
            yield Unusable(prefix.rstrip("/") or ".", f"the folder cannot be listed: {error.strerror}")
            return
        # A slash after a folder's name makes the order of this walk the order of the whole paths.
        for name, entry in sorted(listed, key=lambda item: item[0]):
            path = prefix + entry.name
            if not is_utf8(entry.name):
                yield Unusable(printable(path), "the name is not UTF-8")
            elif entry.is_symlink():
                yield from self._walk_link(entry, path, chain, linked)
            elif name.endswith("/"):
                yield from self._walk(entry.path, path + "/", chain | {os.path.realpath(entry.path)}, linked)
            else:
                yield self._entry(entry.path, path)

    def _walk_link(
        self, entry: os.DirEntry[str], path: str, chain: frozenset[str], linked: set[str]
    ) -> Iterator[FileEntry | Unusable]:
        try:
            target = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            # realpath gives up on links that only lead to each other with ELOOP, on broken ones with ENOENT.
            reason = "the link leads nowhere" if isinstance(error, FileNotFoundError) else "symlink loop"
            yield Unusable(path, reason)
            return
        if not self._holds(target):
            yield Unusable(path, "the link leads out of the folder")
        elif not Path(target).is_dir():
            yield self._entry(target, path)
        elif target in chain:
            yield Unusable(path, "symlink loop")
        elif target in linked:
            yield Unusable(path, "another link to the same folder has been followed already")
        else:
            linked.add(target)
            yield from self._walk(target, path + "/", chain | {target}, linked)

    def _entry(self, absolute: str, path: str) -> FileEntry | Unusable:
        try:
            status = os.stat(absolute)  # noqa: PTH116 - a Path for each of a million files costs as much as the call
        except OSError as error:
            return Unusable(path, f"cannot be read: {error.strerror}")
        if not stat.S_ISREG(status.st_mode):
            return Unusable(path, "not a regular file")
        return FileEntry(path, status.st_size, f"{status.st_mtime_ns}-{status.st_size}")

    def _holds(self, real: str) -> bool:
        root = str(self.root)
        return real == root or real.startswith(root.rstrip("/") + "/")

    def _resolve(self, path: str) -> str:
        real = os.path.realpath(f"{self.root}/{check_path(path)}")
        if not self._holds(real):
            raise FormatError(
                f"{path!r} is a link that leads out of {self.url}.", remedy="Copy the file into the folder."
            )
        return real

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        real = self._resolve(path)
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116 - opening a pipe would wait for ever
                raise NotFoundError(f"{self.uri(path)} is not a file.")
            with open(real, "rb") as file:  # noqa: PTH123
                return file.read() if limit is None else file.read(limit)
        except FileNotFoundError:
            raise NotFoundError(f"{self.uri(path)}: there is no such file.") from None
        except OSError as error:
            raise UnreadableError(f"{self.uri(path)} cannot be read: {error.strerror}.") from error

    def stat(self, path: str) -> FileEntry | None:
        entry = self._entry(self._resolve(path), path)
        return entry if isinstance(entry, FileEntry) else None

    def uri(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}"


@dataclass(frozen=True)
class WithFiles:
    """A tree, and beside it files of this machine by their absolute paths. `paths` are those of both that are wanted."""

    tree: SourceTree
    paths: Sequence[str]

    @property
    def url(self) -> str:
        return self.tree.url

    @property
    def single_file(self) -> str | None:
        return self.tree.single_file

    def walk(self) -> Iterator[FileEntry | Unusable]:
        """The tree's files, at least those that are wanted, then those that are beside it."""
        beside = sorted(path for path in self.paths if path.startswith("/"))
        within = [path for path in self.paths if not path.startswith("/")]
        if isinstance(self.tree, LocalTree):
            yield from self.tree.files_beside(within)
        elif within:
            yield from self.tree.walk()
        for path in beside:
            entry = self.stat(path)
            if entry is not None:
                yield entry

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        return _MACHINE.read(path[1:], limit=limit) if path.startswith("/") else self.tree.read(path, limit=limit)

    def stat(self, path: str) -> FileEntry | None:
        if not path.startswith("/"):
            return self.tree.stat(path)
        entry = _MACHINE.stat(path[1:])
        return None if entry is None else replace(entry, path=path)

    def uri(self, path: str) -> str:
        return path if path.startswith("/") else self.tree.uri(path)


_MACHINE = LocalTree(Path("/"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
