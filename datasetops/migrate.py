"""Move a dataset to the next version of its label schema."""

from __future__ import annotations

from dataclasses import dataclass

from datasetops.ledger import Event
from datasetops.manifest import MAIN, Change, CommitResult, Repository
from datasetops.schema import LabelSchema, Migration, migrate_annotations, migrate_schema


@dataclass(frozen=True)
class SchemaMigration:
    """`relabel` lists the annotations that a person must decide; `steps` counts the rows that each step touched."""

    result: CommitResult
    schema: LabelSchema
    relabel: list[str]
    steps: dict[str, int]


def migrate(
    repository: Repository, migration: Migration, *, branch: str = MAIN, message: str | None = None
) -> SchemaMigration:
    """Apply a migration's steps to the schema and the annotations of a branch's newest version, as a new version.

    Raises SchemaError where a step does not fit the schema.
    """
    head = repository.version(branch)
    schema = migrate_schema(head.schema, migration)
    moved = migrate_annotations(head.table("annotations"), migration)
    event = Event(
        "migrate",
        repository.settings.actor,
        inputs={"version": head.name, "schema": head.commit.schema},
        outputs={"schema": schema.digest},
        parameters={"steps": [step.line() for step in migration.steps], "relabel": len(moved.relabel)},
    )
    text = message or f"Migrate schema {schema.name} to version {schema.version}: " + "; ".join(moved.counts)
    result = repository.commit(
        Change(annotations=moved.changed.drop(["event_id", "created_at"]), schema=schema),
        message=text,
        event=event,
        branch=branch,
        parent=head,
    )
    return SchemaMigration(result, schema, list(moved.relabel), dict(moved.counts))
