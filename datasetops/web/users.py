"""Who the people are: one on this machine, those of a users file, or those that a proxy vouches for.

A users file has a line for each person: `name:scrypt:<n>:<r>:<p>:<salt>:<key>`, salt and key in base64, and `:<role>` where
it is another than roles.USUAL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from datasetops.errors import ConflictError, FormatError, NotFoundError, did_you_mean
from datasetops.records import sha256_hex
from datasetops.web.roles import LEAD, ROLES, USUAL, VIEWER

Mode = Literal["token", "file", "proxy"]

# OWASP's setting for scrypt with 16 MB of memory a try; what a file may ask for at most, so that none stops the server.
_N: Final = 2**14
_R: Final = 8
_P: Final = 5
_MOST_MEMORY: Final = 256 * 2**20
_LONGEST_NAME: Final = 100
_LONGEST_PASSWORD: Final = 1000
SHORTEST_PASSWORD: Final = 8  # NIST SP 800-63B
_AT_ONCE = threading.Semaphore(2)  # hashes being computed: a flood of tries must not take all processors

FREE_TRIES: Final = 3  # typing errors that cost no wait
_FREE_TRIES_OF_ADDRESS: Final = 20  # an office or a proxy may share one address
LONGEST_WAIT: Final = 60.0  # seconds
_FORGET: Final = 900.0


@dataclass(frozen=True)
class Password:
    """A salted scrypt key (RFC 7914)."""

    n: int
    r: int
    p: int
    salt: bytes
    key: bytes

    @classmethod
    def of(cls, password: str) -> Password:
        salt = secrets.token_bytes(16)
        return cls(_N, _R, _P, salt, _scrypt(password, salt, _N, _R, _P))

    def fits(self, password: str) -> bool:
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.key)

    def __str__(self) -> str:
        salt, key = (base64.b64encode(value).decode() for value in (self.salt, self.key))
        return f"scrypt:{self.n}:{self.r}:{self.p}:{salt}:{key}"

    @classmethod
    def parse(cls, text: str) -> Password:
        """Raises ValueError for what `str` does not write, and for settings that would stop the server."""
        if text.count(":") != 5:
            raise ValueError("not a key that dsops made")
        kind, n, r, p, salt, key = text.split(":")
        found = cls(int(n), int(r), int(p), base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True))
        power = found.n > 1 and found.n & (found.n - 1) == 0
        if kind != "scrypt" or not power or found.r < 1 or not 1 <= found.p <= 64 or len(found.key) != 32:
            raise ValueError("not a key that dsops made")
        if 128 * found.n * found.r > _MOST_MEMORY:
            raise ValueError("it asks for too much memory")
        return found


@dataclass(frozen=True)
class Person:
    password: Password
    role: str = USUAL

    def __str__(self) -> str:
        return str(self.password) if self.role == USUAL else f"{self.password}:{self.role}"

    @classmethod
    def parse(cls, text: str) -> Person:
        """Raises ValueError as Password does, and for a role that there is not."""
        found = text.split(":")
        role = found.pop() if len(found) == 7 else USUAL
        if role not in ROLES:
            raise ValueError(f"the role must be one of {', '.join(ROLES)}")
        return cls(Password.parse(":".join(found)), role)


_NOBODY = Password(_N, _R, _P, b"\0" * 16, b"\0" * 32)  # what an unknown name is measured against: the same work


class Users:
    """How requests become people. Make one with `on_this_machine`, `from_file` or `behind_proxy`."""

    def __init__(
        self,
        mode: Mode,
        *,
        actor: str = "",
        file: Path | None = None,
        header: str = "",
        role_header: str = "",
        proxies: Iterable[str] = (),
    ) -> None:
        self.mode = mode
        self.actor = actor
        self.header = header.lower()
        self.role_header = role_header.lower()
        self._file = file
        self._proxies = [ipaddress.ip_network(item, strict=False) for item in proxies]
        self._known: Mapping[str, Person] = {}
        self._read_at: tuple[int, int] | None = None
        self._lock = threading.Lock()
        if file is not None:
            self._known = read_users(file)
            if not self._known:
                raise NotFoundError(f"{file} has no users.", remedy=f"Add one with: dsops review user {file} NAME")

    @classmethod
    def on_this_machine(cls, actor: str) -> Users:
        """One person, who has the one-time address that the command printed."""
        return cls("token", actor=actor)

    @classmethod
    def from_file(cls, file: Path) -> Users:
        """People with a password. Raises NotFoundError, FormatError that names file and line."""
        return cls("file", file=file)

    @classmethod
    def behind_proxy(
        cls, header: str, proxies: Iterable[str] = ("127.0.0.1", "::1"), role_header: str | None = None
    ) -> Users:
        """Whoever the header names, believed only of connections from these addresses or networks.

        `role_header` names their role; who comes without a known one is a viewer then. Raises ValueError for a header or
        an address that cannot be one.
        """
        for option, name in (("--trust-header", header), ("--role-header", role_header)):
            if name is not None and not (name.isascii() and name.replace("-", "").isalnum()):
                raise ValueError(f"{option}: expected the name of a header such as X-Remote-User; got {name!r}")
        try:
            return cls("proxy", header=header, role_header=role_header or "", proxies=proxies)
        except ValueError as error:
            raise ValueError(f"--trust-from: {error}") from None

    def stamp(self, name: str) -> str | None:
        """Changes with the person's password; None for somebody who is not, or no longer, known."""
        if self.mode != "file":
            return "" if self.mode == "proxy" or name == self.actor else None
        person = self._current().get(name)
        return None if person is None else sha256_hex(str(person.password).encode())[:16]

    def role(self, name: str, told: list[str]) -> str:
        """The role of somebody who is let in; `told` are the values of the request's `role_header`.

        Whoever opened the app on this machine may do everything.
        """
        if self.mode == "proxy" and self.role_header:
            return told[0].strip().lower() if len(told) == 1 and told[0].strip().lower() in ROLES else VIEWER
        person = self._current().get(name)
        return person.role if person else LEAD if self.mode == "token" else USUAL

    def check(self, name: str, password: str) -> bool:
        """Whether name and password belong together; an unknown name takes as long as a known one."""
        known = self._current().get(name)
        with _AT_ONCE:
            fits = (known.password if known else _NOBODY).fits(password[:_LONGEST_PASSWORD])
        return fits and known is not None

    def vouched(self, address: str, values: list[str]) -> str | None:
        """The name that a proxy gave, None unless it is a trusted one that gave exactly one sound name."""
        try:
            where = ipaddress.ip_address(address)
        except ValueError:
            return None
        if self.mode != "proxy" or not any(where in network for network in self._proxies) or len(values) != 1:
            return None
        name = values[0].strip()
        return name if _name_fault(name) is None else None

    def _current(self) -> Mapping[str, Person]:
        """The people of the file as it is now; as it was, while it cannot be read."""
        if self._file is None:
            return {}
        with self._lock:
            try:
                facts = self._file.stat()
                if (facts.st_mtime_ns, facts.st_size) != self._read_at:
                    self._known = read_users(self._file)
                    self._read_at = (facts.st_mtime_ns, facts.st_size)
            except (OSError, NotFoundError, FormatError):
                return self._known
            return self._known


class Tries:
    """Slows guessing: after a few wrong tries each further one doubles the wait, by name and address, and by address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, address: str, name: str) -> float:
        """Seconds until the next try is looked at; 0 for now."""
        with self._lock:
            now = self._clock()
            return max(0.0, *(self._open_from(key, free) - now for key, free in _keys(address, name)))

    def failed(self, address: str, name: str) -> None:
        with self._lock:
            now = self._clock()
            self._failed = {key: item for key, item in self._failed.items() if now - item[1] < _FORGET}
            for key, _ in _keys(address, name):
                self._failed[key] = (self._failed.get(key, (0, now))[0] + 1, now)

    def succeeded(self, address: str, name: str) -> None:
        with self._lock:
            self._failed.pop((address, name), None)

    def _open_from(self, key: tuple[str, str], free: int) -> float:
        count, last = self._failed.get(key, (0, 0.0))
        return last + min(LONGEST_WAIT, 2.0 ** min(16, count - free)) if count >= free else 0.0


def read_users(file: Path) -> dict[str, Person]:
    """Raises NotFoundError, FormatError that names file and line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        remedy = f"Add a user with: dsops review user {file} NAME"
        raise NotFoundError(f"There is no users file {file}.", remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise FormatError(f"{file} cannot be read: {reason}.", remedy="Check its rights.") from None
    found: dict[str, Person] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        try:
            if name in found:
                raise ValueError("the name stands here twice")
            if fault := _name_fault(name):
                raise ValueError(fault)
            found[name] = Person.parse(rest)
        except (ValueError, binascii.Error) as error:
            reason = str(error) if str(error).startswith(("the ", "it ", "not ")) else "it is not as dsops writes it"
            raise FormatError(
                f"{file}: line {number}: {reason}.",
                remedy=f"Remove the line, and add the user with: dsops review user {file} NAME",
            ) from None
    return found


def set_password(file: Path, name: str, password: str, role: str | None = None) -> bool:
    """Add a user, or give one a new password; True if the name is new. Without a `role` a known one keeps theirs.

    The file is readable by its owner alone.

    Raises ValueError for a name or password that cannot be used, ConflictError where another one is changing the file.
    """
    if fault := _name_fault(name):
        raise ValueError(f"NAME: {fault}")
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise ValueError(
            f"password: expected {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters; got {len(password)}"
        )
    if role is not None and role not in ROLES:
        raise ValueError(f"--role: {role!r} is not known. {did_you_mean(role, ROLES, noun='roles')}")
    users = read_users(file) if file.exists() else {}
    is_new = name not in users
    users[name] = Person(Password.of(password), role or (USUAL if is_new else users[name].role))
    draft = file.with_name(f"{file.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConflictError(
            f"{draft} is there: somebody is changing {file}.", remedy="Wait; or remove it if nobody is."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.writelines(f"{user}:{person}\n" for user, person in users.items())
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    return is_new


def _name_fault(name: str) -> str | None:
    if not name or len(name) > _LONGEST_NAME or name != name.strip():
        return f"the name must have 1 to {_LONGEST_NAME} characters, and no space at its ends"
    if ":" in name or name.startswith("#") or not name.isprintable():
        return "the name must have no colon or control character, and not begin with #"
    return None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=2 * _MOST_MEMORY, dklen=32)


def _keys(address: str, name: str) -> tuple[tuple[tuple[str, str], int], ...]:
    return ((address, name), FREE_TRIES), ((address, ""), _FREE_TRIES_OF_ADDRESS)
