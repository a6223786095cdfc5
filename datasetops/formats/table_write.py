"""A version as a table: `table.csv` and `images/`, or whatever .csv, .tsv or .parquet file is named."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasetops.errors import StoreError
from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.export import (
    Losses,
    copy_media,
    has_own_id,
    media_names,
    new_folder,
    objects_of,
    reference_names,
    report,
    rows_of,
    write_file,
)
from datasetops.formats.table_columns import ALIASES, METADATA, PARTS, SAMPLE_COLUMNS, TABLE_SUFFIXES
from datasetops.formats.texts import to_text
from datasetops.records import SAMPLES, canonical_json

_SCALARS = (bool, int, float, str)
_RESERVED = {*PARTS, *ALIASES["id"], *ALIASES["annotator"], "", "sha256"}


def write_table(data: ExportData, out: Path) -> ExportReport:
    """`out` is a folder, or the table's own file. Raises DatasetOpsError where media or files fail."""
    file = out if out.suffix.lower() in TABLE_SUFFIXES else out / "table.csv"
    if file is out and out.exists():
        raise StoreError(f"{out} exists.", remedy="Name a new file; nothing is ever overwritten.")
    losses = Losses("table")
    images = (new_folder(out) if file is not out else out.parent) / "images"
    names = media_names(data.samples, [""] * len(data.samples)) if data.copy_media else reference_names(data.samples)
    if data.copy_media:
        new_folder(images)
        names = [f"images/{name}" for name in names]
    files = copy_media(data, file.parent, names)
    typed = file.suffix.lower() == ".parquet"
    columns = _sample_columns(data, names, typed)
    sample_rows, labels = _labels(data, losses)
    table = {name: [column[row] for row in sample_rows] for name, column in columns.items()} | labels
    if typed:
        _write_parquet(table, file)
    else:
        _write_csv(table, file)
    if not any(columns.get("id", ())):
        losses.sample_ids(data)
    held = {*SAMPLE_COLUMNS, METADATA}
    losses.columns(data, samples=held, annotations={"kind", "label", "actor", "x1", "geometry", "text"})
    return report(files + 1, losses, data)


def _sample_columns(data: ExportData, names: Sequence[str], typed: bool) -> dict[str, list[Any]]:
    """A column for each part and each key of the metadata, in the order of the samples."""
    rows = rows_of(data.samples)
    metadata = objects_of(data.samples, "metadata")
    paths: list[str | None] = list(names)
    ids: list[str | None] = []
    for index, (sample_id, digest) in enumerate(zip(rows["sample_id"], rows["sha256"], strict=True)):
        if digest is None:
            listed = metadata[index].get("file_name")
            paths[index] = metadata[index].pop("file_name") if isinstance(listed, str) and listed else None
        ids.append(sample_id if has_own_id(sample_id, digest) and sample_id != paths[index] else None)
    columns: dict[str, list[Any]] = {"path": paths}
    if any(ids):
        columns["id"] = ids
    columns |= {part: rows[part] for part in SAMPLE_COLUMNS if any(value is not None for value in rows[part])}
    own = _own_columns(metadata, typed)
    columns |= {key: [values.pop(key, None) for values in metadata] for key in own}
    if any(metadata):
        columns[METADATA] = [canonical_json(values).decode() if values else None for values in metadata]
    return columns


def _own_columns(metadata: Sequence[dict[str, Any]], typed: bool) -> list[str]:
    """Keys that can be columns: of no part, without nulls, for Parquet all of one scalar type."""
    types: dict[str, set[type]] = {}
    for values in metadata:
        for key, value in values.items():
            types.setdefault(key, set()).add(type(value))
    return [
        key
        for key, found in sorted(types.items())
        if key.strip().lower() not in _RESERVED
        and type(None) not in found
        and (not typed or (len(found) == 1 and found <= set(_SCALARS)))
    ]


def _labels(data: ExportData, losses: Losses) -> tuple[list[int], dict[str, list[str | None]]]:
    """For each row of the table its sample, and the columns label and, where it is needed, annotator."""
    rows = rows_of(data.annotations.select(["sample_id", "kind", "label", "actor"]))
    given: dict[str, dict[str | None, list[str]]] = {}
    other = 0
    for sample_id, kind, label, actor in zip(*rows.values(), strict=True):
        if kind == "classification" and label is not None:
            given.setdefault(sample_id, {}).setdefault(actor, []).append(label)
        else:
            other += 1
    losses.add(other, "annotations that are no classifications are not written: table has only labels")
    several = any(len(labels) > 1 for actors in given.values() for labels in actors.values())
    joined = data.schema.multi_label and not any("|" in label for label in set(rows["label"]) - {None})
    by_annotator = any(rows["actor"]) or (several and not joined)
    sample_rows: list[int] = []
    labels_column: list[str | None] = []
    annotators: list[str | None] = []
    for row, sample_id in enumerate(data.samples["sample_id"].to_pylist()):
        for actor, labels in given.get(sample_id, {None: []}).items():
            cells: list[str | None] = list(labels) or [None]
            for cell in ["|".join(labels)] if joined and labels else cells:
                sample_rows.append(row)
                labels_column.append(cell)
                annotators.append(actor)
    columns = {"label": labels_column} | ({"annotator": annotators} if by_annotator else {})
    return sample_rows, columns


def _write_csv(table: dict[str, list[Any]], file: Path) -> None:
    texts = []
    for name, column in table.items():
        plain = name in PARTS
        texts.append([_cell(value, plain) for value in column])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*texts, strict=True))
    write_file(file, buffer.getvalue().encode())


def _cell(value: Any, plain: bool) -> str:
    if value is None:
        return ""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return value if plain and isinstance(value, str) else to_text(value)


def _write_parquet(table: dict[str, list[Any]], file: Path) -> None:
    arrays = {
        name: pa.array(column, SAMPLES.field(name).type if name in SAMPLE_COLUMNS else None)
        for name, column in table.items()
    }
    for name, array in arrays.items():
        if pa.types.is_null(array.type):
            arrays[name] = array.cast(pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    write_file(file, sink.getvalue().to_pybytes())
