"""Images that lie inside of Parquet or Arrow files, as files of a tree."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa

from datasetops.errors import NotFoundError
from datasetops.formats.hf_files import HfFile
from datasetops.store.tree import FileEntry, SourceTree, Unusable

_KEPT: Final = 4  # parts of files in memory


class EmbeddedImages:
    """The tree of a source, and in it the images of its files: FILE/ROW/NAME."""

    single_file = None

    def __init__(self, source: SourceTree) -> None:
        self._source = source
        self.url = source.url
        self._places: dict[str, tuple[HfFile, int, str]] = {}
        self._starts: dict[str, list[int]] = {}
        self._parts: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, file: HfFile, row: int, name: str | None) -> str:
        """Makes a row's image known; returns its path."""
        if file.path not in self._starts:
            self._starts[file.path] = [0, *accumulate(file.groups())]
        entry = self._source.stat(file.path)
        base = PurePosixPath((name or "").replace("\\", "/")).name or "image"
        path = f"{file.path}/{row}/{base}"
        self._places[path] = (file, row, entry.version if entry else "")
        return path

    def walk(self) -> Iterator[FileEntry | Unusable]:
        for path, (_, _, version) in sorted(self._places.items()):
            yield FileEntry(path, 0, version)

    def stat(self, path: str) -> FileEntry | None:
        place = self._places.get(path)
        return self._source.stat(path) if place is None else FileEntry(path, 0, place[2])

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        place = self._places.get(path)
        if place is None:
            return self._source.read(path, limit=limit)
        file, row, _ = place
        starts = self._starts[file.path]
        group = bisect_right(starts, row) - 1
        data = self._part(file, group)[row - starts[group]]["bytes"].as_py()
        if data is None:
            raise NotFoundError(f"{self.uri(path)}: the row has no image.")
        return bytes(data)[:limit]

    def uri(self, path: str) -> str:
        return self._source.uri(path)

    def _part(self, file: HfFile, group: int) -> pa.ChunkedArray:
        with self._lock:
            key = (file.path, group)
            if key not in self._parts:
                self._parts[key] = file.images(group)
                while len(self._parts) > _KEPT:
                    self._parts.popitem(last=False)
            self._parts.move_to_end(key)
            return self._parts[key]
