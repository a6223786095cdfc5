"""What a format plugin gives and gets: a source parsed into columns, and a version written back to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from datasetops.identity import Known
from datasetops.records import ANNOTATIONS, SAMPLES, Finding
from datasetops.schema import LabelSchema
from datasetops.store.tree import SourceTree

# `key` names an image inside one source and joins the two tables; ids and digests are given later, by ingest.
# `media` is the image's path inside the image tree, or an absolute one on this machine; null where the source lists an
# image without one.
# `sample_id` and `annotation_id` are null unless the source brings ids that hold beyond itself: they are used as given.
# `external_id` is an annotation's number in its source, unique within its image only: see `scoped_id`.
# `source` is null where the source does not say who made the annotation: ingest writes "import".
PARSED_SAMPLES = pa.schema(
    [("key", pa.string()), ("media", pa.string())]
    + [(f.name, f.type) for f in SAMPLES if f.name not in ("uri", "sha256", "media_type")]
)
PARSED_ANNOTATIONS = pa.schema(
    [("key", pa.string()), ("external_id", pa.string())]
    + [(f.name, f.type) for f in ANNOTATIONS if f.name not in ("sample_id", "event_id", "created_at")]
)


SCOPE = "#"


def scoped_id(sample_id: str, external_id: str) -> str:
    """The annotation id for a source's own number: two sources that both count from 1 do not overwrite each other."""
    return f"{sample_id}{SCOPE}{external_id}"


def external_id(sample_id: str, annotation_id: str) -> str | None:
    """The source's own number in an id made by `scoped_id` for this sample, else None."""
    start = f"{sample_id}{SCOPE}"
    return annotation_id[len(start) :] if annotation_id.startswith(start) else None


@dataclass(frozen=True)
class ReadOptions:
    """`images` is where media paths are looked up: the source itself unless the user names another place.

    `columns` maps a column of the samples table (or path, label, id, annotator) to the source's own name for it, for
    formats that are tables. `known` is what the repository has already, for sources that name its samples by their ids.
    """

    images: SourceTree
    schema: LabelSchema
    split: str | None = None  # given to every sample whose source names no split
    columns: Mapping[str, str] = field(default_factory=dict)
    known: Known | None = None


@dataclass
class Parsed:
    """`samples` has the columns of PARSED_SAMPLES, `annotations` those of PARSED_ANNOTATIONS.

    Rows at fault are left out of the tables and stand in `findings` (check "ingest"), with file and line, id or field.
    `rejected` counts them: a finding may stand for many rows (one for each unknown class), or for a row that was kept.

    Null says nothing: of a sample that the repository has already, its value stays. `corrects` holds the keys of images
    that the source names as samples of the repository: their rows go over whoever labeled them. `held` holds the keys
    of images of which not everything is told (a row was rejected, or rows name single annotations): none of their
    annotations is removed. `notes` are for the user's eyes; they are no faults. `images`: a tree to read the media from
    in place of the source's; they are no files that could stay where they are, so that they are copied.
    """

    samples: pa.Table
    annotations: pa.Table
    findings: list[Finding] = field(default_factory=list)
    rejected: int = 0
    corrects: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    images: SourceTree | None = None


@dataclass(frozen=True)
class ExportData:
    """One version, to be written by a format. Tables have the columns of records.SAMPLES and records.ANNOTATIONS."""

    samples: pa.Table
    annotations: pa.Table
    schema: LabelSchema
    read_media: Callable[[str], bytes]  # uri → bytes; raises DatasetOpsError
    copy_media: bool = True


@dataclass
class ExportReport:
    """`lost` has one sentence for each kind of value that the format could not hold, with how many there were."""

    files: int = 0
    lost: list[str] = field(default_factory=list)


class Writer(Protocol):
    """What `dsops export` writes by: a format, or a plugin of the entry-point group `datasetops.writers`, never read."""

    name: str

    def write(self, data: ExportData, out: Path) -> ExportReport:
        """Writes into the folder `out`, new or empty. Raises DatasetOpsError where media or files fail."""


@runtime_checkable
class Format(Writer, Protocol):
    """A plugin of the entry-point group `datasetops.formats`."""

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        """Raises FormatError where the source cannot be read as this format at all, or holds nothing."""
