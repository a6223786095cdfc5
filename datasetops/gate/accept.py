"""Accept or reject a version: a signed-off record of every rule, its evidence, and who decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from datasetops.errors import RejectedError, did_you_mean
from datasetops.gate.policy import Policy
from datasetops.gate.rules import ALWAYS, RULES, Case, RuleResult, evaluate
from datasetops.gate.status import status_of
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.records import canonical_json, sha256_hex

ACCEPT: Final = "accept"
REFUSE: Final = "refuse"  # a gate did not let a version or a model through; the parameter `asked` says which gate


@dataclass(frozen=True)
class GateResult:
    """`accepted` tells whether the version is accepted now; `failed` are rules that did not pass and were not overridden."""

    version: str
    commit: str
    policy: str
    policy_digest: str
    actor: str
    rules: tuple[RuleResult, ...]
    overridden: Mapping[str, str]
    accepted: bool
    already: bool = False

    @property
    def failed(self) -> tuple[RuleResult, ...]:
        return tuple(rule for rule in self.rules if not rule.passed and rule.rule not in self.overridden)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"failed": [rule.rule for rule in self.failed]}


def accept(
    repository: Repository,
    version: Version,
    policy: Policy,
    *,
    override: Mapping[str, str] | None = None,
    note: str = "",
    dry_run: bool = False,
) -> GateResult:
    """Hold a version against a policy, and accept it where every rule passes or is overridden with a reason.

    `override` maps a rule's name to the reason. A version that fails stays as it was; look at `failed`. The ledger keeps
    that too, but for a dry run. Raises ValueError for an override of an unknown rule or without a reason, RejectedError
    for one of a rule that passes.
    """
    reasons = dict(override or {})
    check_reasons(reasons, policy.name, (*policy.rules, *ALWAYS), (*RULES, *ALWAYS))
    actor = repository.settings.actor
    results = tuple(evaluate(Case(repository, version, policy, actor)))
    refuse_needless(reasons, results)
    result = GateResult(
        version.name, version.digest, policy.name, policy.digest, actor, results, reasons, accepted=False
    )  # fmt: skip
    if dry_run:
        return result
    already = status_of(repository, version)
    if not result.failed and already.status == "accepted" and _same(repository, already.event_id, policy, reasons):
        return replace(result, accepted=True, already=True)
    put_object(repository.store, "policies", policy.canonical_bytes())
    record = canonical_json({"rules": [asdict(rule) for rule in results], "policy": policy.digest, "note": note})
    key = f"gates/{version.name}/{sha256_hex(record)[:16]}.json"
    repository.store.put(key, record)
    event = Event(
        REFUSE if result.failed else ACCEPT,
        actor,
        inputs={"version": version.name, "commit": version.digest, "policy": policy.digest},
        outputs={"files": {key: sha256_hex(record)}},
        parameters={"asked": ACCEPT, "override": reasons, "note": note},
    )
    repository.ledger.record(event)
    return replace(result, accepted=not result.failed)


def reject(repository: Repository, version: Version, reason: str) -> None:
    """Record that a version must not be used, and why. Raises ValueError without a reason."""
    if not reason.strip():
        raise ValueError("reason: say why the version is rejected")
    event = Event(
        "reject",
        repository.settings.actor,
        inputs={"version": version.name, "commit": version.digest},
        parameters={"reason": reason},
    )
    repository.ledger.record(event)


def _same(repository: Repository, event_id: str | None, policy: Policy, reasons: Mapping[str, str]) -> bool:
    for entry in repository.ledger.backwards():
        if entry.event.event_id == event_id:
            same_policy = entry.event.inputs.get("policy") == policy.digest
            return same_policy and dict(entry.event.parameters.get("override", {})) == dict(reasons)
    return False


def check_reasons(reasons: Mapping[str, str], policy: str, asked: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError for an override of a rule that the policy does not ask for, and for one without a reason."""
    for rule, reason in reasons.items():
        if rule not in asked:
            remedy = "The policy does not ask for it." if rule in known else did_you_mean(rule, asked, noun="rules")
            raise ValueError(f"override: {rule!r} is no rule of the policy {policy!r}. {remedy}")
        if not reason.strip():
            raise ValueError(f"override: give the reason why {rule!r} may be passed over: --reason TEXT")


def refuse_needless(reasons: Mapping[str, str], results: Sequence[RuleResult]) -> None:
    """Raise RejectedError for an override of a rule that passes."""
    failing = {rule.rule for rule in results if not rule.passed}
    needless = [name for name in reasons if name not in failing]
    if needless:
        raise RejectedError(f"The rule {needless[0]!r} passes.", remedy="Leave out its --override.")


def overridden_words(rules: Sequence[RuleResult], reasons: Mapping[str, str]) -> list[str]:
    """One loud line a rule that was passed over."""
    told = {rule.rule: rule.message for rule in rules}
    return [f"OVERRIDDEN {name}: {told[name]}. Reason: {reason}" for name, reason in reasons.items()]
