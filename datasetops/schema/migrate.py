"""Migrations between label schemas, as data: what they do to a schema.

    from: blood_cells@1
    steps:
      - rename: {from: RBC, to: Erythrocyte}
      - merge: {from: [Platetlets, Platetets], to: Platelets}
      - split: {from: WBC, to: [{name: Neutrophil, definition: …}, {name: Lymphocyte, definition: …}]}
      - deprecate: {name: Artefact}
      - add: {name: Parasite, definition: …}

What they do to annotations is in `datasetops.schema.relabel`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator

from datasetops.errors import SchemaError, did_you_mean
from datasetops.schema.model import ClassDef, ClassSpec, Critical, Kind, LabelSchema, Name, Record, wrong
from datasetops.schema.yamlfile import read_file, read_yaml, validated

# A class that is there already, by its name, or a new one.
Target = Annotated[
    Annotated[Name, Tag("name")] | Annotated[ClassSpec, Tag("class")],
    Discriminator(lambda value: "class" if isinstance(value, dict | ClassSpec) else "name"),
]


def target_name(target: str | ClassSpec) -> str:
    return target if isinstance(target, str) else target.name


class _Aliased(Record):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class Rename(_Aliased):
    """A class gets another name and keeps its id; its annotations follow."""

    from_: Name = Field(alias="from")
    to: Name

    def line(self) -> str:
        return f"rename {self.from_!r} to {self.to!r}"


class Merge(_Aliased):
    """Annotations of the classes `from` become annotations of `to`; the classes `from` are deprecated.

    `to` keeps the strictest error targets of all of them, and is asked every attribute that one of them was asked.
    """

    from_: Annotated[tuple[Name, ...], Field(alias="from", min_length=1)]
    to: Target

    def line(self) -> str:
        return f"merge {', '.join(map(repr, self.from_))} into {target_name(self.to)!r}"


class Deprecate(Record):
    """A class is no longer used. Its annotations stay as they are."""

    name: Name

    def line(self) -> str:
        return f"deprecate {self.name!r}"


class Split(_Aliased):
    """A class is divided: it is deprecated, and each of its annotations is marked for relabeling as one of `to`.

    A new class takes its parent, error targets, kinds, attributes and limits from the class that is split, except what
    it states itself.
    """

    from_: Name = Field(alias="from")
    to: tuple[Target, ...]

    def line(self) -> str:
        return f"split {self.from_!r} into {', '.join(repr(target_name(t)) for t in self.to)}"


class Step(Record):
    """One change: exactly one of the fields is set."""

    rename: Rename | None = None
    merge: Merge | None = None
    deprecate: Deprecate | None = None
    split: Split | None = None
    add: ClassSpec | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            valid = ", ".join(type(self).model_fields)
            raise wrong("", f"expected one of {valid}; got {' and '.join(given) or 'none of them'}")
        merge, split = self.merge, self.split
        if merge and len(set(merge.from_)) < len(merge.from_):
            raise wrong("merge.from", "expected each class once")
        if merge and target_name(merge.to) in merge.from_:
            raise wrong("merge.to", f"class {target_name(merge.to)!r} cannot be merged into itself")
        if split:
            names = [target_name(t) for t in split.to]
            if len(set(names)) < 2 or len(set(names)) < len(names):
                raise wrong("split.to", f"expected at least two different classes; got {', '.join(names) or 'none'}")
            if split.from_ in names:
                raise wrong(
                    "split.to", f"class {split.from_!r} is deprecated by the split and cannot be one of its parts"
                )
        return self

    def line(self) -> str:
        """The step in words."""
        for change in (self.rename, self.merge, self.deprecate, self.split):
            if change is not None:
                return change.line()
        return f"add {self.add.name!r}" if self.add else ""


class Migration(_Aliased):
    """Steps from one version of a schema to the next, applied in order. `from_`: `name@version` that they are for."""

    from_: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[1-9][0-9]*$")] | None = Field(None, alias="from")
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]


def load_migration(source: str | Path | bytes) -> Migration:
    """Read a migration from a YAML file or its bytes. Raises NotFoundError; SchemaError with file, line and field."""
    if isinstance(source, bytes):
        return validated(Migration, read_yaml(source, "migration"))
    return validated(Migration, read_yaml(read_file(Path(source), noun="migration"), str(source)))


def migrate_schema(schema: LabelSchema, migration: Migration) -> LabelSchema:
    """The schema after all steps: its version is one higher, new classes have ids that no class ever had.

    Raises SchemaError, naming the step, for a class that is not there, a name that is taken, a parent that would make a
    cycle, or where the migration is for another schema or version.
    """
    present = f"{schema.name}@{schema.version}"
    if migration.from_ not in (None, present):
        raise SchemaError(
            f"The migration is for {migration.from_}; the schema is {present}.",
            remedy="Apply the migrations in order, or correct `from`.",
        )
    result = schema
    for number, step in enumerate(migration.steps, 1):
        try:
            result = _apply(result, step)
        except ValidationError as error:
            problem = error.errors()[0]
            message, remedy = problem["msg"], problem.get("ctx", {}).get("remedy") or "Correct this step."
            raise SchemaError(f"Step {number} ({step.line()}): {message}.", remedy=remedy) from None
        except SchemaError as error:
            raise SchemaError(f"Step {number} ({step.line()}): {error.message}", remedy=error.remedy) from None
    return result.model_copy(update={"version": schema.version + 1})


def _apply(schema: LabelSchema, step: Step) -> LabelSchema:
    if step.rename:
        return _rename(schema, step.rename)
    if step.merge:
        return _merge(schema, step.merge)
    if step.split:
        return _split(schema, step.split)
    if step.deprecate:
        _active(schema, step.deprecate.name)
        return _retire(schema, {step.deprecate.name})
    return _add(schema, step.add) if step.add else schema


def _rename(schema: LabelSchema, change: Rename) -> LabelSchema:
    old, new = _known(schema, change.from_).name, _free(schema, change.to)

    def renamed(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    classes = [
        c.model_copy(update={"name": renamed([c.name])[0], "parent": c.parent and renamed([c.parent])[0]})
        for c in schema.classes
    ]
    return schema.model_copy(
        update={
            "classes": classes,
            "attributes": [a.model_copy(update={"classes": renamed(a.classes)}) for a in schema.attributes],
            "limits": [limit.model_copy(update={"classes": renamed(limit.classes)}) for limit in schema.limits],
        }
    )


def _merge(schema: LabelSchema, change: Merge) -> LabelSchema:
    sources = [_known(schema, name) for name in change.from_]
    if isinstance(change.to, ClassSpec):
        parents = {_parent_in_use(schema, c) for c in sources}
        inherited = {
            "parent": parents.pop() if len(parents) == 1 else None,
            "critical": _strictest(sources),
            "kinds": _union([c.kinds for c in sources]),
        }
        schema, members = _add(schema, _inherit(change.to, inherited)), sources
        target = change.to.name
    else:
        target = _active(schema, change.to).name
        members = [*sources, _known(schema, target)]
        update = {"critical": _strictest(members), "kinds": _union([c.kinds for c in members])}
        schema = schema.model_copy(
            update={"classes": [c.model_copy(update=update) if c.name == target else c for c in schema.classes]}
        )
    names = {c.name for c in members}
    # A question that one of them was asked has answers; a limit holds for the whole only if it held for every part.
    schema = _extend(schema, "attributes", lambda listed: [target] if names & set(listed) else [])
    schema = _extend(schema, "limits", lambda listed: [target] if names <= set(listed) else [])
    return _retire(schema, set(change.from_), heir=target)


def _split(schema: LabelSchema, change: Split) -> LabelSchema:
    source = _known(schema, change.from_)
    for part in change.to:
        if isinstance(part, ClassSpec):
            inherited = {
                "parent": _parent_in_use(schema, source),
                "critical": source.critical,
                "kinds": source.kinds,
            }
            schema = _add(schema, _inherit(part, inherited))
        else:
            _active(schema, part)
    parts = [target_name(part) for part in change.to]
    new = [part.name for part in change.to if isinstance(part, ClassSpec)]
    schema = _extend(schema, "attributes", lambda listed: parts if source.name in listed else [])
    schema = _extend(schema, "limits", lambda listed: new if source.name in listed else [])
    return _retire(schema, {source.name})


def _add(schema: LabelSchema, spec: ClassSpec) -> LabelSchema:
    _free(schema, spec.name)
    fresh = max((c.id for c in schema.classes), default=-1) + 1
    added = ClassDef.model_validate({"id": fresh} | {f: v for f, v in dict(spec).items() if v is not None})
    return schema.model_copy(update={"classes": [*schema.classes, added]})


def _retire(schema: LabelSchema, names: set[str], heir: str | None = None) -> LabelSchema:
    """Deprecate classes. Their children go to `heir`, or where there is none to the nearest parent in use."""

    def retired(item: ClassDef) -> ClassDef:
        if item.deprecated or item.name in names:
            return item.model_copy(update={"deprecated": True})
        if item.parent not in names:
            return item
        parent = _parent_in_use(schema, item, names) if heir in (None, item.name) else heir
        return item.model_copy(update={"parent": parent})

    return schema.model_copy(update={"classes": [retired(c) for c in schema.classes]})


def _parent_in_use(schema: LabelSchema, item: ClassDef, retired: Collection[str] = ()) -> str | None:
    """The nearest class above it that is in use and is not about to be retired."""
    parent = schema.find(item.parent) if item.parent else None
    if parent is None or not (parent.deprecated or parent.name in retired):
        return item.parent
    return _parent_in_use(schema, parent, retired)


def _extend(schema: LabelSchema, part: str, more: Callable[[Sequence[str]], list[str]]) -> LabelSchema:
    """Let attributes or limits that list classes apply to more of them; those without a list apply to all anyway."""
    entries = [
        entry.model_copy(update={"classes": tuple(dict.fromkeys([*entry.classes, *more(entry.classes)]))})
        for entry in getattr(schema, part)
    ]
    return schema.model_copy(update={part: entries})


def _inherit(spec: ClassSpec, inherited: dict[str, Any]) -> ClassSpec:
    return spec.model_copy(update={f: value for f, value in inherited.items() if f not in spec.model_fields_set})


def _strictest(members: Sequence[ClassDef]) -> Critical | None:
    targets = [c.critical for c in members if c.critical]
    rates = {
        field: min((rate for t in targets if (rate := getattr(t, field)) is not None), default=None)
        for field in ("max_fpr", "max_fnr")
    }
    return Critical.model_validate(rates) if targets else None


def _union(groups: Sequence[tuple[Kind, ...]]) -> tuple[Kind, ...]:
    """Kinds that any of the classes is used in; no kinds means all of them."""
    return tuple(dict.fromkeys(kind for group in groups for kind in group)) if all(groups) else ()


def _known(schema: LabelSchema, name: str) -> ClassDef:
    found = schema.find(name)
    if found is None:
        names = [c.name for c in schema.classes]
        raise SchemaError(f"there is no class {name!r}.", remedy=did_you_mean(name, names, noun="classes"))
    return found


def _active(schema: LabelSchema, name: str) -> ClassDef:
    found = _known(schema, name)
    if found.deprecated:
        remedy = f"Name a class in use. {did_you_mean(name, schema.class_names, noun='classes in use')}"
        raise SchemaError(f"class {name!r} is deprecated.", remedy=remedy)
    return found


def _free(schema: LabelSchema, name: str) -> str:
    taken = schema.find(name)
    if taken is not None:
        state = "deprecated class" if taken.deprecated else "class"
        raise SchemaError(
            f"the name {name!r} is taken by the {state} with id {taken.id}.", remedy="Choose another name."
        )
    return name
