"""What findings suggest to change, and changes in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datasetops.audits.decisions import Fix
from datasetops.records import Finding, findings_table
from datasetops.review.fixes import fix_in_words, relabel_to, suggested_fix
from datasetops.schema import LabelSchema

LABEL = {"annotation_id": "s/label", "sample_id": "s", "kind": "classification", "label": "cat"}
BOX = {
    "annotation_id": "s/1",
    "sample_id": "s",
    "kind": "box",
    "label": "cat",
    "x1": 1.0,
    "y1": 2.0,
    "x2": 9.0,
    "y2": 8.0,
}
ROWS = [LABEL, BOX]


@pytest.fixture(scope="session")
def multi(schema: LabelSchema) -> LabelSchema:
    return schema.model_copy(update={"tasks": [{"kind": "classification", "multi": True}]})


def finding(check: str, **more: Any) -> dict[str, Any]:
    """As it stands in an audit's table."""
    row: dict[str, Any] = findings_table([Finding(check, "high", 0.1, "odd", sample_id="s", **more)]).to_pylist()[0]
    return row


def put(*rows: dict[str, Any]) -> Fix:
    return Fix("edit", rows)


NEW_BOX = {"annotation_id": None, "kind": "box", "label": "dog", "x1": 1.0, "y1": 1.0, "x2": 4.0, "y2": 5.0}


@pytest.mark.parametrize(
    ("found", "fix", "words"),
    [
        (
            finding("label_noise", annotation_id="s/label", given="cat", suggested="dog"),
            put({"annotation_id": "s/label", "label": "dog"}),
            "cat becomes dog",
        ),
        (
            finding("swapped_box", annotation_id="s/1", given="cat", suggested="bird"),
            put({"annotation_id": "s/1", "label": "bird"}),
            "cat becomes bird",
        ),
        (finding("missing_box", suggested="dog", box=(1, 1, 4, 5)), put(NEW_BOX), "dog box drawn"),
        (
            finding("misplaced_box", annotation_id="s/1", box=(1, 14, 9, 20)),
            put({"annotation_id": "s/1", "x1": 1.0, "y1": 14.0, "x2": 9.0, "y2": 20.0}),
            "box moved by 12 px",
        ),
        (finding("duplicate_box", annotation_id="s/1"), Fix("edit", remove=("s/1",)), "cat box removed"),
        (finding("image_quality"), Fix("exclude"), "image leaves the dataset"),
        (finding("exact_duplicate", related=("a", "b")), Fix("exclude"), "image leaves the dataset"),
        (
            finding("exact_duplicate", given="cat", suggested="dog", related=("t", "u")),
            put({"annotation_id": "s/label", "label": "dog"}),
            "cat becomes dog",
        ),
        (
            finding("exact_duplicate", given="cat", suggested="dog", related=("a", "t")),
            Fix("exclude"),
            "image leaves the dataset",
        ),
    ],
)
def test_suggestions(found: dict[str, Any], fix: Fix, words: str, schema: LabelSchema) -> None:
    assert suggested_fix(found, ROWS, schema) == fix
    assert fix_in_words(fix, ROWS) == words


@pytest.mark.parametrize(
    "found",
    [
        finding("label_noise", annotation_id="s/label", given="cat", suggested="wolf"),  # no class of the schema
        finding("missing_box", suggested="dog"),  # nobody knows where
        finding("misplaced_box", annotation_id="s/1"),
        finding("misplaced_box", annotation_id="s/label", box=(1, 14, 9, 20)),  # not a box
        finding("duplicate_box", annotation_id="gone"),
        finding("swapped_box", annotation_id="gone", given="cat", suggested="dog"),
        finding("outlier", annotation_id="s/1"),
        finding("text", annotation_id="s/1", suggested="any text"),
    ],
)
def test_no_suggestion_where_it_is_not_clear(found: dict[str, Any], schema: LabelSchema) -> None:
    assert suggested_fix(found, ROWS, schema) is None


def test_several_classes_an_image(multi: LabelSchema) -> None:
    rows = [
        {"annotation_id": f"s/label/{name}", "sample_id": "s", "kind": "classification", "label": name}
        for name in ("cat", "dog")
    ]
    wrong = finding("label_noise", annotation_id="s/label/cat", given="cat")
    missing = finding("label_noise", suggested="bird")
    assert suggested_fix(wrong, rows, multi) == Fix("edit", remove=("s/label/cat",))
    assert fix_in_words(Fix("edit", remove=("s/label/cat",)), rows) == "class cat removed"
    added = suggested_fix(missing, rows, multi)
    assert added == put({"annotation_id": None, "kind": "classification", "label": "bird"})
    assert fix_in_words(added, rows) == "class bird added"
    assert relabel_to(missing, rows, "dog") == put({"annotation_id": None, "kind": "classification", "label": "dog"})
    assert relabel_to(wrong, rows, "bird") == put({"annotation_id": "s/label/cat", "label": "bird"})
    with pytest.raises(ValueError, match="several classes"):
        relabel_to(finding("outlier"), rows, "bird")


def test_another_class_than_suggested() -> None:
    noise = finding("label_noise", annotation_id="s/label", given="cat", suggested="dog")
    assert relabel_to(noise, ROWS, "bird") == put({"annotation_id": "s/label", "label": "bird"})
    missing = finding("missing_box", suggested="cat", box=(1, 1, 4, 5))
    assert relabel_to(missing, ROWS, "dog") == put(NEW_BOX)
    assert relabel_to(finding("outlier"), ROWS, "dog") == put({"annotation_id": "s/label", "label": "dog"})
    assert relabel_to(finding("outlier"), [], "dog") == put(
        {"annotation_id": None, "kind": "classification", "label": "dog"}
    )
    with pytest.raises(ValueError, match="where the box is"):
        relabel_to(finding("missing_box", suggested="cat"), ROWS, "dog")


def test_changes_in_words() -> None:
    pose = {
        "annotation_id": "s/2",
        "kind": "keypoints",
        "label": "cat",
        "geometry": json.dumps({"keypoints": [1, 2, 2]}),
    }
    sign = {"annotation_id": "s/3", "kind": "text", "label": None, "text": "ab", "attributes": '{"blurred":true}'}
    rows = [*ROWS, pose, sign]
    fix = Fix(
        "edit",
        (
            {"annotation_id": "s/1", "label": "dog", "x1": 0.0},
            {"annotation_id": "s/2", "geometry": {"keypoints": [3, 2, 2]}},
            {"annotation_id": "s/3", "text": "abc", "attributes": {"blurred": False, "lines": 2}},
        ),
        ("s/label",),
    )
    assert fix_in_words(fix, rows) == (
        "cat becomes dog; box moved by 1 px; keypoints redrawn; text becomes 'abc'; and 3 more"
    )
    last = Fix("edit", ({"annotation_id": "s/3", "attributes": {"blurred": False, "lines": 2}},), ("unknown",))
    assert fix_in_words(last, rows) == "blurred becomes false; lines becomes 2; unknown removed"
    assert fix_in_words(put({"annotation_id": "s/1", "label": "cat"}), rows) == "nothing changes"
    assert fix_in_words(Fix("relabel"), rows) == "back to the annotators"
