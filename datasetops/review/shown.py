"""Annotations as a browser draws them: places in the image as viewers show it, EXIF orientation applied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Final

import numpy as np

from datasetops.audits.decisions.fix import CORNERS, Fix
from datasetops.errors import DatasetOpsError
from datasetops.formats.geometry import geometry_extent
from datasetops.images import ImageError, read_header
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import to_shown
from datasetops.manifest import Repository
from datasetops.review.texts import cut, cut_values
from datasetops.schema import LabelSchema
from datasetops.schema.model import default_colour
from datasetops.store.media import Media

_TURNED: Final = (None, "image/jpeg", "image/tiff", "image/webp", "image/png")  # that carry an EXIF orientation
_KEPT: Final = 4_096  # images whose sizes are remembered
_NO_COLOUR: Final = "#7f7f7f"  # of a text or region without a class
_MOST_POINTS: Final = 20_000  # points of one outline that are drawn


class Sizes:
    """Sizes of images, from the version where it tells them and else from the files. May be used by several threads."""

    def __init__(self, repository: Repository) -> None:
        self._media = Media(repository.store, repository.root)
        self._known: OrderedDict[tuple[Any, ...], ImageSize | None] = OrderedDict()
        self._lock = Lock()

    def of(self, sample: Mapping[str, Any]) -> ImageSize | None:
        """As stored, with the orientation that viewers apply; None where neither version nor file tells.

        `sample` has the columns of records.SAMPLES.
        """
        width, height = sample["width"], sample["height"]
        if width and height and sample["media_type"] not in _TURNED:
            return ImageSize(width, height)
        key = (sample["uri"], sample["sha256"], width, height)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        size = ImageSize(width, height) if width and height else None
        try:
            header = read_header(self._media.read(sample["uri"]))
            size = ImageSize(header.width, header.height, header.orientation or 1)
        except (DatasetOpsError, ImageError, TypeError, AttributeError):
            pass
        with self._lock:
            self._known[key] = size
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return size


def shown_annotations(
    rows: Sequence[Mapping[str, Any]], schema: LabelSchema, size: ImageSize | None, subject: str | None
) -> list[dict[str, Any]]:
    """Annotations (columns of records.ANNOTATIONS, JSON columns read) for the viewer; `subject` is the id of the one
    that the finding is about."""
    skeleton = _skeleton(schema)
    return [
        {
            "annotation_id": row["annotation_id"],
            "kind": row["kind"],
            "label": row["label"],
            "colour": colour_of(schema, row["label"]),
            "text": None if row["text"] is None else cut(row["text"]),
            **_places(row, size),
            "skeleton": skeleton if row["kind"] == "keypoints" else [],
            **{name: row[name] for name in ("source", "actor", "model", "score")},
            "attributes": cut_values(row["attributes"] or {}),
            "subject": subject is not None and row["annotation_id"] == subject,
        }
        for row in rows
    ]


def colour_of(schema: LabelSchema, label: str | None) -> str:
    """`#rrggbb` of a class."""
    known = schema.find(label) if label else None
    return (known.colour or default_colour(known.id)) if known else _NO_COLOUR


def shown_box(box: Sequence[float] | None, size: ImageSize | None) -> list[float] | None:
    """A box x1, y1, x2, y2 of the stored image, in the shown one."""
    return _box(box, size)


def fix_as_shown(fix: Fix, size: ImageSize | None) -> Fix:
    """A fix whose boxes, polygons and keypoints are places of the shown image, not of the stored one."""
    if size is None or size.orientation == 1:
        return fix
    return replace(fix, put=tuple(_shown_put(row, size) for row in fix.put))


def _places(row: Mapping[str, Any], size: ImageSize | None) -> dict[str, Any]:
    geometry = row["geometry"] or {}
    box = [row[name] for name in CORNERS]
    rings = geometry.get("polygons")
    keypoints = geometry.get("keypoints")
    if None in box and geometry:
        try:
            box = list(geometry_extent(geometry))
        except (KeyError, ValueError, TypeError, IndexError):
            box = [None]
    return {
        "box": None if None in box else _box(box, size),
        "polygons": [_flat(ring, size) for ring in rings] if rings else None,
        "keypoints": _triples(keypoints, size) if keypoints else None,
        "mask": "rle" in geometry,
    }


def _skeleton(schema: LabelSchema) -> list[list[int]]:
    task = schema.task("keypoints")
    places = {name: at for at, name in enumerate(task.keypoints)} if task else {}
    return [[places[a], places[b]] for a, b in task.skeleton] if task else []


def _box(box: Sequence[float] | None, size: ImageSize | None) -> list[float] | None:
    if box is None:
        return None
    if size is None or size.orientation == 1:
        return [float(value) for value in box]
    points = to_shown(np.asarray(box, np.float64).reshape(2, 2), size)
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _flat(ring: Sequence[float], size: ImageSize | None) -> list[float]:
    points = np.asarray(ring[: 2 * _MOST_POINTS], np.float64)
    points = points[: len(points) // 2 * 2].reshape(-1, 2)
    turned = points if size is None or size.orientation == 1 else to_shown(points, size)
    values: list[float] = turned.ravel().tolist()
    return values


def _triples(flat: Sequence[float], size: ImageSize | None) -> list[list[float]]:
    triples = np.asarray(flat, np.float64)
    triples = triples[: len(triples) // 3 * 3].reshape(-1, 3).copy()
    if size is not None and size.orientation != 1:
        triples[:, :2] = to_shown(triples[:, :2], size)
    values: list[list[float]] = triples.tolist()
    return values


def _shown_put(row: Mapping[str, Any], size: ImageSize) -> dict[str, Any]:
    found = dict(row)
    corners = [row.get(name) for name in CORNERS]
    if None not in corners:
        found |= dict(
            zip(CORNERS, _box([float(value) for value in corners if value is not None], size) or (), strict=True)
        )
    geometry = dict(row.get("geometry") or {})
    if "polygons" in geometry:
        geometry["polygons"] = [_flat(ring, size) for ring in geometry["polygons"]]
    if "keypoints" in geometry:
        geometry["keypoints"] = [value for triple in _triples(geometry["keypoints"], size) for value in triple]
    return found | ({"geometry": geometry} if geometry else {})
