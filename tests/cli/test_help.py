"""Every command stands in a stage, and its example is one that it takes."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from datasetops.cli.doctor import _OPTIONAL
from datasetops.cli.main import app
from datasetops.cli.stages import EXAMPLES, STAGES

ROOT: Any = typer.main.get_command(app)


def names(group: Any, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_has_a_stage_and_an_example() -> None:
    assert sorted(names(ROOT)) == sorted(EXAMPLES)
    assert len(EXAMPLES) == sum(len(examples) for examples in STAGES.values())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_example_is_one_that_the_command_takes(name: str) -> None:
    program, *words = shlex.split(EXAMPLES[name])
    command, context = ROOT, None
    assert program == "dsops"
    while hasattr(command, "commands"):
        context = command.make_context(command.name, list(words), parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    assert command.name == name.split()[-1]
    command.make_context(name, words, parent=context)


def test_help_is_by_stage_and_cuts_nothing() -> None:
    context = ROOT.make_context("dsops", [], resilient_parsing=True)
    text = ROOT.get_help(context)
    places = [text.index(f"\n{title}:\n") for title in STAGES]
    assert places == sorted(places)
    assert "..." not in text.split("Bring data in and out:")[1]


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"test", "lint", "bench", "ray-train"}
    assert extras == {extra for extra, _ in _OPTIONAL.values()}
