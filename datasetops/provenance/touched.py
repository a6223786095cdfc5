"""What touched a sample besides changes of its rows: audits, decisions, QA, labeling, rounds, gates, models, exports."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import decisions
from datasetops.audits.record import stored_audit
from datasetops.errors import DatasetOpsError
from datasetops.ledger import Entry
from datasetops.manifest import Version
from datasetops.provenance.learned import learned
from datasetops.provenance.past import Past
from datasetops.provenance.told import Item
from datasetops.training.record import model_records

EXPORTS: Final = ("export", "checkout")
_GATES: Final = {"accept": "accepted", "reject": "rejected", "refuse": "refused"}


@dataclass
class Met:
    """`read` names what was looked at beyond ledger and rows."""

    items: list[Item] = field(default_factory=list)
    models: list[Mapping[str, Any]] = field(default_factory=list)
    exports: list[Mapping[str, Any]] = field(default_factory=list)
    read: list[str] = field(default_factory=list)


def touched(past: Past, sample_id: str, annotations: set[str] | None, held: Collection[str]) -> Met:
    """`held` are names of the versions that held it; `annotations` leaves out what is about other ones."""
    met = Met()
    audits = 0
    for entry in past.entries:
        event, version = entry.event, _version_of(past, entry)
        if event.kind == "audit" and version in held:
            audits += 1
            met.items += _flagged(past, entry, version, sample_id, annotations)
        elif event.kind in EXPORTS and version in held:
            if carried(past.version(version), event.parameters.get("where"), [sample_id]):
                met.exports.append(export_told(entry, version))
                met.items.append(as_item(entry, event.kind, _export_words(entry, version), version))
        elif event.kind in _GATES and version in held and "model" not in event.parameters:
            words = f"{version}, which holds it, was {_GATES[event.kind]}"
            met.items.append(as_item(entry, "gate", words, version))
        else:
            met.items += _asked(past, entry, sample_id)
    met.items += _decided(past, sample_id, annotations)
    for record in model_records(past.repository):
        part = learned(past.repository, record).get(sample_id)
        if part and (annotations is None or record.version in held):
            use = "learned from it" if part == "train" else "was validated on it"
            trained = past.by_event.get(record.event_id)
            met.models.append({"model": record.name, "part": part, "version": record.version, "digest": record.digest})
            if trained:
                met.items.append(as_item(trained, "train", f"the model {record.name} {use}", record.version))
    met.read = [f"{audits} audits", "QA plans and verdicts", "decisions", "batches", "rounds", "sample lists of models"]
    return met


def as_item(entry: Entry, kind: str, words: str, version: str = "", **more: Any) -> Item:
    event = entry.event
    details = {"event_id": event.event_id, **more}
    return Item(entry.number, event.time, event.actor, kind, words, version, (), details)


def _version_of(past: Past, entry: Entry) -> str:
    name = entry.event.inputs.get("version")
    return str(name) if name in past.number else ""


def _flagged(past: Past, entry: Entry, version: str, sample_id: str, annotations: set[str] | None) -> Iterator[Item]:
    audit = str(entry.event.outputs.get("audit"))
    record = stored_audit(past.repository, past.version(version), audit)
    if record is None:
        past.note(f"The audit {audit} of {version} cannot be read: what it found was left out.")
        return
    own = pc.equal(record.findings["sample_id"], sample_id)
    named = pc.match_substring(record.findings["related"], json.dumps(sample_id, ensure_ascii=False))
    meant = pc.or_kleene(pc.fill_null(own, False), pc.fill_null(named, False))
    for row in record.findings.filter(meant).to_pylist():
        if annotations is None or row["annotation_id"] is None or row["annotation_id"] in annotations:
            about = (row["annotation_id"],) if row["annotation_id"] else ()
            told = {name: row[name] for name in ("finding_id", "check", "severity", "score", "given", "suggested")}
            other = "" if row["sample_id"] == sample_id else f"named in what was found of {row['sample_id']}, "
            words = f"{other}flagged by the check {row['check']} ({row['severity']}): {row['message']}"
            event = entry.event
            yield Item(entry.number, event.time, event.actor, "audit", words, version, about, told | {"audit": audit})


def _decided(past: Past, sample_id: str, annotations: set[str] | None) -> Iterator[Item]:
    """Decisions that stand. They name their event by its time and commit."""
    places = {
        (entry.event.time, entry.event.inputs.get("commit")): entry.number
        for entry in past.entries
        if entry.event.kind == "decide"
    }
    names = {version.digest: version.name for version in past.versions}
    for made in decisions(past.repository):
        if made.sample_id != sample_id:
            continue
        target = None if made.fix is None else made.fix.as_dict().get("annotation_id")
        if annotations is not None and target is not None and target not in annotations:
            continue
        words = f"{made.actor} decided on a finding of {made.check}: {made.verdict}"
        yield Item(
            places.get((made.time, made.commit), 0),
            made.time,
            made.actor,
            "decision",
            words + (f" ({made.note})" if made.note else ""),
            names.get(made.commit, ""),
            (target,) if target else (),
            {"finding_id": made.finding_id, "fix": None if made.fix is None else made.fix.as_dict()},
        )


def _asked(past: Past, entry: Entry, sample_id: str) -> Iterator[Item]:
    """QA, labeling and rounds that drew or showed the sample."""
    event = entry.event
    try:
        if event.kind == "qa-plan":
            for plan in past.file(entry):
                if any(sample_id in stratum["order"] for stratum in plan["strata"]) or sample_id in (
                    plan["planted"] or {}
                ):
                    words = f"drawn for review by the QA plan {plan['name']}"
                    yield as_item(entry, "qa", words, plan["version"], plan=plan["name"])
        elif event.kind == "qa-verdicts":
            for row in (row for rows in past.file(entry) for row in rows if row["sample_id"] == sample_id):
                words = f"{row['reviewer']} judged its labels {row['verdict']} for {event.inputs.get('plan')}"
                yield Item(
                    entry.number, event.time, row["reviewer"], "qa", words, "", (), {"plan": event.inputs["plan"]}
                )
        elif event.kind == "label-push":
            for batch in past.file(entry):
                if sample_id in batch["samples"]:
                    words = f"given to annotators in the batch {batch['name']} ({event.parameters.get('tool')})"
                    more = {"schema": event.inputs.get("schema"), "guide": event.inputs.get("guide")}
                    yield as_item(entry, "batch", words, batch["version"], **more)
        elif event.kind == "select":
            for chosen in past.file(entry):
                if sample_id in chosen["samples"]:
                    words = f"chosen to be labeled by the round {chosen['name']} ({chosen['strategy']})"
                    yield as_item(entry, "select", words, chosen["version"], model=chosen.get("model"))
    except (KeyError, TypeError) as error:
        past.note(f"What ledger entry {entry.number} ({event.kind}) names cannot be read, and was left out: {error}")


class _Part(Version):
    """A version of which only some samples are looked at."""

    def __init__(self, whole: Version, sample_ids: Collection[str]) -> None:
        super().__init__(whole._store, whole._open_table, whole.name, whole.digest, whole.commit)
        self._ids = pa.array(list(sample_ids), pa.string())

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        if name == "samples":
            return self.state("samples").rows(self._ids, columns)
        owners = self.state(name).read(["annotation_id", "sample_id"])
        mine = owners.filter(pc.is_in(owners["sample_id"], value_set=self._ids))["annotation_id"]
        return self.state(name).rows(mine.combine_chunks(), columns)


def carried(version: Version, where: str | None, sample_ids: Collection[str]) -> list[str]:
    """Which of some samples of a version an export with such a condition wrote.

    The condition is asked of these samples alone, unless it looks at others too (a SELECT within it).
    """
    if where is None:
        return list(sample_ids)
    try:
        if "select" in where.lower() or "over" in where.lower():
            return sorted(set(version.where(where)) & set(sample_ids))
        return _Part(version, sample_ids).where(where)
    except DatasetOpsError:
        return list(sample_ids)  # it cannot be told any more: rather one too many


def export_told(entry: Entry, version: str) -> dict[str, Any]:
    """What the ledger says of an export."""
    event = entry.event
    told = {name: event.parameters.get(name) for name in ("format", "path", "where")}
    return {"entry": entry.number, "time": event.time, "actor": event.actor, "version": version} | told


def _export_words(entry: Entry, version: str) -> str:
    parameters = entry.event.parameters
    part = f" (where {parameters['where']})" if parameters.get("where") else ""
    return f"written out with {version}{part} to {parameters.get('path')} ({parameters.get('format') or 'files'})"
