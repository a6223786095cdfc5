"""What all trainers with gradients share: the learning rate's course, and checkpoints that nothing is run from."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from datasetops.errors import ModelError

Say: TypeAlias = Callable[[str], None]  # is told, in a sentence, how a training goes

_FACTS: Final = "facts"  # key of a file's metadata


def silent(_: str) -> None:
    """For those who need not hear it."""


def rate(step: int, total: int, warmup: float) -> float:
    """Share of the learning rate: a rise over a share of the steps, then half a cosine to nothing."""
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def diverged(step: int) -> ModelError:
    """For a training whose loss in this step (from 0) was no finite number before anything was kept."""
    return ModelError(
        f"The training diverged: the loss was no finite number in step {step + 1:,}.",
        remedy="Take a lower learning_rate in the recipe.",
    )


def save_state(file: Path, parts: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Keep named groups of tensors, and facts that JSON can hold, as safetensors; the file is whole or not there."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    # Copied: names that share one tensor are refused.
    tensors = {
        f"{part}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for part, own in parts.items()
        for name, value in own.items()
    }
    temporary = file.with_name(f"{uuid.uuid4().hex}.part")
    try:
        save_file(tensors, str(temporary), {_FACTS: json.dumps(dict(facts))})
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(file: Path, device: str = "cpu") -> tuple[dict[str, dict[str, Any]], dict[str, Any]] | None:
    """(groups, facts) that `save_state` kept; None where there is no file, or none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt", device=device) as opened:
            facts: dict[str, Any] = json.loads(opened.metadata()[_FACTS])
            parts: dict[str, dict[str, Any]] = {}
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = opened.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return parts, facts


def optimiser_tensors(optimiser: Any) -> dict[str, Any]:
    """What an optimiser remembers of each parameter, by name."""
    state = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, own in state.items() for name, value in own.items()}


def restore_optimiser(optimiser: Any, tensors: Mapping[str, Any]) -> None:
    """Undoes `optimiser_tensors`; rates and decays stay those of the optimiser."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
