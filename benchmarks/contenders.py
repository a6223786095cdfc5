"""Run each contender of a benchmark in a process of its own: its seconds, its memory and what it found.

`cpu_seconds` are those of all threads and child processes: on a machine that others use too they vary less than seconds.
Memory is told twice, from /proc/self/status. `peak_rss_mib` is the high-water mark of the process (VmHWM; ru_maxrss
would take over the parent's); it holds the input, and pages of mapped files for as long as they stay resident.
`extra_mib` is how far anonymous memory (RssAnon, looked at every 10 ms) rose while the contender ran: what it allocated
itself, without input and file pages.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ratios import record

Row = dict[str, Any]


def options_of(parser: argparse.ArgumentParser, compete: Callable[[argparse.Namespace], Any]) -> argparse.Namespace:
    """The options, with those that every comparison has. A process that runs one contender prints its result and ends."""
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(compete(options)))
        sys.exit()
    return options


def measure(work: Callable[[], Mapping[str, Any]]) -> Row:
    """In the contender's process: run `work` once; what it returns is put beside its seconds and MiB."""
    before = status_mib("RssAnon")
    peak, stop = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.01):
            peak = max(peak, status_mib("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), _cpu_seconds()
    try:
        told = work()
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    finally:
        stop.set()
        watcher.join()
    rss, extra = status_mib("VmHWM"), max(peak, status_mib("RssAnon")) - before
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_rss_mib": rss, "extra_mib": extra, **told}


def race(script: str, names: Sequence[str], arguments: Sequence[str], *, rounds: int) -> list[Row]:
    """In the parent: every contender in turn, `rounds` times over; the quickest of each counts."""
    runs = [[_run(script, name, arguments) for name in names] for _ in range(rounds)]
    return [min(several, key=lambda row: float(row.get("seconds", np.inf))) for several in zip(*runs, strict=True)]


def compare(
    rows: list[Row],
    what: str,
    ours: str,
    theirs: str,
    peer: str,
    *,
    figure: str = "seconds",
    unit: str = "s",
    more_is_better: bool = False,
) -> None:
    """Record a figure of two contenders, if both were run and have it; `peer` as in `ratios.record`."""
    found = {row["contender"]: row[figure] for row in rows if row.get(figure) is not None}
    if ours in found and theirs in found:
        record(what, found[ours], peer, found[theirs], unit, more_is_better=more_is_better)


def _run(script: str, contender: str, arguments: Sequence[str]) -> Row:
    """`script --contender NAME …`, which prints what `measure` returned as its last line."""
    command = [sys.executable, script, "--contender", contender, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"contender": contender, "failed": f"exit status {done.returncode}"}
    return {"contender": contender, **json.loads(done.stdout.splitlines()[-1])}


def report(setting: Row, rows: list[Row], *, as_json: bool) -> None:
    """One JSON document, or a Markdown table."""
    setting = {
        **setting,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    if as_json:
        print(json.dumps({"setting": setting, "contenders": rows}, indent=1))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items()), end="\n\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("|", " | ".join(columns), "|")
    print("|", " | ".join("---" for _ in columns), "|")
    for row in rows:
        print("|", " | ".join(_cell(row.get(name, "")) for name in columns), "|")


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
