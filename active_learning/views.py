"""How far a detector's boxes move when its image changes a little: mirrored, smaller, shifted, brighter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from datasetops.active_learning.pool import Floats
from datasetops.active_learning.region_scores import Detections, Stability, stability
from datasetops.audits.boxes.pairs import Boxes
from datasetops.engine import Fault, Item
from datasetops.engine.local import LocalEngine
from datasetops.errors import ModelError
from datasetops.images import decode_rgb
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository
from datasetops.models.cache import EmbeddingCache
from datasetops.models.predictor import Prediction, Predictor, open_predictor
from datasetops.preannotate.labelers import checked
from datasetops.progress import Progress, no_progress
from datasetops.records import sha256_hex
from datasetops.store.media import Media

_GREY: Final = (114, 114, 114)  # beside a shrunk or shifted picture: what detectors' own letterboxes use


@dataclass(frozen=True)
class View:
    """A change of an image that keeps its size. `shift` is a share of width and height, to the right and down."""

    mirrored: bool = False
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 1.0

    def of(self, image: Image.Image) -> Image.Image:
        """The image with this change; grey where it has nothing to show."""
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.scale != 1 or self.shift != (0, 0):
            (x, y), part = self._offset(*image.size), 1 / self.scale
            image = image.transform(
                image.size,
                Image.Transform.AFFINE,
                (part, 0, -x * part, 0, part, -y * part),
                Image.Resampling.BILINEAR,
                fillcolor=_GREY,
            )
        return ImageEnhance.Brightness(image).enhance(self.brightness) if self.brightness != 1 else image

    def back(self, corners: Floats, width: int, height: int) -> Floats:
        """Boxes (P, 4) found in the view, as they lie in the image; cut at its edges, so that some may have no area."""
        found = (corners - np.tile(self._offset(width, height), 2)) / self.scale
        if self.mirrored:
            found = np.stack([width - found[:, 2], found[:, 1], width - found[:, 0], found[:, 3]], axis=1)
        inside: Floats = np.clip(found, 0, np.array([width, height] * 2))
        return inside

    def _offset(self, width: int, height: int) -> tuple[float, float]:
        """Where the image's corner lies in the view: in the middle, then shifted."""
        middle = (1 - self.scale) / 2
        return (middle + self.shift[0]) * width, (middle + self.shift[1]) * height


CLUTTER: Final = 0.05  # score below which a box is clutter: detectors give hundreds of those an image
_PART: Final = 64  # images between two steps of the progress: what an interrupt may cost
VIEWS: Final = (View(mirrored=True), View(scale=0.9), View(shift=(0.03, 0.03)), View(brightness=1.2))


def localisation_spread(
    predictor: Predictor,
    read: Callable[[str], bytes],
    items: Sequence[Item],
    *,
    views: Sequence[View] = VIEWS,
    engine: LocalEngine | None = None,
    min_score: float = 0.0,
    empty: float = 0.0,
    progress: Progress = no_progress,
) -> tuple[Stability, list[Fault]]:
    """How far the boxes of each item (N,) move between the views; see `region_scores.stability`.

    Takes a run of the model for each view and one for the image. Images without an answer are faults, and NaN.
    Detections below `min_score` are left out. Masks and outlines count as the boxes around them. Raises ModelError for
    a model that places nothing.
    """
    if not set(predictor.kinds) & {"box", "polygon", "mask", "keypoints"}:
        raise ModelError(
            f"The model {predictor.name!r} gives {' and '.join(predictor.kinds)}, which lie nowhere in the image.",
            remedy="Name a detector.",
        )
    n, faults = len(items), []
    parts: list[list[tuple[int, _Found]]] = [[] for _ in range(len(views) + 1)]
    runner = engine or LocalEngine()
    for index, result in runner.run(lambda: _Worker(predictor, views), items, read, progress=progress):
        if isinstance(result, Fault):
            faults.append((index, result))
            continue
        for part, found in zip(parts, result, strict=True):
            part.append((index, found))
    names: dict[str, int] = {}
    first, *others = (_joined(part, names, min_score) for part in parts)
    found = stability(first, others, n, empty=empty)
    bad = [index for index, _ in faults]
    found.spread[bad] = found.flips[bad] = np.nan
    return found, [fault for _, fault in sorted(faults, key=lambda entry: entry[0])]


def stored_spread(
    repository: Repository,
    reference: str,
    keys: Sequence[str],
    uris: Sequence[str],
    *,
    progress: Progress = no_progress,
) -> tuple[Floats, str]:
    """How far a detector's boxes move in each of N images of a repository, by digest and place; and the detector's name.

    NaN where an image gives no answer. Known ones come from the repository's cache, and what was computed before an
    interrupt is kept. Raises what `open_predictor` and `localisation_spread` raise.
    """
    predictor = open_predictor(
        reference, cache=repository.settings.cache, task="box", repository=str(repository.root or repository.store.url)
    )
    made_from = f"{predictor.digest} {VIEWS} {CLUTTER}"
    cache = EmbeddingCache(repository.cache / "embeddings", sha256_hex(made_from.encode()))
    found = np.full((len(keys), 1), np.nan, np.float32)
    known = cache.fetch(keys, found)
    missing = np.flatnonzero(~known)
    parts = [missing[at : at + _PART] for at in range(0, len(missing), _PART)]
    read = Media(repository.store, repository.root).read
    engine = LocalEngine(jobs=repository.settings.jobs)
    for rows in progress(parts, len(parts), f"Views of {len(missing):,} images, {_PART} at a time"):
        items = [Item(keys[row], uris[row]) for row in rows]
        part, _ = localisation_spread(predictor, read, items, engine=engine, min_score=CLUTTER)
        found[rows, 0] = part.spread.astype(np.float16)  # as the cache has it, so that the same run gives the same
        told = rows[np.isfinite(part.spread)]
        cache.add([keys[row] for row in told], found[told])
    return found[:, 0].astype(np.float64), predictor.name


_Found = tuple[list[str], Floats, Floats]  # names, scores (P,) and corners (P, 4)


class _Worker:
    """A predictor on an image and its views, as engines run it: bytes in, what was found in each view out."""

    def __init__(self, predictor: Predictor, views: Sequence[View]) -> None:
        self._predictor, self._views = predictor, views
        self.lanes = int(getattr(predictor, "lanes", 1))

    def prepare(self, data: bytes) -> tuple[ImageSize, list[Any]]:
        image = decode_rgb(data)
        shown = [image, *(view.of(image) for view in self._views)]
        return ImageSize(*image.size), [self._predictor.prepare(one) for one in shown]

    def infer(self, prepared: list[tuple[ImageSize, list[Any]]]) -> list[list[_Found]]:
        answers = iter(self._predictor.predict([one for _, several in prepared for one in several]))
        changes = [View(), *self._views]
        return [[self._one(size, view, next(answers)) for view in changes] for size, _ in prepared]

    def _one(self, size: ImageSize, view: View, predictions: Sequence[Prediction]) -> _Found:
        outcome = checked(size, predictions, None)
        if outcome.fault is not None:
            raise ModelError(outcome.fault)
        placed = [one for one in outcome.predictions if one.box is not None]
        corners = np.array([one.box for one in placed], np.float64).reshape(-1, 4)
        scores = np.array([one.score for one in placed], np.float64)
        return [one.name or "" for one in placed], scores, view.back(corners, size.width, size.height)


def _joined(part: list[tuple[int, _Found]], names: dict[str, int], min_score: float) -> Detections:
    """The boxes with area of one view of all images, by image."""
    part.sort(key=lambda entry: entry[0])
    image = np.repeat([index for index, _ in part], [len(found[1]) for _, found in part]).astype(np.int64)
    label = [names.setdefault(name, len(names)) for _, found in part for name in found[0]]
    score: npt.NDArray[np.float64] = np.concatenate([np.zeros(0), *(found[1] for _, found in part)])
    corners = np.concatenate([np.zeros((0, 4)), *(found[2] for _, found in part)])
    kept = (corners[:, 2:] > corners[:, :2]).all(axis=1) & (score >= min_score)
    return Detections(Boxes(image[kept], np.array(label, np.int64)[kept], corners[kept]), score[kept])
