"""COCO annotation files: boxes, polygons, RLE masks, crowds, keypoints, captions (Lin et al. 2014, arXiv:1405.0312).

Boxes are `[x, y, width, height]` there and xyxy here; the exporter writes a width that gives the very same x2 back.
What COCO has no field for is written below a key `dsops` of each image and annotation, which other tools ignore; so
nothing is lost but times of creation and, in the last bit, a box that no width can express. An image's own `split`, `group`,
`origin`, `consent`, `expires_at` and `captured_at` are read as columns of a table are; any field that has no meaning is metadata.

A folder may hold several annotation files, such as one for each split (`annotations/instances_train2017.json` with the
images in `train2017/`); a split named only by the file name gives way to the one that the caller states.

Times without a zone are UTC. The image's own number is kept as `image_id` in the metadata, its file name as `file_name`
where the image is not at hand.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import FormatError
from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.coco_annotations import read_annotations
from datasetops.formats.coco_file import LISTS, CocoFile
from datasetops.formats.coco_images import read_images
from datasetops.formats.coco_write import write_coco
from datasetops.formats.jsonfile import Document, load_json
from datasetops.formats.listing import Listing, listings
from datasetops.formats.problems import Problems
from datasetops.formats.splits import split_in_name
from datasetops.store.tree import SourceTree

_READ = {*LISTS, "info", "licenses", "type"}


class CocoFormat:
    name = "coco"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        alone = source.single_file is not None  # in a folder of anything
        listing, images = listings(source, options.images, problems, listed=alone)
        documents = _annotation_files(source, listing, problems)
        samples: dict[str, pa.Table] = {}
        annotations: list[pa.Table] = []
        for path, (document, nonfinite) in documents.items():
            prefix = f"{path}:" if len(documents) > 1 else ""
            split = options.split or _split(path)
            file = CocoFile(path, document, nonfinite, prefix, split, images, options.schema, problems)
            for name in sorted(document.keys() - _READ):
                file.warn(f"{name!r} is not part of COCO and was not read", severity="low")
            rows = read_images(file)
            samples[path] = rows.table
            annotations.append(read_annotations(file, rows))
        _refuse_shared_images(samples, source.url)
        return Parsed(
            pa.concat_tables(samples.values()), pa.concat_tables(annotations), problems.findings, problems.rejected
        )

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_coco(data, out)


def _annotation_files(source: SourceTree, files: Listing, problems: Problems) -> dict[str, Document]:
    """The annotation files by path: the one that was named, or all of the folder."""
    if source.single_file is not None:
        document = load_json(source, source.single_file)
        _check_document(document.value, source.uri(source.single_file))
        return {source.single_file: document}
    found: dict[str, Document] = {}
    for path in files.with_suffix(".json", ".json.gz"):
        document = load_json(source, path)
        if isinstance(document.value, dict) and all(isinstance(document.value.get(name), list) for name in LISTS):
            found[path] = document
        else:
            problems.warn(f"{path}: not a COCO annotation file; left alone", path=path, severity="low")
    if not found:
        raise FormatError(f"{source.url} holds no COCO annotation file.", remedy="Name the .json file itself.")
    return found


def _check_document(document: object, uri: str) -> None:
    if isinstance(document, list):
        raise FormatError(
            f"{uri} is a list: a COCO results file, not annotations.",
            remedy="Name the annotation file, which has images, annotations and categories.",
        )
    for name in LISTS:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            raise FormatError(
                f"{uri} has no list {name!r}: it is not a COCO annotation file.",
                remedy="Name a file with the lists images, annotations and categories.",
            )


def _split(path: str) -> str | None:
    """By the file's name, else by that of its folder: `train/_annotations.coco.json`."""
    folder, _, name = path.rpartition("/")
    return split_in_name(name) or split_in_name(folder.rpartition("/")[2])


def _refuse_shared_images(tables: dict[str, pa.Table], uri: str) -> None:
    """Files of one folder are parts of a set, not revisions of each other."""
    owner: dict[str, str] = {}
    for path, samples in tables.items():
        for name in pc.coalesce(samples["media"], samples["sample_id"]).to_pylist():
            if owner.setdefault(name, path) != path:
                raise FormatError(
                    f"{uri}: {owner[name]} and {path} both list the image {name!r}.", remedy="Name the one to ingest."
                )
