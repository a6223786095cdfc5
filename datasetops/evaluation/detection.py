"""COCO's average precision and recall of boxes and masks: the twelve numbers, by class and by size.

The evaluator is hotcoco, which gives pycocotools' numbers; where it is not installed, pycocotools itself.
Lin et al., "Microsoft COCO" (ECCV 2014), and https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from datasetops.errors import MissingDependencyError
from datasetops.evaluation.regions import Floats, Ints, Regions

HOTCOCO: Final = "hotcoco"
PYCOCOTOOLS: Final = "pycocotools"
AREAS: Final = ("all", "small", "medium", "large")  # up to 32 x 32 and 96 x 96 pixels
_MOST: Final = (1, 10, 100)  # detections of an image and class
_ALL, _HUNDRED = 0, 2
_NAMES: Final = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


@dataclass(frozen=True)
class CocoMetrics:
    """`precision` (T, R, K, A, M) and `recall` (T, K, A, M) as COCO has them, -1 where there is nothing to find.

    T thresholds of overlap from .5 to .95, R recalls from 0 to 1, K classes, A areas as in AREAS, M the most detections
    of an image (1, 10, 100).
    """

    precision: Floats
    recall: Floats
    classes: tuple[str, ...]
    evaluator: str

    def summary(self, label: str | None = None) -> dict[str, float]:
        """The twelve numbers, of all classes or of one; NaN where there is nothing to find."""
        of = slice(None) if label is None else slice(at := self.classes.index(label), at + 1)
        precision, recall = self.precision[:, :, of], self.recall[:, of]
        found = [precision[:, :, :, _ALL, _HUNDRED]]
        found += [precision[place : place + 1, :, :, _ALL, _HUNDRED] for place in (0, 5)]
        found += [precision[:, :, :, area, _HUNDRED] for area in (1, 2, 3)]
        found += [recall[:, :, _ALL, most] for most in range(len(_MOST))]
        found += [recall[:, :, area, _HUNDRED] for area in (1, 2, 3)]
        return {name: _mean(values) for name, values in zip(_NAMES, found, strict=True)}

    def by_class(self) -> dict[str, dict[str, float]]:
        """The twelve numbers of each class that there is something of."""
        there = self.recall[:, :, _ALL, _HUNDRED].max(axis=0) > -1
        return {self.classes[code]: self.summary(self.classes[code]) for code in np.flatnonzero(there).tolist()}

    def curves(self, label: str) -> Floats:
        """Precision (T, R) over recall of one class, objects of all sizes."""
        result: Floats = self.precision[:, :, self.classes.index(label), _ALL, _HUNDRED]
        return result


def evaluator_name(wanted: str | None = None) -> str:
    """The evaluator to use: the one asked for, else hotcoco where it is installed, else pycocotools.

    Raises MissingDependencyError where one that was asked for is not installed, ValueError for another name.
    """
    if wanted not in (None, HOTCOCO, PYCOCOTOOLS):
        raise ValueError(f"evaluator: expected {HOTCOCO} or {PYCOCOTOOLS}; got {wanted!r}")
    if wanted == HOTCOCO and find_spec(HOTCOCO) is None:
        raise MissingDependencyError(HOTCOCO, extra="evaluate", purpose=f"The evaluator {HOTCOCO}")
    return wanted or (HOTCOCO if find_spec(HOTCOCO) is not None else PYCOCOTOOLS)


def coco_metrics(
    found: Regions,
    truth: Regions,
    sizes: Ints,
    classes: Sequence[str],
    *,
    evaluator: str | None = None,
) -> CocoMetrics:
    """Evaluate detections in M images, whose width and height are `sizes` (M, 2).

    Masks where both sides have them, boxes otherwise. `evaluator`: hotcoco or pycocotools, see `evaluator_name`.
    """
    name = evaluator_name(evaluator)
    kind = "bbox" if found.masks is None or truth.masks is None else "segm"
    if not len(found) or not len(truth):
        precision, recall = _nothing_found(truth, len(classes))
    else:
        run = _with_hotcoco if name == HOTCOCO else _with_pycocotools
        precision, recall = run(found, truth, sizes, len(classes), kind)
    return CocoMetrics(precision, recall, tuple(classes), name)


def _with_hotcoco(found: Regions, truth: Regions, sizes: Ints, classes: int, kind: str) -> tuple[Floats, Floats]:
    import hotcoco

    objects = hotcoco.COCO.from_arrays(
        _images(sizes),
        _categories(classes),
        truth.boxes.image + 1,
        truth.boxes.label + 1,
        _xywh(truth),
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=_shapes(truth, kind),
    )
    columns = (found.boxes.image + 1, _xywh(found), found.score, found.boxes.label + 1)
    detections = objects.load_res(np.column_stack(columns), segmentation=_shapes(found, kind))
    if kind == "segm":  # columns bring the boxes' areas along
        detections.update_anns(ids=np.arange(1, len(found) + 1), area=found.area)
    run = hotcoco.COCOeval(objects, detections, kind)
    run.evaluate()
    run.accumulate()
    result = run.eval or {}
    return np.asarray(result["precision"]), np.asarray(result["recall"])


def _with_pycocotools(found: Regions, truth: Regions, sizes: Ints, classes: int, kind: str) -> tuple[Floats, Floats]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    entries = _entries(truth, kind)
    for number, entry in enumerate(entries):
        entry |= {"id": number + 1, "iscrowd": int(truth.crowd[number]), "area": float(truth.area[number])}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        objects = COCO()
        objects.dataset = {"images": _images(sizes), "categories": _categories(classes), "annotations": entries}
        objects.createIndex()
        answers = _entries(found, kind)
        for entry, score in zip(answers, found.score.tolist(), strict=True):
            entry["score"] = score
        run = COCOeval(objects, objects.loadRes(answers), kind)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def _entries(regions: Regions, kind: str) -> list[dict[str, Any]]:
    columns = (regions.boxes.image.tolist(), regions.boxes.label.tolist(), _xywh(regions).tolist())
    entries = [
        {"image_id": image + 1, "category_id": label + 1, "bbox": box}
        for image, label, box in zip(*columns, strict=True)
    ]
    if kind == "segm":
        for entry, mask in zip(entries, regions.masks or [], strict=True):
            entry["segmentation"] = mask
            del entry["bbox"]
    return entries


def _shapes(regions: Regions, kind: str) -> list[Any] | None:
    return None if kind == "bbox" else regions.masks


def _images(sizes: Ints) -> list[dict[str, int]]:
    return [
        {"id": number + 1, "width": width, "height": height} for number, (width, height) in enumerate(sizes.tolist())
    ]


def _categories(classes: int) -> list[dict[str, Any]]:
    return [{"id": number + 1, "name": str(number)} for number in range(classes)]


def _xywh(regions: Regions) -> Floats:
    return np.hstack([regions.boxes.corners[:, :2], regions.boxes.sides])


def _nothing_found(truth: Regions, classes: int) -> tuple[Floats, Floats]:
    """0 for each class and size that there is something of, else -1."""
    limits = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
    counted = truth.area[~truth.crowd]
    there = np.zeros((classes, len(AREAS)), bool)
    for place, (low, high) in enumerate(limits.tolist()):
        inside = (counted >= low) & (counted <= high)
        there[truth.boxes.label[~truth.crowd][inside], place] = True
    value = np.where(there, 0.0, -1.0)
    shape = (10, 101, classes, len(AREAS), len(_MOST))
    return np.broadcast_to(value[None, None, :, :, None], shape), np.broadcast_to(
        value[None, :, :, None], (10, classes, len(AREAS), len(_MOST))
    )


def _mean(values: Floats) -> float:
    told = values[values > -1]
    return float(told.mean()) if told.size else math.nan
