"""Tables of images: CSV, TSV or Parquet, a row for each image or for each image and annotator.

Columns: `path` (or image, file, filename, uri), `label` (or class, category), `id` (or sample_id, image_id), `annotator`
(or actor), `split`, `group`, `origin`, `license`, `consent`, `expires_at`, `captured_at`, `width`, `height`. Any other is
metadata of the image, and so are the members of an object in a column `metadata`. `ReadOptions.columns` names columns
that are called otherwise.

A CSV's metadata is read as a value only if that is written back as the same text: `65` and `0.139` are numbers, `007`,
`013M` and `1.50` texts. Where the schema allows several classes they are divided by `|`. With a column `annotator` an
image may stand in several rows. Held are classifications with their annotators; other annotations are lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import json_text, parse_time, parsed
from datasetops.formats.listing import Listing, listings, safe_name
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import METADATA, SAMPLE_COLUMNS, SIDES, TIMES, parts_of
from datasetops.formats.table_read import RawTable, read_table, table_file
from datasetops.formats.table_write import write_table
from datasetops.formats.texts import from_text, to_text
from datasetops.schema import LabelSchema
from datasetops.store.source import SourceTree


class TableFormat:
    name = "table"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        listing, images = listings(source, options.images, problems)
        path = table_file(source, listing)
        raw = read_table(source, path, problems)
        rows = _Rows(raw, parts_of(raw.columns, options.columns, source.uri(path)), problems)
        first = _first_rows(rows)
        media = _media(rows, first, images, options.split)
        annotations = _annotations(rows, [row if row in media else None for row in first], options.schema)
        return parsed(_samples(rows, media, options.split), annotations, problems)

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_table(data, out)


@dataclass(frozen=True)
class _Rows:
    raw: RawTable
    parts: Mapping[str, str]
    problems: Problems

    def texts(self, part: str) -> list[str | None]:
        """A part's cells without spaces around them; None for empty ones and for a part that the table lacks."""
        if part not in self.parts:
            return [None] * len(self.raw.lines)
        cells = self.raw.columns[self.parts[part]]
        return [
            None if cell is None else (cell if type(cell) is str else to_text(cell)).strip() or None for cell in cells
        ]

    def reject(self, row: int, message: str, *, given: str | None = None, count: int = 1) -> None:
        self.problems.reject(f"{self.raw.where(row)}: {message}", path=self.raw.path, given=given, count=count)

    def warn(self, row: int, message: str, *, given: str | None = None) -> None:
        self.problems.warn(f"{self.raw.where(row)}: {message}", path=self.raw.path, given=given)


def _first_rows(rows: _Rows) -> list[int | None]:
    """For each row the first one of the same image, None where the row is at fault."""
    seen: dict[str, int | None] = {}
    owners: dict[str, int] = {}
    first: list[int | None] = []
    for row, (path, number) in enumerate(zip(rows.texts("path"), rows.texts("id"), strict=True)):
        key = path or number
        if key is None:
            rows.reject(row, "neither a path nor an id")
            first.append(None)
            continue
        if key not in seen:
            usable = path is None or safe_name(path, rows.problems, path=rows.raw.path, where=rows.raw.where(row))
            if usable and number is not None and owners.setdefault(number, row) != row:
                rows.reject(
                    row, f"the id {number!r} is that of line {rows.raw.lines[owners[number]]} too", given=number
                )
                usable = False
            seen[key] = row if usable else None
        elif "annotator" not in rows.parts:
            if (other := seen[key]) is not None:
                message = f"{key!r} stands in line {rows.raw.lines[other]} already; that one is kept"
                rows.reject(row, message, given=key)
            first.append(None)
            continue
        first.append(seen[key])
    return first


def _media(rows: _Rows, first: Sequence[int | None], images: Listing, split: str | None) -> dict[int, str | None]:
    """First row → path in the image tree, without the images that are not there; all are kept if not one is there."""
    paths, splits = rows.texts("path"), rows.texts("split")
    folder = rows.raw.path.rpartition("/")[0]
    firsts = list(dict.fromkeys(row for row in first if row is not None))
    media: dict[int, str | None] = {}
    for row in firsts:
        own = splits[row] or split
        folders = (folder, "images", *((f"images/{own}", own) if own else ()))
        path = paths[row]
        media[row] = images.find(path, folders, split=own) if path is not None and images.images else None
    if not any(media.values()):
        if any(paths):
            images.warn_without_images(len(firsts), path=rows.raw.path)
        return media
    counts = Counter(first)
    for row in firsts:
        if media[row] is None and paths[row] is not None:
            message = f"{paths[row]!r} is listed, but is not below {images.tree.url}"
            rows.reject(row, message, given=paths[row], count=counts[row])
            del media[row]
    return media


def _samples(rows: _Rows, media: Mapping[int, str | None], split: str | None) -> dict[str, list[Any]]:
    kept = list(media)
    paths, numbers = rows.texts("path"), rows.texts("id")
    without_media = not any(media.values())
    columns: dict[str, list[Any]] = {
        "key": [paths[row] or numbers[row] for row in kept],
        "media": list(media.values()),
        "sample_id": [numbers[row] or (paths[row] if without_media else None) for row in kept],
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
            if paths[row] is not None:
                metadata[index]["file_name"] = paths[row]
    columns["metadata"] = [json_text(values) for values in metadata]
    return columns


def _sample_value(rows: _Rows, row: int, part: str, cell: Any, metadata: dict[str, Any]) -> Any:
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


def _add_metadata(rows: _Rows, row: int, metadata: dict[str, Any]) -> None:
    cell = rows.raw.columns[rows.parts[METADATA]][row]
    value = from_text(cell) if isinstance(cell, str) else cell
    if isinstance(value, dict):
        metadata.update(value)
    elif value is not None:
        metadata[rows.parts[METADATA]] = value


def _annotations(rows: _Rows, first: Sequence[int | None], schema: LabelSchema) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"key": [], "kind": [], "label": [], "actor": []}
    paths, numbers = rows.texts("path"), rows.texts("id")
    unknown: dict[str, list[int]] = {}
    seen: set[tuple[int, str | None, str]] = set()
    for row, (cell, annotator) in enumerate(zip(rows.texts("label"), rows.texts("annotator"), strict=True)):
        sample = first[row]
        if cell is None or sample is None:
            continue
        names = (
            [name.strip() for name in cell.split("|")] if schema.multi_label and schema.find(cell) is None else [cell]
        )
        for name in dict.fromkeys(filter(None, names)):
            if schema.find(name) is None:
                unknown.setdefault(name, []).append(row)
            elif (sample, annotator, name) in seen:
                rows.reject(row, f"annotator {annotator!r} gave {name!r} to this image already", given=name)
            else:
                seen.add((sample, annotator, name))
                values = (paths[sample] or numbers[sample], "classification", name, annotator)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    for name, found in unknown.items():
        where = rows.raw.where(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        rows.problems.unknown_class(name, schema, path=rows.raw.path, where=where, count=len(found))
    return columns
