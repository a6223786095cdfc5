"""What an annotation tool is to dsops: tasks go out, answers come back, in the rows of a version.

Regions are rows of the annotations table without their ids: kind, label, x1, y1, x2, y2, geometry, text, attributes, in
pixels of the image as it is stored, before EXIF orientation. A tool converts at its edge and says what it cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from datasetops.progress import Progress
from datasetops.schema import LabelSchema

Row = Mapping[str, Any]  # columns of datasetops.records.ANNOTATIONS; geometry and attributes as dict or None

REGION_COLUMNS: Final = ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "text", "attributes")
ANSWER_FIELDS: Final = ("answer_id", "batch", "tool", "lead_time", "changed", "from_version", "rule", "agreement")


@dataclass(frozen=True)
class Task:
    """One image to be looked at. `width` and `height` are pixels as stored, `orientation` EXIF's, 1 to 8.

    `image` is the address that the annotator's browser loads, or the file's name in an exchange file. `annotations` are
    shown to start from: rows with their annotation_id. `score` in [0, 1] is the model's, `model` its version.
    """

    sample_id: str
    batch: str
    image: str
    width: int
    height: int
    orientation: int = 1
    annotations: tuple[Row, ...] = ()
    model: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Region:
    """One thing that an annotator marked. `values` has `REGION_COLUMNS` (missing ones are null).

    `name` is the region's own within its answer and stays over edits. `derived_from` is the annotation_id of the
    pre-annotation that it began as, None for what was drawn anew; `changed` whether it differs from it.
    """

    name: str
    values: Row
    derived_from: str | None = None
    changed: bool = True


@dataclass(frozen=True)
class Answer:
    """What one annotator said about one task. Times are ISO 8601 in UTC; `lead_time` is seconds of work.

    `answer_id` is unique in the tool and stays over edits. `problems` are sentences about what could not be read.
    """

    answer_id: str
    actor: str
    status: Literal["done", "skipped"]
    regions: tuple[Region, ...] = ()
    lead_time: float | None = None
    created_at: str | None = None
    updated_at: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnsweredTask:
    """All answers that stand for one task now; none where they were withdrawn."""

    task_id: str
    sample_id: str
    batch: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ImageSize:
    """Of a sample: pixels as stored, and the EXIF orientation that viewers apply."""

    width: int
    height: int
    orientation: int = 1


class FileTool(Protocol):
    """A tool that takes and gives files. A plugin of the entry-point group `datasetops.label_files`."""

    name: str

    def write(
        self,
        tasks: Sequence[Task],
        schema: LabelSchema,
        out: Path,
        *,
        read_media: Callable[[str], bytes],
        progress: Progress,
    ) -> list[str]:
        """Write what the tool imports; `read_media(sample_id)` gives an image's bytes. Returns what could not be said."""

    def read(
        self, path: Path, schema: LabelSchema, sizes: Mapping[str, ImageSize], *, actor: str | None
    ) -> list[AnsweredTask]:
        """Answers from the tool's export; `sizes` by sample_id, tasks of other samples are left out by the caller.

        `actor` is named where the file does not say who answered. Raises FormatError that names file and line or field.
        """


@dataclass(frozen=True)
class Pulled:
    """`tasks` are those that changed, each with all its answers; `removed` (sample_id, batch) of tasks that are gone.

    `cursor` is where the next pull starts; it is opaque to everyone but the tool.
    """

    tasks: tuple[AnsweredTask, ...]
    removed: tuple[tuple[str, str], ...]
    cursor: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())


class LabelServer(Protocol):
    """A tool with a server. Connected to one project of it."""

    name: str
    version: str

    def push(self, tasks: Iterable[Task], total: int, *, overlap: int, progress: Progress) -> PushCount:
        """Make the tasks that do not exist yet, by sample and batch. May be run again after any interruption."""

    def pull(
        self, cursor: Mapping[str, Any] | None, sizes: Callable[[Sequence[str]], Mapping[str, ImageSize]]
    ) -> Pulled:
        """What changed since `cursor`; everything without one."""


@dataclass(frozen=True)
class PushCount:
    """Tasks that were made now, that stood there already, and duplicates of interrupted pushes that were removed."""

    created: int
    existing: int
    removed: int = 0
