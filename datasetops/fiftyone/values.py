"""Free-form values (attributes, metadata) as fields of one type each, which is what FiftyOne can filter by."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc

Type = Literal["boolean", "integer", "number", "text"]
_LARGEST: Final = 2**63 - 1  # of an integer in MongoDB


class Values:
    """What the keys of many JSON objects hold. `types`: the type of each field that takes all values of its key.

    Whole and other numbers together are numbers; everything else that is mixed, or is a list or an object, is text.
    """

    def __init__(self, objects: Iterable[Mapping[str, Any]], taken: Collection[str]) -> None:
        seen: dict[str, set[Type]] = {}
        for item in objects:
            for key, value in item.items():
                if value is not None:
                    seen.setdefault(key, set()).add(_type(value))
        self._fields: dict[str, str] = {}
        self.types: dict[str, Type] = {}
        for key in sorted(seen):
            name = _free_name(key, {*taken, *self.types})
            self._fields[key] = name
            self.types[name] = _common(seen[key])

    def fields(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """One of the objects as fields; keys without a value are left out."""
        named = ((self._fields[key], value) for key, value in item.items() if value is not None)
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
