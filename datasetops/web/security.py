"""The guard in front of every page: who may ask, from where, how much, and what browsers are told to refuse."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException

from datasetops.access import AccessLog
from datasetops.telemetry import count_request
from datasetops.web.roles import may, who_may
from datasetops.web.sessions import Session, Sessions
from datasetops.web.users import Users

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refuse = Callable[[Scope, int, str, str], tuple[bytes, str]]  # scope, status, error, remedy → body, media type

BODY_LIMIT: Final = 1 << 20  # bytes of a request; a fix with many polygons has some hundred kilobytes
_ADDRESS_LIMIT: Final = 8192
_OPEN: Final = ("/enter", "/login", "/static/")  # what can be asked for without a session
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
)
_LOG = logging.getLogger(__name__)


class RefusalError(Exception):
    """A request that is answered with a status, what is wrong, and what to do."""

    def __init__(self, status: int, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.remedy = remedy


class Guard:
    """ASGI middleware. Puts the session into `scope["state"]["session"]`; nothing gets past it without one.

    `names` are the host names under which people reach the server; addresses in numbers cannot be rebound and pass,
    unless `local`: then only this machine's.
    """

    def __init__(
        self,
        app: App,
        *,
        users: Users,
        sessions: Sessions,
        access: AccessLog | None,
        names: Iterable[str],
        local: bool,
        refuse: Refuse,
    ) -> None:
        self._app = app
        self._access = access
        self._users = users
        self._sessions = sessions
        self._public = {name.lower().rstrip(".") for name in names}
        self._names = {*self._public, *_LOCAL_NAMES}
        self._local = local
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["session"] = None
        began = time.monotonic()
        started = False
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_LIMIT:
                raise HTTPException(413)  # which FastAPI hands on, unlike others that come while it reads a body
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._note(scope, message["status"])
                route = getattr(scope.get("route"), "path", "other")
                count_request(time.monotonic() - began, scope["method"], route, message["status"])
                message["headers"] = _with_headers(message.get("headers", ()))
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, counted, guarded)
            return
        except RefusalError as refusal:
            answer = refusal
        except Exception as error:
            inside = _LOG.isEnabledFor(logging.DEBUG)
            _LOG.error("%s %r: %s: %s", scope["method"], scope["path"], type(error).__name__, error, exc_info=inside)
            answer = RefusalError(500, "Something unexpected happened.", "This is a fault in dsops; what it met stands in the "
                             "terminal. Nothing that was decided is lost: load the page again.")  # fmt: skip
            if started:
                raise
        await self._answer(answer, scope, guarded)

    def _note(self, scope: Scope, status: int) -> None:
        session: Session | None = scope["state"]["session"]
        if self._access is not None and session is not None and scope["method"] == "GET" and status in (200, 304):
            self._access.note(session.actor, session.role, scope["path"])

    async def _answer(self, answer: RefusalError, scope: Scope, send: Send) -> None:
        body, kind = self._refuse(scope, answer.status, answer.error, answer.remedy)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if answer.status == 303:
            headers.append((b"location", answer.remedy.encode()))
        if answer.status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _check(self, scope: Scope) -> None:
        headers = _Headers(scope)
        host = self._host(headers)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusalError(
                405, f"{scope['method']} is not allowed here.", "Pages are read by GET, decisions sent by POST."
            )
        if len(scope["raw_path"]) + len(scope["query_string"]) > _ADDRESS_LIMIT:
            raise RefusalError(414, "The address is too long.", "Loosen some filters.")
        if (length := headers.one("content-length")) and (not length.isdigit() or int(length) > BODY_LIMIT):
            raise RefusalError(413, *TOO_LARGE)
        session = self._session(scope, headers)
        scope["state"]["session"] = session
        is_open = scope["path"].startswith(_OPEN[2]) or scope["path"] in _OPEN[:2]
        if session is None and not is_open:
            self._refuse_stranger(scope, headers)
        if scope["method"] == "POST":
            self._refuse_foreign(headers, host)
            if session is not None and not is_open and not _same(headers.one("x-csrf"), session.csrf):
                raise RefusalError(403, "The page's token is missing or out of date.", "Load the page again.")
        if session is not None and not may(session.role, scope["method"], scope["path"]):
            if self._access is not None:
                self._access.note(session.actor, session.role, scope["path"], refused=True)
            able = " or ".join(who_may(scope["method"], scope["path"]))
            raise RefusalError(
                403, f"You are {session.role} here, which does not allow this.", f"Ask somebody who is {able}."
            )

    def _host(self, headers: _Headers) -> str:
        """The Host header, if it is one of ours: another name may be one that somebody pointed at this machine."""
        host = headers.one("host")
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if name in self._names or (not self._local and _is_address(name)):
            return host
        raise RefusalError(
            403,
            f"This server is not called {name[:100]!r}.",
            "Use the address that dsops review printed; name further ones with --name.",
        )

    def _session(self, scope: Scope, headers: _Headers) -> Session | None:
        if self._users.mode == "proxy":
            address = (scope.get("client") or ("", 0))[0]
            name = self._users.vouched(address, headers.all(self._users.header))
            return None if name is None else self._with_role(self._sessions.vouched(name), headers)
        for value in headers.cookies(self._sessions.cookie):
            if found := self._sessions.read(value, self._users.stamp):
                return self._with_role(found, headers)
        return None

    def _with_role(self, session: Session, headers: _Headers) -> Session:
        return replace(session, role=self._users.role(session.actor, headers.all(self._users.role_header)))

    def _refuse_foreign(self, headers: _Headers, host: str) -> None:
        """Refuse what another site's page had a browser send. A proxy may have put its own name for the server as host."""
        site, origin = headers.one("sec-fetch-site"), headers.one("origin")
        try:
            parts = urlsplit(origin)
            own = parts.netloc.lower() == host.lower() or (parts.hostname or "") in self._public
        except ValueError:
            own = False
        if site not in ("", "same-origin", "none") or (origin and not own):
            raise RefusalError(403, "The request came from another site.", "Use the pages of this server.")

    def _refuse_stranger(self, scope: Scope, headers: _Headers) -> None:
        is_page = scope["method"] == "GET" and not scope["path"].startswith(("/api/", "/media/"))
        if is_page and headers.one("sec-fetch-site") == "cross-site":
            # A link from another site comes without the cookie; the same address asked for by our own page has it.
            raise RefusalError(200, "again", "")
        if self._users.mode == "file":
            if is_page:
                query = scope["query_string"].decode("latin-1")
                wanted = quote(scope["path"]) + (f"?{query}" if query else "")
                raise RefusalError(303, "Sign in.", f"/login?next={quote(wanted, safe='')}")
            raise RefusalError(401, "You are not signed in, or no longer.", "Sign in again; what you decided is kept.")
        if self._users.mode == "proxy":
            raise RefusalError(
                403, "The proxy did not say who you are.",
                f"Ask through the proxy; it must set {self._users.header} itself, once, and stand in --trust-from.",
            )  # fmt: skip
        raise RefusalError(
            403 if is_page else 401, "This browser has not been let in, or its 12 hours are over.",
            "Open the address that dsops review printed; it works once. For a new one stop the command with Ctrl-C and "
            "start it again: nothing that was decided is lost.",
        )  # fmt: skip


TOO_LARGE: Final = ("The request is too large.", f"Send at most {BODY_LIMIT >> 20} MB at a time.")


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def one(self, name: str) -> str:
        """The header's value; empty where it is missing or stands there twice."""
        values = self.all(name)
        return values[0] if len(values) == 1 else ""

    def cookies(self, name: str) -> list[str]:
        pairs = [item.strip().partition("=") for header in self.all("cookie") for item in header.split(";")]
        return [value for key, _, value in pairs if key == name]


def _with_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    there = {name.lower() for name, _ in given}
    wanted = (*_HEADERS, ("content-security-policy", POLICY), ("cache-control", "no-store"))
    return given + [(k.encode(), v.encode()) for k, v in wanted if k.encode() not in there]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
