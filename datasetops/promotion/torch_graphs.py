"""Torch modules as ONNX graphs, and how images are prepared for them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from datasetops.errors import ModelError
from datasetops.manifest import Repository
from datasetops.models.transformers_model import TransformersEmbedder
from datasetops.progress import quiet
from datasetops.promotion.graph import OPSET, Graph
from datasetops.training.head_net import Head
from datasetops.training.head_predictor import CANDIDATES
from datasetops.training.maps import LEVELS, MAP_NAMES, STRIDES
from datasetops.training.record import ModelRecord

_RESAMPLING: Final = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
_EXAMPLE: Final = (2, 3, 5)  # images, and rows and columns of their smallest map: numbers that nothing else has


class HeadGraph(nn.Module):
    """Maps (B, rows, columns, channels) as MAP_NAMES → rows (B, CANDIDATES, 6): corners in scaled pixels, score, class.

    Best first, as `candidates` of head_predictor finds them; filled up with rows of zeros.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, *maps: Tensor) -> Tensor:
        found = dict(zip(MAP_NAMES, maps, strict=True))
        levels = [
            torch.cat([found[name] for name in names], 3).half().float().permute(0, 3, 1, 2)  # as the head learned
            for names in LEVELS
        ]
        logits, sides = self.head(levels)
        middles = []
        for level, stride in zip(levels, STRIDES, strict=True):
            y, x = (torch.arange(level.shape[axis]) * stride + stride / 2 for axis in (2, 3))
            grid = torch.meshgrid(y, x, indexing="ij")
            middles.append(torch.stack([grid[1].flatten(), grid[0].flatten()], 1))
        middle = torch.cat(middles)[None, :, None]
        boxes = torch.cat([middle - sides[..., :2], middle + sides[..., 2:]], 3).flatten(1, 2)
        scores = logits.sigmoid().flatten(1)
        images = scores.shape[0]
        scores = torch.cat([scores, scores.new_zeros(1, CANDIDATES).expand(images, -1)], 1)
        boxes = torch.cat([boxes, boxes.new_zeros(1, CANDIDATES, 4).expand(images, -1, -1)], 1)
        best, place = scores.topk(CANDIDATES, 1)
        corners = boxes.gather(1, place[..., None].expand(-1, -1, 4))
        label = place % logits.shape[2]
        return torch.cat([corners, best[..., None], label[..., None].float()], 2)


def head_onnx(head: Head) -> Any:
    """See `HeadGraph`; inputs are named as MAP_NAMES, the output `rows`; images of all sizes."""
    from datasetops.models.efficientnet_lite import MAPS

    largest = max(MAPS[name][2] for name in MAP_NAMES)
    images, rows, columns = _EXAMPLE
    batch, high, wide = (torch.export.Dim(name, min=1) for name in ("batch", "high", "wide"))
    examples, dynamic = [], []
    for name in MAP_NAMES:
        times = largest // MAPS[name][2]
        examples.append(torch.rand(images, rows * times, columns * times, MAPS[name][3]))
        dynamic.append({0: batch, 1: times * high if times > 1 else high, 2: times * wide if times > 1 else wide})
    return exported(HeadGraph(head), tuple(examples), (tuple(dynamic),), list(MAP_NAMES), ["rows"])


class _Probe(nn.Module):
    """A linear layer on an embedder's vectors, which it learned from rounded to half precision."""

    def __init__(self, embedder: TransformersEmbedder, weight: Any, bias: Any) -> None:
        super().__init__()
        self.inner, self._pooled = embedder.model, embedder.pooled
        self.weight, self.bias = (nn.Parameter(torch.from_numpy(one), requires_grad=False) for one in (weight, bias))

    def forward(self, pixel_values: Tensor) -> Tensor:
        vectors: Tensor = self._pooled(self.inner(pixel_values=pixel_values))
        return vectors.half().float() @ self.weight + self.bias


class _Outputs(nn.Module):
    """Some outputs of a model of transformers, in an order."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self._names = model, names

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.inner(pixel_values=pixel_values)
        outputs = tuple(getattr(found, name) for name in self._names)
        return outputs[0] if len(outputs) == 1 else outputs


def probe_graph(embedder: TransformersEmbedder, weight: Any, bias: Any, spec: Mapping[str, Any]) -> Graph:
    """A probe on a model of transformers. Raises ModelError where its preparation of images cannot be described."""
    module = _Probe(embedder, weight, bias).eval().to("cpu")
    return _of_images(module, embedder.processor, spec, ["logits"])


def finetuned_graph(repository: Repository, record: ModelRecord, cache: Path) -> Graph:
    """A fine-tuned model of transformers. Raises ModelError as `probe_graph`, and for detectors other than RT-DETR's kind."""
    from datasetops.models.families.base import TransformersPredictor
    from datasetops.models.predictor import Request
    from datasetops.training.predictor import open_model

    home = repository.store.url if repository.root is None else str(repository.root.absolute())
    opened = open_model(record.name, cache, Request(device="cpu", repository=home))
    inner: Any = getattr(opened, "inner", None)
    if not isinstance(inner, TransformersPredictor):
        raise ModelError(f"The model {record.name} is none of transformers.", remedy="Update dsops.")
    model = inner.model
    spec: dict[str, Any] = {"names": list(record.classes)}
    if record.task == "classification":
        several = model.config.problem_type == "multi_label_classification"
        output = {"names": ["logits"], "activation": "sigmoid" if several else "softmax"}
        spec |= {"family": "logits", "output": output | _least(inner.options, "min_score")}
        return _of_images(_Outputs(model, ("logits",)), inner.processor, spec, ["logits"])
    if not model.config.model_type.startswith(("rt_detr", "d_fine")):
        raise ModelError(
            f"{record.name} is a {model.config.model_type}, whose outputs no family of ONNX files has.",
            remedy="Fine-tune an RT-DETR or D-FINE, and export that.",
        )
    names = ["logits", "pred_boxes"]
    spec |= {"family": "rt-detr", "output": {"names": names} | _least(inner.options, "min_score", "nms_iou")}
    return _of_images(_Outputs(model, ("logits", "pred_boxes")), inner.processor, spec, names)


def _least(options: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {name: float(options[name]) for name in names if name in options}


def _of_images(module: nn.Module, processor: Any, spec: Mapping[str, Any], outputs: list[str]) -> Graph:
    input_spec = input_of(processor)
    height, width = input_spec["size"]
    example = torch.rand(_EXAMPLE[0], 3, height, width)
    batch = torch.export.Dim("batch", min=1)
    model = None
    with suppress(ModelError):
        model = exported(module.eval(), (example,), ({0: batch},), ["pixel_values"], outputs)
    if (
        model is None or model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    ):  # it wants its batches of one size
        example = example[:1]
        model = exported(module, (example,), None, ["pixel_values"], outputs)
    return Graph(model, {**spec, "input": input_spec}, (module, example))


def input_of(processor: Any) -> dict[str, Any]:
    """How an image processor of transformers prepares images, as InputSpec. Raises ModelError where that has no words."""
    told = processor.to_dict()
    size, crop = told.get("size") or {}, told.get("crop_size") or {}
    resize = "stretch"
    if told.get("do_center_crop"):
        resize = "crop"
        exact = crop.get("height") == crop.get("width") == (size.get("shortest_edge") or size.get("height"))
        size = crop if exact else {}
    if told.get("do_pad") or not told.get("do_resize", True) or not {"height", "width"} <= set(size):
        raise ModelError(
            "The model's own preparation of images cannot be described beside an ONNX file: it is none that brings all "
            "images to one height and width.",
            remedy="Fine-tune with a processor whose size has height and width, without padding.",
        )
    found: dict[str, Any] = {"size": [size["height"], size["width"]], "resize": resize}
    resample = told.get("resample", Image.Resampling.BILINEAR)
    if resample not in _RESAMPLING:
        raise ModelError(
            f"The model's images are resampled as {Image.Resampling(resample).name.lower()}.",
            remedy="Take a processor that resamples bilinear or bicubic.",
        )
    found["resample"] = _RESAMPLING[resample]
    found["divide_by"] = 1 / told["rescale_factor"] if told.get("do_rescale") else 1.0
    normalised = bool(told.get("do_normalize"))
    found["mean"] = list(told["image_mean"]) if normalised else [0.0] * 3
    found["std"] = list(told["image_std"]) if normalised else [1.0] * 3
    return found


def exported(
    module: nn.Module, examples: tuple[Tensor, ...], dynamic: Any, inputs: list[str], outputs: list[str]
) -> Any:
    """A torch module as an ONNX model. Raises ModelError with torch's reason where it cannot be."""
    with quiet("torch.onnx"):
        try:
            program = torch.onnx.export(
                module, examples, dynamo=True, dynamic_shapes=dynamic, input_names=inputs, output_names=outputs,
                opset_version=OPSET, verbose=False,
            )  # fmt: skip
        except Exception as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(
                f"The model cannot be exported by torch.onnx: {reason}", remedy="Take a model of another architecture."
            ) from None
    if program is None:
        raise ModelError("torch.onnx gave no program.", remedy="Update torch.")
    return program.model_proto


def traced(module: nn.Module, example: Tensor) -> tuple[bytes | None, str]:
    """TorchScript of a module, or why there is none."""
    import io

    with quiet("torch.onnx"), torch.inference_mode():
        try:
            trace: Any = torch.jit.trace
            script = trace(module, example, strict=False)
            one, other = module(example[:1]), script(example[:1])
            buffer = io.BytesIO()
            torch.jit.save(script, buffer)
        except Exception as error:
            return None, next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    pairs = zip(_all(one), _all(other), strict=True)
    apart = max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)
    if not apart < _SAME:
        return None, f"its outputs differ from the model's by {apart:.2g} for a batch of another size"
    return buffer.getvalue(), f"largest difference of its outputs: {apart:.2g}"


_SAME: Final = 1e-3  # of logits: less than any score shows


def _all(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
