"""What a migration does to annotations: pure, by columns, and cheap for millions of rows.

Every distinct pair of label and open question is worked out once; rows only look their pair up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from datasetops.schema.migrate import Migration, Step, target_name
from datasetops.schema.model import RELABEL

if TYPE_CHECKING:
    import pyarrow as pa


class State(NamedTuple):
    """A label, and the classes that a person must choose from where a split left it open."""

    label: str | None
    choices: tuple[str, ...] | None


@dataclass(frozen=True)
class MigrationResult:
    """`changed`: the rows that changed, in their order, with all columns of the table. `relabel`: ids of those that a
    person must decide (attribute `relabel` names the choices). `counts`: rows that each step touched, by its words.
    """

    changed: pa.Table
    relabel: list[str]
    counts: dict[str, int]


def migrate_annotations(table: pa.Table, migration: Migration) -> MigrationResult:
    """Apply the steps, in order, to a table with the columns of `records.ANNOTATIONS`.

    Rename and merge change the label. A split leaves the label, now that of a deprecated class, and adds the attribute
    `relabel`, the list of classes to choose from; later steps change that list too, and one that leaves a single choice
    decides it. Labels that no step names stay as they are, whether or not the schema knows them.
    Raises ValueError where the table lacks a column that is needed.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = [c for c in ("annotation_id", "label", "attributes") if c not in table.column_names]
    if missing:
        raise ValueError(f"table: expected the columns of records.ANNOTATIONS; there is no {', '.join(missing)}")
    labels = pc.cast(table["label"], pa.string())
    attributes = pc.cast(table["attributes"], pa.string())
    open_question = pc.fill_null(pc.match_substring(attributes, f'"{RELABEL}"'), False)
    named = pc.is_in(labels, value_set=pa.array(sorted(_named(migration)), pa.string()))
    rows = pc.indices_nonzero(pc.or_(named, open_question))
    labels, attributes = labels.take(rows), attributes.take(rows)
    # Attributes tell rows apart only where they are going to be rewritten.
    splits = pa.array(sorted({s.split.from_ for s in migration.steps if s.split}), pa.string())
