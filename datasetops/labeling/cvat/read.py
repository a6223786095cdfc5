"""CVAT's exports: `annotations.xml` of "CVAT for images 1.1", and files and zips by their content."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from datasetops.errors import FormatError
from datasetops.formats.columns import parse_time
from datasetops.labeling.base import Answer, AnsweredTask, ImageSize
from datasetops.labeling.cvat.coco import read_coco
from datasetops.labeling.cvat.labels import UNANSWERED
from datasetops.labeling.cvat.runs import Runs, from_runs
from datasetops.labeling.exchange import (
    Found,
    Says,
    class_of,
    counted,
    outside,
    region_values,
    regions,
    sample_of,
    seen_as,
    textless_label,
    told,
    turned_corners,
    unknown_classes,
)
from datasetops.labeling.masks import encoded
from datasetops.labeling.orientation import mask_to_stored, shown_size, to_stored
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema

_LIMIT: Final = 2**31  # bytes of one unpacked member
_SHAPES: Final = ("box", "polygon", "mask", "skeleton", "points", "tag")
_OTHERS: Final = ("polyline", "cuboid", "ellipse")
_REMEDY: Final = 'Export again as "CVAT for images 1.1".'


def read_cvat(
    path: Path, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
) -> list[AnsweredTask]:
    """Raises FormatError, which names file and line, for what is no export of CVAT's."""
    tasks: list[AnsweredTask] = []
    for name, data in _documents(path):
        if data[:2] == b"\x1f\x8b" or data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            tasks += read_coco(name, data, schema, sizes, actor=actor)
        else:
            tasks += _Export(name, _parsed(name, data), schema, sizes, actor).tasks()
    return tasks


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The annotation files in `path` with the names that errors use."""
    try:
        if not zipfile.is_zipfile(path):
            yield str(path), path.read_bytes()
            return
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
            names = [name for name in sorted(members) if PurePosixPath(name).name == "annotations.xml"]
            names = names or [name for name in sorted(members) if _is_coco(PurePosixPath(name))]
            if not names:
                raise FormatError(
                    f"{path} holds neither annotations.xml nor annotations/instances_*.json.", remedy=_REMEDY
                )
            for name in names:
                if members[name].file_size > _LIMIT:
                    raise FormatError(f"{path}: {name} unpacks to more than 2 GiB.", remedy="Export in several parts.")
                yield f"{path}: {name}", archive.read(name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise FormatError(f"{path} cannot be unpacked: {error}.", remedy="Fetch or export it again.") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.", remedy="Name the exported file.") from error


def _is_coco(path: PurePosixPath) -> bool:
    return path.suffix == ".json" and path.stem.startswith(("instances_", "person_keypoints_"))


def _parsed(name: str, data: bytes) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(data)
    except DefusedXmlException as error:
        raise FormatError(f"{name}: XML with entities is refused ({type(error).__name__}).", remedy=_REMEDY) from error
    except ParseError as error:
        line, column = error.position
        reason = str(error).partition(": line")[0]
        message = f"{name}, line {line}, column {column + 1}: broken XML: {reason}."
        raise FormatError(message, remedy="Fetch or export the file again.") from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise FormatError(f"{name}, line 1: broken XML: {error}.", remedy=_REMEDY) from error
    if root.tag != "annotations":
        raise FormatError(f"{name} begins with <{root.tag}>, not with <annotations>.", remedy=_REMEDY)
    if root.find("track") is not None:
        raise FormatError(f"{name} has tracks: it is a video's export.", remedy=_REMEDY)
    return root


class _Export:
    """One `annotations.xml`: of a task, of a job, or of a project, whose images name their tasks."""

    def __init__(
        self, name: str, root: Element, schema: LabelSchema, sizes: Mapping[str, ImageSize], actor: str | None
    ) -> None:
        self._name = name
        self._root = root
        self._schema = schema
        self._sizes = sizes
        self._actor = actor
        meta = root.find("meta")
        holders = [] if meta is None else [h for tag in ("job", "task", "project") if (h := meta.find(tag)) is not None]
        self._holder = holders[0] if holders else Element("task")
        self._task_of = {t.findtext("id", "").strip(): t for t in self._holder.iterfind("tasks/task")}

    def tasks(self) -> list[AnsweredTask]:
        return [self._task(number, image) for number, image in enumerate(self._root.iterfind("image"))]

    def _task(self, number: int, image: Element) -> AnsweredTask:
        name = image.get("name", "")
        if not name:
            raise FormatError(f"{self._name}: image {number} of the file has no name.", remedy=_REMEDY)
        holder = self._task_of.get(image.get("task_id", ""), self._holder)
        owner = f"{holder.tag} {holder.findtext('id', '').strip()}"
        sample_id = sample_of(name, self._sizes)
        width, height = _side(image.get("width")), _side(image.get("height"))
        size = self._sizes.get(sample_id) or ImageSize(width or 1, height or 1)
        frame, fault = seen_as(size, width, height, turned=True)
        reader = _Image(image, self._schema, frame)
        updated = parse_time(holder.findtext("updated", ""))
        answer = Answer(
            answer_id=sha256_hex(canonical_json([owner, name]))[:16],
            actor=self._actor or _who(holder) or _who(self._holder) or "unknown",
            status="done",
            regions=regions(reader.found()),
            unread=counted(reader.says.unread),
            updated_at=updated.isoformat() if updated else None,
            problems=(*([fault] if fault else ()), *counted(reader.says.problems)),
        )
        return AnsweredTask(f"{owner}, image {image.get('id', number)}", sample_id, "", (answer,))


def _who(holder: Element) -> str | None:
    for role in ("assignee", "owner"):
        text = (holder.findtext(f"{role}/username") or holder.findtext(role) or "").strip()
        if text:
            return text
    return None


def _side(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and 0 < len(text) < 10 and int(text) else None


class _Image:
    """The shapes of one `<image>`. `frame` is the size and orientation that CVAT's coordinates have."""

    def __init__(self, image: Element, schema: LabelSchema, frame: ImageSize) -> None:
        self._image = image
        self._schema = schema
        self._frame = frame
        self._unknown: Counter[str] = Counter()
        self.says = Says()

    def found(self) -> list[Found]:
        """Sound shapes in the file's order; all others are told in `says`."""
        found: list[Found] = []
        rings: dict[tuple[str, str], list[list[float]]] = {}  # of a group and pre-annotation: several are one region
        where = []
        for number, shape in enumerate((s for s in self._image if s.tag in _SHAPES), start=1):
            name = f"{shape.tag} {number} ({shape.get('label', '')})"
            try:
                region = self._region(shape)
            except ValueError as error:
                self.says.unread.append(f"{name} is left out: {error}")
                continue
            if region is None:
                continue
            if shape.tag == "polygon" and region.annotation_id and shape.get("group_id", "0") != "0":
                own = region.values["geometry"]["polygons"]
                others = rings.setdefault((shape.get("group_id", ""), region.annotation_id), own)
                if others is not own:
                    others += own
                    continue
            found.append(region)
            where.append((name, region.values))
        self.says.problems += outside(where, self._frame)
        self.says.unread += unknown_classes(self._unknown, self._schema)
        for tag, count in Counter(shape.tag for shape in self._image if shape.tag in _OTHERS).items():
            self.says.unread.append(f"{count} of the form {tag} left out: no kind of annotation has it")
        return found

    def _region(self, shape: Element) -> Found | None:
        """None, and counted, for a class that is not known. Raises ValueError."""
        name = shape.get("label", "")
        label = class_of(name, self._schema)
        if label is None and ("text" not in self._schema.kinds or name != textless_label(self._schema)):
            self._unknown[name] += 1
            return None
        given = {child.get("name", ""): child.text or "" for child in shape.iterfind("attribute")}
        given = {name: value for name, value in given.items() if value != UNANSWERED}
        if shape.get("occluded") == "1":
            given["occluded"] = "true"
        values = self._place(shape)
        more = told(given, values["kind"], label, self._schema, self.says)
        values |= {"kind": more.kind, "text": more.text, "attributes": more.attributes}
        return Found(region_values(label=label, **values), more.annotation_id)

    def _place(self, shape: Element) -> dict[str, Any]:
        """Kind, box and geometry. Raises ValueError."""
        if shape.tag == "tag":
            return {"kind": "classification"}
        if shape.tag == "box":
            return self._box(shape)
        if shape.tag == "mask":
            sides = [_whole(shape, name) for name in ("left", "top", "width", "height")]
            runs = Runs([_whole(shape, "rle", part) for part in shape.get("rle", "").split(",")], *sides)
            mask, cut = from_runs(runs, *shown_size(self._frame))
            if cut:
                self.says.problems.append(
                    f"mask ({shape.get('label')}): {cut} pixels lie outside the image and are cut off"
                )
            return {"kind": "mask", "geometry": {"rle": encoded(mask_to_stored(mask, self._frame))}}
        if shape.tag == "skeleton":
            return {"kind": "keypoints", "geometry": {"keypoints": self._keypoints(shape)}}
        points = self._stored(_pairs(shape))
        if shape.tag == "polygon":
            if len(points) < 3:
                raise ValueError(f"it has {len(points)} points; a polygon has at least three")
            return {"kind": "polygon", "geometry": {"polygons": [points.ravel().tolist()]}}
        task = self._schema.task("keypoints")
        if task is not None and len(task.keypoints) != len(points):
            raise ValueError(f"it has {len(points)} points; the schema names {len(task.keypoints)}")
        return {"kind": "keypoints", "geometry": {"keypoints": [v for x, y in points.tolist() for v in (x, y, 2)]}}

    def _box(self, shape: Element) -> dict[str, Any]:
        x1, y1, x2, y2 = (_number(name, shape.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
        degrees = _number("rotation", shape.get("rotation", "0"))
        if not degrees:
            corners = self._stored([(x1, y1), (x2, y2)])
            return {"kind": "box", "box": [*corners.min(axis=0), *corners.max(axis=0)]}
        ring = self._stored(turned_corners((x1, y1, x2, y2), degrees))
        box = [*ring.min(axis=0), *ring.max(axis=0)]
        return {"kind": "box", "box": box, "geometry": {"polygons": [ring.ravel().tolist()]}}

    def _keypoints(self, skeleton: Element) -> list[float]:
        elements = {element.get("label", ""): element for element in skeleton.iterfind("points")}
        task = self._schema.task("keypoints")
        names = task.keypoints if task else tuple(elements)
        strange = sorted(elements.keys() - set(names))
        if strange:
            raise ValueError(f"the schema has no keypoint {strange[0]!r}")
        keypoints: list[float] = []
        for name in names:
            element = elements.get(name)
            if element is None:
                keypoints += [0.0, 0.0, 0]
                continue
            pairs = _pairs(element)
            if len(pairs) != 1:
                raise ValueError(f"its point {name!r} has {len(pairs)} places")
            visible = 0 if element.get("outside") == "1" else 1 if element.get("occluded") == "1" else 2
            keypoints += [*self._stored(pairs)[0].tolist(), visible]
        return keypoints

    def _stored(self, points: Any) -> NDArray[np.float64]:
        return to_stored(points, self._frame)


def _pairs(shape: Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"points {shape.get('points', '')[:80]!r} are no pairs of numbers")
    return [(_number("points", x), _number("points", y)) for x, y in pairs]


def _number(name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} {text!r} is not a number" if text else f"it has no {name}")
    return value


def _whole(shape: Element, name: str, text: str | None = None) -> int:
    value = _number(name, shape.get(name) if text is None else text.strip())
    if value != int(value) or abs(value) >= 2**31:
        raise ValueError(f"{name} {value:g} is not a whole number of pixels")
    return int(value)
