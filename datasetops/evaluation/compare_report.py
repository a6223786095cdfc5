"""A comparison of two models as HTML, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from datasetops.audits.record import plain
from datasetops.evaluation.compare import FLIPS, Comparison
from datasetops.evaluation.gallery import failure_groups
from datasetops.evaluation.judged import failures_table
from datasetops.evaluation.marks import FOUND, FOUND_FIRST, Mark
from datasetops.evaluation.regions import CORNERS
from datasetops.evaluation.report import in_markdown, judged_on, moment, page, report_writer
from datasetops.evaluation.sections import Section, interval, shown
from datasetops.evaluation.slices import FEWEST
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress

_LISTED: Final = 40  # slices in a table


def write_comparison(
    repository: Repository, version: Version, comparison: Comparison, out: Path, *, progress: Progress = no_progress
) -> None:
    """Write a report to a file in a folder that exists. Raises OSError where it cannot, ValueError as `report_writer`."""
    kind = report_writer(out)
    info = comparison.info
    if kind == "json":
        out.write_text(json.dumps(plain(comparison.as_dict()), indent=2, ensure_ascii=False), encoding="utf-8")
        return
    if kind == "md":
        lines = [
            f"# {info['second']} against {info['first']}",
            "",
            heading(info),
            *in_markdown(comparison_sections(info)),
        ]
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return
    flips = _as_failures(comparison.flips)
    beside = _beside(comparison.found)
    groups = {
        flip: failure_groups(repository, version, flips[flips["error"] == flip], beside=beside, progress=progress)
        for flip in FLIPS
        if flip in info["flips"]
    }
    facts = {"flipped": groups, "heading": heading(info), "drawn": "x1" in comparison.flips}
    out.write_text(page("comparison.html", info, comparison_sections(info), **facts), encoding="utf-8")


def heading(info: Mapping[str, Any]) -> str:
    """What was compared on what, and when."""
    items = info["items"]
    models = [
        f"{letter} is {info[name]}" + (f", recipe {recipe}" if recipe else "")
        for letter, name, recipe in zip("AB", ("first", "second"), info["recipes"], strict=True)
    ]
    told = [
        *models,
        f"{info['version']}, {judged_on(info)}: {items['judged']:,} of {items['chosen']:,} samples, which both judged",
        f"commit {info['commit'][:12]}",
        moment(info["time"]),
    ]
    return " · ".join(told)


def comparison_sections(info: Mapping[str, Any]) -> list[Section]:
    """Numbers, then classes, then the slices that lose a point or more by name, then the others."""
    header = ("", *names(info), "B - A", "95 % interval")
    numbers = [
        (
            name,
            shown(one["first"]),
            shown(one["second"]),
            f"{one['difference']:+.4f}",
            interval(one) or no_interval(one),
        )
        for name, one in info["metrics"].items()
    ]
    flips = info["flips"]
    told = (
        "Both models judged the same samples; differences are B minus A. "
        f"{flips.get('right to wrong', 0):,} things went from right to wrong, "
        f"{flips.get('wrong to right', 0):,} from wrong to right."
    )
    worse = [_slice(item) for item in info["slices"] if item["worse"]]
    others = [_slice(item) for item in info["slices"] if not item["worse"]]
    more = f" The first {_LISTED} of {len(others)}." if len(others) > _LISTED else ""
    columns = ("slice", "samples", *header[1:], "")
    metric = info["sliced_by"]
    found = [Section("Numbers", header, numbers, told)]
    if info["classes"]:
        rows = [
            (one["class"], f"{one['items']:,}", shown(one["first"]), shown(one["second"]), f"{one['difference']:+.4f}")
            for one in info["classes"]
        ]
        found.append(Section("Recall by class", ("class", "labeled so", *header[1:4]), rows, "What loses most first."))
    found.append(
        Section(f"Slices that lose a point or more of {metric}", columns, worse, "" if worse else "None does.")
    )
    if others:
        found.append(Section("Other slices", columns, others[:_LISTED], f"By {metric}, worst first.{more}"))
    return found


def names(info: Mapping[str, Any]) -> tuple[str, str]:
    """Short ones for columns."""
    first, second = (str(info[name]).partition("#")[0] for name in ("first", "second"))
    return f"A: {first}", f"B: {second}"


def no_interval(item: Mapping[str, Any]) -> str:
    """Why a difference has none."""
    return f"none: {item['groups']:,} independent groups, fewer than {FEWEST}" if item["small"] else "none: undefined"


def doubt(item: Mapping[str, Any]) -> str:
    """Why the difference of a slice is not to be relied on, if so."""
    return "too few to judge" if item["small"] else "" if item["sure"] else "may be chance"


def _slice(item: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (shown(item["first"]), shown(item["second"]), f"{item['difference']:+.4f}", interval(item))
    return (item["name"], f"{item['items']:,}", *numbers, doubt(item))


def _beside(found: pd.DataFrame) -> dict[str, list[Mark]]:
    """By sample what the models found, to be drawn."""
    marks: dict[str, list[Mark]] = {}
    for row in found.to_dict("records"):
        corners = tuple(float(row[name]) for name in CORNERS)
        colour = FOUND_FIRST if row["model"] == "first" else FOUND
        geometry = row["geometry"] if isinstance(row["geometry"], str) else None
        marks.setdefault(row["sample_id"], []).append(Mark(corners, geometry, colour))
    return marks


def _as_failures(flips: pd.DataFrame) -> pd.DataFrame:
    frame = flips.rename(columns={"flip": "error"})
    if "second" in frame:
        said = frame["first"].astype(object).where(frame["first"].notna(), "nothing")
        frame = frame.assign(predicted=frame["second"], note="before: " + said.astype(str))
    return failures_table(frame)
