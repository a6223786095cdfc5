"""What readers of exchange files share: classes by their names there, attributes by their types, checks of places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from datasetops.formats.extents import extent_faults
from datasetops.formats.geometry import geometry_extent
from datasetops.labeling.base import REGION_COLUMNS, ImageSize, Region
from datasetops.labeling.orientation import shown_size
from datasetops.records import KINDS, canonical_json, sha256_hex
from datasetops.schema import Attribute, LabelSchema

ID_ATTRIBUTE: Final = "dsops_id"  # carries the annotation_id of a pre-annotation through the tool
_SIDES: Final = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Found:
    """A region that was read. `name`: the tool's own for it, if it has any; `annotation_id`: what it began as."""

    values: dict[str, Any]
    annotation_id: str | None = None
    name: str | None = None


@dataclass
class Says:
    """Sentences about an answer while it is read: `unread` and `problems` as in `Answer`."""

    unread: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Told:
    """What a region's attributes in the tool say about it."""

    kind: str
    text: str | None = None
    annotation_id: str | None = None
    attributes: dict[str, Any] | None = None


def asked_of(schema: LabelSchema, label: str | None) -> list[Attribute]:
    """The attributes that are asked of a class; of no class, those that are asked of all."""
    return [item for item in schema.attributes if not item.classes or label in item.classes]


def kinds_of(schema: LabelSchema, label: str | None) -> tuple[str, ...]:
    """The kinds of annotation that a class is used in; text alone for no class."""
    item = schema.find(label) if label is not None else None
    return ("text",) if item is None else item.kinds or schema.kinds


def text_attribute(schema: LabelSchema) -> str:
    """The name under which a tool carries the text of a region: one that no attribute of the schema has."""
    return "dsops_text" if any(item.name == "text" for item in schema.attributes) else "text"


def textless_label(schema: LabelSchema) -> str:
    """The label under which a tool carries texts that have no class."""
    return "text" if schema.find("text") is None else "dsops_text"


def qualified(label: str, kind: str) -> str:
    """The name of a second label for a class, where one name cannot stand for two kinds."""
    return f"{label} ({kind})"


def class_of(name: str, schema: LabelSchema) -> str | None:
    """The class that a tool's label stands for, undoing `qualified`; None where there is none."""
    plain, _, kind = name.rpartition(" (")
    stripped = plain if kind.removesuffix(")") in KINDS and kind.endswith(")") else name
    return next((label for label in (name, stripped) if schema.find(label) is not None), None)


def unknown_classes(counts: Mapping[str, int], schema: LabelSchema) -> list[str]:
    """A sentence for each label that stands for no class of the schema, with the number of its regions."""
    sentences = []
    for name, count in counts.items():
        nearest = schema.nearest(name)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        what = "1 region is" if count == 1 else f"{count} regions are"
        sentences.append(f"{what} left out: the schema {schema.name} has no class {name!r}{hint}")
    return sentences


def typed(attribute: Attribute, text: str) -> bool | int | float | str | None:
    """An attribute's value from its text in a tool, None where it was not answered. Raises ValueError."""
    if text == "":
        return None
    if attribute.type == "bool":
        if text.casefold() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.casefold() == "true"
    if attribute.type == "choice":
        if text not in attribute.values:
            raise ValueError(f"{text!r} is none of {', '.join(attribute.values)}")
        return text
    return _number(text) if attribute.type == "number" else text


def told(given: Mapping[str, str], kind: str, label: str | None, schema: LabelSchema, says: Says) -> Told:
    """Texts by name as the schema's attributes, the id of the pre-annotation, and the text of what has any."""
    rest = dict(given)
    result = Told(kind, annotation_id=rest.pop(ID_ATTRIBUTE, "") or None)
    kinds = kinds_of(schema, label)
    if "text" in kinds:
        text = rest.pop(text_attribute(schema), "")
        if kind in ("box", "classification") and (text or tuple(kinds) == ("text",)):
            result.kind, result.text = "text", text
    values: dict[str, Any] = {}
    for attribute in asked_of(schema, label):
        try:
            values[attribute.name] = typed(attribute, rest.pop(attribute.name, ""))
        except ValueError as error:
            says.unread.append(f"the attribute {attribute.name!r} is left out: {error}")
    says.problems += [f"{name!r} is left out: the schema has no such attribute of {label!r}" for name in rest]
    result.attributes = {name: value for name, value in values.items() if value is not None} or None
    return result


def counted(sentences: Iterable[str]) -> tuple[str, ...]:
    """Each sentence once, in order, with how many regions it stands for where they are several."""
    counts: dict[str, int] = {}
    for sentence in sentences:
        counts[sentence] = counts.get(sentence, 0) + 1
    return tuple(sentence if count == 1 else f"{sentence} ({count} regions)" for sentence, count in counts.items())


def regions(found: Iterable[Found]) -> tuple[Region, ...]:
    """Named by the tool's name, else by the pre-annotation that only the first may stem from, else by what they say."""
    result: list[Region] = []
    names: dict[str, int] = {}
    origins: set[str] = set()
    for item in found:
        origin = item.annotation_id if item.annotation_id not in origins else None
        if origin is not None:
            origins.add(origin)
        name = item.name or origin or sha256_hex(canonical_json(item.values))[:16]
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}-{names[name]}"
        result.append(Region(unique, item.values, derived_from=origin))
    return tuple(result)


def sample_of(name: str, sizes: Mapping[str, ImageSize]) -> str:
    """The sample whose image has this name in a tool: its stem, with or without the folders before it."""
    path = PurePosixPath(name.replace("\\", "/"))
    stems = [unquote(path.stem), unquote(path.with_suffix("").as_posix()), path.stem, path.name]
    return next((stem for stem in stems if stem in sizes), stems[0])


def turned_corners(box: Sequence[float], degrees: float) -> NDArray[np.float64]:
    """The corners (4, 2) of an xyxy box that is turned clockwise about its middle."""
    x1, y1, x2, y2 = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = np.array([x1 + x2, y1 + y2]) / 2
    ring: NDArray[np.float64] = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64) - middle
    corners: NDArray[np.float64] = ring @ np.array([[cos, sin], [-sin, cos]]) + middle
    return corners


def fits(attribute: Attribute, value: Any) -> bool:
    """Whether `typed` gives this value back from its text."""
    if attribute.type == "bool":
        return isinstance(value, bool)
    if attribute.type == "number":
        return type(value) in (int, float) and math.isfinite(value)
    return isinstance(value, str) and (attribute.type == "text" or value in attribute.values)


def as_text(value: Any) -> str:
    """The text that `typed` reads as this value, for values that `fits`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def region_values(kind: str, label: str | None, **values: Any) -> dict[str, Any]:
    """All of REGION_COLUMNS. `box`: xyxy pixels, in place of the four columns."""
    box = values.pop("box", None)
    if box is not None:
        values |= dict(zip(_SIDES, map(float, box), strict=True))
    return dict.fromkeys(REGION_COLUMNS) | {"kind": kind, "label": label} | values


def box_of(row: Mapping[str, Any]) -> list[float] | None:
    """A row's xyxy box, None where it has none."""
    sides = [row.get(side) for side in _SIDES]
    return None if any(side is None or not math.isfinite(side) for side in sides) else [float(s or 0) for s in sides]


def outside(regions: Sequence[tuple[str, Mapping[str, Any]]], size: ImageSize) -> list[str]:
    """Sentences about regions that are not wholly in the image or have no area; each is given with what it is called."""
    places = [(where, extent) for where, row in regions if (extent := _extent(row)) is not None]
    if not places:
        return []
    extents = np.array([extent for _, extent in places], np.float64)
    width, height = np.full(len(places), float(size.width)), np.full(len(places), float(size.height))
    faults = extent_faults(extents, width, height, noun="place")
    return [f"{places[row][0]}: {message.removesuffix('; kept as it is')}; kept as it is" for row, _, message in faults]


def seen_as(size: ImageSize, width: int | None, height: int | None, *, turned: bool) -> tuple[ImageSize, str | None]:
    """The size to convert a tool's places with, and a sentence where the tool had an image of another size.

    `width` and `height` are the tool's. They tell whether it applied EXIF orientation; where they do not, `turned` does.
    """
    stored = ImageSize(size.width, size.height)
    likely = [size, stored] if turned else [stored, size]
    if width is None or height is None:
        return likely[0], None
    for guess in likely:
        if shown_size(guess) == (width, height):
            return guess, None
    shown = shown_size(likely[0])
    return likely[
        0
    ], f"the tool had {width} x {height} pixels, the image has {shown[0]} x {shown[1]}; nothing is scaled"


def _number(text: str) -> int | float:
    try:
        whole = int(text)
    except ValueError:
        whole = None
    if whole is not None and abs(whole) < 2**63:
        return whole
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _extent(row: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """None too for keypoints of which fewer than two are labelled: they have no area."""
    geometry = row.get("geometry")
    if geometry is None:
        box = box_of(row)
        return None if box is None else (box[0], box[1], box[2], box[3])
    if "keypoints" in geometry:
        x1, y1, x2, y2 = geometry_extent(geometry)
        return x1, y1, max(x2, x1 + 1e-6), max(y2, y1 + 1e-6)
    return geometry_extent(geometry)
