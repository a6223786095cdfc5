"""The log of what reviewers decided about findings, which all processes and servers share.

Decisions are kept together in files `decisions/<time>-<event>.json`. The ledger orders them: a file that none of its
entries names does not count, for its writer was stopped or came second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from sys import intern
from tempfile import NamedTemporaryFile
from threading import RLock
from typing import Any, Final

import orjson

from datasetops.audits.decisions.decision import AlreadyDecidedError, Decision
from datasetops.errors import ConflictError, DamagedError, NotFoundError
from datasetops.ledger import Entry, Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.erasing import was_replaced
from datasetops.records import canonical_json, parse_json, sha256_hex

_FOLDER: Final = "decisions/"
_ATTEMPTS: Final = 200  # as the ledger's own
_KINDS: Final = ("decide", "withdraw")  # of ledger entries
_WORTH: Final = 1000  # ledger entries that it takes to be read again rather than to be copied
_REPAIR: Final = "Put it back from a backup, then run `dsops verify`, or update dsops."


class DecisionLog:
    """All decisions of a repository, as far as `refresh` has read. May be used by several threads.

    `entry` is the number of the last ledger entry read, -1 before the first.
    """

    def __init__(self, repository: Repository) -> None:
        self.entry = -1
        self._repository = repository
        self._lock = RLock()
        self._last: Entry | None = None
        self._standing: dict[tuple[str, str], Decision] = {}  # by finding and reviewer
        self._by_finding: dict[str, dict[str, Decision]] = {}
        self._kept: dict[tuple[str, str, str], Decision] = {}  # by decision_id, finding, reviewer; withdrawn ones too
        self._entries: list[int] = []  # numbers of the entries that decide or withdraw, and what they are about
        self._about: list[tuple[str, ...]] = []
        self._not_copied = 0  # entries

    def refresh(self) -> list[Decision]:
        """Decisions that came since the last time, also from other processes. Reads new ledger entries only.

        What was withdrawn is not among them: `since` tells of both.
        """
        with self._lock:
            came = self._open_copy() if self._last is None else []
            while (entry := self._following()) is not None:
                came += self._take(entry, self._rows(entry))
                self._not_copied += 1
            if self._not_copied > max(_WORTH, len(self._standing) // 10):
                self._copy()
            return came

    def standing(self) -> list[Decision]:
        """Of one reviewer on one finding the newest, in the order in which they were made first."""
        with self._lock:
            return list(self._standing.values())

    def of(self, finding_id: str) -> list[Decision]:
        """The standing decisions on a finding, one a reviewer."""
        with self._lock:
            return list(self._by_finding.get(finding_id, {}).values())

    def since(self, entry: int) -> list[str]:
        """Ids of the findings that ledger entries after this number, as far as read, decided or withdrew."""
        with self._lock:
            about = self._about[bisect_right(self._entries, entry) :]
            return list(dict.fromkeys(name for names in about for name in names))

    def add(
        self, version: Version, decisions: Sequence[Decision], *, second: bool = False, role: str | None = None
    ) -> list[Decision]:
        """Keep decisions on findings of a version, all or none, as one event. Returns them as they are kept.

        `role` is the reviewer's, where a server knows it; the event names it.

        A reviewer replaces his own. Raises AlreadyDecidedError where another one called a finding error or fine before,
        unless this is a `second` opinion. One that was kept before (same decision_id) is returned as it was kept.
        """
        said = [(item.finding_id, item.actor) for item in decisions]
        if len(said) != len(set(said)):
            raise ValueError("decisions: a reviewer decides a finding twice")
        before: dict[tuple[str, str], Decision] = {}

        def new() -> list[dict[str, Any]]:
            before.update({(one.finding_id, one.actor): one for item in decisions if (one := self._kept_as(item))})
            missing = [item for item in decisions if (item.finding_id, item.actor) not in before]
            others = [] if second else [other for item in missing for other in self._others(item)]
            if others:
                raise AlreadyDecidedError(others)
            return [item.as_dict() for item in missing]

        made = self._keep("decide", version, {item.actor for item in decisions}, role, new)
        made_now = {(item.finding_id, item.actor): item for item in made}
        return [{**before, **made_now}[name] for name in said]

    def withdraw(
        self, version: Version, finding_ids: Sequence[str], actor: str, *, role: str | None = None
    ) -> list[Decision]:
        """Take back what a reviewer decided on some findings. Returns what stood; nothing of his stands afterwards."""
        stood: list[Decision] = []

        def standing() -> list[dict[str, Any]]:
            stood[:] = [made for name in dict.fromkeys(finding_ids) if (made := self._standing.get((name, actor)))]
            return [{"finding_id": item.finding_id, "actor": actor} for item in stood]

        self._keep("withdraw", version, {actor}, role, standing)
        return stood

    def _keep(
        self,
        kind: str,
        version: Version,
        actors: Collection[str],
        role: str | None,
        wanted: Callable[[], list[dict[str, Any]]],
    ) -> list[Decision]:
        """Write what is wanted as one event, unless nothing is. `wanted` is asked again after others wrote first."""
        store, ledger = self._repository.store, self._repository.ledger
        event = decision_event(self._repository, kind, version, actors)
        if role is not None:
            event = replace(event, parameters={"role": role})
        key = f"{_FOLDER}{event.time}-{event.event_id}.json"
        written = None
        for _ in range(_ATTEMPTS):
            with self._lock:
                self.refresh()
                rows = wanted()
                if not rows:
                    return []
                data = canonical_json(rows)
                if data == written:
                    outputs = {"decisions": len(rows), "files": {key: sha256_hex(data)}}
                    with suppress(ConflictError):
                        return self._take(ledger.append(replace(event, outputs=outputs), after=self._last), rows)
                    continue
            store.put(key, data)  # not under the lock, so that the files of several threads are written at once
            written = data
        raise ConflictError("The ledger is being written to without pause.", remedy="Try again later.")

    def _following(self) -> Entry | None:
        try:
            return self._repository.ledger.read(self.entry + 1)
        except NotFoundError:
            return None

    def _rows(self, entry: Entry) -> list[dict[str, Any]]:
        """What an entry keeps or withdraws; nothing of an entry about something else."""
        if entry.event.kind not in _KINDS:
            return []
        rows: list[dict[str, Any]] = []
        for key, digest in entry.event.outputs.get("files", {}).items():
            try:
                data = self._repository.store.get(key)
                now = sha256_hex(data)
                if now != digest and not was_replaced(self._repository.store, key, digest, now):
                    raise ValueError("its bytes changed")
                found = parse_json(data)
                if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                    raise ValueError("no list of decisions")
                rows += found
            except (NotFoundError, ValueError) as error:
                raise DamagedError(f"{key} is missing or damaged: {error}", remedy=_REPAIR) from None
        return rows

    def _take(self, entry: Entry, rows: list[dict[str, Any]]) -> list[Decision]:
        """Go on to an entry. Returns the decisions that it keeps."""
        came = []
        try:
            about = tuple(str(row["finding_id"]) for row in rows)
            if entry.event.kind == "decide":
                commit = intern(str(entry.event.inputs.get("commit", "")))
                came = [Decision.from_dict(row, commit=commit, time=entry.event.time) for row in rows]
            else:
                for row in rows:
                    self._standing.pop((row["finding_id"], row["actor"]), None)
                    self._by_finding.get(row["finding_id"], {}).pop(row["actor"], None)
            self._stand(came)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"Ledger entry {entry.number} keeps no decisions: {error}.", remedy=_REPAIR) from None
        if rows:
            self._entries.append(entry.number)
            self._about.append(about)
        self._last, self.entry = entry, entry.number
        return came

    def _stand(self, came: Sequence[Decision]) -> None:
        for item in came:
            self._standing[item.finding_id, item.actor] = item
            self._by_finding.setdefault(item.finding_id, {})[item.actor] = item
            if item.decision_id:
                self._kept[item.decision_id, item.finding_id, item.actor] = item

    def _kept_as(self, item: Decision) -> Decision | None:
        return self._kept.get((item.decision_id, item.finding_id, item.actor))

    def _others(self, item: Decision) -> list[Decision]:
        """What other reviewers settled about the same finding."""
        made = self._by_finding.get(item.finding_id, {})
        return [other for other in made.values() if other.actor != item.actor and other.verdict != "unsure"]

    @property
    def _copied(self) -> Path:
        return self._repository.cache / "decisions.json"

    def _copy(self) -> None:
        """Keep a local copy of what was read, so that the next log need not read a file for each decision."""
        if self._last is None:
            return
        past = [item for item in self._kept.values() if self._standing.get((item.finding_id, item.actor)) is not item]
        value = {
            "entry": self.entry,
            "digest": self._last.digest,
            "about": list(zip(self._entries, self._about, strict=True)),
            "past": [_whole(item) for item in past],
            "standing": [_whole(item) for item in self._standing.values()],
        }
        with suppress(OSError):  # it is but a copy
            self._copied.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._copied.parent, delete=False) as stream:
                stream.write(canonical_json(value))
            Path(stream.name).replace(self._copied)
        self._not_copied = 0

    def _open_copy(self) -> list[Decision]:
        """Go on from the local copy, where there is one of this very ledger. Returns what stands."""
        try:
            value = orjson.loads(self._copied.read_bytes())
            last = self._repository.ledger.read(value["entry"])
            if last.digest != value["digest"]:
                return []
            past, standing = ([_from_whole(raw) for raw in value[name]] for name in ("past", "standing"))
            about = [(int(number), tuple(names)) for number, names in value["about"]]
        except (OSError, NotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return []
        self._kept = {(item.decision_id, item.finding_id, item.actor): item for item in past}
        self._stand(standing)
        self._entries, self._about = [number for number, _ in about], [names for _, names in about]
        self._last, self.entry = last, last.number
        return standing


def _whole(item: Decision) -> dict[str, Any]:
    return item.as_dict() | {"commit": item.commit, "time": item.time}


def _from_whole(raw: dict[str, Any]) -> Decision:
    return Decision.from_dict(raw, commit=intern(raw["commit"]), time=raw["time"])


def decision_event(repository: Repository, kind: str, version: Version, actors: Collection[str]) -> Event:
    """Of several reviewers' decisions the actor is who brings them."""
    actor = next(iter(actors)) if len(actors) == 1 else repository.settings.actor
    return Event(kind, actor, inputs={"version": version.name, "commit": version.digest})
