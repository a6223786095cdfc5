"""Detections that owe nothing to the labels of the image they are in, learned from the given boxes alone.

A small detector on activations of a pretrained network, fitted in closed form for every fold of the images: cells of
each image are asked for middles of objects (audits.dense_cells), the regions that come of it are judged once more
(audits.dense_regions), and scores become the share of such detections that the given boxes confirm. No box of an image
teaches what judges it; all that its boxes have a part in is which regions of other images the second look learns from,
and the common scale of the scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.detections import COLUMNS
from datasetops.audits.boxes.pairs import Boxes, one_to_one, overlaps
from datasetops.audits.boxes.scores import MATCH, confirmed_share
from datasetops.audits.detector.cells import CellHead, Corners, Ints, Regions, kinds_of, strongest
from datasetops.audits.detector.maps import LEVELS, Floats, Maps, Projection
from datasetops.audits.detector.plan import FEWEST_IMAGES, Plan, plan_detector
from datasetops.audits.detector.regions import Halves, RegionHead, region_features, wanted_of_regions
from datasetops.audits.images.stored_images import stored_image
from datasetops.identity import pairwise_iou
from datasetops.models.dense import DenseLite0, in_threads, scaled_size
from datasetops.settings import load_settings

_SKETCHED: Final = 16  # images that principal components are learned from
_SKETCHED_REGIONS: Final = 5_000
_APART: Final = 0.5  # overlap from which of two detections of a class one is enough
_MOST: Final = 50  # detections of an image that are told
_LEAST: Final = 0.02  # score from which more than the best one of an image is told
_TOO_FEW: Final = 100  # regions like the given boxes, in all images: there is nothing to be learned from them


def out_of_sample_detections(context: AuditContext) -> pd.DataFrame | None:
    """Columns of audits.detections, in pixels of the image as stored, those of an image one after another.

    `score`: the share of such detections that the given boxes confirm; where a part of all objects was left unboxed, no
    score exceeds the rest. An image is judged by what others taught that are no copies of it and not of its group. What
    was left out is in `attrs["notes"]`. None where there is too little to learn from; the reason is then in
    `context.memo["dense_probe"]`. The same arguments give the same answer. `context.memo["model_cache"]` may name
    another folder for the network than the settings do. Raises ModelError where the network cannot be opened.
    """
    from threadpoolctl import threadpool_limits

    plan = plan_detector(context)
    if isinstance(plan, str):
        context.memo["dense_probe"] = plan
        return None
    with threadpool_limits(limits=1, user_api="blas"):  # images go to threads of their own
        detector = _Detector(context, plan)
        reason = detector.fit()
        if reason is not None:
            context.memo["dense_probe"] = reason
            return None
        return detector.detections()


class _Detector:
    def __init__(self, context: AuditContext, plan: Plan) -> None:
        cache: Path = context.memo.get("model_cache") or load_settings(None).cache
        self._context, self._plan = context, plan
        self._network = DenseLite0(cache)
        self._rng = np.random.default_rng(context.seed)
        self._scales: dict[int, Corners] = {}  # of each image that was read: from its pixels to those of the scaled one
        self._project: Projection
        self._judged: dict[int, tuple[Regions, Floats]] = {}
        self._unreadable = 0

    def fit(self) -> str | None:
        """A reason where it cannot be done."""
        maps = self._maps()
        boxes = {row: self._of_image(self._plan.taught, row) for row in maps}
        if sum(len(label) > 0 for _, label in boxes.values()) < FEWEST_IMAGES:
            return f"fewer than {FEWEST_IMAGES} images with boxes can be read"
        folds = int(self._plan.folds.max()) + 1
        kinds, kind = kinds_of(*(np.concatenate(column) for column in zip(*boxes.values(), strict=True)))
        self._cells = CellHead(kinds, folds, len(kind))
        ends = np.cumsum([len(label) for _, label in boxes.values()])
        for row, own in zip(maps, np.split(kind, ends[:-1]), strict=True):
            ignored = self._of_image(self._plan.ignored, row)[0]
            self._cells.learn(maps[row], int(self._plan.folds[row]), boxes[row][0], own, ignored)
        self._cells.fit()
        regions = {row: self._cells.look(one, int(self._plan.folds[row])) for row, one in maps.items()}
        sample: list[Floats] = []
        for row, one in maps.items():
            if sum(map(len, sample)) < _SKETCHED_REGIONS:
                sample.append(region_features(one, regions[row]))
        if sum(map(len, sample)) < _TOO_FEW:
            return "nothing that looks like the given boxes is found in other images"
        classes = len(self._plan.names)
        self._regions = RegionHead(np.concatenate(sample), classes, folds, self._rng)
        reduced: dict[int, Halves] = {}
        for row, one in maps.items():
            reduced[row] = self._regions.reduce(region_features(one, regions[row]))
            wanted = wanted_of_regions(regions[row], *boxes[row], classes)
            ignored = pairwise_iou(regions[row].corners, self._of_image(self._plan.ignored, row)[0])
            counts = ~(ignored >= MATCH).any(axis=1)
            self._regions.learn(reduced[row][counts], int(self._plan.folds[row]), wanted[counts])
        self._regions.fit()
        for row, own_regions in reduced.items():
            self._judged[row] = regions[row], self._regions.judge(own_regions, int(self._plan.folds[row]))
        return None

    def detections(self) -> pd.DataFrame:
        plan, context = self._plan, self._context
        work = in_threads(self._read, self._look, plan.rest.tolist(), context.jobs)
        parts = [(row, *self._told(row, *known)) for row, known in self._judged.items()]
        for row, told in context.progress(work, len(plan.rest), "Looking for objects"):
            if told is None:
                self._unreadable += 1
            else:
                parts.append((row, *told))
        parts.sort(key=lambda part: part[0])
        corners, label, answer = (np.concatenate([part[place] for part in parts]) for place in (1, 2, 3))
        image = np.repeat([part[0] for part in parts], [len(part[2]) for part in parts])
        found = Boxes(image, label, corners)
        score = self._confirmed(found, answer.astype(np.float64))
        best = np.lexsort((-score, image))
        kept = score >= _LEAST
        kept[best[np.diff(image[best], prepend=-1) > 0]] = True
        columns = [
            context.samples["sample_id"].to_numpy()[image[kept]],
            np.array(plan.names, dtype=object)[label[kept]],
            *corners[kept].T,
            score[kept],
        ]
        frame = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
        notes = list(plan.notes)
        if self._unreadable:
            notes.append(f"{self._unreadable:,} images cannot be read, or are turned by viewers")
        frame.attrs["notes"] = tuple(notes)
        return frame

    def _maps(self) -> dict[int, Maps]:
        """Of the images to learn from, in the order of their rows."""
        rows = self._rng.permutation(self._plan.fit).tolist()
        work = in_threads(self._read, self._levels, rows, self._context.jobs)
        sketched: dict[int, list[Floats]] = {}
        maps: dict[int, Maps] = {}
        ready = False
        for row, levels in self._context.progress(work, len(rows), "Learning from boxes"):
            if levels is None:
                self._unreadable += 1
            elif ready:
                maps[row] = self._project(levels)
            else:
                sketched[row] = levels
                if ready := len(sketched) == _SKETCHED:
                    self._project = Projection(list(sketched.values()), self._rng)
                    maps |= {known: self._project(one) for known, one in sketched.items()}
                    sketched = {}
        return dict(sorted(maps.items()))

    def _read(self, row: int) -> Image.Image | None:
        return stored_image(self._context, row)

    def _levels(self, row: int, image: Image.Image | None) -> list[Floats] | None:
        if image is None:
            return None
        width, height = scaled_size(image.width, image.height, self._plan.side)
        self._scales[row] = np.array([width / image.width, height / image.height] * 2)
        return self._network.maps(image, LEVELS, self._plan.side)

    def _look(self, row: int, image: Image.Image | None) -> tuple[Corners, Ints, Floats] | None:
        levels = self._levels(row, image)
        if levels is None:
            return None
        maps, fold = self._project(levels), int(self._plan.folds[row])
        regions = self._cells.look(maps, fold)
        reduced = self._regions.reduce(region_features(maps, regions))
        return self._told(row, regions, self._regions.judge(reduced, fold))

    def _told(self, row: int, regions: Regions, answers: Floats) -> tuple[Corners, Ints, Floats]:
        """Corners in pixels of the image as stored, classes and answers of the detections of an image."""
        answer = answers[np.arange(len(answers)), regions.label]
        order = np.argsort(-answer, kind="stable")
        corners, label = regions.corners[order], regions.label[order]
        overlap = pairwise_iou(corners, corners) * (label[:, None] == label[None, :])
        kept = strongest(overlap, _APART)[:_MOST]
        return corners[kept] / self._scales[row], label[kept], answer[order][kept]

    def _of_image(self, boxes: Boxes, row: int) -> tuple[Corners, Ints]:
        """In pixels of the scaled image."""
        low, high = np.searchsorted(boxes.image, [row, row + 1])
        return boxes.corners[low:high] * self._scales[row], boxes.label[low:high]

    def _confirmed(self, found: Boxes, answer: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The share of detections of this class and answer that given boxes confirm, where images have been labeled."""
        taught, classes = self._plan.taught, len(self._plan.names)
        pairs = overlaps(taught, found, iou=MATCH)
        pairs = pairs[taught.label[pairs.first] == found.label[pairs.second]]
        hits = np.zeros(len(found))
        hits[pairs.second[one_to_one(pairs, answer[pairs.second])]] = 1
        counted = self._plan.counted[found.image]
        score = np.zeros(len(found))
        score[counted] = confirmed_share(hits[counted], answer[counted], found.label[counted], classes)
        for one in np.unique(found.label[~counted]):  # as detections elsewhere with the same answer
            known, open_ = (np.flatnonzero(which & (found.label == one)) for which in (counted, ~counted))
            known = known[np.argsort(answer[known], kind="stable")]
            score[open_] = np.interp(answer[open_], answer[known], score[known]) if len(known) else 0.0
        return score
