"""A dataset in FiftyOne that dsops did not make, as a source to ingest: its images, labels, fields and tags.

Labels lie relative to the image as viewers show it, as everywhere in FiftyOne. What a field holds is told by the type of
its labels: classifications, detections (boxes, or masks where they have one), closed polylines, keypoints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from datasetops.errors import FormatError, NotFoundError, did_you_mean
from datasetops.fiftyone.images import shown_as
from datasetops.fiftyone.labels import Document
from datasetops.fiftyone.read import Reader, UnreadError
from datasetops.fiftyone.values import Values
from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES, ExportData, ExportReport, Parsed, ReadOptions
from datasetops.formats.columns import filled_rows, json_text
from datasetops.formats.problems import Problems
from datasetops.formats.splits import SPLIT_FOLDERS, split_in_name
from datasetops.images import ImageError
from datasetops.labeling.base import ImageSize
from datasetops.labeling.exchange import outside
from datasetops.store.tree import FileEntry, SourceTree, Unusable

_TEXTS: Final = ("split", "group", "origin", "license", "consent")
_TIMES: Final = ("expires_at", "captured_at")
_OWN: Final = frozenset({"id", "filepath", "tags", "metadata", "created_at", "last_modified_at"})
# Keys of a label that are not attributes.
_KEYS: Final = frozenset(
    {
        *("_id", "id", "_cls", "tags", "label", "confidence", "bounding_box", "mask", "mask_path", "points", "closed"),
        *("filled", "attributes", "logits", "instance", "visibility", "created_at", "last_modified_at"),
    }
)
# Class of a label → the field of `labels.FIELDS` that is read alike.
_ALIKE: Final = {"Classification": "classification", "Polyline": "polygons", "Keypoint": "keypoints"}
_LISTS: Final = {
    "Classifications": "classifications",
    "Detections": "detections",
    "Polylines": "polylines",
    "Keypoints": "keypoints",
}
_BATCH: Final = 250


@dataclass(frozen=True)
class DatasetTree:
    """Stands for the dataset where an ingest names its source; its images are files of this machine."""

    name: str
    url: str
    single_file: str | None = None

    def walk(self) -> Iterator[FileEntry | Unusable]:
        return iter(())

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        raise NotFoundError(f"{path} is not a file of this machine.")

    def stat(self, path: str) -> FileEntry | None:
        return None

    def uri(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.url}/{path}"


class DatasetReader:
    """Reads a dataset of FiftyOne. `fields` are those whose labels are taken; without any, the only one that has labels."""

    name = "fiftyone"

    def __init__(
        self, fiftyone: Any, dataset: str, *, fields: Sequence[str] = (), tags: str | None = None, jobs: int = 1
    ) -> None:
        """`tags`: key of the metadata that takes tags. Raises NotFoundError, FormatError for what cannot be read."""
        if not fiftyone.dataset_exists(dataset):
            names = [name for name in fiftyone.list_datasets() if not name.startswith(".")]
            raise NotFoundError(
                f"FiftyOne has no dataset {dataset!r}.", remedy=did_you_mean(dataset, names, noun="datasets")
            )
        self._dataset = fiftyone.load_dataset(dataset)
        if self._dataset.media_type not in ("image", None):
            raise FormatError(
                f"The dataset {dataset!r} holds {self._dataset.media_type}s, and no images.",
                remedy="Make a dataset of its images or frames, and ingest that.",
            )
        self._tags = tags
        self._jobs = jobs
        schema = self._dataset.get_field_schema()
        labels = self._dataset.get_field_schema(embedded_doc_type=fiftyone.Label)
        kinds = {name: field.document_type.__name__ for name, field in labels.items()}
        self._fields = {name: kinds[name] for name in _chosen(dataset, kinds, fields)}
        self._plain = [name for name in schema if name not in labels and name not in _OWN]

    def read(self, source: SourceTree, options: ReadOptions) -> Parsed:
        problems = Problems(source)
        run = _Run(options, problems, self._fields, self._plain, self._tags)
        cursor = self._dataset._sample_collection.find({}).sort("_id", 1)
        with ThreadPoolExecutor(self._jobs) as pool:
            while documents := [document for _, document in zip(range(_BATCH), cursor, strict=False)]:
                sizes = list(pool.map(_size, documents))
                for document, size in zip(documents, sizes, strict=True):
                    run.take(document, size)
        run.tell()
        parsed = Parsed(
            filled_rows(run.samples, PARSED_SAMPLES),
            filled_rows(run.annotations, PARSED_ANNOTATIONS),
            problems.findings,
            problems.rejected,
        )
        parsed.notes += run.notes
        return parsed

    def write(self, data: ExportData, out: Path) -> ExportReport:
        raise FormatError("FiftyOne's datasets are no files.", remedy="dsops export VERSION --to fiftyone")


class _Run:
    """The rows of one reading, and what is to be told of it."""

    def __init__(
        self,
        options: ReadOptions,
        problems: Problems,
        fields: Mapping[str, str],
        plain: Sequence[str],
        tags: str | None,
    ) -> None:
        self.samples: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._options = options
        self._problems = problems
        self._fields = fields
        self._plain = plain
        self._tags = tags
        self._reader = Reader(options.schema, Values.of(()))
        self._unknown: Counter[tuple[str, str]] = Counter()
        self._left: Counter[str] = Counter()
        self._tagged = 0

    def take(self, document: Document, size: ImageSize | None) -> None:
        key, path = str(document["_id"]), str(document["filepath"])
        self.samples.append(self._sample(document) | {"key": key, "media": path})
        for field, kind in self._fields.items():
            for label in _labels(kind, document.get(field)):
                alike = _alike(label)
                if alike is None:
                    self._left[f"labels of {field} are {label.get('_cls', kind)}s, which have no place here"] += 1
                    continue
                try:
                    values = self._reader.values(alike, label, size)
                except UnreadError as error:
                    if error.label is not None:
                        self._unknown[field, error.label] += 1
                    else:
                        self._problems.reject(f"{field}: label {label.get('_id')}: {error}", path=path)
                    continue
                if size is not None:
                    for told in outside([(f"{field}: label {label.get('_id')}", values)], size):
                        self._problems.warn(told, path=path)
                self.annotations.append(_row(key, field, label, values))

    def tell(self) -> None:
        for (field, name), count in sorted(self._unknown.items()):
            where = f"field {field!r}"
            self._problems.unknown_class(name, self._options.schema, path="", where=where, count=count)
        self.notes += [f"{count:,} values were not taken: {what}" for what, count in sorted(self._left.items())]
        if self._tagged:
            self.notes.append(
                f"{self._tagged:,} samples have tags, which were not taken; --tags KEY keeps them as metadata"
            )

    def _sample(self, document: Document) -> dict[str, Any]:
        values: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        for name in self._plain:
            value = document.get(name)
            if value is None:
                continue
            if name in _TEXTS and isinstance(value, str):
                values[name] = value
            elif name in _TIMES and isinstance(value, datetime):
                values[name] = value.replace(tzinfo=UTC)
            elif (plain := _scalar(value)) is not None:
                metadata[name] = plain
            else:
                self._left[f"the field {name!r} holds more than a number, a text or a time"] += 1
        tags = [str(tag) for tag in document.get("tags") or ()]
        of_split = [tag for tag in tags if tag.lower() in SPLIT_FOLDERS]
        if "split" not in values:
            values["split"] = split_in_name(of_split[0]) if len(of_split) == 1 else self._options.split
        rest = sorted(set(tags) - set(of_split) - {values["split"]})
        if rest and self._tags:
            metadata[self._tags] = ", ".join(rest)
        self._tagged += bool(rest) and not self._tags
        return values | {"metadata": json_text(metadata)}


def _row(key: str, field: str, label: Document, values: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {
        name: plain for name, value in label.items() if name not in _KEYS and (plain := _scalar(value)) is not None
    }
    score = label.get("confidence")
    return {
        **values,
        "key": key,
        "external_id": None if values["kind"] == "classification" else str(label.get("_id")),
        "geometry": json_text(values["geometry"] or {}),
        "attributes": json_text(attributes),
        "score": float(score) if isinstance(score, int | float) and math.isfinite(score) else None,
    }


def _chosen(dataset: str, kinds: Mapping[str, str], fields: Sequence[str]) -> list[str]:
    """Fields to take labels from. Raises NotFoundError for an unknown one, FormatError where several could be meant."""
    for name in fields:
        if name not in kinds:
            raise NotFoundError(
                f"The dataset {dataset!r} has no label field {name!r}.",
                remedy=did_you_mean(name, kinds, noun="label fields"),
            )
    if not fields and len(kinds) > 1:
        raise FormatError(
            f"The dataset {dataset!r} has several label fields: {', '.join(sorted(kinds))}.",
            remedy="Name those that are labels with --field, which may be repeated.",
        )
    return list(dict.fromkeys(fields)) or list(kinds)


def _labels(kind: str, value: Mapping[str, Any] | None) -> list[Document]:
    if not value:
        return []
    return [dict(item) for item in value.get(_LISTS[kind]) or ()] if kind in _LISTS else [dict(value)]


def _alike(label: Document) -> str | None:
    if label.get("_cls") == "Detection":
        return "masks" if label.get("mask") is not None or label.get("mask_path") else "boxes"
    return _ALIKE.get(str(label.get("_cls")))


def _scalar(value: Any) -> Any:
    """A value that JSON holds, None for what is none; times as text."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else None


def _size(document: Document) -> ImageSize | None:
    """None where the file cannot be read: then ingest tells so."""
    try:
        return shown_as(Path(document["filepath"]), None)
    except (ImageError, OSError):
        return None
