"""Duplicates: exact, near, labeled differently; on real pairs judged by people, and on planted copies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from datasetops.audits.base import AuditContext
from datasetops.audits.images.duplicates import ExactDuplicate, NearDuplicate, exact_groups
from datasetops.audits.images.near import detail_threshold, near_pairs


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def class_label(row: int, name: str) -> dict[str, Any]:
    return {"annotation_id": f"a{row}", "sample_id": f"s{row:05}", "kind": "classification", "label": name}


def box(row: int, number: int, x: float) -> dict[str, Any]:
    place = {"x1": x, "y1": 0.0, "x2": x + 5, "y2": 5.0}
    return {"annotation_id": f"b{row}.{number}", "sample_id": f"s{row:05}", "kind": "box", "label": "cat"} | place


def pairs_of(context: AuditContext) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in near_pairs(context).indices}


def test_exact_groups_keep_the_order_of_first_rows() -> None:
    digests = pd.Series(["y", "x", None, "x", "z", "y", "x", None])
    assert [group.tolist() for group in exact_groups(digests)] == [[0, 5], [1, 3, 6]]
    assert exact_groups(digests.iloc[:2]) == []


def test_the_copy_labeled_unlike_most_is_named_even_if_it_comes_first(build: Any) -> None:
    labels = [class_label(0, "dog"), class_label(1, "cat"), class_label(2, "cat"), class_label(4, "cat")]
    result = ExactDuplicate().run(build([b"x", b"x", b"x", b"y", b"y"], labels))
    told = {finding.sample_id: finding for finding in result.findings}
    assert set(told) == {"s00000", "s00001", "s00002", "s00004"}
    assert (told["s00000"].severity, told["s00000"].given, told["s00000"].suggested) == ("high", "dog", "cat")
    assert told["s00001"].suggested is None
    assert told["s00001"].related == ("s00000", "s00002")
    # An image that has no label yet contradicts nothing.
    assert told["s00004"].severity == "medium"
    assert result.summary["images whose copies are labeled differently"] == 1


def test_boxes_at_other_places_conflict_in_exact_copies_whatever_their_order(build: Any) -> None:
    same = [box(0, 0, 1), box(0, 1, 20), box(1, 0, 20), box(1, 1, 1)]
    assert [f.severity for f in ExactDuplicate().run(build([b"x", b"x"], same)).findings] == ["medium"]
    moved = [*same[:-1], box(1, 1, 2)]
    (finding,) = ExactDuplicate().run(build([b"x", b"x"], moved)).findings
    assert finding.severity == "high"
    assert finding.message.endswith("they are labeled 2 x cat box, but not at the same places")


def test_of_many_copies_a_few_are_named(build: Any) -> None:
    result = ExactDuplicate().run(build([b"x"] * 50))
    assert len(result.findings) == 49
    assert all(len(f.related) == 20 and f.sample_id not in f.related for f in result.findings)
    assert result.findings[-1].message == "the same file as s00000.png and 48 more"


@pytest.mark.slow
def test_near_duplicates_of_cifar_that_people_judged(data: Path, build: Any) -> None:
    """Of 279 pairs judged the same shot at least 95 % are found, and few of those judged different."""
    folder = data / "cifar10_neardup"
    files: list[bytes] = []
    row_of: dict[tuple[str, int], int] = {}
    for split in ("test", "train"):
        table = pd.read_parquet(folder / f"{split}_images.parquet").query("in_a_pair")
        for index, image in zip(table["index"], table["image"], strict=True):
            row_of[split, int(index)] = len(files)
            files.append(image)
    judged = [
        (tuple(sorted((row_of["test", a], row_of[other, b]))), judgment)
        for name, other in (("test_train", "train"), ("test_test", "test"))
        for a, b, _, judgment in pd.read_csv(folder / f"pairs_{name}.csv").itertuples(index=False)
    ]
    found = pairs_of(build(files))
    same = [pair in found for pair, judgment in judged if judgment == 1]
    different = [pair in found for pair, judgment in judged if judgment == 2]
    assert len(same) == 279
    assert np.mean(same) >= 0.95
    assert np.mean(different) <= 0.6  # most of these are the same car or plane in much the same pose


@pytest.mark.slow
def test_different_scans_of_the_same_digit_are_no_duplicates(build: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images[:600]
    files = [encoded(Image.fromarray((image * 15).astype(np.uint8))) for image in digits]
    assert len(pairs_of(build(files))) <= 3


@pytest.mark.slow
def test_blood_cells_and_street_photos_have_none_but_their_planted_copies(data: Path, build: Any) -> None:
    def jpeg(image: Image.Image, quality: int) -> Image.Image:
        return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")

    def scaled(image: Image.Image, by: float) -> Image.Image:
        return image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)

    def bright(image: Image.Image, by: float) -> Image.Image:
        return ImageEnhance.Brightness(image).enhance(by)

    disguises = {
        "turned 90": lambda i: i.transpose(Image.Transpose.ROTATE_90),
        "turned 180": lambda i: i.transpose(Image.Transpose.ROTATE_180),
        "turned 270": lambda i: i.transpose(Image.Transpose.ROTATE_270),
        "mirrored": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "upside down": lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        "quality 30": lambda i: jpeg(i, 30),
        "quality 95": lambda i: jpeg(i, 95),
        "half": lambda i: scaled(i, 0.5),
        "double": lambda i: scaled(i, 2),
        "darker": lambda i: bright(i, 0.9),
        "brighter": lambda i: bright(i, 1.1),
        "cropped": lambda i: i.crop((i.width // 20, 0, i.width, i.height)),
        "mirrored, half, quality 40": lambda i: jpeg(scaled(i.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0.5), 40),
    }
    paths = [sorted((data / name / "images").iterdir())[:60] for name in ("coco_tiny", "bccd")]
    originals = [Image.open(path).convert("RGB") for folder in paths for path in folder]
    small = [image.resize((160, 120), Image.Resampling.BOX) for image in originals]
    names = list(disguises)
    planted = {row: names[row % len(names)] for row in range(len(small))}
    copies = [disguises[name](small[row]) for row, name in planted.items()]
    found = pairs_of(build([encoded(image) for image in (*small, *copies)]))
    wanted = {(row, len(small) + row) for row in planted}
    assert [planted[row] for row, _ in wanted - found] == []
    assert found - wanted == set()


def test_near_duplicates_report_once_and_name_their_partners(data: Path, build: Any) -> None:
    paths = sorted((data / "coco_tiny" / "images").iterdir())[:40]
    images = [Image.open(path).convert("RGB").resize((160, 120)) for path in paths]
    images += [images[3].transpose(Image.Transpose.FLIP_LEFT_RIGHT), images[3].rotate(90, expand=True)]
    files = [*(encoded(image) for image in images), b"damaged"]
    labels = [class_label(3, "cat"), class_label(40, "cat"), class_label(41, "dog")]
    context = build(files, labels)
    result = NearDuplicate().run(context)
    told = {finding.sample_id: finding for finding in result.findings}
    assert set(told) == {"s00040", "s00041"}
    assert told["s00040"].related[0] in ("s00003", "s00041")
    assert set(told["s00041"].related) == {"s00003", "s00040"}
    assert (told["s00041"].severity, told["s00041"].given, told["s00041"].suggested) == ("high", "dog", "cat")
    scores = result.scores.set_index("sample_id")["score"]
    assert "s00042" not in scores  # could not be read
    assert (scores < 0.5).sum() == 3
    assert near_pairs(context) is near_pairs(context)


def test_the_threshold_follows_from_how_alike_unlike_images_are() -> None:
    rng = np.random.default_rng(0)
    unlike = np.tanh(rng.normal(0.2, 0.1, 2000)).astype(np.float32)
    alike = np.tanh(rng.normal(1.0, 0.2, 2000)).astype(np.float32)
    assert detail_threshold(unlike, 10_000) == pytest.approx(np.sqrt(0.5))
    assert detail_threshold(unlike, 10_000) < detail_threshold(alike, 10_000) < detail_threshold(alike, 10_000_000)
    assert detail_threshold(np.ones(100, np.float32), 100) == pytest.approx(np.sqrt(0.95))
    # Of so many pairs that are drawn like the unlike ones, about one passes.
    z = rng.normal(1.0, 0.2, (50, 10_000))
    passing = (np.tanh(z) >= detail_threshold(alike, 10_000)).sum(axis=1)
    assert passing.mean() < 5


def shots() -> list[bytes]:
    """A picture, and the same recompressed."""
    pixels = np.random.default_rng(3).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((240, 240), Image.Resampling.BICUBIC)
    return [encoded(image), encoded(image, "JPEG", quality=80)]


@pytest.mark.parametrize(
    ("annotations", "severity"),
    [
        ([class_label(0, "cat"), class_label(1, "dog")], "high"),
        ([class_label(0, "cat"), class_label(1, "cat"), box(1, 0, 3)], "medium"),  # another shot has other boxes
    ],
)
def test_near_duplicates_are_held_to_the_class_of_the_image_alone(
    build: Any, annotations: list[dict[str, Any]], severity: str
) -> None:
    (finding,) = NearDuplicate().run(build(shots(), annotations)).findings
    assert finding.severity == severity


def test_of_several_answers_the_commonest_is_compared(build: Any) -> None:
    def answers(row: int, *names: str) -> list[dict[str, Any]]:
        return [
            class_label(row, name) | {"annotation_id": f"a{row}.{number}", "actor": f"w{number}"}
            for number, name in enumerate(names)
        ]

    rows = [*answers(0, "cat", "cat", "dog"), *answers(1, "cat"), *answers(2, "dog", "cat")]
    (second, third) = ExactDuplicate().run(build([b"x"] * 3, rows)).findings
    assert (second.severity, third.severity) == ("medium", "medium")
    (told,) = ExactDuplicate().run(build([b"x"] * 2, [*answers(0, "cat", "cat", "dog"), *answers(1, "dog")])).findings
    assert told.message.endswith("their labels differ: cat, dog")
