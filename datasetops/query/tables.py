"""The tables that a query can name. Each is read only when it is named, and then only the columns that are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.access import access_lines
from datasetops.errors import NotFoundError
from datasetops.gate.live import live_rows
from datasetops.manifest import Repository, Version
from datasetops.manifest.table import TableState
from datasetops.records import ANNOTATIONS, FINDINGS, KEYS, SAMPLES, TIMESTAMP, canonical_json

LIVE: Final = "_live"
_TEXT: Final = pa.string()

VERSIONS: Final = pa.schema(
    [
        ("version", _TEXT),  # v1, v2, …
        ("number", pa.int64()),
        ("commit", _TEXT),
        ("branch", _TEXT),  # where it was made
        ("parents", _TEXT),  # JSON list of version names
        ("author", _TEXT),
        ("time", TIMESTAMP),
        ("message", _TEXT),
        ("samples", pa.int64()),
        ("annotations", pa.int64()),  # votes too
        ("schema", _TEXT),  # digests
        ("guide", _TEXT),
        ("sealed", _TEXT),  # JSON list of splits
        ("event_id", _TEXT),
        ("status", _TEXT),  # accepted, rejected or draft
        ("status_actor", _TEXT),
        ("status_time", TIMESTAMP),
        ("overridden", _TEXT),  # JSON list of rules
    ]
)
EVENTS: Final = pa.schema(
    [
        ("number", pa.int64()),
        ("event_id", _TEXT),
        ("kind", _TEXT),
        ("actor", _TEXT),
        ("time", TIMESTAMP),
        ("version", _TEXT),  # that it made, and the next two
        ("commit", _TEXT),
        ("branch", _TEXT),
        ("inputs", _TEXT),  # JSON objects
        ("outputs", _TEXT),
        ("parameters", _TEXT),
        ("packages", _TEXT),
    ]
)
DECISIONS: Final = pa.schema(
    [
        ("decision_id", _TEXT),
        ("finding_id", _TEXT),
        ("verdict", _TEXT),  # error, fine or unsure
        ("actor", _TEXT),
        ("time", TIMESTAMP),
        ("version", _TEXT),  # that it was decided on
        ("check", _TEXT),
        ("severity", _TEXT),
        ("score", pa.float64()),
        ("sample_id", _TEXT),
        ("note", _TEXT),
        ("seconds", pa.float64()),
        ("fix", _TEXT),  # JSON object
        ("at_random", pa.bool_()),
    ]
)
MODELS: Final = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("version", _TEXT),  # that it was trained on
        ("commit", _TEXT),
        ("split", _TEXT),
        ("recipe", _TEXT),
        ("recipe_digest", _TEXT),
        ("seed", pa.int64()),
        ("classes", _TEXT),  # JSON list
        ("train", pa.int64()),  # numbers of samples
        ("validation", pa.int64()),
        ("metric", _TEXT),
        ("value", pa.float64()),  # of that metric
        ("metrics", _TEXT),  # JSON object
        ("notes", _TEXT),  # JSON list
        ("experiment", pa.bool_()),  # the version was not accepted
        ("production", pa.bool_()),
        ("parent", _TEXT),
        ("digest", _TEXT),
        ("actor", _TEXT),
        ("time", TIMESTAMP),
        ("event_id", _TEXT),
    ]
)
ACCESS: Final = pa.schema(
    [
        ("time", TIMESTAMP),
        ("actor", _TEXT),
        ("role", _TEXT),
        ("path", _TEXT),  # on the server of dsops review
        ("version", _TEXT),
        ("sample_id", _TEXT),
        ("refused", pa.bool_()),  # for want of the role
    ]
)
SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "samples": SAMPLES,
    "annotations": ANNOTATIONS,
    "versions": VERSIONS,
    "events": EVENTS,
    "findings": FINDINGS,
    "decisions": DECISIONS,
    "models": MODELS,
    "access": ACCESS,
}


def read_table(
    repository: Repository, version: Version, name: str, columns: Collection[str] | None = None
) -> list[pa.Table]:
    """One of `SCHEMAS`, in parts. Samples, annotations and findings are those of the version.

    A part may have a column `LIVE` more: rows where it is false do not count. Of samples and annotations only these
    columns, and the key, are read; all of them where `columns` is None.
    """
    if name in KEYS:
        wanted = [one for one in SCHEMAS[name].names if columns is None or one in columns or one == KEYS[name]]
        return _parts(version.state(name), wanted)
    if name == "findings":
        return [_findings(repository, version)]
    return [pa.Table.from_pylist(_ROWS[name](repository), schema=SCHEMAS[name])]


def _parts(state: TableState, columns: list[str]) -> list[pa.Table]:
    """The base as it lies on the disk, and all that was changed since: nothing is copied but the changes."""
    if not state.segments:
        return [pa.schema([SCHEMAS[state.name].field(name) for name in columns]).empty_table()]
    masks = live_rows(state)
    rows = [segment.table(columns) for segment in state.segments]
    parts = [rows[0] if masks[0].all() else rows[0].append_column(LIVE, pa.array(masks[0]))]
    changes = [table.filter(pa.array(mask)) for table, mask in zip(rows[1:], masks[1:], strict=True)]
    return parts + ([pa.concat_tables(changes)] if changes else [])


def live_count(parts: Sequence[pa.Table]) -> int:
    return sum(pc.sum(part[LIVE]).as_py() if LIVE in part.column_names else len(part) for part in parts)


def _findings(repository: Repository, version: Version) -> pa.Table:
    """Of the version's audits, each check as the newest one left it; none where it was not audited."""
    from datasetops.audits.record import latest_audit

    try:
        return latest_audit(repository, version).findings.select(FINDINGS.names)
    except NotFoundError:
        return FINDINGS.empty_table()


def _versions(repository: Repository) -> list[dict[str, Any]]:
    from datasetops.gate.status import DRAFT, Status, statuses

    known = statuses(repository)
    branches = {entry.version: entry.branch for entry in repository.ledger.backwards() if entry.version}
    every = list(repository.versions())
    names = {version.digest: version.name for version in every}
    rows = []
    for version in reversed(every):
        commit, status = version.commit, known.get(version.digest, Status(DRAFT))
        rows.append(
            {
                "version": version.name,
                "number": int(version.name[1:]),
                "commit": version.digest,
                "branch": branches.get(version.name),
                "parents": _json([names.get(parent, parent) for parent in commit.parents]),
                "author": commit.author,
                "time": _time(commit.time),
                "message": commit.message,
                "samples": commit.counts["samples"],
                "annotations": commit.counts["annotations"],
                "schema": commit.schema,
                "guide": commit.guide,
                "sealed": _json(list(commit.sealed)),
                "event_id": commit.event_id,
                "status": status.status,
                "status_actor": status.actor,
                "status_time": _time(status.time),
                "overridden": _json(list(status.overridden)),
            }
        )
    return rows


def _events(repository: Repository) -> list[dict[str, Any]]:
    rows = [
        {
            "number": entry.number,
            "event_id": entry.event.event_id,
            "kind": entry.event.kind,
            "actor": entry.event.actor,
            "time": _time(entry.event.time),
            "version": entry.version,
            "commit": entry.commit,
            "branch": entry.branch,
            "inputs": _json(dict(entry.event.inputs)),
            "outputs": _json(dict(entry.event.outputs)),
            "parameters": _json(dict(entry.event.parameters)),
            "packages": _json(dict(entry.packages)),
        }
        for entry in repository.ledger.backwards()
    ]
    return rows[::-1]


def _decisions(repository: Repository) -> list[dict[str, Any]]:
    from datasetops.audits.decisions import decisions

    made = decisions(repository)
    names = {version.digest: version.name for version in repository.versions()} if made else {}
    return [
        {name: getattr(one, name) for name in DECISIONS.names if name not in ("time", "version", "fix")}
        | {
            "time": _time(one.time),
            "version": names.get(one.commit),
            "fix": _json(one.fix.as_dict()) if one.fix else None,
        }
        for one in made
    ]


def _models(repository: Repository) -> list[dict[str, Any]]:
    from datasetops.training.record import TRAIN, VALIDATION, model_records, promoted

    try:
        production = promoted(repository)
    except NotFoundError:
        production = ""
    same = ("task", "version", "commit", "split", "recipe_digest", "seed", "metric", "experiment", "parent", "digest")
    rows = []
    for record in model_records(repository):
        value = record.metrics.get(record.metric)
        rows.append(
            {name: getattr(record, name) for name in (*same, "actor", "event_id")}
            | {
                "model": record.name,
                "recipe": str(record.recipe.get("name", "")),
                "classes": _json(list(record.classes)),
                "train": record.samples.get(TRAIN),
                "validation": record.samples.get(VALIDATION),
                "value": float(value) if isinstance(value, int | float) else None,
                "metrics": _json(dict(record.metrics)),
                "notes": _json(list(record.notes)),
                "production": record.name == production,
                "time": _time(record.created),
            }
        )
    return rows


_ROWS: Final[Mapping[str, Callable[[Repository], Sequence[dict[str, Any]]]]] = {
    "versions": _versions,
    "events": _events,
    "decisions": _decisions,
    "models": _models,
    "access": lambda repository: [row | {"time": _time(row["time"])} for row in access_lines(repository.store)],
}


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
