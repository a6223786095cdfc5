"""The review app as an ASGI application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from datasetops.errors import ConflictError, DatasetOpsError, FormatError, NotFoundError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.web import api, pages, qa
from datasetops.web.render import HERE, page_context, refusal, refused, render
from datasetops.web.security import TOO_LARGE, Guard
from datasetops.web.sessions import HOURS
from datasetops.web.users import Users
from datasetops.web.workplace import Desk

_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (FormatError, 415),
    (DatasetOpsError, 500),
    (ValueError, 400),
)
_SAID: Final = {
    404: ("There is no such page.", "Go back, or begin at the first page: /"),
    405: ("That cannot be done here.", "Load the page again."),
    413: TOO_LARGE,
}


def create_app(
    repository: Repository,
    version: Version | None,
    users: Users,
    *,
    progress: Progress = no_progress,
    names: Iterable[str] = (),
    local: bool = True,
) -> FastAPI:
    """The app of a repository; `/` leads to `version`, or to the newest one.

    `names` are further host names under which people reach it; `local`: it listens on this machine alone. The first
    address for Users.on_this_machine is `/enter?token=` and `app.state.desk.tokens.make(actor)`.
    """
    desk = Desk(repository, version, users, progress=progress)
    guard = Middleware(
        Guard,  # type: ignore[arg-type, unused-ignore]
        users=users, sessions=desk.sessions, access=desk.access, names=tuple(names), local=local, refuse=refusal,
    )  # fmt: skip
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, middleware=[guard])
    app.state.desk = desk
    app.mount("/static", _Static(directory=HERE / "static"))
    app.add_api_route("/enter", _enter, methods=["GET"])
    app.add_api_route("/login", _login_page, methods=["GET"])
    app.add_api_route("/login", _login, methods=["POST"])
    app.add_api_route("/logout", _logout, methods=["POST"])
    for part in (api, qa, pages):
        app.include_router(part.router)
    for kind, _ in _STATUS:
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class _Static(StaticFiles):
    """The app's own files; asked for again after an update."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


# --- coming in --------------------------------------------------------------------------------------------------------


def _enter(request: Request) -> Response:
    """Exchange the one-time token for a session."""
    desk: Desk = request.app.state.desk
    actor = desk.tokens.redeem(request.query_params.get("token", ""))
    stamp = desk.users.stamp(actor) if actor else None
    if actor is None or stamp is None:
        if request.state.session:
            return RedirectResponse("/", 303)  # the same link again, in a browser that it let in
        return refused(
            request, 403, "This address was used before, or never held.",
            "It lets one browser in, once. Stop dsops review with Ctrl-C and start it again for a new one: nothing that "
            "was decided is lost.",
        )  # fmt: skip
    return _let_in(request, actor, stamp, "/")


def _login_page(request: Request) -> Response:
    if request.app.state.desk.users.mode != "file":
        return RedirectResponse("/", 303)
    return _sign_in(request, _local(request.query_params.get("next", "")))


async def _login(request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), max_num_fields=10))
    return await run_in_threadpool(_try_login, request, form)


def _try_login(request: Request, form: dict[str, str]) -> Response:
    desk: Desk = request.app.state.desk
    if desk.users.mode != "file":
        return refused(request, 403, "People do not sign in here.", "Open the address that dsops review printed.")
    name, password, wanted = form.get("name", "").strip(), form.get("password", ""), _local(form.get("next", ""))
    address = request.client.host if request.client else ""
    if (wait := desk.tries.wait(address, name)) > 0:
        error = f"Too many wrong tries. Wait {int(wait) + 1} seconds, then try again."
        return _sign_in(request, wanted, error, 429, {"retry-after": str(int(wait) + 1)})
    if not desk.users.check(name, password) or (stamp := desk.users.stamp(name)) is None:
        desk.tries.failed(address, name)
        return _sign_in(request, wanted, "Name and password do not belong together.", 403)
    desk.tries.succeeded(address, name)
    return _let_in(request, name, stamp, wanted)


def _logout(request: Request) -> Response:
    response = RedirectResponse("/login", 303)
    response.delete_cookie(request.app.state.desk.sessions.cookie, path="/", httponly=True, samesite="strict")
    return response


def _sign_in(
    request: Request, wanted: str, error: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    context = page_context(title="Sign in", data={"error": error, "next": wanted})
    return Response(render("login.html", context | {"error": error, "next": wanted}), status, headers, "text/html")


def _let_in(request: Request, actor: str, stamp: str, wanted: str) -> Response:
    sessions = request.app.state.desk.sessions
    response = RedirectResponse(wanted, 303)
    secure = request.url.scheme == "https"
    response.set_cookie(
        sessions.cookie, sessions.issue(actor, stamp), max_age=HOURS * 3600, path="/", httponly=True,
        samesite="strict", secure=secure,
    )  # fmt: skip
    return response


def _local(wanted: str) -> str:
    """An address on this server, or its first page."""
    plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    return wanted if plain and wanted.startswith("/") and not wanted.startswith("//") else "/"


# --- what went wrong --------------------------------------------------------------------------------------------------


async def _failed(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if isinstance(error, DatasetOpsError):
        return await run_in_threadpool(refused, request, status, error.message, error.remedy)
    message = (str(error) or type(error).__name__).rstrip(".")
    return await run_in_threadpool(refused, request, status, f"{message}.", "Correct it, or load the page again.")


async def _malformed(request: Request, error: Exception) -> Response:
    first: dict[str, Any] = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    name = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    return refused(request, 422, f"{name or 'body'}: {first.get('msg', 'malformed')}.", "Load the page again.")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message, remedy = _SAID.get(status, ("The request cannot be answered.", "Load the page again."))
    return await run_in_threadpool(refused, request, status, message, remedy)
