"""What is known of the items to choose from: embeddings, and what a model thinks of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from datasetops.active_learning.candidates import Candidates, votes
from datasetops.active_learning.learner import features, find_learner
from datasetops.active_learning.pool import UNLABELED, Pool, Strategy
from datasetops.active_learning.uncertainty import uncertainty_of
from datasetops.audits.labels.probabilities import for_version
from datasetops.errors import DatasetOpsError, ModelError
from datasetops.manifest import Repository, Version
from datasetops.models import embed_stored, open_embedder
from datasetops.preannotate.stored import stored_probabilities
from datasetops.progress import Progress

_LEARNER: Final = "probe"  # what learns from the labels so far, where no model is named
_MORE: Final = "Let models look at them first: dsops preannotate VERSION --model REF."


@dataclass(frozen=True)
class Signals:
    """`pool` with what the strategy needs; `model` says whose probabilities they are, `embedder` (name and digest) whose
    embeddings; `notes` what fell out."""

    pool: Pool
    model: str | None
    embedder: str | None
    notes: tuple[str, ...]


def gather(
    repository: Repository,
    version: Version,
    found: Candidates,
    strategy: Strategy,
    *,
    probabilities: pd.DataFrame | None,
    predictions: Sequence[str],
    mapping: Path | None,
    scores: pd.Series[float] | None,
    detector: str | None,
    model: str | None,
    seed: int,
    progress: Progress,
) -> Signals:
    """Give the pool the fields that a strategy needs, and those that it can use and that cost nothing more.

    Items without a readable image are left out where embeddings are needed, and told. Raises ValueError for
    probabilities that some candidates lack, DatasetOpsError where nobody and nothing says what the strategy needs.
    """
    pool, notes = found.pool, []
    wanted = {*strategy.needs, *strategy.uses}
    if "votes" in wanted:
        pool = replace(pool, votes=votes(version, found.samples["sample_id"]))
    if probabilities is not None and predictions:
        raise ValueError("probabilities and predictions: give one of them")
    source: str | None = None
    embedder: str | None = None
    if model is not None:
        open_embedder(model, cache=repository.settings.cache)  # a misspelled one is told, also where it is not needed
    tables: list[npt.NDArray[Any]] = []
    if probabilities is not None:
        tables = [_of_file(version, found, probabilities)]
        source = "given probabilities"
    elif predictions and wanted & {"probabilities", "committee"}:
        tables = [_of_model(repository, version, found, name, mapping) for name in predictions]
        source = " + ".join(predictions)
    learns = "probabilities" in wanted and not tables
    has_images = bool(found.samples["sha256"].iloc[pool.candidates].notna().any())
    if "embeddings" in strategy.needs or (has_images and ("embeddings" in wanted or learns)):
        reference = model or repository.settings.model
        vectors, digest = _embeddings(repository, found, reference, progress)
        embedder = f"{reference}#{digest[:12]}"
        there = np.isfinite(vectors[:, 0])
        gone = pool.candidates[~there[pool.candidates]]
        if len(gone):
            notes.append(f"{len(gone):,} samples have no readable image and were left out.")
        if len(gone) == len(pool.candidates):
            raise DatasetOpsError(
                f"None of the images to choose from can be read, and {strategy.name} looks at them.",
                remedy="Put the images back, or choose with --strategy random.",
            )
        pool = pool.without(gone, covered=False)
        pool = replace(pool, embeddings=vectors, covered=pool.covered[there[pool.covered]])
        if learns:
            labels = np.where(there, pool.labels, UNLABELED)
            with suppress(ModelError):
                tables = [_learned(labels, vectors, pool.classes, found.groups, seed)]
                source = f"{_LEARNER} on {embedder}, {int((labels >= 0).sum()):,} labels"
    if tables:
        pool = replace(pool, probabilities=np.mean(tables, axis=0) if len(tables) > 1 else tables[0])
        if len(tables) > 1:
            pool = replace(pool, committee=np.stack(tables))
    _check(strategy, pool, version)
    if "uncertainty" in wanted:
        found_scores = uncertainty_of(
            repository, version, found.samples, pool, strategy.name,
            predictions=predictions, mapping=mapping, scores=scores, detector=detector, progress=progress,
        )  # fmt: skip
        pool = replace(pool, uncertainty=found_scores)
        unknown = pool.candidates[np.isnan(found_scores[pool.candidates])]
        if len(unknown) == len(pool.candidates):
            raise DatasetOpsError(f"{strategy.name} knows none of the items to choose from.", remedy=_MORE)
        if len(unknown):
            notes.append(f"{len(unknown):,} samples have no score by {strategy.name} and were left out.")
            pool = pool.without(unknown, covered=False)
        source = source or " + ".join(predictions) or detector
    return Signals(pool, source, embedder, tuple(notes))


def _check(strategy: Strategy, pool: Pool, version: Version) -> None:
    if "probabilities" in strategy.needs and pool.probabilities is None:
        raise DatasetOpsError(
            f"{strategy.name} needs to know what a model thinks of the items, and {version.name} has too few labels to "
            "learn from: one of at least two classes each.",
            remedy="Give --probabilities FILE or --predictions MODEL, or start with --strategy auto or typiclust.",
        )
    if "committee" in strategy.needs and pool.committee is None:
        raise DatasetOpsError(
            f"{strategy.name} compares several models.",
            remedy="Name two or more whose predictions are kept: --predictions A --predictions B. They are made with: "
            f"dsops preannotate {version.name} --model REF",
        )


def _of_file(version: Version, found: Candidates, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = for_version(frame, found.samples, version.schema).to_numpy(np.float64)
    return _complete(values, found, "probabilities")


def _of_model(
    repository: Repository, version: Version, found: Candidates, name: str, mapping: Path | None
) -> npt.NDArray[np.float64]:
    ids, chances = stored_probabilities(repository, version, name, mapping)
    values = np.full((len(found.samples), chances.shape[1]), np.nan)
    place = pd.Index(found.samples["sample_id"]).get_indexer(pa.array(ids).to_pylist())
    values[place[place >= 0]] = chances[place >= 0]
    return _complete(values, found, f"predictions of {name}")


def _complete(values: npt.NDArray[np.float64], found: Candidates, what: str) -> npt.NDArray[np.float64]:
    """Raises ValueError where candidates have none."""
    rows = found.pool.candidates
    missing = rows[~np.isfinite(values[rows]).all(axis=1)]
    if len(missing):
        first = found.samples["sample_id"].iloc[int(missing[0])]
        raise ValueError(
            f"{what}: {len(missing):,} of the {len(rows):,} items to choose from have none, such as {first}"
        )
    return values


def _learned(
    labels: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32], k: int, groups: Any, seed: int
) -> npt.NDArray[Any]:
    """Probabilities (N, K) by a learner on embeddings; ModelError where there is too little to learn from."""
    if len(np.unique(labels[labels >= 0])) < 2:
        raise ModelError("Fewer than two classes have labels.")
    return find_learner(_LEARNER).fit_predict(vectors, labels, k, groups=groups, seed=seed)


def _embeddings(
    repository: Repository, found: Candidates, reference: str, progress: Progress
) -> tuple[npt.NDArray[np.float32], str]:
    """What learners look at (N, D) of candidates and of what is covered or labeled, NaN for others; the embedder's digest."""
    keys, uris = found.samples["sha256"], found.samples["uri"]
    wanted = np.zeros(len(keys), bool)
    wanted[found.pool.candidates] = wanted[found.pool.covered] = True
    wanted |= found.pool.labels >= 0
    rows = np.flatnonzero(wanted & keys.notna().to_numpy())
    part, digest = embed_stored(
        repository, reference, keys.iloc[rows].tolist(), uris.iloc[rows].tolist(), progress=progress
    )
    vectors = np.full((len(keys), part.shape[1]), np.nan, np.float32)
    vectors[rows] = part
    return features(vectors), digest
