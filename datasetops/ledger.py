"""The ledger: an append-only, hash-chained log of who did what, when, with which inputs, outputs and parameters.

It is the single source of truth of a repository. Entry n is the object `ledger/<n>.json`, written only if nobody else
wrote it first, so that all writers, on all machines, agree on one order. Every entry carries the repository's state
after it (number of versions, head of each branch); everything under `refs/` can be made again from the ledger.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from datasetops.errors import ConflictError, DamagedError, NotFoundError
from datasetops.records import canonical_json, parse_json, sha256_hex
from datasetops.store import KeyExistsError, Store

HINT: Final = "ledger/tail"
_ATTEMPTS: Final = 200
_KEPT: Final = 20_000  # entries that are kept in memory at most: some 50 MB


@dataclass(frozen=True)
class Event:
    """What happened. `inputs` and `outputs` name versions, commits and digests; `parameters` what the user chose."""

    kind: str  # "init", "ingest", "commit", "audit", …
    actor: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))


@dataclass(frozen=True)
class State:
    """`heads` maps each branch to the name of its newest version; null before its first."""

    versions: int = 0
    heads: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An event in its place. `digest` is the SHA-256 of the stored bytes, and the next entry's `previous`."""

    number: int
    previous: str | None
    event: Event
    state: State
    packages: Mapping[str, str]
    version: str | None  # the version that this event made
    commit: str | None
    branch: str | None

    @property
    def digest(self) -> str:
        return sha256_hex(self.to_bytes())

    def to_bytes(self) -> bytes:
        event = {
            name: getattr(self.event, name)
            for name in ("kind", "actor", "inputs", "outputs", "parameters", "event_id", "time")
        }
        state = {"versions": self.state.versions, "heads": dict(self.state.heads)}
        return canonical_json(
            event
            | {"number": self.number, "previous": self.previous, "state": state, "packages": dict(self.packages)}
            | {"version": self.version, "commit": self.commit, "branch": self.branch}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Raises ValueError where the bytes are not an entry in canonical form."""
        try:
            raw = parse_json(data)
            event = Event(
                **{name: raw[name] for name in ("kind", "actor", "inputs", "outputs", "parameters", "event_id", "time")}
            )
            place = {name: raw[name] for name in ("number", "previous", "packages", "version", "commit", "branch")}
            entry = cls(event=event, state=State(**raw["state"]), **place)
            same = entry.to_bytes() == data
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a ledger entry: {error}") from None
        if not same:
            raise ValueError("not a ledger entry in canonical form")
        return entry


class Ledger:
    """The log of one repository."""

    def __init__(self, store: Store, sign: Callable[[Event], Event] | None = None) -> None:
        """`sign` gives an event with its signature, where it is one that is signed."""
        self._store = store
        self._sign = sign
        self._known: dict[int, Entry] = {}  # entries never change

    def tail(self) -> Entry | None:
        """The newest entry, None in a store without a repository. Starts at a hint, so that it is quick at any length."""
        newest = self._read_or_none(self._hint())
        if newest is None:
            newest = self._read_or_none(0)
        while newest is not None and (following := self._read_or_none(newest.number + 1)) is not None:
            newest = following
        return newest

    def read(self, number: int) -> Entry:
        """Raises NotFoundError, DamagedError."""
        if number in self._known:
            return self._known[number]
        key = _key(number)
        try:
            entry = Entry.from_bytes(self._store.get(key))
        except ValueError as error:
            raise DamagedError(
                f"{key} is damaged: {error}.", remedy="Put it back from a backup, then run `dsops verify`."
            ) from None
        if entry.number != number:
            raise DamagedError(f"{key} holds entry {entry.number}.", remedy="Put it back from a backup.")
        if len(self._known) >= _KEPT:  # in a server that runs for weeks
            self._known.clear()
        self._known[number] = entry
        return entry

    def backwards(self) -> Iterator[Entry]:
        """Entries, newest first."""
        entry = self.tail()
        while entry is not None:
            yield entry
            entry = self.read(entry.number - 1) if entry.number else None

    def names_file(self, key: str) -> bool:
        """Whether an event left this file behind. One that none names is of a process that was killed before it was done."""
        return any(key in entry.event.outputs.get("files", {}) for entry in self.backwards())

    def append(
        self,
        event: Event,
        *,
        after: Entry | None,
        branch: str | None = None,
        commit: str | None = None,
        heads: Mapping[str, str | None] | None = None,
    ) -> Entry:
        """Write the entry that follows `after`. With `commit` it makes the next version on `branch`.

        `heads` replaces the branches (making or deleting one). Raises ConflictError if another writer was first.
        """
        if self._sign is not None:
            event = self._sign(event)
        before = after.state if after else State()
        state = before
        version_name = None
        if commit is not None and branch is not None:
            version_name = f"v{before.versions + 1}"
            state = State(before.versions + 1, {**before.heads, branch: version_name})
        if heads is not None:
            state = replace(state, heads=dict(heads))
        entry = Entry(
            number=after.number + 1 if after else 0,
            previous=after.digest if after else None,
            event=event,
            state=state,
            packages=_packages(),
            version=version_name,
            commit=commit,
            branch=branch,
        )
        try:
            self._store.put_new(_key(entry.number), entry.to_bytes())
        except KeyExistsError:
            raise ConflictError("Another writer was first.", remedy="Run the command again.") from None
        self._store.put_hint(HINT, _hint_bytes(entry))
        return entry

    def record(self, event: Event) -> Entry:
        """Append an event that makes no version, however many others write meanwhile."""
        for _ in range(_ATTEMPTS):
            try:
                return self.append(event, after=self.tail())
            except ConflictError:
                continue
        raise ConflictError("The ledger is being written to without pause.", remedy="Run the command again later.")

    def _hint(self) -> int:
        try:
            number = parse_json(self._store.get(HINT))["number"]
        except (NotFoundError, ValueError, KeyError, TypeError):
            return 0
        return number if isinstance(number, int) and number >= 0 else 0

    def _read_or_none(self, number: int) -> Entry | None:
        try:
            return self.read(number)
        except NotFoundError:
            return None


def check_chain(
    store: Store, replaced: Mapping[str, tuple[str, str | None]] | None = None
) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for every break of the chain, and for a hint that points nowhere.

    `replaced`: entries that an erasure rewrote, with their digest before and after; what follows names either.
    """
    previous: set[str | None] = set()
    keys = [key for key in store.list("ledger/") if key != HINT]
    digests: dict[int, set[str | None]] = {}
    for number, key in enumerate(keys):
        if key != _key(number):
            yield key, f"entry {number} is missing before it"
            return
        data = store.get(key)
        try:
            entry = Entry.from_bytes(data)
        except ValueError as error:
            yield key, str(error)
            previous = set()
            continue
        if entry.number != number or (previous and entry.previous not in previous):
            yield key, f"it does not follow from the entry before it: entry {number - 1} or this one was changed"
        previous = {entry.digest}
        was, now = (replaced or {}).get(key, (None, None))
        if now == entry.digest:
            previous.add(was)
        digests[number] = set(previous)
    if store.exists(HINT) and (fault := _hint_fault(store.get(HINT), digests)):
        yield HINT, fault


def _hint_fault(data: bytes, digests: Mapping[int, Collection[str | None]]) -> str | None:
    """What is wrong with the hint, given the digests that each entry may go by. It is written after its entry."""
    try:
        hint = parse_json(data)
        number, digest = int(hint["number"]), hint["digest"]
    except (ValueError, KeyError, TypeError, OverflowError):
        return "it is no hint (harmless: the next commit writes it again)"
    if number not in digests:
        return f"entry {number}, which it names, is missing: the newest entries were removed"
    return None if digest in digests[number] else f"entry {number} is not the one that it names: it was changed"


def _key(number: int) -> str:
    return f"ledger/{number:012d}.json"


def _hint_bytes(entry: Entry) -> bytes:
    return canonical_json({"number": entry.number, "digest": entry.digest})


_PACKAGES: Final = ("dsops", "cleanlab", "numpy", "onnxruntime", "pandas", "pyarrow", "scikit-learn")


def releases(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed here."""
    found = {}
    for name in sorted(set(packages)):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def _packages() -> dict[str, str]:
    return releases(_PACKAGES)
