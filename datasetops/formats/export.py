"""What every exporter does: name files, copy images, count what is lost."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import pyarrow as pa

from datasetops.errors import StoreError
from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.listing import is_image
from datasetops.formats.splits import UNSPLIT
from datasetops.records import PROVENANCE_COLUMNS

_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "image/webp": ".webp",
    "image/jp2": ".jp2",
    "image/avif": ".avif",
}
_REMADE = {"sample_id", "uri", "sha256", "width", "height", "media_type"}  # ingest makes them again from the image
_NAMES = {
    "sample_id": "sample ids",
    "annotation_id": "annotation ids",
    "x1": "boxes",
    "geometry": "polygons, masks or keypoints",
    "attributes": "attributes",
    "text": "texts",
    "score": "scores",
    "source": "sources other than import",
    "actor": "actors",
    "model": "models",
    "derived_from": "references to corrected annotations",
    "metadata": "samples' metadata",
}


@dataclass
class Losses:
    """Sentences about values that the format `name` cannot hold."""

    name: str
    sentences: list[str] = field(default_factory=list)

    def add(self, count: int, what: str) -> None:
        if count:
            self.sentences.append(f"{count} {what}.")

    def columns(self, data: ExportData, *, samples: Iterable[str], annotations: Iterable[str]) -> None:
        """Counts the values of all columns but those that the format holds, named here, and those that ingest makes."""
        for table, held in ((data.samples, {*samples, *_REMADE}), (data.annotations, {*annotations, *_REMADE})):
            for name in table.column_names:
                if name in held or name in ("x2", "y1", "y2", *PROVENANCE_COLUMNS):
                    continue
                count = len(table) - table[name].null_count
                if name == "annotation_id":  # those that ingest makes begin with their sample's id and a slash
                    pairs = zip(table["sample_id"].to_pylist(), table[name].to_pylist(), strict=True)
                    count = sum(not own.startswith(f"{sample_id}/") for sample_id, own in pairs)
                if name == "source":
                    count = sum(value not in (None, "import") for value in table[name].to_pylist())
                self.named(name, count)

    def named(self, column: str, count: int) -> None:
        """Values of a column that are not written."""
        what = _NAMES.get(column, f"values of {column}")
        self.add(count, f"{what} are not written: {self.name} has no place for them")

    def sample_ids(self, data: ExportData) -> None:
        """Ids that ingest will not make again from the image or, without one, from the file name."""
        rows = rows_of(data.samples.select(["sample_id", "sha256"]))
        metadata = objects_of(data.samples, "metadata")
        self.named(
            "sample_id",
            sum(
                has_own_id(sample_id, sha256) and values.get("file_name") != sample_id
                for sample_id, sha256, values in zip(rows["sample_id"], rows["sha256"], metadata, strict=True)
            ),
        )


def has_own_id(sample_id: str, sha256: str | None) -> bool:
    """Whether a sample's id is one that its source brought, not made from the image."""
    return sha256 is None or len(sample_id) < 16 or not sha256.startswith(sample_id)


def new_folder(out: Path) -> Path:
    """Makes `out`; raises StoreError if it is there and not empty, or cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = next(out.iterdir(), None)
    except OSError as error:
        raise StoreError(f"{out} cannot be made: {error.strerror}.", remedy="Name another folder.") from error
    if taken is not None:
        raise StoreError(f"{out} is not empty.", remedy="Name a new or empty folder; nothing is ever overwritten.")
    return out


def rows_of(table: pa.Table) -> dict[str, list[Any]]:
    """Columns as Python lists."""
    return {name: table[name].to_pylist() for name in table.column_names}


def objects_of(table: pa.Table, name: str) -> list[dict[str, Any]]:
    """A column of JSON objects; an empty one where it is null."""
    return [orjson.loads(text) if text else {} for text in table[name].to_pylist()]


def folder_name(name: str) -> str:
    """A class or split as the name of one folder; `urllib.parse.unquote` gives it back."""
    return re.sub(r'[%/\\:*?"<>|\x00-\x1f]|^\.|[. ]$', lambda match: f"%{ord(match[0]):02X}", name)


def split_folders(samples: pa.Table) -> list[str]:
    """For each sample the folder of its split, "" where no sample has one."""
    splits = samples["split"].to_pylist()
    if not any(splits):
        return [""] * len(splits)
    return [UNSPLIT if split is None else folder_name(split) for split in splits]


def media_names(samples: pa.Table, folders: Sequence[str], *, by_stem: bool = False) -> list[str]:
    """A file name for each sample, unique (also in small letters) within its folder.

    The original name where possible; names that several samples share get the start of their digest. `by_stem`: unique
    without the suffix, for formats that put an annotation file of the same stem beside each image.
    """
    rows = rows_of(samples.select(["sample_id", "uri", "media_type", "metadata"]))
    names = [
        _base_name(uri, media_type, orjson.loads(metadata) if metadata else {}, sample_id)
        for sample_id, uri, media_type, metadata in zip(*rows.values(), strict=True)
    ]

    def place(index: int) -> tuple[str, str]:
        name = names[index]
        return folders[index], (PurePosixPath(name).stem if by_stem else name).casefold()

    count = Counter(map(place, range(len(names))))
    taken = {key for key, n in count.items() if n == 1}
    for index, sample_id in enumerate(rows["sample_id"]):
        if count[place(index)] < 2:
            continue
        digest = hashlib.sha256(sample_id.encode()).hexdigest()
        path = PurePosixPath(names[index])
        for length in (8, 16, 64):
            names[index] = f"{path.stem}-{digest[:length]}{path.suffix}"
            if place(index) not in taken:
                break
        taken.add(place(index))
    return names


def reference_names(samples: pa.Table) -> list[str]:
    """For images that stay where they are: each one's path below the folder that holds all of them."""
    rows = rows_of(samples.select(["sample_id", "uri"]))
    paths = [PurePosixPath(_original(uri)) for uri in rows["uri"] if uri]
    comparable = len({path.is_absolute() for path in paths}) == 1
    common = os.path.commonpath([path.parent for path in paths]) if comparable else ""
    return [
        PurePosixPath(_original(uri)).relative_to(common).as_posix()
        if uri and comparable
        else _original(uri) or sample_id
        for sample_id, uri in zip(*rows.values(), strict=True)
    ]


def _original(uri: str | None) -> str:
    """The path that an image had where it came from: `media:<digest>.jpg#<path>` is a copy in the store."""
    return (uri.partition("#")[2] if uri.startswith("media:") else uri) if uri else ""


def _base_name(uri: str | None, media_type: str | None, metadata: dict[str, Any], sample_id: str) -> str:
    listed = metadata.get("file_name") if media_type is None else None  # without an image that is its only name
    name = (listed if isinstance(listed, str) and listed else _original(uri) or sample_id).replace("\\", "/")
    name = re.sub(r"[\x00-\x1f]|^\.", lambda match: f"%{ord(match[0]):02X}", name.rpartition("/")[2]) or "unnamed"
    return name if media_type is None or is_image(name) else name + _SUFFIXES.get(media_type, "")


def copy_media(data: ExportData, out: Path, paths: Sequence[str]) -> int:
    """Writes each sample's image to `out` / path and says how many there were. Raises DatasetOpsError where one fails."""
    if not data.copy_media:
        return 0
    digests, uris = (data.samples[name].to_pylist() for name in ("sha256", "uri"))
    jobs = [(uri, path) for digest, uri, path in zip(digests, uris, paths, strict=True) if digest is not None]
    for uri, path in jobs:
        write_file(out / path, data.read_media(uri))
    return len(jobs)


def write_file(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written: {error.strerror}.", remedy="Free space, or name another folder."
        ) from error


def report(files: int, losses: Losses, data: ExportData) -> ExportReport:
    """The finished report, with the images that were not copied."""
    absent = data.samples["sha256"].null_count
    if not data.copy_media:
        losses.add(len(data.samples) - absent, "images are named but not copied")
    losses.add(absent, "samples have no image at hand")
    return ExportReport(files, losses.sentences)
