"""Pages: the same data as the API's, drawn on the server, so that they can be read without scripts."""

from __future__ import annotations

import base64
from collections import deque
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from datasetops.access import access_lines
from datasetops.errors import ConflictError, NotFoundError
from datasetops.manifest import Version
from datasetops.review.filters import Filters
from datasetops.web.qa import blind_item, newest_plan, question
from datasetops.web.render import page_context, render, session_of
from datasetops.web.standalone import standalone
from datasetops.web.workplace import Desk, Workplace

PAGE: Final = 60  # findings on one page
LARGEST_PAGE: Final = 500
_LOOKS: Final = 1_000  # newest lines of the access log on its page
_PATIENCE: Final = 5.0  # seconds for look-alikes; embeddings that are missing take longer
_OWN: Final = frozenset({"page", "view", "start", "size", "after", "save"})  # parameters that are no filters

router = APIRouter()


@router.get("/")
def home(request: Request) -> Response:
    desk: Desk = request.app.state.desk
    names = desk.version_names()
    if not names:
        raise NotFoundError("The repository has no version yet.", remedy="Bring data in with: dsops ingest SOURCE")
    head = desk.repository.head()
    name = desk.first.name if desk.first else head.name if head else names[0]
    return RedirectResponse(f"/v/{name}/", 303)


@router.get("/v/{version}")
def without_slash(version: str) -> Response:
    return RedirectResponse(f"/v/{quote(version, safe='')}/", 303)


@router.get("/v/{version}/")
def overview_page(request: Request, version: str) -> Response:
    from datasetops.web.overview import overview

    found = _desk(request).version(version)
    data = overview(_desk(request).repository, found, actor=session_of(request).actor)
    return _page(request, "overview.html", f"Overview of {found.name}", "overview", data, found)


@router.get("/v/{version}/review")
def queue_page(request: Request, version: str) -> Response:
    workplace = _desk(request).workplace(version)
    filters = filters_of(request)
    asked = dict(request.query_params)
    number = whole(asked.get("page"), "page", 1, 10**9, 1)
    data = queue_data(request, version, filters, (number - 1) * PAGE, PAGE)
    data |= {"page": number, "pages": max(1, -(-data["total"] // PAGE))}
    data["view"] = "grid" if asked.get("view") == "grid" else "list"
    data["search"] = filters.search
    data["apart"] = workplace.apart()
    data["progress"] = workplace.progress()
    data["classes"] = [{"name": item.name, "colour": item.colour} for item in workplace.version.schema.classes]
    found = workplace.version
    return _page(request, "queue.html", f"Findings of {found.name}", "review", data, found, data["query"])


@router.get("/v/{version}/review/{finding_id}")
def item_page(request: Request, version: str, finding_id: str) -> Response:
    filters = filters_of(request)
    data = item_data(request, version, finding_id, filters)
    found = _desk(request).version(version)
    data["csrf"] = session_of(request).csrf
    if request.query_params.get("save") == "1":  # scripts ask for it otherwise
        data["history"] = _desk(request).workplace(version).history(finding_id)
    title = f"{data['finding']['check']}: {data['sample']['name']}"
    return _page(request, "item.html", title, "review", data, found, filters.to_query())


@router.get("/v/{version}/story/{sample_id:path}")
def story_page(request: Request, version: str, sample_id: str) -> Response:
    from datasetops.provenance.graph import draw
    from datasetops.provenance.story import sample_story

    desk = _desk(request)
    story = sample_story(desk.repository, sample_id)
    data = {"story": story, "graph": base64.b64encode(draw(story).encode()).decode()}
    return _page(request, "story.html", f"Story of {story.name}", "review", data, desk.version(version))


@router.get("/access")
def access_page(request: Request) -> Response:
    desk = _desk(request)
    if desk.access is not None:
        desk.access.write()
    lines = deque(access_lines(desk.repository.store), maxlen=_LOOKS)
    data = {"lines": list(reversed(lines)), "most": _LOOKS}
    head = desk.repository.head()
    if head is None:
        raise NotFoundError("The repository has no version yet.", remedy="Bring data in with: dsops ingest SOURCE")
    return _page(request, "access.html", "Who looked at what", "access", data, head)


@router.get("/compare/{a}/{b}")
def compare_page(request: Request, a: str, b: str) -> Response:
    from datasetops.web.comparison import comparison

    desk = _desk(request)
    before, after = desk.version(a), desk.version(b)
    asked = request.query_params
    start = whole(asked.get("start"), "start", 0, 10**9, 0)
    data = comparison(desk.repository, before, after, start=start, only=asked.get("only") or None)
    return _page(request, "compare.html", f"{before.name} and {after.name} compared", "compare", data, after)


@router.get("/v/{version}/qa")
@router.get("/v/{version}/qa/")
def newest_qa(request: Request, version: str) -> Response:
    found = _desk(request).version(version)
    try:
        plan = newest_plan(_desk(request).repository, found)
    except NotFoundError as error:
        data = {"error": error.message, "remedy": error.remedy}
        return _page(request, "message.html", error.message, "qa", data, found)
    return RedirectResponse(f"/v/{found.name}/qa/{plan.name}", 303)


@router.get("/v/{version}/qa/{plan}")
def qa_page(request: Request, version: str, plan: str) -> Response:
    desk = _desk(request)
    found = desk.version(version)
    data = question(desk, plan, found) | blind_item(desk, plan, session_of(request).actor)
    return _page(request, "blind.html", f"Blind check {data['plan']} of {found.name}", "qa", data, found)


def filters_of(request: Request) -> Filters:
    """The filters in an address, whatever else stands there. Raises ValueError that names the field."""
    return Filters.from_query([pair for pair in request.query_params.multi_items() if pair[0] not in _OWN])


def queue_data(request: Request, name: str, filters: Filters, start: int, size: int) -> dict[str, Any]:
    workplace = _desk(request).workplace(name)
    queue = workplace.queue()
    ready(workplace, filters)
    page = queue.page(filters, start, size)
    facets = queue.facets(filters)
    return {
        "total": page.total,
        "rows": page.rows,
        "facets": facets,
        "query": filters.to_query(),
        "start": start,
        "size": size,
    }


def item_data(request: Request, name: str, finding_id: str, filters: Filters) -> dict[str, Any]:
    """The item's JSON; looking at it holds its sample for this person."""
    desk = _desk(request)
    workplace = desk.workplace(name)
    data = workplace.item(finding_id, ready(workplace, filters))
    sample = data["sample"]["sample_id"] if data["sample"] else None
    actor = session_of(request).actor
    data["held_by"] = desk.holds.take(workplace.version.name, sample, actor) if sample else None
    return data


def ready(workplace: Workplace, filters: Filters) -> Filters:
    """The filters, once what they need is there. Raises ConflictError while it is not."""
    if filters.like is not None and workplace.lookalikes(_PATIENCE) is None:
        raise ConflictError("Look-alikes are being prepared.", remedy="Load the page again in a moment.")
    return filters


def whole(text: str | None, name: str, least: int, most: int, usual: int) -> int:
    """A whole number from an address. Raises ValueError that names the field."""
    if text in (None, ""):
        return usual
    if not (str(text).isascii() and str(text).isdigit() and least <= int(str(text)[:12]) <= most):
        raise ValueError(f"{name}: expected a whole number from {least:,} to {most:,}; got {str(text)[:50]!r}")
    return int(str(text))


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _page(
    request: Request, template: str, title: str, nav: str, data: Any, version: Version, query: str = ""
) -> Response:
    desk = _desk(request)
    context = page_context(
        title=title,
        session=session_of(request),
        version=version.name,
        versions=desk.version_names(),
        nav=nav,
        query=query,
        data=data,
        sign_out=desk.users.mode == "file",
        access=desk.access is not None,
    )
    html = render(template, context).encode("utf-8", "replace").decode()
    if request.query_params.get("save") != "1":
        return Response(html, media_type="text/html")
    name = "".join(sign if sign.isalnum() else "-" for sign in title.lower())[:80]
    headers = {"content-disposition": f'attachment; filename="{name.encode("ascii", "replace").decode()}.html"'}
    return Response(standalone(html, desk), media_type="text/html", headers=headers)
