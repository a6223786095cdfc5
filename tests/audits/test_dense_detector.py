"""The built-in detector on drawn scenes whose every object is known."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from datasetops.audits.boxes.checks import MissingBox
from datasetops.audits.detector.detections import out_of_sample_detections
from datasetops.identity import pairwise_iou


def encoded(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


CORNERS = ["x1", "y1", "x2", "y2"]


def scene(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[str, tuple[int, int, int, int]]]]:
    """Discs and squares on a noisy ground, none of which touch."""
    image = Image.fromarray(rng.integers(180, 220, (240, 320, 3), dtype=np.uint8))
    draw, placed = ImageDraw.Draw(image), []
    for cell in rng.permutation(12)[:6].tolist():
        side = int(rng.integers(36, 50))
        x, y = 80 * (cell % 4) + int(rng.integers(4, 26)), 80 * (cell // 4) + int(rng.integers(4, 26))
        box = (x, y, x + side, y + side)
        label = "cat" if rng.random() < 0.5 else "dog"
        (draw.ellipse if label == "cat" else draw.rectangle)(
            box, fill=(150, 40, 60) if label == "cat" else (40, 60, 150)
        )
        placed.append((label, box))
    return image, placed


@pytest.mark.slow
def test_objects_that_were_left_unboxed_are_found(build: Any) -> None:
    rng = np.random.default_rng(0)
    files, rows, hidden = [], [], []
    for number in range(40):
        image, placed = scene(rng)
        files.append(encoded(image))
        for place, (label, box) in enumerate(placed):
            if place == 0 and number % 4 == 0:
                hidden.append((f"s{number:05}", label, box))
                continue
            row = {"annotation_id": f"{number}-{place}", "sample_id": f"s{number:05}", "kind": "box", "label": label}
            rows.append(row | dict(zip(CORNERS, map(float, box), strict=True)))
    context = build(files, rows, width=[320] * 40, height=[240] * 40, embeddings=np.zeros((40, 4)))
    found = out_of_sample_detections(context)
    assert found is not None
    assert found["score"].between(0, 1).all()
    told = {(f.sample_id, f.suggested): f.box for f in MissingBox().run(context).findings if f.box}
    hits = [
        (sample, label) in told and pairwise_iou(np.array([box], float), np.array([told[sample, label]]))[0, 0] > 0.5
        for sample, label, box in hidden
    ]
    assert sum(hits) >= 8
    assert len(told) <= 12
    again: Any = out_of_sample_detections(context)
    assert again.equals(found)
