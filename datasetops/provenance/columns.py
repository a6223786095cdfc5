"""One segment as questions about the past read it: a few columns, of hundreds of small segments."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest.segment import MAPPED_FROM, Positions, Segment, damaged, open_parquet, with_added
from datasetops.records import KEYS
from datasetops.store import Store

ABSENT: Final = -1
_ALWAYS: Final = {
    "samples": ("sample_id", "_op"),
    "annotations": ("annotation_id", "sample_id", "_op"),
}
_NEAR: Final = 5  # ids on each side of one that is not there


class Columns:
    """Columns of one segment. Of a small one only those that are asked for are read: there are hundreds of them."""

    def __init__(self, store: Store, table_name: str, segment: Segment) -> None:
        self.info = segment.info
        self._store = store
        self._name = table_name
        self._segment = segment
        self._read: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return len(self._segment)

    def table(self, columns: list[str]) -> pa.Table:
        """Rows in key order. Raises DamagedError."""
        if len(self) >= MAPPED_FROM:
            return self._segment.table(columns)
        if missing := [name for name in dict.fromkeys([*columns, *_ALWAYS[self._name]]) if name not in self._read]:
            try:
                rows = open_parquet(self._store, self._name, self.info.id).read(missing, use_threads=False)
                rows = with_added(self._name, rows, missing)
            except (pa.ArrowInvalid, OSError, ValueError, KeyError) as error:
                raise damaged(self._name, self.info.id, str(error)) from error
            self._read.update(zip(missing, rows.columns, strict=True))
        return pa.table({name: self._read[name] for name in columns})

    def take(self, rows: Positions, columns: list[str]) -> pa.Table:
        """Rows by number, in the order asked for."""
        if len(self) >= MAPPED_FROM:
            return self._segment.take(rows, columns)
        return self.table(columns).take(pa.array(rows))

    def lookup(self, keys: pa.Array) -> Positions:
        """Row number of each key, -1 where the segment does not hold it."""
        if len(self) >= MAPPED_FROM:
            return self._segment.lookup(keys)
        at = np.full(len(keys), ABSENT, dtype=np.int64)
        key = KEYS[self._name]
        which = pc.index_in(self.table([key])[key], value_set=keys).combine_chunks()
        known = np.flatnonzero(which.is_valid().to_numpy(zero_copy_only=False))
        at[which.take(pa.array(known)).to_numpy()] = known
        return at

    def near(self, key: str) -> list[str]:
        """Keys beside one that is not there."""
        at = int(self._segment.insertion_points(pa.array([key], pa.string()))[0])
        found: list[str] = (
            self.table([KEYS[self._name]])[KEYS[self._name]].slice(max(0, at - _NEAR), 2 * _NEAR).to_pylist()
        )
        return found
