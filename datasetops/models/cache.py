"""Embeddings that were computed before, by image digest and model digest, in append-only files."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class EmbeddingCache:
    """Arrow files of (SHA-256 of the image, vector as float16), a few thousand rows each, never changed once written.

    Several processes may write at once; a file that was cut off by a crash never gets its final name, and one that
    cannot be read is ignored.
    """

    def __init__(self, directory: Path, model_digest: str) -> None:
        self._folder = directory / model_digest[:32]

    def fetch(self, keys: Sequence[str], out: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Fill the rows of `out` (N, dim) whose key is known; returns which those are. Keys may repeat."""
        known = np.zeros(len(keys), dtype=bool)
        wanted = np.array(keys, dtype="S64")
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        for file in sorted(self._folder.glob("*.arrow")):
            try:
                table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
                stored = np.array(table["key"].to_pylist(), dtype="S64")
                vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(stored), -1)
            except (pa.ArrowInvalid, OSError, ValueError, KeyError):
                continue
            if vectors.shape[1:] != out.shape[1:]:
                continue
            low, high = np.searchsorted(ordered, stored, "left"), np.searchsorted(ordered, stored, "right")
            times = high - low  # how often each stored key is wanted
            ends = np.cumsum(times)
            places = order[np.arange(ends[-1] if len(ends) else 0) + np.repeat(high - ends, times)]
            out[places] = vectors[np.repeat(np.arange(len(stored)), times)]
            known[places] = True
        return known

    def add(self, keys: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Keep some rows, in a file of their own."""
        self._folder.mkdir(parents=True, exist_ok=True)
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = pa.table({"key": pa.array(list(keys), pa.string()), "vector": column})
        name = uuid.uuid4().hex
        temporary = self._folder / f"{name}.part"
        try:
            with pa.ipc.new_file(str(temporary), table.schema) as writer:
                writer.write_table(table)
            temporary.replace(self._folder / f"{name}.arrow")
        finally:
            temporary.unlink(missing_ok=True)
