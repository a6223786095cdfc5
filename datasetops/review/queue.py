"""The findings of a version in the order in which to review them, in memory."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from threading import RLock
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.audits.record import latest_audit
from datasetops.errors import NotFoundError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.review.filters import Filters
from datasetops.review.items import ERROR, FIELDS, FINE, UNSEEN, Bools, Ints, Items, States, verdict_of
from datasetops.review.lookalikes import Lookalikes
from datasetops.review.rows import Rows
from datasetops.review.shown import Sizes

_MOST: Final = 50  # values of a facet
_MATCHES: Final = 32  # filters whose matches are remembered: a byte for each finding
_LIKED: Final = 4  # samples whose order of lookalikes is remembered: 16 bytes for each finding
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Page:
    """`rows` have the columns of records.FINDINGS (`related` and `box` as lists), and rank, at_random and decisions.

    `total` counts the findings of all pages.
    """

    total: int
    rows: list[dict[str, Any]]


class Queue:
    """Findings about samples, in an order that is frozen when the queue is opened; ranks count from 0.

    Findings that nobody has decided on come first, by expected true errors a minute, and one in ten by lot
    (`at_random`); then those that somebody was unsure about, then decided ones. `summary` says how many findings there
    are, and how many by check are no items since they are about no sample. Several threads may use it at once.
    """

    def __init__(
        self, version: Version, findings: pa.Table, log: DecisionLog, lookalikes: Lookalikes | None = None
    ) -> None:
        """`findings` have the columns of records.FINDINGS. `log` is taken as far as it has read."""
        self.version = version
        self.lookalikes = lookalikes
        self._log = log
        self._entry = log.entry
        self._lock = RLock()
        self._sizes: Sizes | None = None
        self._matches: OrderedDict[Any, Any] = OrderedDict()
        self._liked: OrderedDict[str, tuple[Ints, Ints]] = OrderedDict()
        standing: dict[str, list[Decision]] = defaultdict(list)
        for decision in log.standing():
            standing[decision.finding_id].append(decision)
        self.items = Items.of(version, findings, standing)
        self.total = len(self.items)
        self.state: States = np.zeros(self.total, dtype=np.int8)  # by rank, what the decisions come to
        self.drawn = np.zeros(self.total, dtype=bool)  # by rank, whether a decision was made on it by lot
        self._made: dict[int, list[Decision]] = {}  # by rank
        for name, made in standing.items():
            self._mark(name, made)
        columns = ["finding_id", "check", "severity", "uri", "message"]
        # Findings about no sample of the version, such as files that were left out: there is nothing to show of them.
        self.apart = findings.filter(pc.is_null(findings["sample_id"])).select(columns).to_pylist()

    @classmethod
    def open(
        cls,
        repository: Repository,
        version: Version,
        log: DecisionLog,
        *,
        lookalikes: Lookalikes | None = None,
        progress: Progress = no_progress,
    ) -> Queue:
        """The queue of a version's newest audits. Raises NotFoundError where it has not been audited."""
        steps: list[Callable[[Any], Any]] = [
            lambda _: log.refresh(),
            lambda _: latest_audit(repository, version).findings,
            lambda findings: cls(version, findings, log, lookalikes),
        ]
        made: Any = None
        for step in progress(steps, len(steps), "Opening the queue"):
            made = step(made)
        queue: Queue = made
        return queue

    @cached_property
    def rows(self) -> Rows:
        """The version's samples and annotations, by sample."""
        return Rows(self.version)

    def sizes(self, repository: Repository) -> Sizes:
        """Sizes of images, which are read once."""
        with self._lock:
            self._sizes = self._sizes or Sizes(repository)
            return self._sizes

    def page(self, filters: Filters, start: int = 0, size: int = 60) -> Page:
        """`size` findings from place `start` of the filtered order.

        Raises ValueError for places below 0, NotFoundError for `like` a sample that has no lookalikes.
        """
        if start < 0 or size < 0:
            raise ValueError("start, size: expected numbers of at least 0")
        ranks = self._sequence(filters)
        return Page(len(ranks), self._told(ranks[start : start + size]))

    def facets(self, filters: Filters) -> dict[str, list[tuple[str, int]]]:
        """By field, its values and how many findings have each under the other filters: at most 50, most first.

        A value of `slice` is written key=value; one of `decided` is yes or no.
        """
        found = {name: self.items.columns[name].counts(self._chosen(_without(filters, name)), _MOST) for name in FIELDS}
        by_key = self._slice_filters(filters)
        pairs: list[tuple[str, int]] = []
        for key, column in self.items.slices.items():
            others = tuple(f"{other}={name}" for other, names in by_key.items() if other != key for name in names)
            chosen = self._chosen(replace(filters, slice=others))
            pairs += [(f"{key}={name}", count) for name, count in column.counts(chosen, _MOST)]
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        every = self._chosen(replace(filters, decided="all"))
        settled = (self.state >= FINE) if every is None else (self.state >= FINE) & every
        yes, total = int(settled.sum()), self.total if every is None else int(every.sum())
        counts = [(name, count) for name, count in (("no", total - yes), ("yes", yes)) if count]
        return found | {"slice": pairs[:_MOST], "decided": sorted(counts, key=lambda pair: -pair[1])}

    def next(self, filters: Filters, after: str | None, taken: Collection[str] = ()) -> str | None:
        """The next finding that is undecided and whose sample is not `taken`; None where there is none.

        From `after` to the end of the filtered order; then from its beginning those that nobody has said anything
        about, so that what was passed over comes again and what people were unsure about does not.
        """
        filters = replace(filters, decided="no")
        ranks = self._sequence(filters)
        mine = None if after is None else self.items.rank(after)
        begin = 0 if mine is None else self._place(filters, ranks, mine)
        held = {self.items.sample_code(name) for name in taken}
        codes = self.items.columns["sample_id"].codes
        passed_over = (rank for rank in ranks[:begin] if self.state[rank] == UNSEEN)
        for rank in chain(ranks[begin:], passed_over):
            if rank != mine and (not held or int(codes[rank]) not in held):
                return self.items.finding_id(int(rank))
        return None

    def neighbours_of(self, filters: Filters, finding_id: str) -> tuple[str | None, str | None, int]:
        """(the one before, the one after, place from 0) in the filtered order.

        A finding that the filters leave out, say since it was just decided, has the place where it would stand.
        """
        ranks, rank = self._sequence(filters), self.items.rank(finding_id)
        at = self._place(filters, ranks, rank)
        following = at + 1 if at < len(ranks) and ranks[at] == rank else at
        before = self.items.finding_id(int(ranks[at - 1])) if at else None
        return before, self.items.finding_id(int(ranks[following])) if following < len(ranks) else None, at

    def row(self, finding_id: str) -> dict[str, Any]:
        """A finding as on a page. Raises NotFoundError."""
        return self._told(np.array([self.items.rank(finding_id)]))[0]

    def of_sample(self, sample_id: str) -> list[dict[str, Any]]:
        """All findings of a sample as on a page, in order."""
        return self._told(self.items.of_sample(sample_id))

    def is_decided(self, finding_id: str) -> bool:
        """Whether somebody said error or fine. Raises NotFoundError."""
        return bool(self.state[self.items.rank(finding_id)] >= FINE)

    def settled(self, check: str, severity: str) -> tuple[int, int]:
        """(errors, decided findings) of a check and severity."""
        cells = self.items.cells
        if (check, severity) not in cells.names:
            return 0, 0
        mine = self.state[cells.codes == cells.names.index((check, severity))]
        return int((mine == ERROR).sum()), int((mine >= FINE).sum())

    def refresh(self) -> None:
        """Mark what was decided or withdrawn since the last time, as far as the log has read; O(that)."""
        with self._lock:
            entry = self._log.entry
            for name in self._log.since(self._entry):
                self._mark(name, self._log.of(name))
            self._entry = entry

    def made(self) -> list[Decision]:
        """The standing decisions on findings of this queue, as of the last refresh."""
        with self._lock:
            return [item for several in self._made.values() for item in several]

    def _mark(self, finding_id: str, made: list[Decision]) -> None:
        rank = self.items.places.find(finding_id)
        if rank is not None:  # else it is of another version, or about no sample
            self.state[rank] = verdict_of(made)
            self.drawn[rank] = any(item.at_random for item in made)
            self._made[rank] = made

    def _told(self, ranks: Ints) -> list[dict[str, Any]]:
        return [
            row | {"decisions": [_said(item) for item in self._log.of(row["finding_id"])]}
            for row in self.items.told(ranks)
        ]

    def _chosen(self, filters: Filters) -> Bools | None:
        """Findings (N,) that fulfil the filters; None for all of them."""
        always = replace(filters, decided="all", like=None)
        matches = (
            None
            if always == Filters(decided="all")
            else self._keep(self._matches, _MATCHES, always, lambda: self._matching(always))
        )
        if filters.decided == "all":
            return matches
        settled = self.state >= FINE if filters.decided == "yes" else self.state < FINE
        return settled if matches is None else settled & matches

    def _matching(self, filters: Filters) -> Bools:
        items, found = self.items, np.ones(self.total, dtype=bool)
        for name in FIELDS:
            if wanted := getattr(filters, name):
                found &= items.columns[name].matches(wanted)
        for key, names in self._slice_filters(filters).items():
            found &= items.slices[key].matches(names) if key in items.slices else False
        if filters.min_score is not None:
            found &= items.scores >= filters.min_score
        if filters.max_score is not None:
            found &= items.scores <= filters.max_score
        if filters.search:
            found &= self._keep(self._matches, _MATCHES, filters.search, lambda: items.containing(filters.search))
        return found

    def _slice_filters(self, filters: Filters) -> dict[str, list[str]]:
        """Values by key: any of one key's, all keys."""
        found: dict[str, list[str]] = {}
        for item in filters.slice:
            keys = [key for key in self.items.slices if item.startswith(f"{key}=")]
            key = max(keys, key=len) if keys else item.partition("=")[0]
            found.setdefault(key, []).append(item[len(key) + 1 :])
        return found

    def _sequence(self, filters: Filters) -> Ints:
        """Ranks of the chosen findings in the order asked for."""
        chosen = self._chosen(filters)
        if filters.like is None:
            return np.arange(self.total) if chosen is None else np.flatnonzero(chosen)
        order = self._like(filters.like)[0]
        return order if chosen is None else order[chosen[order]]

    def _place(self, filters: Filters, ranks: Ints, rank: int) -> int:
        """How many of the sequence come before a rank."""
        if filters.like is None:
            return int(np.searchsorted(ranks, rank))
        places = self._like(filters.like)[1]
        return int(np.searchsorted(places[ranks], places[rank]))

    def _like(self, sample_id: str) -> tuple[Ints, Ints]:
        """(ranks from the nearest to the farthest from a sample, the place of each rank in that order)."""
        if self.lookalikes is None or not self.lookalikes.has_any:
            why = self.lookalikes.reason if self.lookalikes else "no embeddings were opened."
            raise NotFoundError(f"Samples that look alike are not known: {why}", remedy="Leave out `like`.")
        lookalikes = self.lookalikes
        return self._keep(self._liked, _LIKED, sample_id, lambda: self._by_distance(lookalikes, sample_id))

    def _by_distance(self, lookalikes: Lookalikes, sample_id: str) -> tuple[Ints, Ints]:
        samples = self.items.columns["sample_id"]
        distances = lookalikes.distances(sample_id, samples.names)
        order = np.argsort(distances[samples.codes], kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return order, places

    def _keep(self, kept: OrderedDict[Any, _Made], most: int, key: Any, make: Callable[[], _Made]) -> _Made:
        """What was made before for a key, or is made now; of more than `most` the oldest goes."""
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        made = make()
        with self._lock:
            kept[key] = made
            while len(kept) > most:
                kept.popitem(last=False)
        return made


def _without(filters: Filters, name: str) -> Filters:
    empty: dict[str, Any] = {name: ()}
    return replace(filters, **empty)


def _said(decision: Decision) -> dict[str, Any]:
    names = ("actor", "verdict", "note", "time", "at_random")
    return {name: getattr(decision, name) for name in names}
