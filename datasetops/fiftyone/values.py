"""Free-form values (attributes, metadata) as fields of one type each, which is what FiftyOne can filter by."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.compute as pc

Type = Literal["boolean", "integer", "number", "text"]
_LARGEST: Final = 2**63 - 1  # of an integer in MongoDB


class Values:
    """What the keys of many JSON objects hold. `types`: the type of each field that takes all values of its key.

    Whole and other numbers together are numbers; everything else that is mixed, or is a list or an object, is text.
    """

    def __init__(
        self,
        objects: Iterable[Mapping[str, Any]],
        taken: Collection[str],
        declared: Mapping[str, Type] | None = None,
    ) -> None:
        """`declared` are types of keys that may come without any value yet; what is there goes before."""
        seen: dict[str, set[Type]] = {}
        for item in objects:
            for key, value in item.items():
                if value is not None:
                    seen.setdefault(key, set()).add(_type(value))
        for key, kind in (declared or {}).items():
            seen.setdefault(key, {kind})
        self._fields: dict[str, str] = {}
        self.types: dict[str, Type] = {}
        for key in sorted(seen):
            name = _free_name(key, {*taken, *self.types})
            self._fields[key] = name
            self.types[name] = _common(seen[key])

    @classmethod
    def of(cls, stored: Iterable[Sequence[str]]) -> Values:
        """From what `stored` gave."""
        made = cls((), ())
        for key, name, kind in stored:
            made._fields[key] = name
            made.types[name] = cast(Type, kind)
        return made

    def stored(self) -> list[list[str]]:
        """(key, field, type) of each, for JSON."""
        return [[key, name, self.types[name]] for key, name in self._fields.items()]

    def field_of(self, key: str) -> str:
        return self._fields[key]

    @property
    def keys(self) -> list[str]:
        return list(self._fields)

    def fields(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """One of the objects as fields; keys without a value, and those that have no field, are left out."""
        known = ((key, value) for key, value in item.items() if value is not None and key in self._fields)
        named = ((self._fields[key], value) for key, value in known)
        return {name: _as(self.types[name], value) for name, value in named}


def objects(column: pa.ChunkedArray) -> Iterable[dict[str, Any]]:
    """The different objects in a column of JSON texts."""
    return map(orjson.loads, pc.unique(column.drop_null()).to_pylist())


def _type(value: Any) -> Type:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if abs(value) <= _LARGEST else "text"
    if isinstance(value, float) and math.isfinite(value):
        return "number"
    return "text"


def _common(types: set[Type]) -> Type:
    if types == {"integer", "number"}:
        return "number"
    return next(iter(types)) if len(types) == 1 else "text"


def _as(type: Type, value: Any) -> Any:
    if type == "number":
        return float(value)
    return orjson.dumps(value).decode() if type == "text" and not isinstance(value, str) else value


def _free_name(key: str, taken: Collection[str]) -> str:
    """A name that FiftyOne allows for a field and that no other field has."""
    name = key.replace(".", "_").replace("$", "_").replace("\0", "_").lstrip("_") or "value"
    while name in taken:
        name += "_"
    return name
