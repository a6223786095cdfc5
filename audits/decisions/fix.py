"""What a reviewer wants changed where a finding is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from datasetops.formats.geometry import geometry_extent
from datasetops.records import KINDS

FIXES: Final = ("edit", "exclude", "relabel")
CORNERS: Final = ("x1", "y1", "x2", "y2")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "annotation_id": (str,),
    "kind": (str,),
    "label": (str,),
    "text": (str,),
    "geometry": (dict,),
    "attributes": (dict,),
    **dict.fromkeys(CORNERS, (int, float)),
}


@dataclass(frozen=True)
class Fix:
    """What is to change. `kind`: edit, exclude (the sample leaves the version), relabel (it goes back to annotators).

    `put` has fields of annotations: annotation_id (None: a new one) and any of kind, label, x1, y1, x2, y2 (pixels of
    the image as stored), geometry, text, attributes. `remove` has annotation_ids. Raises ValueError that names the field.
    """

    kind: str
    put: tuple[Mapping[str, Any], ...] = ()
    remove: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in FIXES:
            raise ValueError(f"fix: kind: expected one of {', '.join(FIXES)}; got {self.kind!r}")
        if (self.kind == "edit") != bool(self.put or self.remove):
            needs = "says what to put or remove" if self.kind == "edit" else "has nothing to put or remove"
            raise ValueError(f"fix: one of kind {self.kind} {needs}")
        for row in self.put:
            _check_put(row)
        if not all(isinstance(name, str) and name for name in self.remove):
            raise ValueError(f"fix: remove: expected annotation ids; got {list(self.remove)!r}")
        known = [row["annotation_id"] for row in self.put if row.get("annotation_id")] + list(self.remove)
        if len(known) != len(set(known)):
            raise ValueError("fix: an annotation stands in it twice")

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "put": [dict(row) for row in self.put], "remove": list(self.remove)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Fix:
        """Raises ValueError that names the field."""
        if not isinstance(raw, Mapping) or raw.keys() - {"kind", "put", "remove"}:
            raise ValueError(f"fix: expected kind, put and remove; got {raw!r}")
        put, remove = raw.get("put") or (), raw.get("remove") or ()
        if not all(isinstance(value, list | tuple) for value in (put, remove)):
            raise ValueError("fix: put and remove: expected lists")
        return cls(str(raw.get("kind")), tuple(put), tuple(remove))


def _check_put(row: Any) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"fix: put: expected fields of an annotation; got {row!r}")
    for name, value in row.items():
        if name not in _TYPES:
            raise ValueError(f"fix: put: expected any of {', '.join(_TYPES)}; got {name!r}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, _TYPES[name])):
            raise ValueError(f"fix: put: {name}: got {value!r}")
    corners = [row.get(name) for name in CORNERS]
    there = [value for value in corners if value is not None]
    if not all(math.isfinite(value) for value in there) or (len(there) == len(CORNERS) and _is_empty(*corners)):
        raise ValueError(f"fix: put: expected x1 < x2 and y1 < y2; got {corners}")
    new = not row.get("annotation_id")
    if (new or "kind" in row) and row.get("kind") not in KINDS:
        raise ValueError(f"fix: put: kind: expected one of {', '.join(KINDS)}; got {row.get('kind')!r}")
    if new and row["kind"] == "box" and len(there) < len(CORNERS):
        raise ValueError("fix: put: a new box has x1, y1, x2 and y2")
    if row.get("geometry") is not None:
        try:
            extent = geometry_extent(row["geometry"])
        except (KeyError, TypeError, ValueError, IndexError):
            extent = (math.nan,) * 4
        if not all(math.isfinite(value) for value in extent):
            raise ValueError("fix: put: geometry: expected polygons, rle or keypoints")
    if not new and len(row) == 1:
        raise ValueError("fix: put: expected fields to change beside annotation_id")


def _is_empty(x1: Any, y1: Any, x2: Any, y2: Any) -> bool:
    return bool(x2 <= x1 or y2 <= y1)
