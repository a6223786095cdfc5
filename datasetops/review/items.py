"""The findings about samples as arrays in the order of review."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import Decision
from datasetops.errors import NotFoundError
from datasetops.manifest import Version
from datasetops.records import SAMPLES
from datasetops.review.columns import Column, slice_columns
from datasetops.review.order import Cells, best_first, by_lot, id_numbers, with_lot
from datasetops.review.remaining import Lot
from datasetops.review.texts import cut

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.uint64]
Ints: TypeAlias = npt.NDArray[np.int64]
States: TypeAlias = npt.NDArray[np.int8]

UNSEEN, UNSURE, FINE, ERROR = 0, 1, 2, 3  # what the decisions on a finding come to
_MOST_RELATED: Final = 1_000  # other samples that are told, the first by id
FIELDS: Final = ("check", "severity", "given", "suggested", "split", "annotator")


def verdict_of(made: Sequence[Decision]) -> int:
    """What the standing decisions on a finding come to: the newest that is not unsure counts."""
    settled = [item for item in made if item.verdict != "unsure"]
    if not settled:
        return UNSURE if made else UNSEEN
    return ERROR if max(settled, key=lambda item: item.time).verdict == "error" else FINE


class Places:
    """Where a finding is, by its id."""

    def __init__(self, ids: Ids) -> None:
        """`ids` (N,), all different; the place of a finding is its index."""
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]

    def find(self, finding_id: str) -> int | None:
        if re.fullmatch(r"[0-9a-f]{16}", finding_id):
            number = np.uint64(int(finding_id, 16))
            at = int(np.searchsorted(self._sorted, number))
            if at < len(self._sorted) and self._sorted[at] == number:
                return int(self._order[at])
        return None


@dataclass(frozen=True)
class Items:
    """All arrays are by rank, the place in the order of review; `rows` is the place of each in `findings`."""

    version: Version
    findings: pa.Table  # columns of records.FINDINGS, without findings about no sample
    rows: Ints
    ids: Ids
    scores: Floats
    lot: Ids  # by which findings are drawn
    at_random: Bools
    cells: Cells
    columns: dict[str, Column]  # of FIELDS and sample_id
    slices: dict[str, Column]

    @classmethod
    def of(cls, version: Version, findings: pa.Table, made: Mapping[str, Sequence[Decision]]) -> Items:
        """Undecided ones best first and by lot, then those that somebody was unsure about, then decided ones.

        `made`: the standing decisions on each finding.
        """
        items = findings.filter(pc.is_valid(findings["sample_id"])) if findings["sample_id"].null_count else findings
        items = items.combine_chunks()
        ids = id_numbers(items["finding_id"].combine_chunks())
        once = np.sort(np.unique(ids, return_index=True)[1])
        if len(once) < len(ids):  # the same suspicion told twice is one item
            items, ids = items.take(pa.array(once)), ids[once]
        places, state = Places(ids), np.zeros(len(ids), dtype=np.int8)
        for name, several in made.items():
            if (at := places.find(name)) is not None:
                state[at] = verdict_of(several)
        decisions = [item for several in made.values() for item in several]
        cells = Cells.of(Column.of(items["check"]), Column.of(items["severity"]))
        scores, lot = items["score"].to_numpy(), by_lot(ids)
        best, drawn = best_first(cells, scores, ids, decisions), np.argsort(lot, kind="stable")
        order, at_random = with_lot(best[state[best] == UNSEEN], drawn[state[drawn] == UNSEEN])
        rest = best[state[best] != UNSEEN]
        rest = rest[np.argsort(state[rest] >= FINE, kind="stable")]
        rows = np.concatenate([order, rest])
        columns = {
            name: Column.of(items[name]).take(rows) for name in ("sample_id", *FIELDS) if name in items.column_names
        }
        return cls(
            version,
            items,
            rows,
            ids[rows],
            scores[rows],
            lot[rows],
            np.concatenate([at_random, np.zeros(len(rest), dtype=bool)]),
            Cells(cells.codes[rows], cells.names),
            columns | {"annotator": _annotators(version, items["annotation_id"].combine_chunks()).take(rows)},
            _slices(version, columns["sample_id"]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def places(self) -> Places:
        return Places(self.ids)

    def rank(self, finding_id: str) -> int:
        """Raises NotFoundError."""
        rank = self.places.find(finding_id)
        if rank is None:
            raise NotFoundError(
                f"{self.version.name} has no finding {finding_id[:50]!r} about a sample.",
                remedy=f"dsops findings {self.version.name} lists findings, each with its id.",
            )
        return rank

    def finding_id(self, rank: int) -> str:
        return f"{int(self.ids[rank]):016x}"

    def sample_code(self, sample_id: str) -> int | None:
        """The code of a sample in its column."""
        return self._sample_codes.get(sample_id)

    def of_sample(self, sample_id: str) -> Ints:
        """Ranks of all findings of a sample."""
        code = self.sample_code(sample_id)
        order, starts = self._by_sample
        return order[starts[code] : starts[code + 1]] if code is not None else order[:0]

    def compared(self, rank: int) -> tuple[int, int]:
        """(how many findings of its check look worse than a finding, how many there are beside it)."""
        codes = self.columns["check"].codes
        same = codes == codes[rank]
        return int((self.scores[same] < self.scores[rank]).sum()), int(same.sum()) - 1

    def told(self, ranks: Ints) -> list[dict[str, Any]]:
        """Rows with the columns of records.FINDINGS (related and box as lists), rank and at_random."""
        found = self.findings.take(pa.array(self.rows[ranks])).to_pylist()
        return [
            row
            | {name: cut(row[name]) for name in ("message", "given", "suggested") if row[name]}
            | {"related": _few(json.loads(row["related"] or "[]"))}
            | {"box": json.loads(row["box"]) if row["box"] else None}
            | {"rank": rank, "at_random": bool(self.at_random[rank])}
            for row, rank in zip(found, ranks.tolist(), strict=True)
        ]

    def containing(self, text: str) -> Bools:
        """Those with a text in sample id, uri, finding id or message, whatever its case."""
        found = np.zeros(len(self), dtype=bool)
        for name in ("uri", "finding_id", "message"):
            found |= _bools(pc.match_substring(self.findings[name], text, ignore_case=True))
        samples = self.columns["sample_id"]
        of_sample = _bools(pc.match_substring(pa.array(samples.names, pa.string()), text, ignore_case=True))
        result: Bools = found[self.rows] | of_sample[samples.codes]
        return result

    @cached_property
    def in_lot(self) -> Lot:
        """Where findings stand among those of their check and severity, and by lot."""
        sizes = np.bincount(self.cells.codes, minlength=len(self.cells.names))
        return Lot(self.cells.codes, sizes, self.scores, self.ids, self.lot)

    @cached_property
    def _sample_codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.columns["sample_id"].names) if code}

    @cached_property
    def _by_sample(self) -> tuple[Ints, Ints]:
        """(ranks by sample, where each sample's begin)."""
        column = self.columns["sample_id"]
        counts = np.bincount(column.codes, minlength=len(column.names))
        return np.argsort(column.codes, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


def _few(related: list[str]) -> list[str]:
    return related if len(related) <= _MOST_RELATED else sorted(related)[:_MOST_RELATED]


def _annotators(version: Version, annotation_ids: pa.Array) -> Column:
    """Who made the annotation that each finding is about."""
    owners = version.table("annotations", ["annotation_id", "actor"])
    owners = owners.filter(pc.is_in(owners["annotation_id"], annotation_ids.unique()))
    places = pc.fill_null(pc.index_in(annotation_ids, owners["annotation_id"].combine_chunks(), skip_nulls=True), -1)
    return Column.of(owners["actor"]).take(places.to_numpy(zero_copy_only=False).astype(np.int64))


def _slices(version: Version, samples: Column) -> dict[str, Column]:
    """Slice values of each finding's sample."""
    keys = list(dict.fromkeys(item.key for item in version.schema.slices))
    names = pa.array(samples.names, pa.string())
    wanted = list(dict.fromkeys(["sample_id", "metadata", *(key for key in keys if key in SAMPLES.names)]))
    table = version.table("samples", wanted)
    table = table.filter(pc.is_in(table["sample_id"], names))
    places = pc.fill_null(pc.index_in(names, table["sample_id"].combine_chunks()), -1)
    rows = places.to_numpy(zero_copy_only=False).astype(np.int64)[samples.codes]
    return {key: column.take(rows) for key, column in slice_columns(table, keys).items()}


def _bools(found: pa.ChunkedArray | pa.Array) -> Bools:
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)
