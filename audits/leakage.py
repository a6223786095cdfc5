"""The same thing on both sides of a split: copies of an image, and groups that must stay together."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.charts import bars
from datasetops.audits.near import near_pairs
from datasetops.records import Finding

_TRAINING = ("train", "training")  # a leak is reported where it does harm: on the other side


class Leakage:
    name = "leakage"
    title = "copies and groups that straddle splits"
    needs = "splits"

    def run(self, context: AuditContext) -> CheckResult:
        samples = context.samples
        splits = samples["split"]
        if splits.nunique() < 2:
            return CheckResult([], summary={"skipped": "there are fewer than two splits"})
        side = evaluation_order(splits)
        findings = self._by_group(samples, side)
        leaking = {finding.sample_id for finding in findings}
        groups = len(leaking)
        for kind, pairs in (("exact", self._exact_pairs(samples)), ("near", self._near_pairs(context))):
            partners: dict[int, list[int]] = defaultdict(list)
            for first, second in pairs:
                if pd.notna(splits[first]) and pd.notna(splits[second]) and splits[first] != splits[second]:
                    row, other = (first, second) if side[first] > side[second] else (second, first)
                    partners[row].append(other)
            for row in sorted(partners):
                others = partners[row]
                what = "the same file as" if kind == "exact" else "shows the same as"
                text = f"{what} {samples['uri'][others[0]]} in the split {splits[others[0]]}"
                findings.append(self._finding(samples, row, text, others))
                leaking.add(samples["sample_id"][row])
        per_split = samples[samples["sample_id"].isin(leaking)]["split"].value_counts()
        summary = {
            "leaking samples": len(leaking),
            "of them by group": groups,
            "charts": [bars("Leaking samples by split", {str(k): int(v) for k, v in per_split.items()})]
            if leaking
            else [],
        }
        score = 1.0 - samples["sample_id"].isin(leaking).astype(float)
        scores = pd.DataFrame({"sample_id": samples["sample_id"], "annotation_id": None, "score": score})
        return CheckResult(findings, scores, summary)

    def _by_group(self, samples: pd.DataFrame, side: pd.Series[int]) -> list[Finding]:
        known = samples["group"].notna() & samples["split"].notna()
        straddling = samples[known].groupby("group")["split"].nunique()
        straddling = straddling[straddling > 1]
        findings = []
        inside = samples[known & samples["group"].isin(straddling.index)]
        for group, rows in inside.groupby("group", sort=True):
            home = side[rows.index].min()
            partners = rows.index[side[rows.index] == home].tolist()
            for row in rows.index[side[rows.index] > home]:
                text = f"group {group} is in the splits {', '.join(sorted(rows['split'].unique()))}"
                findings.append(self._finding(samples, int(row), text, partners))
        return findings

    def _exact_pairs(self, samples: pd.DataFrame) -> list[tuple[int, int]]:
        copied = samples[samples["sha256"].notna() & samples["sha256"].duplicated(keep=False)]
        pairs = []
        for rows in copied.groupby("sha256", sort=False).groups.values():
            first_of = {split: row for row, split in reversed(list(zip(rows, samples["split"][rows], strict=True)))}
            pairs += [(first, row) for row in rows for split, first in first_of.items() if first != row]
        return pairs

    def _near_pairs(self, context: AuditContext) -> list[tuple[int, int]]:
        if not context.samples["sha256"].notna().any():
            return []
        return [(int(first), int(second)) for first, second in near_pairs(context).indices]

    def _finding(self, samples: pd.DataFrame, row: int, text: str, others: list[int]) -> Finding:
        return Finding(
            self.name,
            "high",
            0.0,
            text,
            sample_id=samples["sample_id"][row],
            uri=samples["uri"][row],
            split=samples["split"][row],
            related=tuple(samples["sample_id"][other] for other in others[:20]),
        )


def evaluation_order(splits: pd.Series[str]) -> pd.Series[int]:
    """For each sample a number: 0 in training, higher the smaller its split; −1 without one."""
    sizes = splits.value_counts()
    names = sorted(sizes.index, key=lambda name: (name.lower() not in _TRAINING, -sizes[name], name))
    rank = {name: number for number, name in enumerate(names)}
    return splits.map(rank).fillna(-1).astype(np.int64)
