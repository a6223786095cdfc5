"""Put a model into production if it fulfils the policy, and take that back. The ledger has every rule's figures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from datasetops.audits.record import plain
from datasetops.errors import ConflictError, NotFoundError
from datasetops.gate.accept import REFUSE, check_reasons, refuse_needless
from datasetops.gate.rules import RuleResult
from datasetops.ledger import Event
from datasetops.manifest import Repository, Version
from datasetops.manifest.commit import put_object
from datasetops.progress import Progress, no_progress
from datasetops.promotion.policy import ModelPolicy
from datasetops.promotion.rules import RULES, Case, evaluate
from datasetops.records import canonical_json, sha256_hex
from datasetops.training.record import PROMOTE, ROLLBACK, ModelRecord, promoted

_FOLDER: Final = "promotions/"


@dataclass(frozen=True)
class PromotionResult:
    """`promoted` tells whether the model is in production now, `already` that it was before; `before`: the one that
    was. `failed` are rules that did not pass and were not overridden."""

    model: str
    digest: str
    version: str
    policy: str
    policy_digest: str
    actor: str
    rules: tuple[RuleResult, ...]
    overridden: Mapping[str, str]
    before: str | None
    promoted: bool
    already: bool = False

    @property
    def failed(self) -> tuple[RuleResult, ...]:
        return tuple(rule for rule in self.rules if not rule.passed and rule.rule not in self.overridden)

    def as_dict(self) -> dict[str, Any]:
        return dict(plain(asdict(self))) | {"failed": [rule.rule for rule in self.failed]}


@dataclass(frozen=True)
class Rollback:
    """`model` is in production now (None: none), `taken_back` was."""

    taken_back: str
    model: str | None
    reason: str


def promote(
    repository: Repository,
    record: ModelRecord,
    policy: ModelPolicy,
    *,
    version: Version | None = None,
    export_id: str | None = None,
    override: Mapping[str, str] | None = None,
    note: str = "",
    sealed: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> PromotionResult:
    """Hold a model against a policy on a version (the one it was trained on unless told), and put it into production where
    every rule passes or is overridden with a reason.

    `override` maps a rule's name to the reason. Where a rule fails everything stays as it was; look at `failed`. The
    ledger keeps that too, but for a dry run, and looks at a sealed split in any case. Raises ValueError for an override
    of an unknown rule or without a reason, RejectedError for one of a rule that passes, ConflictError where another model
    was promoted meanwhile.
    """
    reasons = dict(override or {})
    check_reasons(reasons, policy.name, policy.rules, tuple(RULES))
    judged_on = version or repository.version(record.version)
    case = Case(repository, record, judged_on, policy, export_id, sealed, progress)
    results = tuple(evaluate(case))
    refuse_needless(reasons, results)
    before = None if case.production is None else case.production.name
    result = PromotionResult(
        record.name, record.digest, judged_on.name, policy.name, policy.digest, repository.settings.actor, results,
        reasons, before, promoted=False,
    )  # fmt: skip
    if dry_run:
        return result
    if not result.failed and before == record.name:
        return replace(result, promoted=True, already=True)
    if _in_production(repository) != before:
        raise ConflictError("Another model was put into production meanwhile.", remedy="Run the command again.")
    put_object(repository.store, "policies", policy.canonical_bytes())
    told = {"rules": [asdict(rule) for rule in results], "policy": policy.digest, "note": note, "override": reasons}
    data = canonical_json(plain({"model": record.name, "digest": record.digest, "before": before, **told}))
    key = f"{_FOLDER}{record.name}/{sha256_hex(data)[:16]}.json"
    repository.store.put(key, data)
    figures = {rule.rule: {"passed": rule.passed, "message": rule.message} for rule in results}
    event = Event(
        REFUSE if result.failed else PROMOTE,
        result.actor,
        inputs={
            "version": judged_on.name,
            "commit": judged_on.digest,
            "model": record.name,
            "digest": record.digest,
            "policy": policy.digest,
        },
        outputs={"files": {key: sha256_hex(data)}, "rules": figures},
        parameters={"asked": PROMOTE, "model": record.name, "before": before, "override": reasons, "note": note},
    )
    repository.ledger.record(event)
    return replace(result, promoted=not result.failed)


def rollback(repository: Repository, reason: str) -> Rollback:
    """Take the newest promotion back, so that the model before it is in production again.

    Raises NotFoundError where no model is in production, ValueError without a reason.
    """
    if not reason.strip():
        raise ValueError("reason: say why the model is taken out of production")
    taken_back = promoted(repository)
    parameters = {"model": taken_back, "reason": reason}
    repository.ledger.record(Event(ROLLBACK, repository.settings.actor, parameters=parameters))
    return Rollback(taken_back, _in_production(repository), reason)


def _in_production(repository: Repository) -> str | None:
    with suppress(NotFoundError):
        return promoted(repository)
    return None
