"""Keypoints: each fault by itself, planted ones among real people, and names of left and right."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from datasetops.audits.base import AuditContext, CheckResult
from datasetops.audits.outlines.keypoints import Keypoints
from datasetops.audits.outlines.poses import limb_deviations, mirror_pairs, swapped_sides
from datasetops.schema import LabelSchema

POINTS = ("head", "left_hand", "right_hand", "hip", "left_foot", "right_foot")
LINES = (("head", "hip"), ("head", "left_hand"), ("head", "right_hand"), ("hip", "left_foot"), ("hip", "right_foot"))
BODY_LINES = (
    *(("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee")),
    *(("right_knee", "right_hip"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip")),
    *(("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow")),
    *(("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
    *(("nose", "left_eye"), ("nose", "right_eye"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder")),
)


def schema_of(points: tuple[str, ...] = POINTS, lines: Any = LINES) -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "bodies",
            "version": 1,
            "tasks": [{"kind": "keypoints", "keypoints": points, "skeleton": lines}],
            "classes": [{"id": 0, "name": "person"}],
        }
    )


def figure(rng: np.random.Generator, *, turned: float = 0.35) -> npt.NDArray[Any]:
    """A stick figure seen from the front: (6, 3) x, y, visibility; its left is the viewer's right."""
    size = rng.uniform(20, 60)
    reach, swing = rng.normal(1, 0.08, 4), rng.normal(0, turned, 4)
    head = np.array([100.0, 60.0])
    hip = head + size * np.array([rng.normal(0, 0.1), 1.5])
    ends = [
        head + size * reach[0] * np.array([np.cos(0.6 + swing[0]), np.sin(0.6 + swing[0])]),
        head + size * reach[1] * np.array([-np.cos(0.6 + swing[1]), np.sin(0.6 + swing[1])]),
        hip + size * reach[2] * np.array([0.5 + 0.2 * swing[2], 1.2]),
        hip + size * reach[3] * np.array([-0.5 - 0.2 * swing[3], 1.2]),
    ]
    places = np.stack([head, ends[0], ends[1], hip, ends[2], ends[3]])
    return np.c_[places.round(1), np.full(6, 2.0)]


def instance(number: int, points: Any, box: Any = None) -> dict[str, Any]:
    points = np.asarray(points)
    seen = points[points[:, 2] > 0, :2] if (points[:, 2] > 0).any() else points[:, :2]
    low, high = (seen.min(axis=0) - 4, seen.max(axis=0) + 4) if box is None else box
    geometry = json.dumps({"keypoints": points.ravel().tolist()})
    own = {"annotation_id": f"p{number}", "sample_id": f"s{number:05}", "kind": "keypoints", "label": "person"}
    return own | {"geometry": geometry, "x1": low[0], "y1": low[1], "x2": high[0], "y2": high[1]}


@pytest.fixture
def audit(build: Any) -> Any:
    def run(rows: list[dict[str, Any]], schema: LabelSchema | None = None, side: int = 400) -> CheckResult:
        sizes = {"width": [side] * len(rows), "height": [side] * len(rows)}
        result = Keypoints().run(build([None] * len(rows), rows, schema=schema or schema_of(), **sizes))
        assert len(result.scores) == len(rows)
        assert result.scores["score"].between(0, 1).all()
        return result

    return run


@pytest.fixture
def crowd() -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return [figure(rng) for _ in range(300)]


def changed(points: npt.NDArray[Any], change: Any) -> npt.NDArray[Any]:
    points = points.copy()
    change(points)
    return points


def moved(number: int, x: float, y: float, flag: float = 2) -> Any:
    return lambda points: points.__setitem__(number, (x, y, flag))


FAULTS = [
    (moved(1, 150, 90, 3), "high", "the visibility is none of 0, 1 and 2 for left_hand"),
    (moved(4, 150, 90, 0), "low", "marked as not labeled, yet at a place: left_foot"),
    (moved(4, 150, 403), "medium", "out of the image: left_foot"),
    (lambda points: points.__setitem__(slice(None), (50, 50, 2)), "high", "all of its labeled points lie on one spot"),
    (lambda points: points.__setitem__(slice(None), 0), "low", "none of its points is labeled"),
]


@pytest.mark.parametrize(("change", "severity", "text"), FAULTS)
def test_a_fault_of_single_points(audit: Any, crowd: Any, change: Any, severity: str, text: str) -> None:
    rows = [instance(number, points) for number, points in enumerate(crowd[:60])]
    rows[7] = instance(7, changed(crowd[7], change))
    (finding,) = audit(rows).findings
    assert (finding.annotation_id, finding.severity, finding.message) == ("p7", severity, text)


def test_points_beside_the_box(audit: Any, crowd: Any) -> None:
    rows = [instance(number, points) for number, points in enumerate(crowd[:60])]
    rows[3] = instance(3, crowd[3], ((60, 50), (95, 70)))
    (finding,) = audit(rows).findings
    assert finding.message.startswith("far outside of the box: ")
    hidden = changed(crowd[4], lambda points: points.__setitem__((slice(1, 6), 2), 1))
    low, high = crowd_box(hidden)
    rows[3] = instance(3, hidden, (low, high - 0.25 * (high - low)))
    assert audit(rows).findings == []  # boxes hold what can be seen


def crowd_box(points: npt.NDArray[Any]) -> Any:
    return points[:, :2].min(axis=0), points[:, :2].max(axis=0)


def test_another_number_of_points_and_what_cannot_be_read(audit: Any, crowd: Any) -> None:
    rows = [instance(number, points) for number, points in enumerate(crowd[:20])]
    rows[2]["geometry"] = json.dumps({"keypoints": crowd[2][:5].ravel().tolist()})
    rows[4]["geometry"] = '{"keypoints": [1, 2]}'
    rows[5]["geometry"] = '{"keypoints": "many"}'
    rows[6]["geometry"] = None
    assert [(f.annotation_id, f.severity, f.message) for f in audit(rows).findings] == [
        ("p2", "high", "it has 5 points, the schema names 6"),
        ("p4", "high", "the keypoints are not x, y, visibility triples"),
        ("p5", "high", "the keypoints are not a list of numbers"),
        ("p6", "high", "it has 0 points, the schema names 6"),
    ]


def test_what_many_instances_have_is_how_they_are_made(audit: Any, crowd: Any) -> None:
    rows = [instance(number, changed(points, moved(4, 9, 9, 0))) for number, points in enumerate(crowd[:60])]
    result = audit(rows)
    assert result.findings == []
    assert result.summary["not told"] == {"not labeled, yet placed": "60 of 60: how they are made"}


def test_swapped_sides_and_long_limbs_of_stick_figures(audit: Any, crowd: Any) -> None:
    rows = [instance(number, points) for number, points in enumerate(crowd)]
    assert audit(rows).findings == []
    rows[10] = instance(10, crowd[10][[0, 2, 1, 3, 5, 4]])
    rows[20] = instance(20, crowd[20][[0, 1, 2, 3, 5, 4]])
    rows[30] = instance(30, changed(crowd[30], moved(5, 390, 390)), crowd_box(crowd[30] + 300))
    found = {finding.annotation_id: finding.message for finding in audit(rows).findings}
    assert set(found) == {"p10", "p20", "p30"}
    assert found["p10"].startswith("left and right look swapped: the pose would be over a million times as probable")
    assert found["p20"].startswith("left_foot and right_foot look swapped")
    assert "hip to right_foot is too long for the rest by" in found["p30"]


def test_too_few_instances_and_names_without_sides_are_told(audit: Any, crowd: Any) -> None:
    few = audit([instance(number, points) for number, points in enumerate(crowd[:20])])
    assert few.summary["too few to judge poses"] == {"person": 20}
    plain = schema_of(("a", "b", "c", "d", "e", "f"), ())
    summary = audit([instance(number, points) for number, points in enumerate(crowd[:200])], plain).summary
    assert summary["limbs"] == "not judged: the schema has no skeleton"
    assert summary["left and right"] == "not judged: no two points have names that differ in left and right"


def test_without_keypoints_it_says_so(build: Any, schema: LabelSchema) -> None:
    assert Keypoints().run(build([None], schema=schema)).summary == {"skipped": "no task has keypoints"}
    assert Keypoints().run(build([None], schema=schema_of())).summary == {"skipped": "there are no keypoints"}


def test_mirror_pairs() -> None:
    assert mirror_pairs(["nose", "left_eye", "right_eye", "LeftHand", "RightHand"]) == [(1, 2), (3, 4)]
    assert mirror_pairs(["l_ear", "r_ear", "paw l", "paw r", "heel-left", "heel-right"]) == [(0, 1), (2, 3), (4, 5)]
    assert mirror_pairs(["tail", "l_ear", "collar", "bright"]) == []


def test_a_limb_is_long_whatever_the_size_of_the_instance() -> None:
    rng = np.random.default_rng(2)
    chain = np.cumsum(rng.normal(0, 1, (500, 6, 2)) * 0.05 + [0.0, 1.0], axis=1) * rng.uniform(10, 100, (500, 1, 1))
    limbs = np.stack([np.arange(5), np.arange(1, 6)], axis=1)
    chain[7, 5] += 3 * (chain[7, 5] - chain[7, 4])
    off = limb_deviations(chain, limbs)
    assert np.unravel_index(off.argmax(), off.shape) == (7, 4)
    chain[8, 1:] = np.nan
    assert np.isnan(limb_deviations(chain, limbs)[8]).all()


def test_poses_without_pairs_of_labeled_points_gain_nothing() -> None:
    rng = np.random.default_rng(3)
    poses = rng.normal(size=(300, 3, 2)) * 0.02 + [[0, 0], [0.5, 0], [-0.5, 0]]
    poses[5, 1] = np.nan
    poses[6] = poses[6][[0, 2, 1]]
    swaps = swapped_sides(poses, [(1, 2)])
    assert swaps.gain[5] == 0
    assert swaps.gain.argmax() == 6
    assert swaps.pair[6] == 0


@pytest.fixture(scope="module")
def people(data: Path) -> tuple[tuple[str, ...], list[dict[str, Any]], dict[str, list[int]]]:
    source = json.loads(gzip.decompress((data / "coco_ann" / "persons_val2017_rebuilt.json.gz").read_bytes()))
    place = {image["id"]: number for number, image in enumerate(source["images"])}
    rows = []
    for number, item in enumerate(source["annotations"]):
        x, y, width, height = item["bbox"]
        points = np.reshape(item["keypoints"], (-1, 3))
        one = instance(number, points, ((x, y), (x + width, y + height)))
        rows.append(one | {"sample_id": f"s{place[item['image_id']]:05}"})
    sizes = {side: [image[side] for image in source["images"]] for side in ("width", "height")}
    return tuple(source["categories"][0]["keypoints"]), rows, sizes


def context_of(build: Any, people: Any, rows: list[dict[str, Any]]) -> AuditContext:
    return build([None] * len(people[2]["width"]), rows, schema=schema_of(people[0], BODY_LINES), **people[2])


@pytest.mark.slow
def test_real_people(build: Any, people: Any) -> None:
    result = Keypoints().run(context_of(build, people, people[1]))
    assert {finding.severity for finding in result.findings} == {"low"}
    assert len(result.findings) < 0.005 * len(people[1])


@pytest.mark.slow
def test_sides_swapped_among_real_people(build: Any, people: Any) -> None:
    names, rows = people[0], [dict(one) for one in people[1]]
    rng = np.random.default_rng(4)
    pairs = mirror_pairs(names)
    planted: dict[str, str] = {}
    for number in rng.permutation(len(rows))[:400].tolist():
        points = np.reshape(json.loads(rows[number]["geometry"])["keypoints"], (-1, 3))
        both = [pair for pair in pairs if (points[list(pair), 2] > 0).all()]
        if both:
            one, other = both[rng.integers(len(both))]
            points[[one, other]] = points[[other, one]]
            rows[number]["geometry"] = json.dumps({"keypoints": points.ravel().tolist()})
            planted[rows[number]["annotation_id"]] = f"{names[one]} and {names[other]}"
    found = {f.annotation_id: f.message for f in Keypoints().run(context_of(build, people, rows)).findings}
    named = [one for one, pair in planted.items() if pair in found.get(one, "")]
    assert len(named) > 0.4 * len(planted)
    assert len(set(found) - set(planted)) < 0.005 * len(rows)
