"""Make or update the labeling project of a version's schema, and open it."""

from __future__ import annotations

import json

from datasetops.errors import NotFoundError
from datasetops.labeling.base import LabelServer
from datasetops.labeling.batch import Project, load_project, project_names, save_project
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import get_object
from datasetops.plugins import load_plugin
from datasetops.schema import LabelSchema


def set_up(
    repository: Repository,
    version: Version | None,
    *,
    name: str | None = None,
    tool: str = "label-studio",
    blind: bool = False,
    overwrite: bool = False,
    moved: bool = False,
) -> tuple[Project, list[str]]:
    """(the project, sentences about what was done). `name` is the schema's name unless told; "…-blind" for a blind one.

    `moved` takes over the project at the server that the environment names now. In a blind project nobody sees
    predictions, and answers never replace annotations.
    """
    schema = version.schema if version else repository.schema
    name = name or (f"{schema.name}-blind" if blind else schema.name)
    known = load_project(repository, name) if name in project_names(repository) else None
    project, said = load_plugin("label_tools", tool)().set_up(
        name,
        schema,
        version.guide if version else None,
        guide_digest=version.commit.guide if version else None,
        known=None if moved else known,
        marker=f"dsops {_identity(repository)} {name}",
        blind=known.blind if known else blind,
        overwrite=overwrite,
    )
    if project != known:
        save_project(repository, project)
        event = Event(
            "label-setup",
            repository.settings.actor,
            inputs={"version": version.name if version else None},
            outputs={"project": project.id, "url": project.url, "schema": project.schema, "guide": project.guide},
            parameters={"project": name, "tool": tool, "blind": project.blind},
        )
        repository.ledger.record(event)
    return project, said


def open_project(repository: Repository, project: Project) -> LabelServer:
    """The project, ready for push and pull."""
    schema = LabelSchema.model_validate_json(get_object(repository.store, "schemas", project.schema))
    server: LabelServer = load_plugin("label_tools", project.tool)().open(project, schema)
    return server


def choose_project(repository: Repository, name: str | None) -> Project:
    """The project of that name; without one, the only one there is, or that of the schema."""
    if name is not None:
        return load_project(repository, name)
    names = project_names(repository)
    schema = repository.schema.name
    if schema in names:
        return load_project(repository, schema)
    if len(names) == 1:
        return load_project(repository, names[0])
    if not names:
        raise NotFoundError("There is no labeling project yet.", remedy="Make one with: dsops label setup")
    raise NotFoundError("There are several labeling projects.", remedy=f"Name one with --project: {', '.join(names)}.")


def _identity(repository: Repository) -> str:
    """What tells this repository from others, wherever its copies are."""
    return str(json.loads(repository.store.get("repository.json"))["salt_key_sha256"])[:12]
