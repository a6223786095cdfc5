"""The parts of the built-in detector by themselves, and what it may and may not learn from; cut-outs of boxes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from datasetops.audits.boxes.crops import crop_probabilities
from datasetops.audits.boxes.rows import box_rows
from datasetops.audits.detector.cells import CellHead, Kinds, kinds_of, strongest
from datasetops.audits.detector.detections import out_of_sample_detections
from datasetops.audits.detector.maps import SEEN, STRIDE, Maps, Projection, seen_from_cells, seen_in_regions
from datasetops.audits.detector.plan import plan_detector
from datasetops.audits.detector.regions import RegionHead
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.identity import pairwise_iou
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

CORNERS = ["x1", "y1", "x2", "y2"]


def box(sample: int, label: str, corners: Any, number: int) -> dict[str, Any]:
    row = {"annotation_id": f"a{number}", "sample_id": f"s{sample:05}", "kind": "box", "label": label}
    return row | dict(zip(CORNERS, map(float, corners), strict=True))


def scene(rng: np.random.Generator, count: int = 5) -> tuple[Image.Image, list[tuple[str, tuple[int, int, int, int]]]]:
    """Discs (cats) and squares (dogs) that do not touch, on noise; 320 x 240."""
    image = Image.fromarray(rng.integers(180, 220, (240, 320, 3), dtype=np.uint8))
    draw, placed = ImageDraw.Draw(image), []
    for cell in rng.permutation(12)[:count].tolist():
        side = int(rng.integers(36, 50))
        x, y = 80 * (cell % 4) + int(rng.integers(4, 26)), 80 * (cell // 4) + int(rng.integers(4, 26))
        corners = (x, y, x + side, y + side)
        if rng.random() < 0.5:
            draw.ellipse(corners, fill=(150, 40, 60))
            placed.append(("cat", corners))
        else:
            draw.rectangle(corners, fill=(40, 60, 150))
            placed.append(("dog", corners))
    return image, placed


def encoded(image: Image.Image, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG", **options)
    return sink.getvalue()


def overlap(frame: pd.DataFrame, corners: Any) -> Any:
    return pairwise_iou(frame[CORNERS].to_numpy(), np.array([corners], dtype=float))[:, 0]


# The parts.


def test_a_class_of_many_sizes_is_looked_for_in_each() -> None:
    rng = np.random.default_rng(0)
    size = np.concatenate([2 ** rng.uniform(4, 7, 120), rng.uniform(30, 34, 120), [50.0]])
    corners = np.stack([0 * size, 0 * size, size, 2 * size], axis=1)
    label = np.repeat([0, 1, 2], [120, 120, 1])
    kinds, kind = kinds_of(corners, label)
    assert kinds.label.tolist() == [0, 0, 0, 1, 2]
    assert (kinds.label[kind] == label).all()
    np.testing.assert_allclose(kinds.sides[:, 1], 2 * kinds.sides[:, 0])
    for one in range(3):
        own = size[kind == one]
        assert own.max() / own.min() < 3
        assert own.min() < kinds.sides[one, 0] < own.max()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12), st.sampled_from([0.1, 0.5, 0.7]))
def test_of_overlapping_boxes_the_strongest_stay(places: list[tuple[int, int]], limit: float) -> None:
    corners = np.array([[x, y, x + 10, y + 10] for x, y in places], dtype=float).reshape(-1, 4)
    overlaps = pairwise_iou(corners, corners)
    kept: list[int] = []
    for row in range(len(corners)):
        if not any(overlaps[row, one] > limit for one in kept):
            kept.append(row)
    assert strongest(overlaps, limit).tolist() == kept


def plain_maps(rows: int, columns: int) -> Maps:
    """The first number of a cell is its column, the second its row, in pixels of its middle."""
    coarse, fine = np.zeros((rows, columns, 64), np.float16), np.zeros((2 * rows, 2 * columns, 24), np.float16)
    for cells, stride in ((coarse, STRIDE), (fine, STRIDE / 2)):
        down, across = np.indices(cells.shape[:2])
        cells[..., 0], cells[..., 1] = (across + 0.5) * stride, (down + 0.5) * stride
    return Maps(coarse, fine)


def test_a_region_is_seen_at_five_by_five_places() -> None:
    corners = np.array([[32.0, 48.0, 96.0, 80.0], [20.0, 20.0, 40.0, 100.0]])
    seen = seen_in_regions(plain_maps(8, 10), corners)
    coarse, fine = seen[:, : 25 * 64].reshape(2, 5, 5, 64), seen[:, 25 * 64 :].reshape(2, 5, 5, 24)
    steps = (np.arange(5) - 2) / 5 * 1.2
    for one, (x1, y1, x2, y2) in enumerate(corners):
        across, down = (x1 + x2) / 2 + (x2 - x1) * steps, (y1 + y2) / 2 + (y2 - y1) * steps
        for part in (coarse, fine):
            np.testing.assert_allclose(part[one, :, :, 0], np.tile(across, (5, 1)), atol=0.1)
            np.testing.assert_allclose(part[one, :, :, 1], np.tile(down[:, None], (1, 5)), atol=0.1)


def test_a_cell_sees_its_neighbours() -> None:
    seen = seen_from_cells(plain_maps(8, 10)).reshape(8, 10, SEEN)
    around = seen[4, 5].reshape(-1, 64)[:, :2] - seen[4, 5, :2]
    ring = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if (x, y) != (0, 0)]
    expected = [(0, 0), *ring, *((3 * x, 3 * y) for x, y in ring)]
    inside = [i for i, (x, y) in enumerate(expected) if 0 < 5 + x < 9 and 0 < 4 + y < 7]  # means are of whole threes
    np.testing.assert_allclose(around[inside], STRIDE * np.array(expected)[inside], atol=0.1)
    assert (seen[0, 0].reshape(-1, 64)[1:4] == 0).all()  # beyond the edge


def test_a_projection_gives_numbers_of_unit_size_even_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    widths = ((2, 40), (1, 80), (1, 672), (0.5, 1152))

    def levels(scale: float) -> list[Any]:
        return [
            scale * rng.standard_normal((int(12 * k), int(16 * k), d)).astype(np.float32).cumsum(axis=2)
            for k, d in widths
        ]

    project = Projection([levels(3.0) for _ in range(4)], rng)
    maps = project(levels(3.0))
    assert maps.coarse.shape == (12, 16, 64)
    assert maps.fine.shape == (24, 32, 24)
    assert 0.3 < float(np.square(maps.coarse.astype(float)).mean()) < 3
    flat = Projection([levels(0.0)] * 2, rng)(levels(0.0))
    assert not np.any(flat.coarse)
    assert not np.any(flat.fine)


def test_cells_learn_where_objects_are_and_how_large() -> None:
    """The cell at an object's middle is marked, and says how wide the object is."""
    rng = np.random.default_rng(0)

    def image() -> tuple[Maps, Any]:
        coarse = rng.normal(0, 0.1, (12, 16, 64)).astype(np.float16)
        row, column, width = int(rng.integers(3, 9)), int(rng.integers(4, 12)), float(rng.uniform(48, 80))
        coarse[row, column, 3], coarse[row, column, 5] = 5, (width - 64) / 8
        x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
        return Maps(coarse, np.zeros((24, 32, 24), np.float16)), [x - width / 2, y - 24, x + width / 2, y + 24]

    head = CellHead(Kinds(np.array([7]), np.array([[64.0, 48.0]])), folds=2, objects=400)
    nothing = np.empty((0, 4))
    for number in range(400):
        maps, corners = image()
        head.learn(maps, number % 2, np.array([corners]), np.array([0]), nothing)
    head.fit()
    for fold in (0, 1):
        maps, corners = image()
        found = head.look(maps, fold)
        assert found.label[0] == 7
        assert pairwise_iou(found.corners[:1], np.array([corners]))[0, 0] > 0.85
        assert (found.score[1:] < 0.5 * found.score[0]).all()


def test_regions_are_judged_by_the_other_folds() -> None:
    """In one fold the answer is the opposite of what it is in the others, so it is judged wrongly there."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((600, 6)).astype(np.float32)
    truth = (seen[:, 0] > 0).astype(np.float32)
    fold = np.arange(600) % 3
    wanted = np.where(fold == 2, 1 - truth, truth)[:, None].astype(np.float32)
    head = RegionHead(seen, 1, 3, rng)
    for one in range(3):
        head.learn(head.reduce(seen[fold == one]), one, wanted[fold == one])
    head.fit()
    answers = head.judge(head.reduce(seen[fold == 2]), 2)[:, 0]
    assert ((answers > 0.5) == (truth[fold == 2] == 1)).mean() > 0.8


# What is learned from.


def test_what_cannot_be_learned_is_said(build: Any) -> None:
    nothing = build([encoded(scene(np.random.default_rng(0))[0])])
    assert out_of_sample_detections(nothing) is None
    assert nothing.memo["dense_probe"] == "nothing is boxed"
    rows = [box(i, "cat", (1, 1, 9, 9), i) for i in range(30)]
    unseen = build([None] * 30, rows)
    assert out_of_sample_detections(unseen) is None
    assert unseen.memo["dense_probe"] == "there are no images at hand"
    damaged = build([bytes([i]) for i in range(30)], rows, width=[320] * 30, height=[240] * 30)
    assert out_of_sample_detections(damaged) is None
    assert "can be read" in damaged.memo["dense_probe"]
    one_group = build([bytes([i]) for i in range(30)], rows, group=["g"] * 30)
    assert out_of_sample_detections(one_group) is None
    assert "in more than one group" in one_group.memo["dense_probe"]


def test_copies_and_groups_share_a_fold_and_rare_classes_are_left_out(build: Any, schema: LabelSchema) -> None:
    files = [bytes([number // 2]) for number in range(60)]
    rows = [box(i, "cat", (0, 0, 40, 40), i) for i in range(50)]
    rows += [box(i, "bird", (50, 0, 90, 40), 100 + i) for i in range(5)]
    context = build(
        files, rows, width=[400] * 60, height=[300] * 60, group=["g" if i % 7 == 0 else None for i in range(60)]
    )
    plan = plan_detector(context)
    assert not isinstance(plan, str)
    groups = grouped_with_copies(context.samples).to_numpy()
    assert all(len(set(plan.folds[groups == one])) == 1 for one in np.unique(groups))
    assert plan.names == ["cat"]
    assert "bird" in plan.notes[0]
    assert len(plan.ignored) == 5
    assert sorted([*plan.fit, *plan.rest]) == list(range(60))
    assert plan.side == 384  # an object of 40 in 400 pixels
    small = [row | {"x2": 10.0, "y2": 10.0} for row in rows]
    finer = plan_detector(build(files, small, width=[400] * 60, height=[300] * 60))
    assert not isinstance(finer, str)
    assert finer.side == 960


def test_a_box_is_no_witness_for_itself_or_for_its_copy(build: Any) -> None:
    """Boxes on empty ground in two byte-identical images, one object that is not boxed, and images apart from the rest."""
    rng = np.random.default_rng(5)
    files, rows = [], []
    hidden: Any = None
    for number in range(36):
        image, placed = scene(rng)
        if number in (10, 11):
            if number == 10:
                twin = image, placed
            image, placed = twin
            taken = {(x // 80, y // 80) for _, (x, y, _, _) in placed}
            free = next((x, y) for x in range(4) for y in range(3) if (x, y) not in taken)
            empty = (80 * free[0] + 15, 80 * free[1] + 15, 80 * free[0] + 60, 80 * free[1] + 60)
            rows.append(box(number, "cat", empty, 1000 + number))
        if number == 20:
            hidden = placed.pop()
        scale = 2 if number == 20 else 1  # an image of another size, its boxes with it
        image = image.resize((image.width * scale, image.height * scale))
        rows += [box(number, name, np.array(at) * scale, 10 * number + i) for i, (name, at) in enumerate(placed)]
        files.append(encoded(image))
    turned = Image.Exif()
    turned[0x0112] = 6
    files += [encoded(scene(rng)[0], exif=turned), b"damaged"]
    context = build(files, rows, width=[320] * 38, height=[240] * 38)
    found = out_of_sample_detections(context)
    assert found is not None
    assert found.columns.tolist() == ["sample_id", "label", *CORNERS, "score"]
    assert found["sample_id"].is_monotonic_increasing
    assert found["sample_id"].nunique() == 36
    assert found.attrs["notes"][-1].startswith("2 images cannot be read")
    for sample in ("s00010", "s00011"):
        own = found[found["sample_id"] == sample]
        assert own["score"][overlap(own, empty) > 0.5].max() < 0.5 or not (overlap(own, empty) > 0.5).any()
    larger = found[(found["sample_id"] == "s00020") & (found["label"] == hidden[0])]
    assert larger["score"][overlap(larger, np.array(hidden[1]) * 2) > 0.5].max() > 0.5


def test_cells_that_were_left_unboxed_are_found(data: Path, build: Any) -> None:
    """60 photos of blood cells, every tenth box taken away."""
    from defusedxml.ElementTree import parse

    schema = LabelSchema.model_validate(
        {
            "name": "cells",
            "version": 1,
            "tasks": [{"kind": "box"}],
            "classes": [{"id": i, "name": name} for i, name in enumerate(("RBC", "WBC", "Platelets"))],
        }
    )
    files, rows, hidden = [], [], []
    for sample, path in enumerate(sorted((data / "bccd" / "annotations_voc").glob("*.xml"))[:60]):
        files.append((data / "bccd" / "images" / f"{path.stem}.jpg").read_bytes())
        for one in parse(path).getroot().iter("object"):
            corners = [float(one.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            row = box(sample, one.findtext("name", ""), corners, len(rows) + len(hidden))
            (hidden if (len(rows) + len(hidden)) % 10 == 0 else rows).append(row)
    context = build(files, rows, schema=schema, width=[640] * 60, height=[480] * 60)
    found = out_of_sample_detections(context)
    assert found is not None
    likely = found[found["score"] > 0.4]
    seen = [
        bool(
            (
                overlap(
                    likely[(likely["sample_id"] == row["sample_id"]) & (likely["label"] == row["label"])],
                    [row[name] for name in CORNERS],
                )
                > 0.5
            ).any()
        )
        for row in hidden
    ]
    assert len(hidden) > 60
    assert np.mean(seen) > 0.65


# Cut-outs.


class Colours:
    """Mean colours of a cut-out's quarters."""

    digest = "colours"
    dim = 12
    side = 2

    def prepare(self, image: Image.Image) -> Any:
        return np.asarray(image.resize((2, 2), Image.Resampling.BOX))

    def embed(self, batch: Any) -> Any:
        return batch.reshape(len(batch), -1).astype(np.float32)


def test_a_box_of_another_class_than_it_shows_stands_out(build: Any) -> None:
    rng = np.random.default_rng(3)
    files, rows = [], []
    for number in range(30):
        image, placed = scene(rng)
        rows += [box(number, name, corners, len(rows) + i) for i, (name, corners) in enumerate(placed)]
        files.append(encoded(image))
    rows[7]["label"] = "dog" if rows[7]["label"] == "cat" else "cat"
    rows.append(box(3, "cat", (400, 10, 450, 60), 900))  # beside the image
    rows.append(box(30, "cat", (1, 1, 50, 60), 901))  # of an image that is damaged
    context = build([*files, b"damaged"], rows)
    reads: list[int] = []
    read = context.images.read
    context.images.read = lambda row: (reads.append(row), read(row))[1]
    found = crop_probabilities(context, embedder=Colours())
    assert found is not None
    assert found.columns.tolist() == ["cat", "dog", "bird"]
    assert found.index.tolist() == box_rows(context).rows["annotation_id"].tolist()
    assert found.loc[["a900", "a901"]].isna().all(axis=None)
    given_label = pd.Series({row["annotation_id"]: row["label"] for row in rows})
    own = pd.Series({name: found.loc[name, given_label[name]] for name in found.index.drop(["a900", "a901"])})
    assert own.idxmin() == "a7"
    assert own["a7"] < 0.3 < own.drop("a7").min()
    assert sorted(set(reads)) == list(range(31))
    assert len(reads) < len(rows) / 2  # an image is not read anew for each of its boxes


def test_cut_outs_without_anything_to_compare(build: Any) -> None:
    empty = build([encoded(scene(np.random.default_rng(0))[0])])
    assert crop_probabilities(empty, embedder=Colours()) is None
    assert empty.memo["crops"] == "nothing is boxed"
    few = build([encoded(scene(np.random.default_rng(0))[0])], [box(0, "cat", (1, 1, 50, 50), 0)])
    assert crop_probabilities(few, embedder=Colours()) is None
    assert few.memo["crops"].startswith("1 boxes, of 0 classes")
