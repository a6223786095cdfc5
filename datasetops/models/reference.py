"""Models by reference: `builtin:NAME`, `hf:NAME[@REVISION]` or `local:DIR`, or what a plugin adds to these."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError, did_you_mean
from datasetops.plugins import load_plugin, plugin_names

_BUILT_IN: Final = ("efficientnet-lite0",)


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
            remedy=f"Write builtin:{_BUILT_IN[0]}, hf:NAME, hf:NAME@REVISION or local:DIR. "
            + did_you_mean(scheme, known, noun="kinds of model"),
        )
    embedder: Embedder = load_plugin("models", scheme)(name, cache)
    return embedder


def open_builtin(name: str, cache: Path) -> Embedder:
    """A model whose weights come as a Python package. Raises ModelError for an unknown name."""
    if name not in _BUILT_IN:
        raise ModelError(
            f"There is no built-in model {name!r}.", remedy=did_you_mean(name, _BUILT_IN, noun="built-in models")
        )
    from datasetops.models.efficientnet_lite import EfficientNetLite0

    return EfficientNetLite0(cache)
