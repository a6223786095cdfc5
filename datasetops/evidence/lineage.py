"""Lineage of a version as W3C PROV: versions, sources, audits, plans, models (entities), events, and who did them.

PROV-DM, W3C Recommendation of 30 April 2013. Times are those of the ledger.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pyarrow.compute as pc

from datasetops.errors import DamagedError, MissingDependencyError
from datasetops.evidence.figures import NONE
from datasetops.evidence.story import Story
from datasetops.gate.accept import ACCEPT
from datasetops.ledger import Entry
from datasetops.manifest.version import value_counts

if TYPE_CHECKING:
    from prov.model import ProvDocument

_OUTPUTS: Final = {"audit": "audit", "plan": "qa-plan", "model": "model", "evaluation": "evaluation"}
_INPUTS: Final = {"plan": "qa-plan", "policy": "policy", "source": "source"}


def lineage(story: Story) -> ProvDocument:
    """The document of a version and all that it stands on. Raises MissingDependencyError without prov."""
    try:
        from prov.model import ProvDocument
    except ImportError:
        raise MissingDependencyError("prov", extra="evidence", purpose="Lineage as PROV") from None
    document = ProvDocument()
    document.add_namespace("dsops", f"urn:dsops:{story.namespace}:")
    graph = _Graph(document)
    for version in reversed(story.line):
        facts: dict[str, Any] = {"commit": version.digest, "message": version.commit.message}
        facts |= {name: version.commit.counts[name] for name in sorted(version.commit.counts)}
        graph.entity("version", version.name, **facts)
    names = {version.digest: version.name for version in story.line}
    for version in reversed(story.line):
        for parent in version.commit.parents:
            if parent in names:
                document.wasDerivedFrom(_id("version", version.name), _id("version", names[parent]))
    for entry in story.entries:
        _event(graph, entry, names)
    for record in story.models:
        graph.entity("model", record.name, digest=record.digest)
        document.wasDerivedFrom(_id("model", record.name), _id("version", story.version.name))
    _labelers(graph, story)
    return document


def prov_json(document: ProvDocument) -> bytes:
    """PROV-JSON, W3C Member Submission of 24 April 2013. Raises DamagedError where it does not read back the same."""
    from prov.model import ProvDocument

    text = json.dumps(json.loads(document.serialize(format="json") or ""), indent=1, sort_keys=True)
    if ProvDocument.deserialize(content=text, format="json") != document:
        raise DamagedError(
            "The lineage does not read back from PROV-JSON as it was written.", remedy="Report this as a fault."
        )
    return text.encode() + b"\n"


def provn(document: ProvDocument) -> bytes:
    """PROV-N, the notation for people, W3C Recommendation of 30 April 2013."""
    return (document.get_provn() + "\n").encode()


class _Graph:
    """A document to which each thing is added once."""

    def __init__(self, document: ProvDocument) -> None:
        self.document = document
        self._known: set[str] = set()

    def entity(self, kind: str, name: str, **facts: Any) -> str:
        return self._once(kind, name, self.document.entity, facts)

    def agent(self, kind: str, name: str, *, software: bool = False) -> str:
        return self._once(
            kind, name, self.document.agent, {"prov:type": self.name("prov:SoftwareAgent")} if software else {}
        )

    def name(self, word: str) -> Any:
        """A qualified name, as the value of an attribute."""
        return self.document.valid_qualified_name(word)

    def _once(self, kind: str, name: str, add: Any, facts: dict[str, Any]) -> str:
        identifier = _id(kind, name)
        if identifier not in self._known:
            self._known.add(identifier)
            own = {key if ":" in key else f"dsops:{key}": value for key, value in facts.items()}
            add(identifier, {"prov:type": self.name(f"dsops:{kind}"), "prov:label": name} | own)
        return identifier


def _event(graph: _Graph, entry: Entry, names: dict[str, str]) -> None:
    """An event as an activity: who did it with which release, what it used, and what came of it."""
    event, document = entry.event, graph.document
    when = datetime.fromisoformat(event.time)
    activity = _id("event", event.event_id)
    facts = {"prov:type": graph.name(f"dsops:{event.kind}"), "dsops:entry": entry.number, "dsops:digest": entry.digest}
    document.activity(activity, when, when, facts)
    who = graph.agent("actor", event.actor)
    document.wasAssociatedWith(activity, who)
    release = graph.agent("software", f"dsops {entry.packages.get('dsops', '')}".strip(), software=True)
    document.wasAssociatedWith(activity, release)
    if entry.commit in names:
        document.wasGeneratedBy(_id("version", names[entry.commit]), activity, when)
    used = str(event.inputs.get("version") or "")
    about = str(event.inputs.get("commit") or "")
    looked_at = names.get(about) or (used if used in names.values() else None)
    if looked_at and looked_at != names.get(entry.commit or ""):
        document.used(activity, _id("version", looked_at), when)
    for key, kind in _INPUTS.items():
        if isinstance(value := event.inputs.get(key), str):
            document.used(activity, graph.entity(kind, value), when)
    if event.kind == ACCEPT and about in names:
        accepted = graph.entity("acceptance", event.event_id, policy=str(event.inputs.get("policy")))
        document.wasGeneratedBy(accepted, activity, when)
        document.wasDerivedFrom(accepted, _id("version", names[about]))
    for key, kind in _OUTPUTS.items():
        if isinstance(value := event.outputs.get(key), str):
            document.wasGeneratedBy(graph.entity(kind, value), activity, when)


def _labelers(graph: _Graph, story: Story) -> None:
    """Who gave the version's labels, people and models, each with the number of rows."""
    rows = story.version.table("annotations", ["source", "actor", "model"])
    version = _id("version", story.version.name)
    for source, column, kind in (("human", "actor", "actor"), ("model", "model", "labeling-model")):
        mine = rows.filter(pc.equal(rows["source"], source))
        for name, count in value_counts(mine[column]).items():
            if name != NONE:
                who = graph.agent(kind, name, software=source == "model")
                graph.document.attribution(version, who, other_attributes={"dsops:annotations": count})


def _id(kind: str, name: str) -> str:
    """A qualified name; what PROV-N does not allow in one is percent-encoded."""
    safe = quote(name, safe="")
    return f"dsops:{kind}/{safe.removesuffix('.') + '%2E' if safe.endswith('.') else safe}"
