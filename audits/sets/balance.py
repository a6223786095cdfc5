"""How many items each class has, and where there are too few."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.records import Finding

_RARE = 0.1  # of the median class's count: below, a class is called rare
_FEW = 20  # items of a class in a split below which its error rate cannot be told within about ±20 percentage points
_ONE_BY_ONE = 5  # unused classes that are told one by one; more are a large schema's, and told together
_NAMED = 10
_SURPRISE = 1e-6  # chance, under the class's overall share, of a split holding so few or so many of it


class Balance:
    name = "balance"
    title = "classes with too few items, and splits that hold other shares of them"
    needs = "labels"
    cost = "grows with the labels; seconds for millions"

    def run(self, context: AuditContext) -> CheckResult:
        labels = context.annotations[["label", "sample_id"]].dropna()
        names = list(context.schema.class_names)
        if not len(labels) or not names:
            return skipped("there are no class labels")
        split = labels["sample_id"].map(context.samples.set_index("sample_id")["split"]).fillna("(none)")
        table = pd.crosstab(labels["label"], split).reindex(names, fill_value=0)
        counts = table.sum(axis=1)
        findings = self._unused(list(counts[counts == 0].index), len(names))
        used = counts[counts > 0]
        for name in used[used < _RARE * used.median()].index:
            text = f"the class {name!r} has {counts[name]:,} annotations; the median class has {used.median():,.0f}"
            findings.append(self._finding("low", float(counts[name] / used.median()), name, text))
        if len(table.columns) > 1:
            findings += self._across_splits(table.loc[used.index])
        ratio = float(used.max() / used.min())
        summary = {
            "classes in use": len(used),
            "largest to smallest": round(ratio, 2),
            "charts": [
                bars(
                    "Annotations by class",
                    {
                        str(name): {str(column): int(n) for column, n in row.items()}
                        if len(table.columns) > 1
                        else int(row.sum())
                        for name, row in table.loc[counts.sort_values(ascending=False, kind="stable").index].iterrows()
                    },
                )
            ],
        }
        return CheckResult(findings, summary=summary)

    def _unused(self, names: list[str], classes: int) -> list[Finding]:
        if len(names) <= _ONE_BY_ONE:
            return [self._finding("medium", 0.0, name, f"no annotation has the class {name!r}") for name in names]
        shown = ", ".join(repr(name) for name in names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        text = f"{len(names)} of the {classes} classes have no annotation: {shown}{more}"
        return [Finding(self.name, "medium", 0.0, text)]

    def _across_splits(self, table: pd.DataFrame) -> list[Finding]:
        found = []
        values = table.to_numpy()
        chance = share_surprise(values)
        share = values.sum(axis=1) / values.sum()
        sizes = values.sum(axis=0)
        for row, name in enumerate(table.index):
            for column, split in enumerate(table.columns):
                n = int(values[row, column])
                if n == 0 and sizes[column]:
                    text = f"the class {name!r} does not occur in the split {split}"
                    found.append(self._finding("medium", 0.0, name, text, split))
                elif chance[row, column] < _SURPRISE:
                    text = f"the class {name!r} is {n / sizes[column]:.1%} of the split {split}, but {share[row]:.1%} of all"
                    found.append(self._finding("low", 0.3, name, text, split))
                elif n < _FEW:
                    text = f"only {n} of the class {name!r} in the split {split}: too few to tell its error rate"
                    found.append(self._finding("low", n / _FEW, name, text, split))
        return found

    def _finding(self, severity: str, score: float, label: str, text: str, split: str | None = None) -> Finding:
        return Finding(self.name, severity, score, text, given=label, split=split)


def share_surprise(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Two-sided binomial chance of each count (K classes, S splits), if every split had the classes' overall shares."""
    from scipy.stats import binom

    size = counts.sum(axis=0)[None, :]
    share = (counts.sum(axis=1) / counts.sum())[:, None]
    low, high = binom.cdf(counts, size, share), binom.sf(counts - 1, size, share)
    result: npt.NDArray[np.float64] = np.minimum(1.0, 2 * np.minimum(low, high))
    return result
