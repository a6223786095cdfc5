"""What is wrong with keypoints: their number and flags, where they lie, and what body they would make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.outlines.geometries import batches
from datasetops.audits.outlines.poses import FEWEST_POSES, limb_deviations, mirror_pairs, swapped_sides
from datasetops.audits.rowwise import Doubt, RowFindings, graded, with_sizes
from datasetops.audits.samplewise import texts
from datasetops.schema import Task

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_CORNERS: Final = ["x1", "y1", "x2", "y2"]
_VISIBLE: Final = 2
_SLIGHT: Final = 0.5  # pixels by which a point may leave its image: sizes are whole, coordinates are not
_MARGIN: Final = 0.05  # of the box's diagonal by which a visible point may leave it; visible parts are inside of boxes
_HIDDEN_MARGIN: Final = 0.5  # the same for hidden points, since boxes often hold what can be seen alone
_LONG: Final = 6.0  # robust deviations by which a limb is too long
_FAR_TOO_LONG: Final = 10.0
_SWAPPED: Final = 10.0  # log odds, e^10 being 22,000 to 1: exchanges are tried on every instance, and odd poses exist
_SURELY_SWAPPED: Final = 20.0


@dataclass(frozen=True)
class Instances:
    """Instances with the schema's number of points. `rows` (N,) in the table of all, `points` (N, K, 3) x, y, visibility."""

    rows: Ints
    points: Floats

    @property
    def labeled(self) -> Bools:
        labeled: Bools = self.points[..., 2] > 0
        return labeled

    @property
    def places(self) -> Floats:
        """(N, K, 2) in pixels, NaN where a point is not labeled."""
        return np.where(self.labeled[..., None], self.points[..., :2], np.nan)


class Keypoints:
    name = "keypoints"
    title = "keypoints that are misplaced, or make an impossible skeleton"
    needs = "keypoints"
    cost = "about 10 s for 150,000 instances of 17 points"

    def run(self, context: AuditContext) -> CheckResult:
        task = context.schema.task("keypoints")
        given = context.annotations
        given = given[(given["kind"] == "keypoints") | given["geometry"].str.contains('"keypoints"', na=False)]
        if task is None or not len(given):
            return skipped("there are no keypoints" if task else "no task has keypoints")
        rows = with_sizes(given, context.samples)
        told = RowFindings(self.name, context.samples, rows)
        instances, faults = read_instances(rows, len(task.keypoints))
        told.add(faults)
        told.add(point_faults(rows, instances, task))
        summary: dict[str, Any] = {"instances": len(rows), "points": len(task.keypoints)}
        told.add(skeleton_faults(rows, instances, task, summary))
        summary |= told.summary()
        summary["charts"] = [
            bars("Instances by labeled points", _counted(instances.labeled)),
            bars("Doubts about keypoints", told.counts),
        ]
        return CheckResult(told.findings(), told.scores(), summary)


def read_instances(rows: pd.DataFrame, points: int) -> tuple[Instances, list[Doubt]]:
    """Instances of as many points as the schema names, and doubts about the rest."""
    found, numbers = [np.empty((0, points, 3))], np.zeros(len(rows), np.int64)
    faults: dict[int, str] = {}
    for at, shapes in batches(rows["geometry"]):
        number = np.diff(shapes.keypoint_start)
        numbers[at] = number
        fits = number == points
        found.append(shapes.keypoints[np.repeat(fits, number)].reshape(-1, points, 3))
        faults |= {at.start + row: why for row, why in shapes.faults.items()}
    unusable = np.zeros(len(rows), np.bool_)
    unusable[list(faults)] = True
    doubts = [
        Doubt("unusable", unusable, "high", 0.0, lambda row: faults[row]),
        Doubt(
            "number of points",
            (numbers != points) & ~unusable,
            "high",
            0.0,
            lambda row: f"it has {numbers[row]} points, the schema names {points}",
        ),
    ]
    return Instances(np.flatnonzero(numbers == points), np.concatenate(found)), doubts


def point_faults(rows: pd.DataFrame, instances: Instances, task: Task) -> Iterator[Doubt]:
    """Doubts about single points. `rows`: columns of records.ANNOTATIONS, and width and height of the image."""
    names, points, labeled = task.keypoints, instances.points, instances.labeled
    doubts = _Doubts(len(rows), instances)

    def doubt(kind: str, wrong: Bools, severity: str, score: float, text: str, *, habit: bool = False) -> Doubt:
        """`wrong` (N, K) of points; `text` goes before their names."""
        some: Bools = np.asarray(wrong.any(axis=1))
        return doubts.of(kind, some, severity, score, lambda number: text + _named(names, wrong[number]), habit=habit)

    flags = ~np.isin(points[..., 2], (0, 1, 2))
    yield doubt("visibility", flags, "high", 0.0, "the visibility is none of 0, 1 and 2 for ")
    yield doubt(
        "not labeled, yet placed",
        (points[..., 2] == 0) & (points[..., :2] != 0).any(axis=2),
        "low",
        0.7,
        "marked as not labeled, yet at a place: ",
        habit=True,
    )
    size = rows[["width", "height"]].to_numpy(dtype=np.float64)[instances.rows][:, None]
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(-points[..., :2], points[..., :2] - size).max(axis=2)
        outside = labeled & (beyond > _SLIGHT)
        yield doubt("out of the image", outside, "medium", 0.2, "out of the image: ")
        box = rows[_CORNERS].to_numpy(dtype=np.float64)[instances.rows]
        away = np.maximum(box[:, None, :2] - points[..., :2], points[..., :2] - box[:, None, 2:]).max(axis=2)
        margin = np.where(points[..., 2] >= _VISIBLE, _MARGIN, _HIDDEN_MARGIN)
        reach = np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])[:, None]
        far = labeled & ~outside & (away > np.maximum(margin * reach, 2 * _SLIGHT))
    yield doubt("out of the box", far, "medium", 0.3, "far outside of the box: ", habit=True)
    number = labeled.sum(axis=1)
    low, high = _reach(instances.places)
    heap = (number > 1) & (low == high).all(axis=1)
    yield doubts.of("one spot", heap, "high", 0.0, lambda _: "all of its labeled points lie on one spot")
    yield doubts.of("no point", number == 0, "low", 0.5, lambda _: "none of its points is labeled", habit=True)


def skeleton_faults(rows: pd.DataFrame, instances: Instances, task: Task, summary: dict[str, Any]) -> Iterator[Doubt]:
    """Doubts about whole poses, by class; what could not be judged is told in `summary`."""
    limbs = np.array([[task.keypoints.index(end) for end in line] for line in task.skeleton], np.int64).reshape(-1, 2)
    pairs = mirror_pairs(task.keypoints)
    if not len(limbs):
        summary["limbs"] = "not judged: the schema has no skeleton"
    if not pairs:
        summary["left and right"] = "not judged: no two points have names that differ in left and right"
    labels = texts(rows["label"])[instances.rows]
    for label in sorted({str(name) for name in labels}):
        at = np.flatnonzero(labels.astype(str) == label)
        if len(at) < FEWEST_POSES:
            summary.setdefault("too few to judge poses", {})[label] = len(at)
            continue
        part = Instances(instances.rows[at], instances.points[at])
        doubts = _Doubts(len(rows), part)
        if len(limbs):
            yield _long_limb(doubts, task, limbs)
        if pairs:
            boxes = rows[_CORNERS].to_numpy(dtype=np.float64)[part.rows]
            yield _swapped(doubts, normalised(part.places, boxes), task, pairs)


def _long_limb(doubts: _Doubts, task: Task, limbs: Ints) -> Doubt:
    off = np.nan_to_num(limb_deviations(doubts.instances.places, limbs))
    worst, most = off.argmax(axis=1), off.max(axis=1)

    def told(number: int) -> str:
        line = " to ".join(task.skeleton[worst[number]])
        return f"{line} is too long for the rest by {most[number]:.1f} deviations"

    severity = graded(most, _FAR_TOO_LONG, np.inf)
    return doubts.of("limb", most > _LONG, severity, 0.5 * _LONG / np.maximum(most, _LONG), told)


def _swapped(doubts: _Doubts, poses: Floats, task: Task, pairs: list[tuple[int, int]]) -> Doubt:
    swaps = swapped_sides(poses, pairs)

    def told(number: int) -> str:
        pair = int(swaps.pair[number])
        what = "left and right" if pair < 0 else " and ".join(task.keypoints[point] for point in pairs[pair])
        return f"{what} look swapped: the pose would be {_times(swaps.gain[number])} as probable"

    severity = graded(swaps.gain, _SURELY_SWAPPED, np.inf)
    score = 0.5 * _SWAPPED / np.maximum(swaps.gain, _SWAPPED)
    return doubts.of("swapped sides", swaps.gain > _SWAPPED, severity, score, told)


def _times(gain: float) -> str:
    """e to the power of `gain`, in words."""
    return f"about {float(f'{math.exp(gain):.1g}'):,.0f} times" if gain < math.log(1e6) else "over a million times"


def normalised(places: Floats, boxes: Floats) -> Floats:
    """Points (N, K, 2) from the middle of their box in units of its diagonal; of their own extent where some have none."""
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    low, high = (boxes[:, :2], boxes[:, 2:]) if usable.all() else _reach(places)
    size = np.maximum(np.hypot(*(high - low).T), 1.0)
    result: Floats = (places - ((low + high) / 2)[:, None]) / size[:, None, None]
    return result


def _reach(places: Floats) -> tuple[Floats, Floats]:
    """Least and greatest x and y (N, 2) of the labeled points; 0 without any."""
    known = np.where(np.isnan(places).all(axis=(1, 2), keepdims=True), 0.0, places)
    return np.nanmin(known, axis=1), np.nanmax(known, axis=1)


class _Doubts:
    """Makes doubts about all of `count` rows from what is found about the instances among them."""

    def __init__(self, count: int, instances: Instances) -> None:
        self._count, self.instances = count, instances
        self._place = np.full(count, -1, np.int64)
        self._place[instances.rows] = np.arange(len(instances.rows))

    def of(
        self,
        kind: str,
        some: Bools,
        severity: str | npt.NDArray[np.str_],
        score: Floats | float,
        message: Callable[[int], str],
        *,
        habit: bool = False,
    ) -> Doubt:
        """`some`, `severity`, `score`: of the instances (N,); `message` from an instance's number."""
        rows = self.instances.rows
        doubtful, among = (np.zeros(self._count, np.bool_) for _ in range(2))
        doubtful[rows], among[rows] = some, True
        scores, severities = np.ones(self._count), np.full(self._count, "medium")
        scores[rows], severities[rows] = score, severity
        return Doubt(
            kind,
            doubtful,
            severities,
            scores,
            lambda row: message(int(self._place[row])),
            among=among if habit else None,
        )


def _named(names: tuple[str, ...], wrong: Bools) -> str:
    chosen = [names[number] for number in np.flatnonzero(wrong)]
    more = f" and {len(chosen) - 4} more" if len(chosen) > 4 else ""
    return ", ".join(chosen[:4]) + more


def _counted(labeled: Bools) -> dict[str, int]:
    counts = np.bincount(labeled.sum(axis=1), minlength=labeled.shape[1] + 1)
    return {str(number): int(count) for number, count in enumerate(counts)}
