"""A version's tables as plain sorted Parquet, a file each, for readers that know nothing of dsops."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any

from datasetops.manifest.repository import Repository
from datasetops.manifest.segment import segment_key
from datasetops.manifest.version import Version
from datasetops.records import TABLES, canonical_json, sha256_hex

FOLDER = "tables"


@dataclass(frozen=True)
class PlainFile:
    """`path` is a file, or an address where the store is in a bucket; `rows` those of the table.

    `stored`: the store's own file, which has the columns `_op` and `_salt` besides; else a copy in the cache.
    """

    path: str
    rows: int
    stored: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plain_files(repository: Repository, version: Version) -> dict[str, PlainFile]:
    """A Parquet file for each table, sorted by the bytes of its key: that of a table of one segment, else one written now.

    What is written goes into the cache, and is found there again. Raises StoreError.
    """
    return {name: _file_of(repository, version, name) for name in TABLES}


def _file_of(repository: Repository, version: Version, table: str) -> PlainFile:
    segments = version.state(table).segments
    rows = version.commit.counts[table]
    if len(segments) == 1 and len(segments[0]) == rows:
        key = segment_key(table, segments[0].info.id)
        store = repository.store
        return PlainFile(f"{store.url}/{key}" if "://" in store.url else str(store.path(key).absolute()), rows, True)

    import pyarrow.parquet as pq

    identity = sha256_hex(canonical_json([[segment.info.id, len(segment)] for segment in segments]))
    file = (repository.cache / FOLDER / f"{table}-{identity[:24]}.parquet").absolute()
    content = version.table(table)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{uuid.uuid4().hex}.part")
        try:
            pq.write_table(content, temporary, compression="zstd", write_page_checksum=True, store_schema=False)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return PlainFile(str(file), len(content), False)
