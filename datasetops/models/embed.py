"""Embed many images: decoding and model in parallel, resumable, each distinct image once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from datasetops.errors import DatasetOpsError
from datasetops.images import ImageError, decode_rgb
from datasetops.models.cache import EmbeddingCache
from datasetops.models.reference import Embedder
from datasetops.progress import Progress, no_progress

_BATCH = 4  # images of one call: small, so that the activations stay in a core's cache
_READERS = 4  # threads that read ahead, for each that decodes and runs the model: reading may wait for a network
_FLUSH = 2048  # images between two writes of the cache: what an interrupted run loses at most
_Work = tuple[list[int], npt.NDArray[np.float32]]


def embed_images(
    embedder: Embedder,
    keys: Sequence[str],
    read: Callable[[int], bytes],
    *,
    cache: EmbeddingCache | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> npt.NDArray[np.float32]:
    """Vectors (N, dim) of N images; a row of NaN where an image cannot be read or decoded.

    `keys` are the images' digests: equal keys are embedded once, and known ones come from the cache. `read` gives the
    bytes of image i, in threads, and may raise DatasetOpsError. Vectors have half precision, whether they come from the
    cache or not. What was computed before an error or an interrupt is in the cache.
    """
    out = np.full((len(keys), embedder.dim), np.nan, dtype=np.float32)
    known = cache.fetch(keys, out) if cache else np.zeros(len(keys), dtype=bool)
    first: dict[str, int] = {}
    missing: list[int] = np.flatnonzero(~known).tolist()
    for row in missing:
        first.setdefault(keys[row], row)
    todo = list(first.values())
    pending: list[int] = []
    try:
        for row in progress(_embedded(embedder, todo, read, jobs, out), len(todo), "Embedding images"):
            pending.append(row)
            if len(pending) >= _FLUSH:
                _flush(cache, keys, pending, out)
    finally:
        _flush(cache, keys, pending, out)
    for row in missing:
        out[row] = out[first[keys[row]]]
    return out


def _embedded(
    embedder: Embedder,
    rows: Sequence[int],
    read: Callable[[int], bytes],
    jobs: int,
    out: npt.NDArray[np.float32],
) -> Iterator[int]:
    """Fill `out` and yield each row that was worked on."""

    def fetch(batch: Sequence[int]) -> list[tuple[int, bytes]]:
        contents = []
        for row in batch:
            with suppress(DatasetOpsError):
                contents.append((row, read(row)))
        return contents

    def work(contents: Future[list[tuple[int, bytes]]]) -> _Work:
        good, inputs = [], []
        for row, content in contents.result():
            with suppress(ImageError):
                inputs.append(embedder.prepare(decode_rgb(content, at_least=embedder.side)))
                good.append(row)
        if not good:
            return good, np.empty((0, embedder.dim), dtype=np.float32)
        return good, embedder.embed(np.stack(inputs))

    jobs = max(1, jobs)
    waiting: deque[tuple[Sequence[int], Future[_Work]]] = deque()
    with ThreadPoolExecutor(_READERS * jobs) as readers, ThreadPoolExecutor(jobs) as workers:
        try:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                waiting.append((batch, workers.submit(work, readers.submit(fetch, batch))))
                if len(waiting) > 2 * _READERS * jobs:
                    yield from _collect(*waiting.popleft(), out)
            while waiting:
                yield from _collect(*waiting.popleft(), out)
        finally:
            for _, future in waiting:
                future.cancel()


def _collect(batch: Sequence[int], future: Future[_Work], out: npt.NDArray[np.float32]) -> Sequence[int]:
    good, vectors = future.result()
    out[good] = vectors.astype(np.float16)
    return batch


def _flush(cache: EmbeddingCache | None, keys: Sequence[str], pending: list[int], out: npt.NDArray[np.float32]) -> None:
    good = [row for row in pending if not np.isnan(out[row, 0])]
    if cache is not None and good:
        cache.add([keys[row] for row in good], out[good])
    pending.clear()
