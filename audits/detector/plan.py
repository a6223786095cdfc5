"""What a detector learns from and what it looks at: classes, folds and images, chosen before any image is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.pairs import Boxes
from datasetops.audits.boxes.rows import box_rows
from datasetops.audits.detector.cells import Ints
from datasetops.audits.detector.maps import STRIDE
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.labels.probe import assign_folds
from datasetops.models.dense import SIDE

FOLDS: Final = 4
FEWEST_IMAGES: Final = 20  # with boxes: with fewer, what is learned of the others says little on any
FEWEST_BOXES: Final = 10  # of a class
_FIT_CELLS: Final = 1_200_000  # of the images that are learned from, 1,000 at 640 x 480: kept meanwhile, 0.4 GB
_SIDES: Final = (384, 512, 640, 800, 960)  # of the scaled image
_CLEAR: Final = 32  # pixels that the usual object of the smallest classes should span, two cells
_NAMED: Final = 10  # classes that a sentence names at most


@dataclass(frozen=True)
class Plan:
    """`fit`: rows of samples to learn from; `rest`: those only to look at; `folds` (samples,).

    `taught`: boxes with the number of their class in `names`; `ignored`: areas that teach nothing; `counted` (samples,):
    images that have been labeled, as far as can be told; `side`: pixels of the scaled image; `notes`: what is left out.
    """

    fit: Ints
    rest: Ints
    folds: Ints
    taught: Boxes
    ignored: Boxes
    names: list[str]
    counted: npt.NDArray[np.bool_]
    side: int
    notes: list[str]


def plan_detector(context: AuditContext) -> Plan | str:
    """A reason where there is too little to learn from."""
    given = box_rows(context)
    if not len(given.rows):
        return given.lack
    readable = context.at_hand
    if not readable.any():
        return "there are no images at hand"
    label, image = given.boxes.label, given.boxes.image
    in_use = (label >= 0) & (label < len(context.schema.class_names)) & ~given.crowd
    groups = grouped_with_copies(context.samples).to_numpy()
    folds = assign_folds(_rarest(given.boxes[in_use], len(readable)), groups, FOLDS, context.seed)
    usable = in_use & readable[image]
    of_fold = np.zeros((len(given.names), int(folds.max()) + 1), dtype=np.int64)
    np.add.at(of_fold, (label[usable], folds[image[usable]]), 1)
    enough = (of_fold.sum(axis=1) >= FEWEST_BOXES) & ((of_fold > 0).sum(axis=1) > 1)
    taught = usable.copy()
    taught[usable] = enough[label[usable]]
    boxed = np.unique(image[taught])
    if len(boxed) < FEWEST_IMAGES:
        return (
            f"{len(boxed):,} images have boxes of a class with {FEWEST_BOXES} boxes or more, in more than one group of "
            f"images; {FEWEST_IMAGES} are needed"
        )
    notes = []
    few = [given.names[one] for one in np.flatnonzero((of_fold.sum(axis=1) > 0) & ~enough)]
    if few:
        notes.append(
            f"{len(few):,} classes with fewer than {FEWEST_BOXES} boxes, or in one group of images, are not looked for: "
            + ", ".join(few[:_NAMED])
            + (", …" if len(few) > _NAMED else "")
        )
    boxes = given.boxes[taught]
    side = _side(boxes, given.sides[taught])
    counted = np.ones(len(readable), dtype=bool) if given.mostly_labeled else given.labeled
    fit = _chosen(boxes, np.flatnonzero(counted & readable), side, context.seed)
    if len(fit) < counted.sum():
        notes.append(f"learned from {len(fit):,} of {int(counted.sum()):,} images")
    return Plan(
        fit=fit,
        rest=np.setdiff1d(np.flatnonzero(readable), fit),
        folds=folds,
        taught=Boxes(boxes.image, (np.cumsum(enough) - 1)[boxes.label], boxes.corners),
        ignored=given.boxes[~taught],
        names=[name for name, kept in zip(given.names, enough, strict=True) if kept],
        counted=counted,
        side=side,
        notes=notes,
    )


def _rarest(boxes: Boxes, images: int) -> Ints:
    """Each image's rarest class; 0 for those without boxes, which 1 is added to for the others."""
    result = np.zeros(images, dtype=np.int64)
    order = np.argsort(-np.bincount(boxes.label)[boxes.label], kind="stable")
    result[boxes.image[order]] = boxes.label[order] + 1
    return result


def _chosen(boxes: Boxes, images: Ints, side: int, seed: int) -> Ints:
    """Of many images some at random, those with rare classes more likely (Efraimidis and Spirakis, 2006)."""
    most = int(_FIT_CELLS / (0.75 * (side / STRIDE) ** 2))
    if len(images) <= most:
        return images
    often = np.bincount(boxes.label)
    weight = np.full(int(images.max()) + 1, 1 / often.max())
    known = boxes[np.isin(boxes.image, images)]
    np.maximum.at(weight, known.image, 1 / often[known.label])
    lots = np.random.default_rng(seed).exponential(size=len(images)) / weight[images]
    return np.sort(images[np.argsort(lots, kind="stable")[:most]])


def _side(boxes: Boxes, sides: npt.NDArray[np.float64]) -> int:
    """The least at which the usual object of the smallest classes is clear to see."""
    share = pd.Series(np.sqrt(boxes.area) / sides.max(axis=1))
    of_class = share.groupby(boxes.label).median().dropna()
    if not len(of_class):
        return SIDE
    smallest = float(of_class.quantile(0.1))
    return next((side for side in _SIDES if side * smallest >= _CLEAR), _SIDES[-1])
