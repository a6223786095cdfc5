"""The command that chooses what to label next: select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from datasetops.cli.rounds import picks
from datasetops.cli.session import Session, command, table
from datasetops.cli.versions import VersionName

_SHOWN: Final = 10  # picks that are shown; --json has all
_NEEDS: Final = {
    "embeddings": "images",
    "probabilities": "a model, or some labels",
    "committee": "--predictions of two models or more",
    "uncertainty": "",
}


def register(app: typer.Typer) -> None:
    command(app)(select)


def select(
    session: Session,
    version: VersionName = "main",
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="How many (100, or what a --budget holds); with --budget at most.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="auto, or one of --list.")] = "auto",
    probabilities: Annotated[
        Path | None, typer.Option(help="A model's answers: CSV or Parquet, sample_id (or uri) and a column a class.")
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(help="A model whose predictions dsops preannotate kept. May be repeated: a committee."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="For --predictions: YAML from the model's names to the schema's.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="For the strategy scores: CSV or Parquet, sample_id and score from 0 to 1.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(metavar="REF", help="For the strategy box_spread: m1, onnx:FILE, hf:NAME or local:DIR."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="For embeddings: builtin:NAME, hf:NAME or local:DIR.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Choose among samples that fulfil this SQL condition; unlabeled ones unless told."),
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(help="At least so many of a slice: KEY=VALUE:COUNT, or light=night:20%. May be repeated."),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="As many of each value of this slice, or of each likely class: class.")
    ] = None,
    random_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share drawn at random, so that dsops rounds can tell what choosing gained."),
    ] = 0.0,
    budget: Annotated[
        str | None, typer.Option(help="Annotators' time to fill, from how long past items took: 8h, 90m.")
    ] = None,
    spread: Annotated[
        bool, typer.Option("--spread/--no-spread", help="Never near-duplicates together, and groups spread.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Decides what chance decides.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be chosen; record nothing.")] = False,
    list_strategies: Annotated[bool, typer.Option("--list", help="List the strategies and what they need.")] = False,
) -> None:
    """Choose what to label next, and record it as a round, once. What is out for labeling is left out.

    Without --predictions or --probabilities a small model on embeddings learns from the labels so far.
    """
    from datasetops.active_learning.minutes import parse_budget
    from datasetops.active_learning.rounds import round_names
    from datasetops.active_learning.select import select as choose
    from datasetops.active_learning.strategies import STRATEGIES
    from datasetops.active_learning.uncertainty import read_scores
    from datasetops.audits.labels.probabilities import read_probabilities

    if list_strategies:
        known = [
            {"strategy": item.name, "title": item.title, "needs": list(item.needs), "uses": list(item.uses)}
            for item in STRATEGIES.values()
        ]
        rows = [(item.name, item.title, ", ".join(_NEEDS[need] for need in item.needs)) for item in STRATEGIES.values()]
        session.emit(known, table(rows, header=("strategy", "chooses where", "needs")))
        return
    repository = session.repository
    chosen = repository.version(version)
    there = round_names(repository)
    made = choose(
        repository,
        chosen,
        n=n,
        strategy=strategy,
        probabilities=read_probabilities(probabilities) if probabilities else None,
        predictions=predictions or (),
        mapping=mapping,
        scores=read_scores(scores) if scores else None,
        detector=detector,
        model=model,
        where=where,
        quotas=quota or (),
        balance=balance,
        random_share=random_share,
        budget=parse_budget(budget) if budget else None,
        spread=spread,
        seed=seed,
        dry_run=dry_run,
        progress=session.progress,
    )
    for note in made.notes:
        session.say(note)
    name = made.name or "not recorded"
    made_before = made.name in there
    if made_before:
        session.say(f"This is {name}, made before; nothing was recorded. Another --seed may give another one.")
    lines = [f"{name}: {len(made.samples):,} of {made.pool:,} by {made.strategy}" + _by(made.model or made.embedder)]
    if made.random:
        lines.append(f"{len(made.random):,} of them at random, to tell later what choosing gained.")
    if made.minutes is not None:
        low, high = made.minutes_between
        about = f"{made.minutes:,.0f} minute{'' if round(made.minutes) == 1 else 's'}"
        lines.append(f"Annotators will need about {about} ({low:,.0f} to {high:,.0f}).")
    picked = picks(repository, made)
    lines += table(((item["path"], item["reason"]) for item in picked[:_SHOWN]), header=("first", "why"))
    if len(picked) > _SHOWN:
        lines.append(f"… and {len(picked) - _SHOWN:,} more: {f'dsops rounds {name}' if made.name else '--json'}")
    answer = {
        "round": made.name, "made_before": made_before, "version": made.version, "strategy": made.strategy,
        "pool": made.pool, "asked": made.asked, "model": made.model, "embedder": made.embedder, "minutes": made.minutes,
        "minutes_between": list(made.minutes_between), "random": len(made.random), "notes": list(made.notes),
        "samples": picked,
    }  # fmt: skip
    if made.name:
        lines.append(f"Next: dsops label push {made.version} --round {name}, or dsops rounds {name} --out TABLE.csv")
    session.emit(answer, lines)


def _by(model: str | None) -> str:
    return f", with {model}" if model else ""
