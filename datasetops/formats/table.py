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
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import json_text, parse_time, parsed
from datasetops.formats.listing import Listing, listings, safe_name
from datasetops.formats.problems import Problems
from datasetops.formats.table_columns import METADATA, SAMPLE_COLUMNS, SIDES, TEXTS, TIMES, parts_of
from datasetops.formats.table_read import TABLE_SUFFIXES, RawTable, read_table, table_file
from datasetops.formats.table_write import write_table
from datasetops.formats.texts import to_text
from datasetops.schema import LabelSchema
from datasetops.store.source import SourceTree


class TableFormat:
    name = "table"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        listing, images = listings(source, options.images, problems)
        path = table_file(source, listing.with_suffix(*TABLE_SUFFIXES))
        raw = read_table(source, path, problems)
        parts = parts_of(raw.columns, options.columns, source.uri(path))
        rows = _Rows(raw, parts, problems)
        first = rows.first_of_each_image()
        media = _media(rows, sorted(set(first.values())), images, options.split)
        samples = _samples(rows, [row for row in media], media, options.split)
        annotations = _annotations(rows, {key: row for key, row in first.items() if row in media}, options.schema)
        return parsed(samples, annotations, problems)

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_table(data, out)
