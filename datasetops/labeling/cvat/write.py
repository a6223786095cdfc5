"""Tasks as a zip that CVAT imports: images, `annotations.xml` in "CVAT for images 1.1", `labels.json`."""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import orjson
from numpy.typing import NDArray

from datasetops.errors import StoreError
from datasetops.formats.rle import rle_fault
from datasetops.images import ImageError, read_header
from datasetops.labeling.base import Row, Task
from datasetops.labeling.cvat.labels import CvatLabels
from datasetops.labeling.cvat.runs import to_runs
from datasetops.labeling.exchange import ID_ATTRIBUTE, as_text, asked_of, box_of, fits, kinds_of, text_attribute
from datasetops.labeling.masks import decoded
from datasetops.labeling.orientation import mask_to_shown, shown_size, to_shown
from datasetops.progress import Progress
from datasetops.schema import LabelSchema

_SUFFIXES: Final = {"jpeg": "jpg", "tiff": "tif", "x-portable-pixmap": "ppm"}
_NOT_IN_XML: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIDES: Final = ("xtl", "ytl", "xbr", "ybr")
_RIGHT: Final = 0.01  # pixels by which four points may miss a rectangle


def write_cvat(
    tasks: Sequence[Task],
    schema: LabelSchema,
    out: Path,
    *,
    read_media: Callable[[str], bytes],
    progress: Progress,
) -> list[str]:
    """Writes the zip and gives a sentence for each kind of value that it cannot hold. Raises DatasetOpsError."""
    part = out.with_name(f"{out.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            losses = _fill(archive, tasks, schema, read_media, progress)
        part.replace(out)
    except OSError as error:
        raise StoreError(
            f"{out} cannot be written: {error.strerror}.", remedy="Free space, or name another."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return [f"{count} {what}." for what, count in losses.items()]


def file_stem(sample_id: str) -> str:
    """The name of a sample's image without its suffix; `urllib.parse.unquote` gives the sample_id back."""
    return quote(sample_id, safe=" ")


def _fill(
    archive: zipfile.ZipFile,
    tasks: Sequence[Task],
    schema: LabelSchema,
    read_media: Callable[[str], bytes],
    progress: Progress,
) -> Counter[str]:
    losses: Counter[str] = Counter()
    used: dict[str, set[str]] = {}
    for task in tasks:
        for row in task.annotations:
            if row.get("label") is not None:
                used.setdefault(row["label"], set()).add(row["kind"])
    labels = CvatLabels(schema, used)
    images: dict[str, Element] = {}
    written: set[str] = set()
    for task in progress(tasks, len(tasks), "writing images"):
        if task.sample_id in written:
            losses["tasks ask for an image once more; it is written once"] += 1
            continue
        written.add(task.sample_id)
        data = read_media(task.sample_id)
        try:
            media_type = read_header(data).media_type.partition("/")[2]
        except ImageError as error:
            losses[f"images are left out: {error}"] += 1
            continue
        name = f"{file_stem(task.sample_id)}.{_SUFFIXES.get(media_type, media_type)}"
        archive.writestr(f"images/{name}", data)
        images[name] = _Image(task, schema, labels, losses).element(name)
    archive.writestr("annotations.xml", _document(images, labels.specs), zipfile.ZIP_DEFLATED)
    archive.writestr("labels.json", orjson.dumps(labels.specs, option=orjson.OPT_INDENT_2), zipfile.ZIP_DEFLATED)
    return losses


def _document(images: Mapping[str, Element], specs: Sequence[Mapping[str, Any]]) -> bytes:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for tag, text in (("id", "0"), ("name", "dsops"), ("size", str(len(images))), ("mode", "annotation")):
        SubElement(task, tag).text = text
    labels = SubElement(task, "labels")
    for spec in specs:
        _label(labels, spec)
        for sublabel in spec.get("sublabels", ()):
            SubElement(_label(labels, sublabel), "parent").text = spec["name"]
    for number, name in enumerate(sorted(images)):  # CVAT sorts by name, and falls back on this number
        images[name].set("id", str(number))
        root.append(images[name])
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _label(parent: Element, spec: Mapping[str, Any]) -> Element:
    label = SubElement(parent, "label")
    for key in ("name", "color", "type"):
        SubElement(label, key).text = spec[key]
    attributes = SubElement(label, "attributes")
    for item in spec["attributes"]:
        attribute = SubElement(attributes, "attribute")
        for key in ("name", "mutable", "input_type", "default_value"):
            SubElement(attribute, key).text = str(item[key])
        SubElement(attribute, "values").text = "\n".join(item["values"])
    if "svg" in spec:
        SubElement(label, "svg").text = spec["svg"]
    return label


class _Image:
    """One task's `<image>`; what it cannot say is counted in `losses`."""

    def __init__(self, task: Task, schema: LabelSchema, labels: CvatLabels, losses: Counter[str]) -> None:
        self._task = task
        self._schema = schema
        self._labels = labels
        self._losses = losses
        self._size = task.size
        self._groups = 0

    def element(self, name: str) -> Element:
        width, height = shown_size(self._size)
        image = Element("image", {"id": "", "name": name, "width": str(width), "height": str(height)})
        for row in self._task.annotations:
            image.extend(self._shapes(row))
        return image

    def _shapes(self, row: Row) -> list[Element]:
        """One element, several for polygons of several rings, none for what CVAT cannot show."""
        kind, label = row["kind"], row.get("label")
        if label is not None and self._schema.find(label) is None:
            self._losses[f"annotations are left out: the schema has no class {label!r}"] += 1
            return []
        if label is None and kind != "text":
            self._losses[f"annotations of the kind {kind} are left out: they have no class"] += 1
            return []
        try:
            shapes = list(self._places(row))
        except ValueError as error:
            self._losses[f"annotations of the kind {kind} are left out: {error}"] += 1
            return []
        group = {}
        if len(shapes) > 1:
            self._groups += 1
            group = {"group_id": str(self._groups)}
        for shape in shapes:
            shape.attrib |= {"label": self._labels.name(label, kind), "source": "file", **group}
            if shape.tag not in ("tag", "skeleton"):
                shape.set("occluded", "0")
            if shape.tag != "tag":
                shape.set("z_order", "0")
            for name, text in self._attributes(row):
                SubElement(shape, "attribute", {"name": name}).text = text
        return shapes

    def _places(self, row: Row) -> Iterator[Element]:
        """Raises ValueError for a row whose place CVAT has no form for."""
        kind, geometry, box = row["kind"], row.get("geometry") or {}, box_of(row)
        if kind == "classification" or (kind == "text" and box is None and not geometry):
            yield Element("tag")
        elif "polygons" in geometry and kind == "polygon":
            for ring in geometry["polygons"]:
                yield Element("polygon", {"points": _points(self._shown(ring))})
        elif "rle" in geometry and kind == "mask":
            fault = rle_fault(geometry["rle"], self._size.width, self._size.height)
            if fault:
                raise ValueError(fault)
            mask = to_runs(mask_to_shown(decoded(geometry["rle"]), self._size))
            place = {name: str(value) for name, value in mask._asdict().items() if name != "runs"}
            yield Element("mask", {"rle": ", ".join(map(str, mask.runs))} | place)
        elif "keypoints" in geometry and kind == "keypoints":
            yield self._skeleton(geometry["keypoints"])
        elif box is not None and kind in ("box", "text"):
            yield self._box(box, geometry)
        else:
            raise ValueError("they have no place in the image")

    def _box(self, box: list[float], geometry: Mapping[str, Any]) -> Element:
        corners = self._shown(box)
        sides: list[float] = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
        rotation = 0.0
        rings = geometry.get("polygons") or []
        turned = _rectangle(self._shown(rings[0])) if len(rings) == 1 and len(rings[0]) == 8 else None
        if turned is not None:
            sides, rotation = turned
        elif geometry:
            self._losses["boxes have a geometry that is no rectangle; only the box is written"] += 1
        places = {name: _float(side) for name, side in zip(_SIDES, sides, strict=True)}
        return Element("box", places | ({"rotation": _float(rotation)} if rotation else {}))

    def _skeleton(self, keypoints: Sequence[float]) -> Element:
        task = self._schema.task("keypoints")
        names = task.keypoints if task else ()
        if len(keypoints) != 3 * len(names):
            raise ValueError(f"the schema names {len(names)} points, not as many as they have")
        triples = np.asarray(keypoints, np.float64).reshape(-1, 3)
        skeleton = Element("skeleton")
        for name, point, visible in zip(names, self._shown(triples[:, :2]), triples[:, 2], strict=True):
            flags = {"outside": str(int(visible == 0)), "occluded": str(int(visible == 1))}
            SubElement(skeleton, "points", {"label": name, "source": "file", **flags, "points": _points([point])})
        return skeleton

    def _shown(self, pairs: Any) -> NDArray[np.float64]:
        points = to_shown(np.asarray(pairs, np.float64).reshape(-1, 2), self._size)
        if not np.isfinite(points).all():
            raise ValueError("a coordinate is not a number")
        return points

    def _attributes(self, row: Row) -> Iterator[tuple[str, str]]:
        label, given = row.get("label"), dict(row.get("attributes") or {})
        if row.get("annotation_id"):
            yield ID_ATTRIBUTE, row["annotation_id"]
        for attribute in asked_of(self._schema, label):
            value = given.pop(attribute.name, None)
            if value is None:
                if attribute.type in ("bool", "number"):
                    default = "false" if attribute.type == "bool" else "0"
                    self._losses[f"annotations leave {attribute.name!r} open: CVAT answers {default} for them"] += 1
            elif fits(attribute, value):
                yield attribute.name, self._clean(as_text(value))
            else:
                self._losses[f"values of {attribute.name!r} are not written: they do not fit its type"] += 1
        self._losses.update(f"values of {name!r} are not written: the schema does not ask for them" for name in given)
        if row["kind"] == "text":
            if "text" not in kinds_of(self._schema, label) and label is not None:
                self._losses[f"texts of {label!r} come back as boxes or classes: the schema asks for no text"] += 1
            yield text_attribute(self._schema), self._clean(row.get("text") or "")

    def _clean(self, text: str) -> str:
        clean = _NOT_IN_XML.sub("\ufffd", text)
        if clean != text:
            self._losses["texts have control characters, which are written as \ufffd"] += 1
        return clean


def _points(points: Any) -> str:
    return ";".join(f"{_float(x)},{_float(y)}" for x, y in points)


def _float(value: float) -> str:
    return repr(float(value))


def _rectangle(ring: NDArray[np.float64]) -> tuple[list[float], float] | None:
    """Sides and clockwise degrees of a turned rectangle (4, 2), None for another shape."""
    across, down = ring[1] - ring[0], ring[3] - ring[0]
    if across[0] * down[1] - across[1] * down[0] < 0:  # a mirrored image has its corners the other way round
        across, down = down, across
    width, height = float(np.hypot(*across)), float(np.hypot(*down))
    square = abs(float(across @ down)) <= _RIGHT * max(width, height)
    closed = np.abs(ring[0] + across + down - ring[2]).max() <= _RIGHT
    if not (square and closed and width and height):
        return None
    x, y = ring.mean(axis=0).tolist()
    degrees = math.degrees(math.atan2(across[1], across[0])) % 360
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2], degrees
