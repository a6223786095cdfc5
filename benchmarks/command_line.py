"""Start-up: `dsops --help` and `dsops log` of a repository with 100 versions, beside a bare interpreter; best of many."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from datasetops.manifest import Change, Repository
from datasetops.schema import load_schema

ROUNDS = 15
DSOPS = str(Path(sys.executable).parent / "dsops")


def best(command: list[str]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository.init(folder, load_schema("digits"))
        for number in range(100):
            rows = [{"sample_id": f"s{number}", "uri": f"{number}.png"}]
            repository.commit(Change(samples=rows), message=f"sample {number}")
        answer = {
            "python_s": best([sys.executable, "-c", "pass"]),
            "help_s": best([DSOPS, "--help"]),
            "log_s": best([DSOPS, "-C", folder, "log"]),
        }
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    print("| python -c pass, s | dsops --help, s | dsops log (100 versions), s |\n|---|---|---|")
    print(f"| {answer['python_s']:.3f} | {answer['help_s']:.3f} | {answer['log_s']:.3f} |")


if __name__ == "__main__":
    main()
