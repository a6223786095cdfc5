"""Doubts about annotations, gathered into one finding for each annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.samplewise import SampleFindings, texts
from datasetops.records import SEVERITIES, Finding

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_CROWD: Final = r'"iscrowd":(?:1|true)\b'
_HABIT: Final = 0.1  # share of the rows, as long as there are more than a few
_FEW: Final = 5
_SENTENCES: Final = 4  # a finding tells at most so many doubts


@dataclass(frozen=True)
class Doubt:
    """What is wrong with those of all rows that are `doubtful` (N,); `severity` and `score` in [0, 1] of all or each (N,).

    `message` makes a sentence from a row's number, `suggested` what should stand there instead, `box` where it should be
    (xyxy pixels). `kind` is a word or two
    that the summary counts it by. Where over a tenth of the rows `among` (N,), or of those of one of the `groups` (N,),
    are doubtful, that is how they are made, and is not told of each of them; without `among` it is.
    """

    kind: str
    doubtful: Bools
    severity: str | npt.NDArray[np.str_]
    score: Floats | float
    message: Callable[[int], str]
    suggested: Callable[[int], str] | None = None
    box: Callable[[int], tuple[float, float, float, float]] | None = None
    among: Bools | None = None
    groups: Ints | None = None

    def habitual(self) -> Bools:
        """Which rows (N,) are doubtful as many others are."""
        if self.among is None:
            return np.zeros_like(self.doubtful)
        habit = np.zeros_like(self.doubtful)
        for groups in (np.zeros(len(habit), np.int64), self.groups):
            if groups is not None:
                size = int(groups.max(initial=0)) + 1
                found, all_of = (np.bincount(groups[rows], minlength=size) for rows in (self.doubtful, self.among))
                habit |= self.doubtful & (found > np.maximum(_FEW, _HABIT * all_of))[groups]
        return habit


@dataclass
class RowFindings:
    """All doubts about the rows of one check, at most one finding a row: the gravest severity, the lowest score."""

    check: str
    samples: pd.DataFrame
    rows: pd.DataFrame
    given: str = "label"  # the column that a suggestion is about
    counts: dict[str, int] = field(default_factory=dict)  # doubts told, by kind
    habits: dict[str, str] = field(default_factory=dict)  # and those that were not, since many rows have them

    def __post_init__(self) -> None:
        self.score: Floats = np.ones(len(self.rows))
        self._told: dict[int, list[tuple[int, str]]] = {}
        self._suggested: dict[int, str] = {}
        self._box: dict[int, tuple[float, float, float, float]] = {}

    def add(self, doubts: Iterable[Doubt]) -> None:
        for doubt in doubts:
            habitual = doubt.habitual()
            if doubt.among is not None and habitual.any():
                self.habits[doubt.kind] = f"{int(habitual.sum()):,} of {int(doubt.among.sum()):,}: how they are made"
            at = np.flatnonzero(doubt.doubtful & ~habitual)
            if len(at):
                self.counts[doubt.kind] = self.counts.get(doubt.kind, 0) + len(at)
            score = np.broadcast_to(np.asarray(doubt.score, np.float64), self.score.shape)[at]
            self.score[at] = np.minimum(self.score[at], np.clip(score, 0, 1))
            severity = np.broadcast_to(np.asarray(doubt.severity), self.score.shape)
            for row in at.tolist():
                self._told.setdefault(row, []).append((SEVERITIES.index(severity[row]), doubt.message(row)))
                if doubt.suggested is not None:
                    self._suggested[row] = doubt.suggested(row)
                if doubt.box is not None:
                    self._box[row] = doubt.box(row)

    def summary(self) -> dict[str, Any]:
        return {"doubts": self.counts} | ({"not told": self.habits} if self.habits else {})

    def findings(self) -> list[Finding]:
        about = SampleFindings(self.check, self.samples)
        owner = pd.Index(self.samples["sample_id"]).get_indexer(pd.Index(self.rows["sample_id"]))
        ids, given = texts(self.rows["annotation_id"]), texts(self.rows[self.given])
        return [
            about.at(
                int(owner[row]),
                SEVERITIES[max(gravity for gravity, _ in told)],
                float(self.score[row]),
                _sentence([message for _, message in sorted(told, key=lambda one: -one[0])]),
                annotation_id=ids[row],
                given=given[row],
                suggested=self._suggested.get(row),
                box=self._box.get(row),
            )
            for row, told in sorted(self._told.items())
        ]

    def scores(self) -> pd.DataFrame:
        return pd.DataFrame(
            {"sample_id": self.rows["sample_id"], "annotation_id": self.rows["annotation_id"], "score": self.score}
        )


def graded(values: Floats, medium: float, high: float) -> npt.NDArray[np.str_]:
    """Severities (N,): low below `medium`, high from `high` on."""
    return np.where(values >= high, "high", np.where(values >= medium, "medium", "low"))


def _sentence(messages: list[str]) -> str:
    more = [f"and {len(messages) - _SENTENCES} more"] if len(messages) > _SENTENCES else []
    return "; ".join([*messages[:_SENTENCES], *more])


def with_sizes(rows: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Annotations, numbered from 0, with `width` and `height` of their image."""
    owner = pd.Index(samples["sample_id"]).get_indexer(pd.Index(rows["sample_id"]))
    sides = {side: samples[side].to_numpy(dtype=np.float64)[owner] for side in ("width", "height")}
    return rows.reset_index(drop=True).assign(**sides)


def is_crowd(rows: pd.DataFrame) -> Bools:
    """Which rows (N,) are marked with COCO's `iscrowd`: rough areas of many things."""
    found = rows["attributes"].str.contains(_CROWD, regex=True, na=False)
    return found.to_numpy(dtype=np.bool_)


def by_class(labels: pd.Series[Any], fewest: int) -> Ints:
    """A number for each row's class (N,); classes with fewer rows than `fewest` share one."""
    codes, _ = pd.factorize(labels)
    codes = codes.astype(np.int64) + 1
    sizes = np.bincount(codes)
    return np.where(sizes[codes] >= fewest, codes, 0)


def deviations(values: Floats, groups: Ints, *, fewest: int, floor: float) -> Floats:
    """How many robust deviations each value (N,) lies from its group's median; below it, of the lower half alone.

    NaN for values that are NaN, and 0 in groups of fewer than `fewest`. The deviation is at least `floor`.
    """
    result = np.where(np.isnan(values), np.nan, 0.0)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(groups[known], kind="stable")]
    heads = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for rows in np.split(order, heads[1:]):
        if len(rows) < max(fewest, 1):
            continue
        off = values[rows] - np.median(values[rows])
        for side in (off < 0, off > 0):
            if side.any():
                result[rows[side]] = off[side] / max(float(np.median(np.abs(off[side]))) / 0.6745, floor)
    return result


def box_iou(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) xyxy, row by row; 0 where that is not defined."""
    with np.errstate(invalid="ignore"):
        sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
        common = np.clip(sides, 0, None).prod(axis=1)
        areas = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (one, other)]
        union = areas[0] + areas[1] - common
    alike: Floats = np.divide(common, union, out=np.zeros(len(one)), where=union > 0)
    return alike
