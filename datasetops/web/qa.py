"""Blind checks: a reviewer labels a drawn item without seeing the labels it has; the server compares."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.labeling.base import REGION_COLUMNS, Answer, AnsweredTask, Region
from datasetops.manifest import Repository, Version
from datasetops.qa.plan import QaPlan, load_plan, plans
from datasetops.qa.result import evaluate
from datasetops.qa.verdicts import Verdict, from_answers, load_verdicts, take
from datasetops.review.guide_pages import guide_pages
from datasetops.schema import LabelSchema
from datasetops.web.edits import class_name, stored_fields
from datasetops.web.render import json_response, session_of
from datasetops.web.workplace import Desk

_ORIGIN: Final = "review app"
_DRAWN_KINDS: Final = ("box", "polygon", "keypoints", "mask")
_TAKING = threading.Lock()  # verdicts are read, compared and kept by one at a time

router = APIRouter()


class BlindAnswer(BaseModel):
    """Exactly one of label, labels, regions and unsure."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str = Field(min_length=1, max_length=100)
    sample_id: str = Field(max_length=2000)
    label: str | None = None
    labels: list[str] | None = Field(default=None, max_length=1000)
    regions: list[dict[str, Any]] | None = Field(default=None, max_length=2000)
    unsure: bool = False
    note: str = Field(default="", max_length=4000)


@router.get("/api/qa/{plan}/next")
def next_item(request: Request, plan: str) -> Response:
    return json_response(blind_item(request.app.state.desk, plan, session_of(request).actor))


@router.post("/api/qa/{plan}/verdicts")
def give_verdict(request: Request, plan: str, body: BlindAnswer) -> Response:
    desk: Desk = request.app.state.desk
    actor, role = session_of(request).actor, session_of(request).role
    chosen = load_plan(desk.repository, plan)
    version = desk.version(chosen.version)
    regions = _regions(desk, version, body)
    with _TAKING:
        if body.sample_id not in _drawn(chosen):
            raise NotFoundError(f"The plan {chosen.name} has not drawn this item.", remedy="Load the page again.")
        if body.unsure:
            verdicts = [Verdict(body.sample_id, actor, "unsure", body.note or "unsure", answer_id=body.decision_id)]
        else:
            answer = Answer(body.decision_id, actor, "done", regions)
            task = AnsweredTask(body.decision_id, body.sample_id, chosen.name, (answer,))
            verdicts = from_answers(desk.repository, chosen, [task])
        taken = take(_as(desk.repository, actor), chosen, verdicts, origin=_ORIGIN, role=role)
    desk.holds.release(f"qa/{chosen.name}", body.sample_id, actor)
    words = "You labeled this item yourself, so somebody else checks it." if taken.own else ""
    return json_response({"kept": not taken.own, "words": words})


def question(desk: Desk, name: str, version: Version) -> dict[str, Any]:
    """What a plan asks about each item. Raises NotFoundError where the plan is about another version."""
    plan = load_plan(desk.repository, name)
    if plan.version != version.name:
        raise NotFoundError(
            f"The plan {plan.name} is about {plan.version}, not {version.name}.",
            remedy=f"Open /v/{plan.version}/qa/{plan.name}",
        )
    schema = version.schema
    used = [item for item in schema.classes if not item.deprecated]
    return {
        "plan": plan.name,
        "classes": [{"name": item.name, "colour": item.colour, "kinds": list(item.kinds)} for item in used],
        "kinds": list(schema.kinds),
        "multi_label": schema.multi_label,
        "question": _asked(schema),
        "guide": guide_pages(version, [("", item.name) for item in used]),
    }


def blind_item(desk: Desk, name: str, actor: str) -> dict[str, Any]:
    """The next item for a reviewer, held for them: nothing is told but its id. `own`: items left out since they labeled
    them; `with_others`: items that somebody else looks at now."""
    plan = load_plan(desk.repository, name)
    said = load_verdicts(desk.repository, plan)
    by_item = _by_item(said)
    items = plan.to_review(_stage(plan, said, by_item))
    labeled = _labelers(desk, plan)
    own = [item for item in items if actor in labeled.get(item, ())]
    open_ = [item for item in items if actor not in labeled.get(item, ()) and _wants(plan, item, by_item[item], actor)]
    held = desk.holds.of_others(f"qa/{plan.name}", actor)
    free = [item for item in open_ if item not in held]
    while free and not _take(desk, plan, free[0], actor):
        free.pop(0)
    return {
        "sample_id": free[0] if free else None,
        "left": len(open_),
        "done": sum(actor in by_item[item] for item in items),
        "own": len(own),
        "with_others": len(open_) - len(free),
    }


def _take(desk: Desk, plan: QaPlan, item: str, actor: str) -> bool:
    """Hold an item, unless somebody else does, or answered it and let go since the verdicts were read."""
    part = f"qa/{plan.name}"
    if desk.holds.take(part, item, actor) is not None:
        return False
    if _wants(plan, item, _by_item(load_verdicts(desk.repository, plan))[item], actor):
        return True
    desk.holds.release(part, item, actor)
    return False


def _by_item(said: list[Verdict]) -> dict[str, dict[str, str]]:
    """By item, what each reviewer said."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for verdict in said:
        found[verdict.sample_id][verdict.reviewer] = verdict.verdict
    return found


def newest_plan(repository: Repository, version: Version) -> QaPlan:
    """Raises NotFoundError where the version has none."""
    mine = [plan for plan in plans(repository) if plan.version == version.name]
    if not mine:
        raise NotFoundError(f"{version.name} has no QA plan.", remedy=f"Make one with: dsops qa plan {version.name}")
    return mine[-1]


def _wants(plan: QaPlan, item: str, said: Mapping[str, str], actor: str) -> bool:
    """Whether an item still needs this reviewer: one verdict is enough, or two where it is to be reviewed twice."""
    settled = sum(verdict != "unsure" for verdict in said.values())
    return actor not in said and settled < 1 + (item in plan.second)


def _stage(plan: QaPlan, said: list[Verdict], by_item: Mapping[str, Mapping[str, str]]) -> int:
    """The stage (0, 1, …) under review: a later one begins when the earlier ones have proven nothing."""
    for number in range(len(plan.stages) - 1):
        now, later = (set(plan.to_review(number + more)) for more in (0, 1))
        begun = any(by_item.get(item) for item in later - now)
        if begun:
            continue
        if any(not by_item.get(item) for item in now) or evaluate(plan, said).verdict != "inconclusive":
            return number
    return len(plan.stages) - 1


def _labelers(desk: Desk, plan: QaPlan) -> Mapping[str, frozenset[str]]:
    """Who gave the labels of a plan's items, votes too; read once."""
    if plan.name not in desk.labelers:
        rows = desk.version(plan.version).annotations_of(sorted(_drawn(plan)))
        found: dict[str, set[str]] = defaultdict(set)
        columns = (rows[name].to_pylist() for name in ("sample_id", "actor", "source"))
        for sample_id, actor, source in zip(*columns, strict=True):
            if actor and source != "model":
                found[sample_id].add(actor)
        desk.labelers[plan.name] = {item: frozenset(names) for item, names in found.items()}
    return desk.labelers[plan.name]


def _drawn(plan: QaPlan) -> set[str]:
    return {item for stratum in plan.strata for item in stratum.order} | set(plan.planted or {})


def _regions(desk: Desk, version: Version, body: BlindAnswer) -> tuple[Region, ...]:
    """What the reviewer answered, as rows. Raises ValueError that names the field."""
    given = Counter(
        label=body.label is not None, labels=body.labels is not None, regions=body.regions is not None, unsure=body.unsure
    )  # fmt: skip
    if sum(given.values()) != 1:
        raise ValueError("expected one of label, labels, regions and unsure")
    schema, empty = version.schema, dict.fromkeys(REGION_COLUMNS)
    labels = [body.label] if body.label is not None else body.labels or []
    if len(set(labels)) > 1 and not schema.multi_label:
        raise ValueError(f"labels: the schema {schema.name} has one class an image; got {len(set(labels))}")
    classes = [class_name(label, schema) for label in dict.fromkeys(labels)]
    rows = [{**empty, "kind": "classification", "label": name} for name in classes]
    if body.regions:
        size = desk.pictures.size_of(version, body.sample_id)
        for raw in body.regions:
            found = stored_fields(raw, schema, size)
            if found.get("kind") is None:
                raise ValueError(f"kind: missing. {did_you_mean('', schema.kinds, noun='kinds')}")
            if found["kind"] in _DRAWN_KINDS and found.get("x1") is None:
                raise ValueError(f"{found['kind']}: expected a box or a geometry")
            rows.append(empty | found)
    return tuple(Region(str(number), row) for number, row in enumerate(rows))


def _asked(schema: LabelSchema) -> str:
    if set(schema.kinds) <= {"classification"}:
        return "Which classes hold for this image?" if schema.multi_label else "Which class is this?"
    return "Mark everything that the guide asks for."


def _as(repository: Repository, actor: str) -> Repository:
    """The same repository in another person's name, who stands in the ledger then."""
    return Repository(repository.store, repository.settings.model_copy(update={"actor": actor}), repository.root)
