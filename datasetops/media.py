"""Facts about image files: digest, size, type, and whether they can be decoded. Each file is read once.

A cache beside the repository makes the scan resumable: it is written as the scan goes, keyed by the file's address and
version, so a run that was stopped goes on where it was and a second run reads only what has changed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from datasetops.embedded import beside_pixels
from datasetops.errors import NotFoundError, StoreError
from datasetops.images import ImageError, check_image, quiet_decoding
from datasetops.progress import Progress, no_progress
from datasetops.records import sha256_hex
from datasetops.store.tree import FileEntry, SourceTree, UnreadableError

# One row for each path asked for, in that order. `error` says why an image cannot be used; sizes are null then.
MEDIA_FACTS: Final = pa.schema(
    [
        ("media", pa.string()),
        ("sha256", pa.string()),  # null only where the file could not be read at all
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("media_type", pa.string()),
        ("orientation", pa.int8()),  # EXIF, 1 to 8; null where the file states none
        ("beside", pa.string()),  # kinds of embedded.KINDS that the file tells, with commas; empty where none
        ("error", pa.string()),
    ]
)
_BATCH = 256  # files between two commits of the cache: what a killed run loses at most
_LOCK_SECONDS = 30  # how long to wait for another scan that is writing
_CACHE_FORMAT = 2  # raised whenever the scan would find something else in the same bytes


@dataclass(frozen=True, slots=True)
class _Facts:
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    media_type: str | None = None
    orientation: int | None = None
    beside: str = ""
    error: str | None = None


def scan_media(
    tree: SourceTree,
    paths: Sequence[str],
    *,
    cache: ScanCache | None = None,
    jobs: int | None = None,
    progress: Progress = no_progress,
) -> pa.Table:
    """A table of MEDIA_FACTS for `paths`, by `jobs` threads (default: one for each processor).

    Images that are missing, unreadable, truncated or decompression bombs have an `error`. Raises StoreError where
    the tree as a whole cannot be read, and FormatError for paths that leave it.
    """
    with quiet_decoding():
        found = list(progress(_scanned(tree, paths, cache, jobs or os.cpu_count() or 1), len(paths), "Reading images"))
    columns = [[getattr(facts, name) for facts in found] for name in MEDIA_FACTS.names[1:]]
    return pa.table([list(paths), *columns], schema=MEDIA_FACTS)


def _scanned(tree: SourceTree, paths: Sequence[str], cache: ScanCache | None, jobs: int) -> Iterator[_Facts]:
    versions = _versions(tree, paths) if cache is not None else {}
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            asked = {path: versions[path] for path in batch if path in versions}
            known = cache.get(tree.url, asked) if cache is not None else {}
            fresh = [path for path in dict.fromkeys(batch) if path not in known]
            scanned = dict(zip(fresh, pool.map(lambda path: _scan(tree, path), fresh), strict=True))
            if cache is not None:
                cache.put(tree.url, asked, scanned)
            yield from ((known | scanned)[path] for path in batch)


def _versions(tree: SourceTree, paths: Sequence[str]) -> dict[str, str]:
    """From one listing: asking for each file would take a request each."""
    wanted = set(paths)
    return {e.path: e.version for e in tree.walk() if isinstance(e, FileEntry) and e.path in wanted}


def _scan(tree: SourceTree, path: str) -> _Facts:
    try:
        data = tree.read(path)
    except NotFoundError:
        return _Facts(error="missing")
    except UnreadableError as error:
        return _Facts(error=f"unreadable: {error.message}")
    digest = sha256_hex(data)
    try:
        header = check_image(data)
    except ImageError as error:
        return _Facts(digest, error=str(error))
    return _Facts(digest, header.width, header.height, header.media_type, header.orientation, beside_pixels(data))


class ScanCache:
    """Facts about files that were scanned before, in a SQLite file; a damaged one is begun anew.

    Raises StoreError where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._create()
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise
                path.unlink()
                self._create()
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error

    def _create(self) -> None:
        with closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as database, database:
            if database.execute("PRAGMA user_version").fetchone()[0] != _CACHE_FORMAT:
                database.execute("DROP TABLE IF EXISTS facts")
                database.execute(f"PRAGMA user_version = {_CACHE_FORMAT}")
            database.execute(
                "CREATE TABLE IF NOT EXISTS facts (url TEXT, path TEXT, version TEXT, sha256 TEXT, width INTEGER,"
                " height INTEGER, media_type TEXT, orientation INTEGER, beside TEXT, error TEXT,"
                " PRIMARY KEY (url, path)) WITHOUT ROWID"
            )

    def get(self, url: str, versions: Mapping[str, str]) -> dict[str, _Facts]:
        """Facts by path, for those of `versions` (path → version) that are known in this very version."""
        query = "SELECT version, sha256, width, height, media_type, orientation, beside, error FROM facts WHERE url=? AND path=?"
        known: dict[str, _Facts] = {}
        with self._database() as database:
            for path, version in versions.items():
                row = database.execute(query, (url, path)).fetchone()
                if row is not None and row[0] == version:
                    known[path] = _Facts(*row[1:])
        return known

    def put(self, url: str, versions: Mapping[str, str], facts: Mapping[str, _Facts]) -> None:
        """Keeps what is known of files that could be read, in one transaction."""
        rows = [
            (url, path, versions[path], *astuple(found))
            for path, found in facts.items()
            if path in versions and found.sha256 is not None
        ]
        with self._database() as database:
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?,?,?,?,?,?,?,?,?,?)", rows)

    def forget(self, url: str, paths: Sequence[str]) -> None:
        """Take out what is known of files, so that no byte of it is left."""
        with self._database() as database:
            database.execute("PRAGMA secure_delete = ON")
            database.executemany("DELETE FROM facts WHERE url=? AND path=?", [(url, path) for path in paths])

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        remedy = "Free space, mend its rights, or delete it: it is only a cache."
        return StoreError(f"{self.path} cannot be used: {error}.", remedy=remedy)
