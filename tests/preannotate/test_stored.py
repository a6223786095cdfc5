"""Kept predictions as class probabilities and detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from colours import NAMES, SCHEMA, MeanColour, fill, run
from typer.testing import CliRunner

from datasetops.audits.boxes.detections import COLUMNS
from datasetops.cli.main import app
from datasetops.errors import NotFoundError
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.disagreement import disagreement_scores, keep_disagreement
from datasetops.preannotate.predictions import ModelInfo, PredictionStore
from datasetops.preannotate.stored import for_audit, stored_detections, stored_probabilities
from datasetops.schema import LabelSchema


class BestOnly(MeanColour):
    """Says the best class and no other score, or that it is something else."""

    name, kinds = "best-only", ("classification",)

    def predict(self, prepared: Sequence[np.ndarray[Any, Any]]) -> list[list[Prediction]]:
        found = [self._one(pixels)[0] for pixels in prepared]
        return [[Prediction("classification", one.name, one.score)] for one in found]


def label(number: int, name: str, kind: str = "classification", **values: Any) -> dict[str, Any]:
    row = {"annotation_id": f"{kind}{number}", "sample_id": f"s{number:02}", "kind": kind, "label": name}
    return row | {"source": "human", "actor": "ann"} | values


def test_probabilities_in_the_order_of_the_schema(coloured: Repository) -> None:
    version = coloured.version()
    with pytest.raises(NotFoundError, match="No predictions of a model 'mean-colour'"):
        stored_probabilities(coloured, version, "mean-colour")
    run(coloured, limit=5)
    ids, found = stored_probabilities(coloured, version, "mean-colour")
    assert ids.to_pylist() == [f"s{number:02}" for number in range(5)]
    assert found.sum(axis=1) == pytest.approx(np.ones(5))
    rows = coloured.version().annotations().query("kind == 'classification'").set_index("sample_id")
    for name, row in zip(ids.to_pylist(), found, strict=True):
        assert row.argmax() == NAMES.index(rows.loc[name, "label"])
        assert row.max() == pytest.approx(rows.loc[name, "score"], abs=1e-4)


def test_names_mean_what_they_meant_in_the_newest_run(coloured: Repository, tmp_path: Path) -> None:
    mapping = tmp_path / "map.yaml"
    mapping.write_text("crimson: red\nviolet: null\n")
    run(coloured, MeanColour(names=("crimson", "green", "violet")), mapping=mapping)
    version = coloured.version()
    _, found = stored_probabilities(coloured, version, "mean-colour")
    assert (found[:, 2] == 0).all()
    assert found[0, 0] > found[0, 1] > 0
    assert found.sum(axis=1) == pytest.approx(np.ones(12))
    other = tmp_path / "other.yaml"
    other.write_text("crimson: blue\nviolet: blue\n")
    _, swapped = stored_probabilities(coloured, version, "mean-colour", other)
    assert (swapped[:, 0] == 0).all()
    assert swapped[0, 2] > found[0, 0]
    assert set(stored_detections(coloured, version, "mean-colour")["label"]) == {"red", "green"}
    assert set(stored_detections(coloured, version, "mean-colour", other)["label"]) == {"green", "blue"}


def test_who_tells_the_best_class_only_is_no_surer_than_it_says(coloured: Repository) -> None:
    run(coloured, BestOnly(names=("red", "green", "violet")), task="classification")
    ids, found = stored_probabilities(coloured, coloured.version(), "best-only")
    assert ids.to_pylist() == [f"s{number:02}" for number in range(12) if number % 3 != 2]  # those are violet
    assert (found[:, 2] == 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(8))
    scores = coloured.version().annotations().set_index("sample_id")["score"]
    assert found.max(axis=1) == pytest.approx(scores[ids.to_pylist()].to_numpy())
    with pytest.raises(NotFoundError, match="gives classification, no box"):
        stored_detections(coloured, coloured.version(), "best-only")


def test_several_classes_are_not_shares_of_one(root: Path) -> None:
    raw = SCHEMA.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    tasks = [{"kind": "classification", "multi": True}]
    repository = fill(root, 4, LabelSchema.model_validate(raw | {"version": 1, "tasks": tasks}))
    run(repository, BestOnly())
    _, found = stored_probabilities(repository, repository.version(), "best-only")
    assert (found > 0).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert (found.max(axis=1) < 1).all()


def test_detections_as_audits_take_them(coloured: Repository) -> None:
    rows = [label(n, NAMES[n % 3], "box", x1=1, y1=1, x2=9, y2=9) for n in range(8)]
    coloured.commit(Change(annotations=rows), message="boxes")
    run(coloured, task="box", thresholds=1.0)  # no row; all that was said is kept
    version = coloured.version()
    with pytest.raises(
        NotFoundError, match="was not asked about 8 of the 8 images of v2 with boxes by people"
    ) as error:
        stored_detections(coloured, version, "mean-colour")
    assert "--also-labeled" in str(error.value.remedy)
    run(coloured, task="box", thresholds=1.0, also_labeled=True)
    found = stored_detections(coloured, version, "mean-colour")
    assert list(found.columns) == COLUMNS
    assert found["sample_id"].tolist() == [f"s{number:02}" for number in range(12)]
    assert found.attrs["notes"] == ()
    assert found[["x1", "y1", "x2", "y2"]].loc[3].tolist() == [3, 2, 14, 23]
    probabilities, detections = for_audit(coloured, version, "mean-colour")
    pd.testing.assert_frame_equal(detections, found)
    assert probabilities is not None
    assert (probabilities.shape, tuple(probabilities.columns)) == ((12, 3), NAMES)


def test_disagreement_follows_the_mapping_and_is_a_score(coloured: Repository, tmp_path: Path) -> None:
    rows = [label(0, "blue"), *(label(number, NAMES[number % 3]) for number in range(1, 6))]
    coloured.commit(Change(annotations=rows), message="the first is wrong")
    mapping = tmp_path / "map.yaml"
    mapping.write_text("crimson: red\n")
    run(coloured, also_labeled=True)
    run(coloured, MeanColour("b" * 64, ("crimson", "green", "blue"), "second"), also_labeled=True, mapping=mapping)
    run(
        coloured,
        MeanColour("c" * 64, ("red", "y", "z"), "third"),
        also_labeled=True,
        task="classification",
        where="uri = 's00.png'",
    )
    version = coloured.version()
    key, table = keep_disagreement(coloured, version, "classification")
    scores = disagreement_scores(table).to_pylist()
    assert [one["sample_id"] for one in scores] == [f"s{number:02}" for number in range(12)]
    assert [one["score"] for one in scores] == pytest.approx([0.5] + [0.0] * 11)  # three of six pairs
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text("crimson: green\ngreen: red\n")
    other, again = keep_disagreement(coloured, version, "classification", mappings={"b" * 64: swapped})
    assert other != key
    found = {one["sample_id"]: one["score"] for one in disagreement_scores(again).to_pylist()}
    assert (found["s03"], found["s06"], found["s02"]) == (pytest.approx(2 / 3), 1.0, 0.0)
    assert list(found)[:3] == ["s06", "s07", "s09"]


def test_models_that_name_no_class_have_no_voice(coloured: Repository) -> None:
    run(coloured)
    run(coloured, MeanColour("b" * 64, name="second"))
    before = keep_disagreement(coloured, coloured.version(), "classification")
    PredictionStore(coloured, "e" * 64).describe(ModelInfo("cars", None, "e" * 64, ("classification",), ("van", "bus")))
    assert keep_disagreement(coloured, coloured.version(), "classification") == before


@pytest.mark.slow
def test_an_audit_by_predictions(coloured: Repository, root: Path, tmp_path: Path) -> None:
    def audit(*options: str) -> Any:
        report = ["--report", str(tmp_path / "r.html"), "--json", "-C", str(root)]
        return CliRunner().invoke(app, ["audit", "main", "--check", "label_noise", *options, *report])

    rows = [label(n, NAMES[n % 3]) for n in range(11)]
    coloured.commit(Change(annotations=[*rows, label(11, "red")]), message="one is wrong")
    absent = audit("--predictions", "mean-colour")
    assert absent.exit_code == 1
    assert "No predictions of a model 'mean-colour'" in absent.stderr
    run(coloured, task="classification", also_labeled=True)
    done = audit("--predictions", "mean-colour")
    assert done.exit_code == 0, done.stderr
    both = audit("--predictions", "mean-colour", "--probabilities", "p.csv")
    assert (both.exit_code, "--predictions: give it, or" in both.stderr) == (2, True)
    alone = audit("--mapping", "m.yaml")
    assert (alone.exit_code, "give --predictions too" in alone.stderr) == (2, True)
    facts = json.loads(done.stdout)
    assert facts["parameters"]["probabilities"] is not None
    assert facts["parameters"]["detections"] is not None
    assert "skipped" not in facts["checks"]["label_noise"]
