"""The table of comparisons: its order, what stays of an earlier one, and a run of scripts of which one fails."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE = "# Measurements\n\n<!-- table -->\n\n{}\n\n<!-- end of table -->\n\n## Versions\n\nText | with | bars.\n"
SCRIPT = """
from ratios import record
record("counting", 1.0, "numpy, a setting", {theirs}, "s")
if __name__ == "__main__":
    print("| a |")
    raise SystemExit({status})
"""


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("ratios", monkeypatch)


@pytest.fixture
def run(ratios: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """run.py on a folder and a page of its own."""
    module = load("run", monkeypatch)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "benchmarks.md")
    shutil.copy(BENCHMARKS / "ratios.py", tmp_path)
    return module


def test_what_is_behind_comes_first_whether_more_or_less_is_better(
    ratios: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ratios.FILE, str(tmp_path / "lines"))
    ratios.record("ahead", 2.0, "numpy", 5000.0, "s")
    ratios.record("behind", 50.0, "a bare loop, plain", 100.0, "images/s", more_is_better=True)
    ratios.record("alike", 0.9504, "numpy, twice", 0.9503, "accuracy", more_is_better=True)
    ratios.record("a little behind", 1.0, "numpy", 0.9, "s")
    rows = ratios.read(tmp_path / "lines", "script", "2026-01-02")
    lines = ratios.table(rows).splitlines()
    numpy = f"numpy {version('numpy')}"
    assert lines[2:] == [
        "| behind | images/s | 50 | 100 | a bare loop, plain | **0.5** | `script.py` | 2026-01-02 |",
        f"| a little behind | s | 1 | 0.9 | {numpy} | **0.9** | `script.py` | 2026-01-02 |",
        f"| alike | accuracy | 0.95 | 0.95 | {numpy}, twice | 1 | `script.py` | 2026-01-02 |",
        f"| ahead | s | 2 | 5,000 | {numpy} | 2500 | `script.py` | 2026-01-02 |",
    ]
    assert sorted(ratios.rows_of("\n".join(lines)), key=str) == sorted(rows, key=str)


def test_nothing_is_recorded_without_the_variable(
    ratios: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(ratios.FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    ratios.record("what", 1.0, "numpy", 2.0, "s")
    assert not list(tmp_path.iterdir())
    assert ratios.read(tmp_path / "missing", "script", "2026-01-02") == []


def test_a_script_that_fails_stops_no_other_and_its_rows_stay(
    run: ModuleType, ratios: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = [
        ratios.Row("old", "s", "1", "2", "peer 1, so", 2.0, script, "2025-03-04")
        for script in ("fails", "not_run", "works")
    ]
    run.PAGE.write_text(PAGE.format(ratios.table(old)))
    for name, status in (("fails", 3), ("works", 0)):
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(status=status, theirs=4.0))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit, match=r"^Failed: fails\.$"):
        run.main()
    page = run.PAGE.read_text()
    found = {(row.script, row.what, row.times, row.date) for row in ratios.rows_of(page)}
    today = str(run.date.today())
    assert found == {
        ("fails", "old", 2.0, "2025-03-04"),
        ("not_run", "old", 2.0, "2025-03-04"),
        ("works", "counting", 4.0, today),
    }
    assert page.startswith("# Measurements\n\n<!-- table -->\n\nLast run on ")
    assert page.endswith(PAGE.partition("{}")[2])
    assert (tmp_path / "results" / "works.md").read_text() == "| a |\n"
    run.PAGE.write_text(page)
    monkeypatch.setattr(sys, "argv", ["run.py", "works"])
    run.main()
    assert run.PAGE.read_text().count("\n") == page.count("\n")


def test_a_run_of_nothing_keeps_the_table_and_unknown_names_are_refused(
    run: ModuleType, ratios: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = ratios.Row("old", "s", "1", "2", "peer 1", 2.0, "gone", "2025-03-04")
    run.PAGE.write_text(PAGE.format(ratios.table([row])))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    run.main()
    assert ratios.rows_of(run.PAGE.read_text()) == [row]
    monkeypatch.setattr(sys, "argv", ["run.py", "nonsense --rows 3"])
    with pytest.raises(SystemExit):
        run.main()
    assert "nonsense: no such benchmark" in capsys.readouterr().err


def test_the_table_of_the_documentation_is_in_order_and_of_scripts_that_exist(
    ratios: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load("run", monkeypatch)
    table = run.PAGE.read_text(encoding="utf-8").partition(run.BEGIN)[2].partition(run.END)[0]
    rows = ratios.rows_of(table)
    assert rows
    assert {row.script for row in rows} <= set(run.scripts())
    assert ratios.table(rows) in table
    assert not {"ratios", "contenders", "box_data", "run"} & set(run.scripts())
