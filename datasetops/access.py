"""Who looked at what, where several people share a server: kept in the store as `access/<day>/<time>-<digest>.jsonl`.

Each line has time, actor, role and path, version and sample_id where the path names them, and whether it was refused. The
same thing looked at again within an hour is kept once. Lines are written a minute after the first of them, and when the
server ends; an event `access` of the ledger holds the digest of what was written, so that a changed line shows.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from datasetops.ledger import Event, Ledger
from datasetops.records import canonical_json, sha256_hex
from datasetops.store import Store

EVENT: Final = "access"
FOLDER: Final = "access/"
FIELDS: Final = ("time", "actor", "role", "path", "version", "sample_id", "refused")
_AGAIN: Final = 3600.0  # seconds
_WAIT: Final = 60.0  # seconds from the first line on until they are written together
_KNOWN: Final = 100_000  # looks that are remembered, so that memory stays bounded
_NOT_DATA: Final = re.compile(r"/(static|login|logout|enter)\b|/api/v/[^/]+/(progress|since|next)$|/$")
_NAMED: Final = re.compile(r"/(?:api/)?(?:v|media)/([^/]+)(?:/(?:full|thumb|story)/(.+))?")


class AccessLog:
    """May be used by several threads."""

    def __init__(self, store: Store, ledger: Ledger, actor: str) -> None:
        """`actor`: in whose name the server runs."""
        self._store = store
        self._ledger = ledger
        self._actor = actor
        self._lines: list[bytes] = []
        self._seen: dict[tuple[str, str, bool], float] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def note(self, actor: str, role: str, path: str, *, refused: bool = False) -> None:
        """Somebody was given what stands at a path, or was not, since the role does not allow it."""
        if _NOT_DATA.match(path):
            return
        now = time.monotonic()
        with self._lock:
            if now - self._seen.get((actor, path, refused), -_AGAIN) < _AGAIN:
                return
            if len(self._seen) >= _KNOWN:
                self._seen.clear()
            self._seen[actor, path, refused] = now
            named = _NAMED.match(path)
            version, sample_id = named.groups() if named else (None, None)
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            line = dict(zip(FIELDS, (moment, actor, role, path, version, sample_id, refused), strict=True))
            self._lines.append(canonical_json(line))
            if self._timer is None:
                self._timer = threading.Timer(_WAIT, self.write)
                self._timer.daemon = True
                self._timer.start()

    def write(self) -> None:
        """Put the lines that came so far into the store."""
        with self._lock:
            lines, self._lines, self._timer = self._lines, [], None
        if lines:
            data = b"\n".join(lines) + b"\n"
            moment = datetime.now(UTC).isoformat(timespec="milliseconds")
            key = f"{FOLDER}{moment[:10]}/{moment}-{sha256_hex(data)[:12]}.jsonl"
            self._store.put(key, data)
            outputs = {"files": {key: sha256_hex(data)}, "lines": len(lines)}
            self._ledger.record(Event(EVENT, self._actor, outputs=outputs))


def access_lines(store: Store) -> Iterator[dict[str, Any]]:
    """Oldest first; what was erased is not among them."""
    for key in store.list(FOLDER):
        for line in store.get(key).splitlines():
            yield json.loads(line)
