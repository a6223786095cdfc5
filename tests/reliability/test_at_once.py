"""Eight processes with different commands on one repository: none loses anything, none ends with more than a conflict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 10


@pytest.mark.server
@pytest.mark.slow
def test_eight_processes_with_different_commands_at_once(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("at_once.py")), str(tmp_path / "set"), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["faults"] == []
    assert all(told["ends"].values())
    assert told["events"]["commit"] >= 1
