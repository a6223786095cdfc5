"""A scorecard as an HTML page with trends over versions, and as gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from datasetops.prometheus import Gauge
from datasetops.scorecard.figures import FIGURES, Cell, Figure, shown
from datasetops.scorecard.scorecard import Card, Scorecard

_WIDTH, _HEIGHT, _SIDE, _TOP, _FLOOR = 320, 132, 14, 26, 108
_NAMES: Final = 5  # versions up to which each has its name and value beside its point; of more the first and last
_LEAST: Final = 2  # versions with a value that make a trend


def write_html(card: Scorecard, out: Path) -> None:
    """Write a page that needs nothing beside it, to a folder that exists. Raises OSError."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader("datasetops.scorecard"), PackageLoader("datasetops.audits")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    tables = [(title, cards, _rows(cards)) for title, kind in _KINDS.items() if (cards := card.of(kind))]
    html = environment.get_template("scorecard.html").render(
        card=card,
        tables=tables,
        trends=_trends(card.of("version")),
        titles={figure.name: figure.title for figure in FIGURES},
    )
    out.write_text(html, encoding="utf-8")


_KINDS: Final = {"Versions": "version", "Models": "model"}


def gauges(card: Scorecard, *, prefix: str = "dsops_scorecard") -> list[Gauge]:
    """A gauge for each figure, with the labels project, kind (version or model), name and, of a version, its model."""
    found = []
    for figure in FIGURES:
        samples = [
            (
                {"project": card.project, "kind": one.kind, "name": one.name, "model": one.model or ""},
                cell.value,
            )
            for one in card.cards
            if (cell := one.cells[figure.name]).value is not None
        ]
        found.append(
            Gauge(
                f"{prefix}_{figure.name}", figure.help, [(labels, float(v)) for labels, v in samples if v is not None]
            )
        )
    return found


def _rows(cards: Sequence[Card]) -> list[tuple[Figure, list[tuple[str, Cell, str]]]]:
    """By figure its cells, as (text, cell, text of the interval)."""
    found = []
    for figure in FIGURES:
        cells = [card.cells[figure.name] for card in cards]
        found.append((figure, [(shown(figure, cell.value), cell, _interval(figure, cell)) for cell in cells]))
    return found


def _interval(figure: Figure, cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"{shown(figure, cell.low)} to {shown(figure, cell.high)}"


def _trends(cards: Sequence[Card]) -> list[tuple[str, str, str]]:
    """(title, which way is better, SVG) of each figure that several versions have."""
    found = []
    for figure in FIGURES:
        points = [(card.name, cell) for card in cards if (cell := card.cells[figure.name]).value is not None]
        if len(points) >= _LEAST:
            found.append((figure.title, f"{figure.better}er is better", _line(figure, points)))
    return found


def _line(figure: Figure, points: Sequence[tuple[str, Cell]]) -> str:
    """Points joined by a line, with their intervals, evenly spaced in the order of versions."""
    values = [cell.value or 0.0 for _, cell in points]
    ends = [end for _, cell in points for end in (cell.value, cell.low, cell.high) if end is not None]
    low, high = min(ends), max(ends)
    step = (_WIDTH - 2 * _SIDE) / (len(points) - 1)

    def up(value: float) -> float:
        return _FLOOR - (_FLOOR - _TOP) * ((value - low) / (high - low) if high > low else 0.5)

    places = [(_SIDE + i * step, up(value)) for i, value in enumerate(values)]
    spoken = ", ".join(f"{name} {shown(figure, cell.value)}" for name, cell in points)
    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(figure.title)}: {escape(spoken)}">']
    out.append(f'<path fill="none" style="stroke:var(--line)" d="M{_SIDE} {_FLOOR + 6}H{_WIDTH - _SIDE}"/>')
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    out.append(f'<path fill="none" style="stroke:var(--s0)" stroke-width="2" d="M{path}"/>')
    for (name, cell), (x, y) in zip(points, places, strict=True):
        if cell.low is not None and cell.high is not None:
            stroke = 'style="stroke:var(--s0)" stroke-opacity=".45"'
            out.append(f'<path fill="none" {stroke} d="M{x:.1f} {up(cell.low):.1f}V{up(cell.high):.1f}"/>')
        title = f"{name}: {shown(figure, cell.value)} {_interval(figure, cell)} {cell.note}".strip()
        out.append(f'<circle class="s0" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(title)}</title></circle>')
    for i in range(len(points)) if len(points) <= _NAMES else (0, len(points) - 1):
        anchor = "start" if i == 0 else "end" if i == len(points) - 1 else "middle"
        for text, y in ((shown(figure, values[i]), 14.0), (points[i][0], _HEIGHT - 4.0)):
            out.append(f'<text x="{places[i][0]:.1f}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>')
    return "".join([*out, "</svg>"])
