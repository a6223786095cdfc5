"""How the use of a class, and the size of its boxes, changed over time, between batches and between annotators.

What counts is an answer, all that one annotator said of one image, and whether it holds a class: boxes of one image are
no independent witnesses. An answer without any annotation leaves no row and is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.people.crowd import FEW, answered_rows, class_codes
from datasetops.audits.sets.multiple_tests import holm
from datasetops.records import KINDS, Finding

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_ERROR_RATE: Final = 0.05  # chance of naming any shift wrongly, over all that are tested
_SMALL: Final = (
    0.2  # difference of two shares' arcsines that is called small; less is a trifle: Cohen (1988), chapter 6
)
_TIGHTER: Final = 1.2  # ratio of areas or aspects: about a tenth of each side
_LONG: Final = 50  # answers on either side of a change in time
_EXACT: Final = 5.0  # variance of a count below which a Poisson tail, which is never too small, replaces the normal
_SORTED: Final = (
    0.5  # share of what is possible by which answers in a row are of one class: then the images were sorted
)
_CROWD: Final = 20  # groups, with more of which one far off moves the others' mean by less than a twentieth
_NAMED: Final = 3  # classes that one sentence names
_SHOWN: Final = 20


class GuidelineDrift:
    name = "guideline_drift"
    title = "classes that are used, or boxes that are drawn, otherwise over time, by batch or by annotator"
    needs = "annotations of known annotators"
    cost = "grows with the annotations; about ten seconds for a million"

    def run(self, context: AuditContext) -> CheckResult:
        names = list(context.schema.class_names)
        rows = answered_rows(context, *KINDS)
        rows = rows[rows["label"].isin(names)]
        if not len(rows):
            return skipped("no annotation tells which person made it")
        rows = rows.assign(voice=np.unique(rows["voice"], return_inverse=True)[1])  # without gaps
        use = class_use(rows, names)
        medians = median_sizes(rows, names)
        reasons = {
            "annotators": "there is one annotator" if len(use.actors) < 2 else "",
            "batches": "there are fewer than two batches" if len(use.batches) < 2 else "",
            "time": "",
        }
        if len(np.unique(use.time[np.isfinite(use.time)])) < 2:
            reasons["time"] = "all answers are of one instant, or only an ingest tells their time"
        elif comes_sorted(use):
            reasons["time"] = "answers in a row are mostly of one class: the images came sorted"
        passed_over = "; ".join(f"{what}: {why}" for what, why in reasons.items() if why)
        if all(reasons.values()):
            return skipped(passed_over)
        people = _Groups(True, use.who, use.batch, use.actors, use)
        batches = _Groups(False, use.batch, np.zeros_like(use.batch), use.batches, use)
        findings: list[Finding] = []
        charts = []
        for groups, reason in ((people, reasons["annotators"]), (batches, reasons["batches"])):
            if not reason:
                findings += _apart(groups.codes, groups.shares)
                findings += _apart(groups.codes[medians["answer"]], partial(groups.sizes, medians))
                charts += groups.chart()
        if not reasons["time"]:
            findings += _over_time(use)
        summary: dict[str, Any] = {
            "answers": len(use.who),
            "annotators": len(use.actors),
            "batches": len(use.batches),
            "not judged": passed_over or "nothing",
            "charts": charts,
        }
        return CheckResult(findings, summary=summary)


@dataclass(frozen=True)
class Use:
    """Answers (N,) and what they hold.

    `time` in seconds, NaN where only an ingest tells it; `who` and `batch` are codes, −1 for no batch. `answer` and
    `label` (P,) are the pairs of an answer and a class that it holds, each once.
    """

    time: Floats
    who: Ints
    batch: Ints
    actors: list[str]
    batches: list[str]
    answer: Ints
    label: Ints
    names: list[str]


def class_use(rows: pd.DataFrame, names: list[str]) -> Use:
    """From `answered_rows` whose labels are among `names`, `voice` without gaps."""
    who, actors = pd.factorize(rows["actor"], sort=True)
    batches = sorted(set(rows["batch"]) - {""})
    answer: npt.NDArray[Any] = rows["voice"].to_numpy(np.int64)
    own = (rows["source"] == "human").to_numpy()
    moment = rows["created_at"].astype("datetime64[us, UTC]").dt.tz_localize(None).to_numpy("datetime64[us]")
    seconds = np.where(np.isnat(moment) | ~own, np.nan, moment.astype(np.int64) / 1e6)
    n = int(answer.max()) + 1
    time = np.full(n, -np.inf)
    np.fmax.at(time, answer, seconds)
    time[np.isneginf(time)] = np.nan
    people, batch = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    people[answer] = who
    batch[answer] = class_codes(rows["batch"], batches)
    cells = np.unique(answer * len(names) + class_codes(rows["label"], names))
    return Use(time, people, batch, list(actors), batches, cells // len(names), cells % len(names), names)


def median_sizes(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Rows `answer`, `label`, `area`, `aspect`: logarithms, the median of an answer's boxes of a class."""
    sides = rows["x2"] - rows["x1"], rows["y2"] - rows["y1"]
    drawn = ((sides[0] > 0) & (sides[1] > 0)).to_numpy()
    width, height = (np.log(side[drawn].to_numpy(np.float64)) for side in sides)
    boxes = pd.DataFrame({"answer": rows["voice"].to_numpy()[drawn], "label": class_codes(rows["label"][drawn], names)})
    boxes = boxes.assign(area=width + height, aspect=width - height)
    return boxes.groupby(["answer", "label"]).median().reset_index()


def share_shifts(use: Use, group: Ints, stratum: Ints) -> pd.DataFrame:
    """How often each group's answers hold each class, against the other answers of the same strata.

    group, stratum (N,); −1 for no group. Rows `group`, `label`, `n` answers in strata that others share, `share` of
    them, `others` the share that others would have there, `h` the difference of the two's arcsines, `p` by Mantel and
    Haenszel (JNCI 22, 1959) with the continuity correction, corrected by Holm. Groups of fewer than 20 are left out.
    """
    from scipy.stats import norm, poisson

    sizes = pd.DataFrame({"group": group, "stratum": stratum})[group >= 0].value_counts().rename("n").reset_index()
    sizes["size"] = sizes.groupby("stratum")["n"].transform("sum")
    held = pd.DataFrame({"group": group[use.answer], "stratum": stratum[use.answer], "label": use.label})
    held = held[held["group"] >= 0].value_counts().rename("held").reset_index()
    total = held.groupby(["stratum", "label"])["held"].sum().rename("total").reset_index()
    cells = sizes[sizes["size"] > sizes["n"]].merge(total, on="stratum")
    cells = cells.merge(held, on=["group", "stratum", "label"], how="left").fillna({"held": 0})
    n, size, all_held = (cells[name].astype(np.float64) for name in ("n", "size", "total"))
    cells["expected"] = n * all_held / size
    cells["variance"] = n * (size - n) * all_held * (size - all_held) / (size**2 * (size - 1).clip(1))
    cells["elsewhere"] = n * (all_held - cells["held"]) / (size - n)
    table = cells.groupby(["group", "label"])[["held", "expected", "variance", "elsewhere"]].sum().reset_index()
    # Strata in which nobody uses a class count for its share too.
    table["n"] = table["group"].map(sizes[sizes["size"] > sizes["n"]].groupby("group")["n"].sum())
    table = table[table["n"] >= FEW].reset_index(drop=True)
    table["share"], table["others"] = table["held"] / table["n"], (table["elsewhere"] / table["n"]).clip(0, 1)
    table["h"] = 2 * (np.arcsin(np.sqrt(table["share"])) - np.arcsin(np.sqrt(table["others"])))
    rare = table["expected"] <= table["n"] / 2
    seen = np.where(rare, table["held"], table["n"] - table["held"])
    wanted = np.where(rare, table["expected"], table["n"] - table["expected"])
    tail = 2 * np.minimum(poisson.sf(seen - 1, wanted), poisson.cdf(seen, wanted))
    z = (np.abs(seen - wanted) - 0.5).clip(0) / np.sqrt(table["variance"].clip(lower=1e-12))
    table["p"] = holm(np.where(table["variance"] >= _EXACT, 2 * norm.sf(z), np.minimum(1, tail)))
    return table[["group", "label", "n", "share", "others", "h", "p"]]


def size_shifts(values: Floats, label: Ints, group: Ints, stratum: Ints) -> pd.DataFrame:
    """Whether a group's values of a class lie above or below the others' in the same strata.

    values, label, group, stratum (N,); −1 for no group. Rows `group`, `label`, `n`, `far` (the median distance from the
    stratum's median), `p` of the rank test of van Elteren (1960), which is Mann and Whitney's in one stratum, not
    corrected for many tests. Groups of fewer than 20 are left out.
    """
    from scipy.stats import norm, rankdata

    some = group >= 0
    values, label, group, stratum = values[some], label[some], group[some], stratum[some]
    cell: npt.NDArray[Any] = np.unique(label * (stratum.max(initial=0) + 2) + stratum + 1, return_inverse=True)[1]
    # Ranks within each cell from those among all: cells are set apart by more than the values spread.
    rank = rankdata(rankdata(values) + cell * (len(values) + 1.0))
    size = np.bincount(cell)
    rank -= (np.cumsum(size) - size)[cell]
    frame = pd.DataFrame({"group": group, "label": label, "cell": cell, "rank": rank, "size": size[cell]})
    frame["far"] = values - pd.Series(values).groupby(cell).transform("median").to_numpy()
    cells = frame.groupby(["group", "label", "cell", "size"])["rank"].agg(["sum", "count"]).reset_index()
    cells = cells[cells["size"] > cells["count"]]
    n, whole = cells["count"].astype(np.float64), cells["size"].astype(np.float64)
    cells["above"] = (cells["sum"] - n * (whole + 1) / 2) / (whole + 1)
    cells["variance"] = n * (whole - n) / (12 * (whole + 1))
    table = cells.groupby(["group", "label"])[["above", "variance", "count"]].sum().reset_index()
    table = table[table["count"] >= FEW].rename(columns={"count": "n"}).reset_index(drop=True)
    table["p"] = 2 * norm.sf(np.abs(table["above"]) / np.sqrt(table["variance"].clip(lower=1e-12)))
    far = frame.groupby(["group", "label"])["far"].median().rename("far").reset_index()
    return table.merge(far, on=["group", "label"])[["group", "label", "n", "far", "p"]]


def change_points(held: npt.NDArray[np.bool_], time: Floats, *, error_rate: float) -> list[int]:
    """First answers (of those sorted by time) after which a class is used otherwise: its share, by binary segmentation.

    The largest cumulative sum against Kolmogorov's distribution, its spread taken from means of blocks, since answers in
    a row are alike (Ploberger and Krämer, Econometrica 60, 1992). 50 answers or more on each side; not within an instant.
    """
    found, waiting = [], [(0, len(held))]
    while waiting:
        start, stop = waiting.pop()
        cut, p = _one_change(held[start:stop], time[start:stop])
        if p < error_rate:
            found.append(start + cut)
            waiting += [(start, start + cut), (start + cut, stop)]
    cuts = [0, *sorted(found), len(held)]
    shares = [float(held[a:b].mean()) for a, b in pairwise(cuts)]
    return [cut for cut, pair in zip(cuts[1:-1], pairwise(shares), strict=True) if abs(_h(*pair)) >= _SMALL]


def _one_change(held: npt.NDArray[np.bool_], time: Floats) -> tuple[int, float]:
    """The likeliest place, and the chance of a change so clear if there were none."""
    from scipy.special import kolmogorov

    n = len(held)
    places = np.arange(_LONG, n - _LONG + 1)
    places = places[time[places] > time[places - 1]] if len(places) else places
    if not len(places):
        return 0, 1.0
    values = held.astype(np.float64)
    sums = np.abs(np.cumsum(values - values.mean())[places - 1])
    cut = int(places[sums.argmax()])
    blocks = (1, int(np.sqrt(n) / 2), int(np.sqrt(n)), 2 * int(np.sqrt(n)))
    spread = np.sqrt(n * max(_spread(values, block) for block in blocks))
    return cut, float(kolmogorov(sums.max() / spread)) if spread > 0 else 1.0


def _spread(values: Floats, block: int) -> float:
    """Variance of a value from differences of the means of blocks in a row, to which a few changes do not matter."""
    means = values[: len(values) // block * block].reshape(-1, block).mean(axis=1)
    return block * float((np.diff(means) ** 2).mean()) / 2


def comes_sorted(use: Use) -> bool:
    """Whether each annotator's answers in a row are mostly of one class: then time is the order of the images."""
    label = use.label[np.searchsorted(use.answer, np.arange(len(use.who)))]  # the first of an answer
    order = np.lexsort((use.time, use.who))
    same_person = np.diff(use.who[order]) == 0
    if not same_person.any():
        return False
    alike = float((np.diff(label[order]) == 0)[same_person].mean())
    by_chance = float(((np.bincount(label) / len(label)) ** 2).sum())
    return by_chance < 1 and (alike - by_chance) / (1 - by_chance) >= _SORTED


def _apart(group: Ints, find: Callable[[Ints], list[_Shift]]) -> Iterator[Finding]:
    """Findings about groups; among few of them the farthest first, and then the others without it: it drags their mean."""
    group = group.copy()
    while found := find(group):
        few = len(np.unique(group[group >= 0])) <= _CROWD
        far = {max(found, key=lambda shift: shift.distance).group} if few else {shift.group for shift in found}
        yield from (shift.finding for shift in found if shift.group in far)
        if not few:
            return
        group[np.isin(group, list(far))] = -1


@dataclass(frozen=True)
class _Shift:
    group: int
    distance: float
    finding: Finding


@dataclass(frozen=True)
class _Groups:
    """Annotators (`people`), or batches: `codes` (N,) by answer, and the `stratum` (N,) in which they are compared."""

    people: bool
    codes: Ints
    stratum: Ints
    names: list[str]
    use: Use

    def shares(self, codes: Ints) -> list[_Shift]:
        """Groups that use classes otherwise; a sentence for each."""
        table = share_shifts(self.use, codes, self.stratum)
        odd: Any = table[(table["p"] < _ERROR_RATE) & (table["h"].abs() >= _SMALL)]
        odd = odd.reindex(odd["h"].abs().sort_values(ascending=False, kind="stable").index)
        others = "the others in the same batches" if self.people else "the other batches"
        found = []
        for group, rows in odd.groupby("group", sort=False):
            label, n, h = int(rows["label"].iloc[0]), int(rows["n"].iloc[0]), abs(float(rows["h"].iloc[0]))
            told = [
                f"{self.use.names[row.label]} in {row.share:.1%} ({others} {row.others:.1%})"
                for row in rows.head(_NAMED).itertuples()
            ]
            name = self.names[int(group)]
            text = f"{name if self.people else f'the batch {name}'} uses {', '.join(told)} of {n:,} answers"
            text += "" if self.people else "; its images differ, or the guide was read otherwise"
            severity = "medium" if self.people and h >= 2 * _SMALL else "low"
            found.append(_Shift(int(group), h, _finding(severity, 1 - h / np.pi, text, self.use.names[label])))
        return found

    def sizes(self, medians: pd.DataFrame, codes: Ints) -> list[_Shift]:
        """Groups whose boxes of a class are larger, smaller or of another shape; `codes` by row of `median_sizes`."""
        label, stratum = medians["label"].to_numpy(), self.stratum[medians["answer"]]
        tables = [
            size_shifts(medians[measure].to_numpy(), label, codes, stratum).assign(measure=measure)
            for measure in ("area", "aspect")
        ]
        table = pd.concat(tables, ignore_index=True)
        # The stratum's median holds the group's own values: it lies a part of the way to the others' only.
        sure = (holm(table["p"].to_numpy(np.float64)) < _ERROR_RATE) & (3 * table["far"].abs() >= np.log(_TIGHTER))
        odd: Any = table[sure]
        found = []
        for row in odd.itertuples():
            own = (label == row.label) & (codes == row.group)
            rest = (label == row.label) & (codes != row.group) & (codes >= 0)
            rest &= np.isin(stratum, np.unique(stratum[own]))
            ratio = float(np.exp(medians[row.measure][own].median() - medians[row.measure][rest].median()))
            if max(ratio, 1 / ratio) < _TIGHTER:
                continue
            name, label_name = self.names[row.group], self.use.names[row.label]
            what = f"a median {'area' if row.measure == 'area' else 'width over height'} {ratio:.2f} times"
            text = f"{name} draws {label_name} with {what} the others' in the same batches"
            if not self.people:
                text = f"in the batch {name} {label_name} has {what} that in the other batches"
            finding = _finding("low", min(ratio, 1 / ratio), f"{text} ({row.n:,} images)", label_name)
            found.append(_Shift(row.group, abs(np.log(ratio)), finding))
        return found

    def chart(self) -> list[dict[str, Any]]:
        """Shares of the class that differs most."""
        table = share_shifts(self.use, self.codes, self.stratum)
        if not len(table):
            return []
        worst = int(table["label"].to_numpy()[np.abs(table["h"].to_numpy()).argmax()])
        rows: Any = table[table["label"] == worst].sort_values("share", ascending=False).head(_SHOWN)
        values = {self.names[row.group]: round(row.share, 4) for row in rows.itertuples()}
        title = f"Share of answers that hold {self.use.names[worst]}, by {'annotator' if self.people else 'batch'}"
        return [bars(title, values)]


def _over_time(use: Use) -> Iterator[Finding]:
    known = np.flatnonzero(np.isfinite(use.time))
    order = known[np.argsort(use.time[known], kind="stable")]
    time, place = use.time[order], np.full(len(use.who), -1)
    place[order] = np.arange(len(order))
    held: dict[int, npt.NDArray[np.bool_]] = {}
    cuts: list[tuple[int, int]] = []
    labels = np.unique(use.label)
    for label in labels.tolist():
        at = place[use.answer[use.label == label]]
        has = np.bincount(at[at >= 0], minlength=len(order)) > 0
        if found := change_points(has, time, error_rate=_ERROR_RATE / len(labels)):
            held[label] = has
            cuts += [(cut, label) for cut in found]
    cuts.sort()
    starts = [i for i, (cut, _) in enumerate(cuts) if i == 0 or cut - cuts[i - 1][0] > _LONG]
    bounds = [0, *(cuts[i][0] for i in starts), len(order)]
    for number, i in enumerate(starts):
        low, cut, high = bounds[number : number + 3]
        changed = {label for _, label in cuts[i : [*starts, len(cuts)][number + 1]]}
        shares = {label: (held[label][low:cut].mean(), held[label][cut:high].mean()) for label in changed}
        worst = sorted(changed, key=lambda label: -abs(_h(*shares[label])))
        main = held[worst[0]][low:high]
        told = [f"{use.names[x]} in {shares[x][1]:.1%} (before {shares[x][0]:.1%})" for x in worst[:_NAMED]]
        day = np.datetime64(int(time[cut]), "s").astype("datetime64[m]").item().strftime("%Y-%m-%d %H:%M")
        text = f"from {day} UTC on, {high - cut:,} answers hold {', '.join(told)}"
        same = _in_both(use.who[order[low:high]], main, cut - low)
        text += "; other people answered by then" if same is None else ""
        if same:
            text += f"; among the people of both times {same[1]:.1%} (before {same[0]:.1%}) for {use.names[worst[0]]}"
        other_batches = len(use.batches) > 1 and not _in_both(use.batch[order[low:high]], main, cut - low)
        text += "; the batches changed too, so the images may differ" if other_batches else ""
        lasting = same is not None and abs(_h(*same)) >= _SMALL and not other_batches
        score = 1 - abs(_h(*shares[worst[0]])) / np.pi
        yield _finding("medium" if lasting else "low", score, text, use.names[worst[0]])


def _in_both(group: Ints, held: npt.NDArray[np.bool_], cut: int) -> tuple[float, float] | None:
    """Shares before and after among groups with 20 answers on both sides, each weighed by these; None for none."""
    size, sides = int(group.max()) + 2, (slice(None, cut), slice(cut, None))
    n = np.stack([np.bincount(group[side] + 1, minlength=size) for side in sides]).astype(np.float64)
    both = (n >= FEW).all(axis=0)
    if not both.any():
        return None
    weight = n.prod(axis=0)[both] / n.sum(axis=0)[both]
    sums = np.stack([np.bincount(group[side] + 1, held[side], size) for side in sides])
    before, after = (sums / np.maximum(n, 1))[:, both] @ weight / weight.sum()
    return float(before), float(after)


def _h(one: float, other: float) -> float:
    return float(2 * (np.arcsin(np.sqrt(other)) - np.arcsin(np.sqrt(one))))


def _finding(severity: str, score: float, message: str, given: str) -> Finding:
    return Finding(GuidelineDrift.name, severity, min(1.0, max(0.0, float(score))), message, given=given)
