"""The full loop of active learning as one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datasetops.cli.session import Session, command


def register(app: typer.Typer) -> None:
    command(app)(loop)


def loop(
    session: Session,
    config: Annotated[Path, typer.Option("--config", help="YAML that says what the loop does.")],
) -> None:
    """Select, push, wait for labels, pull, audit, train and report, round by round, until the configured end.

    Stopped at any point, the same command goes on: nothing is selected or pushed twice.
    """
    from datasetops.active_learning.loop import load_config, run_loop

    asked = load_config(config)
    result = run_loop(session.repository, asked, say=session.say, progress=session.progress)
    session.emit({"loop": asked.name} | result.as_dict(), result.words)
