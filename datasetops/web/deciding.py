"""What a reviewer chose, as decisions: each finding of a request gets the verdict and the fix that the choice means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from datasetops.audits.decisions import AlreadyDecidedError, Decision, Fix
from datasetops.errors import NotFoundError
from datasetops.review.fixes import fix_in_words, relabel_to, suggested_fix
from datasetops.review.item import VERDICTS_IN_WORDS
from datasetops.review.queue import Queue
from datasetops.web.edits import class_name, stored_fields
from datasetops.web.sessions import Session
from datasetops.web.workplace import Desk, Workplace

Action = Literal["keep", "suggestion", "label", "edit", "exclude", "relabel", "unsure"]
_OF_ANNOTATIONS = ("suggestion", "label", "edit")  # these say what becomes of them
_VERDICTS: Mapping[str, str] = {"keep": "fine", "unsure": "unsure"}  # of every other action: error


class Choice(BaseModel):
    """`decision_id` is the browser's, so that the same choice sent twice is kept once. `second`: beside another one's."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str = Field(min_length=1, max_length=100)
    finding_ids: list[str] = Field(min_length=1, max_length=1000)
    action: Action
    label: str | None = None
    fix: dict[str, Any] | None = None
    note: str | None = Field(default=None, max_length=4000)
    seconds: float | None = Field(default=None, ge=0, le=86_400)
    second: bool = False


def decide(desk: Desk, workplace: Workplace, choice: Choice, session: Session) -> dict[str, Any]:
    """Keep a choice: `kept` finding ids, and `refused` ones with who decided them first or why they cannot be.

    Raises NotFoundError for a finding that is not there, ValueError for a choice that cannot be; then nothing is kept.
    """
    queue = workplace.queue()
    rows = {name: queue.row(name) for name in dict.fromkeys(choice.finding_ids)}
    by_sample: Mapping[str, list[dict[str, Any]]] = {}
    if choice.action in _OF_ANNOTATIONS:
        by_sample = queue.rows.annotations([row["sample_id"] for row in rows.values()])
    made, refused = [], []
    for name, row in rows.items():
        fix, words = _fix(desk, workplace, choice, row, by_sample.get(row["sample_id"], []))
        if words:
            refused.append({"finding_id": name, "by": None, "words": words})
            continue
        made.append(_decision(workplace, choice, row, session.actor, fix))
    others = _add(workplace, made, session.role, second=choice.second)
    refused += [
        {"finding_id": item.finding_id, "by": item.actor, "words": _in_words(queue, item)} for item in others.values()
    ]
    kept = [item for item in made if item.finding_id not in others]
    for item in kept:
        if item.sample_id:
            desk.holds.release(workplace.version.name, item.sample_id, session.actor)
    return {"kept": [item.finding_id for item in kept], "refused": refused}


def undo(workplace: Workplace, finding_ids: Sequence[str] | None, session: Session) -> list[str]:
    """Take back a person's decisions on some findings, or by default their newest ones; returns the findings' ids."""
    workplace.queue()
    if finding_ids is None:
        mine = [item for item in workplace.log.standing() if item.actor == session.actor]
        newest = max((item.time for item in mine), default="")
        finding_ids = [item.finding_id for item in mine if item.time == newest]
    withdrawn = workplace.log.withdraw(workplace.version, finding_ids, session.actor, role=session.role)
    return [item.finding_id for item in withdrawn]


def _in_words(queue: Queue, decision: Decision) -> str:
    said = VERDICTS_IN_WORDS[decision.verdict]
    if decision.fix and decision.sample_id:
        said = fix_in_words(decision.fix, queue.rows.annotations([decision.sample_id])[decision.sample_id])
    return f"{decision.actor} decided this: {said}."


def _add(workplace: Workplace, made: Sequence[Decision], role: str, *, second: bool) -> dict[str, Decision]:
    """Keep decisions as one event, but for those that somebody else was first with; returns these, by finding.

    Who decided a finding before may change his mind, whatever others said since.
    """
    others: dict[str, Decision] = {}
    again = [item for item in made if any(said.actor == item.actor for said in workplace.log.of(item.finding_id))]
    if again:
        workplace.log.add(workplace.version, again, second=True, role=role)
    made = [item for item in made if item not in again]
    while rest := [item for item in made if item.finding_id not in others]:
        try:
            workplace.log.add(workplace.version, rest, second=second, role=role)
            break
        except AlreadyDecidedError as error:
            others |= {item.finding_id: item for item in error.decisions}
    return others


def _decision(workplace: Workplace, choice: Choice, row: Mapping[str, Any], actor: str, fix: Fix | None) -> Decision:
    return Decision(
        finding_id=row["finding_id"],
        verdict=_VERDICTS.get(choice.action, "error"),
        actor=actor,
        check=row["check"],
        severity=row["severity"],
        score=row["score"],
        note=(choice.note or "").strip(),
        seconds=choice.seconds,
        fix=fix,
        sample_id=row["sample_id"],
        commit=workplace.version.digest,
        decision_id=choice.decision_id,
        at_random=bool(row["at_random"]),
    )


def _fix(
    desk: Desk, workplace: Workplace, choice: Choice, row: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]
) -> tuple[Fix | None, str]:
    """(what is to change, or why that cannot be said of this finding)."""
    schema = workplace.version.schema
    if choice.action in _VERDICTS:
        return None, ""
    if choice.action in ("exclude", "relabel"):
        return Fix(choice.action), ""
    if choice.action == "suggestion":
        fix = suggested_fix(row, annotations, schema)
        return fix, "" if fix else "There is no suggestion that could be taken."
    if choice.action == "label":
        label = class_name(choice.label, schema)
        try:
            return relabel_to(row, annotations, label), ""
        except ValueError as error:  # of this finding; others of the same request may have a class to change
            return None, f"{error}."
    if choice.fix is None or len(choice.finding_ids) > 1:
        raise ValueError("fix: an edit is of one finding, and says what to put or remove")
    return _edit(desk, workplace, choice.fix, row, annotations), ""


def _edit(
    desk: Desk,
    workplace: Workplace,
    raw: Mapping[str, Any],
    row: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
) -> Fix:
    """The fix that a reviewer drew. Raises ValueError that names the field."""
    schema = workplace.version.schema
    known = {item["annotation_id"]: item for item in annotations}
    if raw.get("kind", "edit") != "edit" or set(raw) - {"kind", "put", "remove"}:
        raise ValueError("fix: expected put and remove")
    put, remove = raw.get("put") or [], raw.get("remove") or []
    if not isinstance(put, list) or not isinstance(remove, list):
        raise ValueError("fix: put and remove are lists")
    named = [item.get("annotation_id") for item in put if isinstance(item, Mapping)] + remove
    if not all(name is None or isinstance(name, str) for name in named):
        raise ValueError("fix: annotation_id: expected a text")
    size = desk.pictures.size_of(workplace.version, row["sample_id"]) if put else None
    changed = []
    for item in put:
        if not isinstance(item, Mapping) or size is None:
            raise ValueError("fix: put: expected fields of an annotation")
        name = item.get("annotation_id")
        fields = stored_fields({key: value for key, value in item.items() if key != "annotation_id"}, schema, size)
        before = known.get(name, {}) if name is not None else {}
        if name is None and "kind" not in fields:
            raise ValueError("fix: put: a new annotation needs a kind")
        if "x1" in fields and "geometry" not in fields and before.get("kind") == "box" and before.get("geometry"):
            fields["geometry"] = None  # it says how the box was turned, which the new corners do not
        changed.append({"annotation_id": name, **fields})
    for name in [item["annotation_id"] for item in changed if item["annotation_id"] is not None] + remove:
        if name not in known:
            raise NotFoundError(f"This sample has no annotation {str(name)[:100]!r}.", remedy="Load the page again.")
    return Fix("edit", tuple(changed), tuple(remove))
