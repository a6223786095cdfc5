"""What a migration does to annotations: pure, by columns, and cheap for millions of rows.

Every distinct pair of label and open question is worked out once; rows only look their pair up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from datasetops.errors import SchemaError
from datasetops.schema.migrate import Migration, Step, target_name
from datasetops.schema.model import RELABEL

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 20  # bounds memory, and keeps text columns far below Arrow's 2 GiB an array


@dataclass(frozen=True)
class MigrationResult:
    """`changed`: the rows that changed, in their order, with all columns of the table. `relabel`: ids of those in it that
    a person must decide (attribute `relabel` names the choices). `counts`: rows that each step touched, by its words.
    """

    changed: pa.Table
    relabel: list[str]
    counts: dict[str, int]


class _State(NamedTuple):
    """A label, and the classes to choose from where a split has left it open."""

    label: str | None
    choices: tuple[str, ...] | None = None


class _Outcome(NamedTuple):
    state: _State
    steps: tuple[str, ...]  # those that touched it, in words


def migrate_annotations(table: pa.Table, migration: Migration) -> MigrationResult:
    """Apply the steps, in order, to a table with the columns of `records.ANNOTATIONS`.

    Rename and merge change the label. A split leaves the label, now that of a deprecated class, and adds the attribute
    `relabel`, the list of classes to choose from. Later steps change that list too: a merge of all choices into one
    decides the question, a deprecated class is offered no more unless it is the last. Labels that no step names stay,
    whether or not the schema knows them.
    Raises ValueError where a column is missing, SchemaError where attributes to be rewritten are no JSON object.
    """
    import pyarrow as pa

    missing = [c for c in ("annotation_id", "label", "attributes") if c not in table.column_names]
    if missing:
        raise ValueError(f"table: expected the columns of records.ANNOTATIONS; there is no {', '.join(missing)}")

    @cache
    def outcome(state: _State) -> _Outcome:
        return _run(state, migration.steps)

    counts: Counter[str] = Counter({s.line(): 0 for s in migration.steps if not s.add})
    batches: list[pa.RecordBatch] = []
    relabel: list[str] = []
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        changed, marked = _migrate_batch(batch, outcome, counts)
        batches.append(changed)
        relabel += marked.to_pylist()
    return MigrationResult(pa.Table.from_batches(batches, schema=table.schema), relabel, dict(counts))


def _migrate_batch(
    batch: pa.RecordBatch, outcome: Callable[[_State], _Outcome], counts: Counter[str]
) -> tuple[pa.RecordBatch, pa.Array]:
    """The changed rows, and the ids of those among them that a person must decide. Adds to `counts`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = pc.cast(batch["label"], pa.string())
    attributes = pc.cast(batch["attributes"], pa.string())
    is_open = pc.fill_null(pc.match_substring(attributes, f'"{RELABEL}"'), False)
    results = {label: outcome(_State(label)) for label in pc.unique(labels).to_pylist()}
    touched = pa.array([label for label, result in results.items() if result.steps], pa.string())
    split = pa.array([label for label, result in results.items() if result.state.choices], pa.string())
    # Attributes tell rows apart only where they are read or written: with an open question, or with one to be opened.
    matters = pc.or_(is_open, pc.is_in(labels, value_set=split))
    rows = pc.indices_nonzero(pc.or_(matters, pc.is_in(labels, value_set=touched)))
    labels, attributes, matters = labels.take(rows), attributes.take(rows), matters.take(rows)
    codes, pairs, sizes = _distinct(labels, pc.if_else(matters, attributes, None))
    new: dict[str, list[Any]] = {"label": [], "attributes": [], "changed": [], "marked": []}
    for (label, text), size in zip(pairs, sizes, strict=True):
        before = _State(label, _choices(text))
        after, steps = outcome(before)
        counts.update(dict.fromkeys(steps, size))
        new["label"].append(after.label)
        new["attributes"].append(text if after.choices == before.choices else _with_choices(text, after.choices))
        new["changed"].append(after != before)
        new["marked"].append(after != before and after.choices is not None)

    def spread(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array(new[name], kind).take(codes)

    changed, marked = spread("changed", pa.bool_()), spread("marked", pa.bool_())
    columns = {
        "label": spread("label", pa.string()),
        "attributes": pc.if_else(matters, spread("attributes", pa.string()), attributes),
    }
    result = batch.take(rows.filter(changed))
    for name, column in columns.items():
        index = result.schema.get_field_index(name)
        field = result.schema.field(index)
        result = result.set_column(index, field, pc.cast(column.filter(changed), field.type))
    ids = pc.cast(batch["annotation_id"].take(rows.filter(marked)), pa.string())
    return result, ids


def _distinct(a: pa.Array, b: pa.Array) -> tuple[pa.Array, list[tuple[str | None, str | None]], list[int]]:
    """Distinct pairs of two columns of text: for each row the number of its pair, the pairs, and how often each comes."""
    import numpy as np
    import pyarrow as pa

    left, right = (column.dictionary_encode(null_encoding="encode") for column in (a, b))
    width = max(1, len(right.dictionary))
    joined = left.indices.to_numpy().astype(np.int64) * width + right.indices.to_numpy()
    encoded = pa.array(joined).dictionary_encode()
    lefts, rights = left.dictionary.to_pylist(), right.dictionary.to_pylist()
    pairs = [(lefts[n // width], rights[n % width]) for n in encoded.dictionary.to_pylist()]
    sizes = np.bincount(encoded.indices.to_numpy(), minlength=len(pairs))
    return encoded.indices, pairs, sizes.tolist()


def _run(state: _State, steps: Sequence[Step]) -> _Outcome:
    touched = []
    for step in steps:
        following = _step(state, step)
        if following != state:
            touched.append(step.line())
        state = following
    return _Outcome(state, tuple(touched))


def _step(state: _State, step: Step) -> _State:
    label, choices = state
    if step.rename:
        new = {step.rename.from_: step.rename.to}
        return _State(new.get(label or "", label), choices and tuple(new.get(c, c) for c in choices))
    if step.merge:
        target = target_name(step.merge.to)
        if label in step.merge.from_:
            return _State(target)
        left = dict.fromkeys(target if c in step.merge.from_ else c for c in choices or ())
        decided = len(left) == 1 < len(choices or ())
        return _State(target) if decided else _State(label, tuple(left) or None)
    if step.split:
        parts = [target_name(t) for t in step.split.to]
        if label == step.split.from_:
            return _State(label, tuple(parts))
        options = dict.fromkeys(p for c in choices or () for p in (parts if c == step.split.from_ else [c]))
        return _State(label, tuple(options) or None)
    if step.deprecate and choices:
        return _State(label, tuple(c for c in choices if c != step.deprecate.name) or choices)
    return state


def _choices(text: str | None) -> tuple[str, ...] | None:
    found = _object(text).get(RELABEL) if text else None
    return tuple(found) if isinstance(found, list) and found and all(isinstance(c, str) for c in found) else None


def _with_choices(text: str | None, choices: tuple[str, ...] | None) -> str | None:
    from datasetops.records import canonical_json

    value = {k: v for k, v in _object(text).items() if k != RELABEL} if text else {}
    if choices:
        value[RELABEL] = list(choices)
    return canonical_json(value).decode() if value else None


def _object(text: str) -> dict[str, Any]:
    import orjson

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise SchemaError(f"Attributes of an annotation are no JSON object: {text[:80]!r}.", remedy="Run: dsops verify")
    return value
