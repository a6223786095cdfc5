"""Columns of findings as small numbers, so that a million of them are filtered and counted in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.sets.coverage import as_key, shown
from datasetops.records import SAMPLES

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_MOST_VALUES: Final = 20  # of a key of the metadata that the schema does not name: with more it is no slice
_LONGEST_NAME: Final = 200  # characters, as many as a class name has at most
_SPARE: Final = 50  # values beyond those asked for that are looked at, as some are too long
_LONGEST: Final = 100  # characters of a value: what is longer is a description


@dataclass(frozen=True)
class Column:
    """`codes` (N,) into `names`, of the smallest unsigned type that holds them; 0 stands for no value."""

    codes: npt.NDArray[Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: pa.ChunkedArray | pa.Array) -> Column:
        """Of texts; null is no value."""
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = array.dictionary_encode()
        names = ("", *encoded.dictionary.to_pylist())
        return cls(_smallest(_places(encoded) + 1, len(names)), names)

    def take(self, rows: Ints) -> Column:
        """The values of those rows; of row -1 none."""
        if not len(self.codes):
            return Column(np.zeros(len(rows), dtype=np.uint8), self.names)
        return Column(np.where(rows >= 0, self.codes[rows], 0).astype(self.codes.dtype), self.names)

    def matches(self, wanted: Sequence[str]) -> Bools:
        """Rows (N,) that have one of these values."""
        chosen = set(wanted)
        table = np.array([bool(at) and name in chosen for at, name in enumerate(self.names)])
        result: Bools = table[self.codes]
        return result

    def counts(self, chosen: Bools | None, most: int) -> list[tuple[str, int]]:
        """The most frequent values of the chosen rows (all where None), and how many have each; none that is a text."""
        found = np.bincount(self.codes if chosen is None else self.codes[chosen], minlength=len(self.names))
        found[0] = 0
        frequent = np.argsort(-found, kind="stable")[: most + _SPARE]
        pairs = [(self.names[code], int(found[code])) for code in frequent.tolist() if found[code]]
        pairs = [pair for pair in pairs if len(pair[0]) <= _LONGEST_NAME]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:most]


def slice_columns(samples: pa.Table, keys: Sequence[str]) -> dict[str, Column]:
    """By key, the slice values of some samples: the schema's `keys`, and keys of the metadata that have few values.

    `samples` has the column metadata and those of `keys` that are columns of records.SAMPLES. Values are written as
    audits.coverage writes them; lists and objects are none.
    """
    own = [key for key in keys if key in SAMPLES.names and key != "metadata"]
    texts = samples["metadata"].combine_chunks().dictionary_encode()
    places = _places(texts)
    read = _metadata_columns(texts.dictionary.to_pylist(), frozenset(keys))
    found = {key: Column.of(samples[key].cast(pa.string())) for key in own}
    metadata = {key: column.take(places) for key, column in sorted(read.items()) if key not in found}
    return found | {key: column for key, column in metadata.items() if key in keys or _divides(column)}


def _divides(column: Column) -> bool:
    """Whether some value is shared: one that each sample has of its own, such as a number or an address, is no slice."""
    return int((column.codes > 0).sum()) > len(column.names) - 1


def _metadata_columns(texts: Sequence[str], listed: frozenset[str]) -> dict[str, Column]:
    import orjson

    codes: dict[str, Ints] = {}
    values: dict[str, dict[Any, int]] = {}
    dropped: set[str] = set()
    for row, text in enumerate(texts):
        for key, value in orjson.loads(text).items():
            if key in dropped or value is None or isinstance(value, dict | list):
                continue
            known = values.setdefault(key, {})
            name: Any = as_key(value)
            if name not in known:
                if key not in listed and (len(known) == _MOST_VALUES or len(name) > _LONGEST):
                    dropped.add(key)
                    codes.pop(key, None)
                    continue
                known[name] = len(known) + 1
                if key not in codes:
                    codes[key] = np.zeros(len(texts), dtype=np.int64)
            codes[key][row] = known[name]
    names = {key: ("", *(shown(name) for name in values[key])) for key in codes}
    return {
        key: Column(_smallest(found, len(names[key])), names[key])
        for key, found in codes.items()
        if key in listed or len(names[key]) > 2  # one value divides nothing
    }


def _places(encoded: pa.DictionaryArray) -> Ints:
    """The place of each value in the dictionary, -1 for null."""
    places: Ints = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _smallest(codes: Ints, names: int) -> npt.NDArray[Any]:
    return codes.astype(np.uint8 if names <= 2**8 else np.uint16 if names <= 2**16 else np.uint32)
