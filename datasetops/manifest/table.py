"""One table of one version: a base segment and the changes on top of it, newest wins by key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest.encoding import DELETE, INSERT, UPDATE, encode_rows, row_digests, salts
from datasetops.manifest.segment import Positions, Segment, SegmentInfo, segment_schema
from datasetops.records import ADDED, KEYS, TABLES

_TIER: Final = 8  # that many segments of one size are merged into one
_DELTA_SHARE: Final = 0.1  # changes that weigh more than this share of the base are folded into a new base


@dataclass(frozen=True)
class Changes:
    """Rows to write (columns of the table, `_op`, `_salt`), sorted by key, with their digests; and what they replace."""

    rows: pa.Table
    digests: list[bytes]
    replaced: pa.Table  # key and the columns asked for, as they were, of every row that is updated or deleted

    @property
    def counts(self) -> dict[int, int]:
        ops = self.rows["_op"].to_numpy()
        return {op: int((ops == op).sum()) for op in (INSERT, UPDATE, DELETE)}


class TableState:
    """A keyed table as a list of segments, oldest first."""

    def __init__(self, name: str, segments: list[Segment]) -> None:
        self.name = name
        self.key = KEYS[name]
        self.segments = segments

    @property
    def infos(self) -> list[SegmentInfo]:
        return [segment.info for segment in self.segments]

    def find(self, keys: pa.Array) -> tuple[Positions, Positions]:
        """(segment, row) that holds the live row of each key; (-1, -1) where there is none."""
        where = np.full(len(keys), -1, dtype=np.int64)
        at = np.full(len(keys), -1, dtype=np.int64)
        open_: Positions = np.arange(len(keys))
        for number in range(len(self.segments) - 1, -1, -1):
            if not len(open_):
                break
            rows = self.segments[number].lookup(keys.take(pa.array(open_)))
            hit = rows >= 0
            where[open_[hit]], at[open_[hit]] = number, rows[hit]
            open_ = open_[~hit]
        for number, segment in enumerate(self.segments):
            mine = np.flatnonzero(where == number)
            if len(mine):
                gone = segment.take(at[mine], ["_op"])["_op"].to_numpy() == DELETE
                where[mine[gone]] = at[mine[gone]] = -1
        return where, at

    def contains(self, keys: pa.Array) -> npt.NDArray[np.bool_]:
        return self.find(keys)[0] >= 0

    def rows(self, keys: pa.Array, columns: list[str] | None = None) -> pa.Table:
        """Live rows of those keys that exist, sorted by key. O(k log n) for k keys of n."""
        columns = columns or TABLES[self.name].names
        where, at = self.find(keys)
        parts = [
            segment.take(at[where == number], columns)
            for number, segment in enumerate(self.segments)
            if (where == number).any()
        ]
        schema = pa.schema([segment_schema(self.name).field(column) for column in columns])
        table = pa.concat_tables(parts) if parts else schema.empty_table()
        return table.sort_by(self.key) if self.key in columns else table

    @cached_property
    def _live(self) -> tuple[pa.Table, Positions | None]:
        """(all rows of all segments, live rows in key order); None for the order where it is the table's own."""
        return self._overlaid([segment.table() for segment in self.segments[1:]])

    def _overlaid(self, changes: list[pa.Table]) -> tuple[pa.Table, Positions | None]:
        """`_live`, with these changes on top of the base in place of the segments'."""
        if not self.segments:
            return segment_schema(self.name).empty_table(), None
        base = self.segments[0]
        if not changes:
            return base.table(), None
        top = squash(changes, self.key)
        hidden = base.lookup(_column(top, self.key))
        keep = np.ones(len(base), dtype=bool)
        keep[hidden[hidden >= 0]] = False
        alive = np.flatnonzero(top["_op"].to_numpy() != DELETE)
        inserted_at = base.insertion_points(_column(top, self.key).take(pa.array(alive)))
        order = np.insert(np.arange(len(base)), inserted_at, alive + len(base))
        order = order[np.concatenate([keep, np.ones(top.num_rows, dtype=bool)])[order]]
        return pa.concat_tables([base.table(), top]), order

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Live rows in key order, with the table's columns or those asked for."""
        table, order = self._live
        table = table.select(columns or TABLES[self.name].names)
        return table if order is None else table.take(pa.array(order))

    def changes(self, upserts: pa.Table, deletes: pa.Array, secret: bytes, keep_columns: Iterable[str]) -> Changes:
        """What must be written so that the rows of `upserts` are there and the keys of `deletes` are not.

        Rows that already say the same are left out. `upserts` has the table's columns and unique keys.
        """
        removed = pa.table(
            {
                field.name: deletes if field.name == self.key else pa.nulls(len(deletes), field.type)
                for field in TABLES[self.name]
            },
            schema=TABLES[self.name],
        )
        rows = pa.concat_tables([upserts, removed])
        order = pc.sort_indices(rows[self.key])
        rows = rows.take(order).combine_chunks()
        wants_delete = order.to_numpy() >= upserts.num_rows
        encoded = encode_rows(rows)
        row_salts = salts(encoded, secret)

        where, at = self.find(_column(rows, self.key))
        exists = where >= 0
        salt_array = pa.array(row_salts, pa.binary(16))
        same = self._stored_so(where, at, salt_array)
        if len(older := self._perhaps_older(rows, np.flatnonzero(exists & ~same))):
            before = salts(encode_rows(rows.take(pa.array(older)).drop(list(ADDED[self.name]))), secret)
            same[older] = self._stored_so(where[older], at[older], pa.array(before, pa.binary(16)))
        ops = np.where(wants_delete, DELETE, np.where(exists, UPDATE, INSERT))
        chosen = np.flatnonzero(np.where(wants_delete, exists, ~same))
        pick = pa.array(chosen)
        replaced = self.rows(_column(rows, self.key).take(pa.array(chosen[exists[chosen]])), [self.key, *keep_columns])
        digests = row_digests(encoded, row_salts, ops.tolist())
        written = rows.append_column("_op", pa.array(ops, pa.int8())).append_column("_salt", salt_array).take(pick)
        return Changes(written.cast(segment_schema(self.name)), [digests[row] for row in chosen], replaced)

    def _stored_so(self, where: Positions, at: Positions, row_salts: pa.Array) -> npt.NDArray[np.bool_]:
        """Whether the rows of these segments and places have these salts."""
        same = np.zeros(len(where), dtype=bool)
        for number, segment in enumerate(self.segments):
            mine = np.flatnonzero(where == number)
            if len(mine):
                stored = segment.take(at[mine], ["_salt"])["_salt"]
                same[mine] = pc.equal(stored, row_salts.take(pa.array(mine))).to_numpy()
        return same

    def _perhaps_older(self, rows: pa.Table, chosen: Positions) -> Positions:
        """Those of the rows that may have been written before the table had all its columns, when they had another salt."""
        if not len(chosen) or not ADDED[self.name]:
            return chosen[:0]
        empty = np.logical_and.reduce([rows[name].is_null().to_numpy() for name in ADDED[self.name]])
        found: Positions = chosen[empty[chosen]]
        return found

    def stack(self, changes: Changes) -> tuple[list[Segment], pa.Table, list[bytes] | None]:
        """(segments to keep, rows to write on top of them, their digests where they are the changes' own).

        The rows are the changes alone; or merged with the newest segments, once there are as many of one size as make a
        tier; or the whole table, once the changes weigh more than a tenth of the base. The amortised cost of a change
        of k rows among n is O(k log n).
        """
        if not self.segments:
            return [], changes.rows, changes.digests
        on_base = [segment.table() for segment in self.segments[1:]] + [changes.rows]
        if sum(len(rows) for rows in on_base) > _DELTA_SHARE * len(self.segments[0]):
            table, order = self._overlaid(on_base)
            live = table if order is None else table.take(pa.array(order))
            ops = pa.array(np.full(len(live), INSERT), pa.int8())
            return [], live.set_column(live.column_names.index("_op"), "_op", ops), None
        kept, rows = list(self.segments), changes.rows
        digests: list[bytes] | None = changes.digests
        while len(kept) >= _TIER and {_tier(len(segment)) for segment in kept[1 - _TIER :]} == {_tier(len(rows))}:
            rows = squash([*(segment.table() for segment in kept[1 - _TIER :]), rows], self.key)
            kept, digests = kept[: 1 - _TIER], None
        return kept, rows, digests


def squash(tables: list[pa.Table], key: str) -> pa.Table:
    """Net effect of changes applied one after another, oldest first, sorted by key; `_op` relative to what lies below."""
    rows = pa.concat_tables(tables)
    if len(tables) == 1:
        return rows
    keys = rows[key].combine_chunks().dictionary_encode()
    codes = keys.indices.to_numpy(zero_copy_only=False)
    ops = rows["_op"].to_numpy()
    last = np.empty(len(keys.dictionary), dtype=np.int64)
    last[codes] = np.arange(len(codes))
    first = np.empty_like(last)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    was_absent = ops[first] == INSERT
    is_gone = ops[last] == DELETE
    net = np.where(is_gone, DELETE, np.where(was_absent, INSERT, UPDATE))
    kept = ~(was_absent & is_gone)
    table = rows.take(pa.array(last[kept]))
    table = table.set_column(table.column_names.index("_op"), "_op", pa.array(net[kept], pa.int8()))
    return table.take(pc.sort_indices(table[key])).combine_chunks()


def _tier(rows: int) -> int:
    return int(np.log(max(1, rows)) / np.log(_TIER))


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
