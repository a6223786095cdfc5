"""Trained models as one ONNX graph each, from pixels to answers, with the description that `onnx:FILE` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasetops.errors import ModelError
from datasetops.manifest import Repository
from datasetops.models.efficientnet_lite import EfficientNetLite, maps_graph, open_maps
from datasetops.models.reference import Embedder, Joined, open_embedder
from datasetops.models.transformers_model import TransformersEmbedder
from datasetops.promotion.graph import OPSET, Graph
from datasetops.training.head_predictor import OPTIONS
from datasetops.training.maps import MAP_NAMES
from datasetops.training.predictor import SURE
from datasetops.training.record import DESCRIPTION, WEIGHTS, ModelRecord, model_file


def graph_of(repository: Repository, record: ModelRecord, cache: Path) -> Graph:
    """Raises ModelError for a model that cannot be made one graph, with the reason."""
    description = json.loads(model_file(repository, record, DESCRIPTION))
    kind = description["kind"]
    if kind == "probe":
        return _probe(repository, record, description, cache)
    if kind == "head":
        return _head(repository, record, description, cache)
    if kind == "finetune":
        from datasetops.promotion.torch_graphs import finetuned_graph

        return finetuned_graph(repository, record, cache)
    raise ModelError(f"The model {record.name} is a {kind}, which cannot be exported yet.", remedy="Update dsops.")


def _probe(repository: Repository, record: ModelRecord, description: Mapping[str, Any], cache: Path) -> Graph:
    from safetensors.numpy import load

    arrays = load(model_file(repository, record, WEIGHTS))
    factor = np.float32(1 / description["temperature"])
    weight, bias = arrays["weight"] * factor, arrays["bias"] * factor
    reference = description["embedder"]["reference"]
    embedder: Embedder = open_embedder(reference, cache=cache)
    output: dict[str, Any] = {"names": ["logits"], "activation": description["activation"]}
    if description["several"]:
        output["min_score"] = SURE
    spec = {"family": "logits", "names": list(record.classes), "output": output}
    if isinstance(embedder, EfficientNetLite):
        return Graph(_on_features(embedder.graph, weight, bias), spec | {"input": {"layout": "nhwc"}})
    if isinstance(embedder, TransformersEmbedder):
        from datasetops.promotion.torch_graphs import probe_graph

        return probe_graph(embedder, weight, bias, spec)
    joined = " It is several networks joined." if isinstance(embedder, Joined) else ""
    raise ModelError(
        f"The probe {record.name} stands on {reference}, which cannot be put into one graph.{joined}",
        remedy="Train a probe on one built-in network, hf: or local: (the recipe's `model`), and export that.",
    )


def _on_features(network: Path, weight: Any, bias: Any) -> Any:
    """The network with a linear layer on its features, which it learned from rounded to half precision."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(network))
    model.opset_import[0].version = OPSET
    graph = model.graph
    _remove_output(graph, "logits")
    graph.node.extend(
        [
            helper.make_node("Cast", ["features"], ["halves"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["halves"], ["rounded"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["rounded", "probe.weight", "probe.bias"], ["logits"], name="head/probe"),
        ]
    )
    graph.initializer.extend(
        [numpy_helper.from_array(weight, "probe.weight"), numpy_helper.from_array(bias, "probe.bias")]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(bias)]))
    return model


def _remove_output(graph: Any, name: str) -> None:
    """An output with the node that gives it and the numbers that this one alone needs."""
    kept = [node for node in graph.node if name not in node.output]
    used = {one for node in kept for one in node.input}
    numbers = [item for item in graph.initializer if item.name in used]
    outputs = [item for item in graph.output if item.name != name]
    for field, values in (("node", kept), ("initializer", numbers), ("output", outputs)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(values)


def _head(repository: Repository, record: ModelRecord, description: Mapping[str, Any], cache: Path) -> Graph:
    """The frozen network and the head behind it; the best boxes of each image as rows, before overlaps are left out."""
    import onnx
    from onnx import compose
    from safetensors.torch import load

    from datasetops.promotion.torch_graphs import head_onnx
    from datasetops.training.head_net import Head

    head = Head(len(record.classes), int(description["width"]))
    head.load_state_dict(load(model_file(repository, record, WEIGHTS)))
    open_maps(cache)
    maps = onnx.load(str(maps_graph(cache)))
    maps.opset_import[0].version = OPSET
    for output in [item.name for item in maps.graph.output if item.name not in MAP_NAMES]:
        _remove_output(maps.graph, output)
    top = compose.add_prefix(head_onnx(head.eval()), "head/")
    maps.ir_version = top.ir_version
    pairs = [(name, f"head/{name}") for name in MAP_NAMES]
    model = compose.merge_models(maps, top, io_map=pairs)
    del model.opset_import[1:]  # the same one of both
    side = int(description["side"])
    spec = {
        "family": "boxes",
        "names": list(record.classes),
        "input": {"layout": "nhwc", "size": [side, side], "resize": "longer-side", "divide_by": 1.0},
        "output": {"names": ["head/rows"], "min_score": OPTIONS["min_score"], "nms_iou": OPTIONS["nms_iou"]},
    }
    return Graph(model, spec)
