"""The acceptance policy: what a version must show before anything is trained on it for production.

A YAML file; a part that is left out is not asked for. Policies are kept by their digest, and setting one is an event of
the ledger, so that each acceptance names exactly the policy that it fulfilled.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from datasetops.errors import SchemaError
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.manifest.commit import get_object, put_object
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema.model import Count, Name, Record, Text
from datasetops.schema.yamlfile import read_file, read_yaml, validated

Level = Literal["low", "medium", "high"]
Share = Annotated[float, Field(gt=0, lt=1)]


class QaRule(Record):
    """A QA plan of exactly this version must have been accepted, with at least this claim, in at most so many attempts."""

    pass_rate: Annotated[Share, Field(alias="pass")] = 0.95
    confidence: Share = 0.95
    max_attempts: Count = 3


class FindingsRule(Record):
    """No open finding of severity `at` or higher. `checks` must have run over the whole version; all that it says unless
    told. Findings of `ignore` do not count."""

    at: Level = "high"
    checks: tuple[Name, ...] = ()
    ignore: tuple[Name, ...] = ()


class CoverageRule(Record):
    """Every slice value of the schema has its `min_count`; `min_per_class` annotations of each class in use, and
    `min_per_class_in` so many in each split that is named."""

    slices: bool = True
    min_per_class: Count | None = None
    min_per_class_in: dict[Name, Count] = Field(default_factory=dict)


class RightsRule(Record):
    """Every sample names one, one of `allowed` where that is given."""

    allowed: tuple[Name, ...] = ()


class ExpiryRule(Record):
    """No sample's `expires_at` has passed, or will within `days`."""

    days: Annotated[int, Field(ge=0)] = 0


class SplitRule(Record):
    """These splits are as they were in the last accepted version, unless their change was given a reason (--unseal)."""

    splits: tuple[Name, ...] = ("test",)


class Policy(Record):
    """What `dsops accept` asks for. `description` is for people."""

    name: Name
    description: Text = ""
    qa: QaRule | None = None
    findings: FindingsRule | None = None
    coverage: CoverageRule | None = None
    leakage: bool = False
    license: RightsRule | None = None
    consent: RightsRule | None = None
    expiry: ExpiryRule | None = None
    guide: bool = False
    test_split: SplitRule | None = None
    reviewer_is_not_author: bool = False
    migrations_finished: bool = False

    @cached_property
    def digest(self) -> str:
        return sha256_hex(self.canonical_bytes())

    def canonical_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the parts that are asked for."""
        own = [name for name in type(self).model_fields if name not in ("name", "description")]
        return tuple(name for name in own if getattr(self, name))


def load_policy(source: str | Path) -> Policy:
    """Read a policy from a YAML file, or the packaged one by the name `default`. Raises SchemaError with line and field."""
    if str(source) == "default":
        data = resources.files("datasetops.gate").joinpath("default.yaml").read_bytes()
        return validated(Policy, read_yaml(data, "default.yaml"))
    remedy = "Name a YAML file, or the packaged policy: default."
    data = read_file(Path(source), noun="policy", remedy=remedy)
    policy = validated(Policy, read_yaml(data, str(source)))
    if not policy.rules:
        raise SchemaError(
            f"{source}: the policy asks for nothing.", remedy="Name at least one rule: dsops policy show."
        )
    return policy


def set_policy(repository: Repository, policy: Policy) -> None:
    """Make it the repository's policy from now on."""
    digest = put_object(repository.store, "policies", policy.canonical_bytes())
    actor = repository.settings.actor
    repository.ledger.record(Event("policy", actor, outputs={"policy": digest}, parameters={"name": policy.name}))


def current_policy(repository: Repository) -> Policy:
    """The policy that was set last, the packaged one before that."""
    for entry in repository.ledger.backwards():
        if entry.event.kind == "policy":
            data = get_object(repository.store, "policies", str(entry.event.outputs["policy"]))
            return Policy.model_validate_json(data)
    return load_policy("default")
