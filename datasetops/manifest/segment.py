"""Segments: immutable Parquet files of row changes, sorted by key, and random access to them.

`segments/<table>/<identity>.parquet` holds the table's columns, `_op` (1 insert, 2 update, 3 delete, relative to the
segments below it) and `_salt`. `<identity>.json` beside it describes the file: rows, bytes, SHA-256 of the bytes, and
the digests of erased rows by position.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import DamagedError, NotFoundError
from datasetops.manifest.encoding import SALT_BYTES, encode_rows, row_digests, segment_identity
from datasetops.records import ADDED, KEYS, TABLES, canonical_json, parse_json, sha256_hex
from datasetops.store import Store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Positions = npt.NDArray[np.int64]

MAPPED_FROM: Final = 20_000  # rows from which a segment is read through a memory-mapped copy
_BATCH: Final = 1 << 19  # rows of one record batch of that copy
_BLOCK: Final = 64  # rows from one key of its index to the next
_ROW_GROUP: Final = 1 << 16
_UNIQUE: Final = frozenset({"uri", "sha256", "geometry", "_salt", "x1", "y1", "x2", "y2", *KEYS.values()})
_EXTRA: Final = [pa.field("_op", pa.int8()), pa.field("_salt", pa.binary(SALT_BYTES))]


def segment_schema(table_name: str) -> pa.Schema:
    return pa.schema(list(TABLES[table_name]) + _EXTRA)


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """How a commit names a segment."""

    id: str
    rows: int

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "rows": self.rows}


def segment_key(table_name: str, identity: str, suffix: str = "parquet") -> str:
    return f"segments/{table_name}/{identity}.{suffix}"


def write_segment(store: Store, table_name: str, rows: pa.Table, digests: list[bytes]) -> SegmentInfo:
    """Store rows (columns of `segment_schema`, sorted by key) under their identity. Writing the same twice is one object."""
    identity = segment_identity(table_name, TABLES[table_name].names, digests)
    key = segment_key(table_name, identity)
    if not store.exists(segment_key(table_name, identity, "json")):
        if rows.num_rows < MAPPED_FROM:
            data = segment_bytes(table_name, rows)
            checksum, size = sha256_hex(data), len(data)
            store.put(key, data)
        else:
            sink = Path(tempfile.gettempdir()) / f"dsops-{uuid.uuid4().hex}.parquet"
            _write_parquet(table_name, rows, sink)
            with sink.open("rb") as stream:
                checksum, size = hashlib.file_digest(stream, "sha256").hexdigest(), sink.stat().st_size
            try:
                store.put_file(key, sink)
            finally:
                sink.unlink(missing_ok=True)
        descriptor = {"bytes": size, "erased": {}, "rows": rows.num_rows, "sha256": checksum, "table": table_name}
        store.put(segment_key(table_name, identity, "json"), canonical_json(descriptor))
    return SegmentInfo(identity, rows.num_rows)


def segment_bytes(table_name: str, rows: pa.Table) -> bytes:
    """The Parquet file of a segment."""
    sink = io.BytesIO()
    _write_parquet(table_name, rows, sink)
    return sink.getvalue()


def _write_parquet(table_name: str, rows: pa.Table, sink: Any) -> None:
    import pyarrow.parquet as pq  # here, for the sake of commands that read no rows

    pq.write_table(
        rows,
        sink,
        row_group_size=_ROW_GROUP,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[name for name in rows.column_names if name not in _UNIQUE],
        write_statistics=[KEYS[table_name]],
        store_schema=False,
    )


class Segment:
    """One stored segment: key look-up in O(log n), rows by position, whole columns. `erased` rows of it are gone."""

    def __init__(self, store: Store, table_name: str, info: SegmentInfo, cache: Path, erased: int = 0) -> None:
        self.table_name = table_name
        self.info = info
        self._rows_left = max(0, info.rows - erased)
        self._store = store
        self._cache = cache
        self._key_column = KEYS[table_name]

    def __len__(self) -> int:
        return self._rows_left

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Rows in key order, `_op` and `_salt` included unless `columns` says otherwise."""
        return self._rows if columns is None else self._rows.select(columns)

    def lookup(self, keys: pa.Array) -> Positions:
        """Row number of each key, -1 where the segment does not hold it."""
        at = self.insertion_points(keys) - 1
        result = np.full(len(keys), -1, dtype=np.int64)
        below = np.flatnonzero(at >= 0)
        nearest = self.take(at[below], [self._key_column])[self._key_column]
        held = below[pc.equal(nearest, keys.take(pa.array(below))).to_numpy()]
        result[held] = at[held]
        return result

    def insertion_points(self, keys: pa.Array) -> Positions:
        """For each key the number of rows with a key not greater than it. Vectorised binary search.

        Of a memory-mapped segment it touches the index and one block of rows for each key.
        """
        if len(self) < MAPPED_FROM:
            return _search_right(_one_array(self._rows[self._key_column]), keys)
        blocks, block_of = np.unique(_search_right(self._index, keys) - 1, return_inverse=True)
        starts = np.maximum(blocks, 0) * _BLOCK
        rows = np.minimum(starts[:, None] + np.arange(_BLOCK), len(self) - 1)
        column = _one_array(self.take(rows.ravel(), [self._key_column])[self._key_column])
        low = block_of * _BLOCK
        high = low + np.where(blocks < 0, 0, np.minimum(_BLOCK, len(self) - starts))[block_of]
        return starts[block_of] + _search_right(column, keys, low, high) - low

    def take(self, positions: Positions, columns: list[str]) -> pa.Table:
        """Rows by number, in the order asked for."""
        starts, batches = self._batches
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        pieces = []
        for number, start in enumerate(starts[:-1]):
            low, high = np.searchsorted(ordered, [start, starts[number + 1]])
            if low < high:
                pieces.append(batches[number].select(columns).take(pa.array(ordered[low:high] - start)))
        schema = pa.schema([segment_schema(self.table_name).field(name) for name in columns])
        gathered = pa.Table.from_batches(pieces, schema=schema) if pieces else schema.empty_table()
        return gathered.take(pa.array(np.argsort(order, kind="stable")))

    @cached_property
    def _rows(self) -> pa.Table:
        return self._mapped() if len(self) >= MAPPED_FROM else read_parquet(self._store, self.table_name, self.info.id)

    @cached_property
    def _batches(self) -> tuple[Positions, list[pa.RecordBatch]]:
        batches = [batch for batch in self._rows.to_batches() if batch.num_rows]
        return np.cumsum([0] + [batch.num_rows for batch in batches]).astype(np.int64), batches

    @cached_property
    def _index(self) -> pa.Array:
        """Every `_BLOCK`-th key."""
        expected = -(-len(self) // _BLOCK)
        index = _read_mapped(self._index_file, expected)
        if index is None:
            index = pa.Table.from_batches(self._index_batches(self._rows))
            _write_mapped(self._index_file, index.to_batches())
        return _one_array(index[self._key_column])

    def _index_batches(self, rows: pa.Table) -> list[pa.RecordBatch]:
        every = pa.array(np.arange(0, len(rows), _BLOCK))
        index: list[pa.RecordBatch] = rows.select([self._key_column]).take(every).combine_chunks().to_batches()
        return index

    @property
    def _mapped_file(self) -> Path:
        return self._cache / "segments" / f"{self.info.id}.arrow"

    @property
    def _index_file(self) -> Path:
        return self._mapped_file.with_suffix(".keys.arrow")

    def _mapped(self) -> pa.Table:
        table = _read_mapped(self._mapped_file, len(self))
        if table is None:
            source = open_parquet(self._store, self.table_name, self.info.id)
            tables = (
                with_added(self.table_name, pa.Table.from_batches([batch])) for batch in source.iter_batches(_BATCH)
            )
            batches = (batch for table in tables for batch in table.to_batches())
            try:
                _write_mapped(self._mapped_file, batches)
            except (pa.ArrowInvalid, OSError, ValueError, KeyError) as error:
                raise damaged(self.table_name, self.info.id, str(error)) from error
            table = _read_mapped(self._mapped_file, len(self))
        return table

    def keep_mapped(self, rows: pa.Table) -> None:
        """Make the memory-mapped copy from the rows that were just written, while they are at hand."""
        if len(self) >= MAPPED_FROM:
            _write_mapped(self._mapped_file, rows.to_batches(max_chunksize=_BATCH))
            _write_mapped(self._index_file, self._index_batches(rows))

    def agrees_with(self, rows: pa.Table) -> bool:
        """Whether a memory-mapped copy, if there is one, holds these rows; one that does not is removed."""
        if not self._mapped_file.is_file():
            return True
        rows = with_added(self.table_name, rows)
        copy, index = _read_mapped(self._mapped_file, len(self)), self._index_file
        agrees = copy is not None and copy.equals(rows)
        if agrees and index.is_file():
            expected = pa.Table.from_batches(self._index_batches(rows))
            agrees = expected.equals(_read_mapped(index, len(expected)) or expected.slice(0, 0))
        if not agrees:
            self._mapped_file.unlink(missing_ok=True)
            index.unlink(missing_ok=True)
        return agrees


def _write_mapped(file: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """An Arrow file of one or more batches of one schema."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{uuid.uuid4().hex}.part")
    batches = iter(batches)
    first = next(batches)
    try:
        with pa.ipc.new_file(str(temporary), first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read_mapped(file: Path, rows: int) -> pa.Table | None:
    """The table in a memory-mapped file, None where that is missing or damaged."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (pa.ArrowInvalid, OSError):
        return None
    return table if table.num_rows == rows else None


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _search_right(
    column: pa.Array, keys: pa.Array, low: Positions | None = None, high: Positions | None = None
) -> Positions:
    """For each key, how many items of the sorted column are not greater than it; looked for from `low` to `high`."""
    low = np.zeros(len(keys), dtype=np.int64) if low is None else low
    high = np.full(len(keys), len(column), dtype=np.int64) if high is None else high
    while (open_ := low < high).any():
        middle = (low + high) // 2
        probe = column.take(pa.array(np.minimum(middle, len(column) - 1)))
        not_greater = pc.less_equal(probe, keys).to_numpy(zero_copy_only=False)
        low = np.where(open_ & not_greater, middle + 1, low)
        high = np.where(open_ & ~not_greater, middle, high)
    return low


def open_parquet(store: Store, table_name: str, identity: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(store.path(segment_key(table_name, identity)), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(table_name, identity, str(error)) from error
    except NotFoundError:
        raise damaged(table_name, identity, "the file is missing") from None


def read_parquet(store: Store, table_name: str, identity: str) -> pa.Table:
    """All rows of a segment, with all columns. Raises DamagedError."""
    try:
        return with_added(table_name, read_stored(store, table_name, identity))
    except (pa.ArrowInvalid, ValueError, KeyError) as error:
        raise damaged(table_name, identity, str(error)) from error


def read_stored(store: Store, table_name: str, identity: str) -> pa.Table:
    """All rows of a segment with the columns that its file has: older ones have not all. Raises DamagedError."""
    try:
        return open_parquet(store, table_name, identity).read()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise damaged(table_name, identity, str(error)) from error


def with_added(table_name: str, rows: pa.Table, columns: Iterable[str] | None = None) -> pa.Table:
    """Rows with all columns of the table, or those asked for; what the table was given since they were written is null.

    Raises KeyError, ValueError or ArrowInvalid where another column is missing or is of another type.
    """
    schema = segment_schema(table_name)
    for name in ADDED[table_name]:
        if name not in rows.column_names:
            rows = rows.append_column(schema.field(name), pa.nulls(len(rows), schema.field(name).type))
    wanted = pa.schema([schema.field(name) for name in columns or schema.names])
    return rows.select(wanted.names).cast(wanted)


def damaged(table_name: str, identity: str, what: str) -> DamagedError:
    return DamagedError(
        f"{segment_key(table_name, identity)} is damaged: {what.splitlines()[0] if what else 'unreadable'}.",
        remedy="Run `dsops verify` for what it held, and put the file back from a backup or another copy of the store.",
    )


def check_segment(
    store: Store, table_name: str, info: SegmentInfo, cache: Path, erased_rows: int | None = None
) -> str | None:
    """None if the stored segment is what its name says, otherwise what is wrong. Reads and hashes every row.

    `erased_rows`: how many of its rows are said to be erased; None where nothing says.
    """
    try:
        raw = store.get(segment_key(table_name, info.id, "json"))
        descriptor = parse_json(raw)
        if canonical_json(descriptor) != raw:
            return "its description is damaged"
        erased = {int(at): bytes.fromhex(digest) for at, digest in descriptor.pop("erased").items()}
        stated = {name: descriptor[name] for name in ("bytes", "rows", "sha256", "table")}
    except NotFoundError:
        return "its description is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its description is damaged"
    try:
        key = segment_key(table_name, info.id)
        checksum = store.digest(key)
        actual = {"bytes": store.size(key), "rows": info.rows, "sha256": checksum, "table": table_name}
        if checksum != stated["sha256"]:
            return "its bytes changed"
        if actual != stated:
            return "its description is damaged"
        rows = open_parquet(store, table_name, info.id).read()
    except NotFoundError:
        return "the file is missing"
    except (DamagedError, pa.ArrowInvalid, OSError) as error:
        return str(error).splitlines()[0]
    if erased_rows is not None and len(erased) != erased_rows:
        return f"{len(erased)} of its rows were erased, but erasures/segments.json says {erased_rows}"
    digests = digests_of(rows)
    if not Segment(store, table_name, info, cache, len(erased)).agrees_with(rows):
        return "a local copy of it was damaged; the copy has been removed and is made again when needed"
    for at in sorted(erased):
        digests.insert(at, erased[at])
    columns = [name for name in rows.column_names if not name.startswith("_")]
    return None if segment_identity(table_name, columns, digests) == info.id else "its rows do not hash to its name"


def digests_of(rows: pa.Table) -> list[bytes]:
    """Digest of each row of a segment table, from its stored salt."""
    encoded = encode_rows(rows.select([name for name in rows.column_names if not name.startswith("_")]))
    return row_digests(encoded, rows["_salt"].to_pylist(), rows["_op"].to_pylist())
