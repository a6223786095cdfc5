"""From where on a monitor raises an alarm: a YAML file, the packaged one, or single limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from datasetops.errors import did_you_mean
from datasetops.gate.policy import Rules, Share, read_policy

Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class MonitorPolicy(Rules):
    """Limits; what is not given is not watched. What can come about by chance has to be surely beyond it."""

    told_apart: Annotated[float, Field(gt=0.5, le=1)] | None = None
    stability: Size | None = None
    class_shift: Size | None = None
    confidence_shift: Share | None = None
    missing_slices: bool = False
    accuracy_drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    calibration_gap: Share | None = None
    unreadable: Annotated[float, Field(ge=0, lt=1)] | None = None


def load_policy(source: str | Path = "default", limits: Mapping[str, str] | None = None) -> MonitorPolicy:
    """A policy from a YAML file, or the packaged `default`, with single limits changed; "none" takes one away.

    Raises SchemaError with line and field, ValueError for a limit that there is not.
    """
    policy = read_policy(MonitorPolicy, source, "datasetops.monitor")
    if not limits:
        return policy
    known = [name for name in MonitorPolicy.model_fields if name not in ("name", "description")]
    for name in limits:
        if name not in known:
            raise ValueError(f"--limit: {name!r} is none. {did_you_mean(name, known, noun='limits')}")
    changed: dict[str, Any] = {name: None if value.lower() == "none" else value for name, value in limits.items()}
    if "missing_slices" in changed and changed["missing_slices"] is None:
        changed["missing_slices"] = False
    try:
        return MonitorPolicy.model_validate(policy.model_dump() | changed)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--limit {first['loc'][0]}: {first['msg']}; got {first['input']!r}") from None
