"""Run benchmarks one after the other, keep what each prints, and write what has a peer into one table of docs/benchmarks.md.

    python benchmarks/run.py                                      # all of them, at sizes that take an hour together
    python benchmarks/run.py --full                               # each at its own size: many hours
    python benchmarks/run.py sampling "versions --rows 100000"    # these, with options of theirs

What a script prints goes to benchmarks/results/. In the table, rows of benchmarks that were not run this time, or that
failed, stay as they are, each with the date of its own run.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import ratios

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
SHORTER = {  # what keeps a run of all within an hour
    "boxes": "--draws 2",
    "embedding": "--images 400 --rounds 3",
    "few_shot": "--draws 1",
    "inference": "--images 160 --small-images 2000 --rounds 2",
    "label_noise": "--draws 1",
    "label_studio": "--push 2000 --pull 5000",
    "neighbours": "--items 20000",
    "provenance": "--samples 100000 --versions 50",
    "review_server": "--findings 200000",
    "soak": "--minutes 1 --rows 100000",
    "training": "--rows 20000",
    "versions": "--rows 100000 --rows 1000000",
}
PACKAGES = ("dsops", "duckdb", "numpy", "onnxruntime", "pandas", "pyarrow", "torch")


def scripts() -> list[str]:
    """Names of what can be run here; the other modules are parts of these."""
    found = (path for path in HERE.glob("*.py") if path.name != Path(__file__).name)
    return sorted(path.stem for path in found if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8"))


def run(name: str, options: list[str], results: Path) -> bool:
    """Whether the script ended well; its output and figures lie in `results`."""
    figures = results / f"{name}.jsonl"
    figures.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    environment = os.environ | {ratios.FILE: str(figures)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    print(done.stdout, flush=True)
    (results / f"{name}.md").write_text(done.stdout, encoding="utf-8")
    return done.returncode == 0


def machine(load: float) -> str:
    """One sentence each on the machine and the versions."""
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    beside = ", of this run or of other work beside it" if load > 0.5 * cores else ""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"Last run on {date.today()}: {cores} cores, {memory:.0f} GiB of memory, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}; load {load:.1f} when it began{beside}.\n"
        f"Versions: {versions}."
    )


def with_table(page: str, rows: list[ratios.Row], about: str) -> str:
    """The page with what is between its marks written anew; rows of scripts that have none now stay."""
    before, _, rest = page.partition(BEGIN)
    old, _, after = rest.partition(END)
    new = {row.script for row in rows}
    kept = [row for row in ratios.rows_of(old) if row.script not in new]
    return f"{before}{BEGIN}\n\n{about}\n\n{ratios.table([*rows, *kept])}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="NAME", help="with options: 'NAME --option VALUE'")
    parser.add_argument("--full", action="store_true", help="each at its own size, unless options are given with it")
    asked = parser.parse_args()
    chosen = [shlex.split(item) for item in asked.scripts] or [[name] for name in scripts()]
    unknown = [item[0] for item in chosen if item[0] not in scripts()]
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(scripts())}")
    results, load, failed = HERE / "results", os.getloadavg()[0], []
    results.mkdir(exist_ok=True)
    rows: list[ratios.Row] = []
    for number, (name, *given) in enumerate(chosen, start=1):
        options = given or ([] if asked.full else shlex.split(SHORTER.get(name, "")))
        print(f"== {shlex.join([name, *options])} ({number} of {len(chosen)})", flush=True)
        started = time.monotonic()
        if run(name, options, results):
            rows += ratios.read(results / f"{name}.jsonl", name, str(date.today()))
        else:
            failed.append(name)
        print(f"== {name}: {'failed after ' if name in failed else ''}{time.monotonic() - started:.0f} s\n", flush=True)
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), rows, machine(load)), encoding="utf-8")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
