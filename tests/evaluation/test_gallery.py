"""Pictures of errors: what is drawn on them, and an image once with all that is wrong in it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from colours import MeanColour, add_image, picture
from PIL import Image

from datasetops.audits import charts
from datasetops.engine.local import LocalEngine
from datasetops.evaluation.evaluate import evaluate
from datasetops.evaluation.gallery import failure_groups
from datasetops.evaluation.marks import FOUND, GIVEN, Mark, draw_marks
from datasetops.evaluation.report import write_report
from datasetops.evaluation.sections import _classes
from datasetops.labeling.masks import encoded
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.labelers import EngineLabeler
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

_MASKS = LabelSchema.model_validate(
    {
        "name": "colours",
        "version": 1,
        "tasks": [{"kind": "mask"}],
        "classes": [{"id": 0, "name": "red"}, {"id": 1, "name": "blue"}],
    }
)


def square(x: int, y: int, side: int) -> dict[str, Any]:
    mask = np.zeros((30, 40), bool)
    mask[y : y + side, x : x + side] = True
    return {"rle": encoded(mask)}


def test_outlines_and_boxes_are_drawn_where_they_are() -> None:
    shown = Image.new("RGB", (80, 60))
    ring = [40, 2, 70, 2, 70, 20, 40, 20]
    marks = [
        Mark((5.0, 5.0, 25.0, 25.0), orjson.dumps(square(5, 5, 20)).decode(), GIVEN),
        Mark((0.0, 0.0, 1.0, 1.0), orjson.dumps({"polygons": [[side / 2 for side in ring]]}).decode(), FOUND),
        Mark((30.0, 15.0, 38.0, 28.0), None, FOUND),
    ]
    draw_marks(shown, marks, 2.0)
    assert [shown.getpixel(at) for at in ((10, 30), (30, 10), (49, 30))] == [GIVEN] * 3
    assert [shown.getpixel(at) for at in ((40, 10), (70, 10), (60, 40), (76, 40))] == [FOUND] * 4
    assert [shown.getpixel(at) for at in ((30, 30), (55, 10), (68, 40), (5, 30))] == [(0, 0, 0)] * 4


class OneMask(MeanColour):
    """Says that a blue square is in the corner of every image."""

    kinds = ("mask",)
    vocabulary = ("red", "blue")

    def _one(self, pixels: Any) -> list[Prediction]:
        return [Prediction("mask", "blue", 0.9, (0.0, 0.0, 6.0, 6.0), square(0, 0, 6))]


@pytest.mark.slow
def test_an_image_stands_once_with_all_its_errors(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "set", _MASKS)
    samples, annotations = [], []
    for number in range(14):
        samples.append(add_image(tmp_path / "set", f"s{number:02}", picture(40, 30, (20, 5, 30, 15), 0)))
        for place in (10, 24):
            own = {"annotation_id": f"{number}/{place}", "sample_id": f"s{number:02}", "kind": "mask", "label": "red"}
            geometry = orjson.dumps(square(place, 8, 12)).decode()
            annotations.append(own | {"source": "human", "geometry": geometry})
    repository.commit(Change(samples=samples, annotations=annotations), message="masks")
    labeler = EngineLabeler(OneMask(), LocalEngine(jobs=1), Media(repository.store, repository.root).read)
    found = evaluate(repository, repository.version(), labeler, split=None, resamples=100)
    assert len(found.failures) == 42
    assert found.info["metrics"]["mean_iou"] == 0.0
    assert found.info["details"]["classes"][0]["iou"] == 0.0
    (group,) = failure_groups(repository, repository.version(), found.failures)
    assert (group.size, group.images, len(group.cards), group.shown) == (42, 14, 12, 36)
    card = group.cards[0]
    assert sorted(str(row["predicted"]) for row in card.rows) == ["None", "None", "blue"]
    assert card.picture is not None
    data = base64.b64decode(card.picture.partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int64)
    scale = 288 / 40
    edge, inside = shown[int(14 * scale), int(10.2 * scale)], shown[int(14 * scale), int(16 * scale)]
    assert np.abs(edge - GIVEN).max() < 60
    assert np.abs(inside - GIVEN).max() > 60
    for name in ("r.html", "r.md"):
        write_report(repository, repository.version(), found, tmp_path / name)
    html, markdown = ((tmp_path / name).read_text() for name in ("r.html", "r.md"))
    assert html.count("data:image/jpeg;base64,") == 12
    assert "6 more" in html
    assert "… and 30 more." in markdown
    assert f"evaluation {found.evaluation_id}" in markdown
    assert "those most like their group first" in markdown


def test_every_curve_that_is_drawn_is_named() -> None:
    points = {"precision_recall": [(0.0, 1.0), (1.0, 0.5)], "roc": [(0.0, 0.0), (1.0, 1.0)]}
    names = [f"class {number}" for number in range(6)]
    classes = [{"name": name, "examples": 9, "f1": number / 9} for number, name in enumerate(names)]
    info = {"details": {"classes": classes, "curves": dict.fromkeys(names, points)}}
    section = _classes(info)
    assert section is not None
    for chart in section.charts:
        svg = charts.draw(chart)
        width = int(svg.partition('viewBox="0 0 ')[2].partition(" ")[0])
        legend = re.findall(r'<text x="(\d+)" y="14">(class \d)</text>', svg)
        assert [name for _, name in legend] == list(chart["series"])
        assert all(int(x) + 60 < width for x, _ in legend)
        assert chart["note"] == "The worst 4 of 6 classes."
