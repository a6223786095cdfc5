"""Pascal VOC: one XML file for each image (Everingham et al. 2010, doi 10.1007/s11263-009-0275-4).

Corners are kept as the file has them. VOC's own files count pixels from 1 and later tools from 0 without saying so;
shifting them would move the boxes of one or the other, so nothing is shifted, in either direction.

`pose`, `truncated`, `difficult` and any other element of an object are attributes, 0 and 1 of `truncated`, `difficult`
and `occluded` being false and true; any other element of the file is metadata of the image; `ImageSets/Main/*.txt` name
the splits. Lost are masks, polygons and keypoints beyond their box, classifications, scores, actors and the like.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException

from datasetops.errors import FormatError
from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES, ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import filled_rows, json_text
from datasetops.formats.extents import extent_faults
from datasetops.formats.listing import Listing, listings, safe_name
from datasetops.formats.problems import Problems
from datasetops.formats.voc_write import CORNERS, FLAGS, SIDES, write_voc
from datasetops.formats.xmlvalue import value_of
from datasetops.schema import LabelSchema
from datasetops.store.tree import SourceTree

_IMAGE_FOLDERS = ("JPEGImages", "images")
_NO_SPLIT = ("trainval", "default")  # image sets that overlap others, or that tools write for lack of any
_CLASS_MARK = re.compile(r".*\s(-1|0|1)")  # a line in the image set of one class, such as person_train.txt


@dataclass
class _File:
    """One annotation file: the listed image, the sample's columns and its objects by number, counted from 1."""

    path: str
    filename: str
    metadata: dict[str, Any]
    sample: dict[str, Any]
    objects: dict[int, dict[str, Any]]


class VocFormat:
    name = "voc"

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        listing, images = listings(source, options.images, problems)
        paths = [source.single_file] if source.single_file else listing.with_suffix(".xml")
        splits = {} if source.single_file else _image_sets(listing)
        reader = _Reader(source, options.schema, options.split, splits, problems)
        files = [file for path in paths if (file := reader.file(path)) is not None]
        if not files and not problems.rejected:
            where = source.uri(source.single_file) if source.single_file else source.url
            raise FormatError(
                f"{where} holds no VOC annotation file: the set is empty.",
                remedy="Name the folder with the .xml files, and the images with --images.",
            )
        files = list(_with_media(files, images, problems))
        rows = list(_sound_objects(files, problems))
        for file in files:
            file.sample["metadata"] = json_text(file.metadata)
        return Parsed(
            filled_rows((file.sample for file in files), PARSED_SAMPLES),
            filled_rows(rows, PARSED_ANNOTATIONS),
            problems.findings,
            problems.rejected,
        )

    def write(self, data: ExportData, out: Path) -> ExportReport:
        return write_voc(data, out)


def _image_sets(listing: Listing) -> dict[str, str]:
    """Image stem → split, from the lists in ImageSets/Main."""
    splits: dict[str, str] = {}
    for path in listing.with_suffix(".txt"):
        split = unquote(PurePosixPath(path).stem)
        if "/ImageSets/Main/" in f"/{path}" and split not in _NO_SPLIT:
            text = listing.tree.read(path).decode("utf-8", "replace")
            stems = [line.strip() for line in text.splitlines() if line.strip()]
            if not all(_CLASS_MARK.fullmatch(stem) for stem in stems):
                splits |= dict.fromkeys(stems, split)
    return splits


@dataclass(frozen=True)
class _Reader:
    source: SourceTree
    schema: LabelSchema
    split: str | None
    splits: dict[str, str]
    problems: Problems

    def file(self, path: str) -> _File | None:
        """None, with a finding, for a file that is not well-formed or no VOC annotation."""
        root = self._parse(path)
        if root is None:
            return None
        if root.tag != "annotation":
            self.problems.warn(f"{path}: not a VOC annotation file; left alone", path=path, severity="low")
            return None
        objects, size = root.findall("object"), root.find("size")
        filename = root.findtext("filename", "").strip()
        for element in (*objects, *root.findall("size"), *root.findall("filename")):
            root.remove(element)
        value = value_of(root)
        metadata: dict[str, Any] = value if isinstance(value, dict) else {}
        key = path.rpartition(".")[0]
        stem = PurePosixPath(key).name
        filename = filename or stem
        if not safe_name(filename, self.problems, path=path, where=path, count=1 + len(objects)):
            return None
        if size is not None and (depth := size.find("depth")) is not None:
            metadata["depth"] = value_of(depth)
        sample: dict[str, Any] = {"key": key, "split": self.splits.get(stem, self.split)}
        sample |= {side: self._side(size, side, path) for side in ("width", "height")}
        return _File(path, filename, metadata, sample, self._objects(objects, path, key))

    def _parse(self, path: str) -> Element | None:
        try:
            root: Element = defusedxml.ElementTree.fromstring(self.source.read(path))
        except DefusedXmlException as error:
            self.problems.reject(f"{path}: XML with entities is refused ({type(error).__name__})", path=path)
        except ParseError as error:
            line, column = error.position
            reason = str(error).partition(": line")[0]
            self.problems.reject(f"{path}, line {line}, column {column + 1}: broken XML: {reason}", path=path)
        except (ValueError, LookupError) as error:  # an encoding that Python does not know
            self.problems.reject(f"{path}, line 1: broken XML: {error}", path=path)
        else:
            return root
        return None

    def _side(self, size: Element | None, name: str, path: str) -> int | None:
        text = size.findtext(name, "").strip() if size is not None else ""
        if not text:
            return None
        value = _number(text)
        if value is None or not 0 < value < 2**31 or value != int(value):
            message = f"{path}: {name} {text!r} is not a number of pixels; taken as unknown"
            self.problems.warn(message, path=path, given=text)
            return None
        return int(value)

    def _objects(self, elements: list[Element], path: str, key: str) -> dict[int, dict[str, Any]]:
        unknown: Counter[str] = Counter()
        rows: dict[int, dict[str, Any]] = {}
        for number, element in enumerate(elements, start=1):
            label = element.findtext("name", "").strip()
            box, fault = _box(element)
            if not label:
                fault = "it has no name"
            elif self.schema.find(label) is None:
                unknown[label] += 1
                continue
            if fault:
                self.problems.reject(f"{path}, object {number} ({label or 'no class'}): {fault}", path=path)
                continue
            for child in [*element.findall("name"), *element.findall("bndbox")]:
                element.remove(child)
            value = value_of(element)
            attributes = json_text(self._with_flags(value)) if isinstance(value, dict) else None
            rows[number] = {"key": key, "kind": "box", "label": label, "attributes": attributes, **box}
        for label, count in unknown.items():
            self.problems.unknown_class(label, self.schema, path=path, where=path, count=count)
        return rows

    def _with_flags(self, attributes: dict[str, Any]) -> dict[str, Any]:
        declared = {attribute.name: attribute.type for attribute in self.schema.attributes}
        flags = [name for name in FLAGS if declared.get(name, "bool") == "bool" and attributes.get(name) in (0, 1)]
        return attributes | {name: bool(attributes[name]) for name in flags}


def _box(element: Element) -> tuple[dict[str, float], str | None]:
    bndbox = element.find("bndbox")
    if bndbox is None:
        return {}, "it has no bndbox"
    box: dict[str, float] = {}
    for corner, side in zip(CORNERS, SIDES, strict=True):
        text = bndbox.findtext(corner, "").strip()
        value = _number(text)
        if value is None:
            return {}, f"{corner} {text!r} is not a number" if text else f"its bndbox has no {corner}"
        box[side] = value
    return box, None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _with_media(files: list[_File], images: Listing, problems: Problems) -> Iterator[_File]:
    """Files whose image is there and not another file's already; all of them where not one image is there."""
    found = [_media(file, images) for file in files]
    without_media = not any(found)
    if without_media and files:
        images.warn_without_images(len(files), path="")
    first: dict[str, str] = {}
    for file, media in zip(files, found, strict=True):
        name = media or file.filename
        lost = 1 + len(file.objects)
        if media is None and not without_media:
            message = f"{file.path}: {name!r} is listed, but is not below {images.tree.url}"
            problems.reject(f"{message}; left out with its {lost - 1} objects", path=file.path, given=name, count=lost)
        elif first.setdefault(name, file.path) != file.path:
            message = f"{file.path}: its image {name!r} is that of {first[name]} too; the first file is kept"
            problems.reject(message, path=file.path, given=name, count=lost)
        else:
            file.sample["media"] = media
            if without_media:
                file.sample["sample_id"] = file.metadata["file_name"] = name
            yield file


def _media(file: _File, images: Listing) -> str | None:
    folders = (file.path.rpartition("/")[0], *_IMAGE_FOLDERS)
    split = file.sample["split"]
    stem = PurePosixPath(file.path).stem
    return images.find(file.filename, folders, split=split) or images.find(stem, folders, split=split)


def _sound_objects(files: list[_File], problems: Problems) -> Iterator[dict[str, Any]]:
    placed = [(file, number, row) for file in files for number, row in file.objects.items()]
    boxes = np.array([[row[side] for side in SIDES] for _, _, row in placed], np.float64).reshape(-1, 4)
    width, height = (np.array([file.sample[side] for file, _, _ in placed], np.float64) for side in ("width", "height"))
    faulty = set()
    for index, severity, message in extent_faults(boxes, width, height, noun="box"):
        file, number, row = placed[index]
        message = f"{file.path}, object {number} ({row['label']}): {message}"
        if severity == "high":
            faulty.add(index)
            problems.reject(message, path=file.path)
        else:
            problems.warn(message, path=file.path, severity=severity)
    return (row for index, (_, _, row) in enumerate(placed) if index not in faulty)
