"""What people decided about findings. A finding keeps its id over audits and versions, and so does what was decided.

`decisions/<time>-<event>.json` are lists of decisions, written once; of one person's on one finding the newest counts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import FormatError, NotFoundError, did_you_mean
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.records import canonical_json, sha256_hex

VERDICTS: Final = ("error", "fine", "unsure")
_FOLDER: Final = "decisions/"


@dataclass(frozen=True)
class Decision:
    """`verdict`: the finding is right (error), it is not (fine), or it cannot be told (unsure, which leaves it open).

    Check, severity and score are the finding's; `seconds` what the decision took, where it is known.
    """

    finding_id: str
    verdict: str
    actor: str
    check: str
    severity: str
    score: float
    note: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict: expected one of {', '.join(VERDICTS)}; got {self.verdict!r}")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds: expected a number of at least 0; got {self.seconds!r}")


def decide(
    repository: Repository, version: Version, findings: pa.Table, said: Sequence[Mapping[str, Any]]
) -> list[Decision]:
    """Keep decisions on findings of a version (columns of records.FINDINGS).

    `said`: finding_id (or its beginning), verdict, and where known note, seconds and actor (the repository's unless
    told). Raises NotFoundError for a finding that is not there, or ids that several begin with; then nothing is kept.
    """
    columns = ["finding_id", "check", "severity", "score"]
    known = {row["finding_id"]: row for row in findings.select(columns).to_pylist()}
    made = []
    for item in said:
        wanted = str(item["finding_id"])
        matches = [wanted] if wanted in known else [name for name in known if wanted and name.startswith(wanted)]
        if len(matches) != 1:
            several = (
                f"{len(matches)} findings of {version.name} begin with" if matches else f"{version.name} has no finding"
            )
            remedy = did_you_mean(wanted, matches or known, noun="findings")
            raise NotFoundError(f"{several} {wanted!r}.", remedy=remedy)
        more = {name: item[name] for name in ("note", "seconds") if item.get(name) not in (None, "")}
        actor = item.get("actor") or repository.settings.actor
        made.append(Decision(verdict=item["verdict"], actor=actor, **known[matches[0]], **more))
    stated: dict[tuple[str, str], str] = {}
    for one in made:
        if stated.setdefault((one.finding_id, one.actor), one.verdict) != one.verdict:
            raise ValueError(
                f"finding {one.finding_id} is decided twice, as {stated[one.finding_id, one.actor]} and {one.verdict}"
            )
    if made:
        event = Event("decide", repository.settings.actor, inputs={"version": version.name, "commit": version.digest})
        key = f"{_FOLDER}{event.time}-{event.event_id}.json"
        data = canonical_json([asdict(item) for item in made])
        repository.store.put(key, data)
        outputs = {"decisions": len(made), "files": {key: sha256_hex(data)}}
        repository.ledger.record(
            Event(event.kind, event.actor, event.inputs, outputs, event_id=event.event_id, time=event.time)
        )
    return made


def decisions(repository: Repository) -> list[Decision]:
    """All decisions that stand, in the order in which they were made first."""
    found: dict[tuple[str, str], Decision] = {}
    for key in sorted(repository.store.list(_FOLDER)):
        for raw in json.loads(repository.store.get(key)):
            decision = Decision(**raw)
            found[decision.finding_id, decision.actor] = decision
    return list(found.values())


def open_findings(findings: pa.Table, made: Sequence[Decision]) -> pa.Table:
    """Findings that nobody called fine. A confirmed error stays open until a version without it is audited."""
    fine = pa.array(sorted({item.finding_id for item in made if item.verdict == "fine"}), pa.string())
    return findings.filter(pc.invert(pc.is_in(findings["finding_id"], fine)))


def read_decisions(path: Path) -> list[dict[str, Any]]:
    """Decisions from a CSV with the columns finding_id and verdict (empty: not decided), and perhaps note, seconds and
    actor. Raises FormatError that names line and field."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FormatError(
            f"{path} cannot be read: {reason}.", remedy="Name a CSV with finding_id and verdict."
        ) from None
    reader = csv.DictReader(io.StringIO(text))
    for column in ("finding_id", "verdict"):
        if column not in (reader.fieldnames or ()):
            raise FormatError(
                f"{path}: line 1: there is no column {column}.",
                remedy="dsops findings VERSION --out FILE.csv writes the findings; add a column verdict and fill it in.",
            )
    found = []
    for row in reader:
        verdict = (row["verdict"] or "").strip().lower()
        if not verdict:
            continue
        if verdict not in VERDICTS:
            remedy = did_you_mean(verdict, VERDICTS, noun="verdicts")
            raise FormatError(f"{path}: line {reader.line_num}: verdict {verdict!r} is not known.", remedy=remedy)
        try:
            seconds = float(row["seconds"]) if row.get("seconds") else None
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise ValueError
        except ValueError:
            raise FormatError(
                f"{path}: line {reader.line_num}: seconds {row['seconds']!r} is no number.",
                remedy="Give seconds, or none.",
            ) from None
        found.append({**row, "verdict": verdict, "seconds": seconds})
    return found
