"""Pictures of a version's samples: whole, small, and masks. What is made is kept in a cache on disk.

Nothing but images leaves here: a file is named by its sample, read, and recognised by its content; formats that browsers
do not show, and pictures that not all of them would turn, are converted; SVG and everything else is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

from datasetops.errors import FormatError, NotFoundError, StoreError
from datasetops.formats.rle import rle_fault
from datasetops.images import ImageError, ImageHeader, decode_rgb, read_header
from datasetops.labeling.base import ImageSize
from datasetops.labeling.masks import decoded
from datasetops.labeling.orientation import mask_to_shown
from datasetops.manifest import Repository, Version
from datasetops.records import sha256_hex
from datasetops.review.shown import shown_box
from datasetops.schema.model import default_colour
from datasetops.store.media import Media

SIDES: Final = (64, 96, 128, 160, 240, 320, 480, 640)  # thumbnails are made in these sizes alone, so that few are kept
_SHOWN: Final = ("image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp")
_TURNED_BY_ALL: Final = "image/jpeg"  # by its EXIF orientation; browsers differ over the other formats
_TINY: Final = 64  # pixels: up to this side a thumbnail is kept without loss
_AROUND: Final = 0.25  # of a box's longer side is shown around it
_LEAST_AROUND: Final = 8.0  # pixels
_OPACITY: Final = 115  # of 255: 0.45
_DECODING = threading.Semaphore(max(2, os.cpu_count() or 2))  # a picture may take half a gigabyte of memory

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """`tag` changes whenever the content does."""

    data: bytes
    media_type: str
    tag: str


class Pictures:
    """Reads media of a repository's samples, and keeps what it makes under `cache/thumbnails`."""

    def __init__(self, repository: Repository) -> None:
        self._media = Media(repository.store, repository.root)
        self._cache = repository.cache / "thumbnails"

    def full(self, version: Version, sample_id: str) -> Picture:
        """The picture as it is where browsers show it as everybody does, converted otherwise.

        Raises NotFoundError, FormatError for what is no image, StoreError.
        """
        row = self._row(version, sample_id)
        data, header = self._read(row)
        upright = header.orientation in (None, 1) or header.media_type == _TURNED_BY_ALL
        if header.media_type in _SHOWN and upright:
            return Picture(data, header.media_type, _tag(row, "full"))
        return self._kept(_tag(row, "png"), "png", lambda: _encoded(self._decoded(row, data), "png"))

    def thumb(
        self, version: Version, sample_id: str, side: int, box: Box | None = None, annotation_id: str | None = None
    ) -> Picture:
        """At most `side` pixels (rounded up to one of SIDES) wide and high; of the part around a box, if there is one.

        The box is xyxy in pixels of the picture as it is stored, or that of an annotation. Raises as `full`.
        """
        row = self._row(version, sample_id)
        if box is None and annotation_id:
            box = _box_of(version, sample_id, annotation_id)
        side = next((one for one in SIDES if one >= side), SIDES[-1])
        if box is None:
            return self._kept(_tag(row, f"{side}"), "jpg", lambda: self._small(row, side))
        corners = tuple(round(value) for value in box)
        return self._kept(_tag(row, f"{side}:{corners}"), "jpg", lambda: self._cut(row, side, box))

    def mask(self, version: Version, annotation_id: str) -> Picture:
        """A mask as it lies over the shown picture: its class's colour, see-through. Raises as `full`."""
        keys = pa.array([annotation_id], pa.string())
        rows = version.state("annotations").rows(keys, ["sample_id", "label", "geometry"]).to_pylist()
        geometry = json.loads(rows[0]["geometry"] or "{}") if rows else {}
        if "rle" not in geometry:
            raise NotFoundError(f"{version.name} has no mask {annotation_id!r}.", remedy="Load the page again.")
        found = version.schema.find(rows[0]["label"] or "")
        colour = found.colour if found else default_colour(0)
        owner = self._row(version, rows[0]["sample_id"])

        def make() -> bytes:
            size = self.size(owner)
            if fault := rle_fault(geometry["rle"], size.width, size.height):
                raise FormatError(f"{annotation_id}: {fault}.", remedy="Draw it anew, or remove it.")
            with _DECODING:
                return _over(mask_to_shown(decoded(geometry["rle"]), size), colour)

        return self._kept(_tag(owner, f"mask:{colour}:{sha256_hex(rows[0]['geometry'].encode())}"), "png", make)

    def size(self, row: dict[str, Any]) -> ImageSize:
        """Of a sample's picture, from its file's header."""
        _, header = self._read(row)
        return ImageSize(header.width, header.height, header.orientation or 1)

    def size_of(self, version: Version, sample_id: str) -> ImageSize:
        return self.size(self._row(version, sample_id))

    def _row(self, version: Version, sample_id: str) -> dict[str, Any]:
        keys = pa.array([sample_id], pa.string())
        rows = version.state("samples").rows(keys, ["sample_id", "uri", "sha256"]).to_pylist()
        if not rows:
            raise NotFoundError(f"{version.name} has no sample {sample_id[:200]!r}.", remedy="Load the page again.")
        return dict(rows[0])

    def _read(self, row: dict[str, Any]) -> tuple[bytes, ImageHeader]:
        data = self._media.read(row["uri"])
        try:
            return data, read_header(data)
        except ImageError as error:
            raise _no_image(row, error) from None

    def _decoded(self, row: dict[str, Any], data: bytes, at_least: int | None = None) -> Image.Image:
        try:
            with _DECODING:
                return decode_rgb(data, at_least=at_least)
        except ImageError as error:
            raise _no_image(row, error) from None

    def _small(self, row: dict[str, Any], side: int) -> bytes:
        image = self._decoded(row, self._media.read(row["uri"]), at_least=side)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return _encoded(image)

    def _cut(self, row: dict[str, Any], side: int, box: Box) -> bytes:
        data, header = self._read(row)
        image = self._decoded(row, data)
        x1, y1, x2, y2 = shown_box(box, ImageSize(header.width, header.height, header.orientation or 1)) or box
        margin = max(_LEAST_AROUND, _AROUND * max(x2 - x1, y2 - y1))
        left, top = (max(0, min(limit - 1, int(v - margin))) for v, limit in zip((x1, y1), image.size, strict=True))
        right, bottom = (min(limit, int(v + margin) + 1) for v, limit in zip((x2, y2), image.size, strict=True))
        part = image.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
        part.thumbnail((side, side), Image.Resampling.LANCZOS)
        return _encoded(part)

    def _kept(self, tag: str, suffix: str, make: Any) -> Picture:
        file = self._cache / tag[:2] / f"{tag}.{suffix}"
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            data = make()
            _keep(file, data)
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror}.", remedy="Check its rights; it is only a cache.") from None
        return Picture(data, "image/png" if data.startswith(b"\x89PNG") else "image/jpeg", tag)


def _box_of(version: Version, sample_id: str, annotation_id: str) -> Box | None:
    """Of an annotation that has a proper box and is the sample's."""
    columns = ["sample_id", "x1", "y1", "x2", "y2"]
    rows = version.state("annotations").rows(pa.array([annotation_id], pa.string()), columns).to_pylist()
    if not rows or rows[0].pop("sample_id") != sample_id or None in rows[0].values():
        return None
    x1, y1, x2, y2 = rows[0].values()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _keep(file: Path, data: bytes) -> None:
    """Written aside and moved, so that nobody reads half of it; a full disk costs the cache and not the picture."""
    draft = file.with_name(f"{secrets.token_hex(8)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)


def _encoded(image: Image.Image, kind: str = "") -> bytes:
    sink = BytesIO()
    if kind == "png" or max(image.size) <= _TINY:
        image.save(sink, "PNG", compress_level=1)
    else:
        image.save(sink, "JPEG", quality=85)
    return sink.getvalue()


def _over(mask: np.ndarray[Any, Any], colour: str) -> bytes:
    """A PNG of two entries: nothing, and the colour, see-through."""
    image = Image.fromarray(np.ascontiguousarray(mask, np.uint8), "P")
    image.putpalette([0, 0, 0, *(int(colour[at : at + 2], 16) for at in (1, 3, 5))])
    sink = BytesIO()
    image.save(sink, "PNG", transparency=bytes([0, _OPACITY]), bits=1, compress_level=1)
    return sink.getvalue()


def _tag(row: dict[str, Any], what: str) -> str:
    return sha256_hex(f"{row['sha256'] or row['uri']}:{what}".encode())[:40]


def _no_image(row: dict[str, Any], error: ImageError) -> FormatError:
    return FormatError(f"{row['uri']} cannot be shown: {error}.", remedy="Put the file back, or exclude the sample.")
