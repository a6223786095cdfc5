"""What stands on a scorecard: each figure's meaning, unit and direction, and the command that makes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Figure:
    """`unit`: share, score, ms, per second, MiB, hours or money. `better`: high or low.

    `fill` is the command that makes it, with {version} and {model}.
    """

    name: str
    title: str
    unit: str
    better: str
    help: str
    fill: str


@dataclass(frozen=True)
class Cell:
    """A figure of one version or model. `value` is None where nothing is recorded, and then `fill` is the command for it,
    "" where there is none.

    `low` and `high` bound it where that is known; `note` says what it is about.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    fill: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_EVALUATE: Final = "dsops evaluate {model} {version}"
_EXPORT: Final = "dsops export-model {model} --to DIR"

FIGURES: Final = (
    Figure("metric", "headline metric", "score", "high", "Headline metric of the evaluation.", _EVALUATE),
    Figure(
        "gain",
        "against the baseline",
        "score",
        "high",
        "Headline metric less that of the baseline on the same samples; above 0 is better than it.",
        "dsops compare {baseline} {model} {version}",
    ),
    Figure(
        "robustness",
        "worst scenario / all",
        "share",
        "high",
        "Headline metric in the worst slice with enough samples, as a share of that over all.",
        _EVALUATE,
    ),
    Figure(
        "fpr", "false positive rate", "share", "low", "Worst critical class, else the mean over classes.", _EVALUATE
    ),
    Figure(
        "fnr", "false negative rate", "share", "low", "Worst critical class, else the mean over classes.", _EVALUATE
    ),
    Figure("ece", "calibration error (ECE)", "share", "low", "Expected calibration error.", _EVALUATE),
    Figure("latency_p50", "latency, median", "ms", "low", "Milliseconds a call of one image, median.", _EXPORT),
    Figure("latency_p95", "latency, 95th percentile", "ms", "low", "Milliseconds a call of one image, p95.", _EXPORT),
    Figure("throughput", "throughput", "per second", "high", "Images a second at the best batch size.", _EXPORT),
    Figure("size", "size", "MiB", "low", "Exported file, in MiB.", _EXPORT),
    Figure(
        "cost_per_1000",
        "cost of 1,000 inferences",
        "money",
        "low",
        "Price of an hour, spread over what the throughput allows, for 1,000 images.",
        "dsops scorecard --price-per-hour PRICE",
    ),
    Figure(
        "reproducibility",
        "reproducibility rate",
        "share",
        "high",
        "Share of the reproductions whose metrics agreed.",
        "dsops train --reproduce {model}",
    ),
    Figure(
        "cycle_time",
        "version to evaluated model",
        "hours",
        "low",
        "Hours from the commit of the version to the first evaluation of a model trained on it.",
        _EVALUATE,
    ),
    Figure(
        "pipeline_success",
        "pipeline success rate",
        "share",
        "high",
        "Share of recorded steps that can fail (QA, acceptance, reproduction, promotion) and did not.",
        "dsops accept {version}",
    ),
    Figure(
        "qa_pass",
        "QA pass rate",
        "share",
        "high",
        "Share of the checked items that were right, of the newest QA result.",
        "dsops qa plan {version}",
    ),
    Figure(
        "coverage_index",
        "coverage index",
        "share",
        "high",
        "How far slices, their pairs and classes within them have the samples that the schema asks for.",
        "dsops audit {version} --check coverage",
    ),
    Figure(
        "regression_pass",
        "regression pass rate",
        "share",
        "high",
        "Share of the regression set of known failures that the model gets right.",
        "dsops regress check NAME model:{model}",
    ),
)

_UNITS: Final = {"ms": " ms", "per second": " /s", "MiB": " MiB"}


def shown(figure: Figure, value: float | None) -> str:
    """A value with its unit, for people."""
    if value is None:
        return "–"
    match figure.unit:
        case "share":
            return f"{100 * value:.1f} %"
        case "score":
            return f"{value:+.4f}" if figure.name == "gain" else f"{value:.4f}"
        case "hours":
            return (
                f"{value * 60:.2g} min" if value < 2 else f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} days"
            )
        case "money":
            return f"{value:.4g}"
    return f"{value:,.4g}{_UNITS[figure.unit]}"
