"""Answers as JSON and as pages. What stands in the data is text everywhere: templates escape, JSON hides its brackets."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import orjson
from fastapi import Request, Response
from markupsafe import Markup, escape

from datasetops.web.security import Scope
from datasetops.web.sessions import Session

HERE: Final = Path(__file__).parent
_HIDDEN: Final = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_API: Final = ("/api/", "/media/")
# For a link from another site: it came without the session's cookie, and asked again from here it comes with it.
_AGAIN: Final = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>dsops</title>'


def as_json(value: Any) -> bytes:
    """JSON of any value that answers hold; NaN is null."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)
    except TypeError:  # text that is not UTF-8, or numbers beyond 64 bits
        return json.dumps(value, default=str).encode()


def json_response(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status, media_type="application/json")


def tojson_safe(value: Any) -> Markup:
    """JSON that can stand inside a script element, whatever is in it."""
    return Markup(as_json(value).decode().translate(_HIDDEN))  # noqa: S704 (its brackets are gone)


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["tojson_safe"] = tojson_safe
    return made


def render(template: str, context: dict[str, Any]) -> str:
    return environment().get_template(template).render(context)


def session_of(request: Request) -> Session:
    """The guard lets nobody in without one."""
    session: Session = request.state.session
    return session


def page_context(
    *,
    title: str,
    session: Session | None = None,
    version: str | None = None,
    versions: list[str] | None = None,
    nav: str = "",
    query: str = "",
    data: Any = None,
    sign_out: bool = False,
    access: bool = False,
) -> dict[str, Any]:
    """What every template gets."""
    return {
        "version": version,
        "versions": versions or [],
        "actor": session.actor if session else "",
        "role": session.role if session else "",
        "csrf": session.csrf if session else "",
        "title": title,
        "nav": nav,
        "query": query,
        "data": data,
        "sign_out": sign_out,
        "access": access,
    }


def refusal(scope: Scope, status: int, error: str, remedy: str) -> tuple[bytes, str]:
    """(body, media type) of an answer that is not what was asked for: JSON for the API, words for media, a page else."""
    if scope["path"].startswith(_API[0]):
        return as_json({"error": error, "remedy": remedy}), "application/json"
    if scope["path"].startswith(_API[1]):
        return f"{error} {remedy}".encode("utf-8", "replace"), "text/plain; charset=utf-8"
    if status == 200:
        return _AGAIN.encode(), "text/html; charset=utf-8"
    context = page_context(
        title=error, session=scope.get("state", {}).get("session"),
        data={"status": status, "error": error, "remedy": remedy},
    )  # fmt: skip
    try:
        page = render("message.html", context)
    except jinja2.TemplateError:  # what tells of faults must have none
        page = f"<!doctype html><title>{escape(error)}</title><h1>{escape(error)}</h1><p>{escape(remedy)}"
    return page.encode("utf-8", "replace"), "text/html; charset=utf-8"


def refused(request: Request, status: int, error: str, remedy: str = "") -> Response:
    body, kind = refusal(request.scope, status, error, remedy)
    return Response(body, status, media_type=kind)
