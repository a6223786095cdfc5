"""A push that is cut off anywhere, on either side, and run again: each task exists once."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from label_studio_server import TOKEN, Annotator, Server, new_server

from datasetops.labeling import make_batch, open_project, pull, push, set_up
from datasetops.labeling.label_studio import server as label_studio_server_module
from datasetops.labeling.label_studio.connection import LabelServerError
from datasetops.manifest import Change, Repository
from datasetops.schema import load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]

ROOT = Path(__file__).parents[2]
COUNT = 5_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of its own, that may be killed."""
    server = new_server(tmp_path)
    server.start()
    monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    yield server
    server.stop(signal.SIGKILL)


def many(folder: Path) -> Repository:
    """5,000 samples in a bucket that nobody looks into."""
    repository = Repository.init(folder, load_schema(ROOT / "schemas" / "digits.yaml"))
    samples = [
        {"sample_id": f"s{n:04}", "uri": f"s3://bucket/{n}.bmp", "width": 8, "height": 8, "media_type": "image/bmp"}
        for n in range(COUNT)
    ]
    labels = [
        {"annotation_id": f"s{n:04}/label", "sample_id": f"s{n:04}", "kind": "classification", "label": str(n % 10)}
        for n in range(COUNT)
    ]
    repository.commit(Change(samples=samples, annotations=labels), message="many")
    return repository


PUSH = """
import sys
from datasetops.labeling import choose_project, make_batch, open_project, push
from datasetops.manifest import Repository
repository = Repository.open(sys.argv[1])
version = repository.version("v1")
ids = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
project = choose_project(repository, None)
print("ready", flush=True)
push(repository, make_batch(repository, version, ids, project, name="b"), open_project(repository, project))
"""


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def samples_of(server: Server, project: int) -> list[str]:
    found = server.connection.get(
        "api/tasks/", timeout=120, project=project, page_size=20_000, include="id,data", fields="task_only"
    )
    return [task["data"]["sample_id"] for task in found["tasks"]]


@pytest.mark.usefixtures("credentials")
def test_server_killed_in_the_middle_of_a_push(tmp_path: Path, server: Server) -> None:
    repository = many(tmp_path / "repository")
    project, _ = set_up(repository, repository.version())
    version = repository.version()
    ids = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
    batch = make_batch(repository, version, ids, project, name="b")
    connection = server.connection

    def kill_once_some_are_there() -> None:
        while connection.get(f"api/projects/{project.id}/")["task_number"] == 0:
            time.sleep(0.02)
        server.stop(signal.SIGKILL)

    killer = threading.Thread(target=kill_once_some_are_there)
    killer.start()
    with pytest.raises(LabelServerError):
        push(repository, batch, open_project(repository, project))
    killer.join()

    server.start()
    before = len(samples_of(server, project.id))
    assert 0 < before < COUNT
    assert pull(repository, project, open_project(repository, project)).warnings == ()  # not pushed is not deleted
    result = push(repository, batch, open_project(repository, project))
    assert (result.created, result.existing) == (COUNT - before, before)
    assert sorted(samples_of(server, project.id)) == ids


class Lossy:
    """Passes requests on to a server; the answer to the first import is lost after the server has carried it out."""

    def __init__(self, server: Server) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.server, self.lost = server, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.server.port)) as upstream, suppress(OSError):
            importing = False
            while True:
                ready, _, _ = select.select([client, upstream], [], [])
                data = ready[0].recv(1 << 16)
                if not data:
                    return
                if ready[0] is client:
                    importing = importing or b"/import" in data[:200]
                    upstream.sendall(data)
                elif importing and not self.lost:
                    self.lost += 1
                    return
                else:
                    client.sendall(data)


@pytest.mark.usefixtures("credentials")
def test_an_import_whose_answer_is_lost_is_not_repeated(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = Lossy(server)
    monkeypatch.setenv("LABEL_STUDIO_URL", lossy.url)
    repository = many(tmp_path / "repository")
    project, _ = set_up(repository, repository.version())
    ids = [f"s{n:04}" for n in range(20)]
    batch = make_batch(repository, repository.version(), ids, project)
    result = push(repository, batch, open_project(repository, project))
    lossy.listening.close()
    assert lossy.lost == 1
    assert (result.created, result.removed) == (20, 0)
    assert sorted(samples_of(server, project.id)) == ids


@pytest.mark.usefixtures("credentials")
def test_client_killed_at_any_moment_of_a_push(tmp_path: Path, server: Server) -> None:
    repository = many(tmp_path / "repository")
    project, _ = set_up(repository, repository.version())
    command = [sys.executable, "-c", PUSH, str(tmp_path / "repository")]
    for wait in (0.3, 0.9, 1.6, 2.4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        assert process.stdout
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.wait()
        process.stdout.close()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL
    )  # what a killed one's last request made late goes too
    assert sorted(samples_of(server, project.id)) == [f"s{n:04}" for n in range(COUNT)]


@pytest.mark.usefixtures("credentials")
def test_a_pull_from_a_server_that_went_away_is_done_by_the_next(tmp_path: Path, server: Server) -> None:
    repository = many(tmp_path / "repository")
    project, _ = set_up(repository, repository.version())
    batch = make_batch(repository, repository.version(), ["s0001", "s0002"], project)
    push(repository, batch, open_project(repository, project))
    tasks = Annotator(server, project.id).tasks()
    Annotator(server, project.id).choose(tasks["s0001"], "7")
    waiting = open_project(repository, project)
    server.stop(signal.SIGKILL)
    with pytest.raises(LabelServerError, match="cannot be reached"):
        pull(repository, project, waiting)
    assert len(list(repository.versions())) == 1
    server.start()
    assert pull(repository, project, open_project(repository, project)).version == "v2"


def test_images_in_s3_are_shown_by_signed_addresses(
    tmp_path: Path, server: Server, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import httpx

    bucket = s3.removeprefix("s3://").split("/")[0]
    boto3.client("s3").put_object(Bucket=bucket, Key="p/7 ä.png", Body=b"picture")
    repository = Repository.init(s3, load_schema(ROOT / "schemas" / "digits.yaml"))
    sample = {"sample_id": "a", "uri": f"s3://{bucket}/p/7 ä.png", "width": 8, "height": 8, "media_type": "image/bmp"}
    repository.commit(Change(samples=[sample]), message="one")
    project, _ = set_up(repository, repository.version())
    batch = make_batch(repository, repository.version(), ["a"], project)
    result = push(repository, batch, open_project(repository, project))
    assert "signed addresses" in result.images
    address = Annotator(server, project.id).tasks()["a"]["data"]["image"]
    assert httpx.get(address).content == b"picture"
    assert push(repository, batch, open_project(repository, project)).renewed == 0
    monkeypatch.setattr(label_studio_server_module, "_RENEWED", 8 * 24 * 3600)
    assert push(repository, batch, open_project(repository, project)).renewed == 1
    renewed = Annotator(server, project.id).tasks()["a"]["data"]
    assert (renewed["sample_id"], httpx.get(renewed["image"]).content) == ("a", b"picture")
