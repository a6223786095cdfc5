"""`dsops scorecard`: the figures that a vision team is judged by, per version and model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from datasetops.cli.session import Session, command, table

if TYPE_CHECKING:
    from datasetops.scorecard.scorecard import Card, Scorecard

_BESIDE: Final = 4  # cards in one table; of one alone it says more
_COMMANDS: Final = 10  # that are listed


def register(app: typer.Typer) -> None:
    command(app)(scorecard)


def scorecard(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION|MODEL]...", help="Default: all models, and the versions that were used."),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="Of the machine that the model runs on, for the cost of 1,000 inferences.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Count gains from this model. Default: the parent or production."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with trends over the versions: FILE.html.")] = None,
    prometheus: Annotated[Path | None, typer.Option(help="Write the figures for Prometheus: FILE.prom.")] = None,
) -> None:
    """Show the figures of versions and models that commands recorded, and which command fills what is missing."""
    from datasetops.prometheus import write_exposition
    from datasetops.scorecard.report import gauges, write_html
    from datasetops.scorecard.scorecard import scorecard as run

    found = run(session.repository, names or [], price_per_hour=price_per_hour, baseline=baseline)
    if html is not None:
        write_html(found, html)
        session.say(f"The scorecard is in {html}.")
    if prometheus is not None:
        write_exposition(prometheus, gauges(found))
        session.say(f"The figures for Prometheus are in {prometheus}.")
    session.emit(found.as_dict(), _lines(found))


def _lines(found: Scorecard) -> Iterator[str]:
    if not found.cards:
        yield "No version was accepted and no model trained yet: dsops accept VERSION; dsops train VERSION --recipe probe"
        return
    for kind in ("version", "model"):
        cards = found.of(kind)
        for start in range(0, len(cards), _BESIDE):
            yield from _table(cards[start : start + _BESIDE])
            yield ""
    missing = found.missing()
    if missing:
        from datasetops.scorecard.figures import FIGURES

        yield "To fill what is empty:"
        titles = {figure.name: figure.title for figure in FIGURES}
        yield from (
            f"  {command}  ({', '.join(titles[name] for name in names)})"
            for command, names in list(missing.items())[:_COMMANDS]
        )
        if len(missing) > _COMMANDS:
            yield f"  and {len(missing) - _COMMANDS} more, see --json or --html"


def _table(cards: list[Card]) -> list[str]:
    from datasetops.scorecard.figures import FIGURES, shown

    rows = [("", *(card.about for card in cards))]
    for figure in FIGURES:
        cells = [card.cells[figure.name] for card in cards]
        told = [shown(figure, cell.value) for cell in cells]
        rows.append((figure.title, *told, *([cells[0].note] if len(cells) == 1 else [])))
    if len(cards) == 1:
        rows[0] = (*rows[0], "")
    return table(rows, header=("", *(card.name for card in cards), *([""] if len(cards) == 1 else [])))
