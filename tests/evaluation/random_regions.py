"""Boxes and detections of made-up images, with crowds, duplicates, near misses and wrong classes."""

from __future__ import annotations

import numpy as np

from datasetops.audits.boxes.pairs import Boxes
from datasetops.evaluation.regions import Flags, Floats, Ints, Regions

SIDE = 200


def regions(
    image: list[int] | Ints,
    label: list[int] | Ints,
    corners: Floats,
    score: Floats | None = None,
    crowd: Flags | None = None,
) -> Regions:
    """In any order."""
    order = np.argsort(image, kind="stable")
    boxes = Boxes(
        np.asarray(image, np.int64)[order],
        np.asarray(label, np.int64)[order],
        np.asarray(corners, np.float64).reshape(-1, 4)[order],
    )
    n = len(boxes)
    scores = np.ones(n) if score is None else np.asarray(score, np.float64)[order]
    crowds = np.zeros(n, bool) if crowd is None else np.asarray(crowd, bool)[order]
    return Regions(boxes, scores, crowds, boxes.area, order)


def scene(
    seed: int, images: int = 12, classes: int = 3, objects: int = 40, detections: int = 120, crowds: float = 0.1
) -> tuple[Regions, Regions]:
    """(truth, found); whole pixels and few scores, so that overlaps and scores are tied."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, SIDE - 60, (objects, 2))
    box = np.concatenate([corner, corner + rng.integers(4, 60, (objects, 2))], axis=1)
    image, label = rng.integers(0, images, objects), rng.integers(0, classes, objects)
    source = rng.integers(0, objects, detections)
    moved = box[source] + rng.integers(-6, 7, (detections, 4)) * (rng.random((detections, 1)) < 0.7)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    said = np.where(rng.random(detections) < 0.8, label[source], rng.integers(0, classes, detections))
    where = np.where(rng.random(detections) < 0.9, image[source], rng.integers(0, images, detections))
    truth = regions(image, label, box, crowd=rng.random(objects) < crowds)
    return truth, regions(where, said, moved, score=rng.integers(1, 20, detections) / 20)
