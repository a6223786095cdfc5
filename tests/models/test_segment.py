"""Masks of classes: what transformers' own reading of the same model gives, whole and in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.errors import ModelError
from datasetops.labeling.masks import decoded
from datasetops.models.predictor import Prediction, Request

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

from tiny_checkpoints import save_family

from datasetops.models.families import open_local

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("segformer", tmp_path_factory.mktemp("models") / "segformer")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize((100, 70))


def found(folder: Path, image: Image.Image, **options: Any) -> list[Prediction]:
    model = open_local(str(folder), folder, Request("mask", None, "cpu", options))
    return model.predict([model.prepare(image)])[0]


def mask(item: Prediction) -> Any:
    assert item.geometry is not None
    return decoded(item.geometry["rle"])


def test_masks_are_those_of_transformers(folder: Path, image: Image.Image) -> None:
    import torch
    from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        output = SegformerForSemanticSegmentation.from_pretrained(folder)(**processor(image, return_tensors="pt"))
    theirs = processor.post_process_semantic_segmentation(output, target_sizes=[(70, 100)])[0].numpy()
    ours = np.full(theirs.shape, -1)
    items = found(folder, image, min_score=0.0, min_pixels=1)
    names = open_local(str(folder), folder, Request()).vocabulary or ()
    for item in items:
        ours[mask(item)] = names.index(item.name or "")
    assert len(items) > 1
    assert (ours == theirs).mean() > 0.99  # they interpolate logits, not probabilities


def test_parts_make_up_the_whole(folder: Path, image: Image.Image) -> None:
    whole = found(folder, image, min_pixels=1)
    parts = found(folder, image, min_pixels=1, regions="parts")
    assert len(parts) > len(whole)
    for item in whole:
        own = [mask(part) for part in parts if part.name == item.name]
        assert np.array_equal(np.sum(own, axis=0), mask(item).astype(int))
    assert len(found(folder, image, min_pixels=50, regions="parts")) < len(parts)


def test_another_kind_of_regions_is_refused(folder: Path, image: Image.Image) -> None:
    with pytest.raises(ModelError, match="'regions' is whole or parts"):
        found(folder, image, regions="halves")
