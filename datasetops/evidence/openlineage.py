"""Runs as OpenLineage events, specification 2-0-2: those behind a version, or all as they happen.

They go to a file, one JSON a line, or to a server.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from datasetops.errors import StoreError
from datasetops.evidence.story import Story
from datasetops.gate.accept import ACCEPT
from datasetops.ledger import Entry
from datasetops.manifest import Repository, Version
from datasetops.records import canonical_json, sha256_hex
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
    about = story.version.digest
    return [
        _run(entry, names, story.namespace)
        for entry in story.entries
        if entry.commit in names or (_is_about_versions(entry) and entry.event.inputs.get("commit") == about)
    ]


def tell_new(repository: Repository, target: str) -> int:
    """Tell `target`, a file or an http address, of the runs since it was told last; returns how many there were.

    What was told is kept beside the repository's cache; where that is lost, runs are told again, under the same ids.
    Raises StoreError, and the next call goes on where this one stopped.
    """
    mark = repository.cache / "openlineage" / sha256_hex(target.encode())[:16]
    last = int(mark.read_text()) if mark.exists() else -1
    fresh = list(takewhile(lambda entry: entry.number > last, repository.ledger.backwards()))[::-1]
    if not fresh:
        return 0
    runs = [entry for entry in fresh if entry.commit is not None or _is_about_versions(entry)]
    if runs:
        names = {version.digest: version for version in repository.versions()}
        namespace = repository.ledger.read(0).digest[:16]
        events = [_run(entry, names, namespace) for entry in runs]
        if "://" in target:
            post(events, target)
        else:
            with Path(target).open("ab") as file:
                file.write(json_lines(events))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(str(fresh[-1].number))
    return len(runs)


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
        raise ValueError(f"expected an address like http://marquez:5000; got {url!r}")
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


def _is_about_versions(entry: Entry) -> bool:
    return entry.event.kind in (ACCEPT, TRAIN)


def _run(entry: Entry, names: Mapping[str, Version], namespace: str) -> dict[str, Any]:
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
        "job": {"namespace": _name(namespace), "name": event.kind},
        "inputs": list(_inputs(entry, names, namespace)),
        "outputs": list(_outputs(entry, names, namespace)),
    }


def _inputs(entry: Entry, names: Mapping[str, Version], namespace: str) -> Iterator[dict[str, Any]]:
    if isinstance(source := entry.event.inputs.get("source"), str):
        yield _source(source)
    about = names.get(str(entry.event.inputs.get("commit")))
    made = names.get(str(entry.commit))
    used = {about.digest: about} if about else {}
    if made is not None:
        used |= {digest: names[digest] for digest in made.commit.parents if digest in names}
    for version in used.values():
        yield _dataset(version, namespace)


def _outputs(entry: Entry, names: Mapping[str, Version], namespace: str) -> Iterator[dict[str, Any]]:
    if (made := names.get(str(entry.commit))) is not None:
        counts = {"rowCount": made.commit.counts["samples"]}
        statistics = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", **counts)
        yield _dataset(made, namespace) | {"outputFacets": {"outputStatistics": statistics}}
    if entry.event.kind == ACCEPT and (accepted := names.get(str(entry.event.inputs.get("commit")))) is not None:
        yield _dataset(accepted, namespace)
    if isinstance(model := entry.event.outputs.get("model"), str):
        yield {"namespace": _name(namespace), "name": f"model/{model}", "facets": {}}


def _dataset(version: Version, namespace: str) -> dict[str, Any]:
    """The data set, at a version of it."""
    facet = _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=version.name)
    return {"namespace": _name(namespace), "name": version.schema.name, "facets": {"version": facet}}


def _source(address: str) -> dict[str, Any]:
    """What was ingested, named as the specification names files and objects."""
    scheme, found, rest = address.partition("://")
    if not found:
        return {"namespace": "file", "name": address, "facets": {}}
    place, _, path = rest.partition("/")
    return {"namespace": f"{scheme}://{place}", "name": path or "/", "facets": {}}


def _name(namespace: str) -> str:
    return f"dsops://{namespace}"


def _run_id(event_id: str) -> str:
    """The event's id as a UUID; where it is none, one that is made from it."""
    try:
        return str(uuid.UUID(event_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, event_id))


def _facet(_kind: str, **facts: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{_kind}.json#/$defs/{_kind.partition('/')[2]}", **facts}
