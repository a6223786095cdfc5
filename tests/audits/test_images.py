"""Image problems: cleanvision's own run is the oracle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.audits.images.quality import ImageQuality, judge_images


def encoded(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.slow
def test_the_same_images_are_flagged_as_by_cleanvision(
    data: Path, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cleanvision import Imagelab

    paths = sorted((data / "coco_tiny" / "images").iterdir())[:16]
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = np.asarray(images[0])
    images += [
        Image.fromarray((pixels // 10).astype(np.uint8)),
        Image.fromarray((255 - (255 - pixels) // 30).astype(np.uint8)),
        images[1].resize((24, 18)).resize((640, 480), Image.Resampling.BICUBIC),
        images[2].crop((0, 0, 600, 60)),
        images[3].resize((1900, 1500)),
        Image.new("RGB", (640, 480), (120, 120, 120)),
    ]
    files = [encoded(image) for image in images]
    for row, file in enumerate(files):
        (tmp_path / f"{row:03}.png").write_bytes(file)
    traits = {
        "dark": "very dark",
        "light": "very light",
        "blurry": "blurry",
        "odd_aspect_ratio": "an unusual shape",
        "odd_size": "an unusual size",
        "low_information": "almost nothing to see",
    }
    lab = Imagelab(filepaths=[str(tmp_path / f"{row:03}.png") for row in range(len(files))])
    lab.find_issues({trait: {} for trait in traits}, n_jobs=1, verbose=False)
    capsys.readouterr()
    wanted = {
        (f"s{row:05}", words)
        for trait, words in traits.items()
        for row in np.flatnonzero(lab.issues[f"is_{trait}_issue"].to_numpy())
    }
    result = ImageQuality().run(build(files))
    found = {(f.sample_id, f.message) for f in result.findings if f.message != "without colour"}
    assert found == wanted
    assert {words for _, words in wanted} == set(traits.values())
    assert all(finding.score <= 0.5 for finding in result.findings)
    scores = result.scores.set_index("sample_id")["score"]
    flagged = {finding.sample_id for finding in result.findings}
    assert scores[sorted(flagged)].max() <= 0.5 < scores.drop(list(flagged)).min()


def test_a_grey_image_among_coloured_ones_and_one_that_is_damaged(data: Path, build: Any) -> None:
    paths = sorted((data / "bccd" / "images").iterdir())[:20]
    files = [path.read_bytes() for path in paths]
    files[4] = encoded(Image.open(paths[4]).convert("L"))
    files[9] = files[9][:2000]
    result = ImageQuality().run(build(files))
    told = {finding.sample_id: finding for finding in result.findings}
    assert set(told) == {"s00004", "s00009"}
    assert (told["s00004"].severity, told["s00004"].message) == ("low", "without colour")
    assert told["s00009"].severity == "high"
    assert told["s00009"].message.startswith("unreadable: truncated")
    assert result.summary["unreadable"] == 1


def test_what_all_scans_share_is_told_once(build: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images[:200]
    result = ImageQuality().run(build([encoded(Image.fromarray((image * 15).astype(np.uint8))) for image in digits]))
    assert result.summary["all over the dataset: without colour"] == "100% of the images"
    assert len(result.findings) <= 2


def test_a_threshold_lies_at_one_half() -> None:
    import pandas as pd

    measures = pd.DataFrame(
        {
            "brightness_perc_5": [0.5, 0.5, 0.5],
            "brightness_perc_99": [0.31, 0.33, 1.0],
            "entropy": [8.0, 8.0, 8.0],
            "blurriness": [90.0, 90.0, 90.0],
            "blurriness_grayscale_std": [90.0, 90.0, 90.0],
            "size": [300.0, 300.0, 300.0],
            "aspect_ratio": [1.0, 1.0, 1.0],
            "color_space": ["RGB", "RGB", "RGB"],
        }
    )
    scores, flags = judge_images(measures)
    assert flags["dark"].tolist() == [True, False, False]
    assert scores["dark"].to_numpy() == pytest.approx([0.5 * 0.31 / 0.32, 0.5 + 0.5 * 0.01 / 0.68, 1.0])
    assert not flags.drop(columns="dark").to_numpy().any()
