"""docs/architecture.md names what there is: commands, files, entry-point groups."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import typer.main

from datasetops.cli.main import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STAGES = [line.split("|") for line in PAGE.split("## One way down")[0].splitlines() if line.startswith("| ")][1:]


def test_commands_are_there() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for row in STAGES:
        for command in re.findall(r"`(?:dsops )?([a-z-]+)", row[2]):
            assert command in known, row


def test_code_is_where_it_is_said_to_be() -> None:
    for row in STAGES:
        places = re.findall(r"`([\w/.-]+)`", row[3])
        assert places
        for place in places:
            assert (ROOT / place).exists() or (ROOT / "datasetops" / place).exists(), place
    for place in re.findall(r"`((?:cli|audits|datasetops|tests)/[\w/.]+)`", PAGE):
        assert (ROOT / place).exists(), place


def test_every_group_of_plugins_is_told() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    table = PAGE.split("## Where to add something")[1]
    assert set(groups) == set(re.findall(r"`(datasetops\.[a-z_]+)`", table.partition("A new command")[0]))
