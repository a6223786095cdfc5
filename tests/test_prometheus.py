from __future__ import annotations

import math
import re
import stat
from pathlib import Path

import pytest

from datasetops.prometheus import Gauge, exposition, write_exposition

_PLAIN = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, as a scraper reads them: only after HELP and TYPE of their own name."""
    found = {}
    current = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            continue
        if line.startswith("# TYPE "):
            assert line == f"# TYPE {current} gauge"
            continue
        match = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)', line)
        assert match, line
        assert match[1] == current
        labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2] or "")
        told = tuple((name, re.sub(r"\\.", lambda found: _PLAIN[found[0]], value)) for name, value in labels)
        found[match[1], told] = float(match[3])
    return found


def test_labels_and_numbers_come_back_as_they_were() -> None:
    odd = 'a "b" \\n c\n, d="e"} é'
    gauges = [
        Gauge("one_ratio", "first\nline \\ second", [({"name": odd, "of": ""}, 0.1), ({"name": "x", "of": ""}, 1e-17)]),
        Gauge("bare", "no labels", [({}, math.inf)]),
        Gauge("never", "no samples", []),
    ]
    text = exposition(gauges)
    assert read(text) == {
        ("one_ratio", (("name", odd), ("of", ""))): 0.1,
        ("one_ratio", (("name", "x"), ("of", ""))): 1e-17,
        ("bare", ()): math.inf,
    }
    assert "# HELP one_ratio first\\nline \\\\ second\n" in text
    assert "never" not in text
    assert exposition([Gauge("a", "b", [({}, math.nan)])]).endswith("a NaN\n")


@pytest.mark.parametrize(
    "gauges",
    [
        [Gauge("a-b", "", [({}, 1)])],
        [Gauge("a", "", [({"x y": "1"}, 1)])],
        [Gauge("a", "", [({"x": "1"}, 1), ({"x": "1"}, 2)])],
        [Gauge("a", "", []), Gauge("a", "", [])],
    ],
)
def test_what_a_scraper_would_refuse_is_refused(gauges: list[Gauge]) -> None:
    with pytest.raises(ValueError, match="expected"):
        exposition(gauges)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "dsops.prom"
    write_exposition(file, [Gauge("a", "", [({}, 1)])])
    before = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) & 0o444
    with pytest.raises(ValueError, match="expected"):
        write_exposition(file, [Gauge("a", "", [({}, 1)]), Gauge("a", "", [])])
    assert file.read_text() == before
    write_exposition(file, [Gauge("a", "", [({}, 2)])])
    assert file.read_text().endswith("a 2.0\n")
    assert list(tmp_path.iterdir()) == [file]
