"""From an empty folder to an erased sample: whatever write a command is killed at, it finishes when it is run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

POINTS = 20


@pytest.mark.server
@pytest.mark.slow
def test_any_command_of_the_loop_may_be_killed_at_any_write(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("kill_points.py")),
        str(tmp_path / "loop"),
        str(POINTS),
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["faults"] == []
    assert sum(told["points"].values()) + told["missed"] == POINTS
    assert sum(told["points"].values()) >= POINTS // 2
