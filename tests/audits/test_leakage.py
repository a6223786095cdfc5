"""Leaks across splits, by group and by copy, where the number of them is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasetops.audits.images.leakage import Leakage, evaluation_order, straddling


def ids(rows: Any) -> set[str]:
    return {f"s{row:05}" for row in rows}


@pytest.mark.parametrize(
    ("table", "column", "share"),
    [
        ("covid_chestxray_metadata", "patientid", 0.6727),
        ("nih_chestxray_sample", "Patient ID", 0.342),
        ("ham10000_metadata", "lesion_id", 0.3909),
    ],
)
def test_patients_on_both_sides_of_a_random_split(
    data: Path, build: Any, table: str, column: str, share: float
) -> None:
    group = pd.read_csv(data / "grouped" / f"{table}.csv")[column].astype(str)
    held_out = np.zeros(len(group), dtype=bool)
    held_out[np.random.default_rng(0).permutation(len(group))[: len(group) // 5]] = True
    split = np.where(held_out, "test", "train")
    result = Leakage().run(build([None] * len(group), split=split, group=group))
    wanted = np.flatnonzero(held_out & group.isin(set(group[~held_out])))
    assert {finding.sample_id for finding in result.findings} == ids(wanted)
    assert result.summary["share of test"] == pytest.approx(share, abs=5e-4)
    assert (result.scores["score"] == 0).sum() == len(wanted)


def test_videos_in_two_splits(data: Path, build: Any) -> None:
    frames = pd.read_csv(data / "camvid_half" / "metadata.csv")
    result = Leakage().run(build([None] * len(frames), split=frames["split"], group=frames["sequence"]))
    leaking = frames["sequence"].isin(["0016E5", "0001TP"]) & (frames["split"] != "train")
    assert {finding.sample_id for finding in result.findings} == ids(np.flatnonzero(leaking))
    assert {finding.message for finding in result.findings} == {
        "group 0016E5 is in the splits train, val",
        "group 0001TP is in the splits test, train",
    }


@pytest.mark.slow
def test_validation_images_that_are_copies_of_training_images(data: Path, build: Any) -> None:
    published = json.loads((data / "bccd" / "known_issues.json").read_text())["cbc_split"]
    names = [(split, name) for split, listed in published.items() for name in listed]
    files = [(data / "bccd" / "images" / f"{name}.jpg").read_bytes() for _, name in names]
    result = Leakage().run(build(files, split=[split for split, _ in names]))
    wanted = [row for row, (split, _) in enumerate(names) if split == "Validation"]
    assert len(wanted) == 30
    assert {finding.sample_id for finding in result.findings} == ids(wanted)
    assert result.summary["by near-duplicate"] == 0


def test_a_near_duplicate_of_one_of_two_copies_leaks_from_the_other(data: Path, build: Any) -> None:
    from io import BytesIO

    def png(image: Image.Image) -> bytes:
        sink = BytesIO()
        image.save(sink, "PNG")
        return sink.getvalue()

    paths = sorted((data / "coco_tiny" / "images").iterdir())[:30]
    images = [Image.open(path).convert("RGB").resize((120, 90)) for path in paths]
    files = [png(image) for image in images]
    files += [files[0], png(images[0].transpose(Image.Transpose.ROTATE_90))]
    split = ["test", *["other"] * 29, "train", "test"]
    result = Leakage().run(build(files, split=split))
    told = {finding.sample_id: finding for finding in result.findings}
    assert set(told) == {"s00000", "s00031"}
    assert told["s00000"].message == "the same file as s00030.png in the split train"
    assert told["s00031"].message == "looks the same as s00030.png in the split train"
    assert told["s00031"].related == ("s00030",)


def test_evaluation_order_goes_by_name_then_by_size() -> None:
    splits = pd.Series(["test"] * 5 + ["val"] * 9 + ["train"] + ["b"] * 2 + ["a"] * 3 + [None])
    order = dict(zip(splits.fillna("(none)"), evaluation_order(splits).tolist(), strict=True))
    assert order == {"train": 0, "a": 1, "b": 2, "val": 3, "test": 4, "(none)": -1}


@given(st.lists(st.tuples(st.sampled_from(["p", "q", "r", None]), st.integers(-1, 2)), max_size=30))
def test_straddling_is_what_its_words_say(rows: list[tuple[str | None, int]]) -> None:
    keys = pd.Series([key for key, _ in rows], dtype=object)
    order = np.array([place for _, place in rows], dtype=np.int64)
    expected = {}
    for row, (key, place) in enumerate(rows):
        known = [other for other, (name, at) in enumerate(rows) if name == key and at >= 0]
        home = min((rows[other][1] for other in known), default=-1)
        if key is not None and place > home >= 0:
            expected[row] = [other for other in known if rows[other][1] == home]
    assert {row: others.tolist() for row, others in straddling(keys, order).items()} == expected
