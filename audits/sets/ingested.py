"""What ingest found at fault in the sources of a version, as findings of its audit."""

from __future__ import annotations

import json
from typing import Any

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.record import SCORES, AuditRecord, worst_first
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import get_object
from datasetops.records import Finding, findings_table


class Ingested:
    name = "ingest"
    title = "faults that ingest found in the sources"
    needs = "nothing"
    cost = "nothing"

    def run(self, context: AuditContext) -> CheckResult:
        findings = _as_findings(context.ingest_findings())
        return CheckResult(findings, summary={"faults": len(findings)})


def ingest_findings(repository: Repository, version: Version) -> list[dict[str, Any]]:
    """What ingest found at fault in the sources of a version and of those it stands on, newest first."""
    ancestors = {version.digest, *(item.digest for item in _history(repository, version))}
    found: list[dict[str, Any]] = []
    for entry in repository.ledger.backwards():
        digest = entry.event.outputs.get("findings")
        if entry.event.kind == "ingest" and digest and entry.commit in ancestors:
            found += json.loads(get_object(repository.store, "findings", digest))
    return found


def ingest_record(repository: Repository, version: Version) -> AuditRecord:
    """The findings of ingest alone, of a version that this check has not audited; the record is not kept."""
    findings = findings_table(_as_findings(ingest_findings(repository, version)))
    info = {"version": version.name, "commit": version.digest, "checks": {Ingested.name: {"findings": len(findings)}}}
    return AuditRecord("", info, worst_first(findings), SCORES.empty_table())


def _as_findings(rows: list[dict[str, Any]]) -> list[Finding]:
    findings = [
        Finding(**{name: value for name, value in row.items() if name not in ("finding_id", "related")}) for row in rows
    ]
    return list({finding.finding_id: finding for finding in findings}.values())


def _history(repository: Repository, version: Version) -> list[Version]:
    by_digest = {item.digest: item for item in repository.versions()}
    queue, seen = [version.digest], {}
    while queue:
        digest = queue.pop()
        if digest in by_digest and digest not in seen:
            seen[digest] = by_digest[digest]
            queue += by_digest[digest].commit.parents
    return list(seen.values())
