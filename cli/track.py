"""`dsops track`: tell a tracker of a training or an evaluation that was done before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from datasetops.cli.session import Session, command

if TYPE_CHECKING:
    from datasetops.tracking.base import Tracker
    from datasetops.tracking.report import Report

TrackerName = Annotated[
    str | None, typer.Option(help="Tell this tracker as well: none, mlflow, wandb. Default: as the settings say.")
]


def register(app: typer.Typer) -> None:
    command(app)(track)


def track(
    session: Session,
    name: Annotated[str, typer.Argument(help="A model (m1), or the id of an evaluation.")],
    tracker: TrackerName = None,
) -> None:
    """Tell a tracker of a training or an evaluation that is done; what it knows already is not told again."""
    from datasetops.evaluation.record import load_evaluation
    from datasetops.tracking.base import NONE
    from datasetops.tracking.report import evaluation_report, tell_or_fail, tracker_of, training_report
    from datasetops.training.record import load_model_record

    repository = session.repository
    chosen = tracker_of(repository, tracker)
    if chosen.name == NONE:
        raise ValueError("--tracker: name one, for example mlflow, or set it: tracker in dsops.toml")
    if name.startswith("m"):  # ids of evaluations are hexadecimal
        report = training_report(repository, load_model_record(repository, name))
    else:
        report = evaluation_report(load_evaluation(repository, name))
    said = tell_or_fail(chosen, report)
    session.emit({"tracker": chosen.name, "key": report.key, "told": said is not None}, said or _known(chosen))


def tell(session: Session, tracker: Tracker, report: Callable[[], Report], name: str) -> None:
    """Tell it of what has just been done, and say what came of it; a failure there is a warning here."""
    from datasetops.tracking.base import NONE
    from datasetops.tracking.report import try_to_tell

    if tracker.name != NONE:
        session.say(try_to_tell(tracker, report, name) or _known(tracker))


def _known(tracker: Tracker) -> str:
    return f"{tracker.name} knows it already."
