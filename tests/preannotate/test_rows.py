"""Rows from predictions: places in the stored image, classes from scores, thresholds, ids."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from colours import MeanColour, add_image, fill, picture, run
from PIL import Image
from pycocotools import mask as coco

from datasetops.formats.rle import run_lengths
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import mask_to_shown, shown_size, to_shown
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.labelers import checked
from datasetops.preannotate.mapping import ClassMapping, default_mapping
from datasetops.preannotate.predictions import ModelInfo, Outcome, PredictionStore
from datasetops.preannotate.rows import Owners, RowRules, Thresholds, rows_of
from datasetops.records import KINDS
from datasetops.schema import LabelSchema

NAMES = ("cat", "dog", "bird")


def schema_of(*tasks: dict[str, Any], **kinds: list[str]) -> LabelSchema:
    classes = [{"id": index, "name": name, "kinds": kinds.get(name, [])} for index, name in enumerate(NAMES)]
    return LabelSchema.model_validate({"name": "s", "version": 1, "tasks": list(tasks), "classes": classes})


ALL = schema_of(*({"kind": kind} | ({"keypoints": ["nose"]} if kind == "keypoints" else {}) for kind in KINDS))


def made(
    repository: Repository,
    outcomes: list[Outcome],
    *,
    schema: LabelSchema = ALL,
    thresholds: Thresholds = 0.0,
    mapping: ClassMapping | None = None,
    owners: list[tuple[str, str]] | None = None,
    kinds: tuple[str, ...] | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Rows for images k0, k1, …, each of one sample s0, s1, … unless told."""
    store = PredictionStore(repository, "f" * 64)
    store.add([f"k{number}" for number in range(len(outcomes))], outcomes)
    given = owners or [(f"s{number}", f"k{number}") for number in range(len(outcomes))]
    table = pa.table({"sample_id": [one[0] for one in given], "key": [one[1] for one in given]})
    (stored,) = store.read(table["key"].to_pylist())
    rules = RowRules(
        ModelInfo("net", "r", "f" * 64, KINDS, None),
        mapping or default_mapping(NAMES, NAMES),
        schema,
        kinds or schema.kinds,
        thresholds,
        "event",
        **more,
    )
    found: list[dict[str, Any]] = rows_of(stored, Owners(table), rules).to_pylist()
    return found


def one_of_each(size: ImageSize) -> tuple[list[Prediction], dict[str, Any]]:
    """Predictions on the shown image of what is stored at known places, and these places."""
    box = [3.0, 4.0, 11.0, 9.0]
    ring = [3.0, 4.0, 11.0, 4.5, 7.25, 9.0]
    points = [5.0, 6.0, 2.0]
    mask = np.zeros((size.height, size.width), np.uint8)
    mask[4:9, 3:11] = 1
    mask[4, 3] = 0

    def shown(flat: list[float]) -> list[float]:
        turned: list[float] = to_shown(np.reshape(flat, (-1, 2)), size).ravel().tolist()
        return turned

    corners = np.reshape(shown(box), (2, 2))
    turned = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
    encoded = coco.encode(np.asfortranarray(mask_to_shown(mask, size)))
    rle = {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    return [
        Prediction("box", "cat", 0.9, box=turned),
        Prediction("polygon", "cat", 0.8, geometry={"polygons": [shown(ring)]}),
        Prediction("mask", "dog", 0.7, box=turned, geometry={"rle": rle}),
        Prediction("keypoints", "bird", 0.6, geometry={"keypoints": [*shown(points[:2]), 2.0]}),
        Prediction("text", None, 0.5, box=turned, text="hello"),
    ], {"box": box, "polygons": [ring], "mask": mask, "keypoints": points}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_places_are_those_of_the_image_as_stored(repository: Repository, orientation: int) -> None:
    size = ImageSize(40, 30, orientation)
    predictions, expected = one_of_each(size)
    plain = one_of_each(ImageSize(20, 50))[0]
    found = made(repository, [Outcome(size, tuple(predictions)), Outcome(ImageSize(20, 50), tuple(plain))])
    rows = {row["kind"]: row for row in found if row["sample_id"] == "s0"}
    assert rows.keys() == set(KINDS) - {"classification"}
    for kind in ("box", "mask", "text"):
        assert [rows[kind][name] for name in ("x1", "y1", "x2", "y2")] == expected["box"]
    assert json.loads(rows["polygon"]["geometry"])["polygons"] == expected["polygons"]
    assert json.loads(rows["keypoints"]["geometry"])["keypoints"] == expected["keypoints"]
    rle = json.loads(rows["mask"]["geometry"])["rle"]
    lengths = run_lengths(rle["counts"])
    pixels = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(rle["size"], order="F")
    np.testing.assert_array_equal(pixels, expected["mask"])
    assert rows["text"]["text"] == "hello"
    assert rows["text"]["label"] is None
    assert [rows[kind]["label"] for kind in ("box", "polygon", "mask", "keypoints")] == ["cat", "cat", "dog", "bird"]
    other = [row for row in found if row["sample_id"] == "s1"]
    assert [row["x1"] for row in other if row["kind"] == "box"] == [3.0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_gets_its_box_where_it_is_stored(root: Path, orientation: int) -> None:
    repository = fill(root, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample = add_image(root, "turned", picture(40, 30, (5, 3, 14, 20), 1), exif=exif)
    repository.commit(Change(samples=[sample]), message="turned")
    run(repository, task="box")
    row = repository.version().annotations().query("sample_id == 'turned'").to_dict("records")[0]
    assert (row["label"], row["x1"], row["y1"], row["x2"], row["y2"]) == ("green", 5, 3, 14, 20)


def classified(**scores: float) -> Outcome:
    best = max(scores, key=scores.__getitem__)
    return Outcome(ImageSize(9, 9), (Prediction("classification", best, scores[best], scores=scores),))


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return sorted((row["sample_id"], row["label"], row["score"]) for row in rows)


def test_shares_of_the_names_of_a_class_add_up(repository: Repository) -> None:
    mapping = ClassMapping({"tabby": "cat", "siamese": "cat", "dog": "dog", "car": None}, {})
    outcomes = [
        classified(tabby=0.3, siamese=0.25, dog=0.4, car=0.05),  # a cat of some kind, though a dog is likeliest
        classified(tabby=0.1, siamese=0.1, dog=0.2, car=0.6),  # neither
        classified(tabby=0.9, siamese=0.8, dog=0.1, car=0.0),  # no shares: they are probabilities of their own
    ]
    assert told(made(repository, outcomes, mapping=mapping)) == [("s0", "cat", 0.55), ("s2", "cat", 0.9)]


def test_one_class_an_image_is_the_best_from_its_threshold_on(repository: Repository) -> None:
    outcomes = [classified(cat=0.5, dog=0.45, bird=0.05), classified(cat=0.1, dog=0.9, bird=0.0)]
    limits = {"cat": 0.6, "dog": 0.3}
    rows = made(repository, outcomes, thresholds=limits)
    assert told(rows) == [("s1", "dog", 0.9)]  # not the second best of s0
    assert rows[0]["annotation_id"] == "s1#ffffffffffff.classification"
    both = made(repository, outcomes, asked=("cat",))
    assert told(both) == [("s0", "cat", 0.5)]  # s1 is a dog, which nobody asked for


def test_several_classes_an_image_are_all_from_the_threshold_on(repository: Repository) -> None:
    schema = schema_of({"kind": "classification", "multi": True})
    outcomes = [classified(cat=0.9, dog=0.8, bird=0.1), classified(cat=0.2, dog=0.3, bird=0.4)]
    rows = made(repository, outcomes, schema=schema, thresholds=None)
    assert told(rows) == [("s0", "cat", 0.9), ("s0", "dog", 0.8)]
    assert sorted(row["annotation_id"] for row in rows) == [
        "s0#ffffffffffff.classification/cat",
        "s0#ffffffffffff.classification/dog",
    ]
    assert len(made(repository, outcomes, schema=schema, thresholds=0.25)) == 4


def test_a_model_without_a_table_of_scores_gives_its_best(repository: Repository) -> None:
    outcomes = [
        Outcome(ImageSize(9, 9), (Prediction("classification", "dog", 0.6), Prediction("classification", "cat", 0.2))),
        Outcome(ImageSize(9, 9)),
    ]
    assert told(made(repository, outcomes)) == [("s0", "dog", 0.6)]


def test_a_class_is_used_only_in_its_kinds(repository: Repository) -> None:
    schema = schema_of({"kind": "classification"}, {"kind": "box"}, cat=["box"], dog=["classification"])
    boxes = tuple(Prediction("box", name, 0.9, box=(0, 0, 5, 5)) for name in NAMES)
    whole = classified(cat=0.6, dog=0.3, bird=0.1).predictions
    rows = made(repository, [Outcome(ImageSize(9, 9), (*whole, *boxes))], schema=schema)
    assert {row["label"] for row in rows if row["kind"] == "box"} == {"cat", "bird"}
    assert [row["label"] for row in rows if row["kind"] == "classification"] == ["dog"]


def test_ids_stay_over_thresholds_and_mappings(repository: Repository) -> None:
    boxes = tuple(
        Prediction("box", name, score, box=(0, 0, 5, 5)) for name, score in zip(NAMES, (0.9, 0.8, 0.4), strict=True)
    )
    outcome = Outcome(ImageSize(9, 9), boxes)
    every = {row["annotation_id"]: row["label"] for row in made(repository, [outcome])}
    assert every == {
        "s0#ffffffffffff.box0": "cat", "s0#ffffffffffff.box1": "dog", "s0#ffffffffffff.box2": "bird",
    }  # fmt: skip
    high = made(repository, [outcome], thresholds=0.5)
    assert {row["annotation_id"] for row in high} == {"s0#ffffffffffff.box0", "s0#ffffffffffff.box1"}
    other = made(repository, [outcome], mapping=ClassMapping({"cat": None, "dog": "bird", "bird": "dog"}, {}))
    assert {row["annotation_id"]: row["label"] for row in other} == {
        "s0#ffffffffffff.box1": "bird", "s0#ffffffffffff.box2": "dog",
    }  # fmt: skip
    assert json.loads(other[0]["answer"]) == {"digest": "f" * 64, "event": "event", "name": "dog"}
    assert {row["model"] for row in other} == {"net@r#ffffffffffff"}


def test_samples_that_share_an_image_each_get_rows(repository: Repository) -> None:
    boxes = tuple(Prediction("box", name, 0.9, box=(0, 0, 5, 5)) for name in NAMES)
    outcomes = [Outcome(ImageSize(9, 9), boxes[:1]), Outcome(ImageSize(9, 9), boxes), Outcome(ImageSize(9, 9))]
    owners = [("a", "k1"), ("b", "k0"), ("c", "k1"), ("d", "k2")]
    rows = made(repository, outcomes, owners=owners)
    assert {name: [row["label"] for row in rows if row["sample_id"] == name] for name in "abcd"} == {
        "a": list(NAMES), "b": ["cat"], "c": list(NAMES), "d": [],
    }  # fmt: skip


def test_outlines_name_the_box_that_they_come_from(repository: Repository) -> None:
    rle = {"rle": {"size": [9, 9], "counts": [0, 81]}}
    masks = tuple(Prediction("mask", "cat", 0.9, box=(0, 0, 9, 9), geometry=rle) for _ in range(3))
    rows = made(repository, [Outcome(ImageSize(9, 9), masks)], outlines={"s0": {0: "box-a", 2: "box-c"}})
    assert [(row["annotation_id"], row["derived_from"]) for row in rows] == [
        ("s0#ffffffffffff.mask0", "box-a"),
        ("s0#ffffffffffff.mask2", "box-c"),
    ]


def test_boxes_are_cut_at_the_edges_of_the_image(root: Path) -> None:
    class Bold(MeanColour):
        def predict(self, prepared: Any) -> Any:
            around = Prediction("box", "red", 1.0, box=(-10.0, -5.0, 100.0, 100.0))
            outside = Prediction("box", "red", 1.0, box=(50.0, 0.0, 60.0, 9.0))
            return [[around, outside] for _ in prepared]

    repository = fill(root, 1)
    run(repository, Bold())
    rows = repository.version().annotations()
    assert rows[["x1", "y1", "x2", "y2"]].values.tolist() == [[0, 0, *shown_size(ImageSize(40, 30))]]


def test_a_shape_without_a_box_gets_the_one_around_it() -> None:
    ring = {"polygons": [[1, 2, 8, 2, 4, 50]]}
    point = {"keypoints": [3, 4, 2, 0, 0, 0]}
    given = [Prediction("polygon", "a", 0.5, geometry=ring), Prediction("keypoints", "a", 0.5, geometry=point)]
    found = checked(ImageSize(40, 30), [*given, Prediction("text", None, 0.5, text="x")], None)
    assert [item.box for item in found.predictions] == [(1, 2, 8, 30), (3, 4, 3, 4), None]


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        (Prediction("cube", "red", 0.5), "unknown kind 'cube'"),
        (Prediction("box", "red", 1.5, box=(0, 0, 5, 5)), r"score 1.5, which is not in \[0, 1\]"),
        (Prediction("box", "red", float("nan"), box=(0, 0, 5, 5)), "NaN"),
        (Prediction("box", "red", 0.5, box=(0, 0, float("nan"), 5)), "nowhere"),
        (Prediction("box", "red", 0.5), "a box without a place"),
        (Prediction("box", None, 0.5, box=(0, 0, 5, 5)), "without a name"),
        (Prediction("box", "mauve", 0.5, box=(0, 0, 5, 5)), "'mauve', which is none of its own"),
        (Prediction("classification", "red", 0.5, scores={"red": float("nan")}), "NaN"),
        (Prediction("mask", "red", 0.5, geometry={"rle": {"size": [2, 2], "counts": "x"}}), "shape cannot be read"),
    ],
)
def test_a_prediction_that_cannot_be_used_is_a_fault_of_its_image(
    root: Path, prediction: Prediction, reason: str
) -> None:
    class Odd(MeanColour):
        def _one(self, pixels: Any) -> list[Prediction]:
            return [prediction] if pixels[2, 0, 0] > 200 else super()._one(pixels)

    repository = fill(root, 3)
    made = run(repository, Odd())
    assert [fault.sample_id for fault in made.faults] == ["s00"]
    assert re.search(reason, made.faults[0].message)
    assert set(repository.version().annotations()["sample_id"]) == {"s01", "s02"}
