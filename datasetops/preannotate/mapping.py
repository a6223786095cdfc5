"""Which class of the schema a model's name means: by equal names, or as a YAML file says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from datasetops.errors import FormatError, ModelError, did_you_mean
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema
from datasetops.schema.yamlfile import read_file, read_yaml

_TWIN: Final = re.compile(r" \(\d+\)$")  # marks a name that a model's vocabulary has more than once
_SHOWN: Final = 10  # names listed in an error


@dataclass(frozen=True)
class ClassMapping:
    """`classes` has each name of a model, with a class of the schema or None. `ambiguous` has names that fit several
    classes, or share one with a namesake of another meaning; they count for none unless a file says which.
    """

    classes: Mapping[str, str | None]
    ambiguous: Mapping[str, tuple[str, ...]]

    @property
    def unmapped(self) -> tuple[str, ...]:
        """Names that count for no class and are not ambiguous."""
        return tuple(name for name, found in self.classes.items() if found is None and name not in self.ambiguous)

    @property
    def targets(self) -> tuple[str, ...]:
        """Classes that some name leads to."""
        return tuple(dict.fromkeys(found for found in self.classes.values() if found is not None))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and classes, 64 hex digits."""
        return sha256_hex(canonical_json(dict(self.classes)))

    def unreached(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Those of the classes that no name leads to."""
        return tuple(name for name in classes if name not in self.targets)

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        return {
            "names": len(self.classes),
            "mapped": {name: found for name, found in self.classes.items() if found is not None},
            "unmapped": list(self.unmapped),
            "ambiguous": {name: list(found) for name, found in self.ambiguous.items()},
            "unreached": list(self.unreached(classes)) if self.classes else [],
            "digest": self.digest,
        }


def default_mapping(vocabulary: Sequence[str], classes: Sequence[str]) -> ClassMapping:
    """Each name to the class of the same name; case, spaces, hyphens and underscores do not count.

    Of a name with synonyms ("tabby, tabby cat") any may be the class's.
    """
    plain: dict[str, list[str]] = {}
    for item in classes:
        plain.setdefault(_plain(item), []).append(item)
    mapped: dict[str, str | None] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for name in vocabulary:
        spoken = _TWIN.sub("", name)
        if name in classes:
            mapped[name] = name
            continue
        terms = [spoken, *(part.strip() for part in spoken.split(","))]
        exact = [term for term in terms if term in classes]
        found = tuple(dict.fromkeys(exact or [item for term in terms for item in plain.get(_plain(term), ())]))
        if len(found) > 1 or (found and spoken != name):
            ambiguous[name] = found
        mapped[name] = found[0] if len(found) == 1 and spoken == name else None
    return ClassMapping(mapped, ambiguous)


def read_mapping(path: Path, vocabulary: Sequence[str], schema: LabelSchema) -> ClassMapping:
    """From a YAML file of `model name: class`, or null for none; names that it leaves out as `default_mapping` does.

    Raises NotFoundError, SchemaError for bad YAML, FormatError for anything but names, and for a name that the model or
    a class that the schema does not have; each names file and line.
    """
    name = str(path)
    document = read_yaml(read_file(path, noun="mapping"), name)
    if not isinstance(document.value, dict):
        raise FormatError(
            f"{name}: expected names of the model with their classes; got {type(document.value).__name__}.",
            remedy="Write a line such as 'automobile: car' for each name, and 'truck: null' for one to leave out.",
        )
    default = default_mapping(vocabulary, schema.class_names)
    chosen, ambiguous = dict(default.classes), dict(default.ambiguous)
    for key, value in document.value.items():
        where = f"{name}, line {document.key_lines.get((key,), 1)}"
        if not chosen:
            raise FormatError(f"{where}: the model names no classes.", remedy="Leave out --mapping.")
        if str(key) not in chosen:
            raise FormatError(
                f"{where}: the model has no name {str(key)!r}.",
                remedy=did_you_mean(str(key), vocabulary, noun="names of the model"),
            )
        if value is not None and not isinstance(value, str):
            raise FormatError(f"{where}: expected a class or null; got {value!r}.", remedy="Put the class in quotes.")
        if value is not None and value not in schema.class_names:
            raise FormatError(
                f"{where}: the schema has no class {value!r}.",
                remedy=did_you_mean(value, schema.class_names, noun="classes"),
            )
        chosen[str(key)] = value
        ambiguous.pop(str(key), None)
    return ClassMapping(chosen, ambiguous)


def recorded_mapping(names: Mapping[str, str | None], schema: LabelSchema) -> ClassMapping | None:
    """What a run noted down, without classes that the schema no longer has; None where no name leads to one."""
    found = ClassMapping({name: item if item in schema.class_names else None for name, item in names.items()}, {})
    return found if found.targets else None


def choose_mapping(
    model: str,
    vocabulary: Sequence[str] | None,
    schema: LabelSchema,
    *,
    file: Path | None = None,
    classes: Sequence[str] = (),
) -> ClassMapping:
    """The mapping that a run works with. `vocabulary` is None for a model that names the schema's classes itself.

    Raises ModelError where the model can name none of the classes, or not one that was asked for by name, and
    FormatError as `read_mapping`.
    """
    for item in classes:
        if item not in schema.class_names:
            raise ModelError(
                f"The schema {schema.name!r} has no class {item!r}.",
                remedy=did_you_mean(item, schema.class_names, noun="classes"),
            )
    names = schema.class_names if vocabulary is None else vocabulary
    found = read_mapping(file, names, schema) if file else default_mapping(names, schema.class_names)
    if classes and not names:
        raise ModelError(
            f"The model {model!r} names no classes, so none can be asked of it.", remedy="Leave out --classes."
        )
    if classes:
        missing = found.unreached(classes)
        if missing:
            raise ModelError(f"The model {model!r} cannot name {_listed(missing)}.", remedy=_remedy(names, missing[0]))
    if schema.class_names and names and not found.targets:
        raise ModelError(
            f"The model {model!r} can name none of the classes of the schema {schema.name!r}.",
            remedy=_remedy(names, schema.class_names[0]),
        )
    return found


def _remedy(names: Sequence[str], example: str) -> str:
    return (
        f"Its names are {_listed(names)}. Say which of them mean a class with --mapping FILE, a YAML file with lines "
        f"such as {names[0]!r}: {example!r}; or take another model."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).casefold()
