"""Embedders from the Hugging Face hub or a local folder, through transformers. Weights only as safetensors."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError
from datasetops.models.checkpoint import (
    TRANSFORMERS,
    checkpoint_digest,
    hub_answers,
    loading,
    pick_device,
    read_config,
    refuse_missing,
    refuse_pickles,
    transformers_for,
)


class TransformersEmbedder:
    """The pooled output of a vision model (ViT, DINOv2, CLIP, SigLIP, …).

    Where the checkpoint has no weights for pooling it is the class token, or the mean over all places where there is
    no such token either.
    """

    packages = TRANSFORMERS

    def __init__(self, name: str, *, revision: str | None = None, local_only: bool = False) -> None:
        transformers = transformers_for(name)
        _, revision = read_config(name, name=name, revision=revision, local_only=local_only)
        options = {"revision": revision, "local_files_only": local_only, "trust_remote_code": False}
        if local_only:
            refuse_pickles(name, Path(name))
        with loading(name, quiet=local_only):
            self.processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **options)
            model, report = transformers.AutoModel.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, dtype="float32", **options
            )
        self._device = pick_device("auto")
        self.model = _vision_part(name, model, report["missing_keys"]).eval().to(self._device)
        on_cpu = self._device == "cpu"
        self.lanes = 0 if on_cpu else 1
        self._turn: AbstractContextManager[Any] = nullcontext() if on_cpu else threading.Lock()
        self.digest = checkpoint_digest(self.model, self.processor)
        probe = self.prepare(Image.new("RGB", (64, 64)))
        self.side = int(probe.shape[-1])
        self.dim = int(self.embed(probe[None]).shape[1])

    def prepare(self, image: Image.Image) -> npt.NDArray[np.float32]:
        pixels: npt.NDArray[np.float32] = self.processor(images=image, return_tensors="np")["pixel_values"][0]
        return pixels

    def embed(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        with self._turn, torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
            vectors: npt.NDArray[np.float32] = self.pooled(self.model(pixel_values=pixels)).float().cpu().numpy()
            return vectors

    def pooled(self, output: Any) -> Any:
        """What the torch module `model` gives → vectors (B, dim)."""
        return self._pooled(output).flatten(1)

    def _pooled(self, output: Any) -> Any:
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        has_class_token = getattr(getattr(self.model, "embeddings", None), "cls_token", None) is not None
        return hidden[:, 0] if has_class_token else hidden.mean(dim=1)


def open_hub(name: str, cache: Path) -> TransformersEmbedder:
    """`NAME` or `NAME@REVISION` on the hub; what was fetched before where the hub cannot be reached."""
    model, _, revision = name.partition("@")
    return TransformersEmbedder(model, revision=revision or None, local_only=not hub_answers(model))


def open_local(name: str, cache: Path) -> TransformersEmbedder:
    """A folder with a saved model. Raises ModelError where there is none."""
    if not (Path(name) / "config.json").is_file():
        raise ModelError(
            f"{name} holds no saved model.", remedy="Name a folder with config.json and model.safetensors."
        )
    return TransformersEmbedder(name, local_only=True)


def _vision_part(name: str, model: Any, missing: Iterable[str]) -> Any:
    """The model, without parts that its checkpoint has no weights for: those would be random, others at every start."""
    prefix = ""
    if hasattr(model, "vision_model"):
        model, prefix = model.vision_model, "vision_model."
    without = sorted(key.removeprefix(prefix) for key in missing if key.startswith(prefix))
    if getattr(model, "pooler", None) is not None and any(key.startswith("pooler.") for key in without):
        model.pooler = None
        without = [key for key in without if not key.startswith("pooler.")]
    refuse_missing(name, without)
    return model
