"""`dsops evaluate` and `dsops compare`: how good a model is on a version, and which of two is better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import Session, command, counted, table
from datasetops.cli.track import TrackerName, tell
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.evaluation.compare import Comparison
    from datasetops.evaluation.record import Evaluation

_SHOWN: Final = 10  # slices, classes and faults listed

Split = Annotated[str, typer.Option(help="The split to judge on; all: every sample.")]
Where = Annotated[str | None, typer.Option(help="Only samples that fulfil this SQL condition.")]
Task = Annotated[str | None, typer.Option(help="The kind to judge: classification, box, mask, text.")]
Mapped = Annotated[Path | None, typer.Option(help="YAML of 'model name: class' (null: none) where the names differ.")]
Score = Annotated[
    float | None, typer.Option(min=0, max=1, help="From which on a region counts in rates and in the list of errors.")
]
Sealed = Annotated[bool, typer.Option("--sealed", help="Look at a sealed split; the look is recorded and counted.")]
Option = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE of the model's own, e.g. min_score=0.01. May be repeated.")
]
Config = Annotated[Path | None, typer.Option(help="YAML that describes an ONNX file, if not FILE.yaml beside it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Resamples = Annotated[int | None, typer.Option(min=100, help="Draws of the bootstrap that gives the intervals.")]
Report = Annotated[
    list[Path] | None, typer.Option(help="Write a report: FILE.html, FILE.md or FILE.json. May be repeated.")
]


def register(app: typer.Typer) -> None:
    command(app)(evaluate)
    command(app)(compare)


def evaluate(
    session: Session,
    model: Annotated[
        str,
        typer.Argument(
            help="m1, production, hf:NAME@REVISION, local:DIR, onnx:FILE, or a model with kept predictions."
        ),
    ],
    version: VersionName = "main",
    split: Split = "test",
    where: Where = None,
    task: Task = None,
    mapping: Mapped = None,
    score: Score = None,
    sealed: Sealed = False,
    option: Option = None,
    model_config: Config = None,
    device: Device = "auto",
    resamples: Resamples = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    report: Report = None,
    card: Annotated[Path | None, typer.Option(help="Write a model card with known limits: FILE.md.")] = None,
    tracker: TrackerName = None,
) -> None:
    """Judge a model: metrics with intervals, by class and slice, calibration, costs of errors, the errors themselves.

    Predictions that are kept already are not computed again.
    """
    from datasetops.evaluation.evaluate import evaluate as run
    from datasetops.evaluation.report import model_card, report_writer, write_report
    from datasetops.images import quiet_decoding
    from datasetops.tracking.report import evaluation_report, tracker_of

    for file in report or []:
        report_writer(file)
    repository = session.repository
    told = tracker_of(repository, tracker)
    told.check()
    chosen = repository.version(version)
    with quiet_decoding():
        found = run(
            repository,
            chosen,
            model,
            split=None if split == "all" else split,
            where=where,
            task=task,
            mapping=mapping,
            score=score,
            sealed=sealed,
            resamples=resamples,
            seed=seed,
            progress=session.progress,
            **_options(option or [], model_config, device),
        )
        for file in report or []:
            write_report(repository, chosen, found, file, progress=session.progress)
            session.say(f"The report is in {file}.")
    if card is not None:
        card.write_text(model_card(found), encoding="utf-8")
        session.say(f"The model card is in {card}.")
    tell(session, told, lambda: evaluation_report(found), found.evaluation_id)
    for line in found.info["warnings"]:
        session.say(line)
    for fault in found.info["faults"][:_SHOWN]:
        session.say(f"  {fault['uri'] or fault['sample_id']}: {fault['reason']}")
    session.emit(found.as_dict(), _lines(found))


def compare(
    session: Session,
    first: Annotated[
        str, typer.Argument(metavar="MODEL_A", help="The model that is there; named as in dsops evaluate.")
    ],
    second: Annotated[str, typer.Argument(metavar="MODEL_B", help="The new one. Differences are B minus A.")],
    version: VersionName = "main",
    split: Split = "test",
    where: Where = None,
    task: Task = None,
    mapping: Mapped = None,
    score: Score = None,
    sealed: Sealed = False,
    option: Option = None,
    model_config: Config = None,
    device: Device = "auto",
    resamples: Resamples = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    flips: Annotated[Path | None, typer.Option(help="Write what one of them alone got right: FILE.csv.")] = None,
    report: Report = None,
) -> None:
    """Compare two models on the same items: differences with paired intervals, slices that got worse, items that flipped."""
    from datasetops.evaluation.compare import compare as run
    from datasetops.evaluation.compare_report import write_comparison
    from datasetops.evaluation.report import report_writer
    from datasetops.images import quiet_decoding

    for file in report or []:
        report_writer(file)
    repository = session.repository
    chosen = repository.version(version)
    with quiet_decoding():
        found = run(
            repository,
            chosen,
            first,
            second,
            split=None if split == "all" else split,
            where=where,
            task=task,
            mapping=mapping,
            score=score,
            sealed=sealed,
            resamples=resamples,
            seed=seed,
            progress=session.progress,
            **_options(option or [], model_config, device),
        )
        for file in report or []:
            write_comparison(repository, chosen, found, file, progress=session.progress)
            session.say(f"The report is in {file}.")
    if flips is not None:
        found.flips.to_csv(flips, index=False)
        session.say(f"What flipped is in {flips}.")
    session.emit(found.as_dict(), _comparison_lines(found))


def _lines(found: Evaluation) -> list[str]:
    from datasetops.evaluation.judged import verdict_of

    info = found.info
    items = info["items"]
    lines = [
        f"{info['model']['label']} on {info['version']}, {info['split'] or 'all samples'}: "
        f"{items['judged']:,} of {items['chosen']:,} samples judged."
    ]
    intervals = info["intervals"]
    lines += table(
        [(name, _number(value), _interval(intervals.get(name))) for name, value in info["metrics"].items()],
        header=("metric", "value", "95 % interval"),
    )
    for rate in info["details"].get("critical", ()):
        lines.append(
            f"{rate['class']}: {rate['rate'].upper()} {_number(rate['value'])} ({_interval(rate)}), "
            f"at most {rate['target']:g} allowed: {verdict_of(rate)}"
        )
    for name, slices in info["slices"].items():
        told = [item for item in slices if not item["small"]][:_SHOWN]
        if told:
            lines.append(f"Worst slices by {name}:")
            rows = [(item["name"], item["items"], _number(item["value"]), _interval(item)) for item in told]
            lines += table(rows, header=("slice", "items", name, "95 % interval"))
    kinds = info["details"].get("error_kinds")
    if kinds:
        costs = [(name, item["count"], _number(item["cost"])) for name, item in kinds["kinds"].items()]
        lines += table(costs, header=("kind of error", "errors", "AP50 lost"))
    again = " (kept from an earlier run)" if found.reused else ""
    return [*lines, f"Evaluation {found.evaluation_id}{again}; {counted(items['errors'], 'error')} listed."]


def _comparison_lines(found: Comparison) -> list[str]:
    from datasetops.evaluation.compare_report import doubt, names, no_interval

    info = found.info
    lines = [f"{info['second']} against {info['first']} on {info['items']['judged']:,} samples of {info['version']}:"]
    rows = [
        (
            *(name, _number(item["first"]), _number(item["second"])),
            *(f"{item['difference']:+.4f}", _interval(item) or no_interval(item)),
        )
        for name, item in info["metrics"].items()
    ]
    lines += table(rows, header=("metric", *names(info), "B - A", "95 % interval"))
    worse = [item for item in info["slices"] if item["worse"]]
    if worse:
        lines.append(f"Slices that lose a point or more of {info['sliced_by']}:")
        rows = [
            (item["name"], str(item["items"]), f"{item['difference']:+.4f}", _interval(item), doubt(item))
            for item in worse
        ]
        lines += table(rows, header=("slice", "items", "B - A", "95 % interval", ""))
    else:
        lines.append("No slice loses a point or more.")
    flips = info["flips"]
    return [
        *lines,
        f"{flips.get('right to wrong', 0):,} right to wrong, {flips.get('wrong to right', 0):,} wrong to right.",
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(item: Mapping[str, Any] | None) -> str:
    if item is None or item["low"] is None:
        return ""
    return f"{item['low']:.4f} to {item['high']:.4f}"


def _options(given: list[str], config: Path | None, device: str) -> dict[str, Any]:
    options: dict[str, Any] = {"device": device}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ValueError(f"--option: expected NAME=VALUE; got {text!r}")
        options[name] = value
    return options if config is None else options | {"config": str(config)}
