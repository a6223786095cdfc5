"""Making and updating the Label Studio project of a label schema, so that no annotation is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from datasetops.errors import ConflictError, NotFoundError
from datasetops.labeling.batch import Project
from datasetops.labeling.label_studio.connection import Connection, LabelServerError
from datasetops.labeling.label_studio.interface import interface_changes, label_config
from datasetops.schema import LabelSchema

TOOL: Final = "label-studio"
_TITLE: Final = 50  # characters that a title may have


def set_up_project(
    connection: Connection,
    name: str,
    schema: LabelSchema,
    guide: str | None,
    *,
    guide_digest: str | None,
    known: Project | None,
    marker: str,
    blind: bool = False,
    overwrite: bool = False,
) -> tuple[Project, list[str]]:
    """(the project, sentences about what was done). Made where there is none, otherwise brought up to date.

    `marker` is what its description holds, so that a project whose record was lost is found again. Raises ConflictError
    where the interface was edited by hand and `overwrite` is not given, or where annotations would lose their labels.
    """
    config = label_config(schema)
    settings = {
        "title": _title(name),
        "description": marker,
        "expert_instruction": _html(guide) if guide else "",
        "show_instruction": bool(guide),
        "sampling": "Sequential sampling",
        "show_collab_predictions": not blind,
        "show_skip_button": True,
    }
    found = _find(connection, known, marker)
    said: list[str] = []
    if found is None:
        created = connection.call("POST", "api/projects/", body={**settings, "label_config": config})
        found, said = created, [f"Made the project {settings['title']!r}: {connection.url}/projects/{created['id']}"]
    else:
        del settings["title"]  # somebody may have found a better one
        if known and known.guide == guide_digest:  # the server keeps a cleaned form of it
            del settings["expert_instruction"]
        said += _update(connection, found, settings, config, known, overwrite)
    interface = connection.get(f"api/projects/{found['id']}/")["label_config"]
    project = Project(name, TOOL, connection.url, found["id"], schema.digest, guide_digest, interface, blind)
    if known and known.id == found["id"]:
        project = replace(project, cursor=known.cursor, again=known.again, pushed=known.pushed)
    return project, said or ["The project is up to date."]


def hand_edits(project: Project, current: str) -> list[str]:
    """What somebody changed in the interface since it was made."""
    if current.strip() == project.interface.strip():
        return []
    return interface_changes(project.interface, current) or ["its layout or its texts were changed"]


def _find(connection: Connection, known: Project | None, marker: str) -> dict[str, Any] | None:
    if known and known.url == connection.url:
        try:
            return dict(connection.get(f"api/projects/{known.id}/"))
        except NotFoundError:
            raise NotFoundError(
                f"The project {known.name!r} ({known.url}/projects/{known.id}) was deleted in Label Studio.",
                remedy="Answers that were pulled are safe. Make a new one: dsops label setup --project OTHER-NAME",
            ) from None
    page = 1
    while True:
        answer = connection.get("api/projects/", page=page, page_size=100, include="id,description")
        for item in answer["results"]:
            if item.get("description") == marker:
                return dict(connection.get(f"api/projects/{item['id']}/"))
        if not answer.get("next"):
            return None
        page += 1


def _update(
    connection: Connection,
    found: dict[str, Any],
    settings: dict[str, Any],
    config: str,
    known: Project | None,
    overwrite: bool,
) -> list[str]:
    where = f"{connection.url}/projects/{found['id']}"
    edits = hand_edits(known, found["label_config"]) if known else []
    if edits and not overwrite:
        raise ConflictError(
            f"The interface of {where} was edited in Label Studio: {'; '.join(edits)}.",
            remedy="Bring the change into the label schema, or replace it by the schema's with --overwrite.",
        )
    changes = interface_changes(found["label_config"], config)
    if changes:
        in_use = _in_use(connection, found["id"], config)
        if in_use:
            raise ConflictError(
                f"The interface of {where} cannot be changed ({'; '.join(changes)}): {in_use}",
                remedy="Pull first and keep the old project, and make one for the new schema: "
                "dsops label setup --project OTHER-NAME",
            )
    wanted = settings | {"label_config": config}
    different = {name: value for name, value in wanted.items() if found.get(name) != value}
    if not different:
        return []
    connection.call("PATCH", f"api/projects/{found['id']}/", body=different, again=True)
    return [f"Updated {where}: {'; '.join(changes) if changes else 'title, instruction or settings'}."]


def _in_use(connection: Connection, project: int, config: str) -> str | None:
    """What the server says about annotations that would lose their labels, None if none would."""
    try:
        connection.call("POST", f"api/projects/{project}/validate/", body={"label_config": config}, again=True)
    except LabelServerError as error:
        return error.message.partition(": ")[2] or error.message
    return None


def _title(name: str) -> str:
    return name[:_TITLE].ljust(3, "_")


def _html(markdown: str) -> str:
    """The guide for the browser; HTML in it is shown as text."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))
