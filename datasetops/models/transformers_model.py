"""Embedders from the Hugging Face hub or a local folder, through transformers. Weights only as safetensors."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import MissingDependencyError, ModelError
from datasetops.records import canonical_json, sha256_hex


class TransformersEmbedder:
    """The pooled output of a vision model (ViT, DINOv2, CLIP, SigLIP, …).

    Where the checkpoint has no weights for pooling it is the class token, or the mean over all places where there is
    no such token either.
    """

    def __init__(self, name: str, *, revision: str | None = None, local_only: bool = False) -> None:
        try:
            import transformers
        except ImportError:
            raise MissingDependencyError("transformers", extra="transformers", purpose=f"The model {name}") from None
        from safetensors import SafetensorError

        auto: Any = transformers
        options = {"revision": revision, "local_files_only": local_only, "trust_remote_code": False}
        try:
            self._processor = auto.AutoImageProcessor.from_pretrained(name, backend="pil", **options)
            model, report = auto.AutoModel.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, **options
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(
                f"The model {name!r} cannot be loaded: {str(error).strip().splitlines()[0]}",
                remedy="Check the name and the network; a folder needs config.json, preprocessor_config.json and "
                "model.safetensors.",
            ) from None
        self._model = _vision_part(name, model, report["missing_keys"]).eval()
        self._lock = threading.Lock()  # torch uses all cores for one call
        self.digest = _digest(self._model, self._processor)
        probe = self.prepare(Image.new("RGB", (64, 64)))
        self.side = int(probe.shape[-1])
        self.dim = int(self.embed(probe[None]).shape[1])

    def prepare(self, image: Image.Image) -> npt.NDArray[np.float32]:
        pixels: npt.NDArray[np.float32] = self._processor(images=image, return_tensors="np")["pixel_values"][0]
        return pixels

    def embed(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        with self._lock, torch.inference_mode():
            output: Any = self._model(pixel_values=torch.from_numpy(np.ascontiguousarray(batch)))
            vectors: npt.NDArray[np.float32] = self._pooled(output).flatten(1).float().numpy()
            return vectors

    def _pooled(self, output: Any) -> Any:
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        has_class_token = getattr(getattr(self._model, "embeddings", None), "cls_token", None) is not None
        return hidden[:, 0] if has_class_token else hidden.mean(dim=1)


def open_hub(name: str, cache: Path) -> TransformersEmbedder:
    """`NAME` or `NAME@REVISION` on the hub."""
    model, _, revision = name.partition("@")
    return TransformersEmbedder(model, revision=revision or None)


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
    if without:
        raise ModelError(
            f"The checkpoint {name!r} has no weights for {without[0]} and {len(without) - 1} more.",
            remedy="Name a checkpoint of a complete vision model.",
        )
    return model


def _digest(model: Any, processor: Any) -> str:
    parts = [canonical_json(_plain(model.config.to_dict())), canonical_json(_plain(processor.to_dict()))]
    for name, tensor in sorted(model.state_dict().items()):
        parts += [name.encode(), np.ascontiguousarray(tensor.float().numpy()).tobytes()]
    return sha256_hex(b"\n".join(sha256_hex(part).encode() for part in parts))


def _plain(value: Any) -> Any:
    """A configuration without what differs between machines: where it was loaded from, which version saved it."""
    if isinstance(value, dict):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if not str(key).startswith("_") and key not in ("transformers_version", "name_or_path")
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
