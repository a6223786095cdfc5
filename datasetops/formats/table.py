"""Tables of images: CSV, TSV or Parquet, a row for each image or for each image and annotator.

Columns: `path` (or image, file, filename, uri), `label` (or class, category), `id` (or sample_id, image_id),
`annotation_id`, `annotator` (or actor), `split`, `group`, `origin`, `license`, `consent`, `expires_at`, `captured_at`,
`width`, `height`. Any other is metadata of the image, and so are the members of an object in a column `metadata`.
`ReadOptions.columns` names columns that are called otherwise.

An empty cell says nothing. A row that names a sample of the repository by its id without a path, or by its uri, or an
annotation by `annotation_id`, corrects that one: what the row does not say stays. In a table of findings, as
`dsops findings --out` writes it, only sample_id, uri, annotation_id and columns that were added count.

A CSV's metadata is read as a value only if that is written back as the same text: `65` and `0.139` are numbers, `007`,
`013M` and `1.50` texts. Where the schema allows several classes they are divided by `|`, or have a row each. With a
column `annotator` an image may stand in several rows. Held are classifications with their annotators; other annotations are lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import json_text, parse_time, parsed
from datasetops.formats.listing import Listing, listings
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import (
    METADATA,
    SAMPLE_COLUMNS,
    SIDES,
    TIMES,
    is_worklist,
    parts_of,
    without_findings,
)
from datasetops.formats.table_read import read_table, table_file
from datasetops.formats.table_rows import Rows, Subjects, subjects
from datasetops.formats.table_write import write_table
from datasetops.formats.texts import from_text, to_text
from datasetops.store.tree import SourceTree


class TableFormat:
    name = "table"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        listing, images = listings(source, options.images, problems, listed=True)
        path = table_file(source, listing)
        raw = read_table(source, path, problems)
        worklist = is_worklist(raw.columns)
        if worklist:
            raw = replace(raw, columns=without_findings(raw.columns, options.columns))
        rows = Rows(
            raw,
            parts_of(raw.columns, options.columns, source.uri(path)),
            problems,
            worklist,
            options.schema.multi_label,
        )
        within = [path.removeprefix(f"{images.tree.url}/") for path in rows.paths if path is not None]
        images.expect([path for path in within if not path.startswith("/")])
        about = subjects(rows, options.schema, images, options.known)
        media = _media(rows, about, images, options)
        result = parsed(_samples(rows, about, media, options.split), _annotations(rows, about, media), problems)
        result.corrects = frozenset(about.samples.values())
        result.held = frozenset(about.keys[row] for row in about.held)
        if "label" not in rows.parts:
            result.notes.append(f"{path}: no label column: 0 annotations")
        text = next((name for name in raw.columns if name.strip().lower() == "text"), None)
        if text is not None and "text" in options.schema.kinds and text not in rows.parts.values():
            result.notes.append(
                f"{path}: the column {text!r} is kept as metadata, tables hold classes; texts of images come in as "
                "`caption` in the annotations of a COCO file"
            )
        return result

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_table(data, out)


def _media(rows: Rows, about: Subjects, images: Listing, options: ReadOptions) -> dict[int, str | None]:
    """First row → path in the image tree or an absolute one.

    None for a sample that the repository has, and where nothing is looked up. Images that are not there
    are left out; all are kept without images if none is there and the repository has none.
    """
    splits = rows.texts("split")
    folder = rows.raw.path.rpartition("/")[0]
    media: dict[int, str | None] = {}
    for row in about.keys:
        own = splits[row] or options.split
        folders = (folder, "images", *((f"images/{own}", own) if own else ()))
        path = rows.paths[row] if row not in about.samples else None
        if path is None or path.startswith("/"):
            media[row] = path
        else:
            media[row] = images.find(path, folders, split=own) if images.images else None
    listed = [row for row in about.keys if row not in about.samples and rows.paths[row] is not None]
    if not any(media.values()) and not (options.known is not None and options.known.has_images):
        if listed:
            images.warn_without_images(len(about.keys), path=rows.raw.path)
        return media
    counts = Counter(about.first)
    for row in listed:
        if media[row] is None:
            path = rows.paths[row] or ""
            rows.reject(row, images.why_not(path), given=path, count=counts[row])
            del media[row]
    return media


def _samples(rows: Rows, about: Subjects, media: Mapping[int, str | None], split: str | None) -> dict[str, list[Any]]:
    kept = list(media)
    paths, numbers = rows.paths, rows.ids
    without_media = not any(media.values())
    columns: dict[str, list[Any]] = {
        "key": [about.keys[row] for row in kept],
        "media": list(media.values()),
        "sample_id": [
            about.samples.get(row) or numbers[row] or (paths[row] if without_media else None) for row in kept
        ],
        "split": [split] * len(kept),
    }
    metadata: list[dict[str, Any]] = [{} for _ in kept]
    for name in rows.raw.columns:
        if name not in rows.parts.values():
            values = rows.raw.values(name)
            for index, row in enumerate(kept):
                if values[row] is not None:
                    metadata[index][name] = values[row]
    for part in SAMPLE_COLUMNS:
        if part in rows.parts:
            cells = rows.raw.columns[rows.parts[part]]
            found = [_sample_value(rows, row, part, cells[row], metadata[index]) for index, row in enumerate(kept)]
            columns[part] = [value or split for value in found] if part == "split" else found
    if METADATA in rows.parts:
        for index, row in enumerate(kept):
            _add_metadata(rows, row, metadata[index])
    if without_media:
        for index, row in enumerate(kept):
            if paths[row] is not None and row not in about.samples:
                metadata[index]["file_name"] = paths[row]
    columns["metadata"] = [json_text(values) for values in metadata]
    return columns


def _sample_value(rows: Rows, row: int, part: str, cell: Any, metadata: dict[str, Any]) -> Any:
    """The cell as its column's type. One that is not of that type is kept as metadata."""
    if cell is None or cell != cell:
        return None
    if part in SIDES:
        value = from_text(cell) if isinstance(cell, str) else cell
        if type(value) in (int, float) and 0 < value < 2**31 and value == int(value):
            return int(value)
        fault = "is not a number of pixels"
    elif part in TIMES:
        time = parse_time(cell) if isinstance(cell, str) else cell if isinstance(cell, datetime) else None
        if time is not None:
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        fault = "is not a time such as 2024-05-31 or 2024-05-31T13:45:00Z"
    else:
        return cell if isinstance(cell, str) else to_text(cell)
    metadata[rows.parts[part]] = cell if isinstance(cell, str | int | float) else str(cell)
    rows.warn(row, f"{part} {str(cell)!r} {fault}; kept as metadata", given=str(cell))
    return None


def _add_metadata(rows: Rows, row: int, metadata: dict[str, Any]) -> None:
    cell = rows.raw.columns[rows.parts[METADATA]][row]
    value = from_text(cell) if isinstance(cell, str) else cell
    if isinstance(value, dict):
        metadata.update(value)
    elif value is not None:
        metadata[rows.parts[METADATA]] = value


def _annotations(rows: Rows, about: Subjects, media: Mapping[int, str | None]) -> dict[str, list[Any]]:
    names = ("key", "annotation_id", "kind", "label", "actor")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    seen: set[tuple[int, str | None, str | None, str]] = set()
    for row, annotator in enumerate(rows.texts("annotator")):
        sample = about.first[row]
        if sample is None or sample not in media:
            continue
        own = rows.annotation_ids[row]
        for name in about.labels[row]:
            if (sample, own, annotator, name) not in seen:
                seen.add((sample, own, annotator, name))
                values = (about.keys[sample], own, about.kinds.get(row, "classification"), name, annotator)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
            elif not rows.worklist:
                who = (
                    f"annotator {annotator!r} gave {name!r} to this image" if annotator else f"this image has {name!r}"
                )
                rows.reject(row, f"{who} already", given=name)
    return columns
