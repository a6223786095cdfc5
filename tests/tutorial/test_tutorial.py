"""The pages that lead a newcomer through dsops: each command is run, and prints what the page shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import people
import pytest
from label_studio_server import TOKEN, new_server
from sklearn.datasets import load_digits

DOCS = Path(__file__).parents[2] / "docs"
_PARTS = re.compile(r"```(python|yaml|console)\n(.*?)```|<!-- person: (.*?) -->", re.DOTALL)

pytestmark = [pytest.mark.server, pytest.mark.slow]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a block; a command's further lines begin with `> `."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *lines = part.splitlines()
        while lines and lines[0].startswith("> "):
            command += "\n" + lines.pop(0)[2:]
        yield command, "\n".join(lines)


def pattern(shown: str) -> re.Pattern[str]:
    """What output must look like: `…` stands for anything in a line, a line of it for any lines; widths do not count."""
    parts = []
    for line in shown.splitlines():
        words = [r".*?".join(map(re.escape, word.split("…"))) for word in line.split()]
        parts.append(r"(?:.*\n)*?" if line.strip() == "…" else r"[^\S\n]*" + r"[^\S\n]+".join(words) + r"[^\S\n]*\n")
    return re.compile("".join(parts))


class Walk:
    """Somebody who follows a page, in a folder and with an environment."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.env = folder, dict(env)

    def run(self, command: str, shown: str) -> None:
        if command.startswith("cd "):
            self.folder = self.folder / command.removeprefix("cd ")
            return
        told = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, f"{command}\n{told.stdout}\n{told.stderr}"
        assert pattern(shown).fullmatch(told.stdout.rstrip("\n") + "\n" * bool(shown or told.stdout)), (
            f"{command}\nprinted\n{told.stdout}\ninstead of\n{shown}"
        )


def test_a_page_may_not_show_what_is_not_printed() -> None:
    assert pattern("v2: … samples\n…\nend").fullmatch("v2:  7   samples\na\nb\nend\n")
    assert not pattern("v2: … samples").fullmatch("v2: 7 samples\nmore\n")
    assert not pattern("v3: … samples\n…").fullmatch("v2: 7 samples\n")


def follow(page: Path, walk: Walk, act: Mapping[str, object]) -> None:
    for language, block, said in _PARTS.findall(page.read_text(encoding="utf-8")):
        if said:
            what, _, rest = said.partition(" ")
            act[what](walk.folder, rest)  # type: ignore[operator]
        elif language != "console":
            name = re.match(r"# (\S+)", block)
            (walk.folder / (name[1] if name else "script.py")).write_text(block, encoding="utf-8")
        else:
            for command, shown in commands(block):
                walk.run(command, shown)


@pytest.fixture
def env() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DSOPS_", "LABEL_STUDIO_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}


@pytest.mark.xdist_group("label-studio")
def test_the_tutorial_is_true(tmp_path: Path, env: dict[str, str]) -> None:
    truth = {f"{number:03}.png": str(label) for number, label in enumerate(load_digits().target[:1000])}
    server = new_server(tmp_path)
    server.start()
    try:
        walk = Walk(tmp_path, env | {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": TOKEN})
        acts = {
            "review": lambda folder, version: people.review(folder, version, truth),
            "annotate": lambda folder, project: people.annotate(server, project, truth),
            "check": lambda folder, sheet: people.check(folder / sheet, truth),
        }
        follow(DOCS / "tutorial.md", walk, acts)
    finally:
        server.stop()


def test_the_walk_with_boxes_is_true(tmp_path: Path, env: dict[str, str]) -> None:
    follow(DOCS / "tutorial-boxes.md", Walk(tmp_path, env), {"take": people.take})


def test_the_notebook_runs(tmp_path: Path, env: dict[str, str]) -> None:
    pytest.importorskip("nbclient", reason="the extra test is not installed whole")
    shutil.copy(DOCS / "notebook.ipynb", tmp_path)
    words = [sys.executable, "-m", "nbclient.cli", "notebook.ipynb", "--inplace"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    kept = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [len(cell.get("outputs", ())) for cell in cells] == [len(cell.get("outputs", ())) for cell in kept]
