"""Choose a batch in which no two items are near-duplicates, and no group takes more than its share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.active_learning.pool import Ints, Picks, Pool, Strategy
from datasetops.audits.base import AuditContext
from datasetops.audits.images.near import near_pairs
from datasetops.audits.images.stored import StoredImages
from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

_SHARE_OF_GROUP: Final = 2.0  # times what each group would have of the batch, were they equal
_NEAREST: Final = 3  # covered items beside each pick that it may be a copy of
_BLOCK: Final = 2**26  # numbers of one matrix product (256 MiB)

Near = Callable[[Ints], npt.NDArray[np.int64]]  # rows -> pairs (P, 2) of places in rows


@dataclass
class Spread:
    """`groups` (N,) are numbers, -1 for none. `near` finds near-duplicates among rows of the pool; None: nobody looks.

    `refused` counts what was passed over, by reason.
    """

    groups: Ints | None = None
    near: Near | None = None
    refused: dict[str, int] = field(default_factory=dict)

    def choose(self, pool: Pool, strategy: Strategy, n: int, rng: np.random.Generator, already: Ints) -> Picks:
        """Up to n picks that go with each other and with those `already` in the batch.

        The strategy is asked again for what was refused. Shares of groups grow where nothing else is left.
        """
        rows: list[int] = []
        scores: list[float] = []
        reasons: list[str] = []
        cap = self._cap(pool, n + len(already))
        aside: list[Ints] = []
        while len(rows) < n:
            picks = strategy.pick(pool, n - len(rows), rng)
            if not len(picks.rows):
                if cap is None or not aside:
                    break
                cap *= 2
                pool = replace(pool, candidates=np.union1d(pool.candidates, np.concatenate(aside)))
                aside = []
                continue
            kept = np.concatenate([already, np.array(rows, np.int64)])
            copies = self._copies(pool, picks.rows, kept)
            full = self._full(picks.rows, kept, copies, cap)
            good = ~copies & ~full
            for place in np.flatnonzero(good):
                rows.append(int(picks.rows[place]))
                scores.append(float(picks.scores[place]))
                reasons.append(picks.reasons[place])
            self._count("near-duplicates of others", int(copies.sum()))
            if full.any():
                aside.append(picks.rows[full])
            pool = pool.without(picks.rows[good]).without(picks.rows[~good], covered=False)
        return Picks(np.array(rows, np.int64), np.array(scores, np.float64), tuple(reasons))

    def _cap(self, pool: Pool, n: int) -> int | None:
        if self.groups is None:
            return None
        known = self.groups[pool.candidates]
        distinct = len(np.unique(known[known >= 0]))
        return math.ceil(_SHARE_OF_GROUP * n / distinct) if distinct > 1 else None

    def _full(self, rows: Ints, kept: Ints, copies: npt.NDArray[np.bool_], cap: int | None) -> npt.NDArray[np.bool_]:
        """Rows whose group has its share by then."""
        full = np.zeros(len(rows), bool)
        if cap is None or self.groups is None:
            return full
        counts = pd.Series(self.groups[kept]).value_counts().to_dict()
        for place, group in enumerate(self.groups[rows].tolist()):
            if group < 0 or copies[place]:
                continue
            full[place] = counts.get(group, 0) >= cap
            counts[group] = counts.get(group, 0) + (not full[place])
        return full

    def _copies(self, pool: Pool, rows: Ints, kept: Ints) -> npt.NDArray[np.bool_]:
        """Rows that are near-duplicates of one before them, of the batch, or of what is covered."""
        found = np.zeros(len(rows), bool)
        if self.near is None:
            return found
        known = np.concatenate([kept, _beside(pool, rows)])
        known = known[~np.isin(known, rows)]
        known = known[np.sort(np.unique(known, return_index=True)[1])]
        pairs = self.near(np.concatenate([known, rows])) - len(known)
        for one, other in np.sort(pairs, axis=1)[np.argsort(pairs.max(axis=1), kind="stable")].tolist():
            if other >= 0 and (one < 0 or not found[one]):
                found[other] = True
        return found

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.refused[reason] = self.refused.get(reason, 0) + number


def near_in(repository: Repository, samples: pd.DataFrame, schema: LabelSchema) -> Near:
    """Finds near-duplicates among rows of `samples` (sample_id, uri, sha256) by their pictures."""

    def near(rows: Ints) -> npt.NDArray[np.int64]:
        chosen = samples.iloc[rows].reset_index(drop=True)
        if chosen["sha256"].notna().sum() < 2:
            return np.empty((0, 2), np.int64)
        context = AuditContext(
            samples=chosen,
            annotations=pd.DataFrame(),
            schema=schema,
            images=StoredImages(repository, chosen["uri"].tolist()),
            embeddings=lambda: np.empty((0, 0), np.float32),
            jobs=repository.settings.jobs,
        )
        copies = chosen.groupby("sha256", sort=False).indices.values()
        same = [(int(places[0]), int(place)) for places in copies for place in places[1:]]
        return np.concatenate([near_pairs(context).indices, np.array(same, np.int64).reshape(-1, 2)])

    return near


def _beside(pool: Pool, rows: Ints) -> Ints:
    """Covered rows nearest to some rows in embedding space; none where there are no embeddings."""
    if pool.embeddings is None or not len(pool.covered):
        return np.empty(0, np.int64)
    k = min(_NEAREST, len(pool.covered))
    own = pool.embeddings[rows]
    best_rows: Ints = np.empty((len(rows), 0), np.int64)
    best: npt.NDArray[np.float32] = np.empty((len(rows), 0), np.float32)
    step = max(1, _BLOCK // max(1, pool.embeddings.shape[1]))
    for start in range(0, len(pool.covered), step):
        block = pool.covered[start : start + step]
        vectors = pool.embeddings[block]
        near = own @ vectors.T - np.einsum("nd,nd->n", vectors, vectors) / 2
        near = np.concatenate([best, np.where(np.isfinite(near), near, -np.inf)], axis=1)
        names = np.concatenate([best_rows, np.broadcast_to(block, (len(rows), len(block)))], axis=1)
        top = np.argpartition(-near, min(k, near.shape[1]) - 1, axis=1)[:, :k]
        best, best_rows = np.take_along_axis(near, top, 1), np.take_along_axis(names, top, 1)
    return np.unique(best_rows)
