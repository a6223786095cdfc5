"""Boxes under small changes of the image: an exact detector, ones that are not, and a real network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasetops.active_learning.select import select
from datasetops.active_learning.views import CLUTTER, VIEWS, View, localisation_spread
from datasetops.engine import Item
from datasetops.engine.local import LocalEngine
from datasetops.errors import DatasetOpsError, ModelError
from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.models.predictor import Prediction, Request, open_predictor
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

BOX = (20.0, 10.0, 60.0, 70.0)


class BrightBox:
    """Finds what is white; `blind` finds the same place whatever it sees."""

    name, revision, digest, vocabulary = "bright-box", None, "b" * 64, None

    def __init__(self, *, blind: bool = False, kinds: tuple[str, ...] = ("box",)) -> None:
        self.blind, self.kinds = blind, kinds

    def prepare(self, image: Image.Image) -> np.ndarray[Any, Any]:
        return np.asarray(image).min(axis=2) > 180

    def predict(self, prepared: Sequence[np.ndarray[Any, Any]]) -> list[list[Prediction]]:
        return [self._one(white) for white in prepared]

    def _one(self, white: np.ndarray[Any, Any]) -> list[Prediction]:
        if self.blind:
            return [Prediction("box", "thing", 0.5, BOX)]
        y, x = np.nonzero(white)
        if not len(x):
            return []
        box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
        return [Prediction("box", "thing", float("nan") if white.all() else 0.9, box)]


def picture(box: tuple[float, ...] | None, width: int = 100, height: int = 80) -> bytes:
    pixels = np.full((height, width, 3), 20, np.uint8)
    if box is not None:
        x1, y1, x2, y2 = map(int, box)
        pixels[y1:y2, x1:x2] = 250
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def spread_of(predictor: BrightBox, *images: bytes, **options: Any) -> Any:
    items = [Item(str(number), str(number)) for number in range(len(images))]
    engine = LocalEngine(jobs=1)
    return localisation_spread(predictor, lambda uri: images[int(uri)], items, engine=engine, **options)


@pytest.mark.parametrize("view", [*VIEWS, View(mirrored=True, scale=1.25, shift=(-0.02, 0.05))], ids=str)
def test_what_a_view_shows_lies_where_it_says(view: View) -> None:
    """A white box found in the changed picture, mapped back, is the box, to the pixel and its blurred edge."""
    image = Image.open(BytesIO(picture(BOX)))
    shown = view.of(image)
    assert shown.size == image.size
    y, x = np.nonzero(np.asarray(shown).min(axis=2) > 127)
    seen = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], float)
    np.testing.assert_allclose(view.back(seen, 100, 80), [BOX], atol=1.2)


def test_boxes_that_leave_the_image_are_cut() -> None:
    back = View(shift=(0.5, 0.0)).back(np.array([[0.0, 0, 100, 80], [0, 0, 40, 80]]), 100, 80)
    np.testing.assert_allclose(back, [[0, 0, 50, 80], [0, 0, 0, 80]])


def test_a_detector_that_sees_has_little_spread_and_a_blind_one_much() -> None:
    exact, faults = spread_of(BrightBox(), picture(BOX), picture(None))
    assert not faults
    assert 0 <= exact.spread[0] < 0.03
    assert exact.spread[1] == 0
    blind, _ = spread_of(BrightBox(blind=True), picture(BOX), views=VIEWS[:1])
    np.testing.assert_allclose(blind.spread, [1 - 1 / 3])  # mirrored: 40 to 80 against 20 to 60


def test_images_without_an_answer_are_told_and_have_no_score() -> None:
    white = picture((0, 0, 100, 80))
    found, faults = spread_of(BrightBox(), picture(BOX), b"no image", white, picture(None), empty=0.5)
    assert np.isnan(found.spread).tolist() == [False, True, True, False]
    assert found.spread[3] == 0.5
    assert [fault.key for fault in faults] == ["1", "2"]
    assert "NaN" in faults[1].reason
    with pytest.raises(ModelError, match="nowhere in the image"):
        spread_of(BrightBox(kinds=("classification",)), picture(BOX))
    assert spread_of(BrightBox())[0].spread.shape == (0,)


@pytest.mark.slow
def test_a_real_detector_moves_its_boxes_only_where_something_changes(data: Path, tmp_path: Path) -> None:
    from datasetops.models.onnx_model import open_onnx

    config = tmp_path / "yolox.yaml"
    config.write_text(json.dumps({"family": "yolox", "names": [f"class {number}" for number in range(80)]}))
    options = {"config": str(config), "min_score": "0.3"}
    predictor = open_onnx(str(data / "yolox_nano" / "yolox_nano.onnx"), tmp_path, Request("box", None, "cpu", options))
    files = sorted((data / "coco_tiny" / "images").iterdir())[:6]
    items = [Item(file.name, str(file)) for file in files]
    same, _ = localisation_spread(predictor, lambda uri: Path(uri).read_bytes(), items, views=[View()])
    np.testing.assert_allclose(same.spread, 0, atol=1e-6)
    found, faults = localisation_spread(predictor, lambda uri: Path(uri).read_bytes(), items)
    assert not faults
    assert ((found.spread > 0) & (found.spread < 1)).all()
    assert found.flips.max() < 0.5


@pytest.mark.slow
def test_images_are_selected_by_a_detector_of_ones_own(data: Path, tmp_path: Path) -> None:
    model = shutil.copy(data / "yolox_nano" / "yolox_nano.onnx", tmp_path / "own.onnx")
    (tmp_path / "own.yaml").write_text(json.dumps({"family": "yolox", "names": [f"class {n}" for n in range(80)]}))
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted((data / "coco_tiny" / "images").iterdir())[:8]:
        shutil.copy(file, folder)
    told = {"name": "photos", "version": 1, "tasks": [{"kind": "box"}], "classes": [{"id": 0, "name": "cat"}]}
    repository = Repository.init(tmp_path / "set", LabelSchema.model_validate(told))
    version = ingest(repository, str(folder), format="folder").version
    with pytest.raises(DatasetOpsError, match="box_spread asks a detector") as refused:
        select(repository, version, n=3, strategy="box_spread")
    assert "--detector" in refused.value.remedy
    made = select(repository, version, n=3, strategy="box_spread", detector=f"onnx:{model}", spread=False)
    items = [Item(name, uri) for name, uri in version.samples()[["sample_id", "uri"]].to_numpy().tolist()]
    predictor = open_predictor(f"onnx:{model}", cache=tmp_path)
    found, _ = localisation_spread(predictor, Media(repository.store, repository.root).read, items, min_score=CLUTTER)
    best = np.argsort(-found.spread)[:3]
    assert made.samples == tuple(items[row].key for row in best)
    np.testing.assert_allclose(np.array(made.scores, float), found.spread[best], atol=1e-3)
    assert made.model == f"onnx:{model}"
    files = sorted((repository.cache / "embeddings").rglob("*.arrow"))
    again = select(repository, version, n=3, strategy="box_spread", detector=f"onnx:{model}", spread=False)
    assert again == made
    assert sorted((repository.cache / "embeddings").rglob("*.arrow")) == files  # nothing was asked again
