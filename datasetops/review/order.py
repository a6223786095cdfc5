"""The order in which to review findings: most errors a minute first, and one place in ten by lot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasetops.audits.decisions import Decision
from datasetops.audits.worklist import error_chance, review_seconds
from datasetops.errors import DamagedError
from datasetops.review.columns import Column

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ids: TypeAlias = npt.NDArray[np.uint64]

EVERY: Final = 10  # places of which the last is given by lot: a tenth of the time pays for an estimate of what is left


def id_numbers(finding_ids: pa.Array) -> Ids:
    """Finding ids (16 hex digits) as numbers of the same order. Raises DamagedError for any other."""
    texts = finding_ids.to_pylist()
    try:
        if any(len(text) != 16 for text in texts):
            raise ValueError
        return np.frombuffer(bytes.fromhex("".join(texts)), dtype=">u8").astype(np.uint64)
    except (ValueError, TypeError):
        raise DamagedError(
            "A finding of the audit has no id of 16 hex digits.", remedy="Run the audit again, with --again."
        ) from None


def by_lot(numbers: Ids) -> Ids:
    """Numbers that put findings in an order that depends on nothing but their ids.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that this order has nothing to do with that of
    the ids themselves, which breaks ties elsewhere.
    """
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Cells:
    """Each finding's check and severity: `codes` (N,) into `names`."""

    codes: Ints
    names: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, check: Column, severity: Column) -> Cells:
        """Raises nothing: every finding has both."""
        width = len(severity.names)
        found, codes = np.unique(check.codes.astype(np.int64) * width + severity.codes, return_inverse=True)
        names = tuple((check.names[cell // width], severity.names[cell % width]) for cell in found.tolist())
        return cls(codes, names)


def best_first(cells: Cells, scores: npt.NDArray[np.float64], ids: Ids, decisions: Sequence[Decision]) -> Ints:
    """Row numbers by expected true errors a minute, then score, then id: the order of audits.worklist."""
    chance, seconds = error_chance(decisions), review_seconds(decisions)
    worth = np.array([round(chance(*cell) / seconds(cell[0]), 9) for cell in cells.names])
    return np.lexsort((ids, scores, -worth[cells.codes])) if len(ids) else np.empty(0, dtype=np.int64)


def with_lot(best: Ints, lot: Ints) -> tuple[Ints, Bools]:
    """(rows in the order of review, whether each stands there by lot).

    `best` and `lot` are the same rows in two orders. Every tenth place takes the first of `lot` that has none yet, so
    that at any point those drawn by lot are a simple random sample of all that do not stand there as the worst.
    """
    placed = bytearray(int(best.max(initial=-1)) + 1)
    worst, drawn = iter(best.tolist()), iter(lot.tolist())
    order = np.empty(len(best), dtype=np.int64)
    for place in range(len(best)):
        source = drawn if place % EVERY == EVERY - 1 else worst
        row = next(source)
        while placed[row]:
            row = next(source)
        placed[row] = 1
        order[place] = row
    return order, np.arange(len(best)) % EVERY == EVERY - 1
