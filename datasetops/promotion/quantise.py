"""An ONNX model with weights and activations of eight bits."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasetops.errors import ModelError
from datasetops.models.onnx_file import first_line

# Where the time goes; all else stays as it is. Clip, so that what it cuts off takes no part of the 256 steps.
_KINDS: Final = ("Conv", "Clip", "Gemm", "MatMul")
# Nodes of what was trained on a frozen network: small, and boxes in whole 256ths of their range are no boxes.
_NODES_LEFT: Final = "head/"


class _Items:
    """Prepared images one by one, as onnxruntime.quantization asks for them."""

    def __init__(self, name: str, inputs: Sequence[Any]) -> None:
        self._left: Iterator[dict[str, Any]] = iter([{name: item[None]} for item in inputs])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def quantise(file: Path, out: Path, inputs: Sequence[Any]) -> tuple[str, str]:
    """Write the quantised model to `out`; `inputs` are prepared images to calibrate by.

    Returns "static" (activations by their range on the inputs) or "dynamic" (weights alone are kept in eight bits), and
    why not static. Raises ModelError where neither can be.
    """
    import onnx
    from onnxruntime import quantization

    graph = onnx.load(str(file)).graph
    left = [node.name for node in graph.node if node.name.startswith(_NODES_LEFT)]
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / "named.onnx"
        _name_nodes(file, named)
        try:
            if not inputs:
                raise ValueError("there is no image to calibrate by")
            quantization.quantize_static(
                str(named), str(out), _Items(graph.input[0].name, inputs), per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=list(_KINDS), nodes_to_exclude=left,
            )  # fmt: skip
            return "static", ""
        except Exception as error:
            reason = first_line(error)
        try:
            quantization.quantize_dynamic(str(named), str(out), op_types_to_quantize=["Gemm", "MatMul"])
        except Exception as error:
            raise ModelError(
                f"The model cannot be quantised: {first_line(error)}", remedy="Export it without --int8."
            ) from None
        return "dynamic", reason


def _name_nodes(file: Path, out: Path) -> None:
    """ONNX Runtime's quantiser tells nodes apart by their names."""
    import onnx

    model = onnx.load(str(file))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
    onnx.save(model, str(out))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that it logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logging.disable(before)
