"""What to fix first: findings of all checks in one order, by true errors to be expected per minute of review.

The chance that a finding is an error starts from what is usual for its severity, and moves to what people decided about
findings of the same check and severity as they decide; the same holds for the time that one takes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import Decision, open_findings

# People confirmed 15 to 75 % of what label audits flagged in six published sets (Northcutt, Athalye and Mueller, 2021);
# severity high is given only where hardly a doubt is left.
USUAL_CHANCE: Final = {"high": 0.8, "medium": 0.45, "low": 0.15}
USUAL_SECONDS: Final = {
    "label_noise": 6.0,
    "exact_duplicate": 4.0,
    "near_duplicate": 8.0,
    "leakage": 8.0,
    "missing_box": 12.0,
    "misplaced_box": 12.0,
    "mask": 25.0,
    "keypoints": 20.0,
}
_SECONDS: Final = 8.0  # of every other check
_WEIGHT: Final = 5.0  # decisions that count as much as what is usual


@dataclass(frozen=True)
class Worklist:
    """`findings`: columns of records.FINDINGS and `chance` of being an error, `expected_seconds` to review; best first."""

    findings: pa.Table
    decisions: int  # that the chances rest on

    @property
    def expected_errors(self) -> float:
        return float(pc.sum(self.findings["chance"]).as_py() or 0.0)

    @property
    def minutes(self) -> float:
        return float(pc.sum(self.findings["expected_seconds"]).as_py() or 0.0) / 60


def worklist(findings: pa.Table, decisions: Sequence[Decision], budget: int | None = None) -> Worklist:
    """The findings worth most a minute, at most `budget`: those about a sample or file that nobody has decided on yet."""
    settled = pa.array(sorted({item.finding_id for item in decisions if item.verdict != "unsure"}), pa.string())
    rows = open_findings(findings, decisions)
    about_one = pc.or_(pc.is_valid(rows["sample_id"]), pc.is_valid(rows["uri"]))
    rows = rows.filter(pc.and_(about_one, pc.invert(pc.is_in(rows["finding_id"], settled))))
    chance, seconds = error_chance(decisions), review_seconds(decisions)
    cells = list(zip(rows["check"].to_pylist(), rows["severity"].to_pylist(), strict=True))
    by_cell = {cell: (chance(*cell), seconds(cell[0])) for cell in set(cells)}
    chances, needed = np.array([by_cell[cell] for cell in cells], dtype=float).reshape(-1, 2).T
    # within a cell the less clean come first: the id breaks ties, so that the same findings stand in the same order
    rows = rows.append_column("chance", pa.array(chances, pa.float64())).append_column(
        "expected_seconds", pa.array(needed, pa.float64())
    )
    rank = rows.append_column("worth", pa.array(np.round(chances / needed, 9), pa.float64()))
    rank = rank.sort_by([("worth", "descending"), ("score", "ascending"), ("finding_id", "ascending")])
    return Worklist(rank.drop(["worth"]).slice(0, budget), len(decisions))


def error_chance(decisions: Sequence[Decision]) -> Callable[[str, str], float]:
    """Chance that a finding is an error, by check and severity: the mean of a beta distribution that starts at what is
    usual with the weight of five decisions."""
    counts = Counter((item.check, item.severity, item.verdict) for item in decisions)

    def chance(check: str, severity: str) -> float:
        errors, fine = (counts[check, severity, verdict] for verdict in ("error", "fine"))
        return (errors + _WEIGHT * USUAL_CHANCE[severity]) / (fine + errors + _WEIGHT)

    return chance


def review_seconds(decisions: Sequence[Decision]) -> Callable[[str], float]:
    """Seconds that a decision on a finding of a check takes: the median so far, drawn to what is usual."""
    taken: dict[str, list[float]] = defaultdict(list)
    for item in decisions:
        if item.seconds:
            taken[item.check].append(item.seconds)

    def seconds(check: str) -> float:
        own = taken.get(check, [])
        usual = USUAL_SECONDS.get(check, _SECONDS)
        return (len(own) * (median(own) if own else 0.0) + _WEIGHT * usual) / (len(own) + _WEIGHT)

    return seconds
