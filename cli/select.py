"""Commands of active learning: select, rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datasetops.cli.files import read_chances
from datasetops.cli.session import Session, command, table
from datasetops.cli.versions import VersionName


def register(app: typer.Typer) -> None:
    for function in (select, rounds):
        command(app)(function)


def select(
    session: Session,
    version: VersionName = "main",
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 100,
    strategy: Annotated[str, typer.Option(help="entropy, least_confidence, margin or random.")] = "margin",
    probabilities: Annotated[
        Path | None, typer.Option(help="A model's answers: CSV or Parquet, sample_id and a column a class.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Choose among samples that fulfil this SQL condition; unlabeled ones unless told."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides between equal scores.")] = 0,
) -> None:
    """Choose what to label next, and record it as a round. What is out for labeling is left out."""
    from datasetops.active_learning import select as choose

    repository = session.repository
    chosen = repository.version(version)
    made = choose(
        repository,
        chosen,
        n=n,
        strategy=strategy,
        probabilities=read_chances(chosen, probabilities),
        where=where,
        seed=seed,
    )
    lines = [f"{made.name}: {len(made.samples):,} of {made.pool:,} by {made.strategy}"]
    if len(made.samples) < n:
        lines.append(f"{n:,} were asked for; there are no more.")
    answer = {"round": made.name, "version": made.version, "strategy": made.strategy, "pool": made.pool, "asked": n}
    answer["samples"] = [{"sample_id": i, "score": s} for i, s in zip(made.samples, made.scores, strict=True)]
    session.emit(answer, [*lines, f"Next: dsops label push {made.version} --round {made.name}"])


def rounds(session: Session) -> None:
    """List rounds, oldest first, with how many of their items have been labeled since."""
    from datasetops.active_learning import rounds as all_rounds
    from datasetops.active_learning.select import labeled_by_people

    repository = session.repository
    head = repository.head()
    labeled = labeled_by_people(head) if head else set()
    rows = [
        {
            "round": item.name,
            "version": item.version,
            "strategy": item.strategy,
            "samples": len(item.samples),
            "pool": item.pool,
            "labeled": len(labeled.intersection(item.samples)),
        }
        for item in all_rounds(repository)
    ]
    text = table((row.values() for row in rows), header=("round", "version", "strategy", "samples", "of", "labeled"))
    session.emit(rows, text if rows else "No round yet. Make one with: dsops select VERSION --n N")
