"""What comes out when a model's answers are held against what people said, whatever kind they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from datasetops.evaluation.classification import CriticalRate
from datasetops.evaluation.regions import Ints
from datasetops.evaluation.resampling import Metric
from datasetops.schema import LabelSchema
from datasetops.schema.model import Critical

REGION: Final = ("x1", "y1", "x2", "y2", "geometry")  # where it is: what was found, or missed; geometry of masks only
FAILURES: Final = ("sample_id", "annotation_id", "error", "truth", "predicted", "score", *REGION, "note")


@dataclass(frozen=True)
class Judged:
    """How right a model is on N samples, those that are `judged` of all that were chosen.

    `numbers` by name, and `headline`, the name of the one that stands for all; `details` are plain values. `metrics`: what
    has intervals, and the first of them slices, as a `Metric` over the N samples; `smaller`: numbers that are better the
    smaller they are. `things`: a row for each thing that people labeled, and whether it was `right`, which two models can
    be compared on; with REGION where it is somewhere in its image. `failures` has the columns FAILURES, the surest errors
    first. `resamples`: draws of an interval, where the usual number is too slow.
    """

    kind: str
    judged: Ints
    metrics: Mapping[str, Metric]
    numbers: Mapping[str, float]
    details: Mapping[str, Any]
    things: pd.DataFrame
    failures: pd.DataFrame
    headline: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    smaller: tuple[str, ...] = ()
    resamples: int | None = None


def critical_targets(schema: LabelSchema) -> dict[str, Critical]:
    return {item.name: item.critical for item in schema.classes if item.critical is not None and not item.deprecated}


def plain_rate(rate: CriticalRate) -> dict[str, Any]:
    own = rate.rate
    told = {"class": rate.name, "rate": rate.kind, "value": own.value, "low": own.low, "high": own.high}
    counts = {"errors": own.right, "of": own.count, "target": rate.target}
    return told | counts | {"verdict": rate.verdict, "more": rate.more if rate.verdict == "open" else None}


def verdict_of(rate: Mapping[str, Any]) -> str:
    """The verdict on a `plain_rate`, and of an open one what would settle it."""
    if rate["verdict"] != "open" or "more" not in rate:  # records of older releases do not tell
        return str(rate["verdict"])
    if rate["more"] is None:
        return "open; at this rate no number of items would show it to be met"
    return f"open; at this rate about {rate['more']:,} more independent items would show it to be met"


def named(names: tuple[str, ...], codes: Ints) -> Any:
    return np.array([*names, None], dtype=object)[codes]


def failures_table(failures: pd.DataFrame) -> pd.DataFrame:
    """With all columns of FAILURES; of classes the surest errors first."""
    frame = failures.reindex(columns=list(FAILURES))
    if len(frame) and frame["x1"].isna().all() and frame["score"].notna().any():
        frame = frame.sort_values("score", ascending=False, kind="stable")
    return frame.reset_index(drop=True)
