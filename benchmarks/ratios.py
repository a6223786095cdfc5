"""Figures of dsops beside those of peers: benchmarks leave them as JSON lines, run.py makes one table of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FILE = "DSOPS_BENCH_RATIOS"
COLUMNS = ("what", "unit", "dsops", "peer", "peer is", "times as good", "script", "date")


@dataclass(frozen=True)
class Row:
    """A comparison. `times` is above 1 where dsops is the better one; figures are rounded as they are shown."""

    what: str
    unit: str
    ours: str
    theirs: str
    peer: str  # with its version
    times: float
    script: str
    date: str


def record(what: str, ours: float, peer: str, theirs: float, unit: str, *, more_is_better: bool = False) -> None:
    """Append a comparison to the file that DSOPS_BENCH_RATIOS names; nothing without it.

    `peer` begins with the name of its package, of which the table tells the version: "faiss-cpu, IndexFlatIP".
    """
    if FILE not in os.environ:
        return
    line = {"what": what, "ours": ours, "peer": peer, "theirs": theirs, "unit": unit, "more_is_better": more_is_better}
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path, script: str, date: str) -> list[Row]:
    """What a script recorded; no rows if it left no file."""
    if not path.exists():
        return []
    return [_row(line, script, date) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: Iterable[Row]) -> str:
    """Markdown: what is behind its peer first, furthest behind at the top and in bold; then by ratio."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row.times, row.script, row.what, row.peer)):
        times = f"**{row.times:g}**" if row.times < 1 else f"{row.times:g}"
        cells = row.what, row.unit, row.ours, row.theirs, row.peer, times, f"`{row.script}.py`", row.date
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows_of(markdown: str) -> list[Row]:
    """The rows of such a table, so that those of benchmarks that were not run again can stay."""
    rows = []
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == len(COLUMNS) and cells[6].endswith(".py`"):
            *first, times, script, date = cells
            what, unit, ours, theirs, peer = first
            rows.append(Row(what, unit, ours, theirs, peer, float(times.strip("*")), script[1:-4], date))
    return rows


def _row(line: str, script: str, date: str) -> Row:
    told = json.loads(line)
    better, worse = (told["ours"], told["theirs"]) if told["more_is_better"] else (told["theirs"], told["ours"])
    name, comma, setting = told["peer"].partition(",")
    with suppress(PackageNotFoundError):  # some are no package: a bare loop, say
        name = f"{name} {version(name)}"
    times = float(f"{better / worse:.3g}")
    return Row(
        told["what"],
        told["unit"],
        _figure(told["ours"]),
        _figure(told["theirs"]),
        name + comma + setting,
        times,
        script,
        date,
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
