"""What a reviewer said about a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from datasetops.audits.decisions.fix import Fix
from datasetops.errors import ConflictError

VERDICTS: Final = ("error", "fine", "unsure")
REVIEW: Final = "review"  # `tool` in the column `answer` of a row that a decision changed
MENDS: Final = (REVIEW, "fiftyone")  # of those that somebody mended, which is no answer to the whole image


@dataclass(frozen=True)
class Decision:
    """`verdict`: the finding is right (error), it is not (fine), or it cannot be told (unsure, which leaves it open).

    Check, severity and score are the finding's; `seconds` what the decision took, where it is known. `fix` is what an
    error needs. `commit` is the digest of the version that it was decided on, `time` the event's, ISO 8601 in UTC.
    `decision_id` is made by the client: the same one sent twice is kept once. `at_random`: the item was drawn at random,
    not because it looked worst.
    """

    finding_id: str
    verdict: str
    actor: str
    check: str
    severity: str
    score: float
    note: str = ""
    seconds: float | None = None
    fix: Fix | None = None
    sample_id: str | None = None
    commit: str = ""
    time: str = ""
    decision_id: str = ""
    at_random: bool = False

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict: expected one of {', '.join(VERDICTS)}; got {self.verdict!r}")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds: expected a number of at least 0; got {self.seconds!r}")
        if self.fix is not None and self.verdict != "error":
            raise ValueError(f"fix: only an error has one; got one with {self.verdict}")

    def as_dict(self) -> dict[str, Any]:
        """The stored form: without what the event says (commit and time) and without what is not known."""
        raw = {name: getattr(self, name) for name in _STORED}
        raw = {name: value for name, value in raw.items() if value is not None and value != "" and value is not False}
        return raw | ({"fix": self.fix.as_dict()} if self.fix else {})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, commit: str, time: str) -> Decision:
        """Raises TypeError, ValueError where it is none."""
        fix = raw.get("fix")
        return cls(**{**raw, "commit": commit, "time": time, "fix": fix and Fix.from_dict(fix)})


_STORED: Final = tuple(item.name for item in fields(Decision) if item.name not in ("commit", "time", "fix"))


class AlreadyDecidedError(ConflictError):
    """Somebody else decided the same findings first. `decisions` are theirs, `decision` the first of them."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = tuple(decisions)
        self.decision = first = self.decisions[0]
        more = f" and {len(decisions) - 1} others" if len(decisions) > 1 else ""
        super().__init__(
            f"Finding {first.finding_id}{more} was decided before: {first.verdict}, by {first.actor}.",
            remedy="Nothing was kept. Look at what was decided, or give a second opinion.",
        )
