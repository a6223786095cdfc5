"""A database that speaks MongoDB's protocol, FiftyOne connected to it, and a repository with everything in it."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import photos
from PIL import Image

from datasetops.fiftyone import database
from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

sys.path.insert(0, str(Path(__file__).parent))
from fiftyone_cases import commit, labels, sample

SERVER = Path(__file__).parents[2] / "build" / "mongo" / "bin" / "secantusd-py"


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a database that was started for the tests, on a free port of this machine."""
    if not SERVER.is_file():
        pytest.skip("there is no database server: make build/mongo/.done")
    folder = tmp_path_factory.mktemp("database")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(SERVER), "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    for _ in range(300):
        if process.poll() is not None:
            pytest.fail(f"the database did not start: {(folder / 'server.log').read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"mongodb://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="session")
def fiftyone(address: str) -> Iterator[Any]:
    """FiftyOne, connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFTYONE_DATABASE_URI", address)
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
        with database.quietly():
            module = database.connect()
        yield module
        connection = module.core.odm.database  # at exit it would wait half a minute for a server that is gone
        atexit.unregister(connection._delete_non_persistent_datasets_if_allowed)
        connection._disconnect()


@pytest.fixture
def name(fiftyone: Any, request: pytest.FixtureRequest) -> str:
    """Of a dataset that is there for one test."""
    chosen = str(request.node.name)
    if fiftyone.dataset_exists(chosen):
        fiftyone.delete_dataset(chosen)
    return chosen


@pytest.fixture
def everything(tmp_path: Path) -> Repository:
    """Five photos with an annotation of every kind each; the camera was held upright for s3."""
    schema = {
        "name": "everything",
        "version": 1,
        "tasks": [
            *({"kind": kind} for kind in ("classification", "box", "polygon", "mask", "text")),
            {"kind": "keypoints", "keypoints": ["nose", "tail"], "skeleton": [["nose", "tail"]]},
        ],
        "classes": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "attributes": [{"name": "occluded", "type": "bool"}, {"name": "tags", "type": "text"}],
    }
    repository = Repository.init(tmp_path / "photos", LabelSchema.model_validate(schema))
    for number in range(5):
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        photos()[number % 2].save(tmp_path / "photos" / f"{number}.jpg", exif=exif)
    commit(repository, [sample(number) for number in range(5)], [row for n in range(5) for row in labels(n)])
    return repository
