"""Fine-tuned models of transformers as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coloured import fit, recipe, squares
from PIL import Image

from datasetops.errors import ModelError
from datasetops.models.predictor import Request, open_predictor
from datasetops.promotion.export import export_model
from datasetops.promotion.graphs import graph_of
from datasetops.training.predictor import open_model

pytestmark = pytest.mark.slow


# A detector that learned nothing likes all places alike, and ties are broken otherwise in ONNX Runtime.
@pytest.mark.parametrize(
    ("task", "family", "multi", "more"),
    [
        ("classification", "vit", True, {"epochs": 1}),
        ("box", "rt-detr", False, {"epochs": 30, "batch": 4, "patience": None}),
    ],
)
def test_a_file_says_what_the_model_says(
    tmp_path: Path, task: str, family: str, multi: bool, more: dict[str, Any]
) -> None:
    repository = squares(tmp_path / "repository", task, multi=multi)
    record = fit(repository, recipe(task, family, tmp_path, **more))
    found = export_model(repository, record, tmp_path / "out", images=2, batches=(1,))
    assert found.info["torchscript"]["works"], found.info["torchscript"]
    cache = tmp_path / "cache"
    own = open_model("m1", cache, Request(repository=str(repository.root)))
    file = open_predictor(f"onnx:{tmp_path / 'out' / 'm1.onnx'}", cache=cache)
    images = [Image.open(one).convert("RGB") for one in sorted((tmp_path / "repository").glob("*.png"))[:4]]
    for image in [*images, images[0].resize((90, 40))]:
        one, other = (model.predict([model.prepare(image)])[0] for model in (own, file))
        assert one
        assert [item.name for item in one] == [item.name for item in other]
        assert [item.score for item in one] == pytest.approx([item.score for item in other], abs=1e-3)
        assert all(a.box is None or a.box == pytest.approx(b.box, abs=0.1) for a, b in zip(one, other, strict=True))


def test_outputs_of_no_known_family_are_refused(tmp_path: Path) -> None:
    repository = squares(tmp_path / "repository", "box")
    record = fit(repository, recipe("box", "detr", tmp_path, epochs=1))
    with pytest.raises(ModelError, match="detr, whose outputs no family"):
        graph_of(repository, record, tmp_path / "cache")
