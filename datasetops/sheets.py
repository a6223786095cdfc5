"""Tables that people bring: CSV files that they fill in, and tables of numbers from their own programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasetops.errors import FormatError

if TYPE_CHECKING:
    import pandas as pd


def read_csv_rows(path: Path, columns: Sequence[str], remedy: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The line that each row ends on, and its cells by column, without spaces around them; "" where a row is short.

    Cells are parted by whichever of comma, semicolon and tab the header has most of. Raises FormatError with `remedy`
    for a file that cannot be read, is not UTF-8 text, is broken CSV, or lacks one of the `columns`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FormatError(f"{path} cannot be read: {reason}.", remedy=remedy) from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if lacking := next((column for column in columns if column not in names), None):
            raise FormatError(f"{path}: line 1: there is no column {lacking}.", remedy=remedy)
        for row in reader:
            if any(row):
                cells = [cell.strip() for cell in row] + [""] * (len(names) - len(row))
                yield reader.line_num, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise FormatError(f"{path}: line {reader.line_num}: broken CSV: {error}.", remedy=remedy) from None


def read_frame(path: Path, remedy: str = "Give a CSV or Parquet table.", **options: Any) -> pd.DataFrame:
    """A Parquet table by the name's ending, else a CSV, which is read with pandas' `options`. Raises FormatError with
    `remedy` for a file that cannot be read."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            table.validate(full=True)  # texts that are not UTF-8
            rows: pd.DataFrame = table.to_pandas()
        else:
            rows = pd.read_csv(path, **options)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:  # of damaged files
        raise FormatError(f"{path}: {(str(error) or type(error).__name__).splitlines()[0]}", remedy=remedy) from None
    return rows


def as_numbers(column: pd.Series[Any]) -> pd.Series[float]:
    """A column (N,) as float64; NaN for what is no number, infinity for one that is too large."""
    import pandas as pd

    try:
        return pd.to_numeric(column, errors="coerce").astype("float64")
    except OverflowError:
        return column.map(_number).astype("float64")


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")
