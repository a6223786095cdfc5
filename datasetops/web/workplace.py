"""What the server keeps open: the repository, the people at work, and for each version its queue of findings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

from datasetops.access import AccessLog
from datasetops.audits.decisions import DecisionLog
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.review.filters import Filters
from datasetops.review.history import history
from datasetops.review.item import item
from datasetops.review.lookalikes import Lookalikes
from datasetops.review.progress import progress as progress_of
from datasetops.review.queue import Queue
from datasetops.web.holds import Holds
from datasetops.web.media import Pictures
from datasetops.web.sessions import Sessions, Tokens, load_secret
from datasetops.web.users import Tries, Users

_PROGRESS_SHARE: Final = 0.05  # of the time, at most, goes into counting how far the review is


class Workplace:
    """A version under review. The queue is opened by the first who asks for it."""

    def __init__(self, repository: Repository, version: Version, log: DecisionLog, progress: Progress) -> None:
        self.version = version
        self.log = log
        self._repository = repository
        self._progress = progress
        self._queue: Queue | None = None
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self._looking: threading.Thread | None = None
        self._counted: tuple[dict[str, Any], float, float] | None = None  # what, when, seconds it took

    def queue(self) -> Queue:
        """The queue, with every decision that was made by now. Raises NotFoundError for a version without an audit."""
        with self._lock:
            if self._queue is None:
                self._queue = Queue.open(self._repository, self.version, self.log, progress=self._progress)
            self.log.refresh()
            self._queue.refresh()
            return self._queue

    def apart(self) -> list[dict[str, Any]]:
        """Findings about no sample that nobody decided on yet."""
        return [row for row in self.queue().apart if not self.log.of(row["finding_id"])]

    def prepare(self, progress: Progress = no_progress) -> None:
        """Do once what the first questions would wait for. Raises NotFoundError for a version without an audit."""
        steps: list[Callable[[], object]] = [
            self.queue,
            lambda: self.queue().facets(Filters()),
            self.progress,
            lambda: [self.item(row["finding_id"], Filters()) for row in self.queue().page(Filters(), 0, 1).rows],
        ]
        for step in progress(steps, len(steps), "Opening the queue"):
            step()

    def item(self, finding_id: str, filters: Filters) -> dict[str, Any]:
        """All about one finding. Raises NotFoundError."""
        queue = self.queue()
        return item(self._repository, self.version, queue, self.log, finding_id, self.lookalikes(), filters=filters)

    def progress(self) -> dict[str, Any]:
        """How far the review is; counted again once that takes a small share of the time since it was."""
        queue = self.queue()
        with self._counting:
            now = time.perf_counter()
            if self._counted is None or now - self._counted[1] > self._counted[2] / _PROGRESS_SHARE:
                counted = progress_of(queue, self.log)
                done = time.perf_counter()
                self._counted = (counted, done, done - now)
            return self._counted[0]

    def history(self, finding_id: str) -> list[dict[str, Any]]:
        """What happened to the annotations of a finding's sample. Raises NotFoundError."""
        queue = self.queue()
        sample_id = queue.row(finding_id)["sample_id"]
        return history(self._repository, self.version, sample_id, queue.rows)

    def lookalikes(self, wait: float = 0.0) -> Lookalikes | None:
        """None while they are being opened, which the first who asks has a thread begin with; `wait` is in seconds."""
        queue = self.queue()
        with self._lock:
            if self._looking is None:
                self._looking = threading.Thread(target=self._look, args=(queue,), name="look-alikes", daemon=True)
                self._looking.start()
        if wait:
            self._looking.join(wait)
        return queue.lookalikes

    @property
    def is_looking(self) -> bool:
        """Whether a thread opens the look-alikes, which cannot be asked to stop."""
        return self._looking is not None and self._looking.is_alive()

    def _look(self, queue: Queue) -> None:
        ids = self.version.table("samples", ["sample_id"])["sample_id"].to_pylist()
        queue.lookalikes = Lookalikes(self._repository, self.version, ids)


class Desk:
    """Everything that requests share."""

    def __init__(
        self, repository: Repository, version: Version | None, users: Users, *, progress: Progress = no_progress
    ) -> None:
        self.repository = repository
        self.first = version
        self.users = users
        self.sessions = Sessions(load_secret(repository.cache / "review" / "secret"))
        self.tokens = Tokens()
        self.tries = Tries()
        self.access = (
            None  # one's own looks are nobody's matter
            if users.mode == "token"
            else AccessLog(repository.store, repository.ledger, repository.settings.actor)
        )
        self.holds = Holds()
        self.pictures = Pictures(repository)
        self.labelers: dict[str, Mapping[str, frozenset[str]]] = {}  # by QA plan
        self._progress = progress
        self._versions: dict[str, Version] = {}
        self._workplaces: dict[str, Workplace] = {}
        self._lock = threading.Lock()

    @cached_property
    def log(self) -> DecisionLog:
        return DecisionLog(self.repository)

    def version(self, name: str) -> Version:
        """A version by name, or the newest of a branch, kept open. Raises NotFoundError that lists what there is."""
        found = self._versions.get(name)  # by branch it is never found here: branches move
        if found is None:
            opened = self.repository.version(name)
            with self._lock:
                found = self._versions.setdefault(opened.name, opened)
        return found

    def workplace(self, name: str) -> Workplace:
        version = self.version(name)
        with self._lock:
            if version.name not in self._workplaces:
                self._workplaces[version.name] = Workplace(self.repository, version, self.log, self._progress)
            return self._workplaces[version.name]

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work that nobody waits for."""
        return any(place.is_looking for place in self._workplaces.values())

    def version_names(self) -> list[str]:
        """Newest first."""
        return [f"v{number}" for number in range(self._count(), 0, -1)]

    def _count(self) -> int:
        tail = self.repository.ledger.tail()
        return tail.state.versions if tail else 0
