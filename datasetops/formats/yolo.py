"""YOLO text labels as Ultralytics lays them out: boxes and polygons, as fractions of the image's sides.

`images/…/x.jpg` goes with `labels/…/x.txt`; a line is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 …`. Classes and
splits are named by data.yaml; without one a class is the id of the schema's, and folders called train, val or test are
splits. An image without a label file, or with an empty one, shows nothing of interest: a sample without annotations.

Pixels are rounded to 1e-9, so coordinates of up to nine decimals come back from an export as they were. Lost are
attributes, scores, keypoints, holes of masks and whatever else is neither class nor outline. Sizes are those stored in
the file, whatever its EXIF orientation says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasetops.errors import FormatError
from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES, ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import filled_rows, json_text
from datasetops.formats.extents import extent_faults
from datasetops.formats.listing import Listing, is_image, listings
from datasetops.formats.problems import Problems
from datasetops.formats.splits import SPLIT_FOLDERS
from datasetops.formats.yolo_config import YoloConfig, read_config
from datasetops.formats.yolo_write import write_yolo
from datasetops.images import ImageError, quiet_decoding, read_header
from datasetops.schema import LabelSchema
from datasetops.store.tree import SourceTree, UnreadableError

_DECIMALS = 9  # of pixels
_HEAD = 1 << 16  # bytes: holds the header of nearly every image
_READERS = 4
_BESIDE = {"images", "labels"}  # folders that stand for each other


@dataclass(frozen=True)
class _Line:
    """A sound line of a label file: `values` are two corners of a box or the points of a polygon, as fractions."""

    media: str
    path: str
    number: int
    label: str
    is_box: bool
    values: list[float]


class YoloFormat:
    name = "yolo"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        listing, images = listings(source, options.images, problems)
        config = read_config(source, listing)
        media = [path for path in images.images if is_image(path)]
        if not media:
            raise FormatError(
                f"{options.images.url} holds no image: the set is empty.",
                remedy="Name the folder with the images by --images: YOLO labels say nothing without their sizes.",
            )
        labels = _label_files(listing, media, problems)
        lines = list(_Labels(source, config, options.schema, problems).lines(labels))
        splits = _splits(config, media, listing)
        samples = ({"key": path, "media": path, "split": splits.get(path, options.split)} for path in media)
        rows = _rows(lines, images, problems)
        return Parsed(
            filled_rows(samples, PARSED_SAMPLES),
            filled_rows(rows, PARSED_ANNOTATIONS),
            problems.findings,
            problems.rejected,
        )

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_yolo(data, out)


def _place(path: str) -> str:
    """What an image and its label file have in common: the path without suffix and without images/ or labels/."""
    parts = path.rpartition(".")[0].split("/")
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in _BESIDE:
            del parts[index]
            break
    return "/".join(parts)


def _label_files(listing: Listing, media: Sequence[str], problems: Problems) -> dict[str, str]:
    """Image → label file, for images that have one."""
    files = {_place(path): path for path in listing.with_suffix(".txt")}
    found = {path: files[place] for path in media if (place := _place(path)) in files}
    used = set(found.values())
    for path in files.values():
        if path not in used and "labels" in path.split("/")[:-1]:
            problems.reject(f"{path}: there is no image for these labels", path=path)
    return found


def _splits(config: YoloConfig, media: Sequence[str], listing: Listing) -> dict[str, str]:
    if config.path is None:
        named = ((path, next((p for p in path.split("/")[:-1] if p in SPLIT_FOLDERS), None)) for path in media)
        return {path: split for path, split in named if split is not None}
    splits: dict[str, str] = {}
    for place, split in config.splits.items():
        if place in listing.files:  # a list of images, one a line
            text = listing.tree.read(place).decode("utf-8", "replace")
            base = PurePosixPath(place).parent
            splits |= {str(base / line.strip().removeprefix("./")): split for line in text.splitlines()}
        else:
            splits |= {path: split for path in media if place == "." or path.startswith(f"{place}/")}
    return splits


@dataclass(frozen=True)
class _Labels:
    source: SourceTree
    config: YoloConfig
    schema: LabelSchema
    problems: Problems

    def lines(self, files: dict[str, str]) -> Iterator[_Line]:
        """The lines of all label files (image → file) that name a class of the schema and an outline."""
        names = self.config.names
        classes = {item.id: item.name for item in self.schema.classes} if names is None else names
        unknown: Counter[str] = Counter()
        for media, path in files.items():
            for number, text in self._numbered(path):
                fields = text.split()
                fault, values = _numbers(fields)
                label = classes.get(int(values[0])) if values and values[0] == int(values[0]) else None
                if fault is None and label is None:
                    known = "the schema" if names is None else str(self.config.path)
                    fault = f"class {fields[0]} is not among the {len(classes)} of {known}"
                if fault is not None:
                    self.problems.reject(f"{path}, line {number}: {fault}", path=path, given=text[:100])
                elif label is not None and self.schema.find(label) is None:
                    unknown[label] += 1
                elif label is not None:
                    yield _line(media, path, number, label, values[1:])
        for label, count in unknown.items():
            where = self.config.path or ""
            self.problems.unknown_class(label, self.schema, path=where, where=where, count=count)

    def _numbered(self, path: str) -> Iterable[tuple[int, str]]:
        try:
            text = self.source.read(path).decode("utf-8-sig")
        except UnicodeDecodeError:
            self.problems.reject(f"{path}: not UTF-8", path=path)
            return ()
        except UnreadableError as error:
            self.problems.reject(f"{path}: {error.message}", path=path)
            return ()
        return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _numbers(fields: list[str]) -> tuple[str | None, list[float]]:
    """What is wrong with a line, or its numbers."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return "a value is not a number", []
    if not np.isfinite(values).all():
        return "a value is NaN or infinite", []
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        return f"{len(values)} values; expected a class and 4 numbers of a box, or x, y of at least 3 points", []
    return None, values


def _line(media: str, path: str, number: int, label: str, values: list[float]) -> _Line:
    if len(values) != 4:
        return _Line(media, path, number, label, False, values)
    cx, cy, w, h = values
    return _Line(media, path, number, label, True, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def _rows(lines: list[_Line], images: Listing, problems: Problems) -> list[dict[str, Any]]:
    sizes = _sizes(lines, images, problems)
    lines = [line for line in lines if line.media in sizes]
    rows: list[dict[str, Any]] = []
    extents: list[list[float]] = []
    for line in lines:
        sides = sizes[line.media]
        # Adding zero makes -0.0 plain.
        points = [round(value * sides[axis % 2], _DECIMALS) + 0.0 for axis, value in enumerate(line.values)]
        row: dict[str, Any] = {"key": line.media, "label": line.label}
        if line.is_box:
            extents.append(points)
            row |= {"kind": "box"} | dict(zip(("x1", "y1", "x2", "y2"), points, strict=True))
        else:
            xs, ys = points[::2], points[1::2]
            extents.append([min(xs), min(ys), max(xs), max(ys)])
            row |= {"kind": "polygon", "geometry": json_text({"polygons": [points]})}
        rows.append(row)
    width, height = (np.array([sizes[line.media][axis] for line in lines], np.float64) for axis in (0, 1))
    faulty = set()
    for index, severity, message in extent_faults(
        np.array(extents, np.float64).reshape(-1, 4), width, height, noun="outline", near_tolerance=True
    ):
        line = lines[index]
        if severity == "high":
            faulty.add(index)
            problems.reject(f"{line.path}, line {line.number} ({line.label}): {message}", path=line.path)
        else:
            problems.warn(
                f"{line.path}, line {line.number} ({line.label}): {message}", path=line.path, severity=severity
            )
    return [row for index, row in enumerate(rows) if index not in faulty]


def _sizes(lines: Sequence[_Line], images: Listing, problems: Problems) -> dict[str, tuple[int, int]]:
    """Width and height of labelled images; labels of images that cannot be read are rejected."""
    count = Counter(line.media for line in lines)
    with ThreadPoolExecutor(_READERS) as pool, quiet_decoding():
        found = dict(zip(count, pool.map(lambda path: _size(images.tree, path), count), strict=True))
    for path, size in found.items():
        if isinstance(size, str):
            message = f"{path}: {size}; its {count[path]} labels are left out"
            problems.reject(message, path=path, count=count[path])
    return {path: size for path, size in found.items() if not isinstance(size, str)}


def _size(tree: SourceTree, path: str) -> tuple[int, int] | str:
    """Width and height, or why there are none."""
    try:
        try:
            header = read_header(tree.read(path, limit=_HEAD))
        except ImageError:
            header = read_header(tree.read(path))
    except ImageError as error:
        return str(error)
    except UnreadableError as error:
        return error.message
    return header.width, header.height
