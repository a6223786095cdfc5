"""Each check on a small set in which the fault is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pictures import photos
from PIL import Image

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.images.duplicates import ExactDuplicate, NearDuplicate
from datasetops.audits.images.leakage import Leakage
from datasetops.audits.images.outliers import Outlier, robust_deviations
from datasetops.audits.images.quality import ImageQuality
from datasetops.audits.labels.label_noise import LabelNoise, judge_labels
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.sets.balance import Balance, share_surprise
from datasetops.audits.sets.coverage import Coverage
from datasetops.audits.sets.rules import Rules, far_off
from datasetops.errors import FormatError
from datasetops.records import ANNOTATIONS, SAMPLES, canonical_json
from datasetops.schema import LabelSchema


class Pictures:
    def __init__(self, images: list[Image.Image | None]) -> None:
        self.images = images

    def read(self, row: int) -> bytes:
        raise NotImplementedError

    def open(self, row: int) -> Image.Image:
        image = self.images[row]
        if image is None:
            raise FormatError("truncated")
        return image.convert("RGB")


Make = Callable[..., AuditContext]


@pytest.fixture
def make(schema: LabelSchema) -> Make:
    def context(
        samples: list[dict[str, Any]],
        annotations: list[dict[str, Any]] | None = None,
        images: list[Image.Image | None] | None = None,
        **options: Any,
    ) -> AuditContext:
        for row in samples:
            row.setdefault("uri", f"{row['sample_id']}.png")
            if isinstance(row.get("metadata"), dict):
                row["metadata"] = canonical_json(row["metadata"]).decode()
            if images is not None:
                row.setdefault("sha256", row["sample_id"].ljust(64, "0"))
        import pyarrow as pa

        return AuditContext(
            samples=pa.Table.from_pylist(samples, schema=SAMPLES).to_pandas(),
            annotations=pa.Table.from_pylist(annotations or [], schema=ANNOTATIONS).to_pandas(),
            schema=options.pop("schema", schema),
            images=Pictures(images or []),
            embeddings=options.pop("embeddings", lambda: np.empty((len(samples), 0), np.float32)),
            jobs=2,
            **options,
        )

    return context


def label(sample: str, name: str | None, **more: Any) -> dict[str, Any]:
    row = {"annotation_id": f"{sample}/label", "sample_id": sample, "kind": "classification", "label": name}
    return row | {"source": "import"} | more


def box(sample: str, number: int, x1: float, y1: float, x2: float, y2: float, **more: Any) -> dict[str, Any]:
    corners = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    row = {
        "annotation_id": f"{sample}#{number}",
        "sample_id": sample,
        "kind": "box",
        "label": "cat",
        "source": "import",
    }
    return row | corners | more


def found(result: CheckResult) -> dict[str | None, list[str]]:
    table: dict[str | None, list[str]] = {}
    for finding in result.findings:
        table.setdefault(finding.sample_id, []).append(f"{finding.severity}: {finding.message}")
    return table


def test_exact_duplicates_name_their_labels_where_they_conflict(make: Make) -> None:
    samples = [{"sample_id": name, "sha256": digest} for name, digest in zip("abcde", "xxxyy", strict=True)]
    annotations = [label("a", "cat"), label("b", "cat"), label("c", "dog"), label("d", "bird"), label("e", "bird")]
    result = ExactDuplicate().run(make(samples, annotations))
    table = found(result)
    assert set(table) == {"b", "c", "e"}
    assert table["c"][0].startswith("high: the same file as a.png and 1 more; their labels differ: cat, dog")
    assert table["e"] == ["medium: the same file as d.png"]
    assert next(f for f in result.findings if f.sample_id == "c").suggested == "cat"
    assert result.scores["score"].tolist() == [1, 0, 0, 1, 0]


def variants(image: Image.Image) -> dict[str, Image.Image]:
    def jpeg(quality: int) -> Image.Image:
        import io

        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality)
        return Image.open(sink)

    return {
        "turned 90": image.transpose(Image.Transpose.ROTATE_90),
        "turned 180": image.transpose(Image.Transpose.ROTATE_180),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "recompressed": jpeg(30),
        "smaller": image.resize((image.width // 2, image.height // 2)),
        "brighter": Image.fromarray(np.clip(np.asarray(image) * 1.1, 0, 255).astype(np.uint8)),
    }


def test_near_duplicates_are_found_in_disguise_and_unlike_images_are_not(make: Make) -> None:
    first, second = (photo.resize((320, 214)) for photo in photos())
    crops = [second.crop((x, y, x + 100, y + 100)) for x in range(0, 220, 30) for y in (0, 57, 114)]
    disguised = variants(first)
    images: list[Image.Image | None] = [first, *disguised.values(), *crops]
    samples = [{"sample_id": f"s{i:02}", "split": "train" if i % 2 else "test"} for i in range(len(images))]
    context = make(samples, [], images)
    table = found(NearDuplicate().run(context))
    missed = [name for i, name in enumerate(disguised, 1) if f"s{i:02}" not in table]
    assert missed == []
    assert all(int(str(name)[1:]) <= len(disguised) for name in table)
    leaking = found(Leakage().run(context))
    assert {"s02", "s04", "s06"} <= set(leaking)


def test_leakage_by_group_and_by_copy(make: Make) -> None:
    samples = [
        {"sample_id": "a", "split": "train", "group": "p1"},
        {"sample_id": "b", "split": "test", "group": "p1"},
        {"sample_id": "c", "split": "test", "group": "p2", "sha256": "x"},
        {"sample_id": "d", "split": "train", "group": "p3", "sha256": "x"},
        {"sample_id": "e", "split": "train", "group": "p3"},
        {"sample_id": "f", "split": None, "group": "p1"},
    ]
    pictures: list[Image.Image | None] = [None] * 6
    context = make([row | {"sha256": row.get("sha256")} for row in samples], None, pictures)
    table = found(Leakage().run(context))
    assert table == {
        "b": ["high: group p1 is in the splits test, train"],
        "c": ["high: the same file as d.png in the split train"],
    }


def test_image_problems_and_a_trait_that_all_share(make: Make) -> None:
    rng = np.random.default_rng(0)
    photo = photos()[0].resize((200, 134))
    usual: list[Image.Image | None] = [photo.crop((i, 0, i + 160, 134)) for i in range(12)]
    odd: list[Image.Image | None] = [
        Image.fromarray(np.full((134, 160, 3), 3, np.uint8)),
        Image.fromarray(rng.integers(0, 255, (10, 800, 3)).astype(np.uint8)),
        None,
    ]
    images = usual + odd
    result = ImageQuality().run(make([{"sample_id": f"s{i:02}"} for i in range(len(images))], None, images))
    table = found(result)
    assert set(table) == {"s12", "s13", "s14"}
    assert "medium: very dark" in table["s12"]
    assert "low: an unusual shape" in table["s13"]
    assert table["s14"] == ["high: unreadable: truncated"]

    dark: list[Image.Image | None] = [Image.fromarray(np.asarray(photo) // 12 + np.uint8(i)) for i in range(12)]
    result = ImageQuality().run(make([{"sample_id": f"s{i:02}"} for i in range(12)], None, dark))
    assert "all over the dataset: very dark" in result.summary
    assert not [finding for finding in result.findings if finding.message == "very dark"]


def test_an_image_unlike_all_others_is_an_outlier_and_usual_ones_are_not(make: Make) -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(400, 16)).astype(np.float32)
    cloud[:, 0] += 6
    cloud[7] = -40 * rng.normal(size=16)
    samples = [{"sample_id": f"s{i:03}", "sha256": str(i)} for i in range(400)]
    result = Outlier().run(make(samples, embeddings=lambda: cloud))
    assert len(result.findings) <= 4
    assert result.scores.sort_values("score")["sample_id"].iloc[0] == "s007"
    assert (robust_deviations(np.ones(10)) == 0).all()


def test_rules_of_the_schema(make: Make) -> None:
    schema = LabelSchema.model_validate(
        {
            "name": "rules",
            "version": 1,
            "tasks": [{"kind": "classification"}, {"kind": "box"}],
            "classes": [
                {"id": 0, "name": "cat"},
                {"id": 1, "name": "dog"},
                {"id": 2, "name": "old", "deprecated": True},
            ],
            "attributes": [{"name": "pose", "type": "choice", "values": ["sits", "runs"]}],
            "limits": [{"classes": ["cat"], "min_side": 5, "max_aspect": 4}],
            "slices": [{"key": "light", "values": ["day", "night"]}],
        }
    )
    samples = [
        {"sample_id": name, "width": 100, "height": 80, "metadata": {"light": "noon" if name == "f" else "day"}}
        for name in "abcdefg"
    ]
    annotations = [
        label("a", "cat"),
        label("b", "old"),
        label("c", "cow"),
        label("d", "cat", attributes='{"pose":"flies"}'),
        label("e", "cat"),
        label("e", "dog", annotation_id="e/second"),
        label("f", "cat", attributes='{"relabel":["x","y"]}'),
        box("a", 1, 10, 10, 50, 50),
        box("a", 2, 10, 10, 10, 50),
        box("a", 3, 60, 10, 130, 50),
        box("a", 4, 10, 10, 90, 14),
        box("a", 5, 0, 0, 8, 8, label="dog"),
    ]
    table = found(Rules().run(make(samples, annotations, schema=schema)))
    assert table["a"] == [
        "high: the box has no area",
        "medium: the box leaves the image by 30.0 pixels",
        "medium: shorter side 4 px; the schema says at least 5",
        "medium: longer over shorter side 20; the schema says at most 4",
    ]
    assert table["b"] == ["medium: the class is deprecated: old"]
    assert table["c"] == ["high: the class is not in the schema: cow"]
    assert table["d"] == ["medium: pose: expected one of sits, runs; got 'flies'"]
    assert table["e"] == ["high: it has several class labels, and the schema allows one"]
    assert "medium: it waits to be relabeled, since its class was split" in table["f"]
    assert "low: light has a value that the schema does not list: noon" in table["f"]
    assert table["g"] == ["medium: it has no class label"]


def test_a_slip_among_numbers_is_found_and_a_long_tail_is_not() -> None:
    rng = np.random.default_rng(0)
    ages = pd.Series(rng.integers(1, 95, 500).astype(float))
    ages[17] = 411
    assert np.flatnonzero(far_off(ages)).tolist() == [17]
    incomes = pd.Series(np.round(np.exp(rng.normal(3, 1.2, 500))))
    assert not far_off(incomes).any()


def test_balance_and_coverage(make: Make) -> None:
    samples = [
        {"sample_id": f"s{i:03}", "split": "test" if i < 100 else "train", "metadata": {"light": "day"}}
        for i in range(400)
    ]
    names = ["dog" if 100 <= i < 103 else "cat" for i in range(400)]
    context = make(samples, [label(row["sample_id"], name) for row, name in zip(samples, names, strict=True)])
    told = {(finding.given, finding.split): finding.message for finding in Balance().run(context).findings}
    assert told["bird", None] == "no annotation has the class 'bird'"
    assert told["dog", None].startswith("the class 'dog' has 3 annotations")
    assert told["dog", "test"] == "the class 'dog' does not occur in the split test"
    (missing,) = Coverage().run(context).findings
    assert missing.message == "light = night: 0 of at least 2; collect 2 more"
    assert share_surprise(np.array([[50, 50], [50, 50]])).min() > 0.5
    assert share_surprise(np.array([[95, 5], [5, 95]])).max() < 1e-6


def test_many_classes_without_items_are_told_together(build: Any) -> None:
    names = [f"c{number:02}" for number in range(20)]
    classes = [{"id": number, "name": name} for number, name in enumerate(names)]
    content = {"name": "many", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    context = build([None], [label("s00000", "c00")], schema=LabelSchema.model_validate(content))
    (finding,) = Balance().run(context).findings
    assert finding.message.startswith("19 of the 20 classes have no annotation: 'c01', 'c02'")
    assert finding.message.endswith("'c10' and 9 more")


def test_label_noise_from_supplied_probabilities_and_from_a_probe(make: Make) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    centres = rng.normal(size=(3, 20)) * 3
    embeddings = (centres[truth] + rng.normal(size=(300, 20))).astype(np.float32)
    given = truth.copy()
    wrong = rng.choice(300, 15, replace=False)
    given[wrong] = (given[wrong] + 1) % 3
    names = ["cat", "dog", "bird"]
    samples = [{"sample_id": f"s{i:03}", "sha256": str(i)} for i in range(300)]
    annotations = [label(f"s{i:03}", names[k]) for i, k in enumerate(given)]
    planted = {f"s{i:03}" for i in wrong}

    probed = LabelNoise().run(make(samples, annotations, embeddings=lambda: embeddings))
    flagged = {finding.sample_id for finding in probed.findings}
    assert flagged <= planted
    assert len(flagged) >= 13
    assert {names[truth[int(f.sample_id[1:])]] == f.suggested for f in probed.findings if f.sample_id} == {True}

    sure = np.full((300, 3), 0.02)
    sure[np.arange(300), truth] = 0.96
    frame = pd.DataFrame(sure, columns=names, index=[row["sample_id"] for row in samples])
    supplied = LabelNoise().run(make(samples, annotations, probabilities=frame))
    assert {finding.sample_id for finding in supplied.findings} == planted
    assert supplied.summary["probabilities"] == "supplied"
    assert judge_labels(given, sure).flagged.sum() == 15
    assert "doubt" not in supplied.summary
    learned = pd.DataFrame(np.eye(3)[given] * 0.985 + 0.005, columns=names, index=frame.index)
    assert (
        "trained on these labels"
        in LabelNoise().run(make(samples, annotations, probabilities=learned)).summary["doubt"]
    )


def test_probabilities_that_tell_nothing_are_not_believed(make: Make) -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "bird"]
    samples = [{"sample_id": f"s{i:03}", "sha256": str(i)} for i in range(300)]
    annotations = [label(f"s{i:03}", names[k]) for i, k in enumerate(rng.integers(0, 3, 300))]
    chance = rng.dirichlet([0.1] * 3, 300)
    frame = pd.DataFrame(chance, columns=names, index=[row["sample_id"] for row in samples])
    result = LabelNoise().run(make(samples, annotations, probabilities=frame))
    agreed = sum(names[best] == row["label"] for best, row in zip(chance.argmax(axis=1), annotations, strict=True))
    assert (len(result.findings), len(result.scores)) == (0, 0)
    assert f"the given class of {agreed} of 300 images and tell no more than" in result.summary["skipped"]


def test_label_noise_says_what_it_did_not_judge(make: Make) -> None:
    rng = np.random.default_rng(0)
    schema = LabelSchema.model_validate(
        {
            "name": "pets",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [
                {"id": n, "name": name, "deprecated": name == "ox"}
                for n, name in enumerate(("cat", "dog", "bird", "fish", "ox"))
            ],
        }
    )
    names = ["cat"] * 20 + ["dog"] * 20 + ["bird"] + ["fish"] * 4 + ["ox"] * 2
    samples: list[dict[str, Any]] = [{"sample_id": f"s{i:03}", "sha256": str(i)} for i in range(len(names))]
    for row, name in zip(samples, names, strict=True):
        row["group"] = "pond" if name == "fish" else None
    embeddings = rng.normal(size=(len(names), 8)).astype(np.float32)
    embeddings[:20, 0] += 9
    embeddings[[3, 4]] = np.nan
    annotations = [label(row["sample_id"], name) for row, name in zip(samples, names, strict=True)]
    twice = [label("s005", "dog", annotation_id="second")]
    context = make(samples, annotations + twice, schema=schema, embeddings=lambda: embeddings)
    found = LabelNoise().run(context)
    assert found.summary["left_out"] == (
        "11 of 48 labels were not judged: 2 of images with several class labels; "
        "2 of classes that the schema no longer uses (ox); 2 of images that cannot be read; "
        "1 of classes with a single item (bird); 4 of classes that one group of images or copies holds (fish)"
    )
    assert len(found.scores) == found.summary["items"] == 48 - 11

    part = [row for row in annotations if row["label"] in ("cat", "fish")]
    skipped = LabelNoise().run(make(samples, part, schema=schema, embeddings=lambda: embeddings))
    assert skipped.summary["skipped"] == (
        "fewer than two classes can be judged: 6 of 24 labels were not judged: 2 of images that cannot be read; "
        "4 of classes that one group of images or copies holds (fish)"
    )


def test_copies_and_groups_are_judged_together() -> None:
    samples = pd.DataFrame({"group": ["p", None, "p", None, "q", None], "sha256": ["1", "1", "2", "3", "2", None]})
    together = grouped_with_copies(samples)
    assert together.nunique() == 3
    assert together[[0, 1, 2, 4]].nunique() == 1


def test_skipped_checks_say_why(make: Make, tmp_path: Path) -> None:
    context = make([{"sample_id": "a"}])
    for check in (LabelNoise, NearDuplicate, ExactDuplicate, Leakage, ImageQuality, Outlier, Balance):
        assert check().run(context).summary["skipped"]
