"""What people decided about findings. A finding keeps its id over audits and versions, and so does what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions.decision import VERDICTS, AlreadyDecidedError, Decision
from datasetops.audits.decisions.fix import FIXES, Fix
from datasetops.audits.decisions.log import DecisionLog
from datasetops.errors import FormatError, NotFoundError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.sheets import read_csv_rows

__all__ = [
    "FIXES",
    "VERDICTS",
    "AlreadyDecidedError",
    "Decision",
    "DecisionLog",
    "Fix",
    "decide",
    "decisions",
    "open_findings",
    "read_decisions",
]

_SHOWN: Final = 5  # findings that an ambiguous beginning is told to mean


def decide(
    repository: Repository, version: Version, findings: pa.Table, said: Sequence[Mapping[str, Any]]
) -> list[Decision]:
    """Keep decisions on findings of a version (columns of records.FINDINGS).

    `said`: finding_id (or its beginning), verdict, and where known note, seconds and actor (the repository's unless
    told). Raises NotFoundError for a finding that is not there, or ids that several begin with; then nothing is kept.
    """
    columns = ["finding_id", "check", "severity", "score", "sample_id"]
    known = {row["finding_id"]: row for row in findings.select(columns).to_pylist()}
    made = []
    for item in said:
        wanted = str(item["finding_id"])
        matches = [wanted] if wanted in known else [name for name in known if wanted and name.startswith(wanted)]
        if len(matches) != 1:
            if not matches:
                remedy = f"dsops findings {version.name} lists findings, each with its id."
                raise NotFoundError(f"{version.name} has no finding {wanted!r}.", remedy=remedy)
            shown = ", ".join(matches[:_SHOWN]) + (", …" if len(matches) > _SHOWN else "")
            raise NotFoundError(
                f"{len(matches)} findings of {version.name} begin with {wanted!r}.",
                remedy=f"Give more of one: {shown}.",
            )
        more = {name: item[name] for name in ("note", "seconds") if item.get(name) not in (None, "")}
        actor = item.get("actor") or repository.settings.actor
        made.append(Decision(verdict=item["verdict"], actor=actor, **known[matches[0]], **more))
    stated: dict[tuple[str, str], Decision] = {}
    for one in made:
        before = stated.get((one.finding_id, one.actor), one)
        stated[one.finding_id, one.actor] = one
        if before.verdict != one.verdict:
            raise ValueError(f"finding {one.finding_id} is decided twice, as {before.verdict} and {one.verdict}")
    return DecisionLog(repository).add(version, list(stated.values()), second=True)


def decisions(repository: Repository) -> list[Decision]:
    """All decisions that stand, in the order in which they were made first."""
    log = DecisionLog(repository)
    log.refresh()
    return log.standing()


def open_findings(findings: pa.Table, made: Sequence[Decision]) -> pa.Table:
    """Findings that nobody called fine. A confirmed error stays open until a version without it is audited."""
    fine = pa.array(sorted({item.finding_id for item in made if item.verdict == "fine"}), pa.string())
    return findings.filter(pc.invert(pc.is_in(findings["finding_id"], fine)))


def read_decisions(path: Path) -> list[dict[str, Any]]:
    """Decisions from a CSV with the columns finding_id and verdict (empty: not decided), and perhaps note, seconds and
    actor. Raises FormatError that names line and field."""
    remedy = "dsops findings VERSION --out FILE.csv writes the findings; add a column verdict and fill it in."
    found = []
    for line, row in read_csv_rows(path, ("finding_id", "verdict"), remedy):
        verdict = row["verdict"].lower()
        if not verdict:
            continue
        if verdict not in VERDICTS:
            remedy = did_you_mean(verdict, VERDICTS, noun="verdicts")
            raise FormatError(f"{path}: line {line}: verdict {verdict!r} is not known.", remedy=remedy)
        try:
            seconds = float(row["seconds"]) if row.get("seconds") else None
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise ValueError
        except ValueError:
            raise FormatError(
                f"{path}: line {line}: seconds {row['seconds']!r} is no number.", remedy="Give seconds, or none."
            ) from None
        found.append({**row, "verdict": verdict, "seconds": seconds})
    return found
