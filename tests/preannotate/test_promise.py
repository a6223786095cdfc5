"""What is reached by class and slice where a precision is promised, and what the run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import NAMES, SCHEMA, add_image, picture, run

from datasetops.manifest import Change, Repository
from datasetops.preannotate.measure import Judged
from datasetops.preannotate.promise import below_target, reached, slice_flags
from datasetops.preannotate.thresholds import choose_thresholds, split_halves
from datasetops.schema import LabelSchema

SLICED = LabelSchema.model_validate(
    SCHEMA.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    | {
        "name": "sliced",
        "version": 1,
        "slices": [{"key": "light", "values": ["day", "night"]}, {"key": "year", "values": [2020, 2021]}],
    }
)


def judged_of(right: Any, label: Any, score: Any) -> Judged:
    count = len(right)
    every = np.arange(count)
    ids = np.array([f"s{number}" for number in every], dtype=object)
    return Judged(
        "classification", ids, every, every, np.asarray(label, object), np.asarray(score, float),
        np.asarray(right, bool), every, np.asarray(label, object), np.asarray(score, float),
    )  # fmt: skip


def test_slices_of_the_held_out_half() -> None:
    count = 2_000
    rng = np.random.default_rng(0)
    label = np.array(["x", "y"], dtype=object)[np.arange(count) % 2]
    night = rng.random(count) < 0.1
    right = rng.random(count) < np.where(night, 0.7, 0.995)
    judged = judged_of(right, label, rng.random(count))
    promises = choose_thresholds(judged.score, judged.right, judged.label, 0.9, groups=judged.group)
    assert None not in promises.thresholds.values()
    found = reached(judged, promises, {"light = night": night, "light = day": ~night})
    parts = {(one.name, one.slice): one.held_out for one in found}
    assert len(parts) == len(found) == 8
    held = ~split_halves(np.arange(count), 0)
    least = np.array([promises.thresholds[name] for name in label])
    for (name, title), told in parts.items():
        rows = held & (judged.score >= least)
        rows &= (label == name) if name else True
        rows &= {None: True, "light = night": night, "light = day": ~night}[title]
        assert (told.count, told.right, told.effective) == (rows.sum(), right[rows].sum(), rows.sum())
    (worst,) = below_target(found, promises)
    assert (worst.name, worst.slice) == (None, "light = night")
    assert worst.held_out.high < 0.9
    together = choose_thresholds(judged.score, judged.right, judged.label, 0.9, groups=judged.group, together=True)
    assert [one.slice for one in below_target(reached(judged, together, {"light = night": night}), together)] == [
        "light = night"
    ]


def test_classes_below_the_target_are_told_where_the_promise_is_about_all() -> None:
    label = np.array(["x"] * 9 + ["y"], dtype=object)[np.arange(3_000) % 10]
    rng = np.random.default_rng(1)
    right = rng.random(3_000) < np.where(label == "y", 0.6, 0.999)
    judged = judged_of(right, label, rng.random(3_000))
    promises = choose_thresholds(judged.score, right, label, 0.9, groups=judged.group, together=True)
    assert promises.thresholds["x"] == promises.thresholds["y"] is not None
    assert promises.as_dict()["together"] == ["x", "y"]
    (worst,) = below_target(reached(judged, promises, {}), promises)
    assert (worst.name, worst.slice) == ("y", None)


def test_nothing_is_reached_without_a_promise() -> None:
    judged = judged_of([True, False], ["x", "y"], [0.5, 0.6])
    promises = choose_thresholds(judged.score, judged.right, judged.label, 0.9)
    assert [one.held_out.count for one in reached(judged, promises, {"s": np.array([True, True])})] == [0]


def sliced(root: Path) -> Repository:
    """240 labeled images and 30 others; of those at night every second green one is called red by people."""
    repository = Repository.init(root, SLICED)
    samples, rows = [], []
    for number in range(270):
        channel, night = number % 3, number % 10 == 0
        sample = add_image(
            root, f"s{number:03}", picture(40, 30, (number % 29, 2, number % 29 + 9, 8 + number // 29), channel)
        )
        samples.append(sample | {"metadata": {"light": "night" if night else "day", "year": 2020 + number % 2}})
        label = NAMES[0] if night and channel == 1 and number % 20 == 0 else NAMES[channel]
        row = {"annotation_id": f"l{number}", "sample_id": f"s{number:03}", "kind": "classification"}
        rows.append(row | {"label": label, "source": "human"})
    repository.commit(Change(samples=samples, annotations=rows[:240]), message="labels")
    return repository


@pytest.mark.slow
def test_a_run_tells_and_records_the_slices(root: Path) -> None:
    repository = sliced(root)
    version = repository.version()
    ids = version.table("samples", ["sample_id"])["sample_id"].to_numpy()
    flags = slice_flags(version, ids[::-1])
    assert list(flags) == ["light = day", "light = night", "year = 2020", "year = 2021"]
    assert flags["light = night"].sum() == 27
    assert flags["year = 2020"].tolist() == [int(name[1:]) % 2 == 0 for name in ids[::-1]]
    made = run(repository, thresholds=None, task="classification", target_precision=0.95, confidence=0.8, together=True)
    assert made.promises is not None
    assert made.promises.thresholds["red"] == made.promises.thresholds["green"] is not None
    told = made.as_dict()
    dark = next(one for one in told["reached"] if one["slice"] == "light = night" and one["class"] is None)
    assert dark["count"] == dark["effective"] > 5
    assert next(one.slice or one.name for one in made.below_target) in ("light = night", "green")
    event = next(entry.event for entry in repository.ledger.backwards() if entry.event.kind == "preannotate")
    (record,) = event.outputs["files"]
    kept = json.loads(repository.store.get(record))
    assert kept["reached"] == told["reached"]
    rates = {(row["class"], row["score"], row["slice"]): row for row in kept["measured"]}
    assert rates["green", 0.0, "light = night"]["precision_of"] == 8
    assert rates["green", 0.0, "light = night"]["precision"] == 0.5
    assert rates["green", 0.0, "light = night"]["recall"] == 1.0
    assert rates["green", 0.0, "light = day"]["precision"] == 1.0
