"""Decisions on findings, and the order in which to review."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from datasetops.audits.decisions import Decision, decide, decisions, open_findings, read_decisions
from datasetops.audits.record import latest_audit
from datasetops.audits.run import audit
from datasetops.audits.worklist import worklist
from datasetops.cli.main import app
from datasetops.errors import FormatError, NotFoundError
from datasetops.manifest import Change, Repository
from datasetops.records import Finding, findings_table

FINDINGS = findings_table(
    [
        Finding("label_noise", "high", 0.01, "a", sample_id="a"),
        Finding("label_noise", "medium", 0.2, "b", sample_id="b"),
        Finding("label_noise", "medium", 0.1, "c", sample_id="c"),
        Finding("outlier", "high", 0.1, "d", sample_id="d"),
        Finding("mask", "high", 0.0, "e", sample_id="e"),
        Finding("coverage", "high", 0.0, "about no sample"),
    ]
)


def said(count: int, verdict: str, check: str, severity: str, seconds: float | None = None) -> list[Decision]:
    return [
        Decision(f"{check}{severity}{verdict}{i}", verdict, "ann", check, severity, 0.1, "", seconds)
        for i in range(count)
    ]


def order(*decided: Decision, budget: int | None = None) -> list[str]:
    names: list[str] = worklist(FINDINGS, decided, budget).findings["sample_id"].to_pylist()
    return names


def test_without_decisions_sure_and_quick_ones_come_first() -> None:
    assert order() == ["a", "d", "c", "b", "e"]
    assert order(budget=2) == ["a", "d"]


def test_a_check_that_is_mostly_wrong_moves_back() -> None:
    assert order(*said(30, "fine", "label_noise", "high"))[-1] == "a"
    assert order(*said(30, "error", "label_noise", "medium"))[:3] == ["c", "b", "a"]


def test_a_check_that_takes_long_moves_back() -> None:
    assert order(*said(40, "error", "label_noise", "high", seconds=120.0))[:2] == ["d", "e"]


def test_expected_errors_come_from_decisions() -> None:
    found = worklist(FINDINGS, said(45, "error", "label_noise", "high") + said(55, "fine", "label_noise", "high"))
    chance = dict(zip(found.findings["sample_id"].to_pylist(), found.findings["chance"].to_pylist(), strict=True))
    assert chance["a"] == pytest.approx((45 + 5 * 0.8) / 105)
    assert found.expected_errors == pytest.approx(sum(chance.values()))


def test_decided_findings_leave_the_list_and_unsure_ones_stay() -> None:
    ids = dict(zip(FINDINGS["sample_id"].to_pylist(), FINDINGS["finding_id"].to_pylist(), strict=True))
    made = [
        Decision(ids[s], v, "ann", "label_noise", "high", 0.1)
        for s, v in (("a", "fine"), ("b", "error"), ("c", "unsure"))
    ]
    assert set(order(*made)) == {"c", "d", "e"}
    assert set(open_findings(FINDINGS, made)["sample_id"].to_pylist()) == {"b", "c", "d", "e", None}


def test_decisions_stay_with_a_finding_over_versions(repository: Repository) -> None:
    rows = [{"sample_id": name, "uri": f"{name}.png", "width": 10, "height": 10} for name in "abc"]
    boxes = [
        {
            "annotation_id": f"{name}/1",
            "sample_id": name,
            "kind": "box",
            "label": "cat",
            "x1": 0,
            "y1": 0,
            "x2": x2,
            "y2": 5,
        }
        for name, x2 in zip("abc", (0, 5, 20), strict=True)
    ]
    repository.commit(Change(samples=rows, annotations=boxes), message="boxes")
    record = audit(repository, repository.version(), checks=["schema"])
    ids = {row["sample_id"]: row["finding_id"] for row in record.findings.to_pylist() if row["annotation_id"]}
    assert set(ids) == {"a", "c"}
    where = ["-C", str(repository.root)]
    done = CliRunner().invoke(app, ["decide", "v1", ids["a"][:10], "--verdict", "fine", "--note", "a line", *where])
    assert done.exit_code == 0, done.output
    repository.commit(Change(samples=[{"sample_id": "d", "uri": "d.png"}]), message="one more")
    later = audit(repository, repository.version(), checks=["schema"])
    still = open_findings(later.findings, decisions(repository))
    assert ids["a"] not in still["finding_id"].to_pylist()
    assert ids["c"] in still["finding_id"].to_pylist()
    listed = CliRunner().invoke(app, ["findings", "v2", "--open", "--check", "schema", "--json", *where])
    assert ids["a"] not in [row["finding_id"] for row in json.loads(listed.stdout)]
    with pytest.raises(NotFoundError, match="has no finding 'zz'"):
        decide(repository, repository.version(), latest_audit(repository, repository.version()).findings,
               [{"finding_id": "zz", "verdict": "fine"}])  # fmt: skip
    decide(repository, repository.version(), later.findings, [{"finding_id": ids["a"], "verdict": "error"}])
    assert [item.verdict for item in decisions(repository)] == ["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finding_id\nx\n", "line 1: there is no column verdict"),
        ("finding_id,verdict\nx,wrong\n", "line 2: verdict 'wrong' is not known"),
        ("finding_id,verdict,seconds\nx,fine,soon\n", "line 2: seconds 'soon' is no number"),
        ('finding_id,verdict\nx,"fine\n', "line 2: broken CSV"),
    ],
)
def test_faulty_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "decisions.csv"
    file.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_decisions(file)


def test_semicolons_and_short_rows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "decisions.csv"
    file.write_bytes("\ufefffinding_id;verdict;note\r\nx; Fine ;a, b\r\n\r\ny;error\r\nz;;\r\n".encode())
    said = [(row["finding_id"], row["verdict"], row["note"], row["seconds"]) for row in read_decisions(file)]
    assert said == [("x", "fine", "a, b", None), ("y", "error", "", None)]


def test_what_a_worklist_expects_is_not_taken_for_what_was_measured(tmp_path: Path) -> None:
    rows = worklist(FINDINGS, []).findings.to_pandas().assign(verdict="fine")
    rows.to_csv(tmp_path / "worklist.csv", index=False)
    assert {row["seconds"] for row in read_decisions(tmp_path / "worklist.csv")} == {None}


def test_an_id_that_means_no_finding_or_several_is_told_how_to_mend(repository: Repository) -> None:
    ids = [f"{number:016x}" for number in range(30)]
    found = FINDINGS.slice(0, 1).to_pylist()
    many = pa.Table.from_pylist([{**found[0], "finding_id": one} for one in ids], schema=FINDINGS.schema)
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png"}]), message="one")
    for wanted, remedy in (
        ("zz", "dsops findings v1 lists findings, each with its id."),
        ("0000", "Give more of one: "),
    ):
        with pytest.raises(NotFoundError) as error:
            decide(repository, repository.version(), many, [{"finding_id": wanted, "verdict": "fine"}])
        assert error.value.remedy.startswith(remedy)
        assert error.value.remedy.count(",") <= 5
