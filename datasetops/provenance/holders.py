"""The story of a version, and of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow.compute as pc

from datasetops.gate.status import status_of
from datasetops.ledger import Entry
from datasetops.manifest import Repository
from datasetops.manifest.version import value_counts
from datasetops.provenance.blame import counted
from datasetops.provenance.learned import learned
from datasetops.provenance.past import Past
from datasetops.provenance.told import Item, Story
from datasetops.provenance.touched import EXPORTS, as_item, export_told
from datasetops.training.record import ModelRecord, load_model_record, model_records

_COUNTED: Final = ("origin", "license", "consent")
_WORDS: Final = {
    "audit": "audited",
    "accept": "accepted",
    "reject": "rejected: {reason}",
    "refuse": "refused by the gate",
    "qa-plan": "a QA plan was drawn",
    "qa-result": "QA: {verdict}, {wrong} of {checked} checked were wrong",
    "export": "written out to {path} ({format})",
    "checkout": "written out to {path}",
    "export-refused": "not written out: samples break rights of the policy",
    "evidence": "evidence was written ({part}) to {path}",
    "label-push": "samples were given to annotators in the batch {batch}",
    "select": "samples were chosen to be labeled by the round {round}",
    "decide": "findings were decided on",
    "withdraw": "decisions were withdrawn",
    "train": "the model {model} learned from it",
    "evaluate": "a model was judged on it",
    "promote": "the model {model} was put into production",
    "rollback": "the model {model} was taken out of production: {reason}",
    "export_model": "the model {model} was exported",
    "reproduce": "the training of {model} was run again",
    "monitor": "production was compared with what {model} learned from",
    "regress": "{model} was held against another model",
    "split": "samples were placed in splits",
    "branch": "the branch {branch} was begun here",
}


def version_story(repository: Repository, name: str) -> Story:
    """What a version was made of, by whom, and what was done with it. Raises NotFoundError that lists what there is."""
    past = Past(repository)
    version = past.version(name)
    place, made = past.number[version.name], past.made[version.name]
    commit, status = version.commit, status_of(repository, version)
    samples = version.table("samples", list(_COUNTED))
    sources = counted(past, place).groupby("source")["annotations"].sum()
    facts = {
        "commit": version.digest,
        "message": commit.message,
        "parents": past.names(past.parents[place]),
        "schema": commit.schema,
        "guide": commit.guide,
        "samples": commit.counts["samples"],
        "annotations": commit.counts["annotations"],
        "status": status.status,
        "by_source": {str(source): int(count) for source, count in sources.sort_values(ascending=False).items()},
        **{f"by_{column}": value_counts(samples[column]) for column in _COUNTED},
    }
    items = [_made(made, version.name, commit.message)]
    exports = []
    for entry in past.entries:
        inputs = entry.event.inputs
        if entry.number == made.number or version.name not in (inputs.get("version"), inputs.get("theirs")):
            continue
        if entry.version:
            items.append(as_item(entry, entry.event.kind, f"{entry.version} was made from it", entry.version))
        else:
            items.append(as_item(entry, entry.event.kind, _words(entry), version.name))
        if entry.event.kind in EXPORTS:
            exports.append(export_told(entry, version.name))
    models = [_model_told(record) for record in model_records(repository) if record.commit == version.digest]
    return _story(past, "version", version.name, facts, items, [version.name], models, exports)


def model_story(repository: Repository, name: str) -> Story:
    """What a model learned from, under which rights, and what became of it. Raises NotFoundError, DamagedError."""
    past = Past(repository)
    record = load_model_record(repository, name)
    own = learned(repository, record)
    facts: dict[str, Any] = {
        "digest": record.digest,
        "version": record.version,
        "commit": record.commit,
        "task": record.task,
        "recipe": record.recipe.get("name"),
        "began_as": record.parent or record.recipe.get("model"),
        "experiment": record.experiment,
        "samples": dict(record.samples),
        "erased_since": sum(record.samples.values()) - len(own.ids),
        "samples_file": record.files["samples"].key,
        "train_ids_sha256": record.samples_digest,
        "metric": {record.metric: record.metrics.get(record.metric)},
        "notes": list(record.notes),
    }
    if record.version in past.number:
        rows = past.version(record.version).table("samples", ["sample_id", *_COUNTED])
        mine = rows.filter(pc.is_in(rows["sample_id"], value_set=own.ids))
        facts |= {f"by_{column}": value_counts(mine[column]) for column in _COUNTED}
        if len(mine) != len(own.ids):
            past.note(f"{len(own.ids) - len(mine):,} samples of its list are not in {record.version}.")
    items, exports = [], []
    for entry in past.entries:
        if name_of(entry, record):
            items.append(as_item(entry, entry.event.kind, _words(entry), str(entry.event.inputs.get("version") or "")))
            if entry.event.kind == "export_model":
                exports.append(
                    {"entry": entry.number, "time": entry.event.time, "export": entry.event.outputs["export"]}
                )
    children = [_model_told(other) for other in model_records(repository) if other.parent == record.name]
    versions = [record.version] if record.version in past.number else []
    return _story(past, "model", record.name, facts, items, versions, children, exports)


def name_of(entry: Entry, record: ModelRecord) -> bool:
    """Whether a ledger entry is about a model."""
    event = entry.event
    named = (event.inputs.get("model"), event.outputs.get("model"), event.parameters.get("model"))
    return record.name in named or record.digest in named or event.event_id == record.event_id


def _story(
    past: Past,
    kind: str,
    name: str,
    facts: Mapping[str, Any],
    items: list[Item],
    versions: list[str],
    models: list[dict[str, Any]],
    exports: list[dict[str, Any]],
) -> Story:
    ordered = sorted(items, key=lambda item: item.entry, reverse=True)
    read = past.basis("the rows of the version", "model records and their sample lists")
    return Story(
        kind, name, facts, tuple(ordered), tuple(versions), tuple(models), tuple(exports), tuple(past.notes), read
    )


def _model_told(record: ModelRecord) -> dict[str, Any]:
    return {"model": record.name, "version": record.version, "digest": record.digest, "samples": dict(record.samples)}


def _made(entry: Entry, version: str, message: str) -> Item:
    rows = entry.event.outputs.get("rows") or {}
    counts = [f"{count:,} {table} {word}" for table, own in rows.items() for word, count in own.items() if count]
    more = {name: entry.event.inputs.get(name) for name in ("source", "earlier") if entry.event.inputs.get(name)}
    return as_item(
        entry, entry.event.kind, f"made: {message} ({', '.join(counts) or 'no rows changed'})", version, **more
    )


def _words(entry: Entry) -> str:
    """What a ledger entry says, in a few words."""
    event = entry.event
    known = {**event.inputs, **event.outputs, **event.parameters}
    words = _WORDS.get(event.kind, event.kind)
    names = [part.partition("}")[0] for part in words.split("{")[1:]]
    return words.format(**{name: known.get(name) or "(not recorded)" for name in names})
