"""What a model says about samples that need not be in any version; what it said before is kept and not computed again."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from datasetops.engine import Item
from datasetops.evaluation.answers import Answers, Source, ask
from datasetops.manifest import Repository, Version
from datasetops.preannotate.compute import compute
from datasetops.preannotate.predictions import PredictionStore
from datasetops.preannotate.rows import Owners, class_scores
from datasetops.preannotate.stored import mapping_of
from datasetops.progress import Progress, no_progress
from datasetops.records import Finding

_CLASS: Final = "classification"


def answers_of(
    repository: Repository,
    version: Version,
    source: Source,
    samples: pd.DataFrame,
    kind: str,
    *,
    progress: Progress = no_progress,
) -> Answers:
    """Answers about samples (sample_id, uri, sha256), with the classes of a version's schema.

    As `evaluation.answers.ask`, which knows classes of the version's own samples only.
    """
    if kind != _CLASS or source.labeler is None:
        return ask(repository, version, source, samples, kind, progress=progress)
    there = samples["sha256"].notna().to_numpy()
    first = samples[there].drop_duplicates("sha256")
    items = [Item(key, uri) for key, uri in zip(first["sha256"], first["uri"], strict=True)]
    model = source.labeler.info(items)
    store = PredictionStore(repository, model.digest)
    known = store.known(item.key for item in items)
    missing = [place for place, item in enumerate(items) if item.key not in known]
    reasons = compute(store, source.labeler, model, items, missing, progress)
    names = mapping_of(repository, version, model)
    schema = version.schema
    owners = Owners(pa.table({"sample_id": samples["sample_id"][there], "key": samples["sha256"][there]}))
    row_of = pd.Index(samples["sample_id"])
    found = np.full((len(samples), len(schema.class_names)), np.nan)
    for stored in store.read(item.key for item in items):
        scores = class_scores(stored, names, schema.class_names, several=schema.multi_label)
        if not schema.multi_label:
            scores = _shares(scores)
        ids, item = owners.of(stored.images["key"])
        found[row_of.get_indexer(pd.Index(ids.to_pylist()))] = scores[item]
        faults = zip(stored.images["key"].to_pylist(), stored.images["fault"].to_pylist(), strict=True)
        reasons |= {key: fault for key, fault in faults if fault is not None}
    answered = ~np.isnan(found).any(axis=1)
    return Answers(
        model, names, kind, answered, _faults(samples[~answered], reasons), len(missing) - len(reasons), found
    )  # fmt: skip


def _shares(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores (N, K) as shares of one; NaN where none is above 0."""
    total = scores.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: npt.NDArray[np.float64] = np.where(total > 0, scores / total, np.nan)
    return shares


def _faults(samples: pd.DataFrame, reasons: dict[str, str]) -> tuple[Finding, ...]:
    found = []
    for row in samples.itertuples():
        reason = "its image is not at hand"
        if isinstance(row.sha256, str):
            reason = reasons.get(row.sha256, "the model named no class of the schema")
        found.append(Finding("image_quality", "high", 0.0, reason, str(row.sample_id), str(row.uri)))
    return tuple(found)
