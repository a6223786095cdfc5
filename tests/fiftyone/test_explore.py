"""The commands: a version explored in FiftyOne's real app, asked by HTTP; what was changed there comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pictures import write_digits
from typer.testing import CliRunner

from datasetops.cli.main import app

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("fiftyone")]
_VIEWS = "query { dataset(name: %s) { name mediaType savedViews { name } } }"


def test_the_app_shows_the_version_and_edits_come_back(
    tmp_path: Path, fiftyone: Any, address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_digits(tmp_path / "digits", 2)
    files[0].with_name("copy.png").write_bytes(files[0].read_bytes())

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "-C", "set"])

    assert CliRunner().invoke(app, ["init", "set", "--schema", "digits"]).exit_code == 0
    assert run("ingest", "digits").exit_code == 0
    assert run("audit", "v1", "--check", "exact_duplicate").exit_code == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        sys.executable,
        "-c",
        "from datasetops.cli.main import main; main()",
        "explore",
        "v1",
        "--remote",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, "-C", "set", "--port", port, "--name", name, "--database", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"FIFTYONE_DO_NOT_TRACK": "1"},
    )
    assert process.stdout is not None
    try:
        told = b""
        while not told.endswith(b"}\n") and (line := process.stdout.readline()):
            told += line
        answer = json.loads(told)
        base = f"http://127.0.0.1:{port}"
        assert answer["url"] == f"{base}/datasets/{name}"
        assert answer["views"] == ["exact_duplicate", "severity_medium"]
        assert "<html" in httpx.get(answer["url"], timeout=30).text.lower()
        asked = httpx.post(f"{base}/graphql", json={"query": _VIEWS % json.dumps(name)}, timeout=30)
        found = asked.json()["data"]["dataset"]
        assert (found["name"], found["mediaType"]) == (name, "image")
        assert [view["name"] for view in found["savedViews"]] == answer["views"]
        path = fiftyone.load_dataset(name).first().filepath
        assert httpx.get(f"{base}/media", params={"filepath": path}).content == Path(path).read_bytes()
        taken = run("explore", "v1", "--port", port, "--name", name, "--database", address)
        assert taken.exit_code == 1
        assert f"port {port} is taken" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0

    dataset = fiftyone.load_dataset(name)
    first = dataset.first()
    before = first.classification.label
    first.classification.label = "7" if before != "7" else "8"
    first.tags.append("smudge")
    first.save()
    options = ["--from", "fiftyone", "--database", address, "--name", name]
    result = run("ingest", *options, "--actor", "kim", "--tags", "seen", "--json")
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)
    assert (counts["version"], counts["labels"]["changed"], counts["tagged"]) == ("v2", 1, 1)
    assert "No new version" in run("ingest", *options).stdout
    fiftyone.Dataset(f"{name}_other", persistent=True).add_sample(
        fiftyone.Sample(path, truth=fiftyone.Classification(label="3"))
    )
    other = run("ingest", "--from", "fiftyone", "--database", address, "--name", f"{name}_other")
    assert (other.exit_code, "1 labels were left" in other.stdout) == (0, True), (
        other.output
    )  # a source does not overrule
    fiftyone.delete_dataset(f"{name}_other")
    for wrong in (
        ["digits", *options],
        ["--from", "nowhere"],
        [],
        ["digits", "--tags", "x"],
        [*options, "--copy"],
        [*options, "--field", "boxes"],
    ):
        assert run("ingest", *wrong).exit_code == 2, wrong
