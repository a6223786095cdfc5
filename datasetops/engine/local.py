"""The engine of one machine: threads read and decode ahead of the model, so that it never waits for them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import Any, Final

from datasetops.engine.base import Fault, Item, Worker
from datasetops.engine.sizes import BatchSize, is_out_of_memory, release_memory
from datasetops.errors import DatasetOpsError, FormatError, ModelError
from datasetops.images import ImageError
from datasetops.progress import Progress, no_progress

_READERS: Final = 4  # threads that read, for each processor: reading may wait for a network
_AHEAD: Final = 2  # images for each of those threads before the model's: one slow read does not stop the others
_BATCHES: Final = 32  # of results that wait for the caller before the model does
_FAILURES: Final = 20  # images in a row: then it is the model, not the images
_Results = list[tuple[int, Any | Fault]]


class LocalEngine:
    """Threads of one process. `jobs` images are decoded at once; `batch` is fixed, or found while running."""

    def __init__(self, *, jobs: int | None = None, batch: int | None = None) -> None:
        self.jobs, self.batch = jobs or os.cpu_count() or 1, batch

    def run(
        self,
        make_worker: Callable[[], Worker],
        items: Sequence[Item],
        read: Callable[[str], bytes],
        *,
        progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Any | Fault]]:
        """As Engine.run; no thread is left when the iterator is closed, also early or by an interrupt."""
        if not items:
            return
        runner = Runner(make_worker(), self.jobs, self.batch)
        with closing(runner.run(items, read)) as results:
            yield from progress(results, len(items), "Running the model")


def open_local(*, jobs: int | None, batch: int | None, address: str | None, gpus: float) -> LocalEngine:
    """Raises ValueError for what only a cluster can have."""
    if address is not None or gpus:
        raise ValueError("the local engine has no address and no share of a GPU: name the engine ray")
    return LocalEngine(jobs=jobs, batch=batch)


class Runner:
    """A worker with the threads around it. What it learns about batches is kept from one run to the next."""

    def __init__(self, worker: Worker, jobs: int, batch: int | None) -> None:
        self._worker, self._jobs = worker, jobs
        lanes = int(getattr(worker, "lanes", 1))
        self._lanes = lanes or jobs
        self._threads = max(1, jobs // self._lanes) if lanes != 1 else None  # of each call of torch
        fixed = batch or getattr(worker, "batch", None)
        self._least = fixed or 1 if hasattr(worker, "batch") else 1  # images of a call, copies among them
        self._size = BatchSize(fixed)

    def run(
        self, items: Sequence[Item], read: Callable[[str], bytes]
    ) -> Generator[tuple[int, Any | Fault], None, None]:
        """Index and result of each item, as soon as its batch is through."""
        readers = min(_READERS * self._jobs, len(items))
        flow = _Flow(len(items), _AHEAD * readers, self._lanes, self._size)
        decoding = threading.Semaphore(self._jobs)
        work = [lambda: self._read_ahead(flow, items, read, decoding)] * readers
        work += [lambda: self._drive(flow, items)] * self._lanes
        threads = [threading.Thread(target=flow.guard, args=(part,), name="dsops-engine") for part in work]
        with _torch_threads(self._threads):
            try:
                for thread in threads:
                    thread.start()
                yield from flow.results()
            finally:
                flow.close()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()

    def _read_ahead(
        self, flow: _Flow, items: Sequence[Item], read: Callable[[str], bytes], decoding: threading.Semaphore
    ) -> None:
        while (index := flow.next_to_read()) is not None:
            item = items[index]
            try:
                data = read(item.uri)
            except DatasetOpsError as error:
                flow.put(index, Fault(item.key, error.message))
                continue
            with decoding:
                flow.put(index, self._prepare(flow, item, data))

    def _prepare(self, flow: _Flow, item: Item, data: bytes) -> Any | Fault:
        try:
            return self._worker.prepare(data)
        except ImageError as error:
            return Fault(item.key, str(error))
        except Exception as error:
            flow.failed(reason := _in_words(error))
            return Fault(item.key, reason)

    def _drive(self, flow: _Flow, items: Sequence[Item]) -> None:
        while batch := flow.take():
            done: _Results = [entry for entry in batch if isinstance(entry[1], Fault)]
            whole = [entry for entry in batch if not isinstance(entry[1], Fault)]
            flow.deliver(done + (self._infer(flow, items, whole) if whole else []))

    def _infer(self, flow: _Flow, items: Sequence[Item], batch: list[tuple[int, Any]]) -> _Results:
        """The results of a batch; where it fails those of its halves (memory) or of each image alone (all else)."""
        started = time.perf_counter()
        given = [prepared for _, prepared in batch]
        given += given[-1:] * (min(self._least, self._size.now) - len(given))
        try:
            found = self._worker.infer(given)
        except FormatError:
            raise
        except Exception as error:
            ran_out, reason = is_out_of_memory(error), _in_words(error)
        else:
            if len(found) != len(given):
                raise ValueError(f"the worker gave {len(found)} results for {len(given)} images")
            flow.succeeded(len(batch), time.perf_counter() - started)
            return [(index, result) for (index, _), result in zip(batch, found, strict=False)]
        # Only now is the error gone, and with it what its frames held of the memory.
        if ran_out:
            release_memory()
            flow.ran_out(len(given))
        if len(given) == 1 or (len(batch) == 1 and not ran_out):
            flow.failed(reason)
            return [(batch[0][0], Fault(items[batch[0][0]].key, reason))]
        step = (len(given) + 1) // 2 if ran_out else 1
        parts = (batch[start : start + step] for start in range(0, len(batch), step))
        return [entry for part in parts for entry in self._infer(flow, items, part)]


class _Flow:
    """What the threads of one run share: which image is read next, which wait for the model, which are done.

    Images go to the model in their order, so that with a batch of fixed size the same images always meet in a call.
    The caller's thread, the one that an interrupt may stop anywhere, takes no condition: it would be left locked.
    """

    def __init__(self, total: int, ahead: int, lanes: int, size: BatchSize) -> None:
        self._total, self._ahead, self._lanes, self._size = total, ahead, lanes, size
        self._to_read = self._to_take = self._collected = self._failures = 0
        self._ready: dict[int, Any] = {}
        self._done: SimpleQueue[_Results | BaseException] = SimpleQueue()
        self._tickets: SimpleQueue[None] = SimpleQueue()  # one for each batch that may wait for the caller
        for _ in range(_BATCHES):
            self._tickets.put(None)
        self._closed = False
        self._lock = threading.Lock()
        self._room, self._filled = threading.Condition(self._lock), threading.Condition(self._lock)

    def next_to_read(self) -> int | None:
        """The next image, once it is near enough to the model; None when there is none left."""
        with self._room:
            while not self._closed and self._to_read < self._total and self._to_read >= self._limit():
                self._room.wait()
            if self._closed or self._to_read >= self._total:
                return None
            self._to_read += 1
            return self._to_read - 1

    def _limit(self) -> int:
        """Beyond what the model works on: what is read ahead and a batch for each lane."""
        return self._to_take + self._ahead + self._lanes * self._size.now

    def put(self, index: int, prepared: Any) -> None:
        with self._filled:
            self._ready[index] = prepared
            self._filled.notify_all()

    def take(self) -> list[tuple[int, Any]]:
        """The next batch, once all of it is there; empty when there is none left."""
        with self._filled:
            start = self._to_take
            stop = self._to_take = min(start + self._size.now, self._total)
            self._room.notify(stop - start)
            next_missing = start
            while not self._closed and next_missing < stop:
                if next_missing in self._ready:
                    next_missing += 1
                else:
                    self._filled.wait()
            if self._closed:
                return []
            return [(index, self._ready.pop(index)) for index in range(start, stop)]

    def deliver(self, results: _Results) -> None:
        """Waits where the caller is far behind."""
        self._tickets.get()
        self._done.put(results)

    def results(self) -> Iterator[tuple[int, Any | Fault]]:
        """All results. Raises what a thread raised, after the results that were there."""
        while self._collected < self._total:
            found = self._done.get()
            if isinstance(found, BaseException):
                raise found
            self._tickets.put(None)
            self._collected += len(found)
            yield from found

    def succeeded(self, images: int, seconds: float) -> None:
        with self._room:
            before = self._size.now
            self._size.took(images, seconds)
            self._failures = 0
            if self._size.now > before:
                self._room.notify_all()

    def ran_out(self, images: int) -> None:
        with self._room:
            self._size.ran_out(images)

    def failed(self, reason: str) -> None:
        """Raises ModelError where the model has failed on one image after the other."""
        with self._room:
            self._failures += 1
            if self._failures >= _FAILURES:
                raise ModelError(
                    f"The model failed on {self._failures} images in a row, the last time with: {reason}",
                    remedy="Try it on one image that is known to be good, on another device or with another model.",
                )

    def guard(self, work: Callable[[], None]) -> None:
        """Runs a thread's work; an error ends the whole run."""
        try:
            work()
        except BaseException as error:
            self._done.put(error)
            self.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._room.notify_all()
            self._filled.notify_all()
        for _ in range(self._lanes):
            self._tickets.put(None)


@contextmanager
def _torch_threads(number: int | None) -> Iterator[None]:
    """So many threads in each call of torch: several calls with all of them would wait for each other."""
    torch = sys.modules.get("torch")
    if torch is None or number is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_words(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, DatasetOpsError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the model failed: {': '.join([type(error).__name__, *lines[:1]])}"
