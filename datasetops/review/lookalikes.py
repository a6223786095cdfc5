"""Samples that look alike, by the embeddings that audits left in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasetops.errors import DatasetOpsError
from datasetops.manifest import Repository, Version
from datasetops.models import EmbeddingCache, embed_images, open_embedder
from datasetops.models.reference import Embedder
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media

Floats: TypeAlias = npt.NDArray[np.float32]

COMPUTED_UP_TO: Final = 20_000  # images without an embedding: some minutes; more are left to an audit
_WHOLE: Final = 2**26  # numbers (256 MiB) up to which vectors are kept as they are
_FEWEST, _MOST = 64, 256  # principal dimensions that are kept of more numbers, as many as that leaves room for
_LEARNED_FROM: Final = 4_096  # images that the principal dimensions are learned from
_ROUNDS: Final = 3  # of finding them
_TINY: Final = np.float32(1e-30)  # in place of a length of 0
_AT_ONCE: Final = 2**22  # numbers (16 MiB) that are turned into single precision at a time


class Lookalikes:
    """The nearest samples in embedding space, by 1 - cosine; of very many samples by its part in the principal dimensions.

    `reason` says why there are none, or why some samples have none; empty where all have. Vectors of a million samples
    take 256 MB. Distances in principal dimensions are at most the true ones, and 0 for equal images.
    """

    def __init__(
        self, repository: Repository, version: Version, sample_ids: Sequence[str], *, progress: Progress = no_progress
    ) -> None:
        """Vectors come from the cache; missing ones are computed where at most 20,000 are."""
        self.reason = ""
        self.has_any = False
        self._places: dict[str, int] = {}
        self._vectors: Floats = np.empty((0, 0), dtype=np.float32)
        rows = version.state("samples").rows(
            pa.array(list(dict.fromkeys(sample_ids)), pa.string()), ["sample_id", "sha256", "uri"]
        )
        rows = rows.filter(rows["sha256"].is_valid())
        names, keys, uris = (rows[name].to_pylist() for name in ("sample_id", "sha256", "uri"))
        if not names:
            self.reason = "The samples have no images at hand."
            return
        try:
            embedder = open_embedder(_model(repository, version), cache=repository.settings.cache)
            cache = EmbeddingCache(repository.cache / "embeddings", embedder.digest)
            vectors, known = _fetched(cache, keys, embedder.dim)
            missing = np.flatnonzero(~known)
            if 0 < len(missing) <= COMPUTED_UP_TO:
                _compute(repository, embedder, cache, keys, uris, missing.tolist(), progress)
                vectors, known = _fetched(cache, keys, embedder.dim)
                missing = np.flatnonzero(~known)
        except DatasetOpsError as error:
            self.reason = error.message
            return
        if len(missing):
            why = "cannot be read" if len(missing) <= COMPUTED_UP_TO else "have no embedding yet"
            remedy = "" if len(missing) <= COMPUTED_UP_TO else f" Run: dsops audit {version.name} --check outlier"
            self.reason = f"{len(missing):,} of {len(names):,} images {why}.{remedy}"
        chosen = np.flatnonzero(known)
        self.has_any = bool(len(chosen))
        self._vectors = vectors if len(chosen) == len(names) else vectors[chosen]
        self._halves = np.einsum("nd,nd->n", self._vectors, self._vectors) / 2  # of the squared lengths
        self._places = {names[row]: place for place, row in enumerate(chosen.tolist())}

    def nearest(self, sample_id: str, k: int) -> list[tuple[str, float]]:
        """The `k` nearest other samples and their distances, nearest first; none for a sample without an embedding."""
        place = self._places.get(sample_id)
        if place is None or k < 1:
            return []
        distances = self._distances(place)
        distances[place] = np.inf
        k = min(k, len(distances) - 1)
        best = np.argpartition(distances, k)[:k] if k else np.empty(0, dtype=np.int64)
        best = best[np.lexsort((best, distances[best]))]
        return [(self._names[row], round(float(distances[row]), 6)) for row in best.tolist()]

    def distances(self, sample_id: str, others: Sequence[str]) -> Floats:
        """Of a sample from others (N,): inf where one of the two has no embedding."""
        place = self._places.get(sample_id)
        if place is None:
            return np.full(len(others), np.inf, dtype=np.float32)
        found = np.append(self._distances(place), np.float32(np.inf))
        places = np.fromiter((self._places.get(name, -1) for name in others), dtype=np.int64, count=len(others))
        return np.asarray(found[places], dtype=np.float32)

    @property
    def _names(self) -> list[str]:
        if not hasattr(self, "_in_order"):
            self._in_order = list(self._places)
        return self._in_order

    def _distances(self, place: int) -> Floats:
        """Half the squared distance, which is 1 - cosine for unit vectors."""
        found: Floats = self._halves + self._halves[place] - self._vectors @ self._vectors[place]
        return np.maximum(found, 0, out=found)


def _model(repository: Repository, version: Version) -> str:
    """The model of the version's newest audit that made embeddings, else the repository's."""
    for entry in repository.ledger.backwards():
        event = entry.event
        if event.kind == "audit" and event.inputs.get("commit") == version.digest and event.inputs.get("models"):
            return str(next(iter(event.inputs["models"])))
    return repository.settings.model


def _fetched(cache: EmbeddingCache, keys: Sequence[str], dim: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(unit vectors (N, D), which are known). Where there are many, in principal dimensions."""
    if len(keys) * dim <= _WHOLE:
        whole = _Units(len(keys), dim)
        return whole.values, cache.fetch(keys, cast(Any, whole))
    step = -(-len(keys) // _LEARNED_FROM)
    sample = _Units(len(keys[::step]), dim)
    known = cache.fetch(keys[::step], cast(Any, sample))
    learned = sample.values[known].astype(np.float32)
    if len(learned) < 2:
        return np.zeros((len(keys), 1), dtype=np.float32), np.zeros(len(keys), dtype=bool)
    centre = learned.mean(axis=0)
    learned -= centre
    count = min(dim, max(_FEWEST, min(_MOST, _WHOLE // len(keys))))
    part = _Units(len(keys), dim, (centre, _axes(learned, count)))
    return part.values, cache.fetch(keys, cast(Any, part))


def _axes(rows: Floats, count: int) -> Floats:
    """Orthonormal axes (D, count) that hold most of the rows' squares, by the randomized range finder with power
    iterations of Halko, Martinsson and Tropp (SIAM Review 53, 2011), algorithm 4.4."""
    axes = np.random.default_rng(0).standard_normal((rows.shape[1], count), dtype=np.float32)
    for _ in range(_ROUNDS):
        axes = np.linalg.qr(rows.T @ (rows @ axes))[0]
    return np.ascontiguousarray(axes)


class _Units:
    """Takes vectors as an array (N, D) does, but keeps them at unit length, along axes from a centre.

    So a cache of any size is read without ever being in memory as a whole.
    """

    def __init__(self, n: int, dim: int, onto: tuple[Floats, Floats] | None = None) -> None:
        """`onto`: the centre (D,) and the axes (D, K)."""
        self.shape = (n, dim)
        self.values = np.zeros((n, dim if onto is None else onto[1].shape[1]), dtype=np.float32)
        self._onto = onto

    def __setitem__(self, rows: Any, vectors: npt.NDArray[Any]) -> None:
        step = max(1, _AT_ONCE // self.shape[1])
        for start in range(0, len(vectors), step):
            units: Floats = vectors[start : start + step].astype(np.float32)
            units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), _TINY)
            if self._onto is not None:
                units = np.matmul(units - self._onto[0], self._onto[1], dtype=np.float32)
            self.values[rows[start : start + step]] = units


def _compute(
    repository: Repository,
    embedder: Embedder,
    cache: EmbeddingCache,
    keys: Sequence[str],
    uris: Sequence[str],
    missing: Sequence[int],
    progress: Progress,
) -> None:
    """Put what is missing into the cache."""
    media = Media(repository.store, repository.root)
    embed_images(
        embedder,
        [keys[row] for row in missing],
        lambda place: media.read(uris[missing[place]]),
        cache=cache,
        jobs=repository.settings.jobs,
        progress=progress,
    )
