"""The acceptance policy: what a version must show before anything is trained on it for production.

A YAML file; a part that is left out is not asked for. Policies are kept by their digest, and setting one is an event of
the ledger, so that each acceptance names exactly the policy that it fulfilled.
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field

from datasetops.errors import SchemaError
from datasetops.ledger import Event
from datasetops.manifest import Repository
from datasetops.manifest.commit import get_object, put_object
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema.model import Count, Name, Record, Text
from datasetops.schema.yamlfile import read_file, read_yaml, validated

EVENT: Final = "policy"
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


class ResidencyRule(Record):
    """Every sample says where it may be kept, and it is one of `allowed`. `key`: a column of samples or a key of their
    metadata."""

    key: Name = "residency"
    allowed: Annotated[tuple[Name, ...], Field(min_length=1)]


class SplitRule(Record):
    """These splits are as they were in the last accepted version, unless their change was given a reason (--unseal)."""

    splits: tuple[Name, ...] = ("test",)


class Rules(Record):
    """A policy: fields that are not given are not asked for. `description` is for people."""

    name: Name
    description: Text = ""

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


P = TypeVar("P", bound=Rules)


class Policy(Rules):
    """What `dsops accept` asks for."""

    qa: QaRule | None = None
    findings: FindingsRule | None = None
    coverage: CoverageRule | None = None
    leakage: bool = False
    license: RightsRule | None = None
    consent: RightsRule | None = None
    expiry: ExpiryRule | None = None
    residency: ResidencyRule | None = None
    guide: bool = False
    test_split: SplitRule | None = None
    reviewer_is_not_author: bool = False
    migrations_finished: bool = False

    def canonical_bytes(self) -> bytes:
        """Without a residency that is not asked for, as in policies from before there was one: their digests stay."""
        raw = self.model_dump(mode="json", by_alias=True)
        return canonical_json({name: value for name, value in raw.items() if name != "residency" or value is not None})


def load_policy(source: str | Path) -> Policy:
    """Read a policy from a YAML file, or the packaged one by the name `default`. Raises SchemaError with line and field."""
    return read_policy(Policy, source, "datasetops.gate")


def set_policy(repository: Repository, policy: Policy) -> None:
    """Make it the repository's policy from now on."""
    keep_policy(repository, policy, EVENT)


def current_policy(repository: Repository) -> Policy:
    """The policy that was set last, the packaged one before that."""
    return kept_policy(repository, Policy, EVENT) or load_policy("default")


def read_policy(kind: type[P], source: str | Path, package: str) -> P:
    """A policy of a kind from a YAML file, or by the name `default` the one of a package. One without `name` is called by
    its file's stem. Raises SchemaError."""
    if str(source) == "default":
        data = resources.files(package).joinpath("default.yaml").read_bytes()
        return validated(kind, read_yaml(data, "default.yaml"))
    remedy = "Name a YAML file, or the packaged policy: default."
    document = read_yaml(read_file(Path(source), noun="policy", remedy=remedy), str(source))
    if isinstance(document.value, dict):
        document.value.setdefault("name", Path(source).stem)
    policy = validated(kind, document)
    if not policy.rules:
        raise SchemaError(
            f"{source}: the policy asks for nothing.", remedy="Name at least one rule: dsops policy show."
        )
    return policy


def keep_policy(repository: Repository, policy: Rules, event: str) -> None:
    """Keep a policy, and note in the ledger that it holds from now on."""
    digest = put_object(repository.store, "policies", policy.canonical_bytes())
    actor = repository.settings.actor
    repository.ledger.record(Event(event, actor, outputs={"policy": digest}, parameters={"name": policy.name}))


def kept_policy(repository: Repository, kind: type[P], event: str) -> P | None:
    """The policy that such an event set last; None where none did."""
    for entry in repository.ledger.backwards():
        if entry.event.kind == event:
            return kind.model_validate_json(
                get_object(repository.store, "policies", str(entry.event.outputs["policy"]))
            )
    return None
