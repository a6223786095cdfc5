"""Runs of a simulation: each strategy with each seed, in processes, kept as they are finished."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import Floats, Ints
from datasetops.errors import DatasetOpsError
from datasetops.progress import Progress
from datasetops.records import canonical_json, sha256_hex

Arrays = Mapping[str, npt.NDArray[Any]]

_METHOD: Final = 1  # raised whenever the same data would give other runs


@dataclass(frozen=True)
class Run:
    """One strategy with one seed: the measure at each budget, and why it chose what it chose up to there."""

    strategy: str
    seed: int
    measured: tuple[float, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Simulation:
    """`runs` by strategy, then seed. `budgets` are labeled items in all; `measure` says what is measured, in [0, 1]."""

    measure: str
    learner: str
    classes: int
    pool: int
    test: int
    strategies: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: int
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()

    def measured(self, strategy: str) -> Floats:
        """(seeds, budgets)."""
        return np.array([run.measured for run in self.runs if run.strategy == strategy])


class Work(Protocol):
    """What is replayed, but for its large arrays; small enough to be sent to processes."""

    @property
    def budgets(self) -> tuple[int, ...]: ...

    def run(self, arrays: Arrays, strategy: str, seed: int, stop: Any = None) -> Run:
        """`stop` is an event: once it is set, the run ends by KeyboardInterrupt."""


def shares_by_group(groups: Ints, share: float, seeds: int) -> tuple[Ints, ...]:
    """A test part for each seed, of about this share of the rows (N,); groups, negative for none, stay whole."""
    parts = []
    own = np.where(groups >= 0, groups, groups.max(initial=0) + 1 + np.arange(len(groups)))
    units, codes = np.unique(own, return_inverse=True)
    for seed in range(seeds):
        order = np.random.default_rng([seed, 0]).permutation(len(units))
        sizes = np.bincount(codes)[order]
        drawn = order[np.cumsum(sizes) <= share * len(groups)]
        parts.append(np.flatnonzero(np.isin(codes, drawn)))
    return tuple(parts)


def fitting(budgets: Sequence[int], room: int) -> tuple[tuple[int, ...], list[str]]:
    """The budgets that a pool of `room` items fills, ascending, and a note on the others.

    Raises DatasetOpsError where it fills none.
    """
    if not budgets or min(budgets) < 1:
        raise ValueError("budgets: expected numbers of labels from 1 on")
    wanted = sorted({int(budget) for budget in budgets})
    kept = tuple(budget for budget in wanted if budget <= room)
    if not kept:
        raise DatasetOpsError(
            f"The pool has {room:,} labeled items, and the least budget asks for {wanted[0]:,}.",
            remedy="Give smaller budgets, a smaller test part, or a version with more labels.",
        )
    left_out = ", ".join(f"{budget:,}" for budget in wanted[len(kept) :])
    return kept, [f"Budgets of {left_out} labels are left out: the pool has {room:,}."] if left_out else []


def replay_all(
    work: Work,
    arrays: Arrays,
    told: Sequence[Any],
    strategies: Sequence[str],
    seeds: int,
    *,
    jobs: int,
    cache: Path | None,
    progress: Progress,
) -> tuple[Run, ...]:
    """Every strategy with every seed, in this order.

    Finished runs are kept in the folder `cache`, under the digest of `arrays` and of `told`: arrays and JSON values that
    say all else that runs depend on.
    """
    kept = _Kept(cache, _digest([*arrays.values(), *told, list(work.budgets)]) if cache else "", len(work.budgets))
    known = {(name, seed): kept.read(name, seed) for name in strategies for seed in range(seeds)}
    missing = sorted((pair for pair, run in known.items() if run is None), key=lambda pair: pair[1])
    if jobs > 1 and len(missing) > 1:
        done = _in_processes(work, arrays, missing, jobs, cache)
    else:
        done = (work.run(arrays, name, seed) for name, seed in missing)
    for run in progress(done, len(missing), "Replaying active learning"):
        kept.write(run)
        known[run.strategy, run.seed] = run
    return tuple(run for run in known.values() if run is not None)


def _digest(parts: Sequence[Any]) -> str:
    told = [
        [str(part.dtype), list(part.shape), hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()]
        if isinstance(part, np.ndarray)
        else part
        for part in parts
    ]
    return sha256_hex(canonical_json([_METHOD, version("dsops"), told]))


class _Kept:
    """Finished runs in a folder of their own, one file each."""

    def __init__(self, cache: Path | None, digest: str, budgets: int) -> None:
        self._folder = cache / digest[:32] if cache else None
        self._budgets = budgets

    def read(self, strategy: str, seed: int) -> Run | None:
        if self._folder is None:
            return None
        try:
            raw = json.loads((self._folder / f"{strategy}-{seed}.json").read_bytes())
            measured = tuple(float(value) for value in raw["measured"])
            run = Run(str(raw["strategy"]), int(raw["seed"]), measured, tuple(map(str, raw["reasons"])))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or half written by a machine that went down
            return None
        return run if len(run.measured) == self._budgets else None

    def write(self, run: Run) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / f"{run.strategy}-{run.seed}.json"
        temporary = place.with_suffix(f".{os.getpid()}.part")
        temporary.write_bytes(canonical_json(asdict(run)))
        temporary.replace(place)


def _in_processes(
    work: Work, arrays: Arrays, pairs: Sequence[tuple[str, int]], jobs: int, cache: Path | None
) -> Iterator[Run]:
    """Runs as they are finished. Arrays go through files that processes map into memory."""
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    stop = context.Event()
    with tempfile.TemporaryDirectory(dir=cache, prefix="arrays-") as folder:
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array)
        pool = ProcessPoolExecutor(
            min(jobs, len(pairs)), mp_context=context, initializer=_start, initargs=(work, folder, list(arrays), stop)
        )
        try:
            for future in as_completed([pool.submit(_replayed, name, seed) for name, seed in pairs]):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, Any] = {}


def _start(work: Work, folder: str, names: Sequence[str], stop: Any) -> None:
    """Of each process. An interrupt is for the one that started it, which sets `stop`."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in names}
    _here.update(work=work, arrays=arrays, stop=stop, limits=threadpool_limits(limits=1))


def _replayed(name: str, seed: int) -> Run:
    run: Run = _here["work"].run(_here["arrays"], name, seed, _here["stop"])
    return run
