"""Samples of a version and their annotations, one sample at a time, without a look at all rows each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasetops.manifest import Version

Ints: TypeAlias = npt.NDArray[np.int64]


class Rows:
    """The first question about annotations reads whose they are, all of them; each further one takes milliseconds."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def samples(self, sample_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Columns of records.SAMPLES by id, metadata as a dict; unknown ids are left out."""
        rows = self._version.state("samples").rows(pa.array(list(dict.fromkeys(sample_ids)), pa.string())).to_pylist()
        return {row["sample_id"]: row | {"metadata": _loaded(row["metadata"]) or {}} for row in rows}

    def annotations(self, sample_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """The annotations that count, of each sample: columns of records.ANNOTATIONS, JSON columns read."""
        places = {name: self._places(name) for name in dict.fromkeys(sample_ids)}
        ids = [self._ids[place].as_py() for mine in places.values() for place in mine.tolist()]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
        for row in self._version.state("annotations").rows(pa.array(ids, pa.string())).to_pylist():
            if row["role"] is None:
                read = {name: _loaded(row[name]) for name in ("geometry", "attributes", "answer")}
                found[row["sample_id"]].append(row | read)
        return found

    def _places(self, sample_id: str) -> Ints:
        code = self._codes.get(sample_id)
        return self._order[self._starts[code] : self._starts[code + 1]] if code is not None else self._order[:0]

    @cached_property
    def _table(self) -> pa.Table:
        return self._version.table("annotations", ["annotation_id", "sample_id"])

    @property
    def _ids(self) -> pa.ChunkedArray:
        return self._table["annotation_id"]

    @cached_property
    def _owners(self) -> tuple[dict[str, int], Ints]:
        """(code of each sample that has annotations, code of each annotation's)."""
        column = self._table["sample_id"].dictionary_encode().unify_dictionaries()
        if not len(column):
            return {}, np.empty(0, dtype=np.int64)
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks]).astype(np.int64)
        names = column.chunk(0).dictionary.to_pylist()
        return {name: code for code, name in enumerate(names)}, codes

    @property
    def _codes(self) -> dict[str, int]:
        return self._owners[0]

    @cached_property
    def _order(self) -> Ints:
        return np.argsort(self._owners[1], kind="stable")

    @cached_property
    def _starts(self) -> Ints:
        return np.concatenate([[0], np.cumsum(np.bincount(self._owners[1], minlength=len(self._codes)))])


def _loaded(text: str | None) -> Any:
    return json.loads(text) if text else None
