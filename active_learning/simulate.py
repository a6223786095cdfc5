"""Replay active learning on labeled data: what each strategy would have bought, seed by seed.

Batch by batch a strategy chooses what is labeled next, knowing what a learner knows from the labels so far; the learner
learns again and is measured on items that are never chosen. All strategies start a seed with the same test part and the
same chance, so that they are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.learner import find_learner
from datasetops.active_learning.pool import UNLABELED, Ints, Pool
from datasetops.active_learning.replays import Arrays, Run, Simulation, fitting, replay_all
from datasetops.active_learning.strategies import STRATEGIES, find_strategy
from datasetops.errors import DatasetOpsError, ModelError
from datasetops.progress import Progress, no_progress

_MEMBERS: Final = 5  # of a committee: learners that each know a half of the labels
_HALF: Final = 0.5


@dataclass(frozen=True)
class Replay:
    """What is replayed: N items of K classes.

    `features` (N, D) as `learner.features` makes them; `revealed` (N,) the class that labeling an item gives; `truth`
    (N,) what it is measured against; `test` the rows that are never chosen, one array for each seed, or one for all;
    `groups` (N,) numbers, negative for none. Items of neither a class nor finite features take no part.
    """

    features: npt.NDArray[np.float32]
    revealed: Ints
    truth: Ints
    classes: int
    test: tuple[Ints, ...]
    groups: Ints | None = None

    def test_of(self, seed: int) -> Ints:
        return self.test[seed % len(self.test)]


def simulate(
    replay: Replay,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int = 10,
    learner: str = "probe",
    batch: int | None = None,
    jobs: int = 1,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Simulation:
    """Replay every strategy with every seed. The same arguments give the same runs, whatever `jobs`.

    With `batch` the learner learns anew after so many labels, without at each budget.

    Finished runs are kept in the folder `cache`, and a simulation that was interrupted goes on from there. Budgets that
    the pool cannot fill are left out, and told. Raises NotFoundError for unknown strategies, DatasetOpsError for a pool
    that fills none of the budgets, ValueError for arguments that cannot be.
    """
    _check(replay, strategies, seeds, batch)
    find_learner(learner)
    usable = _usable(replay)
    sizes = [int(_pool_rows(replay, usable, seed).sum()) for seed in range(seeds)]
    room = min(sizes)
    kept, left_out = fitting(budgets, room)
    notes = []
    if gone := int((~usable).sum()):
        notes.append(f"{gone:,} of {len(usable):,} items have no class or no features and take no part.")
    names = tuple(dict.fromkeys(strategies))
    work = _Work(replay.revealed, replay.truth, replay.classes, replay.test, replay.groups, kept, learner, batch)
    told = [replay.revealed, replay.truth, *replay.test, replay.groups, replay.classes, learner, batch]
    arrays = {"features": replay.features}
    runs = replay_all(work, arrays, told, names, seeds, jobs=jobs, cache=cache, progress=progress)
    tests = len(_tested(replay, usable, 0))
    return Simulation("accuracy", learner, replay.classes, room, tests, names, kept, seeds, runs, (*notes, *left_out))


@dataclass(frozen=True)
class _Work:
    """All that a run needs but the features, small enough to be sent to processes."""

    revealed: Ints
    truth: Ints
    classes: int
    test: tuple[Ints, ...]
    groups: Ints | None
    budgets: tuple[int, ...]
    learner: str
    batch: int | None

    def run(self, arrays: Arrays, strategy: str, seed: int) -> Run:
        features = arrays["features"]
        replay = Replay(features, self.revealed, self.truth, self.classes, self.test, self.groups)
        usable = _usable(replay)
        test = _tested(replay, usable, seed)
        candidates = np.flatnonzero(_pool_rows(replay, usable, seed))
        labels = np.full(len(features), UNLABELED, np.int64)
        wanted = find_strategy(strategy)
        pool = Pool(self.classes, candidates, np.empty(0, np.int64), labels, embeddings=features)
        accuracy, reasons = [], []
        chances: npt.NDArray[Any] | None = None
        for budget in self.budgets:
            while (known := int((labels >= 0).sum())) < budget:
                rng = np.random.default_rng([seed, known, 1])  # the same for all strategies
                committee = self._committee(features, labels, rng) if "committee" in wanted.needs else None
                told = {"probabilities": chances, "committee": committee}
                pool = Pool(**vars(pool) | {"labels": labels.copy(), **told})
                ready = all(getattr(pool, field) is not None for field in wanted.needs)
                chosen = wanted if ready else STRATEGIES["random"]  # nothing is known yet
                picks = chosen.pick(pool, min(budget - known, self.batch or budget), rng)
                pool = pool.without(picks.rows)
                labels[picks.rows] = self.revealed[picks.rows]
                chances = self._learned(features, labels)
            reasons.append(picks.reasons[0])
            accuracy.append(self._accuracy(chances, labels, test))
        return Run(strategy, seed, tuple(accuracy), tuple(reasons))

    def _learned(self, features: npt.NDArray[np.float32], labels: Ints) -> npt.NDArray[Any] | None:
        with suppress(ModelError):
            return find_learner(self.learner).fit_predict(features, labels, self.classes, groups=self.groups)
        return None

    def _committee(
        self, features: npt.NDArray[np.float32], labels: Ints, rng: np.random.Generator
    ) -> npt.NDArray[Any] | None:
        known = np.flatnonzero(labels >= 0)
        members = []
        for _ in range(_MEMBERS):
            part = np.full(len(labels), UNLABELED, np.int64)
            some = known[rng.random(len(known)) < _HALF]
            part[some] = labels[some]
            members.append(self._learned(features, part))
        found = [member for member in members if member is not None]
        return np.stack(found) if len(found) == _MEMBERS else None

    def _accuracy(self, chances: npt.NDArray[Any] | None, labels: Ints, test: Ints) -> float:
        if chances is None:  # a single class so far
            return float((self.truth[test] == labels[labels >= 0][0]).mean())
        return float((chances[test].argmax(axis=1) == self.truth[test]).mean())


def _usable(replay: Replay) -> npt.NDArray[np.bool_]:
    finite: npt.NDArray[np.bool_] = np.isfinite(replay.features.sum(axis=1, dtype=np.float64))
    return finite & (replay.revealed >= 0)


def _tested(replay: Replay, usable: npt.NDArray[np.bool_], seed: int) -> Ints:
    test = replay.test_of(seed)
    finite = np.isfinite(replay.features[test].sum(axis=1, dtype=np.float64))
    kept: Ints = test[finite & (replay.truth[test] >= 0)]
    return kept


def _pool_rows(replay: Replay, usable: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.bool_]:
    rows = usable.copy()
    rows[replay.test_of(seed)] = False
    return rows


def _check(replay: Replay, strategies: Sequence[str], seeds: int, batch: int | None) -> None:
    n = len(replay.features)
    if not (len(replay.revealed) == len(replay.truth) == n and (replay.groups is None or len(replay.groups) == n)):
        raise ValueError("features, revealed, truth and groups must have the same length")
    for labels in (replay.revealed, replay.truth):
        if n and not (labels.min() >= -1 and labels.max() < replay.classes):
            raise ValueError(f"labels: expected integers from -1 to {replay.classes - 1}")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1; got {seeds}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch: expected at least 1; got {batch}")
    if not strategies:
        raise ValueError("strategies: expected at least one")
    for name in strategies:
        if lacking := set(find_strategy(name).needs) - {"embeddings", "probabilities", "committee"}:
            raise ValueError(f"strategies: {name} needs {', '.join(sorted(lacking))}, which a simulation does not have")
    if min(len(_tested(replay, _usable(replay), seed)) for seed in range(seeds)) == 0:
        raise DatasetOpsError(
            "There is nothing to measure on: the test part has no item with a class and an embedding.",
            remedy="Label some, or leave the choice of the test part to the simulation.",
        )
