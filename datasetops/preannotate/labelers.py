"""What gives predictions about images: a predictor on an engine, alone or asked to outline boxes that are there."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from datasetops.engine import Engine, Fault, Item
from datasetops.errors import ModelError
from datasetops.formats.geometry import geometry_extent
from datasetops.images import ImageError, decode_rgb, read_header
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import shown_size
from datasetops.models.predictor import BoxPrompted, Prediction, Predictor
from datasetops.preannotate.outlines import Outlines, shown_boxes
from datasetops.preannotate.predictions import ModelInfo, Outcome
from datasetops.progress import Progress, no_progress
from datasetops.records import KINDS, sha256_hex

_WITH_BOX: Final = ("box", "polygon", "mask", "keypoints")  # kinds that stand somewhere in the image

Boxes = Mapping[str, tuple[Prediction, ...]]  # by image digest, in pixels of the image as it is stored


@runtime_checkable
class Labeler(Protocol):
    """Says what is in images."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> tuple[str, ...] | None: ...

    @property
    def engine(self) -> str:
        """What it runs on, in a word."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that its answers depend on, and those that its engine is made of."""

    def info(self, items: Sequence[Item]) -> ModelInfo:
        """The model as it is for these items: one that learns from them is another for others."""

    def label(
        self, items: Sequence[Item], wanted: Sequence[int], *, progress: Progress = no_progress
    ) -> Iterator[tuple[int, Outcome | Fault]]:
        """The index of each item that is `wanted`, once, in any order."""

    def trial(self, items: Sequence[Item]) -> int:
        """Do for a few items what `label` does for each, and keep nothing. Returns how many images could be read."""


@runtime_checkable
class Learner(Protocol):
    """A labeler that looks at other images too than those that it is asked about, and learns from some of them."""

    @property
    def known(self) -> Mapping[str, str]:
        """The classes that it learned from, by image (SHA-256)."""

    def to_look_at(self, items: Sequence[Item]) -> list[Item]:
        """Images that it has not looked at yet, of those that it learns from and of the items."""

    @property
    def beside(self) -> str:
        """What else it does before it answers, in words."""


@dataclass(frozen=True)
class EngineLabeler:
    """A predictor on an engine. `make` opens it where the engine's workers are; in this process it is the predictor.

    With `outlines` it outlines these boxes, in their order, instead of looking for things itself.
    """

    predictor: Predictor
    runner: Engine
    read: Callable[[str], bytes]
    engine: str = "local"
    make: Callable[[], Predictor] | None = None
    outlines: Outlines | None = None

    def __post_init__(self) -> None:
        if self.outlines is not None and not isinstance(self.predictor, BoxPrompted):
            raise ModelError(
                f"The model {self.predictor.name!r} cannot outline boxes.", remedy="Take one that can, such as SAM."
            )

    @property
    def name(self) -> str:
        return self.predictor.name

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.predictor.kinds)

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """None where the names are the schema's: those of prompts, or of the boxes that are outlined."""
        names = self.predictor.vocabulary
        return None if names is None or self.outlines is not None else tuple(names)

    @property
    def packages(self) -> tuple[str, ...]:
        return packages_of(self.predictor, self.runner)

    def info(self, items: Sequence[Item]) -> ModelInfo:
        one = self.predictor
        return ModelInfo(one.name, one.revision, one.digest, self.kinds, self.vocabulary)

    def label(
        self, items: Sequence[Item], wanted: Sequence[int], *, progress: Progress = no_progress
    ) -> Iterator[tuple[int, Outcome | Fault]]:
        boxes = None if self.outlines is None else self.outlines.boxes
        made = WorkerMaker(self.make or partial(_itself, self.predictor), boxes, self.predictor.digest)
        chosen = [items[index] for index in wanted]
        for place, result in self.runner.run(made, chosen, self.read, progress=progress):
            yield wanted[place], result

    def trial(self, items: Sequence[Item]) -> int:
        return sum(not isinstance(result, Fault) for _, result in self.label(items, range(len(items))))


def packages_of(*parts: object) -> tuple[str, ...]:
    """What the parts say of themselves in an attribute `packages`."""
    return tuple(name for part in parts for name in getattr(part, "packages", ()))


def _itself(predictor: Predictor) -> Predictor:
    return predictor


@dataclass(frozen=True)
class WorkerMaker:
    """Makes a worker where it is to run; travels to other processes by pickle."""

    make: Callable[[], Predictor]
    boxes: Boxes | None
    digest: str  # of the model that is asked for

    def __call__(self) -> PredictWorker:
        """Raises ModelError where the machine has another model by the same name."""
        predictor = self.make()
        if predictor.digest != self.digest:
            raise ModelError(
                f"The model {predictor.name!r} on {platform.node()} is another one than here.",
                remedy="Put the same files on all machines of the cluster.",
            )
        return PredictWorker(predictor, self.boxes)


class PredictWorker:
    """A predictor as engines run it: bytes of an image in, an Outcome out."""

    def __init__(self, predictor: Predictor, boxes: Boxes | None = None) -> None:
        self._predictor, self._boxes = predictor, boxes
        self.lanes = int(getattr(predictor, "lanes", 1))
        self.batch: int | None = getattr(predictor, "batch", None)

    def prepare(self, data: bytes) -> tuple[ImageSize, Any]:
        header = read_header(data)
        size = ImageSize(header.width, header.height, header.orientation or 1)
        image = decode_rgb(data)
        if self._boxes is None:
            return size, self._predictor.prepare(image)
        if not isinstance(self._predictor, BoxPrompted):
            raise ImageError("the model cannot outline boxes")
        return size, self._predictor.prepare_boxes(image, shown_boxes(self._boxes.get(sha256_hex(data), ()), size))

    def infer(self, prepared: list[tuple[ImageSize, Any]]) -> list[Outcome]:
        found = self._predictor.predict([item for _, item in prepared])
        if len(found) != len(prepared):
            raise ValueError(f"the model gave {len(found)} answers for {len(prepared)} images")
        names = None if self._boxes is not None else self._predictor.vocabulary
        vocabulary = None if names is None else frozenset(names)
        return [checked(size, predictions, vocabulary) for (size, _), predictions in zip(prepared, found, strict=True)]


def checked(size: ImageSize, predictions: Sequence[Prediction], vocabulary: frozenset[str] | None) -> Outcome:
    """The outcome for an image: its fault where a prediction cannot be used, such as one with the score NaN.

    Boxes are cut at the image's edges, and those outside of it left out; a shape without a box gets the one around it.
    """
    limits = shown_size(size)
    kept = []
    for item in predictions:
        fault = _fault(item, vocabulary)
        if fault is not None:
            return Outcome(size, fault=f"the model gave {fault}")
        box = item.box
        if box is None and item.geometry is not None:
            try:
                box = geometry_extent(dict(item.geometry))
            except (KeyError, ValueError, TypeError, IndexError):
                return Outcome(size, fault=f"the model gave a {item.kind} whose shape cannot be read")
        if box is None:
            kept.append(item)
            continue
        x1, y1, x2, y2 = (min(max(float(value), 0.0), float(limits[axis % 2])) for axis, value in enumerate(box))
        if (x2 > x1 and y2 > y1) or item.geometry is not None:
            kept.append(replace(item, box=(x1, y1, x2, y2)))
    return Outcome(size, tuple(kept))


def _fault(item: Prediction, vocabulary: frozenset[str] | None) -> str | None:
    if item.kind not in KINDS:
        return f"a prediction of the unknown kind {item.kind!r}"
    if math.isnan(item.score):
        return "no number (NaN) for a score"
    if not 0.0 <= item.score <= 1.0:
        return f"the score {item.score:g}, which is not in [0, 1]"
    if item.scores is not None and any(math.isnan(score) for score in item.scores.values()):
        return "no number (NaN) for a score"
    if item.box is not None and not all(math.isfinite(value) for value in item.box):
        return "a box that is nowhere (NaN or infinite)"
    if item.kind in _WITH_BOX and item.box is None and item.geometry is None:
        return f"a {item.kind} without a place"
    if item.name is None and item.kind != "text":
        return f"a {item.kind} without a name"
    if item.name is not None and vocabulary is not None and item.name not in vocabulary:
        return f"the name {item.name!r}, which is none of its own"
    return None
