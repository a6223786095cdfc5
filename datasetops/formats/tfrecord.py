"""A version as TFRecord files with the keys of TensorFlow's Object Detection API; written only, never read.

Corners are parts of width and height, from 0 to 1. Classes are numbered from 1 in the order of their ids in the schema, as
`label_map.pbtxt` says: 0 is the background. Attributes `iscrowd`, `difficult` and `truncated` are kept, and polygons and masks
as PNG masks of the whole image (1 inside, 0 outside) where every object of the image has one, as the API asks. Lost are
keypoints beyond their box, texts, scores, actors, groups and the like.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.export import (
    Losses,
    folder_name,
    media_names,
    new_folder,
    objects_of,
    report,
    rows_of,
    split_folders,
    write_file,
)
from datasetops.formats.geometry import geometry_extent
from datasetops.formats.rle import run_lengths
from datasetops.formats.tfrecord_file import Feature, Shards, example

_SIDES: Final = {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
_FLAGS: Final = {"iscrowd": "is_crowd", "difficult": "difficult", "truncated": "truncated"}
_DECODED: Final = ("image/jpeg", "image/png", "image/gif", "image/bmp")  # what tf.io.decode_image takes
_ALL: Final = "all"


class TfrecordWriter:
    name = "tfrecord"

    def write(self, data: ExportData, out: Path) -> ExportReport:
        """`SPLIT.tfrecord-00000-of-00002` and label_map.pbtxt. Raises DatasetOpsError where media or files fail."""
        new_folder(out)
        losses = Losses(self.name)
        labels = {item.name: number for number, item in enumerate(sorted(data.schema.classes, key=lambda c: c.id), 1)}
        write_file(out / "label_map.pbtxt", _label_map(labels))
        features, shapes = _annotated(data, labels, losses)
        folders = split_folders(data.samples)
        names = media_names(data.samples, folders)
        rows = rows_of(data.samples.select(["sample_id", "uri", "sha256", "width", "height", "media_type"]))
        files, unmasked = 1, 0
        for folder in sorted(set(folders)):
            with Shards(out, folder_name(folder) or _ALL) as shards:
                for index in (number for number, own in enumerate(folders) if own == folder):
                    row = {name: values[index] for name, values in rows.items()}
                    content = features.get(row["sample_id"], {})
                    masks = [_mask(shape, row["width"], row["height"]) for shape in shapes.get(row["sample_id"], ())]
                    if masks and all(masks):
                        content["image/object/mask"] = masks
                    else:
                        unmasked += sum(bool(mask) for mask in masks)
                    shards.write(example(_image(data, row, names[index]) | content))
            files += len(shards)
        other = Counter(kind for kind in rows["media_type"] if kind is not None and kind not in _DECODED)
        losses.add(
            sum(other.values()), f"images are of types that tf.io.decode_image does not read: {', '.join(other)}"
        )
        held = "masks are not written: other objects of their image have none, and the keys ask for one of each"
        losses.add(unmasked, held)
        losses.columns(data, samples={"split"}, annotations={"kind", "label", "x1", "attributes", "geometry"})
        return report(files, losses, data)


def _image(data: ExportData, row: dict[str, Any], name: str) -> dict[str, Feature]:
    found: dict[str, Feature] = {
        "image/filename": [name.encode()],
        "image/source_id": [row["sample_id"].encode()],
    }
    for side in ("width", "height"):
        if row[side] is not None:
            found[f"image/{side}"] = [row[side]]
    if row["sha256"] is not None:
        found["image/key/sha256"] = [row["sha256"].encode()]
        found["image/format"] = [row["media_type"].rpartition("/")[2].encode()]
        if data.copy_media:
            found["image/encoded"] = [data.read_media(row["uri"])]
    return found


def _annotated(
    data: ExportData, labels: dict[str, int], losses: Losses
) -> tuple[dict[str, dict[str, list[Any]]], dict[str, list[dict[str, Any]]]]:
    """Features of each sample that has annotations, and the geometry of its objects: lists of equal length, in the rows'
    order."""
    columns = rows_of(data.samples.select(["sample_id", "width", "height"]))
    sizes = {name: size for name, *size in zip(*columns.values(), strict=True)}
    rows = rows_of(data.annotations)
    geometries, attributes = (objects_of(data.annotations, name) for name in ("geometry", "attributes"))
    found: dict[str, dict[str, list[Any]]] = {}
    shapes: dict[str, list[dict[str, Any]]] = {}
    without = unwritten = points = 0
    for index, sample_id in enumerate(rows["sample_id"]):
        label, kind = rows["label"][index], rows["kind"][index]
        box = [rows[side][index] for side in _SIDES]
        if box[0] is None and geometries[index]:
            box = list(geometry_extent(geometries[index]))
        features = found.setdefault(sample_id, {})
        if label not in labels:
            without += 1
            continue
        if kind == "classification":
            prefix = "image/class"
        elif box[0] is not None and None not in sizes[sample_id]:
            prefix = "image/object/class"
            shapes.setdefault(sample_id, []).append(geometries[index])
            points += "keypoints" in geometries[index]
            for side, value, whole in zip(_SIDES.values(), box, sizes[sample_id] * 2, strict=True):
                features.setdefault(f"image/object/bbox/{side}", []).append(value / whole)
            for name, key in _FLAGS.items():
                features.setdefault(f"image/object/{key}", []).append(int(attributes[index].pop(name, 0) in (1, True)))
        else:
            without += 1
            continue
        features.setdefault(f"{prefix}/text", []).append(label.encode())
        features.setdefault(f"{prefix}/label", []).append(labels[label])
        unwritten += len(attributes[index])
    losses.add(without, "annotations without a class or a place are not written: tfrecord has classes and boxes")
    losses.named("attributes", unwritten)
    losses.add(points, "keypoints are not written: tfrecord has no place for them")
    return found, shapes


def _mask(geometry: dict[str, Any], width: int, height: int) -> bytes:
    """A PNG of the whole image; empty for what is neither polygons nor a mask."""
    from pycocotools import mask

    if polygons := geometry.get("polygons"):
        counts = mask.merge(mask.frPyObjects(polygons, height, width))["counts"].decode("ascii")
    elif rle := geometry.get("rle"):
        counts = rle["counts"]
    else:
        return b""
    runs = run_lengths(counts)
    inside = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T
    out = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _label_map(labels: dict[str, int]) -> bytes:
    """Text format of StringIntLabelMap."""
    quoted = {name: name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name in labels}
    return "".join(f'item {{\n  id: {labels[name]}\n  name: "{quoted[name]}"\n}}\n' for name in labels).encode()
