"""One version of a dataset, read-only: its tables, schema, guide, and SQL over them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import DatasetOpsError
from datasetops.manifest.commit import Commit, get_object
from datasetops.manifest.table import TableState
from datasetops.records import TABLES
from datasetops.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from datasetops.schema import LabelSchema


OpenTable = Callable[[Commit, str], TableState]


class QueryError(DatasetOpsError):
    """A SQL statement is wrong, or tries to do more than read."""


class Version:
    """`name` is v1, v2, …; `commit` what the version is made of."""

    def __init__(self, store: Store, open_table: OpenTable, name: str, digest: str, commit: Commit) -> None:
        self._store = store
        self._open_table = open_table
        self.name = name
        self.digest = digest
        self.commit = commit

    def __repr__(self) -> str:
        counts = self.commit.counts
        return f"<Version {self.name}: {counts['samples']:,} samples, {counts['annotations']:,} annotations>"

    @cached_property
    def schema(self) -> LabelSchema:
        from datasetops.schema import LabelSchema

        return LabelSchema.model_validate_json(get_object(self._store, "schemas", self.commit.schema))

    @cached_property
    def guide(self) -> str | None:
        """The labeling guide's Markdown text."""
        if self.commit.guide is None:
            return None
        return get_object(self._store, "guides", self.commit.guide, "md").decode()

    def state(self, table: str) -> TableState:
        return self._open_table(self.commit, table)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Live rows of "samples" or "annotations" as Arrow, in key order; columns as in datasetops.records."""
        if name not in TABLES:
            raise ValueError(f"table: expected one of {', '.join(TABLES)}; got {name!r}")
        return self.state(name).read(columns)

    def labels(self, columns: list[str] | None = None) -> pa.Table:
        """The annotations that count, as Arrow: all but votes, which were merged into others."""
        rows = self.table("annotations")
        rows = rows.filter(pc.is_null(rows["role"]))
        return rows if columns is None else rows.select(columns)

    def annotations_of(self, sample_ids: Sequence[str]) -> pa.Table:
        """All annotations of some samples, votes too, in key order."""
        owners = self.table("annotations", ["annotation_id", "sample_id"])
        mine = owners.filter(pc.is_in(owners["sample_id"], pa.array(list(sample_ids), pa.string())))
        return self.state("annotations").rows(mine["annotation_id"].combine_chunks())

    def samples(self) -> pd.DataFrame:
        """One row a sample; columns as in datasetops.records.SAMPLES, `metadata` as dict (empty where there is none)."""
        return _with_objects(self.table("samples").to_pandas(), "metadata")

    def annotations(self) -> pd.DataFrame:
        """One row an annotation, votes too; columns as in datasetops.records.ANNOTATIONS.

        `attributes`, `geometry` and `answer` as dict.
        """
        return _with_objects(self.table("annotations").to_pandas(), "attributes", "geometry", "answer")

    def sql(self, query: str) -> pd.DataFrame:
        """Answer of a DuckDB SELECT over the tables `samples` and `annotations`. Nothing else can be read or written.

        JSON columns are reached with `metadata->>'key'`. Raises QueryError.
        """
        answer: pd.DataFrame = self.sql_arrow(query).to_pandas()
        return answer

    def sql_arrow(self, query: str) -> pa.Table:
        import duckdb

        with duckdb.connect(":memory:") as connection:
            for name in TABLES:
                if name in query.lower():
                    connection.register(name, self.table(name))
            connection.execute(
                "SET python_enable_replacements = false; SET enable_external_access = false; "
                "SET lock_configuration = true"
            )
            try:
                statements = connection.extract_statements(query)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    raise QueryError(
                        "Only one SELECT statement can be run.", remedy="Versions are changed by commits, not by SQL."
                    )
                return connection.sql(query).to_arrow_table()
            except duckdb.Error as error:
                columns = "; ".join(f"{name}: {', '.join(schema.names)}" for name, schema in TABLES.items())
                raise QueryError(f"SQL: {error}", remedy=f"The tables and columns are {columns}.") from None

    def where(self, condition: str) -> list[str]:
        """Ids of the samples that fulfil a SQL condition over the columns of `samples` and of their annotations.

        A sample is chosen if it, or one of its annotations (`label`, `kind`, `source`, …), fulfils it; sorted.
        """
        own = {name for name in TABLES["annotations"].names if name != "sample_id"}
        words = set(re.findall(r"[a-z_][a-z_0-9]*", re.sub(r"'[^']*'", "", condition.lower())))
        source = "samples LEFT JOIN annotations USING (sample_id)" if words & own else "samples"
        try:
            rows = self.sql_arrow(f"SELECT DISTINCT sample_id FROM {source} WHERE ({condition}) ORDER BY sample_id")  # noqa: S608
        except QueryError as error:
            raise QueryError(error.message, remedy=self._keys_of_metadata(error.message) or error.remedy) from None
        ids: list[str] = rows["sample_id"].to_pylist()
        return ids

    def _keys_of_metadata(self, problem: str) -> str:
        """How to write what DuckDB took for a column, where it is a key of the samples' metadata; else empty."""
        unknown = re.search(r'Referenced column "([^"]+)" not found', problem)
        if unknown is None:
            return ""
        key = f'"{re.escape(unknown[1])}"\\s*:'
        if not pc.any(pc.match_substring_regex(self.table("samples", ["metadata"])["metadata"], key)).as_py():
            return ""
        columns = ", ".join(TABLES["samples"].names)
        return f"It is a key of the metadata: write metadata->>'{unknown[1]}'. The columns of samples are {columns}."

    def summary(self) -> dict[str, Any]:
        """Counts by class, kind and split, and what the commit says."""
        commit = self.commit
        counted = self.labels(["label", "kind"])
        return {
            "version": self.name,
            "commit": self.digest,
            "parents": list(commit.parents),
            "author": commit.author,
            "time": commit.time,
            "message": commit.message,
            "samples": commit.counts["samples"],
            "annotations": len(counted),
            "votes": commit.counts["annotations"] - len(counted),
            "by_class": value_counts(counted["label"]),
            "by_kind": value_counts(counted["kind"]),
            "by_split": value_counts(self.table("samples", ["split"])["split"]),
            "schema": {"name": self.schema.name, "version": self.schema.version, "digest": commit.schema},
            "guide": commit.guide,
            "sealed": list(commit.sealed),
            "event_id": commit.event_id,
        }


def value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Occurrences of each value, null as "(none)", most frequent first."""
    counted = pc.value_counts(column).to_pylist()
    pairs = [("(none)" if item["values"] is None else str(item["values"]), item["counts"]) for item in counted]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _with_objects(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    import pandas as pd

    for column in columns:
        empty: Any = {} if column != "geometry" else None
        values = [json.loads(text) if isinstance(text, str) else empty for text in frame[column]]
        frame[column] = pd.Series(values, index=frame.index, dtype=object)
    return frame
