"""Models by reference: `builtin:NAME`, `hf:NAME[@REVISION]` or `local:DIR`, or what a plugin adds to these."""

from __future__ import annotations

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
    after it and `cache`. Raises ModelError for a reference that cannot be resolved, MissingDependencyError where an
    optional package is needed.
    """
    scheme, _, name = reference.strip().partition(":")
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
    """A model whose weights come as a Python package, or several, joined by +. Raises ModelError for an unknown name."""
    from datasetops.models.efficientnet_lite import NAMES, EfficientNetLite

    names = name.split("+")
    for one in names:
        if one not in NAMES:
            raise ModelError(
                f"There is no built-in model {one!r}.", remedy=did_you_mean(one, NAMES, noun="built-in models")
            )
    opened = [EfficientNetLite(cache, one) for one in names]
    return opened[0] if len(opened) == 1 else Joined(opened)


class Joined:
    """Embedders that take the same input: their vectors, one after the other."""

    def __init__(self, parts: Sequence[Embedder]) -> None:
        self._parts = parts
        self.digest = sha256_hex(" ".join(part.digest for part in parts).encode())
        self.dim = sum(part.dim for part in parts)
        self.side = parts[0].side

    def prepare(self, image: Image.Image) -> npt.NDArray[Any]:
        return self._parts[0].prepare(image)

    def embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.concatenate([part.embed(batch) for part in self._parts], axis=1)
