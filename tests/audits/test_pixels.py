"""Labels of pixels: scores against cleanlab's, regions that were planted, and what users bring along."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.outlines.masks import Masks
from datasetops.audits.outlines.pixel_noise import LabelMap, judge_image, softmin
from datasetops.audits.outlines.pixel_probabilities import read_pixel_probabilities
from datasetops.errors import FormatError
from datasetops.schema import LabelSchema

NAMES = ("sky", "wall", "road")
SHAPE = (60, 80)


def schema_of(names: tuple[str, ...]) -> LabelSchema:
    classes = [{"id": number, "name": name} for number, name in enumerate(names)]
    return LabelSchema.model_validate({"name": "s", "version": 1, "tasks": [{"kind": "mask"}], "classes": classes})


def rows_of(sample: int, classes: npt.NDArray[Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for number in np.unique(classes[classes >= 0]):
        rle = coco_mask.encode(np.asfortranarray(classes == number, np.uint8))
        own = {"annotation_id": f"{sample}-{names[number]}", "sample_id": f"s{sample:05}", "label": names[number]}
        rows.append(own | {"kind": "mask", "geometry": json.dumps({"rle": rle | {"counts": rle["counts"].decode()}})})
    return rows


def scene(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sky above, road below, a wall somewhere."""
    classes = np.zeros(SHAPE, np.int64)
    horizon = int(rng.integers(25, 35))
    classes[horizon:] = 2
    left = int(rng.integers(0, 40))
    classes[horizon - 20 : horizon, left : left + 35] = 1
    return classes


def probabilities_of(truth: npt.NDArray[Any], classes: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """What a good model says: noisy, and unsure near borders."""
    from scipy import ndimage

    one_hot = np.stack([ndimage.gaussian_filter((truth == k).astype(float), 1.5) for k in range(classes)])
    mixed = 0.94 * one_hot + 0.06 * rng.dirichlet(np.ones(classes), truth.shape).transpose(2, 0, 1)
    return (mixed / mixed.sum(axis=0)).astype(np.float32)


def painted(classes: npt.NDArray[Any], rng: np.random.Generator) -> bytes:
    colours = np.array([[120, 160, 220], [160, 90, 70], [90, 90, 90]])
    pixels = np.clip(colours[classes] + rng.normal(0, 25, (*classes.shape, 3)), 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def scenes() -> list[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [scene(rng) for _ in range(30)]


def context_of(build: Any, labels: list[npt.NDArray[Any]], files: Any = None) -> AuditContext:
    rows = [one for sample, classes in enumerate(labels) for one in rows_of(sample, classes, NAMES)]
    sizes = {"width": [SHAPE[1]] * len(labels), "height": [SHAPE[0]] * len(labels)}
    return build(files or [None] * len(labels), rows, schema=schema_of(NAMES), **sizes)


def judged(build: Any, folder: Path, truth: Any, labels: Any) -> CheckResult:
    rng = np.random.default_rng(1)
    context = context_of(build, labels)
    for sample, classes in enumerate(truth):
        np.save(folder / f"s{sample:05}.npy", probabilities_of(classes, len(NAMES), rng))
    context.memo["pixel_probabilities"] = read_pixel_probabilities(folder, context.samples, context.schema)
    return Masks().run(context)


def test_scores_are_those_of_cleanlab() -> None:
    from cleanlab.segmentation.rank import get_label_quality_scores

    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, (6, 32, 48))
    given = rng.dirichlet(np.ones(5) * 0.3, labels.shape).transpose(0, 3, 1, 2).astype(np.float32)
    expected, pixels = get_label_quality_scores(labels, given, verbose=False)
    for image in range(len(labels)):
        whole = LabelMap(labels[image].astype(np.int16), labels[image].astype(np.int32))
        bands = [(slice(top, top + 8), given[image, :, top : top + 8]) for top in range(0, 32, 8)]
        found = judge_image(whole, bands, 5)
        assert found.score == pytest.approx(expected[image], abs=1e-12)
        own = [pixels[image][labels[image] == one].mean() for one in found.owners]
        assert found.means == pytest.approx(own, abs=1e-6)
        assert found.histogram.sum() == labels[image].size
    assert np.isnan(softmin(np.empty(0)))


def test_a_region_of_another_class_is_found(build: Any, tmp_path: Path, scenes: Any) -> None:
    labels = [classes.copy() for classes in scenes]
    assert judged(build, tmp_path, scenes, labels).findings == []
    labels[4][45:57, 10:30] = 0
    labels[9][labels[9] == 1] = 2
    result = judged(build, tmp_path, scenes, labels)
    assert {(f.annotation_id, f.given, f.suggested) for f in result.findings} == {
        ("4-sky", "sky", "road"),
        ("9-road", "road", "wall"),
    }
    message = next(f.message for f in result.findings if f.annotation_id == "4-sky")
    share = 12 * 20 / (labels[4] == 0).sum()
    assert message.startswith(f"{share:.0%} of the pixels, around (10, 45, 30, 57), look like road: ")
    images = result.scores[result.scores["annotation_id"].isna()].set_index("sample_id")["score"]
    assert set(images.nsmallest(2).index) == {"s00004", "s00009"}
    assert len(result.scores) == len(labels) + result.summary["outlines"]


def test_pixels_that_were_forgotten(build: Any, tmp_path: Path, scenes: Any) -> None:
    labels = [classes.copy() for classes in scenes]
    labels[7][labels[7] == 1] = -1
    (finding,) = judged(build, tmp_path, scenes, labels).findings
    assert (finding.sample_id, finding.annotation_id, finding.suggested) == ("s00007", None, "wall")
    ys, xs = np.nonzero(labels[7] == -1)
    assert finding.box is not None
    assert np.abs(np.subtract(finding.box, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))).max() <= 2
    sparse = [np.where(classes == 1, 1, -1) for classes in scenes]
    result = judged(build, tmp_path, scenes, sparse)
    assert result.findings == []
    assert result.summary["pixels"]["unlabeled pixels"].startswith("not judged: only ")


def test_classes_that_the_model_mixes_up_are_not_told(build: Any, tmp_path: Path, scenes: Any) -> None:
    blind = [np.where(classes == 1, 2, classes) for classes in scenes]  # the model never sees walls
    result = judged(build, tmp_path, blind, scenes)
    assert result.findings == []
    assert result.summary["pixels"]["classes that the model does not know"] == ["wall"]
    assert result.summary["pixels"]["classes that the model mixes up"] == ["wall → road"]


def test_images_without_probabilities_are_counted(build: Any, tmp_path: Path, scenes: Any) -> None:
    context = context_of(build, scenes)
    rng = np.random.default_rng(3)
    np.savez_compressed(tmp_path / "s00002.npz", probabilities_of(scenes[2], 3, rng).astype(np.float16))
    np.save(tmp_path / "s00003.npy", probabilities_of(scenes[3], 3, rng).astype(np.float64))
    context.memo["pixel_probabilities"] = read_pixel_probabilities(tmp_path, context.samples, context.schema)
    pixels = Masks().run(context).summary["pixels"]
    assert (pixels["images"], pixels["images not judged"]) == (2, 28)


GOOD = np.full((3, *SHAPE), 1 / 3, np.float32)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (GOOD[:2], "the array has the shape (2, 60, 80); expected (3, 60, 80): classes, height, width"),
        (GOOD.transpose(1, 2, 0), "the array has the shape (60, 80, 3)"),
        (np.ones_like(GOOD), "pixel (0, 0) has no probabilities: they sum to 3.000"),
        (GOOD * np.nan, "pixel (0, 0) has no probabilities: they sum to nan"),
        (GOOD + np.array([2, -1, -1], np.float32)[:, None, None], "the least is -0.667"),
        ((GOOD * 3).astype(np.int64), "the array holds int64; expected floats"),
        (np.array([{"a": 1}], dtype=object), "Python objects in dtype"),
    ],
)
def test_arrays_that_are_no_probabilities(build: Any, tmp_path: Path, scenes: Any, array: Any, text: str) -> None:
    context = context_of(build, scenes)
    np.save(tmp_path / "s00001.npy", array)
    context.memo["pixel_probabilities"] = read_pixel_probabilities(tmp_path, context.samples, context.schema)
    with pytest.raises(FormatError) as raised:
        Masks().run(context)
    assert text in raised.value.message
    assert raised.value.message.startswith(str(tmp_path / "s00001.npy"))
    assert raised.value.remedy.startswith("Save an array (classes, height, width) of floats")


def test_files_that_do_not_belong(tmp_path: Path) -> None:
    samples = pd.DataFrame({"sample_id": ["a1", "b2", "c3"], "uri": ["x/one.png", "x/two.png", "y/two.png"]})
    schema = schema_of(NAMES)

    def read(folder: Path) -> None:
        list(read_pixel_probabilities(folder, samples, schema).bands("a1", *SHAPE) or ())

    def refused(*names: str) -> str:
        for path in tmp_path.iterdir():
            path.unlink()
        for name in names:
            np.save(tmp_path / name, GOOD) if name.endswith("npy") else np.savez(tmp_path / name, GOOD, GOOD)
        with pytest.raises(FormatError) as raised:
            read(tmp_path)
        return str(raised.value)

    assert "there are no .npy or .npz files" in refused()
    assert "'ome' is neither a sample of this version nor the name of its image.\nDid you mean 'one'" in refused(
        "ome.npy"
    )
    assert "'two' is the name of several images of this version.\nName the file by sample_id." in refused("two.npy")
    assert "a1.npy is of the same sample a1" in refused("a1.npy", "one.npy")
    assert "it holds 2 arrays (arr_0, arr_1); expected one" in refused("one.npz")
    (tmp_path / "one.npz").write_bytes(b"torn")
    with pytest.raises(FormatError, match=r"one\.npz: "):
        read(tmp_path)


def cells(image: Image.Image) -> npt.NDArray[np.float32]:
    """Mean colour, and height, of squares of 4 pixels."""
    pixels = np.asarray(image, np.float32) / 255
    rows, columns = pixels.shape[0] // 4, pixels.shape[1] // 4
    means = pixels.reshape(rows, 4, columns, 4, 3).mean(axis=(1, 3))
    place = np.broadcast_to(np.linspace(0, 1, rows, dtype=np.float32)[:, None, None], (rows, columns, 1))
    return np.concatenate([means, place], axis=2)


def test_a_probe_finds_regions_without_any_probabilities(build: Any, scenes: Any) -> None:
    rng = np.random.default_rng(4)
    labels = [classes.copy() for classes in scenes]
    labels[4][45:57, 10:30] = 0
    files = [painted(classes, rng) for classes in scenes]
    files[8] = b"torn"
    context = context_of(build, labels, files)
    context.memo["dense_features"] = cells
    result = Masks().run(context)
    assert {(f.annotation_id, f.suggested) for f in result.findings} == {("4-sky", "road")}
    assert (result.summary["pixels"]["images"], result.summary["pixels"]["images not judged"]) == (29, 1)


def test_a_probe_that_cannot_learn_says_why(build: Any, scenes: Any) -> None:
    rng = np.random.default_rng(5)
    alone = context_of(build, scenes[:1], [painted(scenes[0], rng)])
    plain = context_of(build, [one * 0 for one in scenes[:4]], [painted(one * 0, rng) for one in scenes[:4]])
    for context in (alone, plain):
        context.memo["dense_features"] = cells
    assert Masks().run(alone).summary["pixels"] == (
        "not judged: fewer than two groups of images have labels and can be read"
    )
    assert Masks().run(plain).summary["pixels"] == "not judged: fewer than two classes are labeled"
    assert Masks().run(context_of(build, scenes)).summary["pixels"] == (
        "not judged: there are no probabilities of pixels"
    )
