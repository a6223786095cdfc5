"""A model as one ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

OPSET: Final = 18


@dataclass(frozen=True)
class Graph:
    """`model` is the ONNX model, `spec` what stands in the YAML file beside it.

    `module`: the whole model as a torch module with an example of its input; None where a part of it exists as ONNX only.
    """

    model: Any
    spec: Mapping[str, Any]
    module: tuple[Any, Any] | None = None
