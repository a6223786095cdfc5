"""What differs, as numbers: on sets that are drawn alike and on sets that are not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from datasetops.monitor.policy import MonitorPolicy, load_policy
from datasetops.monitor.shifts import class_shifts, confidence_shift, image_shift, slice_shifts
from datasetops.records import SAMPLES


def samples(lights: list[str], groups: list[str] | None = None, start: int = 0) -> pd.DataFrame:
    rows = SAMPLES.empty_table().to_pandas().reindex(range(len(lights)))
    rows["sample_id"] = [f"s{start + number}" for number in range(len(lights))]
    rows["sha256"] = [f"{start + number:064}" for number in range(len(lights))]
    rows["metadata"] = [json.dumps({"light": light}) for light in lights]
    rows["group"] = groups
    return rows


def test_images_that_look_alike_and_others() -> None:
    rng = np.random.default_rng(0)
    sides = (samples(["day"] * 60), samples(["day"] * 60, start=100))
    before, same = rng.standard_normal((2, 60, 8)).astype(np.float32)
    alike = image_shift((sides[0], before), (sides[1], same))
    assert alike is not None
    assert alike.p > 0.05
    other = image_shift((sides[0], before), (sides[1], same + np.float32(2)))
    assert other is not None
    assert other.p < 0.01
    assert other.told_apart > 0.9
    # Of three groups on each side nothing can be proved, however far apart they are.
    grouped = [samples(["day"] * 60, [f"{side}{n % 3}" for n in range(60)], 100 * side) for side in range(2)]
    few = image_shift((grouped[0], before), (grouped[1], same + np.float32(2)))
    assert few is not None
    assert few.p >= few.least_p > 0.01
    same[:40] = np.nan
    assert image_shift((sides[0], before), (sides[1], same)) is None  # 20 are left


def test_slices_that_moved_went_and_came() -> None:
    before = samples(["day"] * 60 + ["night"] * 30 + ["fog"])
    same = slice_shifts(before, samples(["day"] * 60 + ["night"] * 30, start=200), alpha=0.01)
    assert [(one.key, one.gone) for one in same] == [("light", ())]  # one of fog more or less is chance
    assert same[0].p > 0.1
    (moved,) = slice_shifts(before, samples(["day"] * 80 + ["dusk"] * 10, start=200), alpha=0.01)
    assert moved.p < 0.01
    assert moved.index > 0.25
    assert (moved.gone, moved.new) == (("light = night",), ("light = dusk",))
    assert moved.shares["light = night"] == (pytest.approx(30 / 91), 0.0)
    # The same nights in two clips are two accidents, not thirty.
    clips = samples(["day"] * 80 + ["dusk"] * 10, ["a"] * 45 + ["b"] * 45, 200)
    (told,) = slice_shifts(samples(["day"] * 60 + ["night"] * 31, ["c"] * 60 + ["d"] * 31), clips, alpha=0.01)
    assert told.gone == ()


def test_classes_and_confidence() -> None:
    codes, alone = np.repeat([0, 1], 100), np.arange(200)
    shifts = class_shifts((codes, alone), (np.repeat([0, 1], [160, 40]), alone), ["cat", "dog"])
    assert {one.name: np.sign(one.effect) for one in shifts} == {"cat": 1, "dog": -1}
    assert all(one.p < 0.01 for one in shifts)
    assert abs(shifts[0].effect) == pytest.approx(2 * (np.arcsin(0.8**0.5) - np.arcsin(0.5**0.5)))
    rng = np.random.default_rng(0)
    high, low = rng.normal(0.9, 0.05, 200), rng.normal(0.8, 0.05, 200)
    found = confidence_shift((high, alone), (low, alone))
    assert found.before - found.now == pytest.approx(0.1, abs=0.02)
    assert found.p < 0.001
    # Where all of a group moves together, there are few groups to tell.
    groups = np.repeat([0, 1], 100)
    moods = np.repeat([0.95, 0.7], 100)
    assert confidence_shift((moods, groups), (moods - 0.1, groups)).p > 0.05


def test_limits() -> None:
    default = load_policy()
    assert default.stability == 0.25
    changed = load_policy("default", {"stability": "0.4", "told_apart": "none", "missing_slices": "none"})
    assert (changed.stability, changed.told_apart, changed.missing_slices) == (0.4, None, False)
    assert changed.class_shift == default.class_shift
    assert changed.digest != default.digest
    assert isinstance(changed, MonitorPolicy)
    with pytest.raises(ValueError, match="Did you mean 'stability'"):
        load_policy("default", {"stabilit": "0.4"})
    with pytest.raises(ValueError, match=r"--limit told_apart: .*got '0.2'"):
        load_policy("default", {"told_apart": "0.2"})
