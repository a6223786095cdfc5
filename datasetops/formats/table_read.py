"""CSV, TSV and Parquet files as columns, before anything is made of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasetops.errors import FormatError
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import TABLE_SUFFIXES
from datasetops.formats.texts import from_text
from datasetops.store.tree import SourceTree


@dataclass(frozen=True)
class RawTable:
    """Columns of equal length in file order. An empty cell is None; a CSV's cells are texts.

    `lines` gives each row's line in the file, counted from 1 (the header's), or its row in a Parquet file, from 0.
    """

    path: str
    columns: dict[str, list[Any]]
    lines: Sequence[int]

    @property
    def typed(self) -> bool:
        return self.path.lower().endswith(".parquet")

    def where(self, row: int) -> str:
        return f"{self.path}, {'row' if self.typed else 'line'} {self.lines[row]}"

    def values(self, name: str) -> list[Any]:
        """A column's values as JSON knows them; None for nothing, and for NaN."""
        column = self.columns[name]
        if self.typed:
            return [_json_value(cell) for cell in column]
        plain = {cell: from_text(cell) for cell in set(column) - {None}}
        return [plain.get(cell) for cell in column]


def read_table(source: SourceTree, path: str, problems: Problems) -> RawTable:
    """Raises FormatError for a file that is no such table, has no rows, or names a column twice."""
    table = _read_parquet(source, path) if path.lower().endswith(".parquet") else _read_csv(source, path, problems)
    if not table.lines and not problems.rejected:
        raise FormatError(f"{source.uri(path)} has no rows: the set is empty.")
    return table


def _read_csv(source: SourceTree, path: str, problems: Problems) -> RawTable:
    text = _decoded(source, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, path), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1  # the line on which a row begins: cells may hold line breaks
    try:
        header = _names(next(reader, []), source.uri(path))
        start = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                rows.append(row)
                lines.append(start)
            elif any(row):
                problems.reject(f"{path}, line {start}: {len(row)} cells, but {len(header)} columns", path=path)
            start = reader.line_num + 1
    except csv.Error as error:
        raise FormatError(
            f"{source.uri(path)}, line {start}: broken CSV: {error}.", remedy="Mend or export it again."
        ) from error
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return RawTable(path, {n: [cell or None for cell in c] for n, c in zip(header, columns, strict=True)}, lines)


def _decoded(source: SourceTree, path: str) -> str:
    data = source.read(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{source.uri(path)}, line {line}: not UTF-8.", remedy="Save the table as UTF-8.") from error


def _delimiter(text: str, path: str) -> str:
    """Tabs in a .tsv; elsewhere whichever of comma, semicolon and tab the header has most of."""
    if path.lower().endswith(".tsv"):
        return "\t"
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _names(header: list[str], uri: str) -> list[str]:
    if not any(name.strip() for name in header):
        raise FormatError(f"{uri} has no header.", remedy="Name the columns in the first line, for example path,label.")
    names = [name if name.strip() else f"column {index}" for index, name in enumerate(header, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{uri}: the column {twice[0]!r} stands there twice.", remedy="Rename one of the two.")
    return names


def _read_parquet(source: SourceTree, path: str) -> RawTable:
    try:
        # In this thread: one of Arrow's own that outlives a failing command aborts the process.
        table = pq.ParquetFile(pa.BufferReader(source.read(path))).read(use_threads=False)
        names = _names(table.column_names, source.uri(path))
        _refuse_bytes(table.schema, source.uri(path))
        columns = {name: column.to_pylist() for name, column in zip(names, table.columns, strict=True)}
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: texts that are not UTF-8
        raise FormatError(f"{source.uri(path)} is not a Parquet file: {error}.", remedy="Fetch it again.") from error
    return RawTable(path, columns, range(len(table)))


def _refuse_bytes(schema: pa.Schema, uri: str) -> None:
    for field in schema:
        if _holds_bytes(field.type):
            raise FormatError(
                f"{uri}: the column {field.name!r} holds bytes, such as of images, which are not read from tables.",
                remedy="Write the images to files, and their paths into a column `path`.",
            )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def table_file(source: SourceTree, listing: Listing) -> str:
    """The table among the top files of a folder, or the file that was named. Raises FormatError."""
    if source.single_file is not None:
        if not source.single_file.lower().endswith(TABLE_SUFFIXES):
            raise FormatError(
                f"{source.uri(source.single_file)} is no table.", remedy=f"Name a file of {', '.join(TABLE_SUFFIXES)}."
            )
        return source.single_file
    tables = [path for path in listing.with_suffix(*TABLE_SUFFIXES) if "/" not in path]
    usual = [name for name in tables if PurePosixPath(name).stem == "table"]
    if len(tables) == 1 or len(usual) == 1:
        return usual[0] if usual else tables[0]
    found = f"several: {', '.join(tables)}" if tables else "none"
    raise FormatError(f"{source.url} should hold one table and holds {found}.", remedy="Name the table's file.")
