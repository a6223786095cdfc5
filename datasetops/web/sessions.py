"""Sessions: the one-time address of a start, and signed cookies that outlive a restart of the server."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasetops.errors import StoreError
from datasetops.web.roles import USUAL

HOURS: Final = 12
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class Session:
    """A person at a browser. `csrf` is what their pages send along, which no other site can know; `role` is roles.ROLES's."""

    actor: str
    csrf: str
    role: str = USUAL


class Sessions:
    """Cookies signed with HMAC-SHA-256. Nothing about a session is kept on the server."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        # Browsers keep cookies by host and not by port: two repositories on one machine must not share a name.
        self.cookie = f"dsops-{self._sign('name')[:8]}"

    def issue(self, actor: str, stamp: str) -> str:
        """A cookie's value; `stamp` as in Users.stamp."""
        said = {"actor": actor, "stamp": stamp, "nonce": secrets.token_hex(8), "until": self._clock() + HOURS * 3600}
        body = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")  # cookies hold no = unquoted
        return f"{body}.{self._sign('cookie:' + body)}"

    def read(self, value: str, stamp_of: Callable[[str], str | None]) -> Session | None:
        """None for a cookie that was forged, is out of date, or whose person is gone or has another password."""
        body, _, signature = value.partition(".")
        if not hmac.compare_digest(self._sign(f"cookie:{body}").encode(), signature.encode("utf-8", "replace")):
            return None
        try:
            said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            actor, stamp, nonce, until = (said[name] for name in ("actor", "stamp", "nonce", "until"))
        except (ValueError, KeyError, TypeError, binascii.Error):
            return None
        if self._clock() >= until or stamp_of(actor) != stamp:
            return None
        return Session(actor, self._sign(f"csrf:{nonce}"))

    def vouched(self, actor: str) -> Session:
        """The session of somebody whom a proxy names with every request."""
        return Session(actor, self._sign(f"csrf:proxy:{actor}"))

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class Tokens:
    """One-time tokens: each lets one person in, once."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._lock = threading.Lock()

    def make(self, actor: str) -> str:
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._open[_digest(token)] = actor
        return token

    def redeem(self, token: str) -> str | None:
        """Who it was made for; None for one that is not known or was used."""
        with self._lock:
            return self._open.pop(_digest(token), None)  # looked up by digest, so that time tells nothing of a token


def load_secret(file: Path) -> bytes:
    """The server's secret, made when it is first asked for, readable by its owner alone. Raises StoreError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)
            if len(found := file.read_bytes()) == _SECRET_BYTES:
                return found
            file.unlink()  # a disk that was full left it short
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)  # of two servers that start at once both take the first one's
        draft.unlink()
        return file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}.", remedy="Check the folder's rights and free space.") from None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
