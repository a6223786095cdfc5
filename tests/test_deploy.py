"""Files for running dsops elsewhere, held against the code: commands, options, variables, extras and paths."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from datasetops.cli.main import app
from datasetops.secret_files import OF_LIBRARIES
from datasetops.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY, CI = ROOT / "docs" / "deploy", ROOT / "docs" / "ci"
FILES = [*sorted(DEPLOY.iterdir()), *sorted(CI.iterdir())]
OWN = {"LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "DSOPS_KEY_PASSWORD", "DSOPS_WEBHOOK_SECRET"}
OF_AWS = {"AWS_REGION", "AWS_ENDPOINT_URL"}  # boto3's


def check(words: list[str]) -> None:
    """That dsops takes a command line, up to what it would do."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context("dsops", words, parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context("dsops", words, parent=context)


def commands(text: str) -> list[list[str]]:
    """Each command line of dsops, ended by a remark, a redirection or another command."""
    lines = re.findall(r"(?:^|[:&|]|run --rm|\s-)\s*dsops +((?:-C|[a-z]).*)", text, re.MULTILINE)
    return [shlex.split(re.split(r"\s#|\s>>?\s|\s\|\|", line)[0]) for line in lines]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_commands_are_taken(file: Path) -> None:
    text = re.sub(r">-\n(\s+.*\n)+?(?=\s+\w+:)", lambda found: " ".join(found[0][2:].split()) + "\n", file.read_text())
    found = [words for words in commands(text) if words and not words[0].startswith("|")]
    assert found or file.name == "Dockerfile"
    for words in found:
        check(words)


def test_the_services_of_the_compose_file_run_what_there_is() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    check(compose["services"]["review"]["command"])
    assert (DEPLOY / compose["x-dsops"]["build"]["context"] / compose["x-dsops"]["build"]["dockerfile"]).is_file()
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_variables_are_known(file: Path) -> None:
    known = {f"DSOPS_{name.upper()}" for name in Settings.model_fields} | OWN | OF_AWS | set(OF_LIBRARIES)
    names = set(re.findall(r"\b((?:DSOPS|AWS|LABEL_STUDIO|AZURE|HF)_[A-Z_]+)\b", file.read_text()))
    assert {name.removesuffix("_FILE") for name in names} <= known


def test_the_image_takes_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(re.findall(r'"\.\[(.*)\]"', text)[0].split(","))
    assert extras <= set(project["project"]["optional-dependencies"])
    copied = set(re.findall(r"^COPY (\w+) ", text, re.MULTILINE))
    assert {Path(path).parts[0] for path in project["tool"]["setuptools"]["package-dir"].values()} < copied
