"""Rows of a table by the sample that they are about."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.fiftyone.labels import field_of_rows
from datasetops.manifest import Version


class ByOwner:
    """Rows of a table by the sample that they are about; those of other samples are left out."""

    def __init__(self, rows: pa.Table, sample_ids: pa.ChunkedArray) -> None:
        owner = pc.fill_null(pc.index_in(rows["sample_id"], value_set=sample_ids.combine_chunks()), -1).to_numpy()
        order = np.argsort(owner, kind="stable")
        first = int(np.searchsorted(owner[order], 0))
        self.rows = rows.take(pa.array(order[first:]))
        self._owner: npt.NDArray[np.int64] = owner[order[first:]]

    def between(self, start: int, stop: int) -> dict[int, list[dict[str, Any]]]:
        """Rows of the samples in the places start to stop - 1, by place."""
        first, last = np.searchsorted(self._owner, [start, stop]).tolist()
        found: dict[int, list[dict[str, Any]]] = {}
        for place, row in zip(self._owner[first:last].tolist(), self.rows[first:last].to_pylist(), strict=True):
            found.setdefault(place, []).append(row)
        return found


class LabelRows:
    """The annotations of a version that count, with the field that each goes to, by sample."""

    def __init__(self, version: Version) -> None:
        labels = version.labels()
        ids = version.table("samples", ["sample_id"])["sample_id"]
        self._rows = ByOwner(labels.append_column("field", field_of_rows(labels, version.schema)), ids)
        self._place = {name: place for place, name in enumerate(ids.to_pylist())}

    def of(self, sample_id: str) -> list[dict[str, Any]]:
        place = self._place[sample_id]
        return self._rows.between(place, place + 1).get(place, [])
