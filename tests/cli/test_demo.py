"""The demo, as `make demo` runs it: from images in folders to an accepted version and its evidence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from datasetops.cli.main import app

pytestmark = pytest.mark.slow


def test_wrong_labels_are_found_mended_and_the_rest_is_proved(tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(app, ["demo", str(tmp_path / "demo"), "--images", "500", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["precision"] > 0.8
    assert answer["recall"] > 0.4
    assert answer["accepted"]
    with zipfile.ZipFile(answer["evidence"]) as pack:
        gate = json.loads(pack.read("gate.json"))
        assert {"index.html", "dataset-card.md", "approvals.json", "manifest.json"} <= set(pack.namelist())
    assert all(rule["passed"] for rule in gate["rules"])
    for words in (["verify", "--all"], ["policy", "check", answer["mended"]], ["blame", answer["mended"]]):
        shown = run.invoke(app, [*words, "-C", str(tmp_path / "demo"), "--quiet"])
        assert shown.exit_code == 0, shown.output


def test_a_demo_that_is_stopped_leaves_nothing_in_its_way(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom datasetops.cli.main import main\n"
    code += "import sys; sys.argv = ['dsops', 'demo', 'demo']; main()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "demo" / "dsops.toml").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again" in said
    assert not (tmp_path / "demo").exists()
