from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from pictures import photos
from PIL import Image

from datasetops.errors import DatasetOpsError, ModelError
from datasetops.models import EmbeddingCache, embed_images, open_embedder
from datasetops.models.efficientnet_lite import EfficientNetLite0, _weights_file, build_module


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> EfficientNetLite0:
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path_factory.mktemp("models"))
    assert isinstance(embedder, EfficientNetLite0)
    return embedder


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def test_the_built_in_network_knows_a_palace_and_a_daisy() -> None:
    """ImageNet classes 698 and 985, for scikit-learn's two sample photos."""
    import torch

    network = build_module()
    network.load_state_dict(torch.load(_weights_file(), weights_only=True))
    network.eval()
    inputs = []
    for photo in photos():
        left = (photo.width - photo.height) // 2
        square = photo.crop((left, 0, left + photo.height, photo.height)).resize((224, 224), Image.Resampling.BILINEAR)
        inputs.append(((np.asarray(square, np.float32) - 127) / 128).transpose(2, 0, 1))
    with torch.inference_mode():
        _, logits = network(torch.from_numpy(np.stack(inputs)))
    assert logits.argmax(dim=1).tolist() == [698, 985]


def test_the_exported_graph_agrees_with_the_network(lite: EfficientNetLite0) -> None:
    import torch

    network = build_module()
    network.load_state_dict(torch.load(_weights_file(), weights_only=True))
    batch = np.stack([lite.prepare(photo) for photo in photos()])
    with torch.inference_mode():
        features, logits = network.eval()(torch.from_numpy(batch))
    assert lite.dim == features.shape[1]
    np.testing.assert_allclose(lite.embed(batch), np.sqrt(features.numpy()), atol=2e-3)
    np.testing.assert_allclose(lite.logits(batch), logits.numpy(), atol=1e-3)


def test_images_are_embedded_once_and_faulty_ones_are_nan(lite: EfficientNetLite0, tmp_path: Path) -> None:
    first, second = (png(photo) for photo in photos())
    contents = [first, second, b"no image", first]
    keys = ["a" * 64, "b" * 64, "c" * 64, "a" * 64]
    reads: list[int] = []

    def read(row: int) -> bytes:
        reads.append(row)
        if row == 9:
            raise DatasetOpsError("gone")
        return contents[row]

    cache = EmbeddingCache(tmp_path, lite.digest)
    vectors = embed_images(lite, keys, read, cache=cache, jobs=2)
    assert sorted(reads) == [0, 1, 2]
    assert np.isnan(vectors[2]).all()
    assert np.isfinite(vectors[[0, 1, 3]]).all()
    np.testing.assert_array_equal(vectors[0], vectors[3])

    reads.clear()
    again = embed_images(lite, keys[::-1], lambda row: read(3 - row), cache=EmbeddingCache(tmp_path, lite.digest))
    assert reads == [2]  # only the faulty one is tried again
    np.testing.assert_array_equal(again[::-1][[0, 1, 3]], vectors[[0, 1, 3]])
    assert not EmbeddingCache(tmp_path, "other").fetch(keys, np.empty((4, lite.dim), np.float32)).any()


def test_a_torn_cache_file_is_ignored(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    cache.add(["a", "b", "c"], vectors)
    cache.add(["d"], vectors[:1])
    for file in sorted((tmp_path / "model").glob("*.arrow"))[:1]:
        kept = file.read_bytes()
        file.write_bytes(kept[: len(kept) // 2])
    out = np.zeros((4, 4), np.float32)
    known = cache.fetch(["a", "b", "c", "d"], out)
    assert known.sum() in (1, 3)
    assert not out[~known].any()


@pytest.mark.parametrize("reference", ["efficientnet", "builtin:resnet", "local:/nowhere", "hf:", "ftp:x"])
def test_unknown_references_say_what_is_valid(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_embedder(reference, cache=tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip"])
def test_saved_checkpoints_of_several_families_embed(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    if family == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**common, intermediate_size=64, patch_size=14))
    elif family == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**common, patch_size=14))
    else:
        vision = transformers.CLIPVisionConfig(**common, intermediate_size=64, patch_size=14)
        model = transformers.CLIPVisionModel(vision)
    model.save_pretrained(tmp_path)
    settings = {
        "image_processor_type": "ViTImageProcessorPil" if family != "clip" else "CLIPImageProcessorPil",
        "size": {"height": 28, "width": 28} if family != "clip" else {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "do_resize": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    embedder = open_embedder(f"local:{tmp_path}", cache=tmp_path)
    vectors = embed_images(embedder, ["a", "b"], lambda row: png(photos()[row]), jobs=2)
    assert vectors.shape == (2, 32)
    assert np.isfinite(vectors).all()
    assert open_embedder(f"local:{tmp_path}", cache=tmp_path).digest == embedder.digest
