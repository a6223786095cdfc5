"""What a run did, as an event with a record beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.models.predictor import Prompts
from datasetops.preannotate.runs import EVENT
from datasetops.records import canonical_json, findings_table, sha256_hex

if TYPE_CHECKING:
    from datasetops.preannotate.result import PreannotateResult

_RECORDS: Final = "preannotations/"
_IN_EVENT: Final = (
    "engine", "packages", "thresholds", "kinds", "classes", "where", "limit", "boxes", "promises", "auto_accept",
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
