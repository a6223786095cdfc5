"""The label schema: what may be labelled, and within which limits.

A schema is a frozen, versioned value. Its digest is the SHA-256 of its canonical bytes, so two schemas with the same
content have the same digest wherever and however they were written down.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from datasetops.errors import did_you_mean
from datasetops.schema.names import nearest_name
from datasetops.schema.yamlfile import dump_yaml

Kind = Literal["classification", "box", "polygon", "mask", "keypoints", "text"]  # = records.KINDS, which needs pyarrow
AttributeType = Literal["bool", "choice", "number", "text"]

RELABEL = "relabel"  # attribute that a split writes into an annotation: the names of the classes to choose from
AUTO_ACCEPTED = "auto_accepted"  # attribute of a model's annotation that counts by its score: the promised precision

# Okabe and Ito's palette for colour-blind people (2008) and a grey, then the colours farthest from all before them in
# CIELAB. Colours are part of a schema's digest: this list is never changed.
_PALETTE = (
    *("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#7f7f7f"),
    *("#5500ff", "#00ff00", "#ff11dd", "#ff0066", "#9977ff", "#667700", "#88ee77", "#ffcc99"),
    *("#993333", "#991188", "#55eeee", "#aaee00"),
)


def default_colour(class_id: int) -> str:
    """`#rrggbb` for a class that names no colour; depends on nothing but its id."""
    if class_id < len(_PALETTE):
        return _PALETTE[class_id]
    hue = (class_id * 0.618033988749895) % 1.0  # golden-ratio steps keep neighbouring ids far apart
    value, saturation = 0.85, 0.65
    steps = ((n + hue * 6) % 6 for n in (5, 3, 1))
    channels = (value * (1 - saturation * max(0.0, min(1.0, step, 4 - step))) for step in steps)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def _plain_text(value: str) -> str:
    """Refuses what YAML and JSON do not both carry unchanged: control characters and separators, non-characters."""
    for char in value:
        code = ord(char)
        bad = unicodedata.category(char) in ("Cc", "Zl", "Zp") and char not in "\n\t"
        if bad or code == 0xFEFF or code & 0xFFFE == 0xFFFE:
            raise wrong("", f"the character U+{code:04X} cannot stand here")
    return value


def _one_line(value: str) -> str:
    if value != value.strip() or "\n" in value or "\t" in value:
        raise wrong("", f"expected a name in one line, no spaces around it; got {value!r}")
    return value


Text = Annotated[str, AfterValidator(_plain_text)]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain_text), AfterValidator(_one_line)
]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$"), AfterValidator(str.lower)]
Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
SliceValue = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)] | Text


class Record(BaseModel):
    """Frozen, and without room for fields that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Record):
    """One kind of annotation that is asked for.

    `multi`: several classes may hold for one image (classification only). `keypoints`: point names in the order in
    which they are stored, `skeleton`: pairs of those names that are joined by a line. `alphabet`: the characters that a
    text may consist of, `max_length`: in characters.
    """

    kind: Kind
    multi: bool = False
    keypoints: tuple[Name, ...] = ()
    skeleton: tuple[tuple[Name, Name], ...] = ()
    alphabet: Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain_text)] | None = None
    max_length: Count | None = None

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        owners = {
            "multi": "classification",
            "keypoints": "keypoints",
            "skeleton": "keypoints",
            "alphabet": "text",
            "max_length": "text",
        }
        for field, owner in owners.items():
            if getattr(self, field) not in (False, (), None) and self.kind != owner:
                raise wrong(field, f"only a task of kind {owner} has {field}; this one is of kind {self.kind}")
        if self.kind == "keypoints" and not self.keypoints:
            raise wrong("keypoints", "a keypoints task lists the names of its points")
        _refuse_repeats("keypoints", self.keypoints, "point")
        for index, (start, end) in enumerate(self.skeleton):
            for point in (start, end):
                if point not in self.keypoints:
                    raise wrong(f"skeleton.{index}", f"{point!r} is not one of the keypoints")
            if start == end:
                raise wrong(f"skeleton.{index}", f"a line joins two different points; got {start!r} twice")
        return self


class Critical(Record):
    """Error rates that a class must not exceed: false positives and false negatives, each in [0, 1]."""

    max_fpr: Rate | None = None
    max_fnr: Rate | None = None

    @model_validator(mode="after")
    def _has_target(self) -> Self:
        if self.max_fpr is None and self.max_fnr is None:
            raise wrong("", "a critical class states max_fpr, max_fnr or both")
        return self


class ClassSpec(Record):
    """A class without its id, as a migration brings it in. `kinds`: the task kinds it is used in; empty for all."""

    name: Name
    definition: Text = ""
    colour: Colour | None = None
    parent: Name | None = None
    critical: Critical | None = None
    kinds: tuple[Kind, ...] = ()


class ClassDef(Record):
    """A class. `id` is never used again for another class; a class that is no longer used stays, as `deprecated`.

    `kinds`: the task kinds it is used in; empty for all.
    """

    id: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
    name: Name
    definition: Text = ""
    colour: Colour = Field(default_factory=lambda data: default_colour(data.get("id", 0)))
    parent: Name | None = None
    deprecated: bool = False
    critical: Critical | None = None
    kinds: tuple[Kind, ...] = ()


class Attribute(Record):
    """A further question about an annotation. `values`: for a choice. `classes`: whom it is asked of; empty for all."""

    name: Name
    type: AttributeType
    definition: Text = ""
    values: tuple[Name, ...] = ()
    classes: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        if self.name in (RELABEL, AUTO_ACCEPTED):
            raise wrong("name", f"{self.name!r} is kept for marks that dsops sets itself; choose another name")
        if self.type == "choice" and len(self.values) < 2:
            raise wrong("values", f"an attribute of type choice lists at least two values; got {len(self.values)}")
        if self.type != "choice" and self.values:
            raise wrong("values", f"only an attribute of type choice has values; this one is of type {self.type}")
        _refuse_repeats("values", self.values, "value")
        return self


class Limit(Record):
    """Bounds of an annotation's geometry; one outside them is reported, never dropped. `classes`: empty for all.

    Sides and area are those of the box, or of the bounding box of a polygon, mask or set of keypoints. `unit` is
    `pixels` (area in square pixels) or `relative` (a side over the image's same side, area over image area, in (0, 1]).
    `max_aspect`: longer side over shorter side, >= 1. `min_points`: vertices of each polygon ring, >= 3.
    """

    classes: tuple[Name, ...] = ()
    unit: Literal["pixels", "relative"] = "pixels"
    min_side: Positive | None = None
    max_side: Positive | None = None
    min_area: Positive | None = None
    max_area: Positive | None = None
    max_aspect: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    min_points: Annotated[int, Field(ge=3, le=2**31 - 1)] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        sizes = {f: getattr(self, f) for f in ("min_side", "max_side", "min_area", "max_area")}
        if all(v is None for v in (*sizes.values(), self.max_aspect, self.min_points)):
            raise wrong("", "a limit states at least one bound: " + ", ".join((*sizes, "max_aspect", "min_points")))
        for field, size in sizes.items():
            if self.unit == "relative" and size is not None and size > 1:
                raise wrong(field, f"a relative bound is at most 1; got {size:g}")
        for least, most in (("min_side", "max_side"), ("min_area", "max_area")):
            low, high = sizes[least], sizes[most]
            if low is not None and high is not None and low > high:
                raise wrong(least, f"{least} is at most {most}; got {low:g} and {high:g}")
        return self


class Slice(Record):
    """A part of the data that must be covered: for each of `values`, at least `min_count` samples.

    `key` is a key of `samples.metadata`, or a column of the samples table such as `origin`.
    """

    key: Name
    values: Annotated[tuple[SliceValue, ...], Field(min_length=1)]
    min_count: Count = 1


class LabelSchema(Record):
    """What may be labelled: tasks, classes, attributes, limits of geometry, slices to cover."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    version: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
    description: Text = ""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    classes: tuple[ClassDef, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    limits: tuple[Limit, ...] = ()
    slices: tuple[Slice, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_schema(self)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other field values, checked like any new schema and with a digest of its own."""
        return type(self).model_validate({f: getattr(self, f) for f in type(self).model_fields} | dict(update or {}))

    def canonical_bytes(self) -> bytes:
        """The one byte form that is hashed: canonical JSON without fields at their default.

        Leaving defaults out keeps every digest when a later release adds an optional field.
        """
        from datasetops.records import canonical_json

        return canonical_json(self.model_dump(mode="json", exclude_defaults=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `canonical_bytes()`, 64 lower-case hex digits."""
        from datasetops.records import sha256_hex

        return sha256_hex(self.canonical_bytes())

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in use, in file order."""
        return tuple(c.name for c in self.classes if not c.deprecated)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of its tasks, in file order."""
        return tuple(t.kind for t in self.tasks)

    @property
    def multi_label(self) -> bool:
        """Whether several classes may hold for one image."""
        task = self.task("classification")
        return task is not None and task.multi

    def task(self, kind: str) -> Task | None:
        """The task of this kind, None where the schema has none."""
        return next((t for t in self.tasks if t.kind == kind), None)

    def find(self, name: str) -> ClassDef | None:
        """The class of exactly this name, deprecated ones included."""
        return self._by_name.get(name)

    def nearest(self, name: str) -> str | None:
        """The class in use that `name` most likely means: other case or spacing, or few typos; None where unclear."""
        return nearest_name(name, self.class_names)

    def to_yaml(self) -> str:
        """YAML that `load_schema` reads back as an equal schema."""
        return dump_yaml(self.model_dump(mode="json", exclude_defaults=True))

    @cached_property
    def _by_name(self) -> dict[str, ClassDef]:
        return {c.name: c for c in self.classes}


def _check_schema(schema: LabelSchema) -> None:
    _refuse_repeats("tasks", [t.kind for t in schema.tasks], "task kind", field="kind")
    _refuse_repeats("classes", [c.id for c in schema.classes], "class id", field="id")
    _refuse_repeats("classes", [c.name for c in schema.classes], "class name", field="name")
    _refuse_repeats("attributes", [a.name for a in schema.attributes], "attribute", field="name")
    if not schema.class_names and schema.kinds != ("text",):
        raise wrong("classes", "expected at least one class in use; only a schema whose single task is text has none")
    by_name = {c.name: c for c in schema.classes}
    for index, item in enumerate(schema.classes):
        for kind in item.kinds:
            if kind not in schema.kinds:
                raise wrong(f"classes.{index}.kinds", f"class {item.name!r} is for {kind}, which is no task here")
        if item.parent is not None:
            _check_parent(f"classes.{index}.parent", item, by_name)
    for group in ("attributes", "limits"):
        for index, entry in enumerate(getattr(schema, group)):
            for name in entry.classes:
                if name not in by_name:
                    raise _unknown_class(f"{group}.{index}.classes", name, by_name)
    seen: set[tuple[str, SliceValue, type]] = set()
    for index, part in enumerate(schema.slices):
        for value in part.values:
            if (part.key, value, type(value)) in seen:
                raise wrong(f"slices.{index}.values", f"{value!r} of {part.key!r} is listed twice")
            seen.add((part.key, value, type(value)))


def _check_parent(location: str, item: ClassDef, by_name: dict[str, ClassDef]) -> None:
    trail = [item.name]
    current = item
    while current.parent is not None:
        parent = by_name.get(current.parent)
        if parent is None:
            raise _unknown_class(location, current.parent, by_name)
        if parent.deprecated and not current.deprecated:
            raise wrong(location, f"class {current.name!r} is in use, its parent {parent.name!r} is deprecated")
        trail.append(parent.name)
        if parent.name in trail[:-1]:
            raise wrong(location, f"parents form a cycle: {' > '.join(trail)}")
        current = parent


def _unknown_class(location: str, name: str, valid: Iterable[str]) -> PydanticCustomError:
    return wrong(location, f"there is no class {name!r}", did_you_mean(name, valid, noun="classes"))


def _refuse_repeats(location: str, values: Sequence[Any], noun: str, *, field: str = "") -> None:
    seen: dict[Any, int] = {}
    for index, value in enumerate(values):
        if value in seen:
            place = f"{location}.{index}" + (f".{field}" if field else "")
            raise wrong(place, f"{noun} {value!r} is used twice, first by entry {seen[value] + 1}")
        seen[value] = index


def wrong(location: str, message: str, remedy: str = "") -> PydanticCustomError:
    """A validation error at `location`, a dotted path below the record that is checked."""
    return PydanticCustomError("schema", "{reason}", {"reason": message, "remedy": remedy, "location": location})
