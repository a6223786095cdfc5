"""What depends on a licence, an origin, a consent, an actor, a model, an event or a guide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.gate.status import DRAFT, statuses
from datasetops.manifest import Repository
from datasetops.manifest.erasing import ERASED
from datasetops.manifest.segment import Positions
from datasetops.provenance.followed import Followed
from datasetops.provenance.learned import learned
from datasetops.provenance.past import Past, unknown_value
from datasetops.provenance.reach import OF_SAMPLES, Reach, event_of, known_values, reach
from datasetops.provenance.touched import EXPORTS, carried, export_told
from datasetops.training.record import ModelRecord, model_records

FIRST: Final = 20  # ids that an answer shows; `impact_rows` gives all
_SMALL: Final = 20_000  # samples of which an export's condition is asked one by one, rather than of all
_MODEL_EXPORT: Final = "export_model"


@dataclass(frozen=True)
class Impact:
    """`samples` and `annotations`: how many ever fell under it; `first_…` some of their ids.

    `versions` that hold any: version, samples, annotations, `said` (rows that say so themselves), status, newest first.
    `models` that learned from any, directly or through the model that they began as. `exports` that carried any.
    `events`: number of an actor's ledger entries, by kind.
    """

    by: str
    value: str
    samples: int
    annotations: int
    first_samples: tuple[str, ...]
    first_annotations: tuple[str, ...]
    versions: tuple[Mapping[str, Any], ...]
    models: tuple[Mapping[str, Any], ...]
    exports: tuple[Mapping[str, Any], ...]
    events: Mapping[str, int]
    notes: tuple[str, ...]
    basis: Mapping[str, Any]
    past: Past
    reach: Reach

    def as_dict(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("past", "reach")}


def impact(repository: Repository, by: str, value: str) -> Impact:
    """`by` is one of reach.BY. Raises NotFoundError, with the nearest, where nothing ever had the value."""
    past = Past(repository)
    under = reach(past, by, value)
    samples, annotations = past.table("samples"), past.table("annotations")
    events = _events(past, by, value)
    records = model_records(repository)
    itself = [record.name for record in records if by == "model" and value in (record.name, f"model:{record.name}")]
    if not under.known and not events and not itself:
        erased = any(entry.event.kind == ERASED for entry in past.entries)
        raise unknown_value(by, value, known_values(past, by), erased=erased)
    number = _counts(past, under)
    said = past.table(under.said_of).count(under.said)
    status = statuses(repository)
    versions: list[dict[str, Any]] = [
        {
            "version": version.name,
            **{name: int(counts[place]) for name, counts in number.items()},
            "said": int(said[place]),
            "status": status[version.digest].status if version.digest in status else DRAFT,
        }
        for place, version in enumerate(past.versions)
        if number["samples"][place] or number["annotations"][place]
    ]
    models = list(_models(past, under, records, itself))
    return Impact(
        by,
        value,
        samples.distinct(under.samples),
        annotations.distinct(under.annotations),
        tuple(samples.first(under.samples, FIRST)),
        tuple(annotations.first(under.annotations, FIRST)),
        tuple(versions[::-1]),
        tuple(models),
        tuple(_exports(past, under, {row["version"]: row for row in versions}, {row["model"] for row in models})),
        events,
        tuple(past.notes),
        past.basis(f"{len(records)} model records and their sample lists", *under.rules),
        past,
        under,
    )


def impact_rows(found: Impact) -> pa.Table:
    """Every sample and annotation that ever fell under it: columns `kind` and `id`."""
    tables = []
    for kind, flags in (("sample", found.reach.samples), ("annotation", found.reach.annotations)):
        ids = found.past.table(f"{kind}s").keys(flags)
        tables.append(pa.table({"kind": pa.array([kind]).take(pa.array([0] * len(ids), pa.int32())), "id": ids}))
    return pa.concat_tables(tables)


def _counts(past: Past, under: Reach) -> dict[str, Positions]:
    """How many samples and annotations of each version fall under it."""
    samples, annotations = past.table("samples"), past.table("annotations")
    if under.by in OF_SAMPLES:
        return {"samples": samples.count(under.samples), "annotations": annotations.count(under.annotations)}
    followed = Followed(annotations, under.annotations, past.parents)
    if under.made_in is None:
        return {"samples": followed.samples, "annotations": followed.rows}
    later = [under.made_in in past.ancestors(place) for place in range(len(past.versions))]
    return {"samples": np.where(later, samples.count(under.samples), 0), "annotations": followed.rows}


def learned_under(past: Past, under: Reach, record: ModelRecord) -> pa.Array:
    """Ids of samples through which a model may have learned what falls under it.

    Of annotations only those that its version held, votes left out.
    """
    if under.by in OF_SAMPLES:
        return past.table("samples").keys(under.samples)
    place = past.number[record.version]
    if under.made_in is not None:
        later = under.made_in in past.ancestors(place)
        return past.table("samples").keys(under.samples) if later else pa.array([], pa.string())
    table = past.table("annotations")
    counting = [
        mine & pc.is_null(segment.table(["role"])["role"]).to_numpy()
        for mine, segment in zip(under.annotations, table.segments, strict=True)
    ]
    return Followed(table, counting, past.parents).samples_of(place)


def _models(past: Past, under: Reach, records: list[ModelRecord], itself: list[str]) -> Iterator[dict[str, Any]]:
    found: set[str] = set()
    for record in records:
        counts = learned(past.repository, record).counts(learned_under(past, under, record))
        through = record.parent if record.parent in found else None
        if not sum(counts.values()) and not through and record.name not in itself:
            continue
        found.add(record.name)
        yield {
            "model": record.name,
            "version": record.version,
            **counts,
            "of": dict(record.samples),
            "through": through,
            "itself": record.name in itself,
        }


def _exports(
    past: Past, under: Reach, versions: Mapping[str, Mapping[str, Any]], models: set[str]
) -> Iterator[dict[str, Any]]:
    table = past.table("samples")
    for entry in past.entries:
        event = entry.event
        version = str(event.inputs.get("version"))
        if event.kind in EXPORTS and version in versions:
            where = event.parameters.get("where")
            count = versions[version]["samples"]
            if where is not None:
                ids = table.keys(under.samples)
                whole = past.version(version)
                inside = ids.to_pylist() if len(ids) <= _SMALL else None
                if inside is None:
                    count = int(pc.sum(pc.is_in(pa.array(whole.where(where), pa.string()), value_set=ids)).as_py() or 0)
                else:
                    count = len(carried(whole, where, inside))
            if count:
                yield export_told(entry, version) | {"samples": count}
        elif event.kind == _MODEL_EXPORT and event.inputs.get("model") in models:
            yield {"entry": entry.number, "time": event.time, "actor": event.actor, "model": event.inputs["model"]} | {
                "format": ", ".join(event.parameters.get("variants", ())),
                "export": event.outputs.get("export"),
            }


def _events(past: Past, by: str, value: str) -> dict[str, int]:
    if by == "event":
        entry = past.by_event[event_of(past, value)]
        return {entry.event.kind: 1}
    if by != "actor":
        return {}
    return dict(sorted(Counter(one.event.kind for one in past.entries if one.event.actor == value).items()))
