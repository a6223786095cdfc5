"""COCO annotation files: boxes, polygons, RLE masks, crowds, keypoints, captions (Lin et al. 2014, arXiv:1405.0312).

Boxes are `[x, y, width, height]` there and xyxy here; the exporter writes a width that gives the very same x2 back.
What COCO has no field for is written below a key `dsops` of each image and annotation, which other tools ignore; so
nothing is lost but times of creation and, in the last bit, a box that no width can express.

A folder holds one annotation file for each split (`annotations/instances_train2017.json`); a split named only by the
file name gives way to the one that the caller states. Times without a zone are UTC. The image's own number is kept as
`image_id` in the metadata, its file name as `file_name` where the image is not at hand.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from datasetops.errors import FormatError
from datasetops.formats.base import ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.coco_annotations import read_annotations
from datasetops.formats.coco_images import read_images
from datasetops.formats.coco_write import write_coco
from datasetops.formats.jsonfile import Document, load_json
from datasetops.formats.listing import Listing, listings
from datasetops.formats.problems import Problems
from datasetops.formats.splits import split_in_name
from datasetops.store.source import SourceTree

_LISTS = ("images", "annotations", "categories")
_READ = {*_LISTS, "info", "licenses", "type"}


class CocoFormat:
    name = "coco"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        files, images = listings(source, options.images, problems)
        documents = _annotation_files(source, files, problems)
        tables = []
        for path, (document, nonfinite) in documents.items():
            for extra in sorted(document.keys() - _READ):
                problems.warn(f"{path}: the list {extra!r} is not part of COCO and was not read", path=path, severity="low")
            split = options.split or split_in_name(_stem(path))
            prefix = f"{path}:" if len(documents) > 1 else ""
            image_rows = read_images(document, path, prefix, images, split, nonfinite, problems)
            tables.append((image_rows.table, read_annotations(document, path, image_rows, options.schema, nonfinite, problems)))
        samples = pa.concat_tables([samples for samples, _ in tables])
        annotations = pa.concat_tables([annotations for _, annotations in tables])
        return Parsed(samples, annotations, problems.findings, problems.rejected)

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_coco(data, out)


def _annotation_files(source: SourceTree, files: Listing, problems: Problems) -> dict[str, Document]:
    """The annotation files by path: the one that was named, or all of the folder, of different splits."""
    if source.single_file is not None:
        document = load_json(source, source.single_file)
        _check_document(document.value, source.uri(source.single_file))
        return {source.single_file: document}
    found: dict[str, Document] = {}
    for path in files.with_suffix(".json", ".json.gz"):
        document = load_json(source, path)
        if isinstance(document.value, dict) and all(isinstance(document.value.get(name), list) for name in _LISTS):
            found[path] = document
        else:
            problems.warn(f"{path}: not a COCO annotation file; left alone", path=path, severity="low")
    if not found:
        raise FormatError(f"{source.url} holds no COCO annotation file.", remedy="Name the .json file itself.")
    splits = [split_in_name(_stem(path)) for path in found]
    if len(found) > 1 and len(set(splits)) < len(splits):
        raise FormatError(
            f"{source.url} holds several annotation files of the same split: {', '.join(found)}.",
            remedy="Name the one to ingest.",
        )
    return found


def _check_document(document: object, uri: str) -> None:
    if isinstance(document, list):
        raise FormatError(
            f"{uri} is a list: a COCO results file, not annotations.",
            remedy="Name the annotation file, which has images, annotations and categories.",
        )
    for name in _LISTS:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            raise FormatError(f"{uri} has no list {name!r}, so it is not a COCO annotation file.")


def _stem(path: str) -> str:
    """Name of the file and of the folder right above it: `train/_annotations.coco.json` names its split too."""
    parts = path.split("/")
    name = parts[-1].partition(".")[0]
    return name if split_in_name(name) or len(parts) < 2 else parts[-2]
