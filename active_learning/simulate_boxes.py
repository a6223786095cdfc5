"""Replay active learning on boxed images: what each strategy would have bought, in average precision.

The learner is the detector that audits learn from given boxes, in closed form on activations of a pretrained network
(audits.dense_cells, audits.dense_regions). It is learned anew at each budget from the images labeled so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.active_learning.learner import features
from datasetops.active_learning.pool import UNLABELED, Floats, Ints, Pool
from datasetops.active_learning.region_scores import Sum, per_image, presence_entropy
from datasetops.active_learning.replays import Arrays, Run, Simulation, fitting, replay_all
from datasetops.active_learning.strategies import STRATEGIES, find_strategy
from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.pairs import Boxes
from datasetops.audits.detector.cells import CellHead, Regions, kinds_of, strongest
from datasetops.audits.detector.maps import LEVELS, Maps, Projection
from datasetops.audits.detector.plan import plan_detector
from datasetops.audits.detector.regions import RegionHead, region_features, wanted_of_regions
from datasetops.audits.images.stored_images import stored_image
from datasetops.errors import DatasetOpsError
from datasetops.evaluation.detection import PYCOCOTOOLS, coco_metrics
from datasetops.evaluation.regions import Regions as Evaluated
from datasetops.identity import pairwise_iou
from datasetops.models.dense import DenseLite0, in_threads, scaled_size
from datasetops.progress import Progress, no_progress

MEASURE: Final = "AP50"
LEARNER: Final = "closed-form detector"
_FOLDS: Final = 2  # of the images learned from: the second look learns from regions that the first one did not learn
_SHOWN: Final = 0.05  # score below which a detection is clutter
_APART: Final = 0.5  # overlap from which of two detections of a class one is enough
_MOST: Final = 100  # detections of an image, as in COCO
_SKETCHED: Final = 5_000  # regions that the second look's components are learned from
_LEARNED: Final = 16  # images that principal components are learned from
_FEWEST: Final = 20  # regions below which there is no second look to learn
_BOX_SCORES: Final[dict[str, Sum]] = {"box_max": "max", "box_mean": "mean", "box_sum": "sum", "box_top": "top"}


@dataclass(frozen=True)
class BoxReplay:
    """N images: `maps` of each, `boxes` in pixels of the scaled image, `features` (N, D) of whole images, `sizes` (N, 2)
    of the scaled ones; `test` the rows that are never chosen, one array for each seed, or one for all."""

    maps: tuple[Maps, ...]
    boxes: Boxes
    features: npt.NDArray[np.float32]
    sizes: Ints
    classes: tuple[str, ...]
    test: tuple[Ints, ...]


def simulate_boxes(
    replay: BoxReplay,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int = 5,
    jobs: int = 1,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Simulation:
    """See `simulate.simulate`; budgets are images, of which all boxes are drawn when they are labeled.

    Strategies are those that look at embeddings, and `box_max`, `box_mean`, `box_sum` and `box_top`.
    """
    n = len(replay.maps)
    for name in strategies:
        if name not in _BOX_SCORES and (lacking := set(find_strategy(name).needs) - {"embeddings"}):
            raise ValueError(f"strategies: {name} needs {', '.join(sorted(lacking))}, which no box simulation has")
    if not seeds >= 1:
        raise ValueError(f"seeds: expected at least 1; got {seeds}")
    room = min(n - len(part) for part in replay.test)
    kept, notes = fitting(budgets, room)
    shapes = np.array([one.coarse.shape[:2] for one in replay.maps], dtype=np.int64)
    arrays = {
        "features": replay.features,
        "coarse": np.concatenate([one.coarse.reshape(-1, one.coarse.shape[2]) for one in replay.maps]),
        "fine": np.concatenate([one.fine.reshape(-1, one.fine.shape[2]) for one in replay.maps]),
    }
    work = _Work(shapes, replay.boxes, replay.sizes, replay.classes, replay.test, kept)
    told = [shapes, replay.boxes.image, replay.boxes.label, replay.boxes.corners, list(replay.classes), *replay.test]
    names = tuple(dict.fromkeys(strategies))
    runs = replay_all(work, arrays, told, names, seeds, jobs=jobs, cache=cache, progress=progress)
    tests = len(replay.test[0])
    return Simulation(MEASURE, LEARNER, len(replay.classes), room, tests, names, kept, seeds, runs, tuple(notes))


def box_replay(context: AuditContext, test: Callable[[Ints], tuple[Ints, ...]]) -> BoxReplay:
    """The images of a version that have been labeled, as the detector sees them.

    `test` gives the test parts of some samples, by their places. Raises DatasetOpsError where there is too little to
    learn from.
    """
    plan = plan_detector(context)
    if isinstance(plan, str):
        raise DatasetOpsError(f"There is nothing to replay: {plan}.", remedy="Take a version with more boxes.")
    cache: Path = context.memo["model_cache"]
    network = DenseLite0(cache)
    order = np.random.default_rng(0).permutation(plan.fit)
    sizes: dict[int, tuple[int, int]] = {}
    scales: dict[int, npt.NDArray[np.float64]] = {}

    def look(row: int, image: Image.Image | None) -> list[npt.NDArray[np.float32]] | None:
        if image is None:
            return None
        sizes[row] = width, height = scaled_size(image.width, image.height, plan.side)
        scales[row] = np.array([width / image.width, height / image.height] * 2)
        return network.maps(image, LEVELS, plan.side)

    seen = in_threads(lambda row: stored_image(context, row), look, order.tolist(), context.jobs)
    first: dict[int, list[npt.NDArray[np.float32]]] = {}
    maps: dict[int, Maps] = {}
    project: Projection | None = None
    for row, levels in context.progress(seen, len(order), "Looking at images"):
        if levels is None:
            continue
        if project is not None:
            maps[row] = project(levels)
            continue
        first[row] = levels
        if len(first) == min(_LEARNED, len(order)):
            project = Projection(list(first.values()), np.random.default_rng(0))
            maps = {known: project(one) for known, one in first.items()}
            first = {}
    if not maps:
        raise DatasetOpsError("Too few of the images can be read.", remedy="Put them back where they were.")
    rows = np.array(sorted(maps))
    boxes = plan.taught[np.flatnonzero(np.isin(plan.taught.image, rows))]
    scale = np.array([scales[row] for row in rows.tolist()])
    image = np.searchsorted(rows, boxes.image)
    return BoxReplay(
        tuple(maps[row] for row in rows.tolist()),
        Boxes(image, boxes.label, boxes.corners * scale[image]),
        features(context.embeddings()[rows]),
        np.array([sizes[row] for row in rows.tolist()]),
        tuple(plan.names),
        test(rows),
    )


@dataclass(frozen=True)
class _Work:
    shapes: Ints  # rows and columns of cells
    boxes: Boxes
    sizes: Ints
    classes: tuple[str, ...]
    test: tuple[Ints, ...]
    budgets: tuple[int, ...]

    def run(self, arrays: Arrays, strategy: str, seed: int) -> Run:
        n = len(self.shapes)
        test = self.test[seed % len(self.test)]
        candidates = np.setdiff1d(np.arange(n), test)
        wanted = find_strategy(strategy)
        maps = self._maps(arrays)
        labels = np.full(n, UNLABELED, np.int64)  # boxes have no class of the whole image
        pool = Pool(len(self.classes), candidates, np.empty(0, np.int64), labels, embeddings=arrays["features"])
        detector: Detector | None = None
        chosen: Ints = np.empty(0, np.int64)
        measured, reasons = [], []
        for step, budget in enumerate(self.budgets):
            rng = np.random.default_rng([seed, step, 1])  # the same for all strategies
            by = wanted
            if strategy in _BOX_SCORES:
                if detector is None:
                    by = STRATEGIES["random"]  # nothing is known yet
                else:
                    scores = self._doubts(detector, maps, pool.candidates, _BOX_SCORES[strategy])
                    pool = Pool(**vars(pool) | {"uncertainty": scores})
            picks = by.pick(pool, budget - len(chosen), rng)
            pool = pool.without(picks.rows)
            chosen = np.concatenate([chosen, picks.rows])
            reasons.append(picks.reasons[0] if picks.reasons else "")
            detector = learn_detector(maps, self.boxes, np.sort(chosen), len(self.classes), np.random.default_rng(seed))
            measured.append(0.0 if detector is None else self._precision(detector, maps, test))
        return Run(strategy, seed, tuple(measured), tuple(reasons))

    def _maps(self, arrays: Arrays) -> list[Maps]:
        ends = np.cumsum(self.shapes.prod(axis=1))
        maps = []
        for end, (rows, columns) in zip(ends.tolist(), self.shapes.tolist(), strict=True):
            cells = slice(end - rows * columns, end)
            fine = arrays["fine"][4 * cells.start : 4 * cells.stop]
            maps.append(
                Maps(arrays["coarse"][cells].reshape(rows, columns, -1), fine.reshape(2 * rows, 2 * columns, -1))
            )
        return maps

    def _doubts(self, detector: Detector, maps: Sequence[Maps], rows: Ints, how: Sum) -> Floats:
        """Scores (N,) of the images of these rows, NaN elsewhere; an image without detections is as doubtful as can be."""
        found = [detector.detections(maps[row]) for row in rows]
        image = np.repeat(np.arange(len(rows)), [len(one.score) for one in found])
        score = np.concatenate([one.score for one in found])
        shown = score >= _SHOWN
        doubts = presence_entropy(np.clip(score[shown], 0, 1))
        out = np.full(len(self.shapes), np.nan)
        out[rows] = per_image(image[shown], doubts, len(rows), how, empty=1.0)
        return out

    def _precision(self, detector: Detector, maps: Sequence[Maps], test: Ints) -> float:
        found = [detector.detections(maps[row]) for row in test]
        image = np.repeat(np.arange(len(test)), [len(one.score) for one in found])
        boxes = Boxes(image, *(np.concatenate([getattr(one, name) for one in found]) for name in ("label", "corners")))
        rows = np.flatnonzero(np.isin(self.boxes.image, test))
        given = Boxes(np.searchsorted(test, self.boxes.image[rows]), self.boxes.label[rows], self.boxes.corners[rows])
        answers = _evaluated(boxes, np.concatenate([one.score for one in found]).astype(np.float64))
        metrics = coco_metrics(
            answers, _evaluated(given, np.ones(len(rows))), self.sizes[test], self.classes, evaluator=PYCOCOTOOLS
        )
        return float(np.nan_to_num(metrics.summary()["AP50"]))


class Detector:
    """Learned from some images' boxes; `detections` of any other image."""

    def __init__(self, cells: CellHead, regions: RegionHead | None) -> None:
        self._cells, self._regions = cells, regions

    def detections(self, maps: Maps) -> Regions:
        """Best first; the score is about 1 for a well placed object and 0 for none."""
        found = self._cells.look(maps, _FOLDS)
        score = found.score
        if self._regions is not None and len(found.label):
            answers = self._regions.judge(self._regions.reduce(region_features(maps, found)), _FOLDS)
            score = answers[np.arange(len(answers)), found.label]
        order = np.argsort(-score, kind="stable")
        corners, label = found.corners[order], found.label[order]
        overlap = pairwise_iou(corners, corners) * (label[:, None] == label[None, :])
        kept = strongest(overlap, _APART)[:_MOST]
        return Regions(corners[kept], label[kept], score[order][kept])


def learn_detector(
    maps: Sequence[Maps], boxes: Boxes, rows: Ints, classes: int, rng: np.random.Generator
) -> Detector | None:
    """Learn from the boxes of the images of these rows, ascending; None where they have none.

    Images are in two folds, of which each teaches what the other's regions look like; another fold, without images, is
    that of all others.
    """
    of = {int(row): boxes[np.flatnonzero(boxes.image == row)] for row in rows}
    if not sum(len(one) for one in of.values()):
        return None
    fold = dict(zip(of, (np.arange(len(of)) % _FOLDS).tolist(), strict=True))
    kinds, kind = kinds_of(
        np.concatenate([one.corners for one in of.values()]), np.concatenate([one.label for one in of.values()])
    )
    head = CellHead(kinds, _FOLDS + 1, len(kind))
    ends = np.cumsum([len(one) for one in of.values()])
    nothing = np.empty((0, 4))
    for row, own in zip(of, np.split(kind, ends[:-1]), strict=True):
        head.learn(maps[row], fold[row], of[row].corners, own, nothing)
    head.fit()
    regions = {row: head.look(maps[row], fold[row]) for row in of}
    seen = {row: region_features(maps[row], one) for row, one in regions.items() if len(one.label)}
    if sum(map(len, seen.values())) < _FEWEST:
        return Detector(head, None)
    second = RegionHead(np.concatenate(list(seen.values()))[:_SKETCHED], classes, _FOLDS + 1, rng)
    for row, one in seen.items():
        wanted = wanted_of_regions(regions[row], of[row].corners, of[row].label, classes)
        second.learn(second.reduce(one), fold[row], wanted)
    second.fit()
    return Detector(head, second)


def _evaluated(boxes: Boxes, score: Floats) -> Evaluated:
    n = len(boxes)
    return Evaluated(boxes, score, np.zeros(n, np.bool_), boxes.area, np.arange(n))
