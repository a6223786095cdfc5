"""How long annotators will take: minutes predicted from the lead times of past answers, and budgets of time.

The mean is predicted, not the median: a batch costs the sum of its items, and slow ones count in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.active_learning.pool import Floats
from datasetops.audits.decisions.decision import MENDS
from datasetops.audits.people.crowd import FEW, answer_field
from datasetops.manifest import Version

_CLASS: Final = "classification"
_FAR: Final = 3.0  # interquartile ranges of the logarithm beyond which a time is "far out" (Tukey 1977)
_LEAST_RANGE: Final = math.log(2)  # taken for that range where it is less: up to 8 x the upper quartile is never cut
_FOLDS: Final = 5
_BETTER: Final = 0.95  # share of the squared error below which regions or classes are held to explain something
_PRIOR: Final = 10.0  # answers of all classes that are added to those of each
_Z: Final = 1.96  # of a 95 % interval
_BUDGET: Final = re.compile(r"(?:(?P<hours>\d+(?:\.\d+)?)h)?(?:(?P<minutes>\d+(?:\.\d+)?)m?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """Past answers (A,): seconds, regions in them, the class ("" where they tell none or several), and who gave them."""

    seconds: Floats
    regions: Floats
    label: npt.NDArray[Any]
    actor: npt.NDArray[Any]


@dataclass(frozen=True)
class Pace:
    """Seconds an answer takes: `mean` where nothing else is known, otherwise by regions or by class.

    `line` is (seconds of its own, seconds a region), `classes` the mean of each class; one of them at most is set.
    `spread` is the standard deviation of an answer's time over what is foretold, `error` the standard error of its mean.
    """

    mean: float
    least: float
    spread: float = 0.0
    error: float = 0.0
    line: tuple[float, float] | None = None
    classes: pd.Series[float] | None = None

    def seconds(self, regions: Floats, label: npt.NDArray[Any]) -> Floats:
        """(n,) of items with so many regions (NaN: unknown) and of these classes ("": unknown)."""
        found: Any = np.full(len(regions), self.mean)
        if self.line is not None:
            found = np.where(np.isnan(regions), self.mean, self.line[0] + self.line[1] * regions)
        if self.classes is not None:
            found = self.classes.reindex(label).fillna(self.mean).to_numpy(np.float64)
        result: Floats = np.maximum(found, self.least)
        return result


@dataclass(frozen=True)
class Minutes:
    """`each` (n,) minutes that an answer to each item takes, None where too little is known; `reason` says why, or how."""

    each: Floats | None
    reason: str
    spread: float = 0.0
    error: float = 0.0

    def total(self, each: Floats) -> tuple[float, float, float]:
        """Minutes of a batch of items that take these, and a 95 % interval.

        It holds the chance of single items and that of the past mean, by the annotators who gave it; not that others
        or more practised ones may label this time. It is normal, so rough for a handful of items.
        """
        total = float(each.sum())
        half = _Z * math.hypot(self.spread * float(np.sqrt((each**2).sum())), self.error * total)
        return total, max(0.0, total - half), total + half


def predict_minutes(version: Version, samples: Iterable[str], chances: npt.NDArray[Any] | None = None) -> Minutes:
    """For samples (n,) of a version, from the answers in it and from what is known of these samples: what is marked in
    them, or the probabilities `chances` (n, K) of the schema's classes, NaN where they are not known.

    Where classes differ in pace, an item of unsure class is expected to take their mean by its probabilities. One
    answer each: multiply where several annotators see an item. Nothing is predicted from fewer than 20 timed answers.
    Answers without any region left no row, so that images with nothing in them are not among the past ones.
    """
    pace, reason = learn_pace(past_answers(version))
    if pace is None:
        return Minutes(None, reason)
    each = pace.seconds(*_marked(version, samples))
    if chances is not None and pace.classes is not None:
        of_class = pace.seconds(np.full(chances.shape[1], np.nan), np.array(version.schema.class_names, dtype=object))
        each = np.where(np.isfinite(chances).all(axis=1), chances @ of_class, each)
    return Minutes(each / 60, reason, pace.spread, pace.error)


def past_answers(version: Version) -> Answers:
    """All timed answers of people in a version, without the mends of a review."""
    rows = _timed(version)
    rows["class"] = rows["label"].where(rows["kind"] == _CLASS)
    rows["region"] = (rows["kind"] != _CLASS).astype(np.float64)
    rows["actor"] = rows["actor"].fillna("")
    one = rows.groupby(["sample_id", "actor", "name"], sort=True)
    found = one.agg({"seconds": "first", "region": "sum", "class": ["first", "nunique"]})
    label = found["class", "first"].where(found["class", "nunique"] == 1, "")
    return Answers(
        found["seconds", "first"].to_numpy(np.float64),
        found["region", "sum"].to_numpy(np.float64),
        label.to_numpy(object),
        found.index.get_level_values("actor").to_numpy(object),
    )


def learn_pace(answers: Answers) -> tuple[Pace | None, str]:
    """The pace of past answers and a sentence about it, or None and why.

    Answers that were left open are left out. Regions or classes count where five-fold cross-validation shows that they
    explain at least a twentieth of what is left.
    """
    given = len(answers.seconds)
    if given < FEW:
        return None, f"{given:,} past answers tell how long they took, and {FEW} are needed."
    kept = ~left_open(answers.seconds)
    past = Answers(*(part[kept] for part in (answers.seconds, answers.regions, answers.label, answers.actor)))
    paces = {how: _fit(past, how) for how in ("", "regions", "class")}
    fold = np.arange(len(past.seconds)) % _FOLDS
    wrong = {how: _cross_validated(past, how, fold) for how in paces}
    best = min(wrong, key=wrong.__getitem__)
    if wrong[best] > _BETTER * wrong[""]:
        best = ""
    ratio = past.seconds / paces[best].seconds(past.regions, past.label)
    pace = Pace(
        **(vars(paces[best]) | {"spread": float(ratio.std(ddof=1)), "error": _error_of_mean(ratio, past.actor)})
    )
    told = f"{len(past.seconds):,} past answers took {pace.mean:.1f} s on average"
    if best:
        told += ", by class" if best == "class" else f", and {pace.line[1] if pace.line else 0:.1f} s more a region"
    if given > len(past.seconds):
        told += f"; {given - len(past.seconds):,} that were left open are left out"
    return pace, told + "."


def left_open(seconds: Floats) -> npt.NDArray[np.bool_]:
    """Which of the times (A,), above 0, no one worked for: a task was open and nobody at it.

    Those beyond Tukey's outer fence of the logarithms, and never below eight times the upper quartile.
    """
    if not len(seconds):
        return np.zeros(0, bool)
    logs = np.log(seconds)
    low, high = np.quantile(logs, (0.25, 0.75))
    far: npt.NDArray[np.bool_] = logs > high + _FAR * max(high - low, _LEAST_RANGE)
    return far


def minutes_spent(version: Version, owner: Mapping[str, int], count: int) -> list[tuple[float | None, int]]:
    """Of each of `count` owners of samples: minutes that annotators took, each answer once, None where no answer tells;
    and how many answers are not in it because they were left open."""
    rows = _timed(version).drop_duplicates(["sample_id", "name"])
    rows = rows.assign(owner=rows["sample_id"].map(owner), open=left_open(rows["seconds"].to_numpy(np.float64)))
    spent = rows[~rows["open"]].groupby("owner")["seconds"].sum() / 60
    idle = rows[rows["open"]].groupby("owner").size()
    return [
        (round(float(spent[number]), 2) if number in spent else None, int(idle.get(number, 0)))
        for number in range(count)
    ]


def fill_budget(minutes: npt.ArrayLike, budget: float) -> int:
    """How many of the items, in this order and without a gap, fit into a budget of minutes."""
    each = np.asarray(minutes, np.float64)
    if not (np.isfinite(each).all() and (each >= 0).all()):
        raise ValueError("minutes: expected numbers from 0 on, one an item")
    return int(np.searchsorted(np.cumsum(each), budget * (1 + 1e-12), side="right"))


def parse_budget(text: str) -> float:
    """Minutes in 8h, 90m, 1h30m or 480. Raises ValueError that names the option."""
    found = _BUDGET.fullmatch(text.strip())
    parts = {name: float(value) for name, value in found.groupdict().items() if value} if found else {}
    minutes = 60 * parts.get("hours", 0.0) + parts.get("minutes", 0.0)
    if not minutes > 0:
        raise ValueError(f"--budget: expected hours or minutes above zero, such as 8h, 90m or 480; got {text!r}")
    return minutes


def _timed(version: Version) -> pd.DataFrame:
    """Rows of people's answers that tell how long they took: sample_id, kind, label, actor, name of the answer, seconds."""
    table = version.table("annotations", ["sample_id", "kind", "label", "source", "actor", "answer"])
    table = table.filter(pc.and_(pc.equal(table["source"], "human"), pc.is_valid(table["answer"])))
    rows = table.to_pandas()
    rows["seconds"] = pd.to_numeric(answer_field(rows["answer"], "lead_time"), errors="coerce")
    rows["name"] = answer_field(rows["answer"], "answer_id")
    timed = (rows["seconds"] > 0) & np.isfinite(rows["seconds"]) & ~answer_field(rows["answer"], "tool").isin(MENDS)
    found: pd.DataFrame = rows[timed].copy()
    return found


def _marked(version: Version, samples: Iterable[str]) -> tuple[Floats, npt.NDArray[Any]]:
    """Of each sample how many regions are marked in it (NaN: none) and its class ("": none or several)."""
    ids = pa.array(samples, pa.string())
    rows = version.labels(["sample_id", "kind", "label"])
    at = pc.index_in(pa.concat_arrays(rows["sample_id"].chunks), ids) if len(rows) else pa.array([], pa.int32())
    frame = rows.select(["kind", "label"]).to_pandas()
    frame["at"] = at.to_numpy(zero_copy_only=False)
    frame = frame[frame["at"].notna()]
    where = frame["at"].to_numpy(np.int64)
    is_class = (frame["kind"] == _CLASS).to_numpy(bool)
    regions = np.bincount(where[~is_class], minlength=len(ids)).astype(np.float64)
    label = np.full(len(ids), "", dtype=object)
    alone = is_class & (np.bincount(where[is_class], minlength=len(ids))[where] == 1)
    label[where[alone]] = frame["label"].to_numpy(object)[alone]
    return np.where(regions > 0, regions, np.nan), label


def _fit(past: Answers, how: str) -> Pace:
    mean, least = float(past.seconds.mean()), float(past.seconds.min())
    if how == "regions":
        offset = past.regions - past.regions.mean()
        each = max(0.0, float(offset @ past.seconds / max(float(offset @ offset), 1e-12)))
        return Pace(mean, least, line=(mean - each * float(past.regions.mean()), each))
    if how == "class":
        told = pd.Series(past.seconds).groupby(past.label).agg(["sum", "count"]).drop("", errors="ignore")
        return Pace(mean, least, classes=(told["sum"] + _PRIOR * mean) / (told["count"] + _PRIOR))
    return Pace(mean, least)


def _cross_validated(past: Answers, how: str, fold: npt.NDArray[Any]) -> float:
    wrong = 0.0
    for one in range(_FOLDS):
        inside, parts = fold != one, (past.seconds, past.regions, past.label, past.actor)
        pace = _fit(Answers(*(part[inside] for part in parts)), how)
        wrong += float(((past.seconds - pace.seconds(past.regions, past.label))[~inside] ** 2).sum())
    return wrong


def _error_of_mean(ratio: Floats, actor: npt.NDArray[Any]) -> float:
    """The larger of the standard errors with answers and with annotators as the units that vary."""
    n, off = len(ratio), ratio - ratio.mean()
    who = pd.factorize(actor)[0]
    people = int(who.max()) + 1
    alone = float(off.var(ddof=1) / n)
    together = float((np.bincount(who, off) ** 2).sum()) / n**2 * people / max(people - 1, 1)
    return math.sqrt(max(alone, together))
