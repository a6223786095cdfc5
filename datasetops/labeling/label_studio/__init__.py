"""Label Studio as an annotation tool: see `labeling.base.LabelTool`."""

from __future__ import annotations

from typing import Any

from datasetops.labeling.base import LabelServer
from datasetops.labeling.batch import Project
from datasetops.schema import LabelSchema


class LabelStudio:
    """The server that LABEL_STUDIO_URL names, with the token in LABEL_STUDIO_API_KEY."""

    name = "label-studio"

    def set_up(self, name: str, schema: LabelSchema, guide: str | None, **options: Any) -> tuple[Project, list[str]]:
        """See `project.set_up_project`."""
        from datasetops.labeling.label_studio.connection import Connection
        from datasetops.labeling.label_studio.project import set_up_project

        return set_up_project(Connection.from_environment(), name, schema, guide, **options)

    def open(self, project: Project, schema: LabelSchema) -> LabelServer:
        """Raises ConflictError where the environment names another server than the project's."""
        from datasetops.errors import ConflictError
        from datasetops.labeling.label_studio.connection import URL, Connection
        from datasetops.labeling.label_studio.server import LabelStudioServer

        connection = Connection.from_environment()
        if connection.url != project.url:
            raise ConflictError(
                f"The project {project.name!r} is at {project.url}, and {URL} is {connection.url}.",
                remedy=f"Set {URL} to {project.url}; if the server has moved, run: dsops label setup --moved",
            )
        return LabelStudioServer(connection, project, schema)
