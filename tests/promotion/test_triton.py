"""Triton's model repository: config.pbtxt read as Triton's own message, the model run with the shapes that it states."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import ModelError, StoreError
from datasetops.manifest import Repository
from datasetops.models.onnx_spec import read_spec
from datasetops.promotion.export import export_model
from datasetops.promotion.triton import Tensor, config, write_triton
from datasetops.training.record import load_model_record

CLIENT = Path(__file__).parents[2] / "build" / "triton" / "bin" / "python"
PARSE = (
    "import sys\n"
    "from google.protobuf import json_format, text_format\n"
    "from tritonclient.grpc.model_config_pb2 import ModelConfig\n"
    "message = text_format.Parse(sys.stdin.read(), ModelConfig())\n"
    "print(json_format.MessageToJson(message, preserving_proto_field_name=True))\n"
)
NUMBERS = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}
Copied = Callable[[Path], Repository]


def parsed(text: str) -> dict[str, Any]:
    """The message ModelConfig as JSON; 64-bit numbers are texts in it."""
    if not CLIENT.exists():
        pytest.skip("there is no client of Triton: make build/triton/.done")
    done = subprocess.run([CLIENT, "-c", PARSE], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def run_as_stated(folder: Path, side: int) -> dict[str, Any]:
    """The config, after the model was run with a full batch of it; open sides of the image are `side`."""
    told = parsed((folder / "config.pbtxt").read_text())
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    batch = [told["max_batch_size"]] if told.get("max_batch_size") else []
    given = {}
    for tensor in told["input"]:
        shape = batch + [side if int(dim) < 0 else int(dim) for dim in tensor["dims"]]
        given[tensor["name"]] = np.random.default_rng(0).integers(0, 255, shape).astype(NUMBERS[tensor["data_type"]])
    assert [item.name for item in session.get_inputs()] == list(given)
    names = [tensor["name"] for tensor in told["output"]]
    assert [item.name for item in session.get_outputs()] == names
    for tensor, value in zip(told["output"], session.run(names, given), strict=True):
        assert value.dtype == NUMBERS[tensor["data_type"]]
        stated = batch + [int(dim) for dim in tensor["dims"]]
        assert len(stated) == value.ndim
        assert all(dim in (-1, real) for dim, real in zip(stated, value.shape, strict=True)), (stated, value.shape)
    return told


@pytest.mark.slow
def test_a_classifier(copied: Copied, trained_probe: Path, tmp_path: Path) -> None:
    repository = copied(trained_probe)
    words = ["export-model", "m1", "--to", str(tmp_path / "out"), "--images", "4", "--batch", "4", "--int8"]
    words += ["--triton", str(tmp_path / "served"), "-C", str(repository.root)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    served = json.loads(done.stdout)["triton"]
    assert [(item["name"], item["max_batch_size"]) for item in served] == [("m1", 4), ("m1-int8", 4)]
    assert sorted(path.name for path in (tmp_path / "served").iterdir()) == ["m1", "m1-int8"]
    for item in served:
        folder = Path(item["path"])
        told = run_as_stated(folder, 32)
        names = list(read_spec(folder / "description.yaml").names or ())
        assert (folder / "labels.txt").read_text().splitlines() == names
        (output,) = told["output"]
        assert (output["label_filename"], output["dims"]) == ("labels.txt", [str(len(names))])
        assert (told["name"], told["backend"]) == (item["name"], "onnxruntime")
        assert told["dynamic_batching"] == {"max_queue_delay_microseconds": "500"}
        assert (folder / "1" / "model.onnx").read_bytes() == (tmp_path / "out" / f"{item['name']}.onnx").read_bytes()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1
    assert "m1 is there already" in again.output


@pytest.mark.slow
def test_a_detector(copied: Copied, trained_head: Path, tmp_path: Path) -> None:
    repository = copied(trained_head)
    export_model(repository, load_model_record(repository, "m1"), tmp_path / "out", images=4, batches=(1,))
    (served,) = write_triton([tmp_path / "out" / "m1.onnx"], tmp_path / "served")
    told = run_as_stated(Path(served.path), 64)
    assert all("label_filename" not in output for output in told["output"])
    with pytest.raises(StoreError, match="is there already"):
        write_triton([tmp_path / "out" / "m1.onnx"], tmp_path / "served")


def test_one_image_a_call_and_odd_names() -> None:
    tensors = [Tensor('in "1"\\', "TYPE_FP32", (1, 3, -1, 8))]
    told = parsed(config("ä", tensors, [Tensor("out", "TYPE_INT64", (1, 2))], 0, set()))
    assert (told["name"], told["input"][0]["name"]) == ("ä", 'in "1"\\')
    assert told["input"][0]["dims"] == ["1", "3", "-1", "8"]
    assert "dynamic_batching" not in told


def test_a_tensor_that_triton_has_no_type_for(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, ["n", 3])
    out = helper.make_tensor_value_info("y", TensorProto.COMPLEX64, ["n", 3])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "odd", [value], [out])
    save(helper.make_model(graph), str(tmp_path / "odd.onnx"))
    (tmp_path / "odd.yaml").write_text("family: logits\nnames: [a, b, c]\n")
    with pytest.raises(ModelError, match="x is of type COMPLEX64"):
        write_triton([tmp_path / "odd.onnx"], tmp_path / "served")
