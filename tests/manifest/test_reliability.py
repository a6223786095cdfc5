"""What happens when processes are killed, race each other, run out of disk, or lose the network."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from rows import labeled, labels

from datasetops.errors import StoreError
from datasetops.manifest import Change, Repository, verify
from datasetops.schema import LabelSchema
from datasetops.store import local

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

WRITER = """
import json, sys
sys.path.insert(0, {here!r})
from rows import labeled, labels
from datasetops.errors import ConflictError
from datasetops.manifest import Change, Repository
repository = Repository.open({where!r})
"""


def run_python(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("step", range(12))
def test_killed_at_any_write_step_the_last_committed_version_is_whole(repository: Repository, step: int) -> None:
    """The writer kills itself with SIGKILL right before (even) or right after (odd) its n-th file appears."""
    repository.commit(labeled(a="cat", b="dog"), message="base")
    code = WRITER.format(here=str(HERE), where=str(repository.root)) + (
        "import os, signal\n"
        "from pathlib import Path\n"
        "count = 0\n"
        "def hook(original):\n"
        "    def wrapped(*args, **kwargs):\n"
        "        global count\n"
        f"        if count == {step} // 2 and {step} % 2 == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        answer = original(*args, **kwargs)\n"
        f"        if count == {step} // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        count += 1\n"
        "        return answer\n"
        "    return wrapped\n"
        "Path.replace, os.link = hook(Path.replace), hook(os.link)\n"
        "repository.commit(Change(annotations=labels(a='bird'), guide='new'), message='edit')\n"
    )
    process = run_python(code)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    again = Repository.open(repository.root or "")
    newest = again.version()
    expected = {"v1": ["cat", "dog"], "v2": ["bird", "dog"]}[newest.name]
    assert newest.annotations()["label"].tolist() == expected
    assert verify(again) == []
    follow = again.commit(Change(annotations=labels(b="cat")), message="life goes on").version
    assert follow.annotations()["label"].tolist() == [expected[0], "cat"]


@pytest.mark.server
def test_killed_at_random_times_in_a_loop(repository: Repository) -> None:
    repository.commit(labeled(a="cat"), message="base")
    code = WRITER.format(here=str(HERE), where=str(repository.root)) + (
        "for i in range(1000):\n"
        "    repository.commit(labeled(**{f's{i}-{__import__(\"os\").getpid()}': 'dog'}), message='loop')\n"
        "    print(i, flush=True)\n"
    )
    for attempt in range(6):
        process = run_python(code)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.04 * attempt)
        process.kill()
        done = len(process.communicate()[0].splitlines()) + 1
        again = Repository.open(repository.root or "")
        assert verify(again) == []
        newest = again.version()
        assert len(newest.table("samples")) == int(newest.name[1:])
        assert done >= 1


def race(where: str, rounds: int) -> tuple[list[dict[str, int]], Repository]:
    """Eight processes, each with commits of rows of its own and commits of a row that all want."""
    code = WRITER.format(here=str(HERE), where=where) + (
        "me = sys.argv[1]\n"
        "told = won = 0\n"
        f"for i in range({rounds}):\n"
        "    repository.commit(labeled(**{f'own-{me}-{i}': 'cat'}), message='own')\n"
        "    base = repository.version()\n"
        "    label = ['cat', 'dog', 'bird'][(int(me) + i) % 3]\n"
        "    row = labels(shared=label)[0] | {'score': float(f'{me}.{i}1')}\n"
        "    try:\n"
        "        repository.commit(Change(annotations=[row]), message=f'{me}-{i}', parent=base)\n"
        "        won += 1\n"
        "    except ConflictError:\n"
        "        told += 1\n"
        "print(json.dumps({'won': won, 'told': told}))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(me)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for me in range(8)
    ]
    answers = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        answers.append(json.loads(out))
    return answers, Repository.open(where)


def check_race(answers: list[dict[str, int]], repository: Repository, rounds: int) -> None:
    newest = repository.version()
    ids = newest.table("samples")["sample_id"].to_pylist()
    assert sorted(ids) == sorted(["shared", *(f"own-{me}-{i}" for me in range(8) for i in range(rounds))])
    assert sum(answer["won"] + answer["told"] for answer in answers) == 8 * rounds
    versions = list(repository.versions())
    assert len(versions) == 1 + 8 * rounds + sum(answer["won"] for answer in answers)
    assert len({version.digest for version in versions}) == len(versions)
    for version, parent in pairwise(versions):
        assert version.commit.parents == (parent.digest,)
    assert verify(repository) == []


@pytest.mark.server
def test_eight_processes_commit_at_once_on_disk(repository: Repository) -> None:
    repository.commit(labeled(shared="cat"), message="base")
    check_race(*race(str(repository.root), 4), 4)


@pytest.mark.server
def test_eight_processes_commit_at_once_on_s3(s3: str, schema: LabelSchema) -> None:
    Repository.init(s3, schema).commit(labeled(shared="cat"), message="base")
    check_race(*race(s3, 2), 2)


@pytest.mark.server
def test_the_same_verbs_work_on_s3(s3: str, schema: LabelSchema) -> None:
    repository = Repository.init(s3, schema, guide="# Guide\n")
    first = repository.commit(labeled(a="cat", b="dog"), message="two").version
    second = repository.commit(Change(annotations=labels(a="bird")), message="one").version
    again = Repository.open(s3)
    assert again.version().annotations()["label"].tolist() == ["bird", "dog"]
    assert again.version("v1").table("annotations").equals(first.table("annotations"))
    assert again.version().guide == "# Guide\n"
    assert [version.name for version in again.versions()] == [second.name, first.name]
    assert verify(again) == []
    info = first.commit.tables["samples"][0]
    again.store.put(f"segments/samples/{info.id}.parquet", b"damaged")
    fresh = Repository.open(s3)
    fresh.store.delete("nothing")  # deleting what is not there is no error
    assert [damage.object for damage in verify(fresh)] == [f"segments/samples/{info.id}.parquet"]


def test_a_disk_that_fills_up_at_any_write_leaves_the_repository_usable(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(labeled(a="cat"), message="base")
    write = local._write_synced
    step = 0
    while True:
        written = 0

        def fails(file: Path, content: bytes, limit: int = step) -> None:
            nonlocal written
            if written == limit:
                file.write_bytes(content[: len(content) // 2])
                raise OSError(28, "No space left on device")
            written += 1
            write(file, content)

        monkeypatch.setattr(local, "_write_synced", fails)
        try:
            repository.commit(Change(annotations=labels(a="dog")), message="edit")
            break
        except StoreError as error:
            assert "No space left on device" in str(error)  # noqa: PT017
            monkeypatch.setattr(local, "_write_synced", write)
            again = Repository.open(repository.root or "")
            assert verify(again) == []
            if again.version().annotations()["label"].tolist() == ["dog"]:  # only the hints after it were lost
                again.commit(Change(annotations=labels(a="cat")), message="back")
            assert again.version().annotations()["label"].tolist() == ["cat"]
            repository = Repository.open(repository.root or "")
        step += 1
    assert step >= 5


@pytest.mark.server
def test_a_file_size_limit_of_the_kernel_is_a_clear_error(repository: Repository) -> None:
    repository.commit(labeled(a="cat"), message="base")
    code = WRITER.format(here=str(HERE), where=str(repository.root)) + (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from datasetops.errors import StoreError\n"
        "try:\n"
        "    repository.commit(labeled(**{f's{i}': 'cat' for i in range(5000)}), message='big')\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    out, error = run_python(code).communicate(timeout=60)
    assert "Nothing was changed" in out, error
    again = Repository.open(repository.root or "")
    assert again.version().name == "v1"
    assert verify(again) == []


class Breaking:
    """A TCP relay to a server that stops relaying after so many connections."""

    def __init__(self, target: str, connections: int) -> None:
        host, port = target.removeprefix("http://").split(":")
        self.target = (host, int(port))
        self.left = connections
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.left -= 1
            if self.left < 0:
                client.close()
                continue
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            pumps = [
                threading.Thread(target=self._pump, args=pair, daemon=True)
                for pair in ((client, server), (server, client))
            ]
            for pump in pumps:
                pump.start()
            for pump in pumps:
                pump.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def commit_until_it_fails(where: str) -> None:
    broken = Repository.open(where)
    for _ in range(20):
        broken.commit(labeled(**{f"s{time.monotonic_ns()}": "dog"}), message="lost")


@pytest.mark.server
@pytest.mark.parametrize("connections", [3, 5, 7, 9])
def test_a_connection_lost_in_the_middle_of_a_commit(
    s3: str, s3_server: str, schema: LabelSchema, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.init(s3, schema).commit(labeled(a="cat"), message="base")
    relay = Breaking(s3_server, connections)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StoreError, match="Check the connection"):
        commit_until_it_fails(s3)
    relay.listener.close()

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    again = Repository.open(s3)
    assert verify(again) == []
    newest = again.commit(labeled(z="bird"), message="life goes on").version
    assert len(newest.table("samples")) == int(newest.name[1:])
