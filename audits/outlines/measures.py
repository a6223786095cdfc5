"""Measures of single polygons and masks, batch by batch: area, extent, shape, crossings, specks."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.outlines.geometries import Rings, Runs, batches
from datasetops.audits.outlines.mask_parts import measure
from datasetops.audits.outlines.polygons import crossings, extents, perimeters, signed_areas, without_repeats

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Columns: TypeAlias = dict[str, npt.NDArray[Any]]

EXTENT: Final = ["left", "top", "right", "bottom"]
MEASURES: Final = [
    *("fault", "has_rings", "has_mask", *EXTENT, "area", "specks", "speck_x", "speck_y"),
    *("rings", "flat", "points", "repeats", "crossings", "loop", "cross_x", "cross_y", "quotient"),
]
_NO_AREA: Final = 1e-6  # square pixels
_SPECK_SIDE: Final = 0.002  # of the image's diagonal: 1.6 pixels in 640 x 480, which nobody draws on purpose
_SPECK_SHARE: Final = 0.01  # of the annotation's area


def measure_outlines(rows: pd.DataFrame) -> pd.DataFrame:
    """Measures of every row, NaN or 0 where there are none. `rows`: geometry, and width and height of the image.

    `fault`: why the geometry cannot be used, else None. `has_rings`, `has_mask`. Extent `left`, `top`, `right`,
    `bottom` in pixels, `area` in square pixels, `specks`: tiny stray parts and holes, the first at `speck_x`,
    `speck_y`. Of polygons: `flat` rings, without area, of `rings`; `repeats` of the point before, of `points`;
    `crossings` of the outline with itself, for the worst of them the smaller `loop`'s share in [0, 0.5] at `cross_x`,
    `cross_y`; `quotient`: 4π area over squared perimeter of the largest ring, 1 for a circle.
    """
    parts = []
    for at, shapes in batches(rows["geometry"]):
        width, height = (rows[side].to_numpy(dtype=np.float64)[at] for side in ("width", "height"))
        tiny = np.fmax(1.0, (_SPECK_SIDE * np.hypot(width, height)) ** 2)
        part = _of_rings(shapes.rings, shapes.count, tiny)
        part["fault"] = np.full(shapes.count, None, dtype=object)
        _add_masks(part, shapes.runs, tiny, width, height)
        for row, why in shapes.faults.items():
            part["fault"][row] = why
        parts.append(pd.DataFrame(part, index=rows.index[at]))
    return pd.concat(parts) if parts else pd.DataFrame(_of_rings(_NO_RINGS, 0, np.empty(0)) | {"fault": []})


def _of_rings(rings: Rings, count: int, tiny: Floats) -> Columns:
    def total(values: npt.NDArray[Any]) -> Floats:
        return np.bincount(rings.owner, values, minlength=count).astype(np.float64)

    clean, repeats = without_repeats(rings)
    found = crossings(clean)
    area = np.abs(signed_areas(clean))
    np.maximum.at(area, found.ring, found.area)  # the loops of an 8 cancel each other in a signed area
    length = perimeters(clean)
    quotient = np.divide(4 * np.pi * area, length**2, out=np.zeros(len(area)), where=length > 0)
    flat = area <= _NO_AREA
    number, whole = total(np.ones(len(area))), total(area)
    stray = (area <= np.minimum(tiny[rings.owner], _SPECK_SHARE * whole[rings.owner])) & ~flat
    columns: Columns = {
        "has_rings": number > 0,
        "has_mask": np.zeros(count, np.bool_),
        "area": whole,
        "rings": number,
        "flat": total(flat),
        "points": total(rings.sizes),
        "repeats": total(repeats),
        "crossings": np.bincount(rings.owner[found.ring], minlength=count).astype(np.float64),
        "specks": total(stray),
    }
    columns |= dict(zip(EXTENT, extents(rings, count).T.copy(), strict=True))
    largest = _last_of_each(rings.owner, area)
    worst = _last_of_each(rings.owner[found.ring], found.share)
    first = np.flatnonzero(stray)[::-1]
    for names, owner, values in (
        (["quotient"], rings.owner[largest], quotient[largest, None]),
        (["loop", "cross_x", "cross_y"], rings.owner[found.ring[worst]], np.c_[found.share, found.at][worst]),
        (["speck_x", "speck_y"], rings.owner[first], rings.points[rings.start[first]]),
    ):
        for name, column in zip(names, values.T, strict=True):
            columns[name] = np.full(count, np.nan)
            columns[name][owner] = column
    return columns


def _add_masks(columns: Columns, runs: Runs, tiny: Floats, width: Floats, height: Floats) -> None:
    """Measures of masks in the place of what the same rows have as rings."""
    if not len(runs.owner):
        return
    masks, rows = measure(runs), runs.owner
    columns["has_mask"][rows] = True
    columns["area"][rows] = masks.area
    for name, values in zip(EXTENT, masks.extent.T, strict=True):
        columns[name][rows] = values
    tiny = np.minimum(tiny[rows], _SPECK_SHARE * masks.area)
    columns["specks"][rows] = 0
    for parts in (masks.holes, masks.parts):
        stray = parts.area <= tiny[parts.mask]
        np.add.at(columns["specks"], rows[parts.mask[stray]], 1)
        columns["speck_x"][rows[parts.mask[stray]]] = parts.box[stray, 0]
        columns["speck_y"][rows[parts.mask[stray]]] = parts.box[stray, 1]
    other = ((runs.size[:, 0] != height[rows]) & ~np.isnan(height[rows])) | (
        (runs.size[:, 1] != width[rows]) & ~np.isnan(width[rows])
    )
    for mask in np.flatnonzero(other | ~masks.sound | (masks.area == 0)):
        tall, wide = runs.size[mask]
        row = rows[mask]
        if other[mask]:
            why = f"the mask has {wide} x {tall} pixels, the image {width[row]:g} x {height[row]:g}"
        else:
            why = "the mask's runs do not fill it" if not masks.sound[mask] else "the mask is empty"
        columns["fault"][row] = why


def _last_of_each(owner: npt.NDArray[np.int64], values: Floats) -> npt.NDArray[np.int64]:
    """Positions of the largest value of each owner."""
    order = np.lexsort((values, owner))
    last: npt.NDArray[np.int64] = order[np.diff(owner[order], append=-1) != 0]
    return last


_NO_RINGS: Final = Rings(np.empty((0, 2)), np.zeros(1, np.int64), np.empty(0, np.int64))
