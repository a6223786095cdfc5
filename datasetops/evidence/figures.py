"""What is in a version, in figures: counted from its two tables alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest import Version
from datasetops.manifest.version import value_counts
from datasetops.records import TIMESTAMP

NONE: Final = "(none)"
_PEOPLE: Final = ("human", "consensus")  # sources of labels that people gave or confirmed


@dataclass(frozen=True)
class ClassFigures:
    """Of one class: labels, images that have one, labels by split, and how many labels people gave or confirmed."""

    name: str
    labels: int
    images: int
    by_split: dict[str, int]
    by_people: int


@dataclass(frozen=True)
class Figures:
    """Counts by value, most frequent first; "(none)" is what names none. `unlabeled`: samples without a label that counts.

    `erased`: rows of samples and of annotations that the version had when it was made and that are destroyed since.
    `annotators`: different people who gave labels or votes. `expire`: samples with a date, earliest and latest date;
    `expired`: those whose date is over, by the day `on` which it was counted.
    """

    samples: int
    labels: int
    votes: int
    unlabeled: int
    erased: tuple[int, int]
    splits: dict[str, int]
    classes: tuple[ClassFigures, ...]
    kinds: dict[str, int]
    sources: dict[str, int]
    models: dict[str, int]
    annotators: tuple[str, ...]
    licenses: dict[str, int]
    origins: dict[str, int]
    consents: dict[str, int]
    media_types: dict[str, int]
    sizes: tuple[int, int, int, int] | None  # smallest and largest width, smallest and largest height, in pixels
    captured: tuple[str, str] | None
    expire: tuple[int, str, str] | None
    expired: int
    on: str


def figures(version: Version) -> Figures:
    """Count a version. One pass over single columns; some seconds for millions of labels."""
    columns = ["split", "origin", "license", "consent", "media_type", "width", "height", "captured_at", "expires_at"]
    samples = version.table("samples", ["sample_id", *columns])
    rows = version.table("annotations", ["sample_id", "kind", "label", "source", "actor", "model", "role"])
    counts = version.commit.counts
    now = datetime.now(UTC)
    labels = rows.filter(pc.is_null(rows["role"]))
    answers = rows.filter(pc.equal(rows["source"], "human"))
    from_models = labels.filter(pc.equal(labels["source"], "model"))
    return Figures(
        samples=len(samples),
        labels=len(labels),
        votes=len(rows) - len(labels),
        unlabeled=len(samples) - pc.count_distinct(labels["sample_id"]).as_py(),
        erased=(counts["samples"] - len(samples), counts["annotations"] - len(rows)),
        splits=value_counts(samples["split"]),
        classes=_classes(version, samples, labels),
        kinds=value_counts(labels["kind"]),
        sources=value_counts(labels["source"]),
        models=value_counts(from_models["model"]),
        annotators=tuple(sorted(name for name in pc.unique(answers["actor"]).to_pylist() if name)),
        licenses=_named(samples["license"]),
        origins=_named(samples["origin"]),
        consents=_named(samples["consent"]),
        media_types=value_counts(samples["media_type"]),
        sizes=_sizes(samples),
        captured=_range(samples["captured_at"]),
        expire=_expire(samples["expires_at"]),
        expired=pc.sum(pc.less_equal(samples["expires_at"], pa.scalar(now, TIMESTAMP))).as_py() or 0,
        on=f"{now:%Y-%m-%d}",
    )


def _classes(version: Version, samples: pa.Table, labels: pa.Table) -> tuple[ClassFigures, ...]:
    """Classes in use, in the schema's order, and then what else is written as a label."""
    owners = pc.index_in(labels["sample_id"], value_set=samples["sample_id"].combine_chunks())
    splits = pc.fill_null(samples["split"].take(owners), NONE)
    rows = labels.select(["sample_id", "label"]).append_column("split", splits)
    by_split: dict[Any, dict[str, int]] = {}
    for row in rows.group_by(["label", "split"]).aggregate([("sample_id", "count")]).to_pylist():
        by_split.setdefault(row["label"], {})[row["split"]] = row["sample_id_count"]
    counted = rows.group_by("label").aggregate([("sample_id", "count_distinct")]).to_pylist()
    images = {row["label"]: row["sample_id_count_distinct"] for row in counted}
    people = value_counts(labels["label"].filter(pc.is_in(labels["source"], pa.array(_PEOPLE))))
    known = list(version.schema.class_names)
    others = sorted(name for name in by_split if name is not None and name not in set(known))
    return tuple(
        ClassFigures(
            name,
            sum(by_split.get(name, {}).values()),
            images.get(name, 0),
            by_split.get(name, {}),
            people.get(name, 0),
        )
        for name in [*known, *others]
    )


def _named(column: pa.ChunkedArray) -> dict[str, int]:
    """As `value_counts`, an empty text as none."""
    return value_counts(pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column))


def _sizes(samples: pa.Table) -> tuple[int, int, int, int] | None:
    found = [pc.min_max(samples[name]).as_py() for name in ("width", "height")]
    if found[0]["min"] is None or found[1]["min"] is None:
        return None
    wide, high = found
    return int(wide["min"]), int(wide["max"]), int(high["min"]), int(high["max"])


def _range(column: pa.ChunkedArray) -> tuple[str, str] | None:
    """Earliest and latest day."""
    found = pc.min_max(column).as_py()
    return None if found["min"] is None else (f"{found['min']:%Y-%m-%d}", f"{found['max']:%Y-%m-%d}")


def _expire(column: pa.ChunkedArray) -> tuple[int, str, str] | None:
    days = _range(column)
    return None if days is None else (len(column) - column.null_count, *days)


def share(part: int, whole: int) -> str:
    """A percentage that is never rounded to 0 % or 100 % where it is neither."""
    if not whole:
        return "–"
    value = part / whole
    rounded = np.clip(round(100 * value, 1), 0.1 if part else 0, 99.9 if part < whole else 100)
    return f"{rounded:g} %"
