"""Charts as data: a check describes them in its summary, the report draws them as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _BAR, _GAP, _LABEL, _VALUE = 640, 18, 6, 150, 70
_MAX_BARS = 30
_MAX_COLUMNS = 16
_PLOT, _MARGIN = 320, 44  # height of a plane of points, and the room for its axes


def bars(title: str, values: Mapping[str, Any], *, note: str = "", beside: bool = False) -> dict[str, Any]:
    """Horizontal bars. `values` maps a label to a number, or to numbers by series ({"train": 3, "test": 1}).

    The series of a label are put one after the other, or `beside` each other.
    """
    series = {
        str(label): dict(value) if isinstance(value, Mapping) else {"": float(value)} for label, value in values.items()
    }
    return {"kind": "bars", "title": title, "values": series, "note": note} | ({"beside": True} if beside else {})


def histogram(title: str, counts: Sequence[float], low: float, high: float, *, note: str = "") -> dict[str, Any]:
    """Columns of equal width from `low` to `high`."""
    return {"kind": "histogram", "title": title, "counts": list(counts), "range": [low, high], "note": note}


def grid(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, note: str = ""
) -> dict[str, Any]:
    """A table whose cells are the darker the greater their value; `values` has a sequence for each row."""
    return {
        "kind": "grid",
        "title": title,
        "rows": [str(row) for row in rows],
        "columns": [str(column) for column in columns],
        "values": [list(row) for row in values],
        "note": note,
    }


def scatter(
    title: str,
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    across: str = "",
    up: str = "",
    joined: bool = False,
    note: str = "",
) -> dict[str, Any]:
    """Points (x, y) by series, `joined` by lines in their order; `across` and `up` name the axes."""
    points = {str(name): [[float(x), float(y)] for x, y in values] for name, values in series.items()}
    return {
        "kind": "scatter",
        "title": title,
        "series": points,
        "across": across,
        "up": up,
        "joined": joined,
        "note": note,
    }


def draw(chart: Mapping[str, Any]) -> str:
    """SVG of a chart; colours come from the page's style sheet (classes s0, s1, …)."""
    match chart["kind"]:
        case "bars" if chart.get("beside"):
            return _draw_beside(chart["values"])
        case "bars":
            return _draw_bars(chart["values"])
        case "grid":
            return _draw_grid(chart["rows"], chart["columns"], chart["values"])
        case "scatter":
            return _draw_scatter(chart["series"], chart["across"], chart["up"], chart["joined"])
        case _:
            return _draw_histogram(chart["counts"], *chart["range"])


def _draw_bars(values: Mapping[str, Mapping[str, float]]) -> str:
    shown = list(values.items())[:_MAX_BARS]
    names = list(dict.fromkeys(name for _, parts in shown for name in parts))
    top: float = max([sum(parts.values()) for _, parts in shown] or [0]) or 1
    room = _WIDTH - _LABEL - _VALUE
    legend = 24 if names != [""] else 0
    height = len(shown) * (_BAR + _GAP) + legend
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">', *_legend(names if legend else [], _LABEL)]
    for row, (label, parts) in enumerate(shown):
        y, x = row * (_BAR + _GAP) + legend, float(_LABEL)
        out.append(f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(_short(label))}</text>')
        for i, name in enumerate(names):
            width = room * parts.get(name, 0) / top
            title = f"<title>{escape(str(label))} {escape(str(name))}: {parts.get(name, 0):,g}</title>"
            out.append(f'<rect class="s{i % 6}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}">{title}</rect>')
            x += width
        out.append(f'<text x="{x + 6:.1f}" y="{y + 13}">{sum(parts.values()):,g}</text>')
    if len(values) > len(shown):
        out[0] = out[0].replace(f" {height}", f" {height + 20}")
        out.append(f'<text x="{_LABEL}" y="{height + 14}">and {len(values) - len(shown)} more</text>')
    return "".join([*out, "</svg>"])


def _legend(names: Sequence[str], left: int) -> list[str]:
    out = []
    for i, name in enumerate(names):
        out.append(f'<rect class="s{i % 6}" x="{left + i * 160}" y="4" width="12" height="12" rx="2"/>')
        out.append(f'<text x="{left + i * 160 + 17}" y="14">{escape(_short(str(name)))}</text>')
    return out


def _draw_beside(values: Mapping[str, Mapping[str, float]]) -> str:
    shown = list(values.items())[:_MAX_BARS]
    names = list(dict.fromkeys(name for _, parts in shown for name in parts))
    top: float = max([value for _, parts in shown for value in parts.values()] or [0]) or 1
    room, legend, thin = _WIDTH - _LABEL - _VALUE, 24, _BAR * 2 // 3
    each = thin * len(names) + _GAP
    more = len(values) - len(shown)
    height = len(shown) * each + legend + (20 if more else 0)
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">', *_legend(names, _LABEL)]
    for row, (label, parts) in enumerate(shown):
        y = row * each + legend
        out.append(f'<text x="{_LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(_short(label))}</text>')
        for i, name in enumerate(names):
            value, place = parts.get(name, 0), y + i * thin
            title = f"<title>{escape(str(label))} {escape(str(name))}: {value:,g}</title>"
            width = room * value / top
            out.append(f'<rect class="s{i % 6}" x="{_LABEL}" y="{place}" width="{width:.1f}" height="{thin - 2}">')
            out.append(f'{title}</rect><text x="{_LABEL + width + 6:.1f}" y="{place + 10}">{value:,g}</text>')
    if more:
        out.append(f'<text x="{_LABEL}" y="{height - 6}">and {more} more</text>')
    return "".join([*out, "</svg>"])


def _draw_grid(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    shown, named = rows[:_MAX_BARS], columns[:_MAX_COLUMNS]
    top: float = max([value for row in values[: len(shown)] for value in row[: len(named)]] or [0]) or 1
    width, tall, head = min(90.0, (_WIDTH - _LABEL) / max(1, len(named))), _BAR + _GAP, 22
    fits = max(3, int(width / 7))  # letters of a column's name
    left_out = [f"{len(rows) - len(shown)} more rows"] if len(rows) > len(shown) else []
    left_out += [f"{len(columns) - len(named)} more columns"] if len(columns) > len(named) else []
    height = head + len(shown) * tall + (20 if left_out else 0)
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">']
    for i, name in enumerate(named):
        x = _LABEL + (i + 0.5) * width
        out.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{escape(_short(name, fits))}</text>')
    for row, (label, cells) in enumerate(zip(shown, values, strict=False)):
        y = head + row * tall
        out.append(f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(_short(label))}</text>')
        for i, (name, value) in enumerate(zip(named, cells, strict=False)):
            x, shade = _LABEL + i * width, value / top
            title = f"<title>{escape(label)}, {escape(name)}: {value:,g}</title>"
            out.append(
                f'<rect class="s0" x="{x + 1:.1f}" y="{y + 1}" width="{width - 2:.1f}" height="{tall - 2}" '
                f'fill-opacity="{0.08 + 0.72 * shade:.2f}">{title}</rect>'
            )
            if len(f"{value:,g}") <= fits:
                out.append(f'<text x="{x + width / 2:.1f}" y="{y + 15}" text-anchor="middle">{value:,g}</text>')
    if left_out:
        out.append(f'<text x="{_LABEL}" y="{height - 6}">and {" and ".join(left_out)}</text>')
    return "".join([*out, "</svg>"])


def _draw_scatter(series: Mapping[str, Sequence[Sequence[float]]], across: str, up: str, joined: bool) -> str:
    points = [point for values in series.values() for point in values]
    xs, ys = [point[0] for point in points] or [0.0], [point[1] for point in points] or [0.0]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    names = [name for name in series if name]
    head = 24 if names else 6
    height = _PLOT + head + _MARGIN

    def place(point: Sequence[float]) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - _MARGIN - 8) * (point[0] - left) / ((right - left) or 1)
        return x, head + _PLOT - _PLOT * (point[1] - low) / ((high - low) or 1)

    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">', *_legend(names, _MARGIN)]
    floor = head + _PLOT
    line = 'fill="none" style="stroke:var(--line)"'
    out.append(f'<path {line} d="M{_MARGIN} {head}V{floor}H{_WIDTH - 8}"/>')
    for i, (name, values) in enumerate(series.items()):
        places = [place(point) for point in values]
        if joined and places:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            title = f"<title>{escape(name)}</title>"
            out.append(f'<path fill="none" style="stroke:var(--s{i % 6})" stroke-width="2" d="{path}">{title}</path>')
        else:
            out += [f'<circle class="s{i % 6}" cx="{x:.1f}" cy="{y:.1f}" r="2" fill-opacity="0.6"/>' for x, y in places]
    for text, x, y, anchor in (
        (f"{left:.3g}", _MARGIN, floor + 16, "start"),
        (f"{right:.3g}", _WIDTH - 8, floor + 16, "end"),
        (f"{high:.3g}", _MARGIN - 4, head + 10, "end"),
        (f"{low:.3g}", _MARGIN - 4, floor, "end"),
        (across, (_WIDTH + _MARGIN) / 2, floor + 32, "middle"),
    ):
        out.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>')
    if up:
        middle = head + _PLOT / 2
        out.append(
            f'<text x="14" y="{middle:g}" text-anchor="middle" transform="rotate(-90 14 {middle:g})">{escape(up)}</text>'
        )
    return "".join([*out, "</svg>"])


def _draw_histogram(counts: Sequence[float], low: float, high: float) -> str:
    height, base = 150, 128
    top = max([*counts, 0]) or 1
    width = _WIDTH / max(1, len(counts))
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">']
    for i, count in enumerate(counts):
        tall = (base - 8) * count / top
        edges = f"{low + (high - low) * i / len(counts):g} to {low + (high - low) * (i + 1) / len(counts):g}"
        out.append(
            f'<rect class="s0" x="{i * width + 1:.1f}" y="{base - tall:.1f}" width="{width - 2:.1f}" '
            f'height="{tall:.1f}"><title>{edges}: {count:,g}</title></rect>'
        )
    out.append(f'<text x="2" y="{base + 16}">{low:g}</text>')
    out.append(f'<text x="{_WIDTH - 2}" y="{base + 16}" text-anchor="end">{high:g}</text>')
    return "".join([*out, "</svg>"])


def _short(text: str, limit: int = 22) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
