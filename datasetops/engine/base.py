"""What runs a model over many images: the work, the worker, the engines by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datasetops.plugins import load_plugin
from datasetops.progress import Progress, no_progress
from datasetops.settings import Settings


@dataclass(frozen=True, slots=True)
class Item:
    """One image. `key` is its digest, `uri` what `read` takes."""

    key: str
    uri: str


@dataclass(frozen=True, slots=True)
class Fault:
    """An image without a result; `reason` says why, in a few words."""

    key: str
    reason: str


class Worker(Protocol):
    """A model as engines run it, made once a process. `prepare` runs in threads beside `infer`.

    A worker with an attribute `lanes` (an int; 1 where there is none) has `infer` called from that many threads at
    once, each with a batch of its own; 0 is one for each processor, the fastest way for a model that runs on
    processors and whose calls need no lock. torch then has one processor a call.

    A worker with an attribute `batch` (an int, or None for no wish) is for results that do not depend on what else is
    in a call: where the size of batches is fixed, by this or by who runs it, short ones are filled up with copies of
    their last image, so that all calls have the same shape.
    """

    def prepare(self, data: bytes) -> Any:
        """One image as the model takes it. Raises ImageError."""

    def infer(self, prepared: list[Any]) -> list[Any]:
        """One result an image, in their order. Raises FormatError where the model is other than described, whatever the
        image: that ends the run."""


class Engine(Protocol):
    """Runs a worker over items."""

    def run(
        self,
        make_worker: Callable[[], Worker],
        items: Sequence[Item],
        read: Callable[[str], bytes],
        *,
        progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Any | Fault]]:
        """The index of each item once, in any order, with its result or what is wrong with it.

        `read` gives the bytes of a uri, in threads, and may raise DatasetOpsError. With an engine of several machines
        `make_worker`, `read` and the results travel between them by pickle. Raises ModelError where the model fails on
        one image after the other, and whatever `make_worker` raises.
        """


def open_engine(
    name: str, *, jobs: int | None = None, batch: int | None = None, address: str | None = None, gpus: float = 0.0
) -> Engine:
    """The engine registered as `name` in the entry points `datasetops.engines`: local or ray.

    `jobs` is the processors to use (local; default: all) or those of each worker (ray; default: one). `batch` fixes
    the images of one call, so that the same images meet in a call whatever the engine; by default it is found while
    running. `address` is the cluster's and `gpus` what each worker has of one, or how many; both are for ray. Raises
    NotFoundError for an unknown name, ValueError for numbers that cannot be, MissingDependencyError where an
    optional package is needed.
    """
    if (jobs is not None and jobs < 1) or (batch is not None and batch < 1) or gpus < 0:
        raise ValueError(f"jobs and batch are at least 1, gpus at least 0: got {jobs}, {batch}, {gpus}")
    opened: Engine = load_plugin("engines", name)(jobs=jobs, batch=batch, address=address, gpus=gpus)
    return opened


def engine_of(
    settings: Settings,
    name: str | None = None,
    *,
    batch: int | None = None,
    address: str | None = None,
    gpus: float | None = None,
) -> Engine:
    """The engine that a repository's settings name, or `name`, with the settings' address and GPUs unless told.

    Raises what `open_engine` raises.
    """
    name = name or settings.engine
    if name == "ray":
        address = address or settings.ray_address
        gpus = settings.ray_gpus if gpus is None else gpus
    jobs = settings.jobs if name == "local" else None
    return open_engine(name, jobs=jobs, batch=batch, address=address, gpus=gpus or 0.0)
