"""Replay active learning on labeled data: what each strategy would have bought, seed by seed.

At each budget a strategy chooses what is labeled next, knowing what a learner knows from the labels so far; the learner
learns again and is measured on items that are never chosen. All strategies start a seed with the same test part and the
same chance, so that they are compared in pairs.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.learner import find_learner
from datasetops.active_learning.pool import UNLABELED, Floats, Ints, Pool
from datasetops.active_learning.strategies import STRATEGIES, find_strategy
from datasetops.errors import DatasetOpsError, ModelError
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

_METHOD: Final = 1  # raised whenever the same data would give other runs
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


@dataclass(frozen=True)
class Run:
    """One strategy with one seed: accuracy at each budget, and why it chose what it chose up to there."""

    strategy: str
    seed: int
    accuracy: tuple[float, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Simulation:
    """`runs` by strategy, then seed. `budgets` are labels in all."""

    learner: str
    classes: int
    pool: int
    test: int
    strategies: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: int
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    measure: str = "accuracy"

    def accuracy(self, strategy: str) -> Floats:
        """(seeds, budgets)."""
        return np.array([run.accuracy for run in self.runs if run.strategy == strategy])


def simulate(
    replay: Replay,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int = 10,
    learner: str = "probe",
    jobs: int = 1,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Simulation:
    """Replay every strategy with every seed. The same arguments give the same runs, whatever `jobs`.

    Finished runs are kept in the folder `cache`, and a simulation that was interrupted goes on from there. Budgets that
    the pool cannot fill are left out, and told. Raises NotFoundError for unknown strategies, DatasetOpsError for a pool
    that fills none of the budgets, ValueError for arguments that cannot be.
    """
    _check(replay, strategies, budgets, seeds)
    find_learner(learner)
    usable = _usable(replay)
    sizes = [int(_pool_rows(replay, usable, seed).sum()) for seed in range(seeds)]
    room = min(sizes)
    fitting = tuple(sorted({int(budget) for budget in budgets if budget <= room}))
    notes = []
    if gone := int((~usable).sum()):
        notes.append(f"{gone:,} of {len(usable):,} items have no class or no features and take no part.")
    if left_out := sorted({int(budget) for budget in budgets if budget > room}):
        told = ", ".join(f"{budget:,}" for budget in left_out)
        notes.append(f"Budgets of {told} labels are left out: the pool has {room:,}.")
    if not fitting:
        raise DatasetOpsError(
            f"The pool has {room:,} labeled items, and the least budget asks for {min(budgets):,}.",
            remedy="Give smaller budgets, a smaller test part, or a version with more labels.",
        )
    names = tuple(dict.fromkeys(strategies))
    kept = _Kept(cache, _digest(replay, fitting, learner) if cache else "")
    known = {(name, seed): kept.read(name, seed) for name in names for seed in range(seeds)}
    missing = [pair for pair, run in known.items() if run is None]
    missing.sort(key=lambda pair: pair[1])
    work = _Work(replay.revealed, replay.truth, replay.classes, replay.test, replay.groups, fitting, learner)
    work_done = _in_processes(work, replay, missing, jobs, cache) if jobs > 1 and len(missing) > 1 else None
    if work_done is None:
        work_done = (work.run(replay.features, name, seed) for name, seed in missing)
    for run in progress(work_done, len(missing), "Replaying active learning"):
        kept.write(run)
        known[run.strategy, run.seed] = run
    tests = len(_tested(replay, usable, 0))
    runs = tuple(run for run in known.values() if run is not None)
    return Simulation(learner, replay.classes, room, tests, names, fitting, seeds, runs, tuple(notes))


def shares_by_group(groups: Ints, share: float, seeds: int, rows: Ints | None = None) -> tuple[Ints, ...]:
    """A test part for each seed, of about this share of the rows (all unless told); groups stay whole."""
    parts = []
    rows = np.arange(len(groups)) if rows is None else rows
    own = np.where(groups >= 0, groups, groups.max(initial=0) + 1 + np.arange(len(groups)))
    units, codes = np.unique(own[rows], return_inverse=True)
    for seed in range(seeds):
        order = np.random.default_rng([seed, 0]).permutation(len(units))
        sizes = np.bincount(codes)[order]
        drawn = order[np.cumsum(sizes) <= share * len(rows)]
        parts.append(rows[np.isin(codes, drawn)])
    return tuple(parts)


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

    def run(self, features: npt.NDArray[np.float32], name: str, seed: int, stop: Any = None) -> Run:
        replay = Replay(features, self.revealed, self.truth, self.classes, self.test, self.groups)
        usable = _usable(replay)
        test = _tested(replay, usable, seed)
        candidates = np.flatnonzero(_pool_rows(replay, usable, seed))
        labels = np.full(len(features), UNLABELED, np.int64)
        strategy = find_strategy(name)
        pool = Pool(self.classes, candidates, np.empty(0, np.int64), labels, embeddings=features)
        accuracy, reasons = [], []
        chances: npt.NDArray[Any] | None = None
        for step, budget in enumerate(self.budgets):
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            rng = np.random.default_rng([seed, step, 1])  # the same for all strategies
            committee = self._committee(features, labels, rng) if "committee" in strategy.needs else None
            told = {"probabilities": chances, "committee": committee}
            pool = Pool(**vars(pool) | {"labels": labels.copy(), **told})
            ready = all(getattr(pool, field) is not None for field in strategy.needs)
            chosen = strategy if ready else STRATEGIES["random"]  # nothing is known yet
            picks = chosen.pick(pool, budget - int((labels >= 0).sum()), rng)
            pool = pool.without(picks.rows)
            labels[picks.rows] = self.revealed[picks.rows]
            reasons.append(picks.reasons[0] if picks.reasons else "")
            chances = self._learned(features, labels)
            accuracy.append(self._accuracy(chances, labels, test))
        return Run(name, seed, tuple(accuracy), tuple(reasons))

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
    return test[finite & (replay.truth[test] >= 0)]


def _pool_rows(replay: Replay, usable: npt.NDArray[np.bool_], seed: int) -> npt.NDArray[np.bool_]:
    rows = usable.copy()
    rows[replay.test_of(seed)] = False
    return rows


def _check(replay: Replay, strategies: Sequence[str], budgets: Sequence[int], seeds: int) -> None:
    n = len(replay.features)
    if not (len(replay.revealed) == len(replay.truth) == n and (replay.groups is None or len(replay.groups) == n)):
        raise ValueError("features, revealed, truth and groups must have the same length")
    for labels in (replay.revealed, replay.truth):
        if n and not (labels.min() >= -1 and labels.max() < replay.classes):
            raise ValueError(f"labels: expected integers from -1 to {replay.classes - 1}")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1; got {seeds}")
    if not budgets or min(budgets) < 1:
        raise ValueError("budgets: expected numbers of labels from 1 on")
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


def _digest(replay: Replay, budgets: Sequence[int], learner: str) -> str:
    """Of all that a run depends on."""
    import hashlib

    arrays = [replay.features, replay.revealed, replay.truth, *replay.test]
    arrays += [] if replay.groups is None else [replay.groups]
    parts = [hashlib.sha256(np.ascontiguousarray(one).data).hexdigest() for one in arrays]
    return sha256_hex(canonical_json([_METHOD, parts, replay.classes, list(budgets), learner]))


class _Kept:
    """Finished runs in a folder of their own, one file each."""

    def __init__(self, cache: Path | None, digest: str) -> None:
        self._folder = cache / digest[:32] if cache else None

    def read(self, strategy: str, seed: int) -> Run | None:
        if self._folder is None:
            return None
        try:
            raw = json.loads((self._folder / f"{strategy}-{seed}.json").read_bytes())
            return Run(raw["strategy"], raw["seed"], tuple(raw["accuracy"]), tuple(raw["reasons"]))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or half written by a machine that went down
            return None

    def write(self, run: Run) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / f"{run.strategy}-{run.seed}.json"
        temporary = place.with_suffix(f".{os.getpid()}.part")
        temporary.write_bytes(canonical_json(asdict(run)))
        temporary.replace(place)


def _in_processes(
    work: _Work, replay: Replay, pairs: Sequence[tuple[str, int]], jobs: int, cache: Path | None
) -> Iterator[Run]:
    """Runs as they are finished. Features go through a file that processes map into memory."""
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    stop = context.Event()
    with tempfile.TemporaryDirectory(dir=cache, prefix="features-") as folder:
        file = Path(folder) / "features.npy"
        np.save(file, replay.features)
        pool = ProcessPoolExecutor(
            min(jobs, len(pairs)), mp_context=context, initializer=_start, initargs=(work, str(file), stop)
        )
        try:
            for future in as_completed([pool.submit(_replayed, name, seed) for name, seed in pairs]):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, Any] = {}


def _start(work: _Work, file: str, stop: Any) -> None:
    """Of each process. An interrupt is for the one that started it, which sets `stop`."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here.update(work=work, features=np.load(file, mmap_mode="r"), stop=stop, limits=threadpool_limits(limits=1))


def _replayed(name: str, seed: int) -> Run:
    run: Run = _here["work"].run(_here["features"], name, seed, _here["stop"])
    return run
