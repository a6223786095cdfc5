"""What a run did, as an event with a record beside it, and what later commands read from there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from datasetops.errors import NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.models.predictor import Prompts
from datasetops.records import canonical_json, findings_table, sha256_hex

if TYPE_CHECKING:
    from datasetops.preannotate.run import PreannotateResult

EVENT: Final = "preannotate"
_RECORDS: Final = "preannotations/"
_IN_EVENT: Final = (
    "engine", "thresholds", "kinds", "classes", "where", "limit", "boxes", "promises", "auto_accept",
)  # fmt: skip


def make_event(
    repository: Repository,
    first: Event,
    version: Version,
    facts: PreannotateResult,
    told: Mapping[str, Any],
    prompts: Prompts | None,
) -> Event:
    """The event, and the objects that it names: a record of all that was asked, and the faults as findings."""
    model = asdict(facts.model)
    counts = {name: getattr(facts, name) for name in ("selected", "asked", "labeled", "without_image", "known")}
    counts |= {"computed": facts.computed, "stayed": facts.stayed, "faults": len(facts.faults)}
    record = canonical_json({"model": model, **told, "counts": counts, "by_class": dict(facts.by_class)})
    key = f"{_RECORDS}{first.time}-{first.event_id}.json"
    repository.store.put(key, record)
    outputs: dict[str, Any] = {"files": {key: sha256_hex(record)}, "counts": counts}
    if facts.faults:
        rows = findings_table(list(facts.faults)).to_pylist()
        outputs["findings"] = put_object(repository.store, "findings", canonical_json(rows))
    return Event(
        EVENT,
        first.actor,
        inputs={"version": version.name, "commit": version.digest, "schema": version.commit.schema},
        outputs=outputs,
        parameters={
            **{name: model[name] for name in ("name", "revision", "digest")},
            "prompts": None if prompts is None else prompts.digest,
            "mapping": facts.mapping["digest"],
            **{name: told[name] for name in _IN_EVENT},
        },
        event_id=first.event_id,
        time=first.time,
    )


def newest_run(repository: Repository, digests: Collection[str]) -> str | None:
    """Which of some models ran last; None where no event tells."""
    runs = (
        entry.event.parameters.get("digest") for entry in repository.ledger.backwards() if entry.event.kind == EVENT
    )
    return next((digest for digest in runs if digest in digests), None)


def recorded_names(repository: Repository, digest: str) -> dict[str, str | None]:
    """Which class each name of a model meant in its newest run; empty where none left a record."""
    for entry in repository.ledger.backwards():
        if entry.event.kind == EVENT and entry.event.parameters.get("digest") == digest:
            for key in entry.event.outputs.get("files", ()):
                with suppress(NotFoundError, ValueError, KeyError, TypeError):
                    return dict(json.loads(repository.store.get(key))["mapping"])
    return {}
