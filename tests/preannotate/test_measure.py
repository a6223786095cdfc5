"""Precision and recall against what people said, and `--target-precision` from predictions to rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colours import NAMES, SCHEMA, add_image, fill, picture, run
from scipy.stats import beta

from datasetops.errors import ModelError
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository
from datasetops.preannotate.measure import judge, people_said, plain, rates
from datasetops.preannotate.run import preannotate
from datasetops.schema import LabelSchema


def samples(*names: str) -> pa.Table:
    return pa.table({"sample_id": list(names)})


def boxes(rows: list[tuple[Any, ...]]) -> pa.Table:
    """Rows of (sample, label, x1, y1, x2, y2, score or None)."""
    columns = list(zip(*rows, strict=True))
    names = ("sample_id", "label", "x1", "y1", "x2", "y2", "score")
    return pa.table({name: list(column) for name, column in zip(names, columns, strict=True)})


def test_classes_are_right_where_a_person_gave_them() -> None:
    predicted = pa.table(
        {"sample_id": ["c", "a", "b", "z"], "label": ["x", "x", "y", "x"], "score": [0.9, 0.8, 0.7, 0.6]}
    )
    said = pa.table({"sample_id": ["a", "b", "c", "d"], "label": ["x", "x", "x", "y"]})
    judged = judge(predicted, said, "classification", samples("a", "b", "c", "d", "z"), np.array([5, 6, 7, 8, 9]))
    rows = zip(judged.sample_ids[judged.sample], judged.label, judged.score, judged.right, judged.group, strict=True)
    assert [tuple(row) for row in rows] == [
        ("a", "x", 0.8, True, 5),
        ("b", "y", 0.7, False, 6),
        ("c", "x", 0.9, True, 7),
    ]
    assert judged.found.tolist() == pytest.approx([0.8, np.nan, 0.9, np.nan], nan_ok=True)


def test_boxes_are_matched_once_within_their_class_the_surest_first() -> None:
    predicted = boxes(
        [
            ("a", "x", 0, 0, 10, 10, 0.5),  # the better fit, but less sure than the next
            ("a", "x", 0, 0, 10, 8, 0.9),
            ("a", "y", 20, 20, 30, 30, 0.8),  # there is an x
            ("a", "x", 50, 50, 60, 60, 0.7),  # IoU 0.25 with what is there
            ("b", "x", 0, 0, 10, 10, 0.6),  # the same place in another image
        ]
    )
    said = boxes(
        [
            ("a", "x", 0, 0, 10, 10, None),
            ("a", "x", 20, 20, 30, 30, None),
            ("a", "x", 50, 50, 55, 55, None),
            ("b", "x", 0, 5, 10, 15, None),  # IoU 1/3
        ]
    )
    judged = judge(predicted, said, "box", samples("a", "b"), np.arange(2))
    assert judged.right.tolist() == [False, True, False, False, False]
    assert judged.found.tolist() == pytest.approx([0.9, np.nan, np.nan, np.nan], nan_ok=True)
    looser = judge(predicted, said, "box", samples("a", "b"), np.arange(2), iou=0.25)
    assert looser.right.tolist() == [False, True, False, True, True]


def test_rates_by_class_score_and_slice() -> None:
    count = 40
    names = [f"s{number:02}" for number in range(count)]
    score = np.arange(count) / count
    predicted = pa.table({"sample_id": names, "label": ["x"] * count, "score": score})
    truth = ["x" if number >= 10 else "y" for number in range(count)]
    judged = judge(
        predicted, pa.table({"sample_id": names, "label": truth}), "classification", samples(*names), np.arange(count)
    )
    late = np.arange(count) >= 20
    found = {(r.name, r.score, r.slice): r for r in rates(judged, ["x", "y"], scores=(0.0, 0.5), slices={"late": late})}
    assert len(found) == 8
    whole = found["x", 0.0, None]
    assert (whole.precision.right, whole.precision.count) == (30, 40)
    assert whole.precision.low == pytest.approx(beta.ppf(0.05, 30, 11))
    assert whole.precision.high == pytest.approx(beta.ppf(0.95, 31, 10))
    assert (whole.recall.right, whole.recall.count) == (30, 30)
    upper = found["x", 0.5, None]
    assert (upper.precision.right, upper.precision.count) == (20, 20)
    assert (upper.recall.right, upper.recall.count) == (20, 30)
    assert (found["x", 0.0, "late"].precision.count, found["x", 0.0, "late"].recall.count) == (20, 20)
    assert plain(found["y", 0.0, None]) | {"recall_high": 0} == {
        "class": "y", "score": 0.0, "slice": None, "precision": None, "precision_low": 0.0, "precision_high": 1.0,
        "precision_of": 0, "recall": 0.0, "recall_low": 0.0, "recall_high": 0, "recall_of": 10,
    }  # fmt: skip


def test_bounds_of_predictions_of_few_images_are_wide() -> None:
    rows = [("a" if at < 50 else "b", "x", 0, at * 20, 10, at * 20 + 10, 0.9) for at in range(100)]
    judged = judge(boxes(rows), boxes(rows), "box", samples("a", "b"), np.arange(2))
    (rate,) = rates(judged, ["x"], scores=(0.0,))
    assert (rate.precision.right, rate.precision.effective) == (100, 2)
    assert rate.precision.low == pytest.approx(0.05**0.5)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="classification or box"):
        judge(
            boxes([("a", "x", 0, 0, 1, 1, 0.5)]),
            boxes([("a", "x", 0, 0, 1, 1, None)]),
            "mask",
            samples("a"),
            np.ones(1),
        )


def labeled(root: Path, kind: str, wrong: str, share: int) -> Repository:
    """420 images of boxes, of which all but the last 60 are labeled by people; of one colour every so manyth is called or
    placed otherwise."""
    repository = Repository.init(root, SCHEMA)
    samples, rows = [], []
    for number in range(420):
        box, channel = (number % 29, 2, number % 29 + 9, 8 + number // 29), number % 3
        samples.append(add_image(root, f"s{number:03}", picture(40, 30, box, channel)))
        other = NAMES[channel] == wrong and number // 3 % share == 0
        row = {"annotation_id": f"l{number}", "sample_id": f"s{number:03}", "kind": kind, "source": "human"}
        if kind == "box":
            moved = 15 if other else 0
            row |= {"x1": box[0], "y1": box[1] + moved, "x2": box[2], "y2": box[3] + moved}
        row["label"] = NAMES[0] if other and kind != "box" else NAMES[channel]
        rows.append(row)
    repository.commit(Change(samples=samples), message="images")
    repository.commit(Change(annotations=rows[:360]), message="labels")
    return repository


def test_a_target_precision_chooses_thresholds_and_is_recorded(root: Path) -> None:
    repository = labeled(root, "classification", "blue", 4)
    made = run(repository, thresholds=None, task="classification", target_precision=0.9)
    assert made.promises is not None
    thresholds = made.promises.thresholds
    assert (thresholds["blue"], made.promises.classes[2].why is None) == (None, False)
    assert thresholds["red"] is not None
    # Of the 60 that nobody labeled; none of the class without a promise.
    assert made.by_class == {"red": 20, "green": 20}
    rows = repository.version().annotations()
    assert not rows[rows["sample_id"] == "s000"]["source"].eq("model").any()
    event = next(entry.event for entry in repository.ledger.backwards() if entry.event.kind == "preannotate")
    told = event.parameters["promises"]
    assert told["target"] == 0.9
    assert event.parameters["thresholds"] == thresholds
    assert [one["name"] for one in told["classes"]] == list(NAMES)
    (record,) = event.outputs["files"]
    measured = json.loads(repository.store.get(record))["measured"]
    blue = next(row for row in measured if row["class"] == "blue" and row["score"] == 0.0)
    assert (blue["precision"], blue["precision_of"]) == (0.75, 120)
    # Stored predictions serve; rows of a class that lost its promise go.
    low = run(repository, thresholds=None, task="classification", target_precision=0.5)
    assert (low.computed, low.by_class) == (0, {"red": 20, "green": 20, "blue": 20})
    high = run(repository, thresholds=None, task="classification", target_precision=0.99)
    assert (high.computed, high.by_class) == (0, {})
    assert all((item.why or "").startswith("too few") for item in high.promises.classes)  # type: ignore[union-attr]


def test_boxes_have_a_promise_too(root: Path) -> None:
    repository = labeled(root, "box", "green", 2)
    made = run(repository, thresholds=None, task="box", target_precision=0.9)
    assert made.promises is not None
    red, green, blue = made.promises.classes
    assert (red.held_out.right, blue.held_out.right) == (red.held_out.count, blue.held_out.count)
    assert green.threshold is None
    assert (green.why or "").startswith("precision too low")
    assert green.held_out.value == pytest.approx(0.5, abs=0.2)
    assert made.by_class.keys() == {"red", "blue"}


def test_labels_of_sealed_splits_and_copies(root: Path) -> None:
    repository = fill(root, 6)
    rows = [
        {"annotation_id": f"l{n}", "sample_id": f"s{n:02}", "kind": "classification", "label": "red", "source": source}
        for n, source in enumerate(["human", "human", "model", "import"])
    ]
    again = {"annotation_id": "l9", "sample_id": "s01", "kind": "classification", "label": "blue", "source": "human"}
    repository.commit(Change(annotations=[*rows, again]), message="labels")
    version = repository.version()
    said, groups = people_said(version, version.table("samples", ["sample_id"]), "classification")
    assert said["sample_id"].to_pylist() == ["s00", "s03"]  # s01 has two classes, s02 is a model's
    assert len(np.unique(groups)) == 6
    copies = version.table("samples").to_pylist()
    repository.commit(Change(samples=[copies[0] | {"sample_id": "t0"}]), message="a copy")
    version = repository.version()
    told = version.table("samples", ["sample_id"])
    _, groups = people_said(version, told, "classification")
    place = dict(zip(told["sample_id"].to_pylist(), groups.tolist(), strict=True))
    assert place["s00"] == place["t0"]
    assert len(set(place.values())) == 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_precision": 0.9}, ModelError, "one kind of annotation"),
        ({"target_precision": 0.9, "task": "classification"}, ModelError, "Nobody labeled a classification"),
        ({"target_precision": 1.0, "task": "classification"}, ValueError, "between 0 and 1"),
        ({"target_precision": 0.9, "task": "classification", "confidence": 2}, ValueError, "confidence"),
        ({"target_precision": 0.9, "thresholds": 0.5}, ValueError, "give either"),
    ],
)
def test_what_cannot_be_promised(root: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    repository = fill(root, 4)
    with pytest.raises(error, match=message):
        run(repository, **({"thresholds": None} | options))


@pytest.mark.slow
def test_few_shot_on_real_photos_keeps_its_promise(data: Path, tmp_path: Path) -> None:
    """1,500 photos of CIFAR-10, of which people labeled 1,200: what is written for the others is as right as promised."""
    from datasetops.preannotate.few_shot_labeler import open_few_shot
    from datasetops.store.media import Media

    table = pq.read_table(data / "cifar10n" / "data.parquet", columns=["image", "clean_label"]).slice(0, 1_500)
    names = json.loads((data / "cifar10n" / "classes.json").read_text())
    truth = table["clean_label"].to_pylist()
    folder = tmp_path / "photos"
    folder.mkdir()
    for row, image in enumerate(table["image"].to_pylist()):
        (folder / f"{row:05}.png").write_bytes(image["bytes"] if isinstance(image, dict) else image)
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    schema = {"name": "cifar", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    repository = Repository.init(tmp_path / "set", LabelSchema.model_validate(schema))
    ingest(repository, str(folder), format="folder")
    ids = {Path(uri).stem: name for name, uri in repository.version().samples().set_index("sample_id")["uri"].items()}
    right = {ids[f"{row:05}"]: names[label] for row, label in enumerate(truth)}
    rows = [
        {
            "annotation_id": f"{name}/l",
            "sample_id": name,
            "kind": "classification",
            "label": right[name],
            "source": "human",
        }
        for name in (ids[f"{row:05}"] for row in range(1_200))
    ]
    repository.commit(Change(annotations=rows), message="labels")
    version = repository.version()
    read = Media(repository.store, repository.root).read
    labeler = open_few_shot(repository, version, "builtin:efficientnet-lite0", read)
    made = preannotate(repository, version, labeler, target_precision=0.8)
    assert made.promises is not None
    promised = [item for item in made.promises.classes if item.threshold is not None]
    assert len(promised) >= 3
    assert all(item.promised is not None and item.promised >= 0.8 for item in promised)
    reached = sum(item.held_out.right for item in promised) / sum(item.held_out.count for item in promised)
    assert reached >= 0.8
    found = repository.version().annotations()
    written = found[found["source"] == "model"]
    assert set(written["label"]) <= {item.name for item in promised}
    assert len(written) > 50
    assert (written["label"] == written["sample_id"].map(right)).mean() >= 0.8
