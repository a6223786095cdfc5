"""The evidence pack of a version: one zip that an auditor can read without the tool, every file with its SHA-256."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from datasetops.audits.record import plain
from datasetops.errors import RejectedError
from datasetops.evidence.card import dataset_card, sentence
from datasetops.evidence.croissant import croissant
from datasetops.evidence.lineage import lineage, prov_json, provn
from datasetops.evidence.story import Story
from datasetops.evidence.told import approvals, dataset_sections, record_sections
from datasetops.gate.status import DRAFT
from datasetops.manifest.commit import get_object
from datasetops.qa.verdicts import load_verdicts
from datasetops.records import TABLES, sha256_hex

PAGE: Final = "index.html"
MANIFEST: Final = "manifest.json"
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # of every entry: the earliest that a zip can hold
_CONTENTS: Final = {
    PAGE: "this page",
    "identities.json": "digests of the version, its commit, schema, guide and segments of rows",
    "identities/": "the commit, the label schema and the labeling guide, byte for byte as their digests were taken",
    "policy.json": "the policy that the version was held against",
    "gate.json": "each rule of the policy with what was found, as written down at acceptance",
    "qa/": "sampling plans with every image they draw, what reviewers said, and what it proves",
    "audits.json": "findings by check and severity, what became of them, and how the checks were run",
    "approvals.json": "who accepted, refused or rejected the version, when, and reasons of overrides",
    "lineage/": "what it was made from, by whom, and what was made from it: W3C PROV as JSON and as text (PROV-N)",
    "dataset-card.md": "the dataset card, in Markdown",
    "croissant.json": "a description of the data that programs read: Croissant 1.1",
    "events.jsonl": "the ledger's entries about it, oldest first, byte for byte, one a line",
    MANIFEST: "size and SHA-256 of every file here",
}


def evidence_pack(story: Story, *, draft: bool = False) -> bytes:
    """The zip's bytes; the same for the same version and ledger.

    Raises RejectedError for a version that is not accepted, unless `draft`: then its first page says what it is.
    """
    refuse_unaccepted(story, draft=draft)
    files = _files(story)
    files[PAGE] = _page(story, files).encode()
    listed = {name: {"bytes": len(files[name]), "sha256": sha256_hex(files[name])} for name in sorted(files)}
    version = {"version": story.version.name, "commit": story.version.digest, "status": story.status.status}
    files[MANIFEST] = _json({**version, "files": listed})
    return _zipped(files)


def refuse_unaccepted(story: Story, *, draft: bool) -> None:
    """Raise RejectedError for a version that is not accepted, unless a draft is wanted."""
    status = story.status.status
    if status != "accepted" and not draft:
        name = story.version.name
        raise RejectedError(
            f"An evidence pack is of an accepted version; {name} is {'a draft' if status == DRAFT else status}.",
            remedy=f"See what it lacks: dsops accept {name} --dry-run. With --draft it is written as it is, and its first "
            "page says so.",
        )


def _files(story: Story) -> dict[str, bytes]:
    """Every file but the page and the manifest."""
    store, version, commit = story.repository.store, story.version, story.version.commit
    document = lineage(story)
    files = {
        "identities.json": _json(identities(story)),
        "identities/commit.json": get_object(store, "commits", version.digest),
        "identities/schema.json": get_object(store, "schemas", commit.schema),
        "audits.json": _json(_audits(story)),
        "approvals.json": _json(approvals(story)),
        "lineage/prov.json": prov_json(document),
        "lineage/prov.provn": provn(document),
        "dataset-card.md": dataset_card(story).encode(),
        "croissant.json": _json(croissant(story)),
        "events.jsonl": b"".join(entry.to_bytes() + b"\n" for entry in story.entries),
    }
    if commit.guide:
        files["identities/guide.md"] = get_object(store, "guides", commit.guide, "md")
    if story.acceptance is not None:
        files["policy.json"] = get_object(store, "policies", str(story.acceptance.event.inputs["policy"]))
        files["gate.json"] = story.gate_record(story.acceptance) or b"{}"
    for plan, result in story.qa:
        files[f"qa/{plan.name}/plan.json"] = store.get(plan.key)
        files[f"qa/{plan.name}/verdicts.json"] = _json([asdict(item) for item in load_verdicts(story.repository, plan)])
        files[f"qa/{plan.name}/result.json"] = _json(plain(result.as_dict()))
    return files


def identities(story: Story) -> dict[str, Any]:
    """Everything by which the version can be recognised."""
    version, commit, accepted = story.version, story.version.commit, story.acceptance
    return {
        "version": version.name,
        "commit": version.digest,
        "parents": list(commit.parents),
        "schema": {"name": version.schema.name, "version": version.schema.version, "sha256": commit.schema},
        "guide": commit.guide,
        "segments": {table: [info.id for info in commit.tables[table]] for table in TABLES},
        "rows": dict(commit.counts),
        "sealed": list(commit.sealed),
        "made": {"time": commit.time, "author": commit.author, "message": commit.message, "event": commit.event_id},
        "acceptance": accepted and {"ledger_entry": accepted.number, "ledger_digest": accepted.digest},
        "repository": {"first_ledger_digest": story.entries[0].digest},
    }


def _audits(story: Story) -> dict[str, Any]:
    runs = [
        {"time": entry.event.time, "by": entry.event.actor, "inputs": entry.event.inputs}
        | {"outputs": entry.event.outputs, "parameters": entry.event.parameters, "packages": entry.packages}
        for entry in story.entries
        if entry.event.kind == "audit" and entry.event.inputs.get("commit") == story.version.digest
    ]
    summaries = dict(story.audit.summaries) if story.audit else {}
    return {"checks": story.findings, "earlier": story.corrected, "runs": runs, "summaries": plain(summaries)}


def _page(story: Story, files: Mapping[str, bytes]) -> str:
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader("datasetops.evidence"), PackageLoader("datasetops.audits")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    present = {PAGE, MANIFEST, *files}
    contents = [
        (name, text)
        for name, text in _CONTENTS.items()
        if name in present or (name.endswith("/") and any(file.startswith(name) for file in files))
    ]
    return environment.get_template("pack.html").render(
        identity=identities(story),
        status=story.status,
        sentence=sentence(story.figures),
        counted=story.figures,
        contents=contents,
        sections=[*record_sections(story), *dataset_sections(story)],
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Entries in the order of their names but the page first, all of one time and one mode."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files, key=lambda name: (name != PAGE, name)):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, files[name])
    return sink.getvalue()
