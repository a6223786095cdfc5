"""Tasks of erased items in labeling tools: found by the batches that hold them, and deleted there with their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasetops.errors import DatasetOpsError
from datasetops.labeling import open_project
from datasetops.labeling.base import LabelServer
from datasetops.labeling.batch import batches, load_project
from datasetops.manifest import Repository
from datasetops.plugins import plugin_names


def batches_of(repository: Repository, samples: frozenset[str]) -> dict[str, str]:
    """Batches that any of the samples was sent in, by name, with their projects."""
    return {batch.name: batch.project for batch in batches(repository) if not samples.isdisjoint(batch.samples)}


def servers_of(repository: Repository, sent: Mapping[str, str]) -> dict[str, LabelServer]:
    """The servers of these batches' projects, by project, each asked for tasks once; exchange files have none.

    Raises DatasetOpsError for one that does not answer.
    """
    servers = {}
    for name, batch in {project: batch for batch, project in sent.items()}.items():
        project = load_project(repository, name)
        if project.tool in plugin_names("label_tools"):
            try:
                servers[name] = open_project(repository, project)
                servers[name].remove(batch, ())
            except DatasetOpsError as error:
                raise type(error)(
                    f"The tasks of the project {name!r} cannot be deleted: {error.message}",
                    remedy=f"{error.remedy} Or leave them where they are, which the certificate says: --leave-tasks",
                ) from None
    return servers


def delete_tasks(servers: Mapping[str, LabelServer], sent: Mapping[str, str], samples: Sequence[str]) -> dict[str, int]:
    """By batch, how many tasks of the samples were deleted."""
    return {name: servers[project].remove(name, samples) for name, project in sent.items() if project in servers}
