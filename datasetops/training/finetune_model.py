"""The model that is fine-tuned: a checkpoint with a new head, its loss by task, and the files it is kept in."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datasetops.errors import ModelError
from datasetops.models.checkpoint import (
    checkpoint_digest,
    loading,
    plain,
    read_config,
    refuse_nan,
    refuse_pickles,
    transformers_for,
)
from datasetops.models.families import family_of
from datasetops.training.finetune_data import SILENT, Examples
from datasetops.training.finetune_images import Ready
from datasetops.training.recipe import FinetuneRecipe

_AUTO: Final = {
    "classification": "AutoModelForImageClassification",
    "box": "AutoModelForObjectDetection",
    "mask": "AutoModelForSemanticSegmentation",
}
_KEPT_AS: Final = ("config.json", "preprocessor_config.json", "model.safetensors")
_LEAST_LOADED: Final = 0.5  # share of the weights that the checkpoint must bring: with fewer, nothing is being tuned


@dataclass(frozen=True)
class Start:
    """Where training begins. `digest`: of all weights, those of the new head included. `fresh`: names of parameters that
    the checkpoint did not bring. `origin`: reference and exact revision."""

    model: Any
    processor: Any
    digest: str
    fresh: frozenset[str]
    origin: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a recipe's `model` names: its name, `source` as transformers takes it, and the exact revision on the hub."""

    name: str
    source: str
    local: bool
    revision: str | None


def find_checkpoint(recipe: FinetuneRecipe) -> Checkpoint:
    """What a recipe names, found without loading it. Raises ModelError where there is nothing, or pickled weights only."""
    scheme, _, name = recipe.model.strip().partition(":")
    if scheme not in ("hf", "local") or not name:
        raise ModelError(
            f"{recipe.model!r} is nothing that can be fine-tuned.",
            remedy="Write hf:NAME@REVISION or local:DIR in the recipe's field model.",
        )
    local, source, revision = scheme == "local", name, None
    if local:
        source, name = str(Path(name)), Path(name).resolve().name
        if not (Path(source) / "config.json").is_file():
            raise ModelError(
                f"{source} holds no saved model.",
                remedy="Name a folder with config.json, preprocessor_config.json and model.safetensors; 'hf download NAME "
                "--local-dir DIR' makes one.",
            )
        refuse_pickles(name, Path(source))
    else:
        name, _, revision = name.partition("@")
        source = name
    transformers_for(name)
    _, commit = read_config(source, name=name, revision=revision or None, local_only=local)
    return Checkpoint(name, source, local, commit)


def load_start(recipe: FinetuneRecipe, checkpoint: Checkpoint, found: Examples) -> Start:
    """The checkpoint with a head for the classes, whose first weights depend on the seed alone.

    Raises ModelError for one that is damaged, of an architecture that does something else, or that brings too little.
    """
    name, source, local = checkpoint.name, checkpoint.source, checkpoint.local
    transformers = transformers_for(name)
    heads = {"id2label": dict(enumerate(found.names)), "label2id": {one: at for at, one in enumerate(found.names)}}
    if recipe.task == "classification":
        heads["problem_type"] = ("multi" if found.several else "single") + "_label_classification"
    options = {"revision": checkpoint.revision, "local_files_only": local, "trust_remote_code": False}
    with loading(name, quiet=local), torch.random.fork_rng(devices=[]), _quiet(transformers):
        torch.manual_seed(recipe.seed)
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", **options)
        model, report = getattr(transformers, _AUTO[recipe.task]).from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
            **heads,
            **options,
        )
    family = family_of(name, type(model).__name__)
    if recipe.task not in family.kinds:
        raise ModelError(
            f"The model {name!r} gives {' and '.join(family.kinds)}, not {recipe.task}.", remedy="Name another model."
        )
    fresh = frozenset([*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])
    sizes = {key: value.numel() for key, value in model.named_parameters()}
    brought = sum(size for key, size in sizes.items() if key not in fresh) / max(1, sum(sizes.values()))
    if brought < _LEAST_LOADED:
        raise ModelError(
            f"The checkpoint {name!r} brings {brought:.0%} of the weights of a {type(model).__name__}.",
            remedy="Name a checkpoint of that architecture, or of its backbone.",
        )
    refuse_nan(name, model)
    if recipe.task == "mask":  # maps of labels are held against the whole image, class by class
        for part in ("do_center_crop", "do_reduce_labels"):
            if getattr(processor, part, None):
                setattr(processor, part, False)
    origin = {"reference": recipe.model if local is False else f"local:{name}", "revision": checkpoint.revision}
    return Start(model, processor, checkpoint_digest(model, processor), fresh, origin)


class Task:
    """What a model is taught. `total` is the loss over a batch, summed over what `Ready.share` counts."""

    def __init__(self, recipe: FinetuneRecipe, found: Examples, device: Any) -> None:
        self._kind, self._device = recipe.task, device
        weights = found.weights if found.weights is not None else np.ones(len(found.names))
        self._by_class = torch.tensor(weights, dtype=torch.float32, device=device)

    def total(self, model: Any, batch: Sequence[Ready]) -> Tensor:
        """Of images of one shape."""
        inputs = {key: self._stacked([one.inputs[key] for one in batch]) for key in batch[0].inputs}
        targets = [{key: torch.as_tensor(value).to(self._device) for key, value in one.target.items()} for one in batch]
        if self._kind == "box":
            loss: Tensor = model(**inputs, labels=targets).loss  # a mean over boxes, or the sum where there is none
            return loss * max(1.0, sum(one.share for one in batch))
        logits = model(**inputs).logits.float()
        labels = torch.stack([one["label"] for one in targets])
        weights = torch.stack([one["weight"] for one in targets])
        if self._kind == "mask":
            logits = functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
            weights = weights * self._by_class[labels.clamp(min=0)]
            return (functional.cross_entropy(logits, labels, reduction="none", ignore_index=SILENT) * weights).sum()
        if labels.ndim == 2:
            both = functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(dim=1)
        else:
            both = functional.cross_entropy(logits, labels, reduction="none")
        return (both * weights).sum()

    def _stacked(self, arrays: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self._device)


def groups(model: Any, fresh: frozenset[str], recipe: FinetuneRecipe) -> list[dict[str, Any]]:
    """Parameters for an optimiser, with `share` of the learning rate; offsets and norms do not decay.

    Those of a backbone whose share is 0 are left as they are.
    """
    found: dict[tuple[float, float], list[Any]] = {}
    for name, value in model.named_parameters():
        share = recipe.backbone_rate if name not in fresh and _in_backbone(model, name, recipe.task) else 1.0
        value.requires_grad_(value.requires_grad and share > 0)
        if value.requires_grad:
            found.setdefault((share, recipe.weight_decay if value.ndim > 1 else 0.0), []).append(value)
    return [{"params": own, "weight_decay": decay, "share": share} for (share, decay), own in found.items()]


def learning(model: Any, fresh: frozenset[str]) -> None:
    """Training mode, but for batch norms that the checkpoint brings: their statistics stay, so that a batch that is taken
    in parts teaches what it teaches as a whole."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and f"{name}.weight" not in fresh:
            module.eval()


def packed(model: Any, processor: Any, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """(weights as safetensors, configuration of model and processor)."""
    shutil.rmtree(folder, ignore_errors=True)
    with loading(model.base_model_prefix, quiet=True):
        model.save_pretrained(folder, max_shard_size="1TB")
        processor.save_pretrained(folder)
    config, prepared = (json.loads((folder / name).read_text(encoding="utf-8")) for name in _KEPT_AS[:2])
    weights = (folder / _KEPT_AS[2]).read_bytes()
    shutil.rmtree(folder, ignore_errors=True)
    return weights, {"config": plain(config), "preprocessor": plain(prepared)}


def unpacked(weights: bytes, description: Mapping[str, Any], folder: Path) -> Path:
    """The folder, with the files that `local:DIR` takes; nothing is done where it is there."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{uuid.uuid4().hex}.part")
    try:
        temporary.mkdir()
        for name, key in zip(_KEPT_AS[:2], ("config", "preprocessor"), strict=True):
            (temporary / name).write_text(json.dumps(description[key]), encoding="utf-8")
        (temporary / _KEPT_AS[2]).write_bytes(weights)
        if not folder.is_dir():
            temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _in_backbone(model: Any, name: str, task: str) -> bool:
    return "backbone" in name.split(".") if task == "box" else name.startswith(f"{model.base_model_prefix}.")


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its warning of weights that are new: they are meant to be."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
