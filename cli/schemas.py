"""Commands about label schemas and labeling guides: schema check|show|diff|migrate, guide check|show|set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, group, table
from datasetops.cli.versions import Branch

if TYPE_CHECKING:
    from datasetops.schema import LabelSchema

Source = Annotated[str, typer.Argument(metavar="SCHEMA", help="A YAML file, a packaged schema, or a version.")]


def register(app: typer.Typer) -> None:
    schema_app = group(app, "schema", "Label schemas: check, show, diff, migrate.")
    for action in (check, show, diff, migrate):
        command(schema_app)(action)
    guide_app = group(app, "guide", "Labeling guides: check, show, set.")
    command(guide_app, "check")(guide_check)
    command(guide_app, "show")(guide_show)
    command(guide_app, "set")(guide_set)


def check(session: Session, source: Source) -> None:
    """Check a schema file; the error names line and field."""
    schema = _resolve(session, source)
    answer = {"name": schema.name, "version": schema.version, "digest": schema.digest, "classes": len(schema.classes)}
    session.emit(
        answer, f"{schema.name} {schema.version}: {len(schema.classes)} classes, digest {schema.digest[:12]}: good"
    )


def show(
    session: Session,
    source: Source = "main",
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a YAML file, to start your own from.")] = False,
) -> None:
    """Show a schema: its tasks and classes."""
    schema = _resolve(session, source)
    if as_yaml and not session.as_json:
        session.emit({}, schema.to_yaml().rstrip())
        return
    lines = [f"{schema.name} {schema.version}  {schema.description}".rstrip(), f"kinds: {', '.join(schema.kinds)}", ""]
    lines += table(
        (
            [item.id, item.name, item.parent, "deprecated" if item.deprecated else "", item.definition]
            for item in schema.classes
        ),
        header=("id", "class", "parent", "", "definition"),
    )
    session.emit(schema.model_dump(mode="json") | {"digest": schema.digest}, lines)


def diff(
    session: Session,
    old: Annotated[str, typer.Argument(metavar="A", help="A YAML file, a packaged schema, or a version.")],
    new: Annotated[str, typer.Argument(metavar="B", help="The same, newer.")],
) -> None:
    """Tell what changed between two schemas."""
    from datasetops.schema import diff_schemas

    found = diff_schemas(_resolve(session, old), _resolve(session, new))
    session.emit(found.as_dict(), found.lines() or "The schemas are equal.")


def migrate(
    session: Session,
    migration: Annotated[Path, typer.Argument(help="A YAML file with steps: rename, merge, deprecate, split, add.")],
    branch: Branch = "main",
    message: Annotated[str | None, typer.Option("--message", "-m")] = None,
) -> None:
    """Apply a migration to the schema and every annotation, as a new version.

    A split marks each annotation of the class for relabeling (attribute `relabel`).
    """
    from datasetops.migrate import migrate as apply
    from datasetops.schema import load_migration

    moved = apply(session.repository, load_migration(migration), branch=branch, message=message)
    version = moved.result.version.name
    answer = {
        "version": version,
        "changed": moved.result.changed,
        "schema": {"name": moved.schema.name, "version": moved.schema.version, "digest": moved.schema.digest},
        "steps": moved.steps,
        "relabel": len(moved.relabel),
    }
    lines = [f"{version}: schema {moved.schema.name} {moved.schema.version}"]
    lines += [f"  {step}: {counted(count, 'annotation')}" for step, count in moved.steps.items()]
    if moved.relabel:
        condition = "attributes LIKE '%\"relabel\"%'"
        lines.append(f"{counted(len(moved.relabel), 'annotation')} must be decided by a person; find them with:")
        lines.append(f'  dsops query "SELECT annotation_id FROM annotations WHERE {condition}"')  # noqa: S608
    session.emit(answer, lines)


def guide_check(
    session: Session,
    guide: Annotated[str | None, typer.Argument(help="A Markdown file or a packaged guide; default: main's.")] = None,
    schema: Annotated[str | None, typer.Option(help="A YAML file, a packaged schema, or a version.")] = None,
) -> None:
    """Check that a guide describes every class: definition, what counts, what does not, edge cases. Status 3 if not."""
    from datasetops.schema import check_guide, load_guide, packaged_schemas, parse_guide

    if guide is None:
        head = session.repository.version("main")
        if head.guide is None:
            raise ValueError(f"{head.name} has no guide; name a file, or set one with: dsops guide set FILE")
        parsed = parse_guide(head.guide)
    else:
        parsed = load_guide(guide)
    against = schema or (guide if guide in packaged_schemas() else "main")
    problems = check_guide(parsed, _resolve(session, str(against)))
    name = guide or "guide"
    session.emit(
        {"complete": not problems, "problems": [asdict(problem) for problem in problems]},
        [f"{name}:{item.line}: {item.class_name} {item.message}" for item in problems] or f"{name} is complete.",
    )
    if problems:
        raise typer.Exit(CHECK_FAILED)


def guide_show(
    session: Session,
    class_name: Annotated[str | None, typer.Argument(metavar="[CLASS]", help="Only the section of this class.")] = None,
    version: Annotated[str, typer.Option("--version", "-v", help="The version whose guide is shown.")] = "main",
) -> None:
    """Show a version's labeling guide."""
    from datasetops.errors import NotFoundError, did_you_mean
    from datasetops.schema import guide_section, parse_guide

    found = session.repository.version(version)
    if found.guide is None:
        raise NotFoundError(f"{found.name} has no guide.", remedy="Set one with: dsops guide set FILE")
    text = found.guide
    if class_name:
        section = guide_section(parse_guide(text), class_name)
        if section is None:
            remedy = did_you_mean(class_name, found.schema.class_names, noun="classes")
            raise NotFoundError(f"The guide has no section {class_name!r}.", remedy=remedy)
        text = section.text
    session.emit({"version": found.name, "class": class_name, "text": text}, text)


def guide_set(
    session: Session,
    guide: Annotated[str, typer.Argument(help="A Markdown file, or a packaged guide.")],
    branch: Branch = "main",
) -> None:
    """Make a guide part of the dataset, as a new version."""
    from datasetops.ledger import Event
    from datasetops.manifest import Change
    from datasetops.schema import check_guide, load_guide

    repository = session.repository
    found = load_guide(guide)
    event = Event("guide", repository.settings.actor, parameters={"source": guide})
    result = repository.commit(
        Change(guide=found.text), message=f"Set the labeling guide {guide}", event=event, branch=branch
    )
    problems = check_guide(found, result.version.schema)
    lines = [f"{result.version.name}: " + ("guide set" if result.changed else "it had this guide already")]
    lines += [f"{guide}:{item.line}: {item.class_name} {item.message}" for item in problems]
    answer = {
        "version": result.version.name,
        "changed": result.changed,
        "problems": [asdict(item) for item in problems],
    }
    session.emit(answer, lines)


def _resolve(session: Session, source: str) -> LabelSchema:
    from datasetops.schema import load_schema, packaged_schemas

    if source in packaged_schemas() or Path(source).suffix in (".yaml", ".yml", ".json"):
        return load_schema(source)
    if source == "main":
        return session.repository.schema
    return session.repository.version(source).schema
