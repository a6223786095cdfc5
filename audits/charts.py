"""Charts as data: a check describes them in its summary, the report draws them as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _BAR, _GAP, _LABEL, _VALUE = 640, 18, 6, 150, 70
_MAX_BARS = 30


def bars(title: str, values: Mapping[str, Any], *, note: str = "") -> dict[str, Any]:
    """Horizontal bars. `values` maps a label to a number, or to numbers by series ({"train": 3, "test": 1})."""
    series = {
        str(label): dict(value) if isinstance(value, Mapping) else {"": float(value)} for label, value in values.items()
    }
    return {"kind": "bars", "title": title, "values": series, "note": note}


def histogram(title: str, counts: Sequence[float], low: float, high: float, *, note: str = "") -> dict[str, Any]:
    """Columns of equal width from `low` to `high`."""
    return {"kind": "histogram", "title": title, "counts": list(counts), "range": [low, high], "note": note}


def draw(chart: Mapping[str, Any]) -> str:
    """SVG of a chart; colours come from the page's style sheet (classes s0, s1, …)."""
    return _draw_bars(chart["values"]) if chart["kind"] == "bars" else _draw_histogram(chart["counts"], *chart["range"])


def _draw_bars(values: Mapping[str, Mapping[str, float]]) -> str:
    shown = list(values.items())[:_MAX_BARS]
    names = list(dict.fromkeys(name for _, parts in shown for name in parts))
    top: float = max([sum(parts.values()) for _, parts in shown] or [0]) or 1
    room = _WIDTH - _LABEL - _VALUE
    legend = 24 if names != [""] else 0
    height = len(shown) * (_BAR + _GAP) + legend
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">']
    for i, name in enumerate(names if legend else []):
        out.append(f'<rect class="s{i % 6}" x="{_LABEL + i * 110}" y="4" width="12" height="12" rx="2"/>')
        out.append(f'<text x="{_LABEL + i * 110 + 17}" y="14">{escape(str(name))}</text>')
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
