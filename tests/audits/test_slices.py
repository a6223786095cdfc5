"""Slices that are worse than the rest: planted ones are found and named, chance and hard images are not blamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.labels.label_noise import LabelNoise
from datasetops.audits.labels.label_probabilities import label_probabilities
from datasetops.audits.sets.slices import Part, Slices, excess_of, half_of, traits, worst_slices
from datasetops.records import canonical_json
from datasetops.schema import LabelSchema

NAMES = ("cat", "dog", "bird")


class Crowd:
    """Images in eight heaps, with the probabilities of a calibrated model and labels drawn from them."""

    def __init__(self, size: int = 1200, seed: int = 0) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.heap = rng.integers(0, 8, size)
        self.embeddings = (rng.normal(size=(8, 16))[self.heap] * 3 + rng.normal(size=(size, 16))).astype(np.float32)
        self.sharpness = np.full(size, 3.0)
        self.light = rng.choice(["day", "night"], size, p=[0.7, 0.3])
        self.camera = rng.choice(list("abcd"), size)
        self.logits = rng.normal(size=(size, 3))
        self.group: list[str | None] = [None] * size
        self.draw()

    def draw(self) -> None:
        weight = np.exp(self.logits * self.sharpness[:, None])
        self.p = weight / weight.sum(axis=1, keepdims=True)
        self.labels = (self.rng.random(len(self.p))[:, None] > self.p.cumsum(axis=1)).sum(axis=1).clip(0, 2)

    def mislabel(self, chosen: Any, share: float) -> None:
        rows = np.flatnonzero(chosen & (self.rng.random(len(self.p)) < share))
        self.labels[rows] = (self.labels[rows] + self.rng.integers(1, 3, len(rows))) % 3

    def context(self, build: Any) -> AuditContext:
        size = len(self.labels)
        metadata = [
            canonical_json({"light": str(a), "camera": str(b)}).decode()
            for a, b in zip(self.light, self.camera, strict=True)
        ]
        rows = [
            {"annotation_id": f"s{n:05}/label", "sample_id": f"s{n:05}", "kind": "classification", "label": NAMES[k]}
            for n, k in enumerate(self.labels)
        ]
        files = [str(n).encode() for n in range(size)]
        context: AuditContext = build(files, rows, embeddings=self.embeddings, metadata=metadata, group=self.group)
        context.probabilities = pd.DataFrame(self.p, columns=list(NAMES), index=context.samples["sample_id"])
        return context

    def run(self, build: Any) -> CheckResult:
        return Slices().run(self.context(build))


def test_labels_that_a_calibrated_model_draws_are_no_slices(build: Any) -> None:
    results = [Crowd(600, seed).run(build) for seed in range(25)]
    assert sum(len(result.findings) for result in results) <= 1
    assert all(result.summary["slices looked at"] > 15 for result in results)


def test_a_mislabeled_value_is_found_once(build: Any) -> None:
    crowd = Crowd()
    crowd.mislabel(crowd.camera == "c", 0.4)
    result = crowd.run(build)
    (finding,) = result.findings
    assert (finding.given, finding.severity) == ("camera = c", "medium")
    assert finding.message.startswith(f"camera = c: of {(crowd.camera == 'c').sum()} labels ")
    assert "most often" in finding.message
    assert all(crowd.camera[int(name[1:])] == "c" for name in finding.related)
    assert json.loads(json.dumps(result.summary))["keys"] == "camera, light"
    assert len(result.scores) == 1200
    assert result.scores["score"].between(0, 1).all()


def test_a_mislabeled_pair_is_not_laid_to_either_value(build: Any) -> None:
    crowd = Crowd(2400)
    crowd.mislabel((crowd.camera == "c") & (crowd.light == "night"), 0.5)
    assert {finding.given for finding in crowd.run(build).findings} == {"camera = c, light = night"}


def test_a_mislabeled_heap_of_images_is_found_and_named_by_what_is_common_in_it(build: Any) -> None:
    crowd = Crowd(2400)
    hit = crowd.heap == 5
    crowd.light = np.where(hit & (crowd.rng.random(2400) < 0.9), "night", "day")
    crowd.light[crowd.rng.random(2400) < 0.15] = "night"
    crowd.mislabel(hit, 0.4)
    found = crowd.run(build).findings
    assert found
    for finding in found:
        if "alike" not in finding.message:
            continue
        assert "light = night (" in finding.message
        assert all(hit[int(name[1:])] for name in finding.related)
    assert all("alike" in finding.message or "light = night" in finding.message for finding in found)


def test_hard_images_are_the_model_s_trouble_and_no_fault_of_their_labels(build: Any) -> None:
    crowd = Crowd()
    crowd.sharpness[crowd.camera == "b"] = 0.7
    crowd.draw()
    (finding,) = crowd.run(build).findings
    assert (finding.given, finding.severity) == ("camera = b", "low")
    assert "the model expects to be right" in finding.message


def test_a_slice_of_few_groups_is_not_more_than_they_are(build: Any) -> None:
    crowd = Crowd()
    clip = crowd.rng.integers(0, 12, 1200)
    crowd.camera = np.array(list("abcdabcdabcd"))[clip]
    crowd.mislabel((clip == 2) | (clip == 6), 0.5)  # two of the three clips of camera c
    alone = crowd.run(build)
    crowd.group = [f"clip {number}" for number in clip]
    together = crowd.run(build)
    assert [finding.given for finding in alone.findings] == ["camera = c"]
    assert together.findings == []


def test_probabilities_are_worked_out_once_for_all_checks(build: Any) -> None:
    crowd = Crowd(300)
    crowd.embeddings[7] = np.nan
    context = crowd.context(build)
    context.probabilities = None
    noise, judged, slices = LabelNoise().run(context), label_probabilities(context), Slices().run(context)
    assert label_probabilities(context) is judged
    assert noise.summary["left_out"] == "1 of 300 labels were not judged: 1 of images that cannot be read"
    given = judged.probabilities[np.arange(299), judged.labels]
    assert noise.scores["score"].to_numpy() == pytest.approx(given, abs=1e-6)
    assert slices.scores["annotation_id"].tolist() == noise.scores["annotation_id"].tolist()


def test_what_it_cannot_judge_it_says(build: Any) -> None:
    assert Slices().run(build([b"x"])).summary["skipped"] == "no image has exactly one class label"
    box = {
        "annotation_id": "a",
        "sample_id": "s00000",
        "kind": "box",
        "label": "cat",
        "x1": 0,
        "y1": 0,
        "x2": 2,
        "y2": 2,
    }
    assert Slices().run(build([b"x"], [box])).summary["skipped"] == "no image has exactly one class label"
    assert Slices().run(Crowd(40).context(build)).summary["skipped"] == "fewer than 100 labels can be judged"
    several = LabelSchema.model_validate(
        {
            "name": "m",
            "version": 1,
            "tasks": [{"kind": "classification", "multi": True}],
            "classes": [{"id": 0, "name": "cat"}],
        }
    )
    assert "several labels" in Slices().run(build([b"x"], schema=several)).summary["skipped"]


def test_without_images_there_are_slices_but_no_clusters(build: Any) -> None:
    crowd = Crowd()
    crowd.mislabel(crowd.camera == "a", 0.4)
    context = crowd.context(build)
    context.samples["sha256"] = None
    result = Slices().run(context)
    assert result.summary["clusters"] == 0
    assert [finding.given for finding in result.findings] == ["camera = a"]


def test_excess_is_a_test_of_means_where_items_are_single() -> None:
    rng = np.random.default_rng(0)
    for size in (30, 100, 400):
        loss = rng.gamma(1.0, 0.2, 1000)
        inside = np.arange(1000) < size
        loss[inside] += 0.03
        excess, p = excess_of(loss, inside, np.arange(1000))
        oracle = ttest_ind(loss[inside], loss[~inside], equal_var=False, alternative="greater")
        assert excess == pytest.approx(loss[inside].mean() - loss[~inside].mean())
        assert p == pytest.approx(oracle.pvalue, rel=0.15, abs=1e-6)


def test_blocks_of_like_items_raise_no_more_false_alarms_than_they_should() -> None:
    together, alone = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        block = np.repeat(np.arange(60), rng.integers(1, 12, 60))
        loss = rng.normal(size=60)[block] + 0.3 * rng.normal(size=len(block))
        inside = block < 15
        together.append(excess_of(loss, inside, block)[1])
        alone.append(excess_of(loss, inside, np.arange(len(block)))[1])
    assert 0.025 <= np.mean(np.array(together) <= 0.05) <= 0.09
    assert np.mean(np.array(alone) <= 0.05) > 0.2
    assert excess_of(np.arange(6.0), np.arange(6) > 3, np.array([0, 0, 0, 0, 1, 1]))[1] == 1.0  # of one block


def test_worst_slices_take_off_what_they_explain() -> None:
    rng = np.random.default_rng(0)
    loss = 0.2 * rng.random(1000)
    code = rng.integers(0, 4, 1000)
    loss[code == 1] += 0.5
    twin = np.where(code == 1, 0, 1)
    parts = [Part("value", code, 4, "quarter {}".format), Part("cluster", twin, 2, "heap {}".format)]
    found, looked_at = worst_slices(loss, parts, np.arange(1000), half_of(np.arange(1000), 0))
    assert looked_at == 6
    (one,) = found
    assert (one.name, one.large) == ("quarter 1", True)
    assert one.excess == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(one.items, np.flatnonzero(code == 1))


def test_halves_keep_blocks_whole() -> None:
    blocks = np.random.default_rng(0).integers(0, 50, 400)
    half = half_of(blocks, 3)
    assert all(len(set(half[blocks == block])) == 1 for block in range(50))
    assert len(set(blocks[half])) == 25


def test_traits_are_values_with_more_than_their_share() -> None:
    from datasetops.audits.sets.coverage import Coded

    light = Coded(np.repeat([0, 1], [80, 20]).astype(np.int64), ("light = day", "light = night"))
    assert traits(np.arange(75, 95), [light]) == ["light = night (75%, 3.8 times its share)"]
    assert traits(np.arange(0, 100, 5), [light]) == []


@pytest.mark.parametrize("planted", [0.0, 0.4])
def test_labels_of_photographs(data: Path, build: Any, planted: float) -> None:
    names = list(json.loads((data / "cifar10n" / "classes.json").read_text()))
    table = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["clean_label"])
    labels = table["clean_label"].to_numpy().copy()
    p = np.load(data / "cifar10n" / "oof_pred_probs.npz")["clean_label"].astype(np.float64)
    rng = np.random.default_rng(0)
    camera = rng.choice(list("abcdef"), len(labels))
    hit = np.flatnonzero((camera == "d") & (rng.random(len(labels)) < planted))
    labels[hit] = (labels[hit] + rng.integers(1, 10, len(hit))) % 10
    schema = LabelSchema.model_validate(
        {
            "name": "photos",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
    )
    rows = [
        {"annotation_id": f"s{n:05}/label", "sample_id": f"s{n:05}", "kind": "classification", "label": names[k]}
        for n, k in enumerate(labels)
    ]
    context = build([None] * len(rows), rows, schema=schema, metadata=[f'{{"camera":"{one}"}}' for one in camera])
    context.probabilities = pd.DataFrame(
        p / p.sum(axis=1, keepdims=True), columns=names, index=context.samples["sample_id"]
    )
    assert [finding.given for finding in Slices().run(context).findings] == (["camera = d"] if planted else [])
