"""Annotations that are followed through the versions: what was once so of one is so in all versions that stand on that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest.encoding import DELETE
from datasetops.manifest.segment import Positions
from datasetops.provenance.rows import Flags, TablePast


class Followed:
    """`rows` and `samples`: in each version, how many annotations that it holds were flagged there or before, and of how
    many samples. `flags` are of rows, `parents` the places of the versions that each version was made from.
    """

    def __init__(self, table: TablePast, flags: Sequence[Flags], parents: Sequence[Sequence[int]]) -> None:
        self._table = table
        codes, names = table.codes
        own = table.in_root(flags)
        chosen = own | table.coded(flags)  # keys with a code that are ever flagged: all that can change
        self._place = np.cumsum(chosen) - 1
        self._chosen = chosen
        wanted = names.filter(pa.array(chosen))
        self._root_ids = self._of_root(flags)
        self._sample = self._samples_of_names(flags, wanted)
        there: Flags = np.zeros(len(names), dtype=bool)
        there[table.root_codes[table.root_codes >= 0]] = True
        there = there[chosen]
        self._held: list[Flags] = []
        ever: list[Flags] = []
        for version, before in enumerate(parents):
            rooted, changes = table.stack(version)
            live = there.copy() if rooted else np.zeros(len(wanted), dtype=bool)
            said = own[chosen].copy() if rooted else np.zeros(len(wanted), dtype=bool)
            for number in changes:
                mine = chosen[codes[number]]
                at = self._place[codes[number][mine]]
                live[at] = table.segments[number].table(["_op"])["_op"].to_numpy()[mine] != DELETE
                said[at] = flags[number][mine]
            ever.append(np.any([said, *(ever[one] for one in before)], axis=0))
            self._held.append(live & ever[-1])

    def _of_root(self, flags: Sequence[Flags]) -> pa.ChunkedArray | None:
        """Sample of each flagged row of the root whose key nothing else names."""
        root = self._table.root
        if root is None or not flags[root].any():
            return None
        alone = flags[root] & ~self._table.of_root(self._chosen)
        return self._table.segments[root].table(["sample_id"])["sample_id"].filter(pa.array(alone))

    def _samples_of_names(self, flags: Sequence[Flags], wanted: pa.Array) -> pa.Array:
        """Sample of each key that can change."""
        codes = self._table.codes[0]
        columns = [pa.array([], pa.string())]
        places: list[Positions] = [np.empty(0, dtype=np.int64)]
        for number, (segment, mine) in enumerate(zip(self._table.segments, flags, strict=True)):
            if not len(wanted) or not mine.any():
                continue
            own = codes.get(number, self._table.root_codes)
            if number == self._table.root:
                mine = mine & self._table.of_root(self._chosen)
            places.append(self._place[own[mine]])
            columns.append(_flat(segment.table(["sample_id"])["sample_id"].filter(pa.array(mine))))
        which = np.zeros(len(wanted), dtype=np.int64)
        every = np.concatenate(places)
        which[every] = np.arange(len(every))
        return pa.concat_arrays(columns).take(pa.array(which))

    @property
    def rows(self) -> Positions:
        alone = 0 if self._root_ids is None else len(self._root_ids)
        return np.array(
            [
                int(held.sum()) + (alone if self._table.stack(version)[0] else 0)
                for version, held in enumerate(self._held)
            ],
            dtype=np.int64,
        )

    @property
    def samples(self) -> Positions:
        still = pa.array([], pa.string()) if self._root_ids is None else pc.unique(self._root_ids)
        coded = self._sample.dictionary_encode()
        which = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
        known = pc.is_in(coded.dictionary, value_set=still).to_numpy(zero_copy_only=False)
        found = np.zeros(len(self._held), dtype=np.int64)
        for version, held in enumerate(self._held):
            mine = np.zeros(len(known), dtype=bool)
            mine[which[held]] = True
            rooted = self._table.stack(version)[0]
            found[version] = int((mine & ~known).sum()) + len(still) if rooted else int(mine.sum())
        return found

    def samples_of(self, version: int) -> pa.Array:
        """Ids of the samples of the annotations that a version holds."""
        moving = self._sample.filter(pa.array(self._held[version]))
        rooted = self._table.stack(version)[0]
        still = self._root_ids.combine_chunks() if rooted and self._root_ids is not None else moving.slice(0, 0)
        return pc.unique(pa.concat_arrays([_flat(still), moving]))


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return (
            column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([*column.chunks, pa.array([], column.type)])
        )
    return column
