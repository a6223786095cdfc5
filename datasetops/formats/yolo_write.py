"""A version as YOLO: `data.yaml`, `images/<split>/x.jpg`, `labels/<split>/x.txt`.

Ultralytics refuses a class that is not below the number of names, so classes are numbered anew where the schema's ids
have gaps. Names carry them back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.export import (
    Losses,
    copy_media,
    media_names,
    new_folder,
    objects_of,
    reference_names,
    report,
    rows_of,
    split_folders,
    write_file,
)
from datasetops.formats.geometry import geometry_extent
from datasetops.formats.yolo_config import NO_SPLIT
from datasetops.schema import LabelSchema

_OTHER = {"mask": "masks are written as their boxes", "keypoints": "sets of keypoints are written as their boxes"}


def write_yolo(data: ExportData, out: Path) -> ExportReport:
    """Raises DatasetOpsError where media or files fail."""
    new_folder(out)
    losses = Losses("yolo")
    folders = split_folders(data.samples)
    names = media_names(data.samples, folders, by_stem=True) if data.copy_media else reference_names(data.samples)
    places = names
    if data.copy_media:
        places = [f"{folder}/{name}" if folder else name for folder, name in zip(folders, names, strict=True)]
    files = copy_media(data, out, [f"images/{place}" for place in places])
    lines = _lines(data, losses)
    rows = rows_of(data.samples.select(["sample_id", "sha256", "split"]))
    for sample_id, digest, place in zip(rows["sample_id"], rows["sha256"], places, strict=True):
        if digest is not None:
            text = "".join(f"{line}\n" for line in lines.get(sample_id, ()))
            write_file(out / "labels" / f"{place.rpartition('.')[0] or place}.txt", text.encode())
            files += 1
    config: dict[str, Any] = {"path": "."}
    splits = {split: folder for split, folder in zip(rows["split"], folders, strict=True) if split is not None}
    if data.copy_media:
        config |= {split: f"images/{splits[split]}" for split in sorted(splits) if split not in NO_SPLIT}
    unplaced = [split for split in rows["split"] if split is not None and split not in config]
    losses.named("split", len(unplaced))
    numbers = _numbers(data.schema)
    config["names"] = list(numbers)
    renumbered = sum(numbers[item.name] != item.id for item in data.schema.classes)
    losses.add(
        renumbered, "class ids are not written: yolo counts classes from 0 without gaps, and names them in data.yaml"
    )
    write_file(out / "data.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
    losses.sample_ids(data)
    losses.columns(data, samples={"split"}, annotations={"kind", "label", "x1", "geometry"})
    return report(files + 1, losses, data)


def _numbers(schema: LabelSchema) -> dict[str, int]:
    """Class name → its number in label files, from 0 without gaps, in the order of the schema's ids."""
    ordered = sorted(schema.classes, key=lambda item: item.id)
    return {item.name: number for number, item in enumerate(ordered)}


def _lines(data: ExportData, losses: Losses) -> dict[str, list[str]]:
    rows = rows_of(data.annotations)
    geometries = objects_of(data.annotations, "geometry")
    samples = rows_of(data.samples.select(["sample_id", "width", "height", "sha256"]))
    sizes = {s: (w, h) for s, w, h, digest in zip(*samples.values(), strict=True) if w and h and digest}
    numbers = _numbers(data.schema)
    lines: dict[str, list[str]] = {}
    lost: Counter[str] = Counter()
    for index, sample_id in enumerate(rows["sample_id"]):
        box = [rows[side][index] for side in ("x1", "y1", "x2", "y2")]
        number = numbers.get(rows["label"][index])
        geometry = geometries[index]
        if number is None or (box[0] is None and not geometry):
            lost["annotations without a class of the schema or a place are not written"] += 1
        elif sample_id not in sizes:
            lost["annotations of images that are not at hand or of unknown size are not written"] += 1
        else:
            outlines = list(_outlines(box, geometry, rows["kind"][index], lost))
            lines.setdefault(sample_id, []).extend(_text(number, outline, sizes[sample_id]) for outline in outlines)
    for what, count in lost.items():
        losses.add(count, what)
    return lines


def _outlines(box: list[float], geometry: dict[str, Any], kind: str, lost: Counter[str]) -> Iterator[list[float]]:
    """Corners of a box as (x1, y1, x2, y2), or the points of each polygon."""
    rings = geometry.get("polygons", [])
    if not rings:
        if kind in _OTHER:
            lost[_OTHER[kind]] += 1
        yield box if box[0] is not None else list(geometry_extent(geometry))
        return
    if box[0] is not None:
        lost["boxes beside polygons are not written"] += 1
    if len(rings) > 1:
        lost["annotations of several polygons become one annotation for each of them"] += 1
    yield from rings


def _text(number: int, outline: list[float], size: tuple[int, int]) -> str:
    values = [value / size[axis % 2] for axis, value in enumerate(outline)]
    if len(values) == 4:
        x1, y1, x2, y2 = values
        values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    return " ".join([str(number), *(repr(float(value)) for value in values)])
