"""Google Cloud Storage and Azure Blob Storage: their emulators, and obstore's own memory for the same class."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from emulators import Cloud
from pictures import write_digits
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import FormatError, NotFoundError, StoreError
from datasetops.manifest import Change, Repository, verify
from datasetops.schema import LabelSchema
from datasetops.store import KeyExistsError, Store
from datasetops.store import cloud as cloud_module
from datasetops.store.source import open_source
from datasetops.store.tree import FileEntry, Unusable

pytest.importorskip("obstore")
BIG = bytes(range(256)) * 50_000  # more than one part of an upload


def test_what_a_store_promises(
    stores: tuple[Store, Store], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores
    keys = ["a/1.bin", "a/2 ä%20 #?.bin", "a-b", "ab/c/d.parquet"]
    for number, key in enumerate(keys):
        store.put(key, bytes([number]))
    assert [other.get(key) for key in keys] == [b"\0", b"\1", b"\2", b"\3"]
    assert list(other.list("")) == sorted(keys)
    assert list(other.list("a/")) == keys[:2]
    assert list(other.list("a/1")) == keys[:1]
    assert list(other.list("a")) == sorted(keys)
    assert list(other.list("nothing/")) == []
    assert (other.exists("a-b"), other.exists("a"), other.exists("none")) == (True, False, False)
    assert 0 <= other.age("a-b") < 600
    for call in (other.get, other.path, other.size, other.digest, other.age):
        with pytest.raises(NotFoundError, match="none does not exist"):
            call("none")
    other.delete("none")
    other.delete("a-b")
    assert not store.exists("a-b")

    if "gs" not in request.node.callspec.id:  # the emulator of Google's knows no uploads in parts
        monkeypatch.setattr(cloud_module, "_PART", 5 << 20)
    (tmp_path / "big").write_bytes(BIG)
    store.put_file("big", tmp_path / "big")
    assert not (tmp_path / "big").exists()
    assert (other.size("big"), other.get("big") == BIG) == (len(BIG), True)
    assert other.digest("big") == hashlib.sha256(BIG).hexdigest()
    assert other.path("big").read_bytes() == BIG


def test_a_copy_that_differs_is_dropped(stores: tuple[Store, Store]) -> None:
    store, other = stores
    store.put("x", b"first")
    assert other.path("x").read_bytes() == b"first"
    store.put("x", b"second")
    assert other.digest("x") == hashlib.sha256(b"second").hexdigest()
    assert other.path("x").read_bytes() == b"second"


def test_of_racing_writers_one_wins(stores: tuple[Store, Store]) -> None:
    def write(number: int) -> bool:
        try:
            stores[number % 2].put_new(key, b"%d" % number)
        except KeyExistsError:
            return False
        return True

    for turn in range(6):
        key = f"ledger/{turn}"
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert sum(won) == 1
        assert stores[0].get(key) == b"%d" % won.index(True)
    stores[0].put_new("ledger/0", stores[0].get("ledger/0"))  # one's own object, whose answer was lost


def rows(*names: str, label: str) -> Change:
    return Change(
        samples=[{"sample_id": name, "uri": f"{name}.png", "width": 8, "height": 8} for name in names],
        annotations=[
            {
                "annotation_id": f"{name}/l",
                "sample_id": name,
                "kind": "classification",
                "label": label,
                "source": "import",
            }
            for name in names
        ],
    )


@pytest.mark.server
def test_a_repository_in_a_cloud(cloud: Cloud, schema: LabelSchema) -> None:
    repository = Repository.init(cloud.url, schema, guide="# Guide\n")
    first = repository.commit(rows("a", "b", label="cat"), message="two").version
    repository.commit(rows("a", label="bird"), message="one")
    again = Repository.open(cloud.url)
    assert again.version().annotations()["label"].tolist() == ["bird", "cat"]
    assert again.version("v1").table("annotations").equals(first.table("annotations"))
    assert verify(again) == []
    info = first.commit.tables["samples"][0]
    again.store.put(f"segments/samples/{info.id}.parquet", b"damaged")
    assert [damage.object for damage in verify(Repository.open(cloud.url))] == [f"segments/samples/{info.id}.parquet"]


@pytest.mark.server
@pytest.mark.slow
def test_processes_commit_at_once(cloud: Cloud, schema: LabelSchema) -> None:
    Repository.init(cloud.url, schema).commit(rows("shared", label="cat"), message="base")
    code = (
        "import sys\n"
        "from datasetops.errors import ConflictError\n"
        "from datasetops.manifest import Change, Repository\n"
        f"repository, me = Repository.open({cloud.url!r}), sys.argv[1]\n"
        "sample = {'sample_id': 'own-' + me, 'uri': 'x.png', 'width': 8, 'height': 8}\n"
        "repository.commit(Change(samples=[sample]), message='own')\n"
        "row = {'annotation_id': 'shared/l', 'sample_id': 'shared', 'kind': 'classification', 'label': 'dog',"
        " 'source': 'import', 'score': float(me) / 10}\n"
        "try:\n"
        "    repository.commit(Change(annotations=[row]), message=me, parent=repository.version('v1'))\n"
        "    print('won')\n"
        "except ConflictError:\n"
        "    print('told')\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(me)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for me in range(3)
    ]
    answers = []
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        answers.append(out.strip())
    assert sorted(answers) == ["told", "told", "won"]
    again = Repository.open(cloud.url)
    assert again.version().table("samples")["sample_id"].to_pylist() == ["own-0", "own-1", "own-2", "shared"]
    assert len(list(again.versions())) == 5
    assert verify(again) == []


class LosesAnAnswer:
    """A relay to a server that hands every request on, but breaks the connection instead of giving the Nth answer."""

    def __init__(self, target: str, answer: int) -> None:
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        self.target, self.left, self.lock = (host, int(port)), answer, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = target.replace(f"{host}:{port}", f"127.0.0.1:{self.listener.getsockname()[1]}")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._relay, args=(self.listener.accept()[0],), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server, contextlib.suppress(OSError):
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            while data := server.recv(65536):
                with self.lock:
                    self.left -= data.startswith(b"HTTP/1.1 ")
                    lost = self.left == 0
                    self.left -= lost
                if lost:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @staticmethod
    def _requests(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


@pytest.mark.server
@pytest.mark.slow
def test_an_answer_that_is_lost_loses_nothing(
    cloud: Cloud, schema: LabelSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.init(cloud.url, schema).commit(rows("base", label="cat"), message="base")
    address = "AZURE_STORAGE_ENDPOINT" if cloud.scheme == "az" else "GOOGLE_BASE_URL"
    for answer in range(1, 16):
        relay = LosesAnAnswer(cloud.server, answer)
        monkeypatch.setenv(address, relay.url)
        Repository.open(cloud.url).commit(rows(f"s{answer:02}", label="dog"), message=str(answer))
        assert relay.left < 0  # it was lost, and asked for again
        relay.listener.close()
        monkeypatch.setenv(address, cloud.server)
    again = Repository.open(cloud.url)
    assert verify(again) == []
    assert len(again.version().table("samples")) == len(list(again.versions())) == 16


@pytest.mark.server
def test_a_source(cloud: Cloud) -> None:
    with pytest.raises(NotFoundError, match="no object of that name"):
        open_source(cloud.url)
    files = {"a.txt": b"a.txt", "b/c ä.txt": b"b/c.txt", "b-a.txt": b"x", "empty": b""}
    for name, content in files.items():
        cloud.write(name, content)
    tree = open_source(cloud.url + "/")
    found = list(tree.walk())
    assert not [entry for entry in found if isinstance(entry, Unusable)]
    assert [entry.path for entry in found] == ["a.txt", "b-a.txt", "b/c ä.txt", "empty"]
    assert (tree.url, tree.uri("a.txt"), tree.single_file) == (cloud.url, f"{cloud.url}/a.txt", None)
    assert {name: tree.read(name) for name in files} == files
    assert (tree.read("b/c ä.txt", limit=3), tree.read("empty", limit=3), tree.read("a.txt", limit=99)) == (
        b"b/c",
        b"",
        b"a.txt",
    )
    entry = tree.stat("a.txt")
    assert entry in found
    cloud.write("a.txt", b"other")
    assert isinstance(tree.stat("a.txt"), FileEntry)
    assert tree.stat("a.txt") != entry
    assert tree.stat("none") is None
    with pytest.raises(NotFoundError, match="does not exist"):
        tree.read("none")
    with pytest.raises(FormatError, match="leads out"):
        tree.read("../a.txt")
    one = open_source(f"{cloud.url}/b/c ä.txt")
    assert (one.url, one.single_file) == (f"{cloud.url}/b", "c ä.txt")


@pytest.mark.server
def test_images_are_ingested_and_read_where_they_are(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_digits(tmp_path / "digits", 2)
    for file in files:
        cloud.write(f"images/{file.relative_to(tmp_path / 'digits').as_posix()}", file.read_bytes())
    run = CliRunner()
    store = cloud.url.replace("/data", "/store")
    assert run.invoke(app, ["init", "set", "--schema", "digits", "--store", store]).exit_code == 0
    done = run.invoke(app, ["ingest", f"{cloud.url}/images", "-C", "set", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["samples"], told["annotations"], told["rejected"]) == (20, 20, 0)
    samples = Repository.open(tmp_path / "set").version().samples()
    assert sorted(samples["uri"]) == sorted(
        f"{cloud.url}/images/{file.relative_to(tmp_path / 'digits').as_posix()}" for file in files
    )
    assert run.invoke(app, ["verify", "--media", "-C", "set"]).exit_code == 0
    assert run.invoke(app, ["export", "v1", "out", "--format", "folder", "-C", "set"]).exit_code == 0
    written = {path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {file.read_bytes() for file in files}


@pytest.mark.server
def test_what_is_wrong_is_said(cloud: Cloud, schema: LabelSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = f"{cloud.scheme}://no-such-{cloud.url[-12:-5]}/x"
    with pytest.raises(StoreError, match=r"no-such-\w+' does not exist"):
        Repository.init(missing, schema)
    with pytest.raises((StoreError, NotFoundError), match="does not exist"):
        open_source(missing)
    with pytest.raises(FormatError, match="name is missing"):
        open_source(f"{cloud.scheme}://")
    with pytest.raises(NotFoundError, match="no dsops repository"):
        Repository.open(cloud.url)
    address = "AZURE_STORAGE_ENDPOINT" if cloud.scheme == "az" else "GOOGLE_BASE_URL"
    monkeypatch.setenv(address, "http://127.0.0.1:9/x")
    with pytest.raises(
        StoreError, match=r"no answer\.\nNothing was changed. Check the connection .http://127.0.0.1:9/x"
    ):
        Repository.init(cloud.url, schema)
    with pytest.raises(StoreError, match="no answer"):
        open_source(cloud.url)


@pytest.mark.server
def test_credentials_of_azure(azure_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(StoreError, match=r"no credentials(.|\n)*AZURE_STORAGE_ACCOUNT_NAME"):
        open_source("az://things/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azure_server)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "not base 64")
    with pytest.raises(StoreError, match="cannot be used"):
        open_source("az://things/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    with pytest.raises(StoreError, match="access denied"):
        open_source("az://things/x")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2021-08-06&sig=verysecret")
    with pytest.raises(StoreError) as raised:
        open_source("az://things/x")
    assert "verysecret" not in str(raised.value)


def test_credentials_of_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_BEARER_TOKEN", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreError, match=r"no credentials(.|\n)*GOOGLE_APPLICATION_CREDENTIALS"):
        open_source("gs://things/x")
    (tmp_path / "none.json").write_text('{"private_key": "verysecret"')
    with pytest.raises(StoreError, match="cannot be used") as raised:
        open_source("gs://things/x")
    assert "verysecret" not in str(raised.value)


@pytest.mark.server
@pytest.mark.parametrize("cloud", ["az"], indirect=True)  # the other emulator cleans such names
def test_an_object_with_an_odd_name_is_told(cloud: Cloud) -> None:
    cloud.write("a/", b"")
    cloud.write("a/b.txt", b"x")
    assert [entry.path for entry in open_source(cloud.url).walk()] == ["a/b.txt"]
    cloud.write("x//y", b"x")
    with pytest.raises(StoreError, match=r"// or \.\."):
        open_source(cloud.url)


def test_label_studio_gets_images_of_these_clouds_in_the_tasks(tmp_path: Path) -> None:
    from datasetops.labeling.label_studio.images import image_addresses

    images = [file.read_bytes() for file in write_digits(tmp_path, 2, classes=1)]
    places = ["gs://bucket/a.png", "az://container/b.png"]
    address, told = image_addresses(None, 1, places, images.__getitem__, "auto")  # type: ignore[arg-type]
    assert address(1).startswith("data:image/png;base64,")
    assert "in a bucket that Label Studio cannot be sent to" in told
