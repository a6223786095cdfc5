"""Image files as FiftyOne opens them: a path on this machine, and the size as viewers show it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datasetops.errors import DatasetOpsError, NotFoundError, StoreError
from datasetops.images import ImageError, read_header
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository
from datasetops.records import sha256_hex
from datasetops.store.media import Media, base_name

_TURNED: Final = ("image/jpeg", "image/png", "image/webp", None)  # browsers turn them as their EXIF data say
_MARKS: Final = (b"Exif", b"eXIf", b"EXIF", b"Raw profile type exif")
_HEAD: Final = 1 << 17  # bytes; a JPEG's EXIF data come first, in at most 64 KiB


@dataclass(frozen=True)
class Picture:
    """`size` is None where neither the version nor the file says it; `problem` says why the file cannot be shown."""

    path: str
    size: ImageSize | None
    problem: str | None = None


class Pictures:
    """The files of samples. Media that are no files of this machine are copied into the repository's cache, once."""

    def __init__(self, repository: Repository) -> None:
        self._media = Media(repository.store, repository.root)
        self._copies = repository.cache / "media"
        self._jobs = repository.settings.jobs

    def of(self, rows: Sequence[Mapping[str, Any]]) -> list[Picture]:
        """For rows with the columns of records.SAMPLES. What is wrong with a file is told in its picture."""
        with ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(self._picture, rows))

    def _picture(self, row: Mapping[str, Any]) -> Picture:
        place = self._media.locate(row["uri"])
        path = self._copies / _copy_name(row) if "://" in place else Path(place)
        size = ImageSize(row["width"], row["height"]) if row["width"] and row["height"] else None
        try:
            if "://" in place and not path.exists():
                self._copy(row, path)
            if size is None or row["media_type"] in _TURNED:
                size = shown_as(path, size)
            elif not path.is_file():
                raise NotFoundError(f"{path} does not exist.")
        except (DatasetOpsError, ImageError) as error:
            return Picture(str(path), size, str(error).partition("\n")[0])
        except OSError as error:
            return Picture(str(path), size, f"{path}: {(error.strerror or type(error).__name__).lower()}.")
        return Picture(str(path), size)

    def _copy(self, row: Mapping[str, Any], path: Path) -> None:
        data = self._media.read(row["uri"])
        if row["sha256"] is not None and sha256_hex(data) != row["sha256"]:
            raise StoreError(f"{row['uri']} changed since it was ingested.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        temporary.write_bytes(data)
        temporary.replace(path)


def _copy_name(row: Mapping[str, Any]) -> str:
    name = row["sha256"] or sha256_hex(row["uri"].encode())
    return f"{name[:2]}/{name}{Path(base_name(row['uri'])).suffix.lower()}"


def shown_as(path: Path, size: ImageSize | None) -> ImageSize:
    """Size and orientation from as little of the file as tells them. Raises OSError, ImageError."""
    with path.open("rb") as file:
        data = file.read(_HEAD)
        if not data.startswith(b"\xff\xd8"):  # other formats than JPEG may have EXIF data at the end
            data += file.read()
        if size is not None and not any(mark in data for mark in _MARKS):
            return size
        try:
            header = read_header(data)
        except ImageError:
            header = read_header(data + file.read())
    return ImageSize(header.width, header.height, header.orientation or 1)
