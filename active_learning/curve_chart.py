"""A simulation as one page that opens without a network: curves with their intervals, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 150, 14, 48
_STYLE: Final = """:root{color-scheme:light dark;--bg:#fbfbfa;--ink:#1d1f23;--soft:#62666e;--line:#e2e2df}
@media (prefers-color-scheme:dark){:root{--bg:#16181b;--ink:#e7e8ea;--soft:#a3a8b0;--line:#34383e}}
body{margin:0 auto;max-width:1040px;padding:24px 16px;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
table{border-collapse:collapse;width:100%}th,td{padding:4px 8px;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}td{white-space:nowrap}p{color:var(--soft)}
caption{font-weight:600;text-align:left;padding:24px 0 6px}div{overflow-x:auto}h1{font-size:22px}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}"""
_COLOURS: Final = ("#3b6ea5", "#d98b2b", "#4f9b6e", "#9b5fa8", "#b5524a", "#7d7d7d", "#2a9d9d", "#a08030")
_GRIDS: Final = 7  # lines at most
_STEPS: Final = (1, 2, 5, 10, 20)  # percent


def page(
    title: str,
    found: Mapping[str, Any],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    about: str = "",
) -> str:
    """HTML of `curves.summary`'s answer, what it is `about`, and of tables (what it shows, header, rows)."""
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(about)}</p>"]
    parts += [f"<p>{escape(note)}</p>" for note in found["notes"]]
    parts.append(chart(found))
    for caption, header, rows in tables:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        parts.append(
            f"<div><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def chart(found: Mapping[str, Any]) -> str:
    """SVG: the measure in percent over the labels, on a logarithmic axis, a line and a band for each strategy."""
    budgets: list[int] = found["budgets"]
    strategies: Mapping[str, Any] = found["strategies"]
    lows = [value for one in strategies.values() for value in one["low"] or one["mean"]]
    highs = [value for one in strategies.values() for value in one["high"] or one["mean"]]
    low, high, step = _round_ends(max(0.0, min(lows)), min(1.0, max(highs)))
    span = high - low
    logs = np.log(np.asarray(budgets, dtype=np.float64))
    reach = float(logs[-1] - logs[0]) or 1.0

    def across(place: int) -> float:
        return float(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (logs[place] - logs[0]) / reach)

    def down(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (min(max(value, low), high) - low) / span)

    floor, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    for value in np.arange(low, high + step / 2, step).tolist():
        y = down(value)
        out.append(f'<path d="M{_LEFT} {y:.1f}H{end}" style="stroke:var(--line)"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.0f} %</text>')
    for place, budget in enumerate(budgets):
        out.append(f'<text x="{across(place):.1f}" y="{floor + 18}" text-anchor="middle">{budget:,}</text>')
    out.append(f'<text x="{(_LEFT + end) / 2}" y="{floor + 38}" text-anchor="middle">labels</text>')
    for number, (name, one) in reversed(list(enumerate(strategies.items()))):  # the first one on top
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = "" if number < len(_COLOURS) else ' stroke-dasharray="5 4"'
        if one["low"] is not None:
            there = [f"{across(place):.1f} {down(value):.1f}" for place, value in enumerate(one["high"])]
            back = [f"{across(place):.1f} {down(value):.1f}" for place, value in enumerate(one["low"])][::-1]
            out.append(f'<path d="M{"L".join(there + back)}Z" fill="{colour}" fill-opacity="0.15"/>')
        line = "L".join(f"{across(place):.1f} {down(value):.1f}" for place, value in enumerate(one["mean"]))
        out.append(
            f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}><title>{escape(name)}</title></path>'
        )
        y = _TOP + 14 + 18 * number
        out.append(f'<path d="M{end + 12} {y - 4}h18" stroke="{colour}" stroke-width="2"{dashes}/>')
        out.append(f'<text x="{end + 36}" y="{y}">{escape(name)}</text>')
    return "".join([*out, "</svg>"])


def _round_ends(low: float, high: float) -> tuple[float, float, float]:
    """Ends of an axis of shares around these two, and the step from line to line, all in round percents."""
    step = next((one for one in _STEPS if (high - low) * 100 / one <= _GRIDS), _STEPS[-1])
    ends = np.floor(low * 100 / step) * step, max(np.ceil(high * 100 / step), np.floor(low * 100 / step) + 1) * step
    return float(ends[0]) / 100, float(ends[1]) / 100, step / 100
