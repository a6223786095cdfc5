"""The story of one thing as a picture: what happened, the versions, the models and the exports, joined by lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from datasetops.provenance.told import Story

_MOST: Final = 24  # boxes of a column; the rest are counted
_WIDE, _TALL, _GAP, _BETWEEN, _HEAD, _EDGE = 260, 40, 10, 70, 96, 20
_LETTERS: Final = 40  # that fit a line of a box
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#1b1f24}.t{font-size:16px;font-weight:600}.h{font-weight:600;fill:#57606a}"
    ".s{font-size:11px;fill:#57606a}rect{fill:#f6f8fa;stroke:#8c959f}.c1{fill:#ddf4ff;stroke:#0969da}"
    ".c2{fill:#dafbe1;stroke:#1a7f37}.c3{fill:#fff8c5;stroke:#9a6700}path{fill:none;stroke:#afb8c1}svg{background:#fff}"
)


@dataclass(frozen=True)
class _Box:
    """`to` are keys of the boxes, in columns further right, that it leads to."""

    key: str
    first: str
    second: str
    to: tuple[str, ...] = ()


def draw(story: Story) -> str:
    """A self-contained SVG. Columns: what happened (oldest first), versions, models that learned, exports."""
    columns = _columns(story)
    height = _HEAD + max(len(boxes) for _, boxes in columns) * (_TALL + _GAP) + _TALL
    width = len(columns) * _WIDE + (len(columns) - 1) * _BETWEEN + 2 * _EDGE
    places = {
        box.key: (_EDGE + column * (_WIDE + _BETWEEN), _HEAD + row * (_TALL + _GAP))
        for column, (_, boxes) in enumerate(columns)
        for row, box in enumerate(boxes)
    }
    title = f"Where {story.kind} {story.name} came from and where it went"
    basis = story.basis
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="t" x="{_EDGE}" y="30">{escape(title)}</text>',
        f'<text class="s" x="{_EDGE}" y="50">From {basis["ledger_entries"]:,} ledger entries, up to number '
        f"{basis['newest_entry']} ({basis['newest_entry_sha256'][:12]}…), and {basis['versions']:,} versions</text>",
    ]
    for _, boxes in columns:
        out += [_line(places[box.key], places[one]) for box in boxes for one in box.to if one in places]
    for column, (head, boxes) in enumerate(columns):
        out.append(f'<text class="h" x="{_EDGE + column * (_WIDE + _BETWEEN)}" y="{_HEAD - 12}">{escape(head)}</text>')
        out += [_box(box, places[box.key], column) for box in boxes]
    return "\n".join([*out, "</svg>\n"])


def _columns(story: Story) -> list[tuple[str, list[_Box]]]:
    models = [_model(one) for one in story.models]
    exports = [_export(one) for one in story.exports]
    versions = [
        _Box(f"v:{name}", name, "", tuple(_ending(name, story.models, "m") + _ending(name, story.exports, "e")))
        for name in _kept(story)
    ]
    shown = [item for item in story.items[::-1] if item.kind not in ("export", "checkout", "train")]
    items = [
        _Box(
            f"i:{number}",
            item.words,
            f"{item.time[:16].replace('T', ' ')}  {item.actor}  entry {item.entry}",
            (f"v:{item.version}",) if item.version else (),
        )
        for number, item in enumerate(shown)
    ]
    given = [("What happened", items), ("Versions", versions), ("Models", models), ("Exports", exports)]
    return [(head, _most(boxes)) for head, boxes in given]


def _kept(story: Story) -> list[str]:
    """Versions that something happened in; all of them where they are few."""
    if len(story.versions) <= _MOST:
        return list(story.versions)
    named = {item.version for item in story.items} | {
        str(one.get("version")) for one in (*story.models, *story.exports)
    }
    return [name for name in story.versions if name in named]


def _ending(version: str, ends: Sequence[Mapping[str, object]], letter: str) -> list[str]:
    name = "model" if letter == "m" else "entry"
    return [f"{letter}:{one[name]}" for one in ends if one.get("version") == version]


def _model(one: Mapping[str, object]) -> _Box:
    return _Box(f"m:{one['model']}", str(one["model"]), str(one.get("part") or f"from {one.get('version')}"))


def _export(one: Mapping[str, object]) -> _Box:
    place = one.get("path") or one.get("export") or ""
    return _Box(f"e:{one['entry']}", str(place), f"{one.get('format') or ''} {str(one['time'])[:16].replace('T', ' ')}")


def _most(boxes: list[_Box]) -> list[_Box]:
    if len(boxes) <= _MOST:
        return boxes
    left = len(boxes) - _MOST + 1
    half = (_MOST - 1) // 2
    between = _Box(f"more:{boxes[half].key}", f"… {left:,} more …", "")
    return [*boxes[:half], between, *boxes[half + left :]]


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x, y, x2, y2 = start[0] + _WIDE, start[1] + _TALL // 2, end[0], end[1] + _TALL // 2
    bend = (x2 - x) // 2
    return f'<path d="M{x} {y}C{x + bend} {y} {x2 - bend} {y2} {x2} {y2}"/>'


def _box(box: _Box, place: tuple[int, int], column: int) -> str:
    x, y = place
    return (
        f'<g><title>{escape(box.first)}</title><rect class="c{column}" x="{x}" y="{y}" width="{_WIDE}" height="{_TALL}" '
        f'rx="4"/><text x="{x + 8}" y="{y + 17}">{escape(_cut(box.first))}</text>'
        f'<text class="s" x="{x + 8}" y="{y + 33}">{escape(_cut(box.second))}</text></g>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
