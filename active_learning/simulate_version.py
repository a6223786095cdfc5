"""Replay active learning on a version: what people labeled there is taken for the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from datasetops.active_learning.candidates import Candidates, find_candidates
from datasetops.active_learning.pool import UNLABELED, Ints
from datasetops.active_learning.signals import _embeddings as embedded
from datasetops.active_learning.simulate import Replay, Simulation, shares_by_group, simulate
from datasetops.audits.label_probabilities import grouped_with_copies
from datasetops.errors import DatasetOpsError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress

TEST_SHARE: Final = 0.2
_TEST: Final = "test"  # the split that is measured on


def simulate_version(
    repository: Repository,
    version: Version,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int = 10,
    learner: str = "probe",
    model: str | None = None,
    noise_from: Version | None = None,
    flip: float = 0.0,
    test_share: float = TEST_SHARE,
    progress: Progress = no_progress,
) -> Simulation:
    """See `simulate`; chance is always replayed too. Items are the images to which people gave one class.

    Measured on the split `test` where it has labels and is not sealed, else on a part drawn anew for each seed, whole
    groups and copies together. Embeddings are those of `model`, the repository's unless told. Labeling gives what
    `noise_from`, another version of the same samples, says, and a share `flip` of labels is replaced by another class;
    accuracy is always that on the labels of `version`. Raises DatasetOpsError where there is nothing to replay.
    """
    if not 0 <= flip < 1:
        raise ValueError(f"flip: expected a share from 0 to below 1; got {flip}")
    if not 0 < test_share < 1:
        raise ValueError(f"test share: expected a share between 0 and 1; got {test_share}")
    found = _labeled(repository, version)
    truth = found.pool.labels
    classes = found.pool.classes
    revealed = truth if noise_from is None else _of_other(repository, noise_from, found)
    revealed = flipped(revealed, flip, classes, np.random.default_rng(0))
    features, _ = embedded(repository, found, model or repository.settings.model, progress)
    groups = grouped_with_copies(found.samples).to_numpy(np.int64)
    rows = np.flatnonzero(truth >= 0)
    tested = rows[(found.samples["split"] == _TEST).to_numpy()[rows]]
    test = (tested,) if len(tested) else shares_by_group(groups, test_share, seeds, rows)
    replay = Replay(features, np.where(truth >= 0, revealed, UNLABELED), truth, classes, test, groups)
    done = simulate(
        replay,
        strategies=[*strategies, "random"],
        budgets=budgets,
        seeds=seeds,
        learner=learner,
        jobs=repository.settings.jobs,
        cache=repository.cache / "simulations",
        progress=progress,
    )
    return replace(done, notes=(*found.notes, *done.notes))


def flipped(labels: Ints, share: float, classes: int, rng: np.random.Generator) -> Ints:
    """Labels of which this share is replaced by another class, each as likely; -1 stays."""
    wrong = (labels >= 0) & (rng.random(len(labels)) < share)
    other = (labels + rng.integers(1, max(classes, 2), len(labels))) % classes
    return np.where(wrong, other, labels)


def _labeled(repository: Repository, version: Version) -> Candidates:
    """Samples of a version, of which those with a class count."""
    found = find_candidates(repository, version, None, labeled_too=True)
    rows = np.flatnonzero(found.pool.labels >= 0)
    known = len(np.unique(found.pool.labels[rows]))
    if known < 2:
        raise DatasetOpsError(
            f"{version.name} has {len(rows):,} images with one class by people, of {known} classes: there is nothing to "
            "replay.",
            remedy="Take a version that is labeled; a few hundred labels show something, a few thousand more.",
        )
    pool = replace(found.pool, candidates=rows, covered=np.empty(0, np.int64))
    return replace(found, pool=pool)


def _of_other(repository: Repository, other: Version, found: Candidates) -> Ints:
    """What another version says of the same samples (N,)."""
    theirs = find_candidates(repository, other, None, labeled_too=True)
    names = pd.Index(theirs.classes).get_indexer(pd.Index(found.classes))
    code = np.full(len(theirs.classes) + 1, UNLABELED, np.int64)  # the last one for no label
    code[names[names >= 0]] = np.flatnonzero(names >= 0)
    place = pd.Index(theirs.samples["sample_id"]).get_indexer(found.samples["sample_id"])
    said = np.where(place >= 0, code[theirs.pool.labels[place]], UNLABELED)
    if not (said >= 0).any():
        raise DatasetOpsError(
            f"{other.name} says nothing of the samples that are replayed.",
            remedy="Name a version of the same samples and classes.",
        )
    return said
