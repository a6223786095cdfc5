"""What the overview page shows: where a version stands, what is suspected of it, what was decided, what is proven."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import Decision, decisions
from datasetops.audits.record import latest_audit
from datasetops.errors import NotFoundError
from datasetops.gate.policy import current_policy
from datasetops.gate.rules import Case, evaluate
from datasetops.gate.status import DRAFT, Status, statuses
from datasetops.ledger import Entry
from datasetops.manifest import Repository, Version
from datasetops.plugins import load_plugin
from datasetops.qa.plan import QaPlan, plans, plans_about
from datasetops.qa.result import evaluate as judge
from datasetops.qa.verdicts import load_verdicts
from datasetops.qa.words import explain_result
from datasetops.records import SEVERITIES
from datasetops.web.contents import class_balance, coverage, label_history

_VERSIONS: Final = 25  # listed, newest first
_PLANS: Final = 10
_SETTLED: Final = ("error", "fine")


def overview(repository: Repository, version: Version, *, actor: str | None = None) -> dict[str, Any]:
    """Everything that the page of a version shows. `actor`: who would accept it, the repository's own unless told.

    A part that the version has nothing for (no audit, no QA plan, no slices) says so in `skipped`.
    """
    known = statuses(repository)
    return {
        "version": _about(version, known.get(version.digest, Status(DRAFT))),
        "versions": _versions(repository, version, known),
        "classes": class_balance(repository, version.name),
        "coverage": coverage(repository, version),
        "findings": (found := _findings(repository, version)),
        "decisions": _decisions(repository, version, found),
        "qa": _qa(repository, version),
        "history": label_history(repository, version),
        "gate": _gate(repository, version.name, actor or repository.settings.actor, _tail(repository)),
    }


def _tail(repository: Repository) -> int:
    tail = repository.ledger.tail()
    return tail.number if tail else 0


def _about(version: Version, status: Status) -> dict[str, Any]:
    commit, schema = version.commit, version.schema
    return {
        "name": version.name,
        "status": status.status,
        "status_by": status.actor,
        "status_time": (status.time or "")[:16].replace("T", " "),
        "reason": status.reason,
        "overridden": list(status.overridden),
        "message": commit.message,
        "author": commit.author,
        "time": commit.time[:16].replace("T", " "),
        "samples": commit.counts["samples"],
        "annotations": commit.counts["annotations"],
        "schema": f"{schema.name} {schema.version}",
        "guide": commit.guide is not None,
        "sealed": list(commit.sealed),
        "commit": version.digest,
    }


def _versions(repository: Repository, version: Version, known: Mapping[str, Status]) -> dict[str, Any]:
    """The newest versions, and this one if it is older."""
    listed = list(islice(repository.versions(), _VERSIONS))
    total = int(listed[0].name[1:])
    if version.name not in {item.name for item in listed}:
        listed.append(version)
    number = {item.digest: item.name for item in listed}
    rows = []
    for item in listed:
        commit = item.commit
        rows.append(
            {
                "name": item.name,
                "current": item.name == version.name,
                "status": known.get(item.digest, Status(DRAFT)).status,
                "message": commit.message.strip().splitlines()[0] if commit.message.strip() else "",
                "author": commit.author,
                "time": commit.time[:16].replace("T", " "),
                "samples": commit.counts["samples"],
                "annotations": commit.counts["annotations"],
                "parent": number.get(commit.parents[0]) if commit.parents else None,
            }
        )
    return {"rows": rows, "total": total}


def _audits(repository: Repository, version: Version) -> tuple[int, ...]:
    """Ledger entries of the version's audits: what is found changes only with them."""
    return tuple(
        entry.number
        for entry in repository.ledger.backwards()
        if entry.event.kind == "audit" and entry.event.inputs.get("commit") == version.digest
    )


@lru_cache(maxsize=4)
def _found(repository: Repository, name: str, audits: tuple[int, ...]) -> tuple[str, Mapping[str, Any], pa.Table]:
    """(newest audit's id, what each check says of itself, its findings' ids, checks and severities). Raises NotFoundError."""
    record = latest_audit(repository, repository.version(name))
    rows = record.findings.select(["finding_id", "check", "severity"]).combine_chunks()
    rows = rows.append_column("apart", pc.is_null(record.findings["sample_id"]))
    facts = {
        check: {"findings": info["findings"], "skipped": record.summaries.get(check, {}).get("skipped")}
        for check, info in record.info["checks"].items()
    }
    return record.audit_id, facts, rows


def _findings(repository: Repository, version: Version) -> dict[str, Any]:
    """Findings by check and severity: all of them, those decided on, those left, and of these the ones in the queue.

    Those about no sample are not in it."""
    try:
        audit_id, facts, rows = _found(repository, version.name, _audits(repository, version))
    except NotFoundError:
        return {"skipped": f"{version.name} has not been audited.", "remedy": f"dsops audit {version.name}"}
    said = decisions(repository)
    settled = {item.finding_id for item in said if item.verdict in _SETTLED}
    decided = pc.is_in(rows["finding_id"], pa.array(sorted(settled), pa.string()))
    cells: dict[str, dict[str, dict[str, int]]] = {
        check: {level: {"total": 0, "decided": 0, "queued": 0} for level in SEVERITIES} for check in facts
    }
    counted = rows.append_column("decided", decided).group_by(["check", "severity", "apart", "decided"])
    for row in counted.aggregate([([], "count_all")]).to_pylist():
        cell = cells[row["check"]][row["severity"]]
        cell["total"] += row["count_all"]
        cell["decided"] += row["count_all"] * row["decided"]
        cell["queued"] += row["count_all"] * (not row["apart"] and not row["decided"])
    table: list[dict[str, Any]] = []
    for check, levels in cells.items():
        shown: list[dict[str, Any]] = []
        for level in reversed(SEVERITIES):
            cell = levels[level]
            link = urlencode({"check": check, "severity": level})
            shown.append({"severity": level, **cell, "left": cell["total"] - cell["decided"], "link": link})
        total = sum(cell["total"] for cell in shown)
        table.append(
            {
                "check": check,
                "title": _title(check),
                "skipped": facts[check]["skipped"],
                "cells": shown,
                "total": total,
                "decided": sum(cell["decided"] for cell in shown),
                "link": urlencode({"check": check}),
            }
        )
    table.sort(key=lambda row: ([-cell["left"] for cell in row["cells"]], row["check"]))
    severities = [
        {
            "severity": level,
            "total": sum(row["cells"][at]["total"] for row in table),
            "left": sum(row["cells"][at]["left"] for row in table),
            "queued": sum(row["cells"][at]["queued"] for row in table),
            "link": urlencode({"severity": level}),
        }
        for at, level in enumerate(reversed(SEVERITIES))
    ]
    return {
        "audit": audit_id,
        "total": len(rows),
        "decided": sum(row["decided"] for row in table),
        "severities": severities,
        "rows": [row for row in table if row["total"]],
        "clean": sorted(row["check"] for row in table if not row["total"] and not row["skipped"]),
        "left_out": [{"check": row["check"], "why": row["skipped"]} for row in table if row["skipped"]],
    }


@lru_cache
def _title(check: str) -> str:
    """What a check looks for; nothing where it is not installed here."""
    try:
        return str(load_plugin("checks", check).title)
    except NotFoundError:
        return ""


def _decisions(repository: Repository, version: Version, found: Mapping[str, Any]) -> dict[str, Any]:
    """What people decided about the version's findings, and what became of it."""
    applied = [_applied(entry) for entry in _events(repository, "review-apply", version)]
    if "skipped" in found:
        return {"total": 0, "applied": applied}
    rows = _found(repository, version.name, _audits(repository, version))[2]
    said: Sequence[Decision] = decisions(repository)
    mine = pa.array(sorted({item.finding_id for item in said}), pa.string())
    here = set(rows["finding_id"].filter(pc.is_in(rows["finding_id"], mine)).to_pylist())
    said = [item for item in said if item.finding_id in here]
    reviewers: dict[str, Counter[str]] = defaultdict(Counter)
    for item in said:
        reviewers[item.actor][item.verdict] += 1
    return {
        "total": len(said),
        "findings": len(here),
        "by_verdict": {verdict: sum(one[verdict] for one in reviewers.values()) for verdict in (*_SETTLED, "unsure")},
        "reviewers": [
            {"name": name, "total": counts.total(), **{verdict: counts[verdict] for verdict in (*_SETTLED, "unsure")}}
            for name, counts in sorted(reviewers.items(), key=lambda pair: (-pair[1].total(), pair[0]))
        ],
        "fixes": len({item.finding_id for item in said if item.verdict == "error" and item.fix is not None}),
        "applied": applied,
    }


def _events(repository: Repository, kind: str, version: Version) -> list[Entry]:
    """Newest first."""
    return [
        entry
        for entry in repository.ledger.backwards()
        if entry.event.kind == kind and entry.event.inputs.get("version") == version.name
    ]


def _applied(entry: Entry) -> dict[str, Any]:
    event = entry.event
    return {"version": entry.version, "actor": event.actor, "time": event.time[:16].replace("T", " ")}


def _qa(repository: Repository, version: Version) -> dict[str, Any]:
    """The newest plans of all versions; this version's with what they prove, in words."""
    every = list(plans(repository))
    mine = plans_about(repository, version)
    own = {plan.name for plan in mine}
    others = [plan for plan in every if plan.name not in own]
    shown = [*reversed(mine[-_PLANS:]), *reversed(others[-_PLANS:])]
    rows = [_plan(repository, plan, own=plan.name in own) for plan in shown]
    return {"rows": rows, "own": len(mine), "total": len(every)}


def _plan(repository: Repository, plan: QaPlan, *, own: bool) -> dict[str, Any]:
    result = judge(plan, load_verdicts(repository, plan))
    return {
        "name": plan.name,
        "version": plan.version,
        "own": own,
        "created": plan.created[:10],
        "actor": plan.actor,
        "where": plan.where,
        "verdict": result.verdict,
        "population": result.population,
        "to_review": len(plan.to_review(result.stage - 1)),
        "left": result.left,
        "checked": result.checked - result.open,
        "wrong": result.wrong,
        "low": result.low,
        "high": result.high,
        "limit": result.limit,
        "confidence": result.confidence,
        "stage": result.stage,
        "stages": result.stages,
        "words": explain_result(plan, result) if own else [],
    }


@lru_cache(maxsize=8)
def _gate(repository: Repository, name: str, actor: str, tail: int) -> dict[str, Any]:
    """What the policy asks for and whether the version has it; `tail` is the ledger's, as any entry may change it."""
    policy = current_policy(repository)
    rules = evaluate(Case(repository, repository.version(name), policy, actor))
    return {
        "policy": policy.name,
        "passed": sum(rule.passed for rule in rules),
        "failed": sum(not rule.passed for rule in rules),
        "rules": [
            {"rule": item.rule, "passed": item.passed, "message": item.message, "remedy": item.remedy}
            for item in sorted(rules, key=lambda item: item.passed)
        ],
    }
