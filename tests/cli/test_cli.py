from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import photos, write_digits
from typer.testing import CliRunner, Result

from datasetops.cli.main import app
from datasetops.records import FINDINGS

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSOPS_ACTOR", "lead")
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return call


@pytest.fixture
def filled(run: Run, tmp_path: Path) -> Run:
    write_digits(tmp_path / "set" / "photos", 2)
    assert run("init", "set", "--schema", "digits").exit_code == 0
    assert run("ingest", "set/photos", "-C", "set", "--quiet").exit_code == 0

    def call(*arguments: str) -> Result:
        return run(*arguments, "-C", "set")

    return call


def answer(result: Result) -> object:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_first_session(run: Run, tmp_path: Path) -> None:
    write_digits(tmp_path / "photos", 2)
    assert answer(run("init", "set", "--schema", "digits", "--json"))["schema"] == "digits"  # type: ignore[index]
    first = answer(run("ingest", "photos", "-C", "set", "--json"))
    assert {key: first[key] for key in ("version", "samples", "annotations", "rejected")} == {  # type: ignore[index]
        "version": "v1",
        "samples": 20,
        "annotations": 20,
        "rejected": 0,
    }
    log = answer(run("-C", "set", "--json", "log"))
    assert [(row["version"], row["author"]) for row in log] == [("v1", "lead")]  # type: ignore[union-attr]
    split = answer(run("split", "train=0.5,test=0.5", "-C", "set", "--json", "--seal", "test"))
    assert sum(split["by_split"].values()) == 20  # type: ignore[index]
    shown = answer(run("show", "-C", "set", "--json"))
    assert shown["sealed"] == ["test"]  # type: ignore[index]
    assert shown["by_class"]["7"] == 2  # type: ignore[index]
    changes = answer(run("diff", "v1", "v2", "-C", "set", "--json", "--rows", "rows.csv"))
    assert changes["samples"] == {"added": 0, "removed": 0, "changed": 20}  # type: ignore[index]
    assert (tmp_path / "rows.csv").read_text().count("\n") == 21
    assert answer(run("verify", "-C", "set", "--json", "--media")) == {"whole": True, "damaged": []}
    assert run("checkout", "v2", "out", "-C", "set").exit_code == 0
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 20
    counted = answer(run("query", "SELECT count(*) AS n FROM samples", "-C", "set", "--json"))
    assert counted == [{"n": 20}]


def test_text_output_is_for_people(filled: Run) -> None:
    log = filled("log").stdout
    assert "v1 (main)" in log
    assert "Ingest" in log
    assert "20 samples" in filled("show").stdout
    assert "is whole" in filled("verify").stdout
    assert filled("branch", "trial").exit_code == 0
    assert "trial" in filled("branch").stdout
    assert "main has it all already" in filled("merge", "trial").stdout
    assert "Removed 0 objects" in filled("gc").stdout
    assert "works" in filled("doctor", "--json").stdout


@pytest.mark.slow
def test_audit_and_findings(filled: Run, tmp_path: Path) -> None:
    checks = ("--check", "exact_duplicate", "--check", "schema", "--check", "balance")
    found = answer(filled("audit", "v1", *checks, "--report", "report.html", "--json", "--quiet"))
    assert set(found["checks"]) == {"exact_duplicate", "schema", "balance"}  # type: ignore[index]
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert "No findings" in filled("findings", "v1").stdout
    scores = filled("findings", "v1", "--all-scores", "--check", "schema", "--format", "csv").stdout
    assert len(scores.splitlines()) == 21

    copy = sorted((tmp_path / "set" / "photos" / "3").iterdir())[0]
    (tmp_path / "set" / "photos" / "4" / "copy.png").write_bytes(copy.read_bytes())
    assert filled("ingest", "set/photos", "--quiet").exit_code == 0
    failed = filled("audit", "v2", *checks, "--fail-on", "high", "--quiet")
    assert failed.exit_code == 3
    rows = answer(filled("findings", "v2", "--severity", "high", "--json"))
    (row,) = rows  # type: ignore[misc]
    assert set(FINDINGS.names) <= set(row)
    assert "their labels differ: 3, 4" in row["message"]
    for name in ("csv", "json", "parquet"):
        assert filled("findings", "v2", "--out", f"findings.{name}").exit_code == 0
        assert (tmp_path / f"findings.{name}").stat().st_size
    listed = answer(filled("audit", "--list", "--json"))
    assert "label_noise" in {item["check"] for item in listed}  # type: ignore[union-attr]


def test_what_ingest_found_is_shown_before_any_audit(filled: Run, tmp_path: Path) -> None:
    assert "No findings" in filled("findings", "--check", "ingest").stdout
    folder = tmp_path / "set" / "photos" / "4"
    (folder / "torn.png").write_bytes(b"\x89PNG")
    (folder / "copy.png").write_bytes(sorted(folder.iterdir())[0].read_bytes())
    assert filled("ingest", "set/photos", "--quiet").exit_code == 0
    shown = filled("findings", "--check", "ingest")
    assert "torn.png" in shown.stdout
    assert filled("audit", "--check", "schema", "--quiet").exit_code == 0
    assert filled("findings", "--check", "ingest").stdout == shown.stdout
    assert filled("findings", "--check", "ingest", "--check", "balance").exit_code == 1


def test_findings_are_told_with_their_ids_and_counted(filled: Run, tmp_path: Path) -> None:
    for name in ("4", "5"):
        copy = sorted((tmp_path / "set" / "photos" / "3").iterdir())[0]
        (tmp_path / "set" / "photos" / name / "copy.png").write_bytes(copy.read_bytes())
    assert filled("ingest", "set/photos", "--quiet").exit_code == 0
    assert filled("audit", "--check", "exact_duplicate", "--quiet").exit_code == 0
    first = filled("findings").stdout.splitlines()[1].split()[0]
    assert "decided" not in filled("findings").stdout
    assert "1 decision kept: 1 fine." in filled("decide", "v2", first, "--verdict", "fine").stdout
    shown = filled("findings").stdout.splitlines()
    assert shown[0].split()[-1] == "decided"
    assert [line.split()[-1] for line in shown[1:] if line.startswith(first)] == ["fine"]
    assert (
        "1 finding to review, less than a minute; 1 true error to expect" in filled("findings", "--budget", "1").stderr
    )


def test_findings_are_those_of_the_newest_audit_of_each_check(filled: Run, tmp_path: Path) -> None:
    copy = sorted((tmp_path / "set" / "photos" / "3").iterdir())[0]
    (tmp_path / "set" / "photos" / "4" / "copy.png").write_bytes(copy.read_bytes())
    assert filled("ingest", "set/photos", "--quiet").exit_code == 0
    checks = ("--check", "exact_duplicate", "--check", "schema")
    first = answer(filled("audit", *checks, "--json", "--quiet"))
    assert (first["reused"], first["report"]) == (False, str(tmp_path / "v2-exact_duplicate-schema.html"))  # type: ignore[index]
    assert filled("audit", "--check", "schema").exit_code == 0
    again = filled("audit", "--check", "schema")
    assert "--again" in again.stderr
    assert "exact_duplicate" in filled("findings").stdout
    assert "No findings" in filled("findings", "--label", "7").stdout
    assert filled("findings", "--check", "schema").exit_code == 0
    assert "exact_duplicate" in filled("findings", "--audit", first["audit"][:6]).stdout  # type: ignore[index]
    for arguments, words in (
        (("--check", "exact_dublicate"), "Did you mean 'exact_duplicate'"),
        (("--check", "balance"), "dsops audit v2 --check balance"),
        (("--label", "77"), "Did you mean '7'"),
        (("--split", "train"), "None of its samples has a split yet"),
        (("--audit", "nothing"), "Valid audits"),
    ):
        refused = filled("findings", *arguments)
        assert refused.exit_code == 1
        assert words in refused.output
    assert filled("findings", "--all-scores", "--label", "7").exit_code == 2


def test_rights_are_said_of_a_whole_folder(filled: Run, tmp_path: Path) -> None:
    (tmp_path / "rights.csv").write_text(
        "sample_id,license\n"
        + "".join(
            f"{row['sample_id']},CC0-1.0\n"
            for row in answer(filled("query", "select sample_id from samples limit 1", "--json"))  # type: ignore[union-attr]
        )
    )
    assert filled("ingest", "rights.csv", "--quiet").exit_code == 0
    made = answer(filled("ingest", "set/photos", "--set", "license=CC-BY-4.0", "--set", "origin=site 4", "--json"))
    assert made["version"] == "v3"  # type: ignore[index]
    asked = "select license, origin, count(*) as n from samples group by all order by n"
    assert answer(filled("query", asked, "--json")) == [
        {"license": "CC0-1.0", "origin": "site 4", "n": 1},
        {"license": "CC-BY-4.0", "origin": "site 4", "n": 19},
    ]
    wrong = filled("ingest", "set/photos", "--set", "licence=CC-BY-4.0")
    assert (wrong.exit_code, "there are license, origin, consent" in wrong.stderr) == (2, True)
    assert filled("ingest", "set/photos", "--set", "license").exit_code == 2


def test_a_split_tells_what_was_asked_and_what_came_out(filled: Run) -> None:
    told = filled("split", "train=0.5,test=0.5").stdout
    assert "asked" in told
    placed = [int(line.split()[-1]) for line in told.splitlines() if "50.0%" in line]
    assert sum(placed) == 20
    assert "nothing was left to place" in filled("split", "train=0.5,test=0.5").stdout
    assert answer(filled("split", "train=0.5,test=0.5", "--json"))["placed"] == {}  # type: ignore[index]


@pytest.mark.slow
def test_near_duplicates_stay_together_where_that_is_asked(run: Run, tmp_path: Path) -> None:
    shots = [tmp_path / "shots" / name / f"{number}.jpg" for name in ("cat", "dog") for number in range(6)]
    for place, file in enumerate(shots):
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (320 + 16 * (place % 6), 214 + 11 * (place % 6))
        photos()[place // 6].resize(size).save(file, quality=70 + 4 * (place % 6))
    assert run("init", "set", "--schema", "cifar10").exit_code == 0
    assert run("ingest", "shots", "-C", "set").exit_code == 0
    assert run("branch", "apart", "-C", "set").exit_code == 0
    told = run("split", "train=0.5,test=0.5", "-C", "set", "--branch", "apart")
    assert "near-duplicates" not in told.stdout
    leaks = answer(run("audit", "apart", "--check", "leakage", "-C", "set", "--json"))
    assert leaks["checks"]["leakage"]["findings"] > 0  # type: ignore[index]
    shots[5].unlink()
    told = run("split", "train=0.5,test=0.5", "-C", "set", "--look-alikes")
    assert "images that cannot be read: 1;" in told.stderr
    assert "Kept together: groups, copies of a file, and 25 pairs of near-duplicates." in told.stdout
    query = (
        "SELECT DISTINCT label, split FROM annotations JOIN samples USING (sample_id) WHERE uri NOT LIKE '%cat/5.jpg'"
    )
    assert len(answer(run("query", query, "-C", "set", "--json"))) == 2  # type: ignore[arg-type]
    again = answer(run("split", "train=0.5,test=0.5", "-C", "set", "--branch", "apart", "--look-alikes", "--json"))
    assert again["pairs"] == 25  # type: ignore[index]
    assert again["apart"] > 0  # type: ignore[index]
    assert "sum to 1" in run("split", "train=0.5,test=0.6", "-C", "set", "--look-alikes").stderr
    for file in shots:
        file.unlink(missing_ok=True)
    refused = run("split", "train=1", "-C", "set", "--look-alikes")
    assert refused.exit_code == 1
    assert "No image of v3 can be looked at" in refused.output


def test_samples_that_are_removed_stay_in_older_versions(filled: Run, tmp_path: Path) -> None:
    assert answer(filled("remove", "--where", "label = '3'", "--json")) == {
        "version": "v2",
        "changed": True,
        "removed": 2,
    }
    assert answer(filled("show", "v2", "--json"))["samples"] == 18  # type: ignore[index]
    assert answer(filled("show", "v1", "--json"))["samples"] == 20  # type: ignore[index]
    assert filled("remove").exit_code == 2
    (tmp_path / "list.csv").write_text("score,sample_id\n1,nobody\n")
    assert "v2: 0 samples removed; there were none" in filled("remove", "--batch", str(tmp_path / "list.csv")).stdout


def test_a_schema_can_be_started_from_one_that_comes_along(filled: Run, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(filled("schema", "show", "blood_cells", "--yaml").stdout)
    assert filled("schema", "diff", "blood_cells", str(tmp_path / "own.yaml")).stdout == "The schemas are equal.\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("show", "v9"), 1, "There is no version or branch 'v9'"),
        (("diff", "v1"), 0, "added"),
        (("audit", "v1", "--check", "label_niose"), 1, "Did you mean 'label_noise'"),
        (("audit", "v1", "--fail-on", "huge"), 2, "--fail-on"),
        (("findings", "v1"), 1, "dsops audit v1"),
        (("audit", "v1", "--split", "tset"), 1, "None of its samples has a split yet"),
        (("audit", "v1", "--report", "nowhere/x.html"), 1, "no folder nowhere"),
        (("query", "SELECT 1", "--out", "nowhere/q.csv"), 1, "there is no folder nowhere"),
        (("query", "SELECT 1", "--out", "nowhere/q.parquet"), 1, "local file 'nowhere/q.parquet'"),
        (("init", "set/dsops.toml", "--schema", "digits"), 1, "is there already, and is no folder"),
        (("query", "DROP TABLE samples"), 1, "Only one SELECT"),
        (("split", "train=0.9,test=0.9"), 2, "sum to 1"),
        (("split", "train"), 2, "NAME=SHARE"),
        (("ingest", "nowhere"), 1, "nowhere"),
        (("ingest", "set/photos", "--format", "cocoa"), 1, "coco"),
        (("export", "v1", "set", "--format", "coco"), 1, "not empty"),
        (("init", "set", "--schema", "digits"), 1, "already"),
        (("init", "other"), 2, "--schema"),
        (("schema", "check", "missing.yaml"), 1, "missing.yaml"),
        (("guide", "show", "ten"), 1, "no section"),
        (("checkout", "v1"), 2, "DIR"),
    ],
)
def test_errors_are_one_message_with_a_remedy(filled: Run, arguments: tuple[str, ...], status: int, words: str) -> None:
    result = filled(*arguments)
    assert result.exit_code == status, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_errors_in_json_mode_are_one_document(filled: Run) -> None:
    result = filled("show", "v9", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == 1


def test_a_folder_without_repository_says_how_to_make_one(run: Run) -> None:
    result = run("log")
    assert result.exit_code == 1
    assert "dsops init" in result.output


def test_schema_and_guide_commands(filled: Run, tmp_path: Path) -> None:
    assert filled("schema", "check", "cifar10").exit_code == 0
    assert answer(filled("schema", "show", "--json"))["name"] == "digits"  # type: ignore[index]
    assert "equal" in filled("schema", "diff", "digits", "v1").stdout
    assert filled("guide", "check").exit_code == 0
    assert "Edge cases" in filled("guide", "show", "7").stdout
    (tmp_path / "guide.md").write_text("# Digits\n\n## 7\n\n### Definition\n\nA seven.\n")
    assert filled("guide", "check", "guide.md").exit_code == 3
    told = filled("guide", "set", "guide.md")
    assert told.exit_code == 0
    assert "v2: guide set" in told.stdout
    assert "guide.md:7: 8 has no section" in told.stdout
    (tmp_path / "step.yaml").write_text(
        "steps:\n  - rename: {from: '7', to: seven}\n  - split: {from: '1', to: [{name: bare}, {name: serif}]}\n"
    )
    moved = answer(filled("schema", "migrate", "step.yaml", "--json"))
    assert (moved["version"], moved["relabel"]) == ("v3", 2)  # type: ignore[index]
    assert answer(filled("show", "--json"))["by_class"]["seven"] == 2  # type: ignore[index]


def test_the_reference_in_docs_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.reference(), "run: make docs"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from datasetops.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(set(sys.modules) & {'numpy', 'pandas', 'pyarrow', 'torch', 'pydantic', 'rich', 'sklearn'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_shell_completion_is_offered() -> None:
    environment = os.environ | {"_DSOPS_COMPLETE": "complete_bash", "COMP_WORDS": "dsops au", "COMP_CWORD": "1"}
    done = subprocess.run(
        [Path(sys.executable).parent / "dsops"], env=environment, capture_output=True, text=True, check=False
    )
    assert "audit" in done.stdout
