"""Choose the samples that are worth labeling next, and record the round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.active_learning.rounds import Round, record_round
from datasetops.active_learning.scores import Floats, entropy, least_confidence, margin
from datasetops.errors import DatasetOpsError, NotFoundError, did_you_mean
from datasetops.manifest import Repository, Version

SCORES: Final[Mapping[str, Callable[[npt.ArrayLike], Floats]]] = {
    "entropy": entropy,
    "least_confidence": least_confidence,
    "margin": margin,
}
STRATEGIES: Final = (*sorted(SCORES), "random")
_BY_PEOPLE: Final = ("human", "consensus", "import")


def select(
    repository: Repository,
    version: Version,
    *,
    n: int,
    strategy: str = "margin",
    probabilities: Mapping[str, npt.ArrayLike] | None = None,
    where: str | None = None,
    seed: int = 0,
) -> Round:
    """Choose n samples and record them as a round; fewer where the pool has no more.

    The pool is what nobody has labeled yet, or what fulfils the SQL condition `where`, without items that are out for
    labeling. `probabilities` (K,) by sample id are those of a model; every strategy but `random` needs them. Equal
    scores go in an order that `seed` decides.
    """
    if strategy not in STRATEGIES:
        raise NotFoundError(
            f"There is no strategy {strategy!r}.", remedy=did_you_mean(strategy, STRATEGIES, noun="strategies")
        )
    if n < 1:
        raise ValueError(f"n: expected at least 1; got {n}")
    pool = _pool(repository, version, where)
    if not pool:
        raise DatasetOpsError(
            f"{version.name} has nothing left to choose from.",
            remedy="Everything is labeled or out for labeling. Choose a pool with --where, or ingest more.",
        )
    order = np.random.default_rng(seed).permutation(len(pool))
    scores = None
    if strategy != "random":
        scores = SCORES[strategy](_rows(probabilities, pool, strategy))
        order = order[np.argsort(-scores[order], kind="stable")]
    chosen = order[:n]
    return record_round(
        repository,
        version=version.name,
        strategy=strategy,
        seed=seed,
        asked=n,
        pool=len(pool),
        samples=tuple(pool[row] for row in chosen),
        scores=tuple(None if scores is None else float(scores[row]) for row in chosen),
        parameters={"where": where},
    )


def labeled_by_people(version: Version) -> set[str]:
    """Samples with an annotation that counts and that a person gave or an importer brought."""
    rows = version.labels(["sample_id", "source"])
    known = pc.is_in(rows["source"], pa.array(_BY_PEOPLE))
    return set(rows.filter(known)["sample_id"].to_pylist())


def _pool(repository: Repository, version: Version, where: str | None) -> list[str]:
    labeled = labeled_by_people(version)
    if where is None:
        ids = [name for name in version.table("samples", ["sample_id"])["sample_id"].to_pylist() if name not in labeled]
    else:
        ids = version.where(where)
    out = _out_for_labeling(repository)
    return [name for name in ids if name not in out or name in labeled]


def _out_for_labeling(repository: Repository) -> set[str]:
    """Samples of every batch that was pushed."""
    found: set[str] = set()
    for entry in repository.ledger.backwards():
        if entry.event.kind == "label-push":
            for key in entry.event.outputs["files"]:
                found.update(json.loads(repository.store.get(key))["samples"])
    return found


def _rows(probabilities: Mapping[str, Any] | None, pool: list[str], strategy: str) -> npt.NDArray[np.float64]:
    if probabilities is None:
        raise ValueError(
            f"strategy: {strategy} needs a model's class probabilities: --probabilities FILE, or use random"
        )
    missing = [name for name in pool if name not in probabilities]
    if missing:
        raise ValueError(
            f"probabilities: {len(missing):,} of the {len(pool):,} items to choose from have none, such as {missing[0]}"
        )
    return np.asarray([probabilities[name] for name in pool], dtype=np.float64)
