"""A store in a local folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasetops.errors import NotFoundError, StoreError
from datasetops.store.base import KeyExistsError

_TEMPORARY = "tmp"


class LocalStore:
    """Each object is a file. New files are written aside, synced, then linked or renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def get(self, key: str) -> bytes:
        with self._reading(key):
            return self._file(key).read_bytes()

    def path(self, key: str) -> Path:
        file = self._file(key)
        if not file.is_file():
            raise NotFoundError(f"{file} does not exist.")
        return file

    def put(self, key: str, data: bytes) -> None:
        with self._writing(key) as (temporary, target):
            _write_synced(temporary, data)
            temporary.replace(target)

    def put_hint(self, key: str, data: bytes) -> None:
        with self._writing(key, synced=False) as (temporary, target):
            temporary.write_bytes(data)
            temporary.replace(target)

    def put_new(self, key: str, data: bytes) -> None:
        with self._writing(key) as (temporary, target):
            _write_synced(temporary, data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise KeyExistsError(key) from None

    def put_file(self, key: str, file: Path) -> None:
        with self._writing(key) as (temporary, target):
            _sync(file)
            try:
                file.rename(temporary)
            except OSError:  # another file system
                shutil.copyfile(file, temporary)
                _sync(temporary)
                file.unlink()
            temporary.replace(target)

    def exists(self, key: str) -> bool:
        return self._file(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._file(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        found = []
        for parent, folders, files in os.walk(folder):
            if Path(parent) == self.root and _TEMPORARY in folders:
                folders.remove(_TEMPORARY)
            for name in files:
                key = (Path(parent) / name).relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    found.append(key)
        return iter(sorted(found))

    def size(self, key: str) -> int:
        with self._reading(key):
            return self._file(key).stat().st_size

    def digest(self, key: str) -> str:
        with self._reading(key), self._file(key).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def age(self, key: str) -> float:
        with self._reading(key):
            return max(0.0, time.time() - self._file(key).stat().st_mtime)

    def delete(self, key: str) -> None:
        try:
            self._file(key).unlink(missing_ok=True)
        except OSError as error:
            raise _store_error(error, self._file(key)) from error

    def _file(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFoundError(f"{self._file(key)} does not exist.") from None
        except OSError as error:
            raise _store_error(error, self._file(key)) from error

    @contextmanager
    def _writing(self, key: str, *, synced: bool = True) -> Iterator[tuple[Path, Path]]:
        """A name to write under and the name to give it; the folder is synced afterwards, leftovers are removed."""
        target = self._file(key)
        temporary = self.root / _TEMPORARY / uuid.uuid4().hex
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary, target
            if synced:
                _sync(target.parent)
        except OSError as error:
            raise _store_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)


def open_local(url: str, cache: Path) -> LocalStore:
    return LocalStore(Path(url.removeprefix("file://")))


def _write_synced(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _store_error(error: OSError, file: Path) -> StoreError:
    return StoreError(
        f"{file}: {error.strerror or error}.",
        remedy="Nothing was changed. Check free space and permissions (df -h, ls -l), then run the command again.",
    )
