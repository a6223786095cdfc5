"""The engine of a Ray cluster: actors of Ray Data, each a local engine of its own over chunks of the images."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from datasetops.engine.base import Fault, Item, Worker
from datasetops.engine.local import Runner
from datasetops.errors import DatasetOpsError, MissingDependencyError, ModelError
from datasetops.images import quiet_decoding
from datasetops.progress import Progress, no_progress

_CHUNK: Final = 256  # images of one task, at most: seconds of work, so that little is lost with a worker
_FEWEST: Final = 16  # images of one task where there are few: each task costs milliseconds
_SHARES: Final = 4  # tasks for each worker, at least: none waits long for the last
_MOST_CHUNKS: Final = 20_000  # beyond it chunks become larger: each costs the driver about a millisecond
_TRIES: Final = 2  # of a chunk whose worker is lost, then of an image of it alone: one loss may be the machine's
_PATIENCE: Final = 10  # seconds for a cluster to answer
_LOST: Final = "the worker's process ended whenever it had this image"
_Results = list[tuple[int, Any | Fault]]


class RayEngine:
    """Workers on a cluster that is running at `address`, or on this machine where none is given.

    `jobs` processors and `gpus` GPUs (a share, or several) are reserved for each worker; there are as many workers as
    the cluster has room for. dsops is installed on each machine, and uris mean the same on all of them.
    """

    packages = ("ray",)

    def __init__(
        self, *, jobs: int | None = None, batch: int | None = None, address: str | None = None, gpus: float = 0.0
    ) -> None:
        self.jobs, self.batch, self.address, self.gpus = jobs or 1, batch, address, gpus
        _ray()

    def run(
        self,
        make_worker: Callable[[], Worker],
        items: Sequence[Item],
        read: Callable[[str], bytes],
        *,
        progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Any | Fault]]:
        """As Engine.run. An image whose worker ends whenever it has it (a crash) is a Fault."""
        if not items:
            return
        try:
            _ray().cloudpickle.dumps((make_worker, read))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ValueError(
                f"what makes the worker and what reads must be able to travel by pickle: {error}"
            ) from error
        with self.cluster():
            yield from progress(self._results(make_worker, items, read), len(items), "Running the model")

    def _results(
        self, make_worker: Callable[[], Worker], items: Sequence[Item], read: Callable[[str], bytes]
    ) -> Iterator[tuple[int, Any | Fault]]:
        import pyarrow as pa
        from ray.data import ActorPoolStrategy, from_arrow
        from ray.exceptions import RayError

        workers = self.workers()
        size = min(_CHUNK, max(_FEWEST, len(items) // (_SHARES * workers)))
        size = max(size, -(-len(items) // _MOST_CHUNKS))
        size = -(-size // self.batch) * self.batch if self.batch else size  # a batch never meets the end of a chunk
        chunks = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            indices = range(start, start + len(part))
            chunks.append(
                pa.table({"index": indices, "key": [item.key for item in part], "uri": [item.uri for item in part]})
            )
        found = from_arrow(chunks).map_batches(
            _Actor,
            fn_constructor_args=(make_worker, read, self.jobs, self.batch, _attempts_actor(), str(Path.cwd())),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(workers, len(chunks))),
            num_cpus=self.jobs,
            num_gpus=self.gpus or None,
        )
        try:
            tables: Iterable[Any] = found.iter_batches(batch_size=None, batch_format="pyarrow")
            for table in tables:
                for packed in table["results"].to_pylist():
                    results = pickle.loads(packed)  # noqa: S301 (from this run's own workers)
                    if isinstance(results, _Failed):
                        raise results.error
                    yield from results
        except RayError as error:
            reason = str(error).strip().splitlines()[:1]
            raise DatasetOpsError(
                f"The cluster could not do the work: {''.join(reason)}",
                remedy="Look at its machines with 'ray status'; what was done is kept, so run it again.",
            ) from error

    def workers(self) -> int:
        """How many fit. Raises DatasetOpsError where not even one does."""
        there = _ray().cluster_resources()
        room = [int(there.get("CPU", 0.0) // self.jobs)]
        if self.gpus:
            gpus = there.get("GPU", 0.0)
            room.append(int(gpus // self.gpus) if self.gpus >= 1 else int(gpus) * int(1 // self.gpus))
        if min(room) < 1:
            raise DatasetOpsError(
                f"The cluster has {there.get('CPU', 0):g} processors and {there.get('GPU', 0):g} GPUs: too few for one "
                f"worker, which is to have {self.jobs} and {self.gpus:g}.",
                remedy="Ask for fewer, or start larger machines.",
            )
        return min(room)

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Ray, connected; disconnected afterwards unless the caller had connected it."""
        from ray.exceptions import AuthenticationError

        ray, connected = _ray(), _ray().is_initialized()
        with _quiet():
            if not connected:
                try:
                    _knock(self.address)
                    ray.init(self.address or "local", log_to_driver=False, logging_level=logging.ERROR)
                except AuthenticationError as error:
                    raise DatasetOpsError(
                        f"The Ray cluster at {self.address} asks for a token, and took none from here (authentication).",
                        remedy="Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token.",
                    ) from error
                except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                    reason = str(error).strip().splitlines()[:1]
                    raise DatasetOpsError(
                        f"There is no Ray cluster at {self.address or 'this machine'}: {''.join(reason)}",
                        remedy="Start one with 'ray start --head' and name its address, such as HOST:6379.",
                    ) from error
            try:
                yield
            finally:
                if not connected:
                    ray.shutdown()


def open_ray(*, jobs: int | None, batch: int | None, address: str | None, gpus: float) -> RayEngine:
    """Raises MissingDependencyError where Ray is not installed."""
    return RayEngine(jobs=jobs, batch=batch, address=address, gpus=gpus)


@dataclass(frozen=True)
class _Failed:
    """An error of a worker that ends the run, on its way to the driver."""

    error: Exception


class _Attempts:
    """What was tried of each chunk, by the chunk's first index: how an image that ends its worker is found.

    An actor beside the workers, since a worker that ends forgets. Ray sends a chunk whose worker was lost to another.
    Where this one is lost it starts again with nothing counted: what ends a worker is then tried that often once more.
    """

    def __init__(self) -> None:
        self._chunks: Counter[int] = Counter()
        self._images: Counter[int] = Counter()
        self._now: dict[int, int] = {}

    def begin(self, chunk: int) -> tuple[bool, list[int]]:
        """Whether to try each image alone, and indices of images that are not to be tried again."""
        self._chunks[chunk] += 1
        if chunk in self._now:
            self._images[self._now.pop(chunk)] += 1
        return self._chunks[chunk] > _TRIES, [index for index, lost in self._images.items() if lost >= _TRIES]

    def at(self, chunk: int, image: int) -> None:
        """The chunk's next image, alone."""
        self._now[chunk] = image


def _attempts_actor() -> Any:
    """On the driver's machine, which is not lost before the run is."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray = _ray()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"max_restarts": -1, "max_task_retries": -1}
    return ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here, **lasting).remote()


class _Actor:
    """A worker process: chunks of items (a table of index, key, uri) in, pickled results out."""

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        read: Callable[[str], bytes],
        jobs: int,
        batch: int | None,
        attempts: Any,
        folder: str,
    ) -> None:
        """`folder` is the driver's, from which relative paths are meant."""
        self._read, self._attempts = read, attempts
        self._failed: _Failed | None = None
        with suppress(OSError):  # not on every machine
            os.chdir(folder)
        try:
            self._runner = Runner(make_worker(), jobs, batch)
        except Exception as error:
            self._failed = _Failed(_portable(error))

    def __call__(self, chunk: Any) -> dict[str, list[bytes]]:
        return {"results": [_ray().cloudpickle.dumps(self._failed or self._tried(chunk.to_pydict()))]}

    def _tried(self, chunk: dict[str, list[Any]]) -> _Results | _Failed:
        items = [Item(key, uri) for key, uri in zip(chunk["key"], chunk["uri"], strict=True)]
        try:
            with quiet_decoding():
                return self._results(chunk["index"], items)
        except Exception as error:
            return _Failed(_portable(error))

    def _results(self, indices: list[int], items: list[Item]) -> _Results:
        ray, first = _ray(), indices[0]
        alone, lost = ray.get(self._attempts.begin.remote(first))
        if not alone:
            return [(indices[place], result) for place, result in self._runner.run(items, self._read)]
        results: _Results = []
        for index, item in zip(indices, items, strict=True):
            if index in lost:
                results.append((index, Fault(item.key, _LOST)))
                continue
            ray.get(self._attempts.at.remote(first, index))
            results += [(index, result) for _, result in self._runner.run([item], self._read)]
        return results


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot travel."""
    try:
        copy = pickle.loads(_ray().cloudpickle.dumps(error))  # noqa: S301 (made in this line)
    except Exception:
        copy = None
    if type(copy) is type(error):
        return error
    if isinstance(error, DatasetOpsError):
        return ModelError(error.message, remedy=error.remedy)
    return RuntimeError(f"{type(error).__name__}: {error}")


def _knock(address: str | None) -> None:
    """Raises OSError where nothing answers at HOST:PORT, AuthenticationError where a token is missing or wrong; Ray
    itself would try for minutes."""
    from ray.exceptions import AuthenticationError, RayError

    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    if address == f"{host}:{port}":
        try:
            import_module("ray._raylet").GcsClient(address=address)
        except AuthenticationError:
            raise
        except RayError as error:
            raise ConnectionError(str(error)) from error


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("ray", extra="ray", purpose="The engine ray") from None
    return ray


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray without reports to its makers, bars or notes of its own: callers show their own progress."""
    from ray.data import DataContext

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings, logger = DataContext.get_current(), logging.getLogger("ray.data")
    ours = {"enable_progress_bars": False, "print_on_execution_start": False}
    before, level = {name: getattr(settings, name) for name in ours}, logger.level
    try:
        for name, value in ours.items():
            setattr(settings, name, value)
        logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        logger.setLevel(level)
