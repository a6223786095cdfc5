"""`dsops monitor`: samples of production against the version that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, table

if TYPE_CHECKING:
    from datasetops.monitor.monitor import Monitoring

_SHOWN: Final = 5  # slices, classes and unreadable images listed


def register(app: typer.Typer) -> None:
    command(app)(monitor)


def monitor(
    session: Session,
    model: Annotated[str, typer.Argument(help="A trained model: m1, or production.")],
    samples: Annotated[
        str, typer.Option(help="Samples of production: a folder, a CSV or Parquet table, or a version.")
    ],
    against: Annotated[
        str | None,
        typer.Option(help="A version, folder or table to compare with. Default: what the model learned from."),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="FILE", help="YAML of limits.")] = "default",
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One limit, e.g. stability=0.2. May be repeated.")
    ] = None,
    prometheus: Annotated[Path | None, typer.Option(help="Write the numbers for Prometheus: FILE.prom.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report: FILE.html.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Compare samples of production with what a model learned from: looks, slices, answers, and how right they are.

    Exits 3 where a limit is passed.
    """
    from datasetops.images import quiet_decoding
    from datasetops.monitor.monitor import monitor as run
    from datasetops.monitor.policy import load_policy
    from datasetops.monitor.report import gauges, write_html
    from datasetops.prometheus import write_exposition
    from datasetops.store.media import Media
    from datasetops.training.record import load_model_record

    chosen = load_policy(policy, _limits(limit or []))
    repository = session.repository
    with quiet_decoding():
        found = run(
            repository,
            load_model_record(repository, model),
            samples,
            chosen,
            against=against,
            device=device,
            seed=seed,
            progress=session.progress,
        )
    if prometheus is not None:
        write_exposition(prometheus, gauges(found))
        session.say(f"The numbers for Prometheus are in {prometheus}.")
    if report is not None:
        write_html(found, report, Media(repository.store, repository.root))
        session.say(f"The report is in {report}.")
    for note in found.notes:
        session.say(note)
    session.emit(found.as_dict(), _lines(found))
    if not found.passed:
        raise typer.Exit(CHECK_FAILED)


def _lines(found: Monitoring) -> Iterator[str]:
    yield f"{found.model}: {counted(found.samples, 'sample')} of {found.samples_of} against {found.against}."
    if found.images is not None:
        yield f"Images: the new one of a pair is told in {found.images.told_apart:.0%} (p = {found.images.p:.2g})."
    if found.confidence is not None:
        yield f"Mean confidence: {found.confidence.now:.3f}, {found.confidence.before:.3f} before."
    if found.slices:
        rows = [(one.key, f"{one.index:.3f}", f"{one.expected:.3f}", f"{one.p:.2g}") for one in found.slices[:_SHOWN]]
        yield from table(rows, header=("key", "stability index", "by chance", "p"))
    if found.classes:
        shifts = [(one.name, f"{one.before:.1%}", f"{one.now:.1%}", f"{one.p:.2g}") for one in found.classes[:_SHOWN]]
        yield from table(shifts, header=("answer", "before", "now", "p"))
    if found.labeled is not None:
        told = found.labeled
        before = "" if told.before is None else f", {told.before:.4f} before"
        yield (
            f"Labeled since ({told.truth_from}): {told.metric} {told.value:.4f} ({told.low:.4f} to {told.high:.4f}) "
            f"on {counted(told.samples, 'sample')}{before}."
        )
        if told.gap is not None:
            low, high = told.gap[1:]
            yield f"ECE {told.ece:.4f}; confidence less what is right {told.gap[0]:+.4f} ({low:+.4f} to {high:+.4f})."
    for uri, reason in list(found.unreadable.items())[:_SHOWN]:
        yield f"unreadable: {uri}: {reason}"
    if len(found.unreadable) > _SHOWN:
        yield f"and {len(found.unreadable) - _SHOWN:,} more unreadable, see --json"
    for alarm in found.alarms:
        yield f"ALARM {alarm.name}: {alarm.message}; at most {alarm.limit:g}"
    count = len(found.alarms)
    yield f"{count} alarm{'s' if count > 1 else ''}." if count else "No alarm."


def _limits(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not value:
            raise ValueError(f"--limit: expected NAME=VALUE; got {text!r}")
        found[name.strip()] = value.strip()
    return found
