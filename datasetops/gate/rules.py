"""The rules of a policy, each held against a version: passed or not, why, and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.decisions import decisions, open_findings
from datasetops.audits.record import AuditRecord, latest_audit
from datasetops.audits.sets.coverage import count_values, slice_values
from datasetops.errors import NotFoundError
from datasetops.gate.policy import Policy, QaRule, RightsRule
from datasetops.gate.rights import residencies, rights_columns
from datasetops.gate.status import last_accepted, since
from datasetops.manifest import Repository, Version
from datasetops.manifest.diff import changed_in_splits
from datasetops.preannotate.auto_accept import LEAST_CONFIDENCE, auto_accepted, condition, covered
from datasetops.qa.plan import QaPlan, plans, plans_about, redraw
from datasetops.qa.review import current_result
from datasetops.qa.verdicts import load_verdicts
from datasetops.records import SEVERITIES
from datasetops.schema import RELABEL, check_guide, parse_guide

_NAMED: Final = 5  # examples that a sentence names at most


@dataclass(frozen=True)
class RuleResult:
    """`message` says what was found; `remedy` what to do where it did not pass; `evidence` is JSON-able."""

    rule: str
    passed: bool
    message: str
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What is judged, by which policy, by whom and when."""

    repository: Repository
    version: Version
    policy: Policy
    actor: str
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def audit(self) -> AuditRecord | None:
        """What whole-version audits found, check by check."""
        try:
            return latest_audit(self.repository, self.version, whole=True)
        except NotFoundError:
            return None

    @cached_property
    def open(self) -> pa.Table | None:
        return None if self.audit is None else open_findings(self.audit.findings, decisions(self.repository))

    @cached_property
    def base(self) -> Version | None:
        """The newest accepted version that this one stands on."""
        return last_accepted(self.repository, self.version)


def evaluate(case: Case) -> list[RuleResult]:
    """Every rule of the policy, in its order, and those that hold whatever it says, where they have something to judge."""
    found = [RULES[name](case) for name in case.policy.rules]
    return found + [result for rule in ALWAYS.values() if (result := rule(case)) is not None]


def qa(case: Case) -> RuleResult:
    rule = case.policy.qa
    if rule is None:
        return RuleResult("qa", True, "not asked for")
    mine = plans_about(case.repository, case.version)
    reviewed = [plan for plan in mine if load_verdicts(case.repository, plan)]
    if not mine:
        remedy = f"Plan and review a sample: dsops qa plan {case.version.name}"
        return RuleResult("qa", False, "no QA plan of these images and labels has been made", remedy)
    plan = (reviewed or mine)[-1]  # the newest word counts
    found = current_result(case.repository, plan)
    evidence = {"plan": plan.name, "verdict": found.verdict, "checked": found.checked, "wrong": found.wrong}
    evidence |= {"low": found.low, "high": found.high, "limit": plan.limit, "confidence": plan.confidence}
    evidence |= {"attempt": plan.attempt, "seed": plan.seed, "plans drawn": len(mine), "plans reviewed": len(reviewed)}
    told = ""
    if plan.where is not None:
        told = f"the plan {plan.name} is about a part of the version only"
    elif plan.limit > 1 - rule.pass_rate + 1e-9 or plan.confidence < rule.confidence:
        asked = f"--pass {rule.pass_rate:g} --confidence {rule.confidence:g}"
        told = f"the plan {plan.name} claims less than the policy asks for, which is {asked}"
    elif plan.attempt > rule.max_attempts:
        told = f"the plan {plan.name} is attempt {plan.attempt}; at most {rule.max_attempts} are allowed"
    elif found.verdict != "accept":
        told = f"the plan {plan.name} is {found.verdict}"
    elif not redraw(case.repository, plan):
        told = f"the items of the plan {plan.name} are not what its seed draws"
    if told:
        return RuleResult("qa", False, told, f"See: dsops qa result {plan.name}", evidence)
    told = f"at most {found.high:.2%} is wrong with {plan.confidence:.0%} confidence"
    drawn = f"; {len(mine)} plans drawn, {len(reviewed)} reviewed" if len(mine) > 1 else ""
    told += f" ({plan.name}: {found.wrong} of {found.checked} wrong{drawn})"
    if plan.commit != case.version.digest:
        told += f", found out of {plan.version}, which has the same images and labels"
    return RuleResult("qa", True, told, evidence=evidence)


def findings(case: Case) -> RuleResult:
    rule = case.policy.findings
    if rule is None:
        return RuleResult("findings", True, "not asked for")
    if case.audit is None or case.open is None or _missing(case, rule.checks):
        return _not_audited("findings", case, rule.checks)
    levels = SEVERITIES[SEVERITIES.index(rule.at) :]
    rows = case.open.filter(pc.is_in(case.open["severity"], pa.array(levels, pa.string())))
    rows = rows.filter(pc.invert(pc.is_in(rows["check"], pa.array(rule.ignore, pa.string()))))
    counts = {item["values"]: item["counts"] for item in pc.value_counts(rows["check"]).to_pylist()}
    evidence = {"audit": case.audit.audit_id, "open": counts, "checks": sorted(case.audit.info["checks"])}
    if not len(rows):
        return RuleResult("findings", True, f"no open finding of severity {rule.at} or above", evidence=evidence)
    told = ", ".join(f"{count:,} of {name}" for name, count in sorted(counts.items()))
    remedy = (
        f"Look at dsops findings {case.version.name} --open; correct them in a new version, or decide: dsops decide"
    )
    if rule.checks and (others := sorted(set(counts) - set(rule.checks))):
        remedy += (
            ". Findings of checks that the policy does not ask for count too; leave them out with ignore: "
            f"[{', '.join([*rule.ignore, *others])}]"
        )
    return RuleResult("findings", False, f"{len(rows):,} open of severity {rule.at} or above: {told}", remedy, evidence)


def leakage(case: Case) -> RuleResult:
    if case.open is None or _missing(case, ("leakage",)):
        return _not_audited("leakage", case, ("leakage",))
    rows = case.open.filter(pc.equal(case.open["check"], "leakage"))
    name = case.version.name
    remedy = (
        f"Leave out one side: dsops findings {name} --check leakage --format csv --out leaks.csv; dsops remove --batch "
        "leaks.csv. dsops split keeps groups and copies together, with --look-alikes near-duplicates too."
    )
    told = f"{len(rows):,} items are on both sides of a split" if len(rows) else "nothing is on both sides of a split"
    return RuleResult("leakage", not len(rows), told, remedy, {"open": len(rows)})


def coverage(case: Case) -> RuleResult:
    rule = case.policy.coverage
    if rule is None:
        return RuleResult("coverage", True, "not asked for")
    schema = case.version.schema
    lacking: list[str] = []
    if rule.slices and schema.slices:
        samples = case.version.table("samples").to_pandas()
        for item in schema.slices:
            for value, count in count_values(slice_values(samples, item.key), item.values).items():
                if count < item.min_count:
                    lacking.append(f"{item.key} = {value}: {count:,} of {item.min_count:,}")
    rows = case.version.labels(["sample_id", "label"])
    wanted = {"": rule.min_per_class} if rule.min_per_class else {}
    for split, least in {**wanted, **rule.min_per_class_in}.items():
        chosen = rows
        if split:
            samples = case.version.table("samples", ["sample_id", "split"])
            inside = samples.filter(pc.equal(samples["split"], split))["sample_id"].combine_chunks()
            chosen = rows.filter(pc.is_in(rows["sample_id"], inside))
        counts = {item["values"]: item["counts"] for item in pc.value_counts(chosen["label"]).to_pylist()}
        where = f" in {split}" if split else ""
        for name in schema.class_names:
            if counts.get(name, 0) < (least or 0):
                lacking.append(f"{name}{where}: {counts.get(name, 0):,} of {least:,}")
    told = f"{len(lacking):,} too small: {_some(lacking)}" if lacking else "every class and slice has what it needs"
    return RuleResult("coverage", not lacking, told, "Collect more: dsops select, dsops ingest.", {"lacking": lacking})


def expiry(case: Case) -> RuleResult:
    days = case.policy.expiry.days if case.policy.expiry else 0
    rows = case.version.table("samples", ["sample_id", "expires_at"])
    limit = pa.scalar(case.now + timedelta(days=days), pa.timestamp("us", tz="UTC"))
    over = rows.filter(pc.fill_null(pc.less_equal(rows["expires_at"], limit), False))["sample_id"]
    within = f" or will within {days} days" if days else ""
    told = (
        f"{len(over):,} samples have expired{within}: {_some(over)}" if len(over) else "no sample has expired" + within
    )
    return RuleResult(
        "expiry", not len(over), told, "Renew their rights, or dsops remove them.", {"expired": len(over)}
    )


def residency(case: Case) -> RuleResult:
    rule = case.policy.residency
    if rule is None:
        return RuleResult("residency", True, "not asked for")
    values = residencies(case.version.table("samples", rights_columns(case.policy)), rule.key)
    refused = values.filter(pc.invert(pc.is_in(values, pa.array(rule.allowed, pa.string()))))
    told = f"every sample may be kept where it is: {_some(pc.unique(values))}"
    if len(refused):
        told = f"{len(refused):,} samples have no {rule.key} that is allowed: {_some(pc.unique(pc.fill_null(refused, 'none')))}"
    remedy = f"Keep them elsewhere and dsops remove them, or ingest them with a {rule.key}."
    return RuleResult("residency", not len(refused), told, remedy, {"refused": len(refused)})


def guide(case: Case) -> RuleResult:
    if case.version.guide is None:
        return RuleResult("guide", False, "there is no labeling guide", "Set one with: dsops guide set FILE")
    problems = [
        f"{p.class_name} {p.message}" for p in check_guide(parse_guide(case.version.guide), case.version.schema)
    ]
    told = f"{len(problems):,} problems: {_some(problems)}" if problems else "it describes every class"
    evidence = {"guide": case.version.commit.guide, "problems": problems}
    return RuleResult("guide", not problems, told, "See: dsops guide check", evidence)


def test_split(case: Case) -> RuleResult:
    splits = case.policy.test_split.splits if case.policy.test_split else ()
    named = " and ".join(splits)
    if case.base is None:
        return RuleResult("test_split", True, f"no version was accepted before; {named} starts here")
    touched = changed_in_splits(case.base, case.version, splits)
    line = since(case.repository, case.version, case.base)
    reasons = [
        str(entry.event.parameters["unseal"])
        for entry in case.repository.ledger.backwards()
        if entry.commit in line and entry.event.parameters.get("unseal")
    ]
    evidence = {"since": case.base.name, "changed": len(touched), "reasons": reasons}
    if not touched:
        return RuleResult("test_split", True, f"{named} is as in {case.base.name}", evidence=evidence)
    told = f"{len(touched):,} samples of {named} changed since {case.base.name}"
    if reasons:
        return RuleResult("test_split", True, f"{told}, with the reason: {_some(reasons)}", evidence=evidence)
    remedy = "Undo it; or seal the split (dsops split --seal test) and change it with --unseal REASON."
    return RuleResult("test_split", False, f"{told}, and nobody gave a reason", remedy, evidence)


def reviewer_is_not_author(case: Case) -> RuleResult:
    line = since(case.repository, case.version, case.base)
    authors = sorted({item.commit.author for item in case.repository.versions() if item.digest in line})
    passed = case.actor not in authors
    told = f"{case.actor} accepts what {_some(authors)} made"
    return RuleResult(
        "reviewer_is_not_author",
        passed,
        told,
        "Let somebody else accept it (DSOPS_ACTOR names who).",
        {"authors": authors},
    )


def migrations_finished(case: Case) -> RuleResult:
    rows = case.version.labels(["label", "attributes"])
    deprecated = [item.name for item in case.version.schema.classes if item.deprecated]
    old = pc.sum(pc.is_in(rows["label"], pa.array(deprecated, pa.string()))).as_py() or 0
    waiting = pc.sum(pc.match_substring(rows["attributes"], f'"{RELABEL}":')).as_py() or 0
    told = f"{waiting:,} annotations wait for a person, {old:,} have a class that is no longer used"
    remedy = "Label them (dsops label push --where), and commit."
    evidence = {"waiting": waiting, "deprecated": old}
    if waiting or old:
        return RuleResult("migrations_finished", False, told, remedy, evidence)
    return RuleResult("migrations_finished", True, "no annotation waits for a person", evidence=evidence)


def seen_by_people(case: Case) -> RuleResult | None:
    """Rows that a model wrote and that were accepted by their score count only where a sampled QA accepted them.

    Its plan may be of an earlier version in which these rows were the same. Of several plans about nothing but such
    samples the newest that was reviewed counts; one about others as well may vouch for them, but not against them.
    None where there are no such rows.
    """
    told: list[str] = []
    remedies: list[str] = []
    evidence: dict[str, Any] = {}
    for target, rows in auto_accepted(case.version).items():
        left = pc.unique(rows["sample_id"])
        verdicts: dict[str, str] = {}
        evidence[f"at {target:g}"] = {"samples": len(left), "plans": verdicts}
        waiting: QaPlan | None = None
        for plan in reversed(list(plans(case.repository))):
            theirs, drawn_from = covered(case.repository, plan, case.version, rows)
            mine = pc.is_in(left, theirs)
            if not pc.any(mine).as_py():
                continue
            part = _accepted_by_score(case, plan, target, drawn_from)
            reviewed = bool(load_verdicts(case.repository, plan))
            why = _why_not(case, plan, target, part) if reviewed else "not reviewed"
            if why and part < len(drawn_from):
                continue
            if not reviewed:
                waiting = waiting or plan
                continue
            verdicts[plan.name] = why or "accept"
            left = left.filter(pc.invert(mine))
            if why:
                told.append(
                    f"{pc.sum(mine).as_py():,} samples were accepted by their score, and the plan {plan.name} {why}"
                )
                remedies.append(f"See: dsops qa result {plan.name}")
        where = condition(target)
        if len(left):
            why = f"the plan {waiting.name} is not reviewed" if waiting else "no plan covers them"
            told.append(f"{len(left):,} samples were accepted by their score, and {why}")
            make = f'dsops qa plan {case.version.name} --pass {target:g} --where "{where}"'
            remedies.append(f"Review a sample: dsops qa push {waiting.name}" if waiting else f"Plan a sample: {make}")
        if len(left) or any(why != "accept" for why in verdicts.values()):
            remedies.append(f'Or let people label them: dsops label push {case.version.name} --where "{where}"')
    if not evidence:
        return None
    message = "; ".join(told) or "a sampled QA accepted all that was accepted by its score"
    return RuleResult("seen_by_people", not told, message, ". ".join(dict.fromkeys(remedies)), evidence)


def _accepted_by_score(case: Case, plan: QaPlan, target: float, drawn_from: pa.Array) -> int:
    """How many samples of a plan's lot were accepted by their score at a precision when it was made."""
    then = auto_accepted(case.repository.version(plan.version)).get(target)
    return 0 if then is None else pc.sum(pc.is_in(drawn_from, pc.unique(then["sample_id"]))).as_py() or 0


def _why_not(case: Case, plan: QaPlan, target: float, part: int) -> str:
    """Why a plan that was reviewed does not vouch for the `part` of its lot that was accepted by its score."""
    found = current_result(case.repository, plan)
    most = (case.policy.qa or QaRule()).max_attempts
    if found.verdict != "accept":
        return f"is {found.verdict}"
    if plan.confidence < LEAST_CONFIDENCE - 1e-9:
        return f"is less sure than {LEAST_CONFIDENCE:.0%}"
    if found.high * found.population > (1 - target) * part + 1e-9:  # all that is wrong may be among them
        return f"leaves room for more than {1 - target:.3g} wrong among them"
    if plan.attempt > most:
        return f"is attempt {plan.attempt}; at most {most} are allowed"
    return "" if redraw(case.repository, plan) else "has items that its seed does not draw"


RULES: Final[Mapping[str, Callable[[Case], RuleResult]]] = {
    "qa": qa,
    "findings": findings,
    "coverage": coverage,
    "leakage": leakage,
    "license": lambda case: _named_rights(case, "license", case.policy.license),
    "consent": lambda case: _named_rights(case, "consent", case.policy.consent),
    "expiry": expiry,
    "residency": residency,
    "guide": guide,
    "test_split": test_split,
    "reviewer_is_not_author": reviewer_is_not_author,
    "migrations_finished": migrations_finished,
}
# Policies have no say in these.
ALWAYS: Final[Mapping[str, Callable[[Case], RuleResult | None]]] = {"seen_by_people": seen_by_people}


def _named_rights(case: Case, column: str, rule: RightsRule | None) -> RuleResult:
    rows = case.version.table("samples", ["sample_id", column])
    named = pc.fill_null(pc.not_equal(rows[column], ""), False)
    missing = rows.filter(pc.invert(named))
    refused = rows.slice(0, 0)
    if rule is not None and rule.allowed:
        refused = rows.filter(pc.and_(named, pc.invert(pc.is_in(rows[column], pa.array(rule.allowed, pa.string())))))
    told = []
    if len(missing):
        told.append(f"{len(missing):,} samples name no {column}")
    if len(refused):
        told.append(f"{len(refused):,} have one that is not allowed: {_some(pc.unique(refused[column]))}")
    evidence = {"missing": len(missing), "refused": len(refused)}
    remedy = f"Ingest them again with a column {column}, or with --set {column}=TEXT, or dsops remove them."
    return RuleResult(
        column, not told, "; ".join(told) or f"every sample has one: {_some(pc.unique(rows[column]))}", remedy, evidence
    )


def _missing(case: Case, checks: tuple[str, ...]) -> list[str]:
    """Those that have not run over all samples."""
    ran = case.audit.info["checks"] if case.audit else ()
    return [name for name in checks if name not in ran]


def _not_audited(rule: str, case: Case, checks: tuple[str, ...]) -> RuleResult:
    missing = _missing(case, checks)
    told = f"these checks have not run over all samples: {', '.join(missing)}"
    remedy = f"Run: dsops audit {case.version.name}" + "".join(f" --check {name}" for name in missing)
    return RuleResult(rule, False, told if case.audit else "no audit of all samples", remedy)


def _some(values: Any) -> str:
    names = [str(value) for value in values]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
