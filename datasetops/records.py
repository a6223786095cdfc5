"""The two keyed tables of a version, and findings: column names, types and order.

The order and the types below are part of the on-disk format (docs/format.md). Columns are only ever appended.
Boxes are absolute pixels, `x1, y1, x2, y2` (xyxy), float64, origin at the image's top left corner.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson
import pyarrow as pa

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

SAMPLES: Final = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),  # path relative to the repository, absolute path, s3:// URL, or media:<sha256>.<ext>
        ("sha256", pa.string()),  # of the media bytes, lower-case hex; null where the media was not at hand
        ("width", pa.int32()),  # pixels, as stored in the file (before EXIF orientation)
        ("height", pa.int32()),
        ("media_type", pa.string()),  # image/jpeg, image/png, …
        ("split", pa.string()),
        ("group", pa.string()),  # what must never straddle splits: patient, clip, scene
        ("origin", pa.string()),
        ("license", pa.string()),
        ("consent", pa.string()),
        ("expires_at", TIMESTAMP),
        ("captured_at", TIMESTAMP),
        ("metadata", pa.string()),  # canonical JSON object; slice attributes and what an importer brought along
    ]
)

ANNOTATIONS: Final = pa.schema(
    [
        ("annotation_id", pa.string()),
        ("sample_id", pa.string()),
        ("kind", pa.string()),
        ("label", pa.string()),  # class name of the schema; null for text without a class
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("geometry", pa.string()),  # canonical JSON: {"polygons": …} | {"rle": …} | {"keypoints": …}
        ("text", pa.string()),
        ("attributes", pa.string()),  # canonical JSON object
        ("source", pa.string()),
        ("actor", pa.string()),
        ("model", pa.string()),
        ("score", pa.float64()),
        ("derived_from", pa.string()),
        ("event_id", pa.string()),
        ("created_at", TIMESTAMP),
        (
            "role",
            pa.string(),
        ),  # "vote": one of several answers, kept beside what they were merged into; null: it counts
        (
            "answer",
            pa.string(),
        ),  # canonical JSON object: how an annotator gave it (datasetops.labeling.base.ANSWER_FIELDS)
    ]
)

KEYS: Final = {"samples": "sample_id", "annotations": "annotation_id"}
TABLES: Final = {"samples": SAMPLES, "annotations": ANNOTATIONS}
ADDED: Final = {"samples": (), "annotations": ("role", "answer")}  # columns that older segments do not have: null there
VOTE: Final = "vote"
PROVENANCE_COLUMNS: Final = frozenset({"event_id", "created_at", "answer"})  # rows that differ only here are equal

KINDS: Final = ("classification", "box", "polygon", "mask", "keypoints", "text")
SOURCES: Final = ("human", "model", "import", "consensus", "rule")
SEVERITIES: Final = ("low", "medium", "high")

ERASED_TEXT: Final = "[erased]"  # stands in records where the id or the path of an erased item stood

CHECKS: Final = (
    "label_noise",
    "exact_duplicate",
    "near_duplicate",
    "leakage",
    "image_quality",
    "outlier",
    "schema",
    "balance",
    "coverage",
    "annotators",
    "missing_box",
    "swapped_box",
    "misplaced_box",
    "duplicate_box",
    "mask",
    "keypoints",
    "text",
    "drift",
    "guideline_drift",
    "slices",
    "personal_data",
    "ingest",
)

FINDINGS: Final = pa.schema(
    [
        ("finding_id", pa.string()),
        ("check", pa.string()),
        ("severity", pa.string()),
        ("score", pa.float64()),  # in [0, 1], 1 = clean
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("annotation_id", pa.string()),
        ("split", pa.string()),
        ("given", pa.string()),
        ("suggested", pa.string()),
        ("message", pa.string()),
        ("related", pa.string()),  # canonical JSON list of other sample ids, e.g. the duplicates of this one
        (
            "box",
            pa.string(),
        ),  # canonical JSON list x1, y1, x2, y2 in pixels: where it is, or where its annotation should be
    ]
)


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; the one byte form of a value that is ever hashed.

    Raises ValueError for NaN, infinities, integers of more than 64 bits and keys that are not strings.
    """
    _refuse_nonfinite(value)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"this has no JSON form: {error}") from None


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, and for one that is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_nonfinite(value: Any) -> None:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("NaN and infinities have no JSON form")
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_nonfinite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_nonfinite(item)


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicion or fault, at one place. `score` is in [0, 1] with 1 = clean; `severity` is low, medium or high."""

    check: str
    severity: str
    score: float
    message: str
    sample_id: str | None = None
    uri: str | None = None
    annotation_id: str | None = None
    split: str | None = None
    given: str | None = None
    suggested: str | None = None
    related: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None  # xyxy pixels: where it is, or where its annotation should be

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise ValueError(f"check: expected one of {', '.join(CHECKS)}; got {self.check!r}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity: expected one of {', '.join(SEVERITIES)}; got {self.severity!r}")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score: expected a number in [0, 1]; got {self.score!r}")

    @property
    def finding_id(self) -> str:
        """Stable over runs: the same suspicion about the same thing has the same id in every audit."""
        about = [self.check, self.sample_id, self.annotation_id, self.given, self.suggested, self.uri]
        parts: list[str | None] = [*about, *self.related]
        if self.box is not None and self.annotation_id is None:
            parts.append(str([round(value) for value in self.box]))
        if self.sample_id is None or self.check in ("schema", "ingest", "image_quality"):
            parts.append(self.message)
        return sha256_hex(canonical_json([_present(part) for part in parts]))[:16]


def findings_table(findings: list[Finding]) -> pa.Table:
    """Findings as an Arrow table with the columns of `FINDINGS`, in the order given."""
    lists = ("related", "box")
    names = [f.name for f in fields(Finding) if f.name not in lists]
    rows = [
        {name: _present(getattr(f, name)) for name in names}
        | {name: canonical_json(list(value)).decode() if (value := getattr(f, name)) else None for name in lists}
        | {"finding_id": f.finding_id}
        for f in findings
    ]
    return pa.Table.from_pylist(rows, schema=FINDINGS)


def _present(value: Any) -> Any:
    """None for NaN, which is how pandas writes a missing string."""
    return None if value != value else value
