"""What the rounds of active learning bought, and whether the next one pays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.session import Session, command, counted, table

if TYPE_CHECKING:
    from datasetops.active_learning.bought import Report
    from datasetops.active_learning.gains import Estimate
    from datasetops.active_learning.rounds import Round
    from datasetops.manifest import Repository

_HEADER = (
    "round", "version", "strategy", "asked", "labeled", "minutes", "corrections", "metric", "gain", "over chance"
)  # fmt: skip


def register(app: typer.Typer) -> None:
    command(app)(rounds)


def rounds(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="[ROUND]", help="List the items of this round only.")] = None,
    branch: Annotated[str, typer.Option("--branch", "-b", help="Whose newest version has the labels.")] = "main",
    model: Annotated[str | None, typer.Option(help="Embedder that the metric's learner looks through.")] = None,
    learner: Annotated[str, typer.Option(help="Whose accuracy is the metric: probe or fewshot.")] = "probe",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Labels of the next batch; as the last one's.")] = None,
    least_gain: Annotated[
        float | None,
        typer.Option(help="Share of the metric that a batch should bring at least: 0.005 is half a point."),
    ] = None,
    worth: Annotated[
        float | None, typer.Option(help="Or: minutes of work that one point (0.01) of the metric is worth.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what chance decides in the intervals.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="With ROUND: a .csv of its items, path and an empty label, to be filled in and ingested."),
    ] = None,
) -> None:
    """What each round bought, oldest first: labels, minutes, corrections, the metric; and whether the next one pays.

    In brackets are 95 % intervals. Over chance is what the strategy gained over as many labels of the random arm. With a
    round's name its items are listed, in the order in which they are to be labeled.
    """
    from datasetops.active_learning.bought import bought
    from datasetops.active_learning.next_batch import next_batch
    from datasetops.active_learning.rounds import load_round
    from datasetops.active_learning.rounds import rounds as recorded

    if least_gain is not None and worth is not None:
        raise ValueError("--least-gain and --worth: give one of them")
    repository = session.repository
    if name is not None:
        _show(session, load_round(repository, name), out)
        return
    if out is not None:
        raise ValueError("--out: name the round whose items it gets, such as dsops rounds r1 --out r1.csv")
    if not any(True for _ in recorded(repository)):
        empty: dict[str, Any] = {"version": None, "rounds": [], "basis": "", "stop": None}
        session.emit(empty, "No round yet. Make one with: dsops select VERSION --n N")
        return
    report = bought(repository, branch=branch, model=model, learner=learner, seed=seed, progress=session.progress)
    stop = next_batch(report, n=n, least_gain=least_gain, worth=worth)
    answer = {"version": report.version, "rounds": [asdict(item) for item in report.rounds], "basis": report.basis}
    session.emit(answer | {"stop": stop.as_dict()}, _lines(report, stop.words))


def picks(repository: Repository, chosen: Round) -> list[dict[str, Any]]:
    """The items of a round in their order; `path` is where the image is."""
    import pyarrow as pa

    from datasetops.store.media import Media

    media, version = Media(repository.store, repository.root), repository.version(chosen.version)
    rows = version.state("samples").rows(pa.array(chosen.samples, pa.string()), ["sample_id", "uri"])
    uris = dict(zip(rows["sample_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    at_random = set(chosen.random)
    return [
        {
            "sample_id": one,
            "path": media.locate(uris[one]) if one in uris else None,
            "score": score,
            "reason": reason,
            "random": one in at_random,
        }
        for one, score, reason in zip(chosen.samples, chosen.scores, chosen.reasons, strict=True)
    ]


def _show(session: Session, chosen: Round, out: Path | None) -> None:
    import pyarrow as pa

    from datasetops.cli.files import write_table

    found = picks(session.repository, chosen)
    if out is not None:
        write_table(pa.Table.from_pylist([{"path": item["path"], "label": ""} for item in found]), out)
        answer = {"round": chosen.name, "rows": len(found), "out": str(out)}
        session.emit(answer, f"Wrote {counted(len(found), 'item')} to {out}")
        return
    rows = [(place, item["path"] or item["sample_id"], item["reason"]) for place, item in enumerate(found, start=1)]
    head = f"{chosen.name}: {len(found):,} of {chosen.pool:,} in {chosen.version} by {chosen.strategy}"
    session.emit(asdict(chosen) | {"samples": found}, [head, *table(rows, header=("", "item", "why"))])


def _lines(report: Report, words: str) -> list[str]:
    rows = (
        [
            item.round, item.version, item.strategy, item.items, item.labeled,
            "" if item.minutes is None else f"{item.minutes:,.0f}",
            item.corrections, _share(item.metric), _points(item.gain),
            "" if isinstance(item.over_chance, str) else _points(item.over_chance),
        ]
        for item in report.rounds
    )  # fmt: skip
    lines = table(rows, header=_HEADER)
    lines += ["", report.basis]
    for item in report.rounds:
        if item.left_open:
            lines.append(f"{item.round}: without the time of {counted(item.left_open, 'answer')} left open.")
        if item.returned:
            lines.append(
                f"{item.round}: {counted(item.returned, 'item')} came back without a label; dsops select may choose "
                "them again."
            )
        said = []
        if item.corrections is not None:
            said.append(f"{counted(item.corrections, 'correction')} of what was said by {item.model or 'a model'}.")
        if item.model_accuracy is not None:
            model = "It was" if said else "The model was"
            who = model if item.judged == "model" else "A learner of the labels until then would have been"
            said.append(
                f"{who} right about {_share(item.model_accuracy)} of the pool before it, by {item.random_labeled:,} of "
                f"{item.random:,} drawn at random."
            )
        if said:
            lines.append(f"{item.round}: {' '.join(said)}")
        if isinstance(item.over_chance, str):
            lines.append(f"{item.round}: what it gained over chance is not known: {item.over_chance}.")
    return [*lines, words]


def _share(value: Estimate | None) -> str:
    return "" if value is None else f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def _points(value: Estimate | None) -> str:
    return "" if value is None else f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
