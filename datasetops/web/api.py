"""The API: queue, items, decisions, progress, media. What it answers is described in docs/review.md."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from datasetops.review.item import VERDICTS_IN_WORDS
from datasetops.web.deciding import Choice, decide, undo
from datasetops.web.media import SIDES, Box, Picture
from datasetops.web.pages import LARGEST_PAGE, PAGE, filters_of, item_data, queue_data, ready, whole
from datasetops.web.render import json_response, session_of
from datasetops.web.workplace import Desk

_NEWS: Final = 5000  # decisions told at once to a page that was away for long
_YEAR: Final = 365 * 24 * 3600
_NUMBER: Final = re.compile(r"-?\d{1,7}(\.\d{1,20})?")

router = APIRouter()


class Undo(BaseModel):
    model_config = ConfigDict(extra="forbid")

    finding_ids: list[str] | None = Field(default=None, max_length=1000)


@router.get("/api/v/{version}/queue")
def queue(request: Request, version: str) -> Response:
    asked = request.query_params
    start = whole(asked.get("start"), "start", 0, 10**9, 0)
    size = whole(asked.get("size"), "size", 1, LARGEST_PAGE, PAGE)
    return json_response(queue_data(request, version, filters_of(request), start, size))


@router.get("/api/v/{version}/findings/{finding_id}")
def finding(request: Request, version: str, finding_id: str) -> Response:
    return json_response(item_data(request, version, finding_id, filters_of(request)))


@router.get("/api/v/{version}/findings/{finding_id}/history")
def finding_history(request: Request, version: str, finding_id: str) -> Response:
    return json_response({"history": _desk(request).workplace(version).history(finding_id)})


@router.get("/api/v/{version}/next")
def next_finding(request: Request, version: str) -> Response:
    desk, actor = _desk(request), session_of(request).actor
    workplace = desk.workplace(version)
    taken = desk.holds.of_others(workplace.version.name, actor)
    filters = ready(workplace, filters_of(request))
    found = workplace.queue().next(filters, request.query_params.get("after") or None, taken)
    return json_response({"finding_id": found})


@router.post("/api/v/{version}/decisions")
def decisions(request: Request, version: str, body: Choice) -> Response:
    desk = _desk(request)
    workplace = desk.workplace(version)
    answer = decide(desk, workplace, body, session_of(request))
    return json_response(answer | {"progress": workplace.progress()}, 200 if answer["kept"] else 409)


@router.post("/api/v/{version}/undo")
def take_back(request: Request, version: str, body: Undo) -> Response:
    workplace = _desk(request).workplace(version)
    withdrawn = undo(workplace, body.finding_ids, session_of(request))
    return json_response({"withdrawn": withdrawn, "progress": workplace.progress()})


@router.get("/api/v/{version}/progress")
def progress(request: Request, version: str) -> Response:
    return json_response(_desk(request).workplace(version).progress())


@router.get("/api/v/{version}/since")
def since(request: Request, version: str) -> Response:
    """What was decided or taken back after a ledger entry (by default nothing), and who looks at what."""
    desk = _desk(request)
    workplace = desk.workplace(version)
    workplace.queue()
    log = workplace.log
    newest = log.entry
    entry = whole(request.query_params.get("entry"), "entry", 0, 10**12, newest)
    names = log.since(entry)[-_NEWS:]
    made = {name: log.of(name) for name in names}
    return json_response(
        {
            "entry": newest,
            "decided": [
                {"finding_id": item.finding_id, "actor": item.actor, "verdict": item.verdict}
                | {"words": VERDICTS_IN_WORDS[item.verdict]}
                for said in made.values()
                for item in said
            ],
            "withdrawn": [name for name, said in made.items() if not said],
            "holding": desk.holds.of_others(workplace.version.name, session_of(request).actor),
        }
    )


@router.get("/media/{version}/full/{sample_id:path}")
def full(request: Request, version: str, sample_id: str) -> Response:
    desk = _desk(request)
    return _picture(request, desk.pictures.full(desk.version(version), sample_id))


@router.get("/media/{version}/thumb/{sample_id:path}")
def thumb(request: Request, version: str, sample_id: str) -> Response:
    desk = _desk(request)
    side = whole(request.query_params.get("side"), "side", 16, SIDES[-1], 160)
    annotation_id = request.query_params.get("annotation")
    return _picture(request, desk.pictures.thumb(desk.version(version), sample_id, side, _box(request), annotation_id))


@router.get("/media/{version}/mask/{annotation_id:path}.png")
def mask(request: Request, version: str, annotation_id: str) -> Response:
    desk = _desk(request)
    return _picture(request, desk.pictures.mask(desk.version(version), annotation_id))


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _box(request: Request) -> Box | None:
    text = request.query_params.get("box")
    if not text:
        return None
    values = [float(part) for part in text.split(",") if _NUMBER.fullmatch(part)]
    if len(values) != 4 or text.count(",") != 3 or values[0] >= values[2] or values[1] >= values[3]:
        raise ValueError(f"box: expected x1,y1,x2,y2 in pixels; got {text[:100]!r}")
    return values[0], values[1], values[2], values[3]


def _picture(request: Request, picture: Picture) -> Response:
    """Kept by the browser for good, but apart for each session: other servers were or will be at this address."""
    tag = f'"{picture.tag}"'
    headers: dict[str, Any] = {
        "cache-control": f"private, max-age={_YEAR}, immutable",
        "vary": "cookie",
        "etag": tag,
        "content-security-policy": "default-src 'none'; sandbox",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(picture.data, media_type=picture.media_type, headers=headers)
