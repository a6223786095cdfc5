"""The model policy: what a model must show before it goes into production. Kept and set as the data gate's policy is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from datasetops.gate.policy import Rules, keep_policy, kept_policy, read_policy
from datasetops.manifest import Repository
from datasetops.schema.model import Count, Name, Positive, Record

EVENT: Final = "model_policy"
Loss = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "int8"]


class TrainedOnRule(Record):
    """The model was trained and is judged on versions that are accepted; where `experiments` are allowed, on any."""

    experiments: bool = False


class JudgedOnRule(Record):
    """The split that the other rules judge on; no sample or copy of one was trained or validated on."""

    split: Name = "test"


class ProductionRule(Record):
    """The lower end of the interval of what it has more than the model in production is not below -`not_worse_than`."""

    not_worse_than: Loss = 0.01


class SlicesRule(Record):
    """No slice loses `not_worse_than` or more against the model in production where the interval leaves out chance; none
    that is large enough to judge is below `least`."""

    not_worse_than: Loss | None = 0.05
    least: Part | None = None


class CalibrationRule(Record):
    """Expected calibration error at most."""

    ece: Part = 0.1


class RegressionRule(Record):
    """All items of these sets are answered right; of all sets that there are where none is named."""

    sets: tuple[Name, ...] = ()


class ParityRule(Record):
    """Largest difference of a score, and least share of images of which model and exported file say the same."""

    score: Part = 0.01
    same: Part = 0.99


class LatencyRule(Record):
    """95th percentile of a call with a batch of so many images, as it was measured when the model was exported."""

    p95_ms: Positive
    batch: Count = 1


class MemoryRule(Record):
    """In MiB at most."""

    mib: Positive


class ModelPolicy(Rules):
    """What `dsops promote` asks for. `metric`: least values of numbers of an evaluation. `precision`: the exported file
    that is to be used, which parity, latency, size and memory are about."""

    trained_on: TrainedOnRule | None = None
    judged_on: JudgedOnRule = JudgedOnRule()
    metric: dict[Name, float] = Field(default_factory=dict)
    against_production: ProductionRule | None = None
    slices: SlicesRule | None = None
    critical: bool = False
    calibration: CalibrationRule | None = None
    regression: RegressionRule | None = None
    parity: ParityRule | None = None
    latency: LatencyRule | None = None
    size: MemoryRule | None = None
    memory: MemoryRule | None = None
    precision: Precision = "float32"

    @property
    def rules(self) -> tuple[str, ...]:
        """Names of the parts that are asked for."""
        return tuple(name for name in super().rules if name != "precision")


def load_model_policy(source: str | Path) -> ModelPolicy:
    """From a YAML file, or the packaged one by the name `default`. Raises SchemaError with line and field."""
    return read_policy(ModelPolicy, source, "datasetops.promotion")


def set_model_policy(repository: Repository, policy: ModelPolicy) -> None:
    """Make it the repository's policy for models from now on."""
    keep_policy(repository, policy, EVENT)


def current_model_policy(repository: Repository) -> ModelPolicy:
    """The policy that was set last, the packaged one before that."""
    return kept_policy(repository, ModelPolicy, EVENT) or load_model_policy("default")
