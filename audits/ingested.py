"""What ingest found at fault in the sources of a version, as findings of its audit."""

from __future__ import annotations

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.records import Finding


class Ingested:
    name = "ingest"
    title = "faults that ingest found in the sources"
    needs = "nothing"
    cost = "nothing"

    def run(self, context: AuditContext) -> CheckResult:
        rows = context.ingest_findings()
        findings = [
            Finding(**{name: value for name, value in row.items() if name not in ("finding_id", "related")})
            for row in rows
        ]
        unique = {finding.finding_id: finding for finding in findings}
        return CheckResult(list(unique.values()), summary={"faults": len(unique)})
