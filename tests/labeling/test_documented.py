"""The commands of docs/label-studio.md, as a newcomer runs them, against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from label_studio_server import Annotator, Server
from pictures import write_digits

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]

ROOT = Path(__file__).parents[2]


def test_the_walk_through_ends_with_a_pulled_version(tmp_path: Path, label_studio: Server) -> None:
    shutil.copy(ROOT / "schemas" / "digits.yaml", tmp_path)
    shutil.copy(ROOT / "labeling_guides" / "digits.md", tmp_path)
    write_digits(tmp_path / "photos", 3, side=32)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = ""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "label-studio.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        done = subprocess.run(["bash", "-e"], input=block, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
        if "label push v1 --where" in block:
            project = int(re.findall(r"/projects/(\d+)", done.stdout)[0])
            annotator = Annotator(label_studio, project)
            tasks = sorted(annotator.tasks().items())
            assert len(tasks) == 6
            annotator.choose(tasks[0][1], "5")
            annotator.skip(tasks[1][1])
    assert "6 tasks made, 0 were there already" in said
    assert "lead@example.com     1        1" in said
    assert "Made v2: 1 answer, 1 skipped, 0 withdrawn." in said
    assert (tmp_path / "tasks.zip").is_file()
    done = subprocess.run(
        [Path(sys.executable).with_name("dsops"), "show", "v2", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["by_class"]["5"] == 4
