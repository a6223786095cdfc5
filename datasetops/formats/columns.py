"""Columns on their way into the parsed tables: filling up, timestamps, JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
from numpy.typing import NDArray

from datasetops.formats.base import PARSED_ANNOTATIONS, PARSED_SAMPLES, Parsed
from datasetops.formats.problems import Problems

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]


def parsed(samples: Columns, annotations: Columns, problems: Problems) -> Parsed:
    """Both tables from columns of equal length; columns that are not given are null."""
    return Parsed(
        filled(samples, PARSED_SAMPLES), filled(annotations, PARSED_ANNOTATIONS), problems.findings, problems.rejected
    )


def filled(columns: Columns, schema: pa.Schema) -> pa.Table:
    """A table of `schema` from some of its columns, which have equal lengths."""
    count = len(next(iter(columns.values()))) if columns else 0
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=False)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def filled_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """The same from rows, for formats whose files are small and many."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def json_text(value: Mapping[str, Any]) -> str | None:
    """Canonical JSON of an object without NaN in it; None for an empty one."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() if value else None


def finite(value: Any) -> Any:
    """The same JSON value with NaN and infinities, which JSON has no form for, as their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def parse_time(text: str) -> datetime | None:
    """ISO 8601 (or with a space for the T) as UTC; a time that names no zone is taken for UTC. None where it is not."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        return None
