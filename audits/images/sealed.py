"""Keep a sealed split honest: it may not silently gain copies of what a model is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from datasetops.audits.base import AuditContext
from datasetops.audits.images.near import near_pairs
from datasetops.audits.images.stored import StoredImages
from datasetops.errors import RejectedError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.records import ANNOTATIONS


def sealed_split_guard(progress: Progress = no_progress) -> Callable[[Repository, Version, pa.Table], None]:
    """A guard for `datasetops.ingest.ingest`, see `refuse_leaks`."""
    return lambda repository, head, samples: refuse_leaks(repository, head, samples, progress=progress)


def refuse_leaks(repository: Repository, head: Version, samples: pa.Table, *, progress: Progress = no_progress) -> None:
    """Raise RejectedError if samples that are new to a sealed split show the same shot as one outside of it.

    `samples` has the columns of records.SAMPLES. Copies are found by digest, recompressed, resized, turned and mirrored
    ones by their pictures.
    """
    sealed = set(head.commit.sealed)
    if not sealed:
        return
    before = head.table("samples").to_pandas()
    arriving = samples.select(before.columns.tolist()).to_pandas()
    arriving = arriving[arriving["split"].isin(sealed) & ~arriving["sample_id"].isin(before["sample_id"])]
    others = before[before["split"].notna() & ~before["split"].isin(sealed)]
    if not len(arriving) or not len(others):
        return
    rows = pd.concat([others, arriving], ignore_index=True)
    context = AuditContext(
        samples=rows,
        annotations=ANNOTATIONS.empty_table().to_pandas(),
        schema=head.schema,
        images=StoredImages(repository, rows["uri"].tolist()),
        embeddings=lambda: np.empty((len(rows), 0), dtype=np.float32),
        jobs=repository.settings.jobs,
        progress=progress,
    )
    is_new = (rows.index >= len(others)).astype(bool)
    copies = [(rows["sha256"][row], row) for row in np.flatnonzero(is_new) if rows["sha256"][row] is not None]
    known = dict(zip(others["sha256"], others["uri"], strict=True))
    leaks = [(rows["uri"][row], known[digest]) for digest, row in copies if digest in known]
    for first, second in near_pairs(context).indices:
        if is_new[first] != is_new[second]:
            new, old = (first, second) if is_new[first] else (second, first)
            leaks.append((rows["uri"][new], rows["uri"][old]))
    if leaks:
        shown = "".join(f"\n  {new} shows the same as {old}" for new, old in leaks[:5])
        raise RejectedError(
            f"{len(leaks)} images that would join a sealed split show the same as images outside of it.{shown}",
            remedy="Leave them out, or give the reason with --unseal REASON; it is recorded.",
        )
