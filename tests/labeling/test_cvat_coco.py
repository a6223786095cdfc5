"""CVAT's COCO 1.0 export."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from datasetops.labeling.base import ImageSize
from datasetops.labeling.cvat import CvatFiles
from datasetops.labeling.masks import decoded
from datasetops.schema import LabelSchema

WIDTH, HEIGHT = 64, 40
SCHEMA = LabelSchema.model_validate(
    {
        "name": "street",
        "version": 1,
        "tasks": [
            {"kind": "box"},
            {"kind": "mask"},
            {"kind": "keypoints", "keypoints": ["nose", "left eye", "right eye"]},
        ],
        "classes": [{"id": 0, "name": "car"}],
        "attributes": [
            {"name": "parked", "type": "bool"},
            {"name": "lane", "type": "number"},
            {"name": "colour", "type": "choice", "values": ["red", "dark blue"]},
        ],
    }
)


def test_coco_export(tmp_path: Path) -> None:
    mask = np.zeros((WIDTH, HEIGHT), bool)  # of the shown image, which is turned
    mask[3:9, 5:7] = True
    counts = np.diff(
        np.concatenate([[0], np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1, [mask.size]])
    ).tolist()
    built_in = {"occluded": False, "rotation": 0.0}
    document = {
        "images": [
            {"id": 1, "file_name": "images/s1.jpg", "width": HEIGHT, "height": WIDTH, "date_captured": 0},
            {"id": 2, "file_name": "s2.jpg", "width": HEIGHT, "height": WIDTH},
        ],
        "categories": [
            {"id": 1, "name": "car"},
            {"id": 2, "name": "car (keypoints)", "keypoints": ["nose", "left eye", "right eye"]},
            {"id": 3, "name": "carr"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 5], "segmentation": [], "area": 50, "iscrowd": 0,
             "attributes": built_in | {"parked": True, "lane": 2.0, "colour": "red", "dsops_id": "a1"}},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [5, 3, 2, 6], "iscrowd": 1, "attributes": built_in,
             "segmentation": {"size": [WIDTH, HEIGHT], "counts": counts}},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 2], "keypoints": [1, 1, 2, 3, 3, 1, 0, 0, 0]},
            {"id": 4, "image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2]},
            {"id": 5, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 10], "attributes": {"rotation": 90.0}},
            {"id": 6, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 2]},
            {"id": 7, "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 2], "keypoints": [1, 1, 7]},
        ],
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "coco.zip", "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(document))
    sizes = dict.fromkeys(("s1", "s2"), ImageSize(WIDTH, HEIGHT, 6))
    tasks = CvatFiles().read(tmp_path / "coco.zip", SCHEMA, sizes, actor="ann")
    answered = {task.sample_id: task for task in tasks}
    (answer,) = answered["s1"].answers
    first, second, third, fourth = (region.values for region in answer.regions)
    assert answer.regions[0].derived_from == "a1"
    # Shown x runs down the stored image from its bottom: x 1 to 11 of 40 is y 29 to 39; y is x.
    assert [first[side] for side in ("x1", "y1", "x2", "y2")] == [2, 29, 7, 39]
    assert first["attributes"] == {"parked": True, "lane": 2.0, "colour": "red"}
    stored = decoded(second["geometry"]["rle"])
    assert stored.shape == (HEIGHT, WIDTH)
    assert np.argwhere(stored).min(axis=0).tolist() == [33, 3]
    assert int(stored.sum()) == 12
    assert third["label"] == "car"
    assert third["geometry"]["keypoints"][:6] == [1, 39, 2, 3, 37, 1]
    assert len(fourth["geometry"]["polygons"][0]) == 8
    text = "\n".join(answer.unread)
    assert "has no class 'carr'; did you mean 'car'?" in text
    assert "annotation 6 (image 1)" in text
    assert "visibility is none of 0, 1, 2" in text
    assert answered["s2"].answers[0].regions == ()
    assert answered["s2"].answers[0].unread == ()
