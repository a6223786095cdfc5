"""A version as COCO: `annotations/instances_<split>.json`, `images/<split>/…`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from datasetops.formats.base import ExportData, ExportReport, external_id
from datasetops.formats.coco_file import ANNOTATION_EXTENSION, ANNOTATION_FIELDS, IMAGE_EXTENSION, IMAGE_FIELDS
from datasetops.formats.export import (
    Losses,
    copy_media,
    has_own_id,
    media_names,
    new_folder,
    objects_of,
    reference_names,
    report,
    rows_of,
    split_folders,
    write_file,
)
from datasetops.formats.geometry import geometry_area, geometry_extent

_DECIMALS = (0, 1, 2, 3, 4, 6, 9, 12)
_CONVERTED = IMAGE_FIELDS | {"image_id", "file_name", "license_url"}  # metadata that has a field of COCO's


def write_coco(data: ExportData, out: Path) -> ExportReport:
    """One annotation file for each split. Raises DatasetOpsError where media or files fail."""
    new_folder(out)
    losses = Losses("coco")
    folders = split_folders(data.samples)
    names = media_names(data.samples, folders) if data.copy_media else reference_names(data.samples)
    paths = [str(PurePosixPath("images", folder, name)) for folder, name in zip(folders, names, strict=True)]
    files = copy_media(data, out, paths)
    images = _images(data, names)
    row_of = {sample_id: row for row, sample_id in enumerate(data.samples["sample_id"].to_pylist())}
    image_rows = [row_of[sample_id] for sample_id in data.annotations["sample_id"].to_pylist()]
    categories = _categories(data)
    annotations = _annotations(data, [images[row]["id"] for row in image_rows], categories, losses)
    for folder in sorted(set(folders)):
        licenses: dict[tuple[str, str | None], int] = {}
        document: dict[str, Any] = {
            "info": {"description": f"{data.schema.name}, schema version {data.schema.version}"},
            "images": [_licensed(image, licenses) for image, at in zip(images, folders, strict=True) if at == folder],
            "annotations": [e for e, row in zip(annotations, image_rows, strict=True) if folders[row] == folder],
            "categories": categories,
        }
        document["licenses"] = [
            {"id": number, "name": name} | ({"url": url} if url else {}) for (name, url), number in licenses.items()
        ]
        write_file(out / f"annotations/instances{f'_{folder}' if folder else ''}.json", orjson.dumps(document))
        files += 1
    return report(files, losses, data)


def _categories(data: ExportData) -> list[dict[str, Any]]:
    """The schema's classes under their own ids, then labels that the schema no longer has."""
    task = data.schema.task("keypoints")
    categories: list[dict[str, Any]] = []
    for item in data.schema.classes:
        category: dict[str, Any] = {"id": item.id, "name": item.name, "supercategory": item.parent or item.name}
        if task is not None and (not item.kinds or "keypoints" in item.kinds):
            category["keypoints"] = list(task.keypoints)
            category["skeleton"] = [[task.keypoints.index(point) + 1 for point in line] for line in task.skeleton]
        categories.append(category)
    known = {category["name"] for category in categories}
    number = max((category["id"] for category in categories), default=0)
    for name in sorted(set(data.annotations["label"].to_pylist()) - known - {None}):
        number += 1
        categories.append({"id": number, "name": name, "supercategory": name})
    return categories


def _images(data: ExportData, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = rows_of(data.samples)
    metadata = objects_of(data.samples, "metadata")
    numbers = _numbered([values.get("image_id") for values in metadata])
    images = []
    for index, (values, (number, is_new)) in enumerate(zip(metadata, numbers, strict=True)):
        row = {name: rows[name][index] for name in rows}
        own: dict[str, Any] = {name: _json_value(row[name]) for name in IMAGE_EXTENSION}
        if not has_own_id(row["sample_id"], row["sha256"]):
            own["sample_id"] = None
        image: dict[str, Any] = {"id": number, "file_name": names[index]}
        computed = ["id"] if is_new else []
        if not is_new:
            del values["image_id"]
        if row["sha256"] is None:
            if type(values.get("file_name")) is str and values["file_name"]:
                image["file_name"] = values.pop("file_name")
            else:
                computed.append("file_name")
        image |= {side: row[side] for side in ("width", "height") if row[side] is not None}
        if row["captured_at"] is not None and row["captured_at"].microsecond == 0:
            image["date_captured"] = row["captured_at"].strftime("%Y-%m-%d %H:%M:%S")
            own["captured_at"] = None
        if row["license"] is not None:
            has_url = type(values.get("license_url")) is str and values["license_url"]
            image["license"] = (row["license"], values.pop("license_url") if has_url else None)
        own["metadata"] = {name: value for name, value in values.items() if name in _CONVERTED}
        image |= {name: value for name, value in values.items() if name not in _CONVERTED}
        images.append(image | _extension(own, computed))
    return images


def _licensed(image: dict[str, Any], licenses: dict[tuple[str, str | None], int]) -> dict[str, Any]:
    """The image with its licence's number in this file in place of name and URL."""
    if "license" not in image:
        return image
    return image | {"license": licenses.setdefault(image["license"], len(licenses) + 1)}


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _extension(own: dict[str, Any], computed: list[str]) -> dict[str, Any]:
    """The field "dsops", where there is anything to put in it. `computed`: fields made up because COCO asks for them."""
    content = {name: value for name, value in (own | {"computed": computed}).items() if value not in (None, {}, [])}
    return {"dsops": content} if content else {}


def _numbered(wanted: Sequence[Any]) -> Iterator[tuple[int, bool]]:
    """Each wanted number if it is one and not taken yet, else a new number and True."""
    numbers = [value if type(value) is int else None for value in wanted]
    new = max((number for number in numbers if number is not None), default=0)
    taken: set[int] = set()
    for number in numbers:
        if number is not None and number not in taken:
            taken.add(number)
            yield number, False
        else:
            new += 1
            yield new, True


def _annotations(
    data: ExportData, image_ids: Sequence[int], categories: list[dict[str, Any]], losses: Losses
) -> list[dict[str, Any]]:
    rows = rows_of(data.annotations)
    attributes, geometries = (objects_of(data.annotations, name) for name in ("attributes", "geometry"))
    category = {item["name"]: item["id"] for item in categories}
    boxes, inexact = _xywh(data.annotations)
    losses.add(inexact, "boxes come back with a corner moved by less than 1e-9 px: no width leads to that corner")
    numbers = _numbered([_own_number(s, a) for s, a in zip(rows["sample_id"], rows["annotation_id"], strict=True)])
    entries = []
    for index, (number, is_new) in enumerate(numbers):
        row = {name: rows[name][index] for name in rows}
        own: dict[str, Any] = {name: row[name] for name in ANNOTATION_EXTENSION}
        own["annotation_id"] = row["annotation_id"] if is_new else None
        own["source"] = None if row["source"] == "import" else row["source"]
        entry: dict[str, Any] = {"id": number, "image_id": image_ids[index]}
        if row["label"] is not None:
            entry["category_id"] = category[row["label"]]
        values, computed = attributes[index], []
        if boxes[index] is not None or geometries[index]:
            computed = _place(entry, boxes[index], geometries[index], values)
        if row["score"] is not None:
            entry["score"] = row["score"]
        if row["kind"] == "text" and row["text"] is not None and "bbox" not in entry:
            entry["caption"], own["text"] = row["text"], None
        if row["kind"] == _natural_kind(entry):
            own["kind"] = None
        own["attributes"] = {name: value for name, value in values.items() if name in ANNOTATION_FIELDS}
        entry |= {name: value for name, value in values.items() if name not in ANNOTATION_FIELDS}
        entries.append(entry | _extension(own, computed))
    return entries


def _own_number(sample_id: str, annotation_id: str) -> int | None:
    text = external_id(sample_id, annotation_id)
    return int(text) if text is not None and text.isdecimal() and str(int(text)) == text else None


def _place(
    entry: dict[str, Any], box: list[float] | None, geometry: dict[str, Any], attributes: dict[str, Any]
) -> list[str]:
    """Fills in where the annotation is; gives the fields that had to be computed."""
    computed = []
    segmentation = geometry.get("rle") or geometry.get("polygons")
    if segmentation:
        entry["segmentation"] = segmentation
    if "keypoints" in geometry:
        entry["keypoints"] = geometry["keypoints"]
        if "num_keypoints" not in attributes:
            entry["num_keypoints"] = sum(visible > 0 for visible in geometry["keypoints"][2::3])
            computed.append("num_keypoints")
    if box is None:
        x1, y1, x2, y2 = geometry_extent(geometry)
        box = [x1, y1, x2 - x1, y2 - y1]
        computed.append("bbox")
    entry["bbox"] = box
    if "area" not in attributes:
        area = geometry_area(geometry)
        entry["area"] = box[2] * box[3] if area is None else area
        computed.append("area")
    entry["iscrowd"] = attributes.pop("iscrowd") if attributes.get("iscrowd") == 1 else 0
    return computed


def _natural_kind(entry: dict[str, Any]) -> str | None:
    """The kind that the reader takes these fields for."""
    if "keypoints" in entry:
        return "keypoints"
    if "segmentation" in entry:
        return "mask" if isinstance(entry["segmentation"], dict) else "polygon"
    return "box" if "bbox" in entry else "text" if "caption" in entry else None


def _xywh(table: pa.Table) -> tuple[list[list[float] | None], int]:
    """Boxes as COCO has them, None where a row has none, and how many do not lead back to the same xyxy."""
    x1, y1, x2, y2 = (table[name].to_numpy(zero_copy_only=False) for name in ("x1", "y1", "x2", "y2"))
    given = ~np.isnan(x1)
    width, height = side_of(x1, x2), side_of(y1, y2)
    inexact = int(np.count_nonzero(given & ((x1 + width != x2) | (y1 + height != y2))))
    columns = np.stack([x1, y1, width, height], axis=1).tolist()
    boxes = [
        [int(v) if v.is_integer() else v for v in box] if ok else None for box, ok in zip(columns, given, strict=True)
    ]
    return boxes, inexact


def side_of(near: NDArray[Any], far: NDArray[Any]) -> NDArray[Any]:
    """A length that leads from `near` to exactly `far` in floating point, of as few decimals as possible."""
    exact = far - near
    length: NDArray[Any] = exact.copy()
    open_ = np.ones(len(length), bool)
    candidates = [np.round(exact, decimals) for decimals in _DECIMALS]
    for candidate in (*candidates, exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)):
        fits = open_ & (near + candidate == far)
        length[fits] = candidate[fits]
        open_ &= ~fits
    return length
