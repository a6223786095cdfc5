"""The documents tell the truth: their schemas load, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from datasetops.cli.main import app
from datasetops.schema import load_migration, load_schema, migrate_schema

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)


def test_the_schema_and_the_migration_of_the_guide_fit_each_other() -> None:
    schema, migration = blocks(ROOT / "docs" / "schemas.md", "yaml")
    before = load_schema(schema.encode())
    after = migrate_schema(before, load_migration(migration.encode()))
    assert after.version == before.version + 1
    assert set(after.class_names) == {"give_way", "stop_sign", "stop_painted"}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_commands_and_options_exist(file: Path) -> None:
    root = typer.main.get_command(app)
    review = root.commands["review"]  # type: ignore[attr-defined]
    known = {"-C", "--json", "--help"}
    for line in "\n".join(blocks(file, "sh")).splitlines():
        words = line.partition("#")[0].split()
        if words[:1] != ["dsops"]:
            continue
        command, names = root, words[1:]
        while names and hasattr(command, "commands") and names[0] in command.commands:
            command, names = command.commands[names[0]], names[1:]
        if command is review and names:  # `dsops review v12` is short for its command open
            command = review.commands["open"]
        assert not hasattr(command, "commands"), f"{file.name}: {line}"
        options = {option for parameter in command.params for option in parameter.opts} | known
        used = {word for word in names if word.startswith("-")}
        assert used <= options, f"{file.name}: {line}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target
