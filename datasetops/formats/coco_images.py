"""The `images` and `licenses` of a COCO file as sample columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasetops.errors import FormatError
from datasetops.formats.base import PARSED_SAMPLES
from datasetops.formats.coco_file import IMAGE_EXTENSION, IMAGE_FIELDS, SAMPLE_FIELDS, CocoFile, extension, is_id
from datasetops.formats.columns import filled, finite, json_text, parse_time
from datasetops.formats.listing import safe_name
from datasetops.formats.table_columns import TIMES

_MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class ImageRows:
    """`row_of` gives the table's row of an image id, -1 for an image that was left out; sizes are NaN if unknown."""

    table: pa.Table
    row_of: dict[Any, int]
    width: NDArray[Any]
    height: NDArray[Any]


@dataclass
class _Images:
    """Images that are still in, as parallel lists."""

    entries: list[dict[str, Any]]
    names: list[str | None]
    media: list[str | None]

    def keep(self, usable: Sequence[bool]) -> None:
        if not all(usable):
            for field in ("entries", "names", "media"):
                kept = [value for value, ok in zip(getattr(self, field), usable, strict=True) if ok]
                setattr(self, field, kept)


def read_images(file: CocoFile) -> ImageRows:
    """Raises FormatError for a file that lists no image."""
    entries = file.objects("images")
    if not entries:
        raise FormatError(f"{file.problems.source.uri(file.path)} lists no image: the set is empty.")
    entries = _with_own_id(file, entries)
    row_of = dict.fromkeys((entry["id"] for entry in entries), -1)
    images = _Images(entries, [_file_name(entry) for entry in entries], [None] * len(entries))
    images.keep(_usable_names(file, images))
    _find_media(file, images)
    row_of.update({entry["id"]: row for row, entry in enumerate(images.entries)})
    columns = _columns(file, images)
    sizes = [np.array(columns[side], np.float64) for side in ("width", "height")]
    return ImageRows(filled(columns, PARSED_SAMPLES), row_of, *sizes)


def _with_own_id(file: CocoFile, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [entry.get("id") for entry in entries]
    if len(set(map(str, ids))) == len(ids) and all(map(is_id, ids)):
        return entries
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index, (number, entry) in enumerate(zip(ids, entries, strict=True)):
        if not is_id(number):
            file.reject(f"image {index} of the list has no id")
        elif str(number) in seen:
            file.reject(f"image id {number} is used twice; the first image is kept", given=str(number))
        else:
            seen.add(str(number))
            kept.append(entry)
    return kept


def _file_name(entry: dict[str, Any]) -> str | None:
    """LVIS 1.0 names its files only by the end of `coco_url`."""
    name = entry.get("file_name")
    if type(name) is str and name:
        return name
    url = entry.get("coco_url")
    return url.rpartition("/")[2] or None if type(url) is str else None


def _usable_names(file: CocoFile, images: _Images) -> list[bool]:
    """False for names that leave the image folder, and for the second image that is the same file."""
    usable = []
    annotated: Counter[Any] | None = None
    first: dict[str, Any] = {}
    for entry, name in zip(images.entries, images.names, strict=True):
        ok = True
        if name is not None:
            same = first.setdefault(name, entry["id"]) != entry["id"]
            if same or ".." in name or name[0] in "/\\~" or name[1:2] == ":" or "\0" in name:
                annotated = _annotated(file) if annotated is None else annotated
                count = 1 + annotated[entry["id"]]
                where = f"image {entry['id']}"
                if same:
                    ok = False
                    left_out = f" ({count - 1} annotations left out)" if count > 1 else ""
                    message = f"{where}: same file {name!r} as image {first[name]}; the first is kept{left_out}"
                    file.reject(message, given=name, count=count)
                else:
                    ok = safe_name(name, file.problems, path=file.path, where=f"{file.path}: {where}", count=count)
        usable.append(ok)
    return usable


def _annotated(file: CocoFile) -> Counter[Any]:
    """How many annotations each image has."""
    return Counter(
        entry["image_id"]
        for entry in file.document["annotations"]
        if type(entry) is dict and is_id(entry.get("image_id"))
    )


def _image_folders(file: CocoFile) -> list[str]:
    """Where the images of `annotations/instances_<name>.json` may be: beside it, in <name>/, images/<name>/, images/."""
    beside, _, name = file.path.rpartition("/")
    words = re.sub(r"\.json(\.gz)?$", "", name, flags=re.IGNORECASE).split("_")
    ends = ["_".join(words[index:]) for index in range(1, len(words))] + ([file.split] if file.split else [])
    return [beside, *(folder for end in ends for folder in (f"images/{end}", end)), "images"]


def _find_media(file: CocoFile, images: _Images) -> None:
    """Fills `media` and leaves out images that are not there, unless none of all is there."""
    if file.images.images:
        folders = _image_folders(file)
        images.media = [name and file.images.find(name, folders, split=file.split) for name in images.names]
    if not any(images.media):
        file.images.warn_without_images(len(images.names), path=file.path)
        return
    if None not in images.media:
        return
    annotated = _annotated(file)
    for entry, name, media in zip(images.entries, images.names, images.media, strict=True):
        if media is None:
            what = file.images.why_not(name) if name else "it has no file_name"
            count = annotated[entry["id"]]
            file.reject(
                f"image {entry['id']}: {what}; left out with its {count} annotations", given=name, count=1 + count
            )
    images.keep([media is not None for media in images.media])


def _columns(file: CocoFile, images: _Images) -> dict[str, list[Any]]:
    entries, names = images.entries, images.names
    without_media = not any(images.media)
    licenses, license_urls = _licenses(file, entries)
    columns: dict[str, list[Any]] = {
        "key": [f"{file.key_prefix}{entry['id']}" for entry in entries],
        "media": images.media,
        "width": _sides(file, entries, "width"),
        "height": _sides(file, entries, "height"),
        "license": licenses,
        "captured_at": [parse_time(t) if type(t := entry.get("date_captured")) is str else None for entry in entries],
        "split": [file.split] * len(entries),
    }
    if without_media:  # the listed path is the only name of such a sample that other files about it know too
        columns["sample_id"] = [name or f"coco-{entry['id']}" for name, entry in zip(names, entries, strict=True)]
    given = set().union(*entries)
    misfits: list[dict[str, Any]] = [{} for _ in entries]
    for name in SAMPLE_FIELDS:
        if name in given:
            default = columns.get(name, [None] * len(entries))
            columns[name] = [
                _sample_value(file, entry, name, own) or other
                for entry, own, other in zip(entries, misfits, default, strict=True)
            ]
    extra = sorted(given - IMAGE_FIELDS)
    metadata: list[str | None] = []
    for index, entry in enumerate(entries):
        values = {key: entry[key] for key in extra if key in entry} | misfits[index]
        values["image_id"] = entry["id"]
        if without_media and names[index] is not None:
            values["file_name"] = names[index]
        if license_urls[index] is not None:
            values["license_url"] = license_urls[index]
        if entry.get("date_captured") is not None and columns["captured_at"][index] is None:
            values["date_captured"] = entry["date_captured"]
        if "dsops" in entry:
            _apply_extension(columns, index, extension(entry), values)
        metadata.append(json_text(finite(values) if file.nonfinite else values))
    columns["metadata"] = metadata
    return columns


def _sample_value(file: CocoFile, entry: dict[str, Any], name: str, misfits: dict[str, Any]) -> Any:
    """A field of an image as the column of that name. One that is not of the column's type is put into `misfits`."""
    value = entry.get(name)
    if value is None or value == "":
        return None
    if name not in TIMES and is_id(value):
        return str(value)
    time = parse_time(value) if name in TIMES and type(value) is str else None
    if time is None:
        what = "time such as 2024-05-31T13:45:00Z" if name in TIMES else "text"
        file.warn(f"image {entry['id']}: {name} {value!r} is no {what}; kept as metadata", given=str(value))
        misfits[name] = value
    return time


def _apply_extension(columns: dict[str, list[Any]], index: int, own: dict[str, Any], metadata: dict[str, Any]) -> None:
    """What `coco_write` put below "dsops"."""
    for name in IMAGE_EXTENSION:
        if name in own:
            column = columns.setdefault(name, [None] * len(columns["key"]))
            column[index] = parse_time(own[name]) if name in TIMES else own[name]
    for name, key in (("id", "image_id"), ("file_name", "file_name")):
        if name in own.get("computed", ()):  # COCO asks for it and the version does not have it
            metadata.pop(key, None)
    metadata |= own.get("metadata", {})


def _sides(file: CocoFile, entries: list[dict[str, Any]], side: str) -> list[int | None]:
    values = [entry.get(side) for entry in entries]
    if all(type(value) is int and 0 < value <= _MAX_SIDE for value in values):
        return values
    return [None if value is None else _side(file, entry, side) for value, entry in zip(values, entries, strict=True)]


def _side(file: CocoFile, entry: dict[str, Any], side: str) -> int | None:
    value = entry[side]
    if type(value) in (int, float) and value == value and 0 < value <= _MAX_SIDE and value == int(value):
        return int(value)
    file.warn(f"image {entry['id']}: {side} {value!r} is not a number of pixels; taken as unknown", given=str(value))
    return None


def _licenses(file: CocoFile, entries: list[dict[str, Any]]) -> tuple[list[str | None], list[str | None]]:
    """Name of each image's licence (else its URL, else the id as it stands), and the URL beside a name."""
    listed = file.document.get("licenses")
    explained: dict[Any, tuple[str | None, str | None]] = {}
    for entry in listed if type(listed) is list else ():
        if type(entry) is dict and is_id(entry.get("id")):
            name, url = (value if type(value := entry.get(key)) is str and value else None for key in ("name", "url"))
            explained[entry["id"]] = (name or url, url if name else None)
    given = [value if is_id(value := entry.get("license")) and value != "" else None for entry in entries]
    for number, count in sorted(Counter(v for v in given if type(v) is int and v not in explained).items()):
        file.warn(f"license {number} of {count} images is not among the file's licenses", severity="low")
    resolved = {
        value: found if (found := explained.get(value, (None, None)))[0] else (str(value), None)
        for value in set(given) - {None}
    }
    pairs = [resolved.get(value, (None, None)) for value in given]
    return [name for name, _ in pairs], [url for _, url in pairs]
