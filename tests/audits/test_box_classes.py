"""Boxes whose class does not fit what is in them, without any detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasetops.audits.boxes.checks import SwappedBox
from datasetops.audits.run import audit
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository
from datasetops.schema import load_schema


@pytest.mark.slow
def test_cells_of_another_class_are_found(data: Path, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "cells", load_schema("blood_cells"))
    folder = data / "bccd"
    version = ingest(repository, str(folder / "annotations_voc"), format="voc", images=str(folder / "images")).version
    rows = version.table("annotations").to_pylist()
    rng = np.random.default_rng(4)
    samples = sorted({row["sample_id"] for row in rows})
    kept = set(rng.choice(samples, 30, replace=False).tolist())
    rows = [row for row in rows if row["sample_id"] in kept]
    names = list(version.schema.class_names)
    planted = {rows[i]["annotation_id"] for i in rng.choice(len(rows), 12, replace=False)}
    swapped: list[dict[str, Any]] = [
        {**row, "label": next(name for name in names if name != row["label"]), "attributes": None, "geometry": None}
        for row in rows
        if row["annotation_id"] in planted
    ]
    repository.commit(Change(annotations=swapped, remove_samples=sorted(set(samples) - kept)), message="swapped")
    record = audit(repository, repository.version(), checks=["swapped_box"])
    found = {row["annotation_id"] for row in record.findings.to_pylist()}
    assert len(found & planted) >= 11
    assert len(found - planted) <= 1
    scores = record.scores.to_pandas().set_index("annotation_id")["score"]
    assert scores[sorted(planted)].max() < scores.drop(sorted(planted)).quantile(0.05)


def test_without_images_and_detections_it_says_so(build: Any) -> None:
    box = {"kind": "box", "x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0, "sample_id": "s00000"}
    rows = [{**box, "annotation_id": str(i), "label": name} for i, name in enumerate(("cat", "dog"))]
    context = build([None], rows, width=[20], height=[20])
    assert SwappedBox().run(context).summary["skipped"].startswith("no detections")
