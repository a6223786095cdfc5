"""What an annotation tool is to dsops: tasks go out, answers come back, in the rows of a version.

Regions are rows of the annotations table without their ids: kind, label, x1, y1, x2, y2, geometry, text, attributes, in
pixels of the image as it is stored, before EXIF orientation. A tool converts at its edge and says what it cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from datasetops.errors import DatasetOpsError
from datasetops.progress import Progress
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema

Sizes = Callable[[Sequence[str]], Mapping[str, "ImageSize"]]  # sizes of samples by id; unknown ids are left out
Address = Callable[[int], str]  # of the image in a row of a batch
Row = Mapping[str, Any]  # columns of datasetops.records.ANNOTATIONS; geometry and attributes as dict or None

REGION_COLUMNS: Final = ("kind", "label", "x1", "y1", "x2", "y2", "geometry", "text", "attributes")
ANSWER_FIELDS: Final = ("answer_id", "batch", "tool", "lead_time", "changed", "from_version", "rule", "agreement")


def region_name(annotation_id: str) -> str:
    """What a region that begins as an annotation is called in a tool: some cut names at a # or other signs."""
    return sha256_hex(annotation_id.encode())[:16]


@dataclass(frozen=True)
class ImageSize:
    """Of a sample: pixels as stored, and the EXIF orientation that viewers apply."""

    width: int
    height: int
    orientation: int = 1


@dataclass(frozen=True)
class Task:
    """One image to be looked at.

    `image` is the address that the annotator's browser loads, or the file's name in an exchange file. `annotations` are
    shown to start from: rows with their annotation_id. `score` in [0, 1] is the model's, `model` its version.
    """

    sample_id: str
    batch: str
    image: str
    size: ImageSize
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

    `answer_id` is unique in the tool and stays over edits. Sentences: `unread` about what could not be read and is left
    out, so that the answer must not be used; `problems` about what was read but looks wrong.
    """

    answer_id: str
    actor: str
    status: Literal["done", "skipped"]
    regions: tuple[Region, ...] = ()
    lead_time: float | None = None
    created_at: str | None = None
    updated_at: str | None = None
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnsweredTask:
    """All answers that stand for one task now; none where they were withdrawn."""

    task_id: str
    sample_id: str
    batch: str
    answers: tuple[Answer, ...]


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
    """`tasks` are those that changed, each with all its answers. `cursor` is where the next pull starts.

    `present` has (sample_id, batch) of every task, where some were found to be deleted; otherwise None.
    """

    tasks: tuple[AnsweredTask, ...]
    cursor: Mapping[str, Any]
    present: frozenset[tuple[str, str]] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PushCount:
    """Tasks that were made now, that stood there already, doubles of interrupted pushes that were removed, and images'
    addresses that were renewed before they expire."""

    created: int
    existing: int
    removed: int = 0
    renewed: int = 0


class ServerAwayError(DatasetOpsError):
    """A tool's server cannot be reached, or is too busy to answer. It may come back."""


class LabelServer(Protocol):
    """One project on a tool's server. Raises ServerAwayError where asking again later may help, and only there."""

    name: str

    @property
    def version(self) -> str:
        """The tool's release."""

    def image_addresses(self, places: Sequence[str], read: Callable[[int], bytes], how: str) -> tuple[Address, str]:
        """(how to get the address that a browser can load, by row; one sentence that tells how images get there and why).

        `places` are absolute paths or s3:// URLs; `how` is auto, s3, local or inline.
        """

    def prepare(self, *, overlap: int) -> None:
        """Make sure that tasks of this kind can be pushed. Raises ConflictError where they cannot."""

    def push(self, batch: str, names: Sequence[str], make: Callable[[int], Task], *, progress: Progress) -> PushCount:
        """Make the tasks of a batch that do not exist yet; `make(row)` gives that of the sample `names[row]`.

        May be run again after any interruption.
        """

    def remove(self, batch: str, names: Sequence[str]) -> int:
        """Delete the tasks of these samples in a batch, with their answers; how many there were."""

    def pull(self, cursor: Mapping[str, Any], sizes: Sizes, *, expected: int, again: Sequence[str] = ()) -> Pulled:
        """What changed since `cursor`, everything where that is empty, and the tasks `again` in any case.

        `expected` is how many tasks were pushed: fewer of them mean that some were deleted.
        """


class LabelTool(Protocol):
    """A tool with a server. A plugin of the entry-point group `datasetops.label_tools`; secrets from the environment."""

    name: str

    def set_up(self, name: str, schema: LabelSchema, guide: str | None, **options: Any) -> tuple[Any, list[str]]:
        """Make or update a project; (its record, sentences about what was done)."""

    def open(self, project: Any, schema: LabelSchema) -> LabelServer: ...
