"""The command that replays active learning on labeled data: simulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from datasetops.cli.session import Session, command, table
from datasetops.cli.versions import VersionName

_BUDGETS: Final = "10,20,50,100,200,500,1000"
_REPORTS: Final = (".html", ".svg")


def register(app: typer.Typer) -> None:
    command(app)(simulate)


def simulate(
    session: Session,
    version: VersionName = "main",
    strategies: Annotated[
        str, typer.Option(help="Names with commas between; random is always replayed.")
    ] = "auto,margin",
    budgets: Annotated[str, typer.Option(help="Labels in all at which accuracy is measured.")] = _BUDGETS,
    seeds: Annotated[int, typer.Option(min=1, help="Replays of each strategy.")] = 10,
    learner: Annotated[str, typer.Option(help="What learns from the labels: probe or fewshot.")] = "probe",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Learn anew after so many labels; at each budget unless told.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="For embeddings: builtin:NAME, hf:NAME or local:DIR.")] = None,
    noise_from: Annotated[
        str | None, typer.Option(help="A version whose labels are those that labeling gives.")
    ] = None,
    flip: Annotated[float, typer.Option(help="Share of the labels that labeling gets wrong.")] = 0.0,
    test_share: Annotated[
        float, typer.Option(help="Share to measure on, where no labeled split is called test.")
    ] = 0.2,
    target: Annotated[float | None, typer.Option(help="Accuracy in percent: how many labels does it take?")] = None,
    report: Annotated[
        Path | None, typer.Option(help="A page with curves and tables (.html), or the curves (.svg).")
    ] = None,
) -> None:
    """Replay active learning on labels that there are: what each strategy would have saved.

    Interrupted, it goes on where it was when the same command is run again.
    """
    from datasetops.active_learning.curve_chart import chart, page
    from datasetops.active_learning.curves import summary
    from datasetops.active_learning.simulate_version import simulate_version

    if report is not None and report.suffix not in _REPORTS:
        raise ValueError(f"--report: expected a file that ends in .html or .svg; got {report}")
    if target is not None and not 1 < target <= 100:
        raise ValueError(f"--target: expected percents between 1 and 100, such as 90; got {target:g}")
    repository = session.repository
    chosen = repository.version(version)
    done = simulate_version(
        repository,
        chosen,
        strategies=_names(strategies),
        budgets=_numbers(budgets),
        seeds=seeds,
        learner=learner,
        batch=batch,
        model=model,
        noise_from=repository.version(noise_from) if noise_from else None,
        flip=flip,
        test_share=test_share,
        progress=session.progress,
    )
    found = summary(done, None if target is None else target / 100)
    tables = _tables(found)
    title = (
        f"{chosen.name}: {found['pool']:,} to choose from, measured on {found['test']:,}, "
        f"{found['seeds']} seeds, {found['learner']}"
    )
    about = (
        f"What people labeled in {chosen.name} was forgotten, and bought back by each strategy. After each budget a "
        f"{found['learner']} on {model or repository.settings.model} learned from what was bought, and its "
        f"{found['measure']} was measured on {found['test']:,} images that are never chosen. Bands and ± are 95 % intervals "
        f"of the mean over {found['seeds']} seeds; a gain whose interval holds 0 may be chance. The mean is over the budgets, "
        "the log mean over the logarithm of the labels, so that early ones count more. Strategies that need a model begin "
        "with a batch drawn by chance."
    )
    if report is not None:
        text = page(title, found, tables, about) if report.suffix == ".html" else chart(found)
        report.write_text(text, encoding="utf-8")
    lines = [title, *found["notes"]]
    for caption, header, rows in tables:
        lines += ["", caption, *table(rows, header=header)]
    session.emit({"version": chosen.name, **found}, lines)


def _tables(found: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """What it shows, header and rows."""
    budgets = [f"{budget:,}" for budget in found["budgets"]]
    strategies: Mapping[str, Any] = found["strategies"]
    measure = found["measure"]
    curves = [
        [name, *_with_half(one), _figure(one["area"], one["area_interval"]), _percent(one["area_log"])]
        for name, one in strategies.items()
    ]
    gains = [
        [
            name,
            *_with_half(one["gain"], sign=True),
            _figure(one["gain"]["area"], one["gain"]["area_interval"], sign=True),
        ]
        for name, one in strategies.items()
        if name != "random"
    ]
    header = ["strategy", "as random", *(["target"] if found["target"] is not None else [])]
    needed = [
        [
            name,
            "" if name == "random" else _labels(one["reaches_random"]),
            *([_labels(one["reaches_target"])] if "reaches_target" in one else []),
        ]
        for name, one in strategies.items()
    ]
    goal = f"labels to get as far as random with {budgets[-1]}"
    if found["target"] is not None:
        goal += f", and to {100 * found['target']:g} %"
    told = [
        (f"{measure} in %, and half its 95 % interval, by labels", ["strategy", *budgets, "mean", "log mean"], curves),
        ("points above random, seed by seed", ["strategy", *budgets, "mean"], gains),
        (goal, header, needed),
    ]
    return [one for one in told if one[2]]


def _with_half(one: Mapping[str, Any], *, sign: bool = False) -> list[str]:
    lows = one["low"] or [None] * len(one["mean"])
    return [
        _figure(mean, None if low is None else [low, 2 * mean - low], sign=sign)
        for mean, low in zip(one["mean"], lows, strict=True)
    ]


def _figure(mean: float, interval: Sequence[float] | None, *, sign: bool = False) -> str:
    half = "" if interval is None else f" ±{100 * (mean - interval[0]):.1f}"
    return _percent(mean, sign=sign) + half


def _percent(value: float, *, sign: bool = False) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _labels(one: Mapping[str, Any]) -> str:
    told = "never" if one["labels"] is None else f"{one['labels']:,}"
    if one["interval"] is None:
        return told
    low, high = (f"{end:,}" if end is not None else "never" for end in one["interval"])
    return f"{told} ({low} to {high})"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _names(text)]
    except ValueError:
        raise ValueError(f"--budgets: expected whole numbers with commas between; got {text!r}") from None
