"""Tables to files that people and other programs open."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("csv", "json", "parquet")


def write_table(rows: pa.Table, out: Path | None, format: str | None = None) -> None:
    """Write rows to a file, by its suffix unless `format` says otherwise; to stdout without a file."""
    chosen = format or (out.suffix.removeprefix(".") if out else "csv")
    if chosen not in FORMATS:
        raise ValueError(f"expected a file that ends in .csv, .json or .parquet; got {out}")
    if chosen == "parquet":
        import pyarrow.parquet as pq

        if out is None:
            raise ValueError("Parquet is not text: name a file with --out")
        pq.write_table(rows, out, compression="zstd")
        return
    stream = out.open("w", encoding="utf-8", newline="") if out else sys.stdout
    try:
        if chosen == "json":
            json.dump(rows.to_pylist(), stream, indent=2, ensure_ascii=False, default=str)
            stream.write("\n")
        else:
            writer = csv.writer(stream)
            writer.writerow(rows.column_names)
            writer.writerows(row.values() for row in rows.to_pylist())
    finally:
        if out:
            stream.close()
