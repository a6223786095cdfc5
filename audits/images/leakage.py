"""The same thing on both sides of a split: copies of an image, and groups that must stay together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.images.duplicates import SHOWN, exact_groups
from datasetops.audits.images.near import near_pairs
from datasetops.audits.samplewise import SampleFindings, sample_scores
from datasetops.records import Finding

Ints: TypeAlias = npt.NDArray[np.int64]
Leaks: TypeAlias = dict[int, Ints]  # row → rows of splits nearer to training that it leaks from, nearest first

# A leak is reported where it does harm: in what a model is judged by, not in what it learns from.
_TOWARDS_TEST: Final = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev"), 2),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), 3),
}
_OTHER_NAME: Final = 1


class Leakage:
    name = "leakage"
    title = "copies and groups that straddle splits"
    needs = "splits"
    cost = "as near_duplicate, which it shares its work with"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        if samples["split"].nunique() < 2:
            return skipped("there are fewer than two splits")
        order = evaluation_order(samples["split"])
        about = SampleFindings(self.name, samples)
        groups = samples["group"].astype(object).to_numpy()
        causes: list[tuple[str, Leaks, Callable[[int, Ints], str]]] = [
            (
                "by copy",
                straddling(samples["sha256"], order),
                lambda row, others: f"the same file as {_at(about, others)}",
            ),
            ("by near-duplicate", _near(context, order), lambda row, others: f"looks the same as {_at(about, others)}"),
            (
                "by group",
                straddling(samples["group"], order),
                lambda row, others: f"group {groups[row]} is in the splits {_splits(about, row, others)}",
            ),
        ]
        told: dict[int, list[str]] = defaultdict(list)
        related: dict[int, list[int]] = defaultdict(list)
        for _, leaks, describe in causes:
            for row, others in leaks.items():
                told[row].append(describe(row, others))
                related[row] += others[:SHOWN].tolist()
        findings = [self._finding(about, row, told[row], related[row]) for row in sorted(told)]
        leaking = np.isin(np.arange(len(samples)), list(told))
        known = samples["split"].notna().to_numpy()
        summary: dict[str, Any] = {"leaking samples": len(told)} | {name: len(leaks) for name, leaks, _ in causes}
        shares = samples[known].assign(leaking=leaking[known]).groupby("split")["leaking"].mean()
        summary |= {f"share of {split}": round(float(share), 4) for split, share in shares.items() if share}
        per_split = samples["split"][leaking].value_counts()
        if len(per_split):
            summary["charts"] = [bars("Leaking samples by split", {str(k): int(v) for k, v in per_split.items()})]
        return CheckResult(findings, sample_scores(samples, known, 1.0 - leaking), summary)

    def _finding(self, about: SampleFindings, row: int, told: list[str], related: list[int]) -> Finding:
        others = list(dict.fromkeys(related))[:SHOWN]
        return about.at(row, "high", 0.0, "; ".join(told), related=tuple(about.ids[others]))


def evaluation_order(splits: pd.Series[Any]) -> Ints:
    """For each sample (N,) a number: 0 in training, higher the more its split is for evaluation; -1 without one.

    Training comes before splits of unknown names, then validation, then test; the larger before the smaller.
    """
    sizes = splits.value_counts()
    names = sorted(sizes.index, key=lambda name: (_TOWARDS_TEST.get(name.lower(), _OTHER_NAME), -sizes[name], name))
    rank = {name: number for number, name in enumerate(names)}
    return splits.map(rank).fillna(-1).to_numpy(dtype=np.int64)


def straddling(keys: pd.Series[Any], order: Ints) -> Leaks:
    """Rows whose key also occurs in a split of lower `order`, with the rows that have it there."""
    rows = np.flatnonzero(keys.notna().to_numpy() & (order >= 0))
    codes, _ = pd.factorize(keys.iloc[rows])
    by_key = np.lexsort((rows, order[rows], codes))
    rows, codes = rows[by_key], codes[by_key]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    start = np.repeat(starts, np.diff(np.append(starts, len(rows))))  # for each row, the first of its key
    place = codes * (order.max(initial=0) + 1) + order[rows]  # ascending: by key, then by order
    end = np.searchsorted(place, place[start], side="right")
    return {int(rows[at]): rows[start[at] : end[at]] for at in np.flatnonzero(place > place[start]).tolist()}


def _near(context: AuditContext, order: Ints) -> Leaks:
    """Near-duplicates of lower order. Pairs are of the first rows of byte-identical images, and hold for all of them."""
    digests = context.samples["sha256"]
    if not digests.notna().any():
        return {}
    copies = {int(rows[0]): rows for rows in exact_groups(digests)}
    leaks: dict[int, list[int]] = defaultdict(list)
    found = near_pairs(context)
    for first, second in found.indices[np.argsort(-found.similarity, kind="stable")].tolist():
        for one, other in ((first, second), (second, first)):
            placed = [row for row in copies.get(other, [other]) if order[row] >= 0]
            if placed:
                home = min(placed, key=lambda row: order[row])
                for row in copies.get(one, [one]):
                    if order[row] > order[home]:
                        leaks[int(row)].append(int(home))
    return {row: np.array(others) for row, others in leaks.items()}


def _at(about: SampleFindings, others: Ints) -> str:
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{about.uris[others[0]]} in the split {about.splits[others[0]]}{more}"


def _splits(about: SampleFindings, row: int, others: Ints) -> str:
    return ", ".join(sorted({about.splits[row], *about.splits[others]}))
