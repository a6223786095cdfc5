"""Runs of a simulation: each strategy with each seed, in processes, kept as they are finished."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
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

    def run(self, arrays: Arrays, strategy: str, seed: int) -> Run: ...


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
        done = _in_processes(work, arrays, missing, jobs)
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


def _in_processes(work: Work, arrays: Arrays, pairs: Sequence[tuple[str, int]], jobs: int) -> Iterator[Run]:
    """Runs as they are finished. Processes map the arrays into memory, and end with the one that started them."""
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", n_jobs=min(jobs, len(pairs)), inner_max_num_threads=1):
        pool = Parallel(return_as="generator_unordered")
        runs = pool(delayed(work.run)(arrays, name, seed) for name, seed in pairs)
        try:
            while (run := next(runs, None)) is not None:
                yield run
        finally:
            with warnings.catch_warnings():  # of runs that an interrupt leaves undone
                warnings.simplefilter("ignore")
                runs.close()
