"""Whose a dataset in FiftyOne is, and one of others as a new source of a repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from datasetops.audits.images.sealed import sealed_split_guard
from datasetops.errors import StoreError
from datasetops.fiftyone.database import connect, quietly, shown_address
from datasetops.fiftyone.pull import belongs
from datasetops.fiftyone.source import DatasetReader, DatasetTree
from datasetops.ingest import IngestResult, ingest
from datasetops.manifest import Repository
from datasetops.progress import Progress, no_progress


def owner_of(repository: Repository, name: str, *, database: str | None = None) -> Literal["ours", "others", "nobody"]:
    """Whose the dataset of this name is; nobody's where there is none. Raises as `connect`."""
    with quietly():
        ours = belongs(connect(database), name, repository)
    return "nobody" if ours is None else "ours" if ours else "others"


def ingest_from_fiftyone(
    repository: Repository,
    name: str,
    *,
    database: str | None = None,
    fields: Sequence[str] = (),
    tags: str | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> IngestResult:
    """Ingest a dataset that others made: images where they lie, labels of `fields`, other fields as metadata.

    `tags`: key of the metadata that takes the samples' tags. `options` are those of datasetops.ingest.ingest; ingesting
    again follows its rules. Raises as that, as `connect`, and as `DatasetReader`.
    """
    with quietly():
        fiftyone = connect(database)
        from pymongo.errors import PyMongoError

        try:
            reader = DatasetReader(fiftyone, name, fields=fields, tags=tags, jobs=repository.settings.jobs)
            tree = DatasetTree(name, f"fiftyone:{shown_address(fiftyone.config.database_uri)}/{name}")
            guard = sealed_split_guard(progress)
            return ingest(repository, tree, format=reader, guard=guard, progress=progress, **options)
        except PyMongoError as error:
            reason = str(error).partition("\n")[0]
            raise StoreError(
                f"The database of FiftyOne failed: {reason}", remedy="Run the same command again."
            ) from None
