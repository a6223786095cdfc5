"""What the measures of polygons and masks say is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.outlines.measures import EXTENT, MEASURES
from datasetops.audits.rowwise import Doubt, box_iou, by_class, deviations, graded, is_crowd

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

CORNERS: Final = ["x1", "y1", "x2", "y2"]
_LARGE_LOOP: Final = 0.2  # on the smaller side of a crossing: from there on it is open which part is meant
_SMALL_LOOP: Final = 0.01
_MANY_REPEATS: Final = 0.25  # share of the points that repeat the one before: more than a double click
_FEWEST: Final = 30  # outlines of a class by which its usual shape is known
_FAR: Final = 6.0  # robust deviations from the median of log quotients
_SPREAD: Final = 0.1  # the least deviation of log quotients: classes of one shape still vary by a tenth
_THIN: Final = 0.1  # the quotient of a 1 x 30 rectangle; what is thicker is no sliver, whatever the others are
_BOX_OFF: Final = 2.0  # pixels by which a box may miss the extent: tools count edges or pixels
_BOX_OFF_SHARE: Final = 0.02  # the same as a share of the extent's longer side
_OTHER_BOX: Final = 0.5  # intersection over union below which a box is hardly the outline's
_SLIGHT: Final = 0.5  # pixels by which an outline may leave its image: sizes are whole, coordinates are not
_TOLD: Final = 0.05  # pixels: a box that leaves the image by more is told by the check `schema`


def outline_faults(rows: pd.DataFrame) -> Iterator[Doubt]:
    """Doubts about single annotations. `rows`: columns of records.ANNOTATIONS, width and height of the image, and what
    `measure_outlines` made of them."""
    m = {name: rows[name].to_numpy() for name in MEASURES}
    broken = rows["fault"].notna().to_numpy()
    yield Doubt("unusable", broken, "high", 0.0, lambda row: str(m["fault"][row]))
    drawn = m["has_rings"] | m["has_mask"]
    missing = rows["kind"].isin(["polygon", "mask"]).to_numpy() & ~drawn & ~broken
    yield Doubt("unusable", missing, "high", 0.0, lambda row: f"the {rows['kind'].iloc[row]} has no outline")
    sound = m["has_rings"] & ~m["has_mask"] & ~broken
    yield from _flat(m, sound)
    yield from _crossed(m, sound)
    yield from _repeated(m, sound)
    yield from _thin(m, sound, rows["label"])
    of_class = by_class(rows["label"], 1)
    for some in (m["has_mask"], ~m["has_mask"]):
        yield _specked(m, drawn & some & ~broken & ~is_crowd(rows), of_class)
    yield from _outside(m, drawn & ~broken, rows)
    yield from _misplaced(m, drawn & ~broken, rows)


def _flat(m: dict[str, Any], sound: Bools) -> Iterator[Doubt]:
    whole = sound & (m["flat"] == m["rings"])
    yield Doubt("no area", whole, "high", 0.0, lambda row: f"the polygon of {m['points'][row]:.0f} points has no area")
    some = sound & (m["flat"] > 0) & ~whole
    yield Doubt(
        "no area",
        some,
        "medium",
        0.3,
        lambda row: f"{m['flat'][row]:.0f} of its {m['rings'][row]:.0f} parts have no area",
    )


def _crossed(m: dict[str, Any], sound: Bools) -> Iterator[Doubt]:
    def told(row: int) -> str:
        times = f"{m['crossings'][row]:.0f} places, the worst" if m["crossings"][row] > 1 else "one place,"
        place = f"near ({m['cross_x'][row]:.0f}, {m['cross_y'][row]:.0f})"
        return f"the outline crosses itself in {times} {place}, and a loop there has {100 * m['loop'][row]:.2g}% of its area"

    severity = graded(np.nan_to_num(m["loop"]), _SMALL_LOOP, _LARGE_LOOP)
    yield Doubt("crossing itself", sound & (m["crossings"] > 0), severity, 0.6 * (1 - 2 * m["loop"]), told)


def _repeated(m: dict[str, Any], sound: Bools) -> Iterator[Doubt]:
    which = sound & (m["repeats"] > _MANY_REPEATS * m["points"])
    yield Doubt(
        "repeated points",
        which,
        "low",
        0.7,
        lambda row: f"{m['repeats'][row]:.0f} of its {m['points'][row]:.0f} points repeat the one before",
    )


def _thin(m: dict[str, Any], sound: Bools, labels: pd.Series[Any]) -> Iterator[Doubt]:
    """Cox, "A method of assigning numerical and percentage values to the degree of roundness of sand grains", 1927."""
    usable = sound & (m["flat"] < m["rings"])
    log = np.log(np.where(usable, m["quotient"], np.nan), where=usable, out=np.full(len(usable), np.nan))
    off = deviations(log, by_class(labels, _FEWEST), fewest=_FEWEST, floor=_SPREAD)
    with np.errstate(invalid="ignore"):
        which = (off < -_FAR) & (m["quotient"] < _THIN)
    yield Doubt(
        "sliver",
        which,
        "low",
        0.9 * _FAR / np.fmax(-off, _FAR),
        lambda row: (
            f"a sliver: 4π area over squared perimeter is {m['quotient'][row]:.3f}, "
            f"{-off[row]:.1f} deviations below what is usual"
        ),
    )


def _specked(m: dict[str, Any], judged: Bools, of_class: Ints) -> Doubt:
    return Doubt(
        "specks",
        judged & (m["specks"] > 0),
        "low",
        0.8 / (1 + 0.1 * m["specks"]),
        lambda row: (
            f"{m['specks'][row]:.0f} tiny stray part{'s' if m['specks'][row] > 1 else ''} or holes, one at "
            f"({m['speck_x'][row]:.0f}, {m['speck_y'][row]:.0f})"
        ),
        among=judged,
        groups=of_class,  # made by a rule or a brush, a class's outlines are full of them
    )


def _outside(m: dict[str, Any], sound: Bools, rows: pd.DataFrame) -> Iterator[Doubt]:
    size = rows[["width", "height"]].to_numpy(dtype=np.float64)
    beyond = _beyond(rows[EXTENT].to_numpy(dtype=np.float64), size)
    box = _beyond(rows[CORNERS].to_numpy(dtype=np.float64), size)
    with np.errstate(invalid="ignore"):
        which = sound & (beyond > _SLIGHT) & ~(box > _TOLD)
    yield Doubt(
        "out of the image",
        which,
        "medium",
        0.3,
        lambda row: f"the outline leaves the image by {beyond[row]:.1f} pixels",
    )


def _beyond(places: Floats, size: Floats) -> Floats:
    """How far boxes (N, 4) leave an image of that width and height (N, 2)."""
    beyond: Floats = np.fmax(-places[:, :2], places[:, 2:] - size).max(axis=1)
    return beyond


def _misplaced(m: dict[str, Any], sound: Bools, rows: pd.DataFrame) -> Iterator[Doubt]:
    boxes = np.where(sound[:, None], rows[CORNERS].to_numpy(dtype=np.float64), np.nan)
    extents = np.stack([m[name] for name in EXTENT], axis=1)
    with np.errstate(invalid="ignore"):
        off = np.abs(boxes - extents).max(axis=1)
        which = off > np.maximum(_BOX_OFF, _BOX_OFF_SHARE * (extents[:, 2:] - extents[:, :2]).max(axis=1))
    alike = box_iou(boxes, extents)
    yield Doubt(
        "box",
        which,
        np.where(alike < _OTHER_BOX, "high", "medium"),
        alike,
        lambda row: (
            f"the box {_corners(boxes[row])} is not the outline's extent {_corners(extents[row])}: "
            f"{off[row]:.1f} pixels off"
        ),
        among=~np.isnan(off),  # boxes may be of whole things, and outlines of what is seen of them
    )


def _corners(box: Floats) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in box) + ")"
