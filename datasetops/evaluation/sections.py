"""What a report of an evaluation shows, as tables and charts, for whatever it is written in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from datasetops.audits import charts
from datasetops.evaluation.calibration import BINS
from datasetops.evaluation.judged import verdict_of

_CURVES: Final = 4  # classes whose curves are drawn: as many as a chart has room to name
_GRID: Final = 16  # classes up to which the whole confusion matrix is drawn
_LISTED: Final = 40  # slices and confusions in a table

KNOWN: Final = {
    "AP": "COCO's average precision, mean over overlaps from .5 to .95 and over classes",
    "pooled_AP": "average precision of all classes in one order, which also holds for parts of the data",
    "accuracy": "the share of samples of which all is right",
    "brier": "Brier score: the mean squared distance of the probabilities from the truth, 0 at best",
    "cer": "edits by true characters, of all texts of an image together",
    "ece": "expected calibration error: how far confidence is from being right, on average",
    "macro_f1": "the mean of the classes' F1, each class alike",
    "macro_precision": "the mean of the classes' precision: how much of what is called so is so",
    "macro_recall": "the mean of the classes' recall: how much of what is so is called so",
    "mean_average_precision": "the mean of the classes' areas below precision over recall",
    "mean_roc_area": "the mean chance that an image of a class gets a higher score for it than another image",
    "nll": "negative log-likelihood: minus the mean logarithm of the true class's probability, 0 at best",
    "weighted_f1": "the mean of the classes' F1, each by its number of images",
    "weighted_precision": "the mean of the classes' precision, each by its number of images",
    "weighted_recall": "the mean of the classes' recall, each by its number of images",
}
_NUMBER: Final = re.compile(r"[-+−]?[\d.,]+ ?%?( to [-+−]?[\d.,]+ ?%?)?|–|")


@dataclass(frozen=True)
class Section:
    """A heading, and below it charts (see audits.charts) and a table of texts."""

    title: str
    header: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""
    charts: Sequence[dict[str, Any]] = field(default_factory=tuple)

    def is_numbers(self, column: int) -> bool:
        """Whether a column has nothing but numbers, which stand to the right."""
        return all(_NUMBER.fullmatch(str(row[column])) for row in self.rows)


def sections(info: Mapping[str, Any]) -> list[Section]:
    """In the order in which a reader asks: how good, where not, on what it must not fail, why, and can it be believed."""
    makers = (_numbers, _critical, _slices, _classes, _confusions, _error_kinds, _calibration)
    return [section for maker in makers if (section := maker(info)) is not None]


def shown(value: Any, *, digits: int = 4) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def interval(item: Mapping[str, Any] | None) -> str:
    if item is None or item["low"] is None:
        return ""
    return f"{item['low']:.4f} to {item['high']:.4f}"


def _numbers(info: Mapping[str, Any]) -> Section:
    rows = [
        (name, shown(value), interval(info["intervals"].get(name)), KNOWN.get(name, ""))
        for name, value in info["metrics"].items()
    ]
    draws = info["parameters"]["resamples"]
    note = f"Intervals: 95 %, by {draws:,} bootstrap draws of groups of samples that belong together."
    if "pooled_AP" in info["metrics"]:
        note += " AP, a mean over classes, has none: pooled_AP stands for it there."
    return Section("Numbers", ("", "value", "interval", "what it is"), rows, note)


def _critical(info: Mapping[str, Any]) -> Section | None:
    rates = info["details"].get("critical")
    if not rates:
        return None
    rows = [
        (
            rate["class"],
            rate["rate"].upper(),
            shown(rate["value"]),
            interval(rate),
            f"{rate['errors']:,} of {rate['of']:,}",
            f"{rate['target']:g}",
            verdict_of(rate),
        )
        for rate in rates
    ]
    note = (
        "Each bound holds with 95 %, samples of a group counting as copies of each other: independent items are groups. "
        "Met: even the upper bound is allowed. Open: too few items to tell."
    )
    header = ("class", "rate", "value", "bounds", "errors", "allowed", "verdict")
    return Section("Critical classes", header, rows, note)


def _slices(info: Mapping[str, Any]) -> Section | None:
    for name, found in info["slices"].items():
        if found:
            rows = [
                (
                    item["name"],
                    *(shown(item[column]) for column in ("items", "groups", "value")),
                    interval(item),
                    shown(item["shrunk"]),
                    "too few to rank" if item["small"] else "",
                )
                for item in found[:_LISTED]
            ]
            told = [item for item in found if not item["small"] and item["value"] is not None][:15]
            drawn = [charts.bars(f"Worst slices by {name}", {item["name"]: round(item["value"], 4) for item in told})]
            more = f" The worst {_LISTED} of {len(found)}." if len(found) > _LISTED else ""
            note = (
                "Ranked by the value drawn towards that of all samples, the more the fewer groups a slice has: "
                f"what stands first is worse by more than luck.{more}"
            )
            header = ("slice", "samples", "groups", name, "interval", "ranked by", "")
            return Section("Slices, worst first", header, rows, note, drawn if told else ())
    return None


def _classes(info: Mapping[str, Any]) -> Section | None:
    entries = [item for item in info["details"].get("classes", ()) if item["examples"]]
    if not entries:
        return None
    key = "AP" if "AP" in entries[0] else "f1"
    entries = sorted(entries, key=lambda item: (item[key] is None, item[key] or 0.0))
    names = tuple(name for name in entries[0] if name != "name")
    curves = info["details"].get("curves", {})
    worst = [item["name"] for item in entries[:_CURVES] if item["name"] in curves]
    drawn = []
    titles = {
        "precision_recall": ("Precision over recall", "recall", "precision"),
        "roc": ("ROC", "false positive rate", "true positive rate"),
    }
    for kind, (title, across, up) in titles.items():
        series = {name: points for name in worst if (points := curves[name].get(kind))}
        if series:
            note = f"The worst {len(series)} of {len(entries)} classes." if len(entries) > len(series) else ""
            drawn.append(charts.scatter(title, series, across=across, up=up, joined=True, note=note))
    rows = [(item["name"], *(shown(item[name], digits=3) for name in names)) for item in entries]
    return Section("Classes, worst first", ("class", *(name.replace("_", " ") for name in names)), rows, charts=drawn)


def _confusions(info: Mapping[str, Any]) -> Section | None:
    found = info["details"].get("confusions")
    if not found:
        return None
    rows = [(item["truth"], item["predicted"], shown(item["count"]), f"{item['share']:.1%}") for item in found]
    drawn = []
    names = [item["name"] for item in info["details"]["classes"]]
    if len(names) <= _GRID:
        drawn.append(charts.grid("Truth (rows) and what the model said", names, names, info["details"]["confusion"]))
    return Section("What is taken for what", ("truth", "said", "items", "share of the truth"), rows, charts=drawn)


def _error_kinds(info: Mapping[str, Any]) -> Section | None:
    found = info["details"].get("error_kinds")
    if not found:
        return None
    rows = [(name, shown(item["count"]), shown(item["cost"])) for name, item in found["kinds"].items()]
    rows += [(name.replace("_", " "), "", shown(found[name])) for name in ("false_positives", "false_negatives")]
    drawn = charts.bars(
        "AP50 that mending would add", {name: round(item["cost"], 4) for name, item in found["kinds"].items()}
    )
    note = "As TIDE defines them (Bolya et al., ECCV 2020): what AP50 gains where all errors of one kind are mended. "
    note += "All boxes count here, however low their score; the list of errors below has those from the threshold on."
    return Section("What each kind of error costs", ("kind", "errors", "AP50 lost"), rows, note, [drawn])


def _calibration(info: Mapping[str, Any]) -> Section | None:
    found = info["details"].get("calibration")
    if not found or not found["bins"]:
        return None
    scaled = info["details"].get("temperature")
    series = {"as it is": [(one["confidence"], one["accuracy"]) for one in found["bins"]]}
    if scaled:
        series["scaled"] = [(one["confidence"], one["accuracy"]) for one in scaled["after"]["bins"]]
    series["ideal"] = [(0.0, 0.0), (1.0, 1.0)]
    names = ("ece", "ece_equal_mass", "brier", "nll")
    rows = [(name, shown(found[name]), shown(scaled["after"][name]) if scaled else "–") for name in names]
    note = f"ECE is over {BINS} bins of equal width, ece_equal_mass over {BINS} of as many items each."
    if scaled:
        note += f" Temperature {scaled['temperature']:.2f}; each half of the samples is scaled by what the other one taught."
    drawn = charts.scatter("Reliability", series, across="confidence", up="share that is right", joined=True)
    return Section("Can its confidence be believed?", ("", "as it is", "scaled"), rows, note, [drawn])
