"""What the repository knows of one version: what it stands on, what happened to it, who said what about it.

Nothing here depends on the time of asking: the same version and the same ledger give the same answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import decisions
from datasetops.audits.record import AuditRecord, latest_audit
from datasetops.errors import NotFoundError
from datasetops.evidence.figures import Figures, figures
from datasetops.gate.accept import ACCEPT, REFUSE
from datasetops.gate.policy import EVENT as POLICY
from datasetops.gate.rights import EXPORT_REFUSED
from datasetops.gate.status import Status, ancestors, last_accepted, since, status_of
from datasetops.ledger import Entry
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import get_object
from datasetops.manifest.erasing import ERASED
from datasetops.qa.plan import QaPlan, plans, plans_about
from datasetops.qa.result import QaResult
from datasetops.qa.review import current_result
from datasetops.records import SEVERITIES, one_array
from datasetops.training.record import ModelRecord, model_records

REJECT: Final = "reject"
EVIDENCE: Final = "evidence"  # a pack or a part of it was written
# What carried a version out, or would have: it tells nothing about how the version came to be.
_LEFT_OUT: Final = ("export", "checkout", EXPORT_REFUSED, EVIDENCE)
_OUTCOMES: Final = ("fine", "error", "unsure")  # of several reviewers' words on a finding the first of these counts


@dataclass(frozen=True)
class Story:
    """A version of a repository, and what is on record about it."""

    repository: Repository
    version: Version

    @cached_property
    def line(self) -> tuple[Version, ...]:
        """The version and all that it stands on, newest first."""
        return tuple(ancestors(self.repository, self.version))

    @cached_property
    def figures(self) -> Figures:
        """What is in the version, counted."""
        return figures(self.version)

    @cached_property
    def status(self) -> Status:
        return status_of(self.repository, self.version)

    @cached_property
    def base(self) -> Version | None:
        """The newest accepted version that this one stands on."""
        return last_accepted(self.repository, self.version)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Ledger entries, oldest first, that made this version or one that it stands on, or are about one of them.

        With them the one that made the repository, those that set a policy that judged the version, and erasures, which
        may have rewritten others.
        """
        commits, names = {item.digest for item in self.line}, {item.name for item in self.line}
        found: list[Entry] = []
        policies: set[str] = set()
        for entry in self.repository.ledger.backwards():
            event = entry.event
            if event.kind in _LEFT_OUT or (entry.commit is not None and entry.commit not in commits):
                continue
            about = event.inputs.get("commit")
            mine = about in commits or (about is None and event.inputs.get("version") in names)
            if event.kind in (ACCEPT, REFUSE) and about == self.version.digest:
                policies.add(str(event.inputs.get("policy")))
            set_it = event.kind == POLICY and str(event.outputs.get("policy")) in policies
            if entry.number == 0 or event.kind == ERASED or entry.commit in commits or mine or set_it:
                found.append(entry)
        return tuple(reversed(found))

    @property
    def namespace(self) -> str:
        """A name of the repository that nothing else has: the beginning of its first ledger entry's digest."""
        return self.entries[0].digest[:16]

    @cached_property
    def verdicts(self) -> tuple[Entry, ...]:
        """Acceptances, refusals by the gate and rejections of this version, oldest first."""
        mine = (ACCEPT, REFUSE, REJECT)
        return tuple(
            entry
            for entry in self.entries
            if entry.event.kind in mine
            and entry.event.inputs.get("commit") == self.version.digest
            and entry.event.parameters.get("asked", ACCEPT) == ACCEPT
        )

    @cached_property
    def acceptance(self) -> Entry | None:
        """The entry that accepted the version, where it is accepted now."""
        if self.status.status != "accepted":
            return None
        return next((entry for entry in self.verdicts if entry.event.event_id == self.status.event_id), None)

    def gate_record(self, entry: Entry) -> bytes | None:
        """What the gate wrote about each rule at an acceptance or refusal; None where there is no such file."""
        key = next((key for key in entry.event.outputs.get("files", {}) if key.startswith("gates/")), None)
        return None if key is None else self.repository.store.get(key)

    @cached_property
    def rules(self) -> list[dict[str, Any]]:
        """Each rule that the version was held against when it was accepted (rule, passed, message, evidence)."""
        data = self.gate_record(self.acceptance) if self.acceptance else None
        rules: list[dict[str, Any]] = [] if data is None else json.loads(data)["rules"]
        return rules

    @cached_property
    def policy(self) -> dict[str, Any]:
        """The policy that the version was accepted by, as it was kept; empty where the version is not accepted."""
        if self.acceptance is None:
            return {}
        digest = str(self.acceptance.event.inputs["policy"])
        return dict(json.loads(get_object(self.repository.store, "policies", digest)))

    @cached_property
    def qa(self) -> tuple[tuple[QaPlan, QaResult], ...]:
        """QA plans about this version and those since the last accepted one, oldest first, with what they prove."""
        mine = since(self.repository, self.version, self.base)
        about = {plan.name for plan in plans_about(self.repository, self.version)}
        chosen = [plan for plan in plans(self.repository) if plan.commit in mine or plan.name in about]
        return tuple((plan, current_result(self.repository, plan)) for plan in chosen)

    @cached_property
    def audit(self) -> AuditRecord | None:
        """What the newest audit of each check found in this version; None where it was not audited."""
        return self._audit(self.version)

    def _audit(self, version: Version) -> AuditRecord | None:
        try:
            return latest_audit(self.repository, version)
        except NotFoundError:
            return None

    @cached_property
    def findings(self) -> dict[str, dict[str, int]]:
        """By check: how many findings, by severity, and what people said of them (fine, error, unsure, undecided)."""
        if self.audit is None:
            return {}
        said: dict[str, set[str]] = {}
        for item in decisions(self.repository):
            said.setdefault(item.finding_id, set()).add(item.verdict)
        known = {name: next(word for word in _OUTCOMES if word in words) for name, words in said.items()}
        rows = self.audit.findings.select(["check", "severity", "finding_id"])
        about = rows.filter(pc.is_in(rows["finding_id"], pa.array(list(known), pa.string())))
        outcomes = Counter(
            (check, known[name])
            for check, name in zip(about["check"].to_pylist(), about["finding_id"].to_pylist(), strict=True)
        )
        counted = rows.group_by(["check", "severity"]).aggregate([("finding_id", "count")]).to_pylist()
        levels = {(row["check"], row["severity"]): int(row["finding_id_count"]) for row in counted}
        told = {}
        for check in sorted(self.audit.info["checks"]):
            by_level = {level: levels.get((check, level), 0) for level in reversed(SEVERITIES)}
            total = sum(by_level.values())
            words = {word: outcomes[check, word] for word in _OUTCOMES}
            told[check] = {"findings": total, **by_level, **words, "undecided": total - sum(words.values())}
        return told

    @cached_property
    def corrected(self) -> list[dict[str, Any]]:
        """Earlier versions since the last accepted one that were audited: by check, how many findings are gone now.

        Only checks that ran over this version too can say so; of the others `gone` is None.
        """
        ran = set(self.audit.info["checks"]) if self.audit else set()
        still = one_array(self.audit.findings["finding_id"]) if self.audit else pa.array([], pa.string())
        mine = since(self.repository, self.version, self.base) - {self.version.digest}
        found = []
        for version in reversed(self.line):
            earlier = self._audit(version) if version.digest in mine else None
            if earlier is None:
                continue
            gone = pc.invert(pc.is_in(earlier.findings["finding_id"], still))
            before, left = (_by_check(rows) for rows in (earlier.findings, earlier.findings.filter(gone)))
            found += [
                {"version": version.name, "check": check, "findings": before[check]}
                | {"gone": left.get(check, 0) if check in ran else None}
                for check in sorted(earlier.info["checks"])
                if before.get(check)
            ]
        return found

    @cached_property
    def models(self) -> list[ModelRecord]:
        """Models that learned from this version, oldest first."""
        return [record for record in model_records(self.repository) if record.commit == self.version.digest]


def _by_check(rows: pa.Table) -> Mapping[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(rows["check"]).to_pylist()}
