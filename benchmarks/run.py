"""Run every benchmark and write its table to benchmarks/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for script in sorted(HERE.glob("*.py")):
        if script.name == Path(__file__).name:
            continue
        print(f"== {script.stem}", flush=True)
        done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        (results / f"{script.stem}.md").write_text(done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
