"""Images unlike all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from datasetops.audits.images.outliers import Outlier, far_from, projected, robust_deviations


def test_blood_cells_among_street_photos_and_the_other_way_round(build: Any) -> None:
    """Directions stand for embeddings: a broad kind of image, and up to nine of another kind far from it."""
    rng = np.random.default_rng(3)
    usual = rng.normal(size=(500, 64)) + 4 * rng.normal(size=64)
    other = rng.normal(size=(9, 64)) * 0.5 + 12 * rng.normal(size=64)
    vectors = np.concatenate([usual, other])
    result = Outlier().run(build([bytes([i % 256, i // 256]) for i in range(509)], embeddings=vectors))
    flagged = {int(str(finding.sample_id)[1:]) for finding in result.findings}
    assert set(range(500, 509)) <= flagged
    assert len(flagged) <= 12
    scores = result.scores["score"].to_numpy()
    assert scores[500:].max() < 0.5
    assert np.median(scores[:500]) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_set_raises_few_alarms(build: Any, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(800, 32)) + 3
    result = Outlier().run(build([bytes([i % 256, i // 256]) for i in range(800)], embeddings=vectors))
    assert len(result.findings) <= 8


def test_unreadable_images_have_no_score(build: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 8)) + 2
    vectors[5] = np.nan
    result = Outlier().run(build([bytes([i]) for i in range(60)], embeddings=vectors))
    assert "s00005" not in set(result.scores["sample_id"])
    assert len(result.scores) == 59


def test_projection_keeps_cosines() -> None:
    vectors = np.random.default_rng(0).random((40, 5000), dtype=np.float32)
    assert projected(vectors[:, :600], 0).shape == (40, 600)
    near = projected(vectors, 0)
    assert near.shape == (40, 1024)
    assert np.abs(cdist(near, near, "cosine") - cdist(vectors, vectors, "cosine")).max() < 0.05
    assert (projected(vectors, 0) == near).all()


def test_deviations_are_of_the_upper_half_and_rise_with_the_number_of_images() -> None:
    rng = np.random.default_rng(0)
    log = rng.normal(-2, 0.3, 10_001)
    found = robust_deviations(np.exp(log))
    assert np.allclose(found, (log + 2) / 0.3, atol=0.15)
    copies = np.concatenate([np.exp(log), np.zeros(3000)])  # images that have copies are at no distance
    assert np.abs(robust_deviations(copies)[:10_001] - found).max() < 2
    assert far_from(100) < far_from(10_000) < 4


def test_real_blood_cells_with_the_default_model(data: Path, build: Any, tmp_path: Path) -> None:
    from datasetops.models import embed_images, open_embedder

    blood = sorted((data / "bccd" / "images").iterdir())[:56]
    street = sorted((data / "camvid_half" / "images").iterdir())[:4]
    files = [path.read_bytes() for path in (*blood, *street)]
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path)
    vectors = embed_images(embedder, [str(row) for row in range(60)], lambda row: files[row])
    result = Outlier().run(build(files, embeddings=vectors))
    flagged = {int(str(finding.sample_id)[1:]) for finding in result.findings}
    assert {56, 57, 58, 59} <= flagged
    assert len(flagged) <= 6
