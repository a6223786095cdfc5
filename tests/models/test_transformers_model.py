"""The real loading code on small checkpoints with random weights, built from a configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.errors import MissingDependencyError, ModelError
from datasetops.models import open_embedder

pytestmark = pytest.mark.slow

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessorPil",
    "size": {"height": 28, "width": 28},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def models() -> Any:
    return pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return f"local:{folder}"


def vit(kind: str = "ViTModel") -> Any:
    return getattr(models(), kind)(models().ViTConfig(**SHAPE, intermediate_size=64))


def make(family: str) -> Any:
    if family == "vit":
        return vit()
    if family == "dinov2":
        return models().Dinov2Model(models().Dinov2Config(**SHAPE))
    if family == "clip vision":
        return models().CLIPVisionModel(models().CLIPVisionConfig(**SHAPE, intermediate_size=64))
    text = {"vocab_size": 20, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = models().CLIPConfig(
        text_config={**text, "num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1},
        vision_config={**SHAPE, "intermediate_size": 64},
    )
    return models().CLIPModel(config)


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip vision", "clip"])
def test_vectors_are_the_models_pooled_output(family: str, tmp_path: Path) -> None:
    import torch

    model = make(family).eval()
    embedder = open_embedder(saved(model, tmp_path), cache=tmp_path)
    batch = np.stack([embedder.prepare(photo) for photo in photos()])
    vectors = embedder.embed(batch)
    pixels = np.stack([np.asarray(photo.resize((28, 28), 2), np.float32) / 127.5 - 1 for photo in photos()])
    np.testing.assert_allclose(batch, pixels.transpose(0, 3, 1, 2), atol=0.02)
    with torch.inference_mode():
        vision = model.vision_model if family == "clip" else model
        expected = vision(pixel_values=torch.from_numpy(batch)).pooler_output.numpy()
    assert vectors.shape == (2, embedder.dim) == (2, 32)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert open_embedder(f"local:{tmp_path}", cache=tmp_path).digest == embedder.digest


def test_a_checkpoint_without_weights_for_pooling_gives_its_class_token(tmp_path: Path) -> None:
    """A classifier's checkpoint: transformers would pool with weights drawn at random at every start."""
    import torch

    classifier = vit("ViTForImageClassification").eval()
    embedders = [open_embedder(saved(classifier, tmp_path), cache=tmp_path) for _ in range(2)]
    batch = np.stack([embedders[0].prepare(photo) for photo in photos()])
    with torch.inference_mode():
        expected = classifier.vit(pixel_values=torch.from_numpy(batch)).last_hidden_state[:, 0].numpy()
    for embedder in embedders:
        np.testing.assert_allclose(embedder.embed(batch), expected, atol=1e-5)
    assert embedders[0].digest == embedders[1].digest


def test_joined_embedders_take_their_own_input_each(tmp_path: Path) -> None:
    """A folder may have a + in its name."""
    small, large = saved(vit(), tmp_path / "a+b"), "builtin:efficientnet-lite0"
    parts = [open_embedder(reference, cache=tmp_path) for reference in (small, large)]
    both = open_embedder(f"{small}+{large}", cache=tmp_path)
    images = [Image.new("RGB", (64, 48), (shade, 90, 200 - shade)) for shade in (20, 120)]
    found = both.embed(np.stack([both.prepare(image) for image in images]))
    alone = [part.embed(np.stack([part.prepare(image) for image in images])) for part in parts]
    np.testing.assert_allclose(found, np.concatenate(alone, axis=1), rtol=1e-6)
    assert both.dim == found.shape[1]


def test_the_digest_tells_weights_and_processors_apart(tmp_path: Path) -> None:
    first, second = (open_embedder(saved(vit(), tmp_path / name), cache=tmp_path).digest for name in "ab")
    assert first != second
    (tmp_path / "b" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"image_mean": [0.4] * 3}))
    assert open_embedder(f"local:{tmp_path / 'b'}", cache=tmp_path).digest != second


@pytest.mark.parametrize("fault", ["pickle", "cut off", "incomplete", "config"])
def test_checkpoints_that_cannot_be_used_are_refused(fault: str, tmp_path: Path) -> None:
    import torch

    model = vit()
    reference, weights = saved(model, tmp_path), tmp_path / "model.safetensors"
    if fault == "pickle":
        weights.unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    elif fault == "cut off":
        weights.write_bytes(weights.read_bytes()[:500])
    elif fault == "incomplete":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        save_file(
            {name: value for name, value in tensors.items() if "layernorm" not in name}, weights, {"format": "pt"}
        )
    else:
        (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        open_embedder(reference, cache=tmp_path)
    assert caught.value.remedy


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="dsops\\[transformers\\]"):
        open_embedder("hf:some/model", cache=tmp_path)
