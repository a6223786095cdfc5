"""Pulling as annotators submit, with a real server that calls the webhook."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import httpx
import pytest
from label_studio_server import Annotator, Server
from pictures import write_digits

from datasetops.ingest import ingest
from datasetops.labeling import make_batch, open_project, push, set_up, watch
from datasetops.manifest import Repository
from datasetops.schema import load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]

ROOT = Path(__file__).parents[2]


def test_a_submitted_answer_is_pulled_when_the_webhook_is_called(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.init(tmp_path / "repository", load_schema(ROOT / "schemas" / "digits.yaml"))
    write_digits(tmp_path / "photos", 1, side=32)
    ingest(repository, tmp_path / "photos", format="folder")
    project, _ = set_up(repository, repository.version(), name="watched")
    ids = repository.version().samples()["sample_id"].tolist()
    server = open_project(repository, project)
    push(repository, make_batch(repository, repository.version(), ids, project), server)
    annotator = Annotator(label_studio, project.id)
    tasks = list(annotator.tasks().values())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("DSOPS_WEBHOOK_SECRET", "between-us")
    hook = {
        "url": f"http://127.0.0.1:{port}/",
        "project": project.id,
        "headers": {"X-Dsops-Secret": "between-us"},
        "send_for_all_actions": True,
    }
    label_studio.connection.call("POST", "api/webhooks/", body=hook)

    stop = threading.Event()
    said: list[str] = []
    results = watch(repository, project, server, every=600, port=port, say=said.append, stop=stop)
    answering = threading.Timer(1.0, lambda: annotator.choose(tasks[0], "7"))
    answering.start()
    first = next(results)  # long before the ten minutes are over
    answering.join()
    assert (first.version, first.answers) == ("v2", 1)
    assert "http://127.0.0.1" in said[0]
    assert httpx.post(hook["url"], json={}).status_code == 403
    stop.set()
    assert list(results) == []
