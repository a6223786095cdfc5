"""Trained models as ONNX files: opened as `onnx:FILE` they say what the model itself says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.errors import DamagedError, ModelError, NotFoundError, RejectedError
from datasetops.evaluation.evaluate import evaluate
from datasetops.manifest import Repository
from datasetops.models.predictor import Predictor, Request, open_predictor
from datasetops.models.transformers_model import open_local
from datasetops.promotion.export import export_model, load_export
from datasetops.promotion.graphs import graph_of
from datasetops.promotion.parity import parity
from datasetops.promotion.timing import timed
from datasetops.promotion.torch_graphs import input_of, probe_graph, traced
from datasetops.schema.yamlfile import dump_yaml
from datasetops.training.predictor import open_model
from datasetops.training.record import ModelFile, load_model_record

pytestmark = pytest.mark.slow
Copied = Callable[[Path], Repository]


def opened(repository: Repository, file: Path) -> tuple[Predictor, Predictor]:
    """The model itself, and its file."""
    cache = repository.settings.cache
    own = open_model("m1", cache, Request(repository=str(repository.root)))
    return own, open_predictor(f"onnx:{file}", cache=cache)


def pictures(root: Path) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted(root.rglob("*.png"))[::3]]


def test_a_probe_and_what_is_known_of_its_file(copied: Copied, trained_probe: Path, tmp_path: Path) -> None:
    repository = copied(trained_probe)
    record = load_model_record(repository, "m1")
    with pytest.raises(NotFoundError, match="has not been exported"):
        load_export(repository, record)
    found = export_model(repository, record, tmp_path / "out", int8=True, images=8, batches=(1, 2))
    own, file = opened(repository, tmp_path / "out" / "m1.onnx")
    assert parity(own, file, pictures(trained_probe)).same == 1
    assert file.vocabulary == own.vocabulary
    exact, small = (found.info["variants"][name] for name in ("float32", "int8"))
    assert exact["parity"]["most_score"] < 1e-4
    assert exact["metric"]["difference"] == 0
    assert small["quantisation"] == "static"
    assert small["bytes"] < exact["bytes"] / 2
    assert small["metric"]["model"] == exact["metric"]["model"]
    assert [item["batch"] for item in exact["timing"]["batches"]] == [1, 2]
    assert all(0 < item["p50_ms"] <= item["p95_ms"] for item in exact["timing"]["batches"])
    assert 0 < exact["timing"]["model_memory_mib"] < exact["timing"]["peak_mib"]
    assert not found.info["torchscript"]["works"]
    kept = load_export(repository, record)
    assert kept.as_dict() == found.as_dict()
    assert repository.store.get(exact["files"]["onnx"]["key"]) == (tmp_path / "out" / "m1.onnx").read_bytes()
    key = f"exports/m1/{found.export_id}.json"
    repository.store.put(key, repository.store.get(key).replace(b"float32", b"float33"))
    with pytest.raises(DamagedError, match="damaged"):
        load_export(repository, record)


def test_the_description_is_enough_to_use_a_file(copied: Copied, trained_probe: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime
    import yaml

    repository = copied(trained_probe)
    export_model(repository, load_model_record(repository, "m1"), tmp_path, images=4, batches=(1,))
    text = (tmp_path / "m1.yaml").read_text()
    assert text.startswith("# Input: images turned upright (EXIF), RGB, each stretched to `size`")
    told = yaml.safe_load(text)
    height, width = told["input"]["size"]
    assert (told["input"]["layout"], told["input"]["resample"]) == ("nhwc", "bilinear")
    assert told["input"]["divide_by"] == 1
    images = pictures(trained_probe)[:3]
    given = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in images])
    session = onnxruntime.InferenceSession(str(tmp_path / "m1.onnx"))
    logits = session.run(told["output"]["names"], {session.get_inputs()[0].name: given})[0]
    assert told["output"]["activation"] == "softmax"
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with pytest.raises(RejectedError, match="The model was trained on"):
        evaluate(repository, repository.version(), f"onnx:{tmp_path / 'm1.onnx'}", split="train", resamples=100)
    own, _ = opened(repository, tmp_path / "m1.onnx")
    for image, row in zip(images, shares, strict=True):
        (said,) = own.predict([own.prepare(image)])[0]
        assert said.scores is not None
        np.testing.assert_allclose([said.scores[name] for name in told["names"]], row, atol=1e-4)


def test_a_head_on_images_of_several_shapes(copied: Copied, trained_head: Path, tmp_path: Path) -> None:
    repository = copied(trained_head)
    export_model(repository, load_model_record(repository, "m1"), tmp_path / "out", images=4, batches=(1,))
    images = pictures(trained_head)
    images.append(images[0].resize((300, 100)))
    own, file = opened(repository, tmp_path / "out" / "m1.onnx")
    found = parity(own, file, images)
    assert found.answers >= len(images)
    assert found.same == 1
    assert found.most_score < 1e-4
    assert found.most_pixels is not None
    assert found.most_pixels < 0.01
    counts = [[len(model.predict([model.prepare(image)])[0]) for image in images] for model in (own, file)]
    assert counts[0] == counts[1]  # options of the description: what is told, and what overlaps


def test_what_cannot_be_one_graph_is_refused(copied: Copied, trained_probe: Path) -> None:
    from dataclasses import replace

    repository = copied(trained_probe)
    record = load_model_record(repository, "m1")
    description = json.loads(repository.store.get(record.files["description"].key))
    joined = description | {"embedder": {"reference": "builtin:efficientnet-lite0+builtin:efficientnet-lite0"}}
    data = json.dumps(joined).encode()
    repository.store.put("model-files/joined.json", data)
    from datasetops.records import sha256_hex

    files = {**record.files, "description": ModelFile("model-files/joined.json", sha256_hex(data))}
    with pytest.raises(ModelError, match="several networks joined"):
        graph_of(repository, replace(record, files=files), repository.settings.cache)


def test_a_probe_on_a_model_of_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    embedder = open_local(str(tmp_path / "vit"), tmp_path)
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(32, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    spec = {"family": "logits", "names": ["a", "b", "c"], "output": {"names": ["logits"], "activation": "softmax"}}
    graph = probe_graph(embedder, weight, bias, spec)
    file = tmp_path / "vit.onnx"
    file.write_bytes(graph.model.SerializeToString())
    file.with_suffix(".yaml").write_text(dump_yaml(dict(graph.spec)))
    model: Any = open_predictor(f"onnx:{file}", cache=tmp_path)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    logits = embedder.embed(embedder.prepare(image)[None]).astype(np.float16).astype(np.float32)[0] @ weight + bias
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (found,) = model.predict([model.prepare(image)])
    assert list(found[0].scores.values()) == pytest.approx(wanted.tolist(), abs=1e-3)
    assert graph.module is not None
    data, note = traced(*graph.module)
    assert data is not None, note


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            "one height",
        ),
        ({"size": {"height": 8, "width": 8}, "do_pad": True}, "one height"),
        ({"size": {"height": 8, "width": 8}, "resample": Image.Resampling.LANCZOS}, "lanczos"),
    ],
)
def test_preparations_without_words_are_refused(changes: dict[str, Any], told: str) -> None:
    class Processor:
        def to_dict(self) -> dict[str, Any]:
            return changes

    with pytest.raises(ModelError, match=told):
        input_of(Processor())


def test_a_file_that_does_not_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"no\.onnx"):
        timed(tmp_path / "no.onnx", np.zeros((1, 3, 8, 8), np.float32), batches=(1,))
