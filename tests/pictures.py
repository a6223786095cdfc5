"""Small real images for tests: scikit-learn's handwritten digits and its two photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images


def write_digits(folder: Path, per_class: int = 3, *, side: int = 8, classes: int = 10) -> list[Path]:
    """A folder a class, with the first scans of each; larger sides are scaled up."""
    digits = load_digits()
    files = []
    for label in range(classes):
        for number in np.flatnonzero(digits.target == label)[:per_class]:
            file = folder / str(label) / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((digits.images[number] * 15).astype(np.uint8))
            image.resize((side, side), Image.Resampling.BICUBIC).save(file)
            files.append(file)
    return files


def photos() -> list[Image.Image]:
    """Two photos, 640 x 427, RGB."""
    return [Image.fromarray(image) for image in load_sample_images().images]
