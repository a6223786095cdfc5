"""A repository of photos with labels, boxes and findings, and real servers over it."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from datasetops.manifest import Change, Repository
from datasetops.records import Finding
from datasetops.schema import LabelSchema
from datasetops.web.app import create_app
from datasetops.web.users import Password, Users

sys.path.insert(0, str(Path(__file__).parent))  # helpers of these tests: review_site

from browser_fixtures import blood, blood_made, chromium, cifar, cifar_made, sit_down  # noqa: F401
from review_site import CLASSES, PASSWORD, Dataset, Refusing, Serve, Site, audited, box_row, class_row, photo, sample


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, schema: LabelSchema) -> tuple[Path, list[str]]:
    """The folder of a repository, and its findings: 24 samples with a class and a box each; the first 20 classes are
    suspected, and 3 boxes."""
    folder = tmp_path_factory.mktemp("prepared") / "repository"
    repository = Repository.init(folder, schema)
    names = [f"s{number:03}" for number in range(24)]
    rows = [sample(repository, f"photos/{name}.jpg", photo(i), split="train") for i, name in enumerate(names)]
    labels = [CLASSES[i % 3] for i in range(24)]
    annotations = [class_row(name, label) for name, label in zip(names, labels, strict=True)]
    annotations += [box_row(name, label) for name, label in zip(names, labels, strict=True)]
    result = repository.commit(Change(samples=rows, annotations=annotations), message="photos")
    noise = [
        Finding("label_noise", ("high", "medium", "low")[i % 3], i / 100, f"Labeled {labels[i]}, looks otherwise.",
                sample_id=name, uri=f"photos/{name}.jpg", annotation_id=f"{name}/label", split="train",
                given=labels[i], suggested=CLASSES[(i + 1) % 3])
        for i, name in enumerate(names[:20])
    ]  # fmt: skip
    swapped = [
        Finding("swapped_box", "medium", 0.2, "The box looks like another class.", sample_id=name,
                uri=f"photos/{name}.jpg", annotation_id=f"{name}#box0", split="train",
                given=labels[20 + i], suggested=CLASSES[i])
        for i, name in enumerate(names[20:23])
    ]  # fmt: skip
    return folder, audited(repository, result.version, [*noise, *swapped])


@pytest.fixture
def dataset(prepared: tuple[Path, list[str]], tmp_path: Path) -> Dataset:
    """A copy of it, to be decided on."""
    folder, ids = prepared
    shutil.copytree(folder, tmp_path / "dataset")
    repository = Repository.open(str(tmp_path / "dataset"))
    return Dataset(repository, repository.version(), ids[:20], ids[20:])


@contextmanager
def _servers() -> Iterator[Serve]:
    running: list[tuple[uvicorn.Server, threading.Thread, socket.socket, Site]] = []

    def start(repository: Repository, users: Users | None = None, **options: Any) -> Site:
        app = create_app(repository, None, users or Users.on_this_machine("ann"), **options)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        site = Site(f"http://127.0.0.1:{listening.getsockname()[1]}", app)
        running.append((server, thread, listening, site))
        while not server.started:
            time.sleep(0.01)
        return site

    try:
        yield start
    finally:
        for server, thread, listening, site in running:
            for client in site.clients:
                client.close()
            server.should_exit = True
            thread.join(10)
            listening.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers on free ports; they end with the test."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="session")
def refusing(prepared: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    """A server for ann that many tests share: for requests that change nothing."""
    folder, ids = prepared
    where = tmp_path_factory.mktemp("refusing") / "dataset"
    shutil.copytree(folder, where)
    repository = Repository.open(str(where))
    with _servers() as start:
        site = start(repository)
        yield Refusing(site, Dataset(repository, repository.version(), ids[:20], ids[20:]), site.browser("ann"))


@pytest.fixture(scope="session")
def password() -> Password:
    """The hash of PASSWORD; made once, since that takes long on purpose."""
    return Password.of(PASSWORD)


@pytest.fixture
def users_file(tmp_path: Path, password: Password) -> Path:
    """ann, bob, mia and r0 to r7, all with PASSWORD."""
    file = tmp_path / "users"
    names = ["ann", "bob", "mia", *(f"r{number}" for number in range(8))]
    file.write_text("".join(f"{name}:{password}\n" for name in names), encoding="utf-8")
    return file


@pytest.fixture
def site(dataset: Dataset, serve: Serve) -> Site:
    """A server for one person, ann."""
    return serve(dataset.repository)


@pytest.fixture
def team(dataset: Dataset, serve: Serve, users_file: Path) -> Site:
    """A server for the people of a users file."""
    return serve(dataset.repository, Users.from_file(users_file))
