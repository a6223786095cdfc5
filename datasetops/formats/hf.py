"""Hugging Face datasets: folders that `datasets.load_dataset` opens, and sets of the Hub.

Written are Parquet files, one or more for each split, with the images in them: `image` (Image), `label` (ClassLabel) or
`labels` where several classes may hold, `objects` with `bbox` as x, y, width, height in pixels, `category` (ClassLabel) and
`area` as in the Hub's detection sets, `text`, and a card README.md. Outlines, attributes and who made a label stand beside
the boxes; splits keep their names. What is not held: who said the class of an image, or its text, and when.

Read are such folders, those of `Dataset.save_to_disk`, and folders of images with metadata.jsonl or metadata.csv. Class
names come from the features, an image's class from `label` or the only column of classes, boxes from `objects`. Columns
that have no meaning here become metadata. Images inside of Parquet or Arrow files are copied into the repository.

The package `datasets` is needed for the Hub alone.
"""

from __future__ import annotations

from pathlib import Path

from datasetops.errors import FormatError
from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.hf_files import hf_files
from datasetops.formats.hf_rows import read_rows
from datasetops.formats.hf_write import write_hf
from datasetops.formats.listing import Listing
from datasetops.formats.problems import Problems
from datasetops.store.tree import SourceTree


class HuggingFaceFormat:
    name = "hf"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        files = hf_files(source, Listing(source, problems, listed=True))
        if not files:
            raise FormatError(
                f"{source.url} holds no data set of Hugging Face: no Parquet or Arrow file, no metadata.jsonl.",
                remedy="Name the folder with the files, or a data set of the Hub as NAME or NAME@REVISION.",
            )
        return read_rows(source, files, options, problems)

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_hf(data, out)
