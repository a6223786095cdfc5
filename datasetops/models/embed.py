"""Embed many images: decoding and model in parallel, resumable, each distinct image once."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.engine import Engine, Fault, Item, engine_of
from datasetops.engine.local import LocalEngine
from datasetops.errors import ModelError
from datasetops.images import decode_rgb
from datasetops.manifest import Repository
from datasetops.models.cache import EmbeddingCache
from datasetops.models.reference import Embedder, open_embedder
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media

_BATCH: Final = 4  # images of one call on a processor: small, so that the activations stay in a core's cache
_FLUSH: Final = 2048  # images between two writes of the cache: what an interrupted run loses at most


@dataclass(frozen=True)
class Elsewhere:
    """An engine of several machines, and what they need there: how to open the model, how to read each image."""

    engine: Engine
    open: Callable[[], Embedder]
    read: Callable[[str], bytes]
    uris: Sequence[str]


def elsewhere(
    repository: Repository, reference: str, uris: Sequence[str], *, engine: Engine | None = None
) -> Elsewhere | None:
    """For `embed_images`: where the images (N,) of a repository are embedded, None for this process.

    `engine` goes before the one that the repository's settings name. Raises what `engine_of` raises.
    """
    settings = repository.settings
    chosen = engine or engine_of(settings)
    if isinstance(chosen, LocalEngine):
        return None
    opened = partial(open_embedder, reference, cache=settings.cache.absolute())
    return Elsewhere(chosen, opened, Media(repository.store, repository.root).read, uris)


def embed_stored(
    repository: Repository,
    reference: str,
    keys: Sequence[str],
    uris: Sequence[str],
    *,
    progress: Progress = no_progress,
) -> tuple[npt.NDArray[np.float32], str]:
    """Vectors (N, dim) of N images of a repository, by digest (`keys`) and place (`uris`), and the embedder's digest.

    On the engine that the settings name, and through the repository's cache; see `embed_images`.
    """
    embedder = open_embedder(reference, cache=repository.settings.cache)
    media = Media(repository.store, repository.root)
    vectors = embed_images(
        embedder,
        keys,
        lambda row: media.read(uris[row]),
        cache=EmbeddingCache(repository.cache / "embeddings", embedder.digest),
        jobs=repository.settings.jobs,
        progress=progress,
        away=elsewhere(repository, reference, uris),
    )
    return vectors, embedder.digest


def embed_images(
    embedder: Embedder,
    keys: Sequence[str],
    read: Callable[[int], bytes],
    *,
    cache: EmbeddingCache | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
    away: Elsewhere | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors (N, dim) of N images; a row of NaN where an image cannot be read or decoded.

    `keys` are the images' digests: equal keys are embedded once, and known ones come from the cache. `read` gives the
    bytes of image i, in threads, and may raise DatasetOpsError; with `away` they are read and embedded there. Vectors
    have half precision, whether they come from the cache or not. What was computed before an error or an interrupt is
    in the cache.
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
        found = _embedded(embedder, keys, todo, read, max(1, jobs), out, away)
        for row in progress(found, len(todo), "Embedding images"):
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
    away: Elsewhere | None,
) -> Iterator[int]:
    """Fill `out` and yield each row that was worked on."""
    if away is None:
        items = [Item(keys[row], str(row)) for row in rows]
        results = LocalEngine(jobs=jobs).run(lambda: _Embedding(embedder), items, lambda row: read(int(row)))
    else:
        items = [Item(keys[row], away.uris[row]) for row in rows]
        results = away.engine.run(_Maker(away.open, embedder.digest), items, away.read)
    for index, found in results:
        if not isinstance(found, Fault):
            out[rows[index]] = found
        yield rows[index]


@dataclass(frozen=True)
class _Maker:
    """Makes a worker where it is to run."""

    open: Callable[[], Embedder]
    digest: str

    def __call__(self) -> _Embedding:
        """Raises ModelError where the machine has another model by the same name."""
        embedder = self.open()
        if embedder.digest != self.digest:
            raise ModelError(
                f"The model for embeddings on {platform.node()} is another one than here.",
                remedy="Put the same files on all machines of the cluster.",
            )
        return _Embedding(embedder)


class _Embedding:
    """An embedder as engines run it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.lanes = int(getattr(embedder, "lanes", 0))
        self.batch = _BATCH if self.lanes == 0 else None

    def prepare(self, data: bytes) -> npt.NDArray[Any]:
        return self._embedder.prepare(decode_rgb(data, at_least=self._embedder.side))

    def infer(self, prepared: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float16]]:
        return list(self._embedder.embed(np.stack(prepared)).astype(np.float16))


def _flush(cache: EmbeddingCache | None, keys: Sequence[str], pending: list[int], out: npt.NDArray[np.float32]) -> None:
    good = [row for row in pending if not np.isnan(out[row, 0])]
    if cache is not None and good:
        cache.add([keys[row] for row in good], out[good])
    pending.clear()
