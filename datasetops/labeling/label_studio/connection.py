"""Requests to a Label Studio server, through the SDK's client, and its refusals as errors with a remedy."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from typing import Any, Final

import orjson

from datasetops.errors import DatasetOpsError, MissingDependencyError, NotFoundError
from datasetops.labeling.base import ServerAwayError
from datasetops.secret_files import secret

URL: Final = "LABEL_STUDIO_URL"
TOKEN: Final = "LABEL_STUDIO_API_KEY"  # noqa: S105 (a variable's name)
_PATIENCE: Final = 120.0  # seconds for which a busy server is asked again
_QUICK: Final = 60.0  # seconds for an ordinary answer
SLOW: Final = 600.0  # seconds for an import or an export


class LabelServerError(DatasetOpsError):
    """The labeling server refused, or could not be reached."""


class UnreachableError(LabelServerError, ServerAwayError):
    """The server is not there, or too busy."""


class UnansweredError(LabelServerError, ServerAwayError):
    """The connection broke after a request was sent: it may or may not have been carried out."""


class Connection:
    """A server at `url`; `token` is a legacy token or a personal access token. Neither is ever part of a message."""

    def __init__(self, url: str, token: str) -> None:
        try:
            import httpx
            from label_studio_sdk.client import LabelStudio
            from label_studio_sdk.core.api_error import ApiError
        except ImportError:
            raise MissingDependencyError(
                "label-studio-sdk", extra="label-studio", purpose="Talking to Label Studio"
            ) from None
        self.url = url.rstrip("/")
        try:
            sessions = httpx.Client(follow_redirects=True)
            weakref.finalize(self, sessions.close)
            sdk: Any = LabelStudio(base_url=self.url, api_key=token, timeout=_QUICK, httpx_client=sessions)  # type: ignore[no-untyped-call]
            self._http = sdk._client_wrapper.httpx_client
        except ApiError as error:  # an expired personal access token
            raise self._refusal(error.status_code or 401, str(error.body)) from None
        self._version: str | None = None

    @classmethod
    def from_environment(cls) -> Connection:
        """From LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or the file that LABEL_STUDIO_API_KEY_FILE names."""
        url, token = os.environ.get(URL), secret(TOKEN)
        if not url or not token:
            missing = URL if not url else TOKEN
            raise LabelServerError(
                f"{missing} is not set.",
                remedy=f"Set {URL} to the server's address and {TOKEN} (or {TOKEN}_FILE) to a token from "
                "Account & Settings in Label Studio.",
            )
        if not url.startswith(("http://", "https://")):
            raise LabelServerError(f"{URL}: {url!r} is not an address.", remedy="Write http://host:port.")
        return cls(url, token)

    @property
    def version(self) -> str:
        """The server's release, such as 1.23.2."""
        if self._version is None:
            told = self.get("api/version")
            release = told.get("release") if isinstance(told, dict) else None
            if not release:
                raise LabelServerError(
                    f"{self.url} answers, but it is not Label Studio.", remedy=f"Correct {URL} (host and port)."
                )
            self._version = str(release)
        return self._version

    def get(self, path: str, *, timeout: float = _QUICK, **params: Any) -> Any:
        return self.call("GET", path, params=params, timeout=timeout, again=True)

    def fetch(self, path: str) -> bytes | None:
        """A file that the server serves, None where it does not."""
        answer = self._http.request(path.lstrip("/"), method="GET", request_options={"max_retries": 0})
        return bytes(answer.content) if answer.status_code == 200 else None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        timeout: float = _QUICK,
        again: bool = False,
    ) -> Any:
        """The parsed answer. `again` says that a request whose answer was lost may be sent once more.

        A server that is starting, busy or limits the rate is asked again for two minutes. Raises LabelServerError;
        UnansweredError where it is not known whether the request was carried out; NotFoundError.
        """
        deadline = time.monotonic() + _PATIENCE
        pause = 0.5
        while True:
            try:
                return self._once(method, path, body, params, timeout)
            except _BusyError as busy:
                refused: Exception = busy.error
                pause = busy.after or pause
            except UnansweredError as error:
                if not again:
                    raise
                refused = error
            if time.monotonic() + pause > deadline:
                raise refused
            time.sleep(pause)
            pause = min(2 * pause, 15.0)

    def _once(self, method: str, path: str, body: Any, params: Mapping[str, Any] | None, timeout: float) -> Any:
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            answer = self._http.request(
                path,
                method=method,
                params=dict(params) if params else None,
                content=None if body is None else orjson.dumps(body),  # the SDK's own encoder is slow on many tasks
                headers={"content-type": "application/json"} if body is not None else None,
                request_options={"timeout_in_seconds": int(timeout), "max_retries": 0},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise UnreachableError(
                f"{self.url} cannot be reached: {error}.", remedy=f"Start Label Studio there, or correct {URL}."
            ) from None
        except httpx.HTTPError as error:
            raise UnansweredError(
                f"{self.url} did not answer: {type(error).__name__}.",
                remedy="Run the command again: it goes on where it stopped.",
            ) from None
        except ApiError as error:  # while a personal access token is exchanged
            raise self._refusal(error.status_code or 401, str(error.body)) from None
        if answer.status_code in (429, 502, 503, 504):
            raise _BusyError(self._refusal(answer.status_code, answer.text), answer.headers.get("retry-after"))
        if answer.status_code >= 400:
            raise self._refusal(answer.status_code, answer.text, path)
        if not answer.content:
            return None
        try:
            return orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            raise LabelServerError(
                f"{self.url}/{path} did not answer in JSON.", remedy=f"Correct {URL}: is it a proxy or another server?"
            ) from None

    def _refusal(self, status: int, text: str, path: str = "") -> DatasetOpsError:
        detail = _detail(text)
        if status == 401:
            return LabelServerError(
                f"{self.url} refused the token: {detail}",
                remedy=f"Set {TOKEN} to a valid token. Legacy tokens have to be allowed in the organization's settings.",
            )
        if status == 403:
            return LabelServerError(
                f"{self.url} does not permit this: {detail}",
                remedy="Use the token of a member with the right to do it.",
            )
        if status == 404:
            return NotFoundError(f"{self.url}/{path}: {detail}", remedy="It may have been deleted in Label Studio.")
        if status in (413, 414) or "cannot access body" in text:
            return LabelServerError(
                f"{self.url} finds the request too large.", remedy="Push smaller images, or serve them from S3."
            )
        if status == 429:
            return UnreachableError(f"{self.url} limits the rate of requests.", remedy="Run the command again later.")
        told = f"{self.url} answered with status {status}: {detail}"
        if status >= 500:
            return UnreachableError(told, remedy="See the server's log, then run the command again.")
        return LabelServerError(told)


class _BusyError(Exception):
    """The server did nothing and may be asked again, `after` seconds where it said so."""

    def __init__(self, error: DatasetOpsError, after: str | None) -> None:
        self.error = error
        self.after = float(after) if after and after.isdigit() else None


def _detail(text: str) -> str:
    """What an error's body says, in one line."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        return "no reason given." if "<" in text or not text else text[:300]
    if not isinstance(body, dict):
        return str(body)[:300]
    parts = [str(body.get("detail") or "")]
    parts += [f"{name}: {value}" for name, value in (body.get("validation_errors") or {}).items()]
    return " ".join(part for part in parts if part)[:600] or "no reason given."
