from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from colour_worker import Colour, Sums, Traced, answer, no_model, read_file, write_pictures

from datasetops.engine import Fault, Item, open_engine
from datasetops.engine.local import LocalEngine
from datasetops.errors import DatasetOpsError, MissingDependencyError, ModelError

HERE = Path(__file__).parent
INSTALLED = importlib.util.find_spec("ray") is not None
pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]  # Ray's of its own


@pytest.mark.skipif(INSTALLED, reason="Ray is installed")
def test_without_ray_the_remedy_is_named() -> None:
    with pytest.raises(MissingDependencyError, match="dsops\\[ray\\]"):
        open_engine("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster on this machine with room for two workers; this process is connected to it."""
    if not INSTALLED:
        pytest.skip("Ray is not installed: pip install 'dsops[ray]'")
    import ray

    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [before["PYTHONPATH"]])])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    context = ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """1,100 pictures, two files that are no images and one that is not there."""
    folder = tmp_path_factory.mktemp("pictures")
    items = write_pictures(folder, 1100)
    Path(items[77].uri).write_bytes(b"")
    Path(items[900].uri).write_bytes(b"no image")
    return items


def collected(results: Iterator[tuple[int, Any]]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for index, result in results:
        assert index not in found
        found[index] = result
    return found


@pytest.mark.parametrize("batch", [None, 24])
def test_two_workers_give_what_one_machine_gives(
    cluster: str, items: list[Item], batch: int | None, tmp_path: Path
) -> None:
    make = partial(Traced, tmp_path, seconds=0.002)
    local = collected(LocalEngine(jobs=2, batch=batch).run(make, items, read_file))
    (tmp_path / str(os.getpid())).unlink()
    assert collected(open_engine("ray", batch=batch).run(make, items, read_file)) == local
    assert len(list(tmp_path.iterdir())) == 2
    assert local[77] == Fault("77", "empty file")
    assert sum(isinstance(result, Fault) for result in local.values()) == 2


def test_with_a_fixed_batch_the_last_bits_are_the_same(cluster: str, items: list[Item]) -> None:
    local = collected(LocalEngine(jobs=2, batch=24).run(Sums, items, read_file))
    assert collected(open_engine("ray", batch=24).run(Sums, items, read_file)) == local


def test_the_work_of_a_worker_that_is_killed_is_done_by_others(cluster: str, tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "pictures", 1600)
    (tmp_path / "processes").mkdir()
    results = open_engine("ray").run(partial(Traced, tmp_path / "processes", seconds=0.004), items, read_file)
    found = dict([next(results)])
    killed = min(int(file.name) for file in (tmp_path / "processes").iterdir())
    os.kill(killed, signal.SIGKILL)
    found |= collected(results)
    assert found == {index: answer(index % 256) for index in range(1600)}
    assert len(list((tmp_path / "processes").iterdir())) >= 3, "another process took over"


def test_an_image_that_ends_its_worker_costs_no_other(cluster: str, tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "pictures", 40)
    make = partial(Traced, tmp_path, deadly=33)
    found = collected(open_engine("ray", batch=4).run(make, items, read_file))
    assert found.pop(33) == Fault("33", "the worker's process ended whenever it had this image")
    assert found == {index: answer(index) for index in range(40) if index != 33}


def test_the_count_of_attempts_may_be_killed_too(cluster: str, tmp_path: Path) -> None:
    import psutil

    items = write_pictures(tmp_path / "pictures", 300)
    (tmp_path / "processes").mkdir()
    make = partial(Traced, tmp_path / "processes", seconds=0.004, deadly=280 % 256)
    results = open_engine("ray", batch=4).run(make, items[30:], read_file)
    found = dict([next(results)])
    helpers = [one for one in psutil.Process().children(recursive=True) if "_Attempts" in " ".join(one.cmdline())]
    assert helpers
    for one in helpers:
        one.kill()
    found |= collected(results)
    assert len(found) == 270
    assert [index for index, result in found.items() if isinstance(result, Fault)] == [250]


def test_errors_of_workers_reach_the_caller(cluster: str, items: list[Item]) -> None:
    engine = open_engine("ray")
    with pytest.raises(ModelError, match="no such model\nName another"):
        list(engine.run(no_model, items, read_file))
    with pytest.raises(ModelError, match="20 images in a row"):
        list(engine.run(partial(Colour, fails=tuple(range(256))), items, read_file))
    with pytest.raises(FileNotFoundError):
        list(engine.run(Colour, [Item("a", "/no/such/file")], read_file))
    lock = threading.Lock()
    with pytest.raises(ValueError, match="pickle"):
        list(engine.run(lambda: Colour(fits=int(lock.locked())), items, read_file))
    with pytest.raises(DatasetOpsError, match="0 GPUs: too few for one worker"):
        list(open_engine("ray", gpus=0.5).run(Colour, items, read_file))
    assert list(engine.run(Colour, [], read_file)) == []


def test_an_iterator_closed_early_frees_the_cluster(cluster: str, items: list[Item]) -> None:
    results = open_engine("ray").run(Colour, items, read_file)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(collected(open_engine("ray").run(Colour, items, read_file))) == 1100


@pytest.fixture
def short_path() -> Iterator[str]:
    """A folder whose name leaves room for those of sockets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_cluster_that_asks_for_a_token_says_so(short_path: str, items: list[Item]) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789" * 6, "RAY_USAGE_STATS_ENABLED": "0"}
    start = f"ray start --head --block --num-cpus=1 --include-dashboard=false --port={port} --temp-dir={short_path}"
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *start.split()[1:]],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    code = f"""
        from colour_worker import Colour, read_file
        from datasetops.engine import Item, open_engine
        from datasetops.errors import DatasetOpsError
        try:
            list(open_engine("ray", address="127.0.0.1:{port}").run(Colour, [Item("1", {items[1].uri!r})], read_file))
        except DatasetOpsError as error:
            print(error.message, error.remedy)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    try:
        wait_for(port)
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True)
    finally:
        head.terminate()
        head.wait()
    assert "asks for a token" in done.stdout
    assert "RAY_AUTH_TOKEN_PATH" in done.stdout
    assert done.stderr.count("InvalidAuthToken") <= 1


def wait_for(port: int) -> None:
    for _ in range(300):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise TimeoutError(port)


def test_a_cluster_is_found_by_its_address(cluster: str, items: list[Item]) -> None:
    code = f"""
        from colour_worker import Colour, read_file
        from datasetops.engine import Item, open_engine
        from datasetops.errors import DatasetOpsError
        found = dict(open_engine("ray", address={cluster!r}).run(Colour, [Item("1", {items[1].uri!r})], read_file))
        print(found[0]["red"])
        try:
            list(open_engine("ray", address="127.0.0.1:1").run(Colour, [Item("1", {items[1].uri!r})], read_file))
        except DatasetOpsError as error:
            print(error.message)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE, check=True)
    assert done.stdout.startswith("1\nThere is no Ray cluster at 127.0.0.1:1")
