"""Rows of one table over all versions, without making any version whole.

Versions share segments, so each segment is looked at once; a version is then a list of segment numbers. A row of the
past is named by its place: its number counted over all segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.manifest.encoding import DELETE
from datasetops.manifest.segment import MAPPED_FROM, Positions, segment_schema
from datasetops.manifest.table import TableState
from datasetops.provenance.columns import ABSENT, Columns
from datasetops.store import Store

Flags: TypeAlias = npt.NDArray[np.bool_]
Test: TypeAlias = Callable[[pa.Table], pa.ChunkedArray]  # rows of a segment → which of them are meant


class TablePast:
    """`states` are those of all versions, in their order; answers about versions have that order."""

    def __init__(self, store: Store, states: Sequence[TableState]) -> None:
        self.name = states[0].name
        self.key = states[0].key
        numbers: dict[str, int] = {}
        self.segments: list[Columns] = []
        self.layers: list[tuple[int, ...]] = []  # of each version, the oldest segment first
        for state in states:
            for segment in state.segments:
                if segment.info.id not in numbers:
                    numbers[segment.info.id] = len(self.segments)
                    self.segments.append(Columns(store, self.name, segment))
            self.layers.append(tuple(numbers[segment.info.id] for segment in state.segments))
        self.starts: Positions = np.cumsum([0, *(len(segment) for segment in self.segments)]).astype(np.int64)

    def live(self, keys: pa.Array) -> Positions:
        """Shape (versions, keys): the place of each key's row in each version, -1 where it has none."""
        held = [self._places(number, keys) for number in range(len(self.segments))]
        found = np.full((len(self.layers), len(keys)), ABSENT, dtype=np.int64)
        for version, layers in enumerate(self.layers):
            for number in layers:
                known, places = held[number]
                found[version][known] = places[known]
        return found

    def _places(self, number: int, keys: pa.Array) -> tuple[Flags, Positions]:
        """(which keys a segment tells of, the places of their rows, -1 where it removes them)."""
        segment = self.segments[number]
        at = segment.lookup(keys)
        told = at >= 0
        places = np.where(told, at + self.starts[number], ABSENT)
        held = np.flatnonzero(told)
        gone = segment.take(at[held], ["_op"])["_op"].to_numpy() == DELETE
        places[held[gone]] = ABSENT
        return told, places

    def rows(self, places: Positions, columns: list[str]) -> pa.Table:
        """Rows by place, in the order asked for."""
        numbers = np.searchsorted(self.starts, places, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        parts = []
        for number in np.unique(numbers):
            mine = places[order][numbers[order] == number] - self.starts[number]
            parts.append(self.segments[number].take(mine, columns))
        schema = pa.schema([segment_schema(self.name).field(name) for name in columns])
        table = pa.concat_tables(parts) if parts else schema.empty_table()
        return table.take(pa.array(np.argsort(order, kind="stable")))

    def flags(self, test: Test, columns: list[str]) -> list[Flags]:
        """For each segment which of its rows fulfil a test; rows that remove never do. A null does not fulfil it."""
        return [_alive(segment, test(segment.table(columns))) for segment in self.segments]

    def keys(self, flags: Sequence[Flags]) -> pa.Array:
        """Keys of the rows that are flagged, each once: those that fulfil a test in one version or more."""
        found = [
            segment.table([self.key])[self.key].filter(pa.array(mine))
            for segment, mine in zip(self.segments, flags, strict=True)
            if mine.any()
        ]
        if not found:
            return pa.array([], pa.string())
        if len(found) == 1:
            return found[0].combine_chunks()
        return pc.unique(pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.string()))

    def among(self, keys: pa.Array) -> list[Flags]:
        """For each segment which of its rows have one of some keys; removals left out."""
        return self.within(self.key, keys)

    def within(self, column: str, values: pa.Array) -> list[Flags]:
        """For each segment in which of its rows a column has one of some values; removals left out.

        The values are looked up once for all small segments, and once for each large one.
        """
        small = [number for number, segment in enumerate(self.segments) if len(segment) < MAPPED_FROM]
        found: dict[int, Flags] = {}
        if small:
            chunks = [chunk for number in small for chunk in self.segments[number].table([column])[column].chunks]
            flags = _plain(pc.is_in(pa.concat_arrays(chunks), value_set=values))
            ends = np.cumsum([len(self.segments[number]) for number in small])
            found = dict(zip(small, np.split(flags, ends[:-1]), strict=True))
        for number, segment in enumerate(self.segments):
            if number not in found:
                found[number] = _plain(pc.is_in(segment.table([column])[column], value_set=values))
        return [_living(segment, found[number]) for number, segment in enumerate(self.segments)]

    def ever(self, flags: Sequence[Flags]) -> list[Flags]:
        """The same and all other rows of the same keys: what was flagged once is followed through all its states."""
        codes = self.codes[0]
        meant = self.in_root(flags) | self.coded(flags)
        found = [meant[codes[number]] if number in codes else mine for number, mine in enumerate(flags)]
        if self.root is not None:
            found[self.root] = flags[self.root] | self.of_root(meant)
        return [_living(segment, mine) for segment, mine in zip(self.segments, found, strict=True)]

    def distinct(self, flags: Sequence[Flags]) -> int:
        """How many keys are flagged."""
        alone = 0 if self.root is None else int(flags[self.root].sum())
        return alone + int((self.coded(flags) & ~self.in_root(flags)).sum())

    def coded(self, flags: Sequence[Flags]) -> Flags:
        """Which of the keys that have a code are flagged in a segment other than the root."""
        codes, names = self.codes
        found = np.zeros(len(names), dtype=bool)
        for number, places in codes.items():
            found[places[flags[number]]] = True
        return found

    def in_root(self, flags: Sequence[Flags]) -> Flags:
        """Which of the keys that have a code are flagged in the root."""
        held = np.zeros(len(self.codes[1]), dtype=bool)
        if self.root is not None:
            codes = self.root_codes[flags[self.root]]
            held[codes[codes >= 0]] = True
        return held

    def of_root(self, held: Flags) -> Flags:
        """Which rows of the root have a key among some that have a code; `held` says which."""
        found: Flags = np.append(held, False)[self.root_codes]
        return found

    @cached_property
    def root_codes(self) -> npt.NDArray[np.int32]:
        """The code of each row of the root, -1 where no other segment names its key. Looked up once for all questions."""
        if self.root is None:
            return np.empty(0, dtype=np.int32)
        names = self.codes[1]
        if not len(names):
            return np.full(len(self.segments[self.root]), ABSENT, dtype=np.int32)
        keys = self.segments[self.root].table([self.key])[self.key]
        found: npt.NDArray[np.int32] = pc.fill_null(pc.index_in(keys, value_set=names), ABSENT).to_numpy()
        return found

    def values(self, flags: Sequence[Flags], column: str) -> pa.Array:
        """The values of a column in flagged rows, each once."""
        found = [
            segment.table([column])[column].filter(pa.array(mine))
            for segment, mine in zip(self.segments, flags, strict=True)
            if mine.any()
        ]
        chunks = [chunk for one in found for chunk in one.chunks]
        return pc.unique(pa.chunked_array(chunks, pa.string())).drop_null()

    def first(self, flags: Sequence[Flags], number: int) -> list[str]:
        """Some of the keys that are flagged, in order."""
        found: set[str] = set()
        for segment, mine in zip(self.segments, flags, strict=True):
            rows = np.flatnonzero(mine)[:number]
            found.update(segment.take(rows, [self.key])[self.key].to_pylist())
        return sorted(found)[:number]

    def count(self, flags: Sequence[Flags]) -> Positions:
        """In each version, how many of its rows are flagged. O(rows of the segments), however many versions there are."""
        codes, names = self.codes
        own = self.in_root(flags)
        alone = 0 if self.root is None else int(flags[self.root].sum()) - int(own.sum())
        found = np.zeros(len(self.layers), dtype=np.int64)
        for version in range(len(self.layers)):
            rooted, changes = self.stack(version)
            state = own.copy() if rooted else np.zeros(len(names), dtype=bool)
            for number in changes:
                state[codes[number]] = flags[number]
            found[version] = int(state.sum()) + (alone if rooted else 0)
        return found

    def stack(self, version: int) -> tuple[bool, tuple[int, ...]]:
        """(whether a version stands on the root, its other segments, the oldest first)."""
        layers = self.layers[version]
        rooted = bool(layers) and layers[0] == self.root
        return rooted, layers[1:] if rooted else layers

    @cached_property
    def root(self) -> int | None:
        """The largest segment that versions stand on. Keys that other segments name have codes; most have none."""
        above = {number for layers in self.layers for number in layers[1:]}
        bases = {layers[0] for layers in self.layers if layers} - above
        return max(bases, key=lambda number: len(self.segments[number]), default=None)

    @cached_property
    def codes(self) -> tuple[dict[int, Positions], pa.Array]:
        """A number for each key that a segment other than the root names: (those of each segment's rows, the keys)."""
        numbers = [number for number in range(len(self.segments)) if number != self.root]
        if not numbers:
            return {}, pa.array([], pa.string())
        chunks = [chunk for number in numbers for chunk in self.segments[number].table([self.key])[self.key].chunks]
        coded = pa.concat_arrays(chunks).dictionary_encode()
        places = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum([len(self.segments[number]) for number in numbers])
        return dict(zip(numbers, np.split(places, ends[:-1]), strict=True)), coded.dictionary

    def alive(self, version: int) -> dict[int, Flags]:
        """Of each segment of a version, by its number, which of its rows stand in that version."""
        codes, names = self.codes
        hidden = np.zeros(len(names), dtype=bool)
        found: dict[int, Flags] = {}
        rooted, changes = self.stack(version)
        for number in changes[::-1]:
            found[number] = _living(self.segments[number], ~hidden[codes[number]])
            hidden[codes[number]] = True
        if rooted and self.root is not None:
            found[self.root] = ~self.of_root(hidden)
        return found

    def near(self, key: str) -> list[str]:
        """Ids beside one that is not there, in order; all that begin with it come first, if there are few."""
        found: set[str] = set()
        for segment in self.segments:
            found.update(segment.near(key))
        begun = sorted(name for name in found if name.startswith(key))
        return begun or sorted(found)


def _alive(segment: Columns, answer: pa.ChunkedArray) -> Flags:
    return _living(segment, _plain(answer))


def _living(segment: Columns, flags: Flags) -> Flags:
    kept: Flags = flags & (segment.table(["_op"])["_op"].to_numpy() != DELETE)
    return kept


def _plain(answer: pa.ChunkedArray | pa.Array) -> Flags:
    flags: Flags = pc.fill_null(answer, False).to_numpy(
        **({} if isinstance(answer, pa.ChunkedArray) else {"zero_copy_only": False})
    )
    return flags
