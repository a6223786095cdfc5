"""Write docs/cli.md from the commands themselves; a test checks that it is current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer.main

from datasetops.cli.main import app

HERE = Path(__file__).parent


def reference() -> str:
    """The Markdown of docs/cli.md."""
    command = typer.main.get_command(app)
    parts = ["# Commands", "", "Made by `make docs` from the commands themselves.", ""]
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        parts += _section(f"dsops {name}", sub)
    return "\n".join(parts).rstrip() + "\n"


def _section(name: str, command: Any) -> list[str]:
    nested = getattr(command, "commands", None)
    if nested:
        return [line for sub, item in nested.items() for line in _section(f"{name} {sub}", item)]
    context = command.make_context(name, [], resilient_parsing=True)
    context.info_name = name
    context.terminal_width = context.max_content_width = 100
    return [f"## {name}", "", "```text", command.get_help(context).rstrip(), "```", ""]


if __name__ == "__main__":
    (HERE / "cli.md").write_text(reference(), encoding="utf-8")
