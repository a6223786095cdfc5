"""Labeling with tools that take and give files, through the same batches and the same merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datasetops.errors import DatasetOpsError
from datasetops.labeling.base import FileTool, ImageSize, Pulled
from datasetops.labeling.batch import (
    Batch,
    Project,
    batches,
    image_sizes,
    load_project,
    project_names,
    save_batch,
    save_project,
)
from datasetops.labeling.pull import PullResult, apply
from datasetops.labeling.push import task_maker
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.plugins import load_plugin
from datasetops.progress import Progress, no_progress
from datasetops.records import sha256_hex
from datasetops.store.media import Media


def file_project(repository: Repository, tool: str, name: str | None = None) -> Project:
    """The record of what goes out to and comes back from a tool in files; made when first asked for."""
    load_plugin("label_files", tool)
    name = name or f"{repository.schema.name}-{tool}"
    if name in project_names(repository):
        project = load_project(repository, name)
        if project.tool != tool:
            raise DatasetOpsError(f"The project {name!r} is one of {project.tool}.", remedy="Choose another --project.")
        return project
    head = repository.head()
    guide = head.commit.guide if head else None
    project = Project(name, tool, "", 0, repository.schema.digest, guide, "")
    save_project(repository, project)
    return project


def write_files(
    repository: Repository, batch: Batch, tool: str, out: Path, *, progress: Progress = no_progress
) -> list[str]:
    """Write a batch for a tool; sentences about what its format cannot hold."""
    save_batch(repository, batch)
    version = repository.version(batch.version)
    media = Media(repository.store, repository.root)
    rows = version.state("samples").rows(pa.array(batch.samples, pa.string()), ["sample_id", "uri"]).to_pylist()
    uris = {row["sample_id"]: row["uri"] for row in rows}
    make, _ = task_maker(repository, batch, lambda row: media.locate(uris[batch.samples[row]]))
    tasks = [make(row) for row in range(len(batch.samples))]
    writer: FileTool = load_plugin("label_files", tool)()
    lost = writer.write(tasks, version.schema, out, read_media=lambda name: media.read(uris[name]), progress=progress)
    commit = version.commit
    event = Event(
        "label-push",
        repository.settings.actor,
        inputs={"version": batch.version, "schema": commit.schema, "guide": commit.guide},
        outputs={"files": {batch.key: sha256_hex(batch.to_bytes())}, "tasks": len(tasks)},
        parameters={"batch": batch.name, "project": batch.project, "tool": tool},
    )
    repository.ledger.record(event)
    return lost


def read_files(
    repository: Repository, project: Project, tool: str, file: Path, *, actor: str | None = None, **options: Any
) -> PullResult:
    """Bring back what a tool exported; the file says everything, so what has not changed makes no new version."""
    mine = sorted(batches(repository, project.name), key=lambda batch: int(batch.version[1:]))
    if not mine:
        raise DatasetOpsError(
            f"Nothing was pushed to {project.name!r} yet.", remedy=f"First: dsops label push --tool {tool} --out FILE"
        )
    batch_of = {name: batch for batch in mine for name in batch.samples}
    sizes: dict[str, ImageSize] = {}
    for batch in mine:
        sizes |= image_sizes(repository, batch, batch.samples)
    schema = repository.version(mine[-1].version).schema
    reader: FileTool = load_plugin("label_files", tool)()
    read = reader.read(file, schema, sizes, actor=actor)
    if any(answer.actor == "unknown" for task in read for answer in task.answers):
        raise DatasetOpsError(f"{file} does not say who answered.", remedy="Name them with --actor.")
    tasks = tuple(_in_batch(task, batch_of[task.sample_id].name) for task in read if task.sample_id in batch_of)
    strangers: Sequence[str] = [task.sample_id for task in read if task.sample_id not in batch_of]
    warnings = (f"{len(strangers)} images were never pushed, such as {strangers[0]}.",) if strangers else ()
    named = {batch.name: batch for batch in mine}
    result, _ = apply(repository, project, named, Pulled(tasks, {}, warnings=warnings), _Files(tool), **options)
    return result


@dataclass(frozen=True)
class _Files:
    name: str
    version: str = "files"


def _in_batch(task: Any, batch: str) -> Any:
    from dataclasses import replace

    return replace(task, batch=batch)
