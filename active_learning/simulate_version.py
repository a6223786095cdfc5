"""Replay active learning on a version: what people labeled there is taken for the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from datasetops.active_learning.candidates import EVALUATION_SPLITS, labels_by_people
from datasetops.active_learning.learner import features
from datasetops.active_learning.pool import UNLABELED, Ints
from datasetops.active_learning.replays import Simulation, shares_by_group
from datasetops.active_learning.simulate import Replay, simulate
from datasetops.active_learning.simulate_boxes import BoxReplay, box_replay, simulate_boxes
from datasetops.audits.base import AuditContext
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.run import Embeddings
from datasetops.errors import DatasetOpsError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress

TEST_SHARE: Final = 0.2
_TEST: Final = "test"  # the split that is measured on
_CLASS: Final = "classification"


def simulate_version(
    repository: Repository,
    version: Version,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int = 10,
    learner: str = "probe",
    batch: int | None = None,
    model: str | None = None,
    noise_from: Version | None = None,
    flip: float = 0.0,
    test_share: float = TEST_SHARE,
    progress: Progress = no_progress,
) -> Simulation:
    """See `simulate`, and `simulate_boxes` where the schema asks for no class of images; chance is always replayed too.

    Measured on the split `test` where it has labels and is not sealed, else on a part drawn anew for each seed, whole
    groups and copies together; labels of validation splits take no part. Embeddings are those of `model`, the
    repository's unless told. Labeling gives what `noise_from`, another version of the same samples, says, and a share
    `flip` of labels is replaced by another class; accuracy is always that on the labels of `version`. Raises
    DatasetOpsError where there is nothing to replay, ValueError for arguments that cannot be.
    """
    if not 0 <= flip < 1:
        raise ValueError(f"flip: expected a share from 0 to below 1; got {flip}")
    if not 0 < test_share < 1:
        raise ValueError(f"test share: expected a share between 0 and 1; got {test_share}")
    reference = model or repository.settings.model
    names = [*strategies, "random"]
    jobs, cache = repository.settings.jobs, repository.cache / "simulations"
    if _CLASS not in version.schema.kinds:
        if noise_from is not None or flip or batch is not None or learner != "probe":
            raise ValueError("noise, batch and learner are for classes; what this version asks for is boxes")
        boxed = _boxed(repository, version, reference, seeds, test_share, progress)
        return simulate_boxes(
            boxed, strategies=names, budgets=budgets, seeds=seeds, jobs=jobs, cache=cache, progress=progress
        )
    replay, notes = _labeled(repository, version, reference, noise_from, flip, seeds, test_share, progress)
    done = simulate(
        replay, strategies=names, budgets=budgets, seeds=seeds, learner=learner, batch=batch, jobs=jobs, cache=cache,
        progress=progress,
    )  # fmt: skip
    return replace(done, notes=(*notes, *done.notes))


def flipped(labels: Ints, share: float, classes: int, rng: np.random.Generator) -> Ints:
    """Labels of which this share is replaced by another class, each as likely; -1 stays."""
    wrong = (labels >= 0) & (rng.random(len(labels)) < share)
    other = (labels + rng.integers(1, max(classes, 2), len(labels))) % classes
    return np.where(wrong, other, labels)


def _labeled(
    repository: Repository,
    version: Version,
    reference: str,
    noise_from: Version | None,
    flip: float,
    seeds: int,
    test_share: float,
    progress: Progress,
) -> tuple[Replay, tuple[str, ...]]:
    """The samples to which people gave one class, and what was left out."""
    table = version.table("samples").to_pandas()
    told = labels_by_people(version, pa.array(table["sample_id"], pa.string()))
    apart = table["split"].isin([*version.commit.sealed, *EVALUATION_SPLITS]).to_numpy()
    rows = np.flatnonzero((told >= 0) & ~apart)
    samples, truth, classes = table.iloc[rows].reset_index(drop=True), told[rows], version.schema.class_names
    teaching = truth[(samples["split"] != _TEST).to_numpy()]
    known = len(np.unique(teaching))
    if known < 2:
        raise DatasetOpsError(
            f"{version.name} has {len(teaching):,} images to learn from with one class by people, of {known} classes: "
            "there is nothing to replay.",
            remedy="Take a version that is labeled; a few hundred labels show something, a few thousand more.",
        )
    left = int(((told >= 0) & apart).sum())
    notes = (f"Left out: {left:,} labeled samples of splits that are sealed or for validation.",) if left else ()
    revealed = truth if noise_from is None else _said(noise_from, samples, classes)
    revealed = flipped(revealed, flip, len(classes), np.random.default_rng(0))
    seen = features(Embeddings(repository, reference, samples, progress)())
    groups = grouped_with_copies(samples).to_numpy(np.int64)
    test = _test(samples, groups, test_share, seeds)
    return Replay(seen, revealed, truth, len(classes), test, groups), notes


def _boxed(
    repository: Repository, version: Version, reference: str, seeds: int, test_share: float, progress: Progress
) -> BoxReplay:
    table = version.table("samples").to_pandas()
    samples = table[~table["split"].isin([*version.commit.sealed, *EVALUATION_SPLITS])].reset_index(drop=True)
    rows = version.labels().to_pandas()
    annotations = rows[rows["sample_id"].isin(samples["sample_id"])].reset_index(drop=True)
    embeddings = Embeddings(repository, reference, samples, progress)
    context = AuditContext(
        samples=samples,
        annotations=annotations,
        schema=version.schema,
        images=embeddings.images,
        embeddings=embeddings,
        jobs=repository.settings.jobs,
        progress=progress,
        memo={"model_cache": repository.settings.cache},
    )

    def test(rows: Ints) -> tuple[Ints, ...]:
        chosen = samples.iloc[rows]
        return _test(chosen, grouped_with_copies(samples).to_numpy(np.int64)[rows], test_share, seeds)

    return box_replay(context, test)


def _test(samples: pd.DataFrame, groups: Ints, share: float, seeds: int) -> tuple[Ints, ...]:
    """Rows to measure on: the split `test`, else a part for each seed."""
    rows = np.flatnonzero((samples["split"] == _TEST).to_numpy())
    return (rows,) if len(rows) else shares_by_group(groups, share, seeds)


def _said(other: Version, samples: pd.DataFrame, classes: Sequence[str]) -> Ints:
    """What another version says of the same samples (N,)."""
    theirs = labels_by_people(other, pa.array(samples["sample_id"], pa.string()))
    code = np.append(pd.Index(classes).get_indexer(pd.Index(other.schema.class_names)), UNLABELED)  # last: no label
    said = code[theirs].astype(np.int64)
    if not (said >= 0).any():
        raise DatasetOpsError(
            f"{other.name} says nothing of the samples that are replayed.",
            remedy="Name a version of the same samples and classes.",
        )
    return said
