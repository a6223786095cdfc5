"""A version as Pascal VOC: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/<split>.txt`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from datasetops.formats.base import ExportData, ExportReport
from datasetops.formats.export import (
    Losses,
    copy_media,
    folder_name,
    media_names,
    new_folder,
    objects_of,
    reference_names,
    report,
    rows_of,
    write_file,
)
from datasetops.formats.geometry import geometry_extent
from datasetops.formats.texts import to_text
from datasetops.formats.xmlvalue import add_members, add_value

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("x1", "y1", "x2", "y2")
FLAGS = ("difficult", "truncated", "occluded")  # 0 or 1 in the files, true or false as attributes
_METADATA_TAKEN = ("filename", "size", "object", "depth")
_ATTRIBUTES_TAKEN = ("name", "bndbox")


def write_voc(data: ExportData, out: Path) -> ExportReport:
    """Raises DatasetOpsError where media or files fail."""
    new_folder(out)
    losses = Losses("voc")
    names = media_names(data.samples, [""] * len(data.samples), by_stem=True)
    listed = names if data.copy_media else reference_names(data.samples)
    files = copy_media(data, out, [f"JPEGImages/{name}" for name in names])
    objects = _objects(data, losses)
    rows = rows_of(data.samples)
    sets: dict[str, list[str]] = {}
    unwritten = 0
    for index, metadata in enumerate(objects_of(data.samples, "metadata")):
        stem = PurePosixPath(names[index]).stem
        root = Element("annotation")
        if rows["sha256"][index] is not None:
            SubElement(root, "filename").text = listed[index]
        elif isinstance(metadata.get("file_name"), str):
            SubElement(root, "filename").text = metadata.pop("file_name")
        _add_size(root, rows["width"][index], rows["height"][index], metadata.pop("depth", None))
        unwritten += add_members(root, metadata, _METADATA_TAKEN)
        root.extend(objects.get(rows["sample_id"][index], ()))
        indent(root)
        write_file(out / "Annotations" / f"{stem}.xml", tostring(root, encoding="utf-8"))
        if rows["split"][index] is not None:
            sets.setdefault(rows["split"][index], []).append(stem)
    for split, stems in sets.items():
        write_file(out / "ImageSets" / "Main" / f"{folder_name(split)}.txt", "".join(f"{s}\n" for s in stems).encode())
    losses.named("metadata", unwritten)
    losses.sample_ids(data)
    losses.columns(data, samples={"split", "metadata"}, annotations={"kind", "label", "x1", "attributes"})
    return report(files + len(names) + len(sets), losses, data)


def _objects(data: ExportData, losses: Losses) -> dict[str, list[Element]]:
    """Object elements of each sample, for annotations that have a box or a shape to put one around."""
    rows = rows_of(data.annotations)
    objects: dict[str, list[Element]] = {}
    without_box = unwritten = 0
    geometries, attributes = (objects_of(data.annotations, name) for name in ("geometry", "attributes"))
    for index, sample_id in enumerate(rows["sample_id"]):
        box = [rows[side][index] for side in SIDES]
        if box[0] is None and geometries[index]:
            box = list(geometry_extent(geometries[index]))
        label = rows["label"][index]
        if box[0] is None or label is None:
            without_box += 1
            continue
        element = Element("object")
        SubElement(element, "name").text = label
        given = attributes[index]
        given |= {name: int(given[name]) for name in FLAGS if isinstance(given.get(name), bool)}
        unwritten += add_members(element, given, _ATTRIBUTES_TAKEN)
        bndbox = SubElement(element, "bndbox")
        for corner, value in zip(CORNERS, box, strict=True):
            SubElement(bndbox, corner).text = to_text(int(value) if value.is_integer() else value)
        objects.setdefault(sample_id, []).append(element)
    losses.add(without_box, "annotations without a class or a place are not written: voc has only boxes")
    losses.named("attributes", unwritten)
    return objects


def _add_size(root: Element, width: int | None, height: int | None, depth: Any) -> None:
    values = {"width": width, "height": height, "depth": depth}
    if any(value is not None for value in values.values()):
        size = SubElement(root, "size")
        for name, value in values.items():
            if value is not None:
                add_value(size, name, value)
