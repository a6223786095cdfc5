"""Canonical row bytes, salts, row digests and segment identities. docs/format.md is the specification, with test vectors.

A cell is a little-endian uint32 length and that many bytes (0xFFFFFFFF and none for null); strings are UTF-8, numbers
and timestamps 8 bytes little-endian. A row's content is its cells in column order, its provenance columns last.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.records import PROVENANCE_COLUMNS, one_array

SALT_BYTES: Final = 16
INSERT, UPDATE, DELETE = 1, 2, 3
_NULL: Final = 0xFFFFFFFF
_BLOCK: Final = 65_536  # rows encoded at a time: bounds memory and keeps 32-bit offsets safe


@dataclass(frozen=True)
class EncodedRows:
    """Byte forms of rows: `content` decides whether two rows say the same, `provenance` tells where a row came from."""

    content: list[bytes]
    provenance: list[bytes]


def encode_rows(table: pa.Table) -> EncodedRows:
    """Canonical bytes of each row. Raises ValueError for NaN and infinities, naming column and row."""
    content: list[bytes] = []
    provenance: list[bytes] = []
    late = [name for name in table.column_names if name in PROVENANCE_COLUMNS]
    early = [name for name in table.column_names if name not in PROVENANCE_COLUMNS]
    for start in range(0, table.num_rows, _BLOCK):
        block = table.slice(start, _BLOCK)
        content += _join([one_array(block[name]) for name in early], early)
        provenance += _join([one_array(block[name]) for name in late], late) if late else [b""] * block.num_rows
    return EncodedRows(content, provenance)


def salts(rows: EncodedRows, key: bytes) -> list[bytes]:
    """One salt a row, derived from the repository's secret key, so that equal content has an equal salt.

    Stored beside the row, it doubles as a fingerprint for comparing rows without reading them.
    """
    return [sha256(key + content).digest()[:SALT_BYTES] for content in rows.content]


def row_digests(rows: EncodedRows, row_salts: list[bytes], ops: list[int]) -> list[bytes]:
    """SHA-256 of salt, operation (one byte: 1 insert, 2 update, 3 delete), content and provenance."""
    op_byte = {op: bytes([op]) for op in (INSERT, UPDATE, DELETE)}
    return [
        sha256(salt + op_byte[op] + content + origin).digest()
        for salt, op, content, origin in zip(row_salts, ops, rows.content, rows.provenance, strict=True)
    ]


def segment_identity(table_name: str, columns: list[str], digests: list[bytes]) -> str:
    """Hex SHA-256 of a header that names the table and its columns, and the row digests in key order."""
    header = f"dsops-segment-1\n{table_name}\n{','.join(columns)}\n".encode()
    return sha256(header + b"".join(digests)).hexdigest()


def _join(arrays: list[pa.Array], names: list[str]) -> list[bytes]:
    parts: list[pa.Array] = []
    for array, name in zip(arrays, names, strict=True):
        cells = _cell_bytes(array, name)
        lengths = np.where(
            array.is_null().to_numpy(zero_copy_only=False),
            _NULL,
            pc.binary_length(cells).to_numpy(zero_copy_only=False),
        )
        parts += [_fixed(lengths.astype("<u4")), cells]
    joined = pc.binary_join_element_wise(*parts, b"")
    result: list[bytes] = joined.to_pylist()
    return result


def _cell_bytes(array: pa.Array, name: str) -> pa.Array:
    """Value bytes as a binary array without nulls (null becomes no bytes)."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return pc.fill_null(array.cast(pa.binary()), b"")
    nulls = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(array.type):
        floats = array.fill_null(0.0).to_numpy(zero_copy_only=False).astype("<f8") + 0.0  # -0.0 becomes 0.0
        if not np.isfinite(floats).all():
            raise ValueError(f"column {name!r}: row {int(np.argmin(np.isfinite(floats)))} is not a finite number")
        return _fixed(floats, nulls)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    return _fixed(array.fill_null(0).to_numpy(zero_copy_only=False).astype("<i8"), nulls)


def _fixed(values: npt.NDArray[np.generic], nulls: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """A binary array whose items are the raw bytes of the values; nothing where `nulls` is set."""
    widths = np.full(len(values), values.itemsize, dtype=np.int32)
    if nulls is not None and nulls.any():
        widths[nulls] = 0
        values = values[~nulls]
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.binary(), len(widths), buffers)
