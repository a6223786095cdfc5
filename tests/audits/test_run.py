"""A whole audit of real scans: the record, its report, and what is repeated."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import write_digits

from datasetops.audits.labels.probabilities import for_version, read_probabilities
from datasetops.audits.record import AuditRecord, latest_audit
from datasetops.audits.report import write_report
from datasetops.audits.run import audit
from datasetops.errors import FormatError, NotFoundError
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository, verify
from datasetops.schema import load_schema

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("audit")
    repository = Repository.init(root, load_schema("digits"))
    files = write_digits(root / "photos", 12)
    files[5].rename(files[5].with_name("<img src=x onerror=alert(1)>.png"))
    (root / "photos" / "1" / "copy.png").write_bytes(files[0].read_bytes())
    (root / "photos" / "1" / "torn.png").write_bytes(files[0].read_bytes()[:70])
    version = ingest(repository, str(root / "photos"), format="folder").version
    rows = version.annotations().iloc[[10, 50, 90]].drop(columns=["event_id", "created_at"])
    rows["label"] = [str((int(label) + 5) % 10) for label in rows["label"]]
    repository.commit(Change(annotations=rows), message=f"three wrong labels {HOSTILE}")
    return repository


@pytest.fixture(scope="module")
def record(repository: Repository) -> AuditRecord:
    return audit(repository, repository.version())


def test_the_record_tells_everything(repository: Repository, record: AuditRecord) -> None:
    findings = record.findings.to_pandas()
    assert set(findings["check"]) >= {"label_noise", "exact_duplicate", "ingest"}
    assert set(record.info["checks"]) >= {"balance", "coverage", "image_quality", "leakage", "outlier", "schema"}
    assert record.info["models"]
    assert record.worst() == "high"
    assert latest_audit(repository, repository.version()).audit_id == record.audit_id
    noise = record.scores.to_pandas().query("check == 'label_noise'")
    assert noise["score"].between(0, 1).all()
    assert len(noise) == 121
    assert verify(repository) == []


def test_the_same_inputs_give_the_same_findings(repository: Repository, record: AuditRecord) -> None:
    stored = audit(repository, repository.version())
    again = audit(repository, repository.version(), again=True)
    assert stored.findings.equals(record.findings)
    assert again.findings.equals(record.findings)
    assert again.scores.equals(record.scores)


def test_each_check_is_shown_as_its_newest_audit_left_it(repository: Repository, record: AuditRecord) -> None:
    version = repository.version()
    part = audit(repository, version, checks=["exact_duplicate"], where="label = '2'")
    shown = latest_audit(repository, version)
    checks = shown.findings["check"].to_pylist()
    assert (shown.audit_id, shown.info["checks"].keys()) == (part.audit_id, record.info["checks"].keys())
    assert len(part.findings) == checks.count("exact_duplicate") == 0
    assert len(record.findings) - checks.count("exact_duplicate") > checks.count("label_noise") > 0
    assert latest_audit(repository, version, record.audit_id[:8]).findings.equals(record.findings)
    with pytest.raises(NotFoundError, match="no audit 'x'") as raised:
        latest_audit(repository, version, "x")
    assert record.audit_id in raised.value.remedy
    audit(repository, version, again=True)


def test_images_that_are_away_for_a_while_leave_no_trace(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "set", load_schema("digits"))
    files = write_digits(tmp_path / "set" / "photos", 2)
    version = ingest(repository, str(tmp_path / "set" / "photos"), format="folder").version
    checks = ["balance", "image_quality", "near_duplicate"]
    content = files[0].read_bytes()
    for wrong in (None, content[:70]):
        files[0].unlink(missing_ok=True)
        if wrong is not None:
            files[0].write_bytes(wrong)
        part = audit(repository, version, checks=checks)
        assert (part.info["unreadable"], part.reused) == (1, False)
        assert "unreadable" in part.findings.to_pandas()["message"].iloc[0]
    files[0].write_bytes(content)
    whole = audit(repository, version, checks=checks)
    assert (whole.info["unreadable"], whole.reused) == (0, False)
    assert audit(repository, version, checks=checks).reused

    (tmp_path / "set" / "photos").rename(tmp_path / "away")
    with pytest.raises(NotFoundError, match=r"No image of v1 can be read from .*/set/photos: ") as raised:
        audit(repository, version, checks=["image_quality"])
    assert "Put the folder back" in raised.value.remedy
    assert audit(repository, version, checks=["balance"]).info["unreadable"] == 0
    assert audit(repository, version, checks=checks).findings.equals(whole.findings)


def test_an_audit_is_read_without_threads_that_may_outlive_python(repository: Repository, record: AuditRecord) -> None:
    code = (
        "import os, sys\n"
        "import pyarrow.parquet\n"
        "from datasetops.audits.record import latest_audit\n"
        "from datasetops.manifest import Repository\n"
        "repository = Repository.open(sys.argv[1])\n"
        "version = repository.version()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "latest_audit(repository, version)\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
        "raise SystemExit(2)\n"
    )
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository.root)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (2, "0"), done.stderr


def test_a_part_of_the_samples_can_be_audited(repository: Repository) -> None:
    part = audit(repository, repository.version(), checks=["balance"], where="label IN ('1', '2')")
    assert part.info["samples"] < 40
    with pytest.raises(NotFoundError, match="no split"):
        audit(repository, repository.version(), split="test")
    with pytest.raises(NotFoundError, match="No sample"):
        audit(repository, repository.version(), where="width > 1000")
    with pytest.raises(NotFoundError, match="label_noise"):
        audit(repository, repository.version(), checks=["label_noize"])


def test_a_damaged_record_is_found(repository: Repository, record: AuditRecord) -> None:
    key = f"audits/{record.version}/{record.audit_id}/scores.parquet"
    data = repository.store.get(key)
    repository.store.put(key, data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert [damage.object for damage in verify(repository)] == [key]
    repository.store.put(key, data)


def test_the_report_is_one_file_that_needs_no_network_and_runs_nothing(
    repository: Repository, record: AuditRecord, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    write_report(repository, repository.version(), record, out)
    text = out.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "data:image/jpeg;base64," in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<img src=x" not in text


def test_the_report_opens_in_a_browser(repository: Repository, record: AuditRecord, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    out = tmp_path / "report.html"
    write_report(repository, repository.version(), record, out)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", out.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert f"<title>Audit of {record.version}</title>" in page
    assert page.count('class="main"') >= 4
    assert "<h2>label_noise</h2>" in page


def test_supplied_probabilities_are_checked_against_the_version(repository: Repository, tmp_path: Path) -> None:
    version = repository.version()
    samples = version.table("samples").to_pandas()
    names = list(version.schema.class_names)
    frame = pd.DataFrame(0.1, index=pd.Index(samples["uri"], name="uri"), columns=names)
    frame.to_csv(tmp_path / "p.csv")
    read = read_probabilities(tmp_path / "p.csv")
    assert for_version(read, samples, version.schema).shape == (len(samples), 10)
    for wrong, words in (
        (read.rename(columns={"3": "three"}), "'three' is no class"),
        (read * 2, "are not probabilities"),
        (pd.concat([read, read]), "more than one row"),
        (read.set_axis([f"x{i}" for i in range(len(read))]).rename_axis("uri"), "no row belongs"),
    ):
        with pytest.raises(FormatError, match=words):
            for_version(wrong, samples, version.schema)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="no column sample_id"):
        read_probabilities(tmp_path / "bad.csv")
    found = audit(repository, version, checks=["label_noise"], probabilities=read)
    assert "tell no more than how frequent each class is" in found.info["checks"]["label_noise"]["skipped"]
    given = version.annotations().set_index("sample_id")["label"].reindex(samples["sample_id"])
    read += 0.4 * np.array([[label == name for name in names] for label in given])
    read /= read.sum(axis=1).to_numpy()[:, None]
    found = audit(repository, version, checks=["label_noise"], probabilities=read)
    assert json.loads(json.dumps(found.summaries["label_noise"]["probabilities"])) == "supplied"
