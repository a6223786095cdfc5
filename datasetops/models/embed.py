"""Embed many images: decoding and model in parallel, resumable, each distinct image once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datasetops.engine import Fault, Item
from datasetops.engine.local import LocalEngine
from datasetops.images import decode_rgb
from datasetops.models.cache import EmbeddingCache
from datasetops.models.reference import Embedder
from datasetops.progress import Progress, no_progress

_BATCH = 4  # images of one call: small, so that the activations stay in a core's cache
_FLUSH = 2048  # images between two writes of the cache: what an interrupted run loses at most


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
        for row in progress(_embedded(embedder, keys, todo, read, max(1, jobs), out), len(todo), "Embedding images"):
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
    keys: Sequence[str],
    rows: Sequence[int],
    read: Callable[[int], bytes],
    jobs: int,
    out: npt.NDArray[np.float32],
) -> Iterator[int]:
    """Fill `out` and yield each row that was worked on."""
    items = [Item(keys[row], str(row)) for row in rows]
    engine = LocalEngine(jobs=jobs, batch=_BATCH)
    for index, found in engine.run(lambda: _Embedding(embedder, jobs), items, lambda row: read(int(row))):
        if not isinstance(found, Fault):
            out[rows[index]] = found
        yield rows[index]


class _Embedding:
    """An embedder as engines run it."""

    def __init__(self, embedder: Embedder, jobs: int) -> None:
        self.lanes, self._embedder = jobs, embedder

    def prepare(self, data: bytes) -> npt.NDArray[Any]:
        return self._embedder.prepare(decode_rgb(data, at_least=self._embedder.side))

    def infer(self, prepared: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float16]]:
        return list(self._embedder.embed(np.stack(prepared)).astype(np.float16))


def _flush(cache: EmbeddingCache | None, keys: Sequence[str], pending: list[int], out: npt.NDArray[np.float32]) -> None:
    good = [row for row in pending if not np.isnan(out[row, 0])]
    if cache is not None and good:
        cache.add([keys[row] for row in good], out[good])
    pending.clear()
