"""What a commit is asked to do: rows to put, keys to remove, and the checks that hold for every change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import SchemaError, did_you_mean
from datasetops.records import ANNOTATIONS, KEYS, KINDS, SOURCES, TABLES, canonical_json

if TYPE_CHECKING:
    import pandas as pd

    from datasetops.schema import LabelSchema

Rows: TypeAlias = "pa.Table | pd.DataFrame | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True)
class Change:
    """Rows are whole rows: a row that exists is replaced. Columns that are left out are null.

    Removing a sample removes its annotations. `schema`, `guide` and `sealed` replace the version's where given.
    """

    samples: Rows | None = None
    annotations: Rows | None = None
    remove_samples: Sequence[str] = ()
    remove_annotations: Sequence[str] = ()
    schema: LabelSchema | None = None
    guide: str | None = None
    sealed: Sequence[str] | None = None


@dataclass(frozen=True)
class TableChange:
    """A change of one table, in Arrow, checked."""

    upserts: pa.Table
    removals: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))

    @property
    def is_empty(self) -> bool:
        return not len(self.upserts) and not len(self.removals)


def normalise(change: Change, schema: LabelSchema, event_id: str) -> dict[str, TableChange]:
    """The change as Arrow tables. Raises ValueError for malformed rows, SchemaError for unknown labels."""
    samples = _as_arrow(change.samples, "samples")
    annotations = _stamped(_as_arrow(change.annotations, "annotations"), event_id)
    _check_values(annotations, "kind", KINDS)
    _check_values(annotations, "source", SOURCES)
    _check_labels(annotations, schema)
    if annotations["sample_id"].null_count:
        raise ValueError("annotations: sample_id: a value is missing")
    return {
        "samples": TableChange(samples, _keys(change.remove_samples)),
        "annotations": TableChange(annotations, _keys(change.remove_annotations)),
    }


def _as_arrow(rows: Rows | None, name: str) -> pa.Table:
    schema, key = TABLES[name], KEYS[name]
    if rows is None:
        return schema.empty_table()
    table = rows if isinstance(rows, pa.Table) else _from_rows(rows, schema)
    unknown = [column for column in table.column_names if column not in schema.names]
    if unknown:
        raise ValueError(
            f"{name}: unknown column {unknown[0]!r}. {did_you_mean(unknown[0], schema.names, noun='columns')}"
        )
    columns = [
        table[column.name].cast(column.type) if column.name in table.column_names else pa.nulls(len(table), column.type)
        for column in schema
    ]
    table = pa.table(columns, schema=schema)
    if table[key].null_count:
        raise ValueError(f"{name}: {key}: a value is missing")
    if len(table) and pc.count_distinct(table[key]).as_py() != len(table):
        twice = pc.value_counts(table[key]).to_pylist()
        example = next(item["values"] for item in twice if item["counts"] > 1)
        raise ValueError(f"{name}: {key}: {example!r} stands in more than one row")
    return table


def _from_rows(rows: pd.DataFrame | Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Dictionaries and lists become canonical JSON; NaN becomes null."""
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    columns = {}
    for name in frame.columns:
        kind = schema.field(name).type if name in schema.names else None
        values = frame[name]
        if kind == pa.string():
            values = pd.Series([_json_or_value(value) for value in values], dtype=object)
        columns[name] = pa.array(values, type=kind, from_pandas=True)
    return pa.table(columns)


def _json_or_value(value: Any) -> Any:
    if isinstance(value, dict | list):
        return canonical_json(value).decode() if value else None
    return value


def _stamped(annotations: pa.Table, event_id: str) -> pa.Table:
    """Where a row does not say which event made it and when, this one did, now."""
    now = pa.scalar(datetime.now(UTC), ANNOTATIONS.field("created_at").type)
    for name, value in (("event_id", pa.scalar(event_id)), ("created_at", now), ("source", pa.scalar("human"))):
        column = annotations[name]
        if column.null_count:
            annotations = annotations.set_column(
                annotations.column_names.index(name), ANNOTATIONS.field(name), pc.fill_null(column, value)
            )
    return annotations


def _check_values(table: pa.Table, column: str, valid: Sequence[str]) -> None:
    for value in pc.unique(table[column]).to_pylist():
        if value not in valid:
            raise ValueError(f"annotations: {column}: expected one of {', '.join(valid)}; got {value!r}")


def _check_labels(annotations: pa.Table, schema: LabelSchema) -> None:
    for label in pc.unique(annotations["label"]).to_pylist():
        if label is not None and schema.find(label) is None:
            raise SchemaError(
                f"annotations: label: the schema {schema.name!r} has no class {label!r}.",
                remedy=did_you_mean(label, schema.class_names, noun="classes"),
            )


def _keys(values: Sequence[str]) -> pa.Array:
    return pc.unique(pa.array(list(values), pa.string()))
