"""Loading checkpoints through transformers: weights only as safetensors, no code from repositories, plain errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasetops.errors import MissingDependencyError, ModelError
from datasetops.records import canonical_json, sha256_hex

_HOW_TO_FETCH: Final = (
    "Check the name and the network (with HF_HUB_OFFLINE=1 none is tried). To work offline, fetch it once with "
    "'hf download NAME --local-dir DIR' and name local:DIR; a folder needs config.json, preprocessor_config.json, "
    "model.safetensors and, for models that read prompts, their tokenizer's files."
)
_HOW_TO_CONVERT: Final = (
    "Pickled weights can run any code and are never opened. Take a revision with model.safetensors, or convert them "
    "once, where nothing can be harmed, with save_pretrained of transformers, and name the folder as local:DIR."
)
TRANSFORMERS: Final = ("torch", "transformers", "tokenizers", "safetensors")  # packages that its predictions depend on


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with what prepares its input. `model` is in evaluation mode, float32, on `device`."""

    name: str  # as shown: without folders of this machine
    revision: str | None
    model: Any
    processor: Any  # of images
    tokenizer: Any  # None for a model that reads no text
    device: str


def transformers_for(name: str) -> Any:
    """The module transformers. Raises MissingDependencyError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError("transformers", extra="transformers", purpose=f"The model {name}") from None
    return transformers


@contextmanager
def loading(name: str, *, quiet: bool) -> Iterator[None]:
    """What transformers raises for a checkpoint that is absent, incomplete, damaged or refused, as a ModelError.

    `quiet`: its progress bars are not shown; for what need not be downloaded.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    hide = quiet and logging.is_progress_bar_enabled()
    try:
        if hide:
            logging.disable_progress_bar()
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = _HOW_TO_FETCH
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            reason = "it needs code from its repository, which is never run"
            remedy = "Name a checkpoint of an architecture that transformers has."
        elif "safetensors" in reason and "not appear" in reason:  # on the hub; a folder was looked into before
            remedy = f"{_HOW_TO_CONVERT} {_HOW_TO_FETCH}"
        elif isinstance(error, ImportError):
            remedy = "Install what it names, or name another checkpoint."
        raise ModelError(f"The model {name!r} cannot be loaded: {reason.rstrip('.')}.", remedy=remedy) from None
    finally:
        if hide:
            logging.enable_progress_bar()


def refuse_pickles(name: str, folder: Path) -> None:
    """Raises ModelError for a folder whose only weights are pickled."""
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
        if pickled:
            raise ModelError(
                f"The model {name!r} has only pickled weights ({pickled[0]}), no model.safetensors.",
                remedy=_HOW_TO_CONVERT,
            )


def read_config(source: str, *, name: str, revision: str | None, local_only: bool) -> tuple[Any, str | None]:
    """A checkpoint's configuration, and the exact commit that `revision` (None: the newest) stands for on the hub.

    Everything else is then loaded from that commit. Raises ModelError.
    """
    transformers = transformers_for(name)
    with loading(name, quiet=local_only):
        config = transformers.AutoConfig.from_pretrained(
            source, revision=revision, local_files_only=local_only, trust_remote_code=False
        )
    return config, revision if Path(source).is_dir() else _commit(source, revision)


def hub_answers(name: str) -> bool:
    """Whether the hub can be reached, asked once: transformers would ask again and again, file by file.

    Raises MissingDependencyError as `transformers_for`.
    """
    transformers_for(name)
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of the HTTP client, which differs between releases of huggingface_hub
        return False
    return True


def _commit(source: str, revision: str | None) -> str | None:
    """The commit that a revision stood for when its configuration was fetched: the name of the snapshot's folder."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


def load_checkpoint(
    source: str, architecture: str, *, name: str, revision: str | None, local_only: bool, reads_text: bool, device: str
) -> Checkpoint:
    """A model of the given class of transformers. Raises ModelError for anything missing, random or not finite in it."""
    transformers = transformers_for(name)
    options = {"revision": revision, "local_files_only": local_only, "trust_remote_code": False}
    chosen = pick_device(device)
    if Path(source).is_dir():
        refuse_pickles(name, Path(source))
    with loading(name, quiet=local_only):
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options) if reads_text else None
        model, report = getattr(transformers, architecture).from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
            **options,
        )
    if tokenizer is not None and set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ModelError(f"The model {name!r} cannot be loaded: its tokenizer has no words.", remedy=_HOW_TO_FETCH)
    refuse_missing(name, [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])])
    refuse_nan(name, model)
    return Checkpoint(name, revision, model.eval().to(chosen), processor, tokenizer, chosen)


def refuse_missing(name: str, keys: Iterable[str]) -> None:
    """Raises ModelError for weights that a checkpoint lacks: they would be random, others at every start."""
    without = sorted(keys)
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise ModelError(
            f"The checkpoint {name!r} has no weights, or none of the right shape, for {without[0]}{more}.",
            remedy="Name a complete checkpoint: one that was saved after training, with its head.",
        )


def refuse_nan(name: str, model: Any) -> None:
    """Raises ModelError for weights that are no numbers."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ModelError(
                f"The weights of {name!r} hold NaN, in {key}.",
                remedy="Its training diverged or the file was changed: take another checkpoint.",
            )


def pick_device(device: str) -> str:
    """cpu, cuda, cuda:N or mps; auto takes the fastest there is. Raises ModelError for one that is not there."""
    import torch

    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there[:0] = ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if device == "auto":
        return there[0]
    if device not in there:
        raise ModelError(f"There is no device {device!r} here.", remedy=f"Take auto or one of {', '.join(there)}.")
    return device


def checkpoint_digest(model: Any, processor: Any) -> str:
    """SHA-256 over configuration, image processor and weights (as float32), 64 hex digits; the same on every machine."""
    parts = [canonical_json(plain(model.config.to_dict())), canonical_json(plain(processor.to_dict()))]
    for name, tensor in sorted(model.state_dict().items()):
        parts += [name.encode(), np.ascontiguousarray(tensor.float().cpu().numpy()).tobytes()]
    return sha256_hex(b"\n".join(sha256_hex(part).encode() for part in parts))


def plain(value: Any) -> Any:
    """A configuration without what differs between machines: where it was loaded from, which version saved it."""
    if isinstance(value, dict):
        return {
            str(key): plain(item)
            for key, item in value.items()
            if not str(key).startswith("_") and key not in ("transformers_version", "name_or_path")
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
