"""Tables to files that people and other programs open, and lists of samples from them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from datasetops.manifest import Version

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


def chosen_samples(version: Version, batch: Path | None, where: str | None) -> list[str]:
    """Ids of the samples that a file lists or a condition chooses, in their order; all of them without either."""
    if batch is not None and where is not None:
        raise ValueError("--batch and --where: give one of them")
    if where is not None:
        return version.where(where)
    if batch is None:
        ids: list[str] = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
        return ids
    from datasetops.errors import FormatError

    try:
        lines = batch.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FormatError(
            f"{batch} cannot be read: {reason}.", remedy="Name a CSV file with a column sample_id."
        ) from None
    rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    column = header.index("sample_id") if "sample_id" in header else None
    if column is None and len(header) > 1:
        raise FormatError(f"{batch}: line 1: there is no column sample_id.", remedy="Name it in the first line.")
    return [row[column or 0] for row in rows[column is not None :] if len(row) > (column or 0) and row[column or 0]]


def read_chances(version: Version, file: Path | None) -> dict[str, Any] | None:
    """Class probabilities (K,) by sample id, in the order of the version's classes, from a table of a model's answers."""
    if file is None:
        return None
    from datasetops.audits.labels.probabilities import for_version, read_probabilities

    frame = for_version(read_probabilities(file), version.samples(), version.schema).dropna()
    return dict(zip(frame.index, frame.to_numpy(dtype=float), strict=True))
