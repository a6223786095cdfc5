"""A file or folder that DVC tracks as a `SourceTree`: from the workspace, or from DVC's cache where it is not checked out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasetops.errors import NotFoundError
from datasetops.store.dvc_files import Objects, Tracked, find_tracked, objects_of, same
from datasetops.store.source_local import LocalTree
from datasetops.store.tree import FileEntry, SourceTree, UnreadableError, Unusable, check_path


def open_dvc(path: Path) -> DvcTree | None:
    """The tree of a .dvc file, or of a path that DVC tracks; None where DVC has nothing to do with it.

    Raises NotFoundError where what DVC needs is not on this machine, FormatError for files of DVC's that are no such.
    """
    tracked = find_tracked(path)
    if tracked is None:
        return None
    objects = objects_of(tracked.root)
    if not tracked.is_folder:
        tree = DvcTree(tracked, objects, tracked.path.parent, {tracked.path.name: tracked.md5}, tracked.path.name)
        missing = [entry for entry in tree.walk() if isinstance(entry, Unusable)]
        if missing:
            raise NotFoundError(f"{tracked.path}: {missing[0].reason}.")
        return tree
    listing = objects.listing(tracked)
    wanted = Path(os.path.realpath(path.parent)) / path.name
    if path.suffix == ".dvc" or wanted == tracked.path:
        return DvcTree(tracked, objects, tracked.path, listing)
    within = wanted.relative_to(tracked.path).as_posix()
    if within in listing:
        folder = {name: md5 for name, md5 in listing.items() if Path(name).parent == Path(within).parent}
        below = {Path(name).name: md5 for name, md5 in folder.items()}
        return DvcTree(tracked, objects, wanted.parent, below, wanted.name)
    below = {name[len(within) + 1 :]: md5 for name, md5 in listing.items() if name.startswith(within + "/")}
    if not below:
        raise NotFoundError(
            f"{path}: DVC tracks no such file or folder in {tracked.path}.", remedy="Check the spelling."
        )
    return DvcTree(tracked, objects, wanted, below)


@dataclass(frozen=True)
class DvcTree:
    """Files that DVC tracks below `root`; `md5` is by path. Every file that is read is held against its hash.

    A file of the workspace that is not what DVC tracks is `Unusable`, and so is one that is nowhere on this machine.
    """

    tracked: Tracked
    objects: Objects
    root: Path
    md5: dict[str, str] = field(repr=False)
    single_file: str | None = None
    _checked: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def url(self) -> str:
        return str(self.root)

    def walk(self) -> Iterator[FileEntry | Unusable]:
        found: list[FileEntry | Unusable] = []
        for path in self.md5:
            entry = self.stat(path)
            found.append(entry or Unusable(path, f"is not on this machine: dvc pull {self.tracked.file.name}"))
        if self.single_file is None and self.root.is_dir():
            there = {entry.path for entry in LocalTree(self.root).walk()}
            found += [Unusable(path, "is not tracked: dvc add") for path in there - self.md5.keys()]
        yield from sorted(found, key=lambda entry: entry.path)

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        file = self._file(path)
        if file is None:
            raise NotFoundError(
                f"{self.uri(path)}: it is not on this machine.", remedy=f"dvc pull {self.tracked.file.name}"
            )
        version = _version(file)
        try:
            if self._checked.get(path) == version and limit is not None:
                with file.open("rb") as stream:
                    return stream.read(limit)
            data = file.read_bytes()
        except OSError as error:
            raise UnreadableError(f"{file} cannot be read: {error.strerror}.") from error
        if not same(data, self.md5[path], legacy=self.tracked.legacy):
            raise UnreadableError(f"{self.uri(path)} {self._differs(path)}")
        self._checked[path] = version
        return data if limit is None else data[:limit]

    def stat(self, path: str) -> FileEntry | None:
        file = self._file(path)
        if file is None:
            return None
        return FileEntry(path, file.stat().st_size, f"{self.md5[path]}-{_version(file)}")

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def only_cached(self, path: str) -> bool:
        """Whether the file is in DVC's cache but not in the workspace."""
        return check_path(path) in self.md5 and not (self.root / path).exists()

    def _file(self, path: str) -> Path | None:
        if check_path(path) not in self.md5:
            return None
        file = self.root / path
        try:
            if stat.S_ISREG(file.stat().st_mode):
                return file
        except OSError:
            pass
        return self.objects.find(self.md5[path])

    def _differs(self, path: str) -> str:
        if self.only_cached(path):
            return f"is damaged in DVC's cache: delete it there, then dvc pull {self.tracked.file.name}"
        return "is not what DVC tracks: dvc add or dvc commit keeps the change, dvc checkout undoes it"


def dvc_records(*trees: SourceTree) -> list[dict[str, Any]]:
    """What the ledger keeps of trees that DVC tracks, each once."""
    told = [tree.tracked.record() for tree in trees if isinstance(tree, DvcTree)]
    return [record for place, record in enumerate(told) if record not in told[:place]]


def _version(file: Path) -> str:
    status = file.stat()
    return f"{status.st_mtime_ns}-{status.st_size}"
