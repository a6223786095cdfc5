"""Models that say what is in an image, by reference: `hf:NAME@REVISION`, `local:DIR`, or what a plugin adds to these."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from PIL import Image

from datasetops.errors import ModelError, did_you_mean
from datasetops.models.prompts import Prompts, prompts_from_schema, read_prompts
from datasetops.plugins import load_plugin, plugin_names
from datasetops.records import KINDS

__all__ = [
    "BoxPrompted",
    "Prediction",
    "Predictor",
    "Prompts",
    "Request",
    "open_predictor",
    "prompts_from_schema",
    "read_prompts",
    "with_scheme",
]

_REFERENCES: Final = "Write hf:NAME@REVISION, local:DIR, onnx:FILE, ocr:rapidocr, or m1 for one that was trained here. "
_TRAINED: Final = re.compile(r"m[1-9][0-9]*|production|promoted")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One thing that a model says about an image; coordinates in pixels of the image as viewers show it."""

    kind: str  # one of records.KINDS
    name: str | None  # in the model's vocabulary, or the class of its prompts; None for text without a class
    score: float  # in [0, 1]; NaN where the model failed on this image
    box: tuple[float, float, float, float] | None = None  # xyxy, within the image
    geometry: Mapping[str, Any] | None = None  # as records.ANNOTATIONS.geometry: polygons, rle or keypoints
    text: str | None = None
    scores: Mapping[str, float] | None = None  # of all names, where the model gives them (classification)


class Predictor(Protocol):
    """A model that turns images into predictions. Its methods may be called from several threads at once.

    One with an attribute `packages` (names of distributions) has their releases noted with each run.
    """

    @property
    def name(self) -> str:
        """The model's name without its revision."""

    @property
    def revision(self) -> str | None:
        """The exact revision on the hub; None where there is none."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and of all else that predictions depend on: config, processor, prompts, options."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its predictions, of records.KINDS."""

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """All names that it can give; None for an open vocabulary, which names the classes of its prompts."""

    def prepare(self, image: Image.Image) -> Any:
        """One RGB image as the model takes it; on the CPU, in threads."""

    def predict(self, prepared: Sequence[Any]) -> list[list[Prediction]]:
        """One list an image, best score first; the same whatever else is in the batch."""


@runtime_checkable
class BoxPrompted(Protocol):
    """What a predictor has besides that outlines boxes which are given to it."""

    def prepare_boxes(self, image: Image.Image, boxes: Sequence[Prediction]) -> Any:
        """Like `prepare`; `predict` then gives one mask for each box, in their order, under the box's name."""


@dataclass(frozen=True)
class Request:
    """What is asked of a model when it is opened. `task` is a kind of annotation; `options` are the family's own.

    `repository` is the folder or address of the one whose images are asked about, for models that are kept in it.
    """

    task: str | None = None
    prompts: Prompts | None = None
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    repository: str | None = None

    def choose(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The options over their defaults, as the defaults' types; whole numbers are counts from 1.

        Raises ModelError for other options than these, and for values that they cannot have.
        """
        chosen = dict(defaults)
        for name, value in self.options.items():
            if name not in defaults:
                raise ModelError(
                    f"This model has no option {name!r}.", remedy=did_you_mean(name, defaults, noun="options")
                )
            chosen[name] = _converted(name, value, defaults[name])
        return chosen

    def require_task(self, name: str, kinds: Sequence[str]) -> None:
        """Raises ModelError where the task asked for is none of the kinds that the model gives."""
        if self.task is not None and self.task not in kinds:
            raise ModelError(
                f"The model {name!r} gives {' and '.join(kinds)}, not {self.task}.",
                remedy=f"Ask for {kinds[0]}, or name a model for {self.task}.",
            )

    def require_prompts(self, name: str) -> Prompts:
        """The prompts. Raises ModelError where there are none."""
        if self.prompts is None:
            raise ModelError(
                f"The model {name!r} finds what it is asked for, and was asked nothing.",
                remedy="Give it prompts: texts for each class, or a schema whose classes it is to look for.",
            )
        return self.prompts


def _converted(name: str, value: Any, default: Any) -> Any:
    wanted = {int: "a whole number from 1", float: "a number"}.get(type(default), "a text")
    try:
        converted = type(default)(value)
        if not (isinstance(converted, str) or math.isfinite(converted)):
            raise ValueError(name)
        if isinstance(converted, int) and (converted < 1 or converted != float(value)):
            raise ValueError(name)
    except (TypeError, ValueError, OverflowError):
        raise ModelError(
            f"The option {name!r} is {wanted}; got {value!r}.", remedy=f"Its default is {default!r}."
        ) from None
    return converted


def with_scheme(reference: str) -> str:
    """`m3` and `production`, as models are called that were trained here, with `model:` before them; others as they are."""
    return f"model:{reference}" if _TRAINED.fullmatch(reference) else reference


def open_predictor(
    reference: str,
    *,
    cache: Path,
    task: str | None = None,
    prompts: Prompts | None = None,
    device: str = "auto",
    repository: str | None = None,
    **options: Any,
) -> Predictor:
    """The predictor that a reference names. `cache` is a folder for files made from the weights.

    `task` is the kind of annotation wanted, where it must be certain; `repository` as in Request. `device` is auto, cpu,
    cuda, cuda:N or mps. Entry points of the group `datasetops.predictors` are named for what stands before the colon and
    called with what stands after it, `cache` and a Request. Models with a vocabulary of their own ignore `prompts`.
    Raises ModelError for a reference, task, prompts, device or option that the model cannot have,
    MissingDependencyError where an optional package is needed.
    """
    if task is not None and task not in KINDS:
        raise ModelError(f"There is no task {task!r}.", remedy=did_you_mean(task, KINDS, noun="tasks"))
    scheme, _, name = with_scheme(reference.strip()).partition(":")
    known = plugin_names("predictors")
    if scheme not in known or not name:
        raise ModelError(
            f"{reference!r} is no model that predicts.",
            remedy=_REFERENCES + did_you_mean(scheme, known, noun="kinds of predictor"),
        )
    opened: Predictor = load_plugin("predictors", scheme)(
        name, cache, Request(task, prompts, device, options, repository)
    )
    return opened
