import re
import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from datasetops import records
from datasetops.schema import ClassDef, Kind, LabelSchema, Limit, Slice, Task, nearest_name
from datasetops.schema.model import default_colour
from datasetops.schema.names import typos

BLOOD = ["RBC", "WBC", "Platelets"]


def schema(**changes: Any) -> LabelSchema:
    fields: dict[str, Any] = {
        "name": "blood",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [{"id": i, "name": n} for i, n in enumerate(BLOOD)],
    }
    return LabelSchema.model_validate(fields | changes)


def reason(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        schema(**changes)
    return str(caught.value)


def test_kinds_are_those_of_the_annotation_table() -> None:
    assert get_args(Kind) == records.KINDS


def test_importing_is_light() -> None:
    heavy = "{'pyarrow', 'numpy', 'orjson', 'pandas'}"
    code = f"import sys, datasetops.schema; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digest_is_that_of_the_canonical_bytes_and_is_fixed() -> None:
    expected = (
        b'{"classes":[{"colour":"#e69f00","id":0,"name":"RBC"},{"colour":"#56b4e9","id":1,"name":"WBC"},'
        b'{"colour":"#009e73","id":2,"name":"Platelets"}],"name":"blood","tasks":[{"kind":"box"}],"version":1}'
    )
    assert schema().canonical_bytes() == expected
    assert schema().digest == records.sha256_hex(expected)
    assert schema().digest == "bef59d49cccb81efd10a9f51766ee590d2d61f5422ef0b24b97e90fcda280807"


def test_stating_a_default_does_not_change_the_digest() -> None:
    stated = [
        {"id": i, "name": n, "deprecated": False, "kinds": [], "colour": default_colour(i)} for i, n in enumerate(BLOOD)
    ]
    assert schema(classes=stated, description="", limits=[]).digest == schema().digest


def test_a_changed_copy_has_a_digest_and_names_of_its_own() -> None:
    first = schema()
    assert first.digest
    assert first.class_names == ("RBC", "WBC", "Platelets")
    copy = first.model_copy(update={"version": 2, "classes": first.classes[:1]})
    assert copy.digest != first.digest
    assert copy.class_names == ("RBC",)
    with pytest.raises(ValidationError, match="used twice"):
        first.model_copy(update={"classes": first.classes * 2})


def test_schema_is_frozen_and_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        schema().version = 2  # type: ignore[misc]
    assert "extra_forbidden" in reason(colors=1)


def test_names_kinds_and_tasks() -> None:
    mixed = schema(
        tasks=[{"kind": "classification", "multi": True}, {"kind": "box"}],
        classes=[{"id": 4, "name": "b"}, {"id": 0, "name": "old", "deprecated": True}, {"id": 2, "name": "a"}],
    )
    assert mixed.class_names == ("b", "a")
    assert mixed.kinds == ("classification", "box")
    assert mixed.multi_label
    assert not schema().multi_label
    assert mixed.task("box") == Task(kind="box")
    assert mixed.task("mask") is None
    old = mixed.find("old")
    assert old is not None
    assert old.deprecated
    assert mixed.find("A") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, "class id 0 is used twice"),
        ({"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}]}, "class name 'a' is used twice"),
        ({"classes": []}, "at least one class in use"),
        ({"classes": [{"id": 0, "name": "a", "deprecated": True}]}, "at least one class in use"),
        ({"classes": [{"id": -1, "name": "a"}]}, "greater than or equal to 0"),
        ({"classes": [{"id": 0, "name": " a"}]}, "no spaces around it"),
        ({"classes": [{"id": 0, "name": "a\nb"}]}, "in one line"),
        ({"classes": [{"id": 0, "name": ""}]}, "at least 1 character"),
        ({"classes": [{"id": 0, "name": "a\x07"}]}, r"U\+0007"),
        ({"classes": [{"id": 0, "name": "a", "colour": "red"}]}, "colour"),
        ({"classes": [{"id": 0, "name": "a", "parent": "b"}]}, "no class 'b'"),
        ({"classes": [{"id": 0, "name": "a", "parent": "a"}]}, "cycle: a > a"),
        ({"classes": [{"id": 0, "name": "a", "critical": {}}]}, "max_fpr, max_fnr or both"),
        ({"classes": [{"id": 0, "name": "a", "critical": {"max_fpr": 1.5}}]}, "less than or equal to 1"),
        ({"classes": [{"id": 0, "name": "a", "kinds": ["mask"]}]}, "mask, which is no task here"),
        (
            {"classes": [{"id": 0, "name": "a", "parent": "b"}, {"id": 1, "name": "b", "parent": "a"}]},
            "cycle: a > b > a",
        ),
        (
            {"classes": [{"id": 0, "name": "a", "parent": "b"}, {"id": 1, "name": "b", "deprecated": True}]},
            "its parent 'b' is deprecated",
        ),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"kind": "box"}, {"kind": "box"}]}, "task kind 'box' is used twice"),
        ({"tasks": [{"kind": "box", "multi": True}]}, "only a task of kind classification has multi"),
        ({"tasks": [{"kind": "box", "alphabet": "ab"}]}, "only a task of kind text has alphabet"),
        ({"tasks": [{"kind": "keypoints"}]}, "lists the names of its points"),
        ({"tasks": [{"kind": "keypoints", "keypoints": ["a", "a"]}]}, "point 'a' is used twice"),
        ({"tasks": [{"kind": "keypoints", "keypoints": ["a"], "skeleton": [["a", "b"]]}]}, "'b' is not one"),
        ({"tasks": [{"kind": "keypoints", "keypoints": ["a"], "skeleton": [["a", "a"]]}]}, "two different points"),
        ({"attributes": [{"name": "relabel", "type": "text"}]}, "choose another name"),
        ({"attributes": [{"name": "a", "type": "choice", "values": ["x"]}]}, "at least two values; got 1"),
        ({"attributes": [{"name": "a", "type": "bool", "values": ["x"]}]}, "only an attribute of type choice"),
        ({"attributes": [{"name": "a", "type": "bool", "classes": ["rbc"]}]}, "no class 'rbc'"),
        ({"attributes": [{"name": "a", "type": "bool"}, {"name": "a", "type": "text"}]}, "'a' is used twice"),
        ({"limits": [{}]}, "at least one bound"),
        ({"limits": [{"min_side": 3, "max_side": 2}]}, "min_side is at most max_side; got 3 and 2"),
        ({"limits": [{"max_area": 2, "unit": "relative"}]}, "a relative bound is at most 1; got 2"),
        ({"limits": [{"max_aspect": 0.5}]}, "greater than or equal to 1"),
        ({"slices": [{"key": "light", "values": []}]}, "slices"),
        ({"slices": [{"key": "light", "values": ["day", "day"]}]}, "'day' of 'light' is listed twice"),
        ({"slices": [{"key": "k", "values": [float("nan")]}]}, "finite"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert re.search(message, reason(**changes))


def test_a_schema_of_text_alone_needs_no_classes() -> None:
    plate = schema(tasks=[{"kind": "text", "alphabet": "ABC123", "max_length": 8}], classes=[])
    assert plate.class_names == ()
    assert plate.task("text") == Task(kind="text", alphabet="ABC123", max_length=8)


def test_slices_tell_numbers_words_and_truth_apart() -> None:
    part = Slice(key="k", values=(1, "1", True, 1.5))
    assert [type(v) for v in part.values] == [int, str, bool, float]
    assert schema(slices=[part]).slices[0].values == (1, "1", True, 1.5)


def test_colours_are_lower_case_and_by_default_different() -> None:
    assert ClassDef(id=0, name="a", colour="#FFAA00").colour == "#ffaa00"
    assert len({default_colour(i) for i in range(300)}) == 300
    assert all(re.fullmatch("#[0-9a-f]{6}", default_colour(i)) for i in range(300))


def test_a_limit_may_leave_one_side_open() -> None:
    assert Limit(min_side=4).max_side is None


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        *(("Platetlets", "Platelets"), ("Platetets", "Platelets")),  # both stand in published blood-cell annotations
        *(
            ("platelets", "Platelets"),
            ("PLATE LETS", "Platelets"),
            ("platelet", "Platelets"),
            ("Palteltes", "Platelets"),
        ),
        *(("rbc", "RBC"), ("R-B_C", "RBC"), ("RBCs", "RBC"), ("XBC", None), ("Plaques", None), ("", None)),
    ],
)
def test_nearest(given_name: str, meant: str | None) -> None:
    assert schema().nearest(given_name) == meant


def test_nearest_never_takes_one_short_name_for_another() -> None:
    digits = [str(n) for n in range(9)]
    assert nearest_name("9", digits) is None
    assert nearest_name("cat", ["cat", "Cat"]) == "cat"
    assert nearest_name("CAT", ["cat", "Cat"]) is None
    assert nearest_name("traffic lihgt", ["traffic light", "traffic sign"]) == "traffic light"


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_typos_is_symmetric_and_zero_only_for_the_same(a: str, b: str) -> None:
    assert typos(a, b) == typos(b, a)
    assert (typos(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= typos(a, b) <= max(len(a), len(b))


@given(st.text("abc", min_size=2, max_size=6), st.integers(0, 4))
def test_one_swap_of_neighbours_is_one_typo(word: str, at: int) -> None:
    at %= len(word) - 1
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    assert typos(word, swapped) == int(swapped != word)
