"""The runs behind a version as OpenLineage events, specification 2-0-2: to a file, one JSON a line, or to a server."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from datasetops.errors import StoreError
from datasetops.evidence.story import Story
from datasetops.gate.accept import ACCEPT
from datasetops.ledger import Entry
from datasetops.manifest import Version
from datasetops.records import canonical_json
from datasetops.training.record import EVENT as TRAIN

PRODUCER: Final = "urn:dsops"
SCHEMA: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS: Final = "https://openlineage.io/spec/facets"
_ENDPOINT: Final = "/api/v1/lineage"  # where the specification's servers listen
_TIMEOUT: Final = 30.0  # seconds for one event; a server that takes longer is taken to be out of reach


def run_events(story: Story) -> list[dict[str, Any]]:
    """One event COMPLETE for every run that made the version or one that it stands on, for its acceptance, and for each
    training on it, oldest first. A run's id is its ledger event's, so sending events twice adds nothing."""
    names = {version.digest: version for version in story.line}
    return [_run(story, entry, names) for entry in story.entries if _told(story, entry, names)]


def json_lines(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(event) + b"\n" for event in events)


def post(events: Sequence[dict[str, Any]], url: str) -> str:
    """Send events in their order; returns where they went: `url`, or the usual place below it where it names none.

    Raises ValueError for what is no http address, StoreError where the server cannot be reached or refuses one.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--url: expected an address like http://marquez:5000; got {url!r}")
    address = urlunsplit(parts._replace(path=_ENDPOINT)) if parts.path in ("", "/") else url
    for number, event in enumerate(events, start=1):
        request = urllib.request.Request(address, canonical_json(event), {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310 (the scheme was checked)
                pass
        except (OSError, http.client.HTTPException) as error:
            said = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
            raise StoreError(
                f"{address} did not take event {number} of {len(events)}: {said}.",
                remedy="Check the address and the server; sending all events again does no harm.",
            ) from None
    return address


def _told(story: Story, entry: Entry, names: dict[str, Version]) -> bool:
    mine = entry.event.inputs.get("commit") == story.version.digest
    return entry.commit in names or (mine and entry.event.kind in (ACCEPT, TRAIN))


def _run(story: Story, entry: Entry, names: dict[str, Version]) -> dict[str, Any]:
    event = entry.event
    release = entry.packages.get("dsops", "unknown")
    facets = {
        "processing_engine": _facet("1-1-1/ProcessingEngineRunFacet", name="dsops", version=release),
        "dsops": {
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet",
            "actor": event.actor,
            "ledgerEntry": entry.number,
            "ledgerDigest": entry.digest,
        },
    }
    return {
        "eventType": "COMPLETE",
        "eventTime": event.time,
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {"runId": _run_id(event.event_id), "facets": facets},
        "job": {"namespace": _namespace(story), "name": event.kind},
        "inputs": list(_inputs(story, entry, names)),
        "outputs": list(_outputs(story, entry, names)),
    }


def _inputs(story: Story, entry: Entry, names: dict[str, Version]) -> Iterator[dict[str, Any]]:
    if isinstance(source := entry.event.inputs.get("source"), str):
        yield _source(source)
    about = names.get(str(entry.event.inputs.get("commit")))
    made = names.get(str(entry.commit))
    used = {about.digest: about} if about else {}
    if made is not None:
        used |= {digest: names[digest] for digest in made.commit.parents if digest in names}
    for version in used.values():
        yield _dataset(story, version)


def _outputs(story: Story, entry: Entry, names: dict[str, Version]) -> Iterator[dict[str, Any]]:
    if (made := names.get(str(entry.commit))) is not None:
        counts = {"rowCount": made.commit.counts["samples"]}
        statistics = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", **counts)
        yield _dataset(story, made) | {"outputFacets": {"outputStatistics": statistics}}
    if entry.event.kind == ACCEPT:
        yield _dataset(story, story.version)
    if isinstance(model := entry.event.outputs.get("model"), str):
        yield {"namespace": _namespace(story), "name": f"model/{model}", "facets": {}}


def _dataset(story: Story, version: Version) -> dict[str, Any]:
    """The data set, at a version of it."""
    facet = _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=version.name)
    return {"namespace": _namespace(story), "name": version.schema.name, "facets": {"version": facet}}


def _source(address: str) -> dict[str, Any]:
    """What was ingested, named as the specification names files and objects."""
    scheme, found, rest = address.partition("://")
    if not found:
        return {"namespace": "file", "name": address, "facets": {}}
    place, _, path = rest.partition("/")
    return {"namespace": f"{scheme}://{place}", "name": path or "/", "facets": {}}


def _namespace(story: Story) -> str:
    return f"dsops://{story.namespace}"


def _run_id(event_id: str) -> str:
    """The event's id as a UUID; where it is none, one that is made from it."""
    try:
        return str(uuid.UUID(event_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, event_id))


def _facet(_kind: str, **facts: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{_kind}.json#/$defs/{_kind.partition('/')[2]}", **facts}
