import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from datasetops.schema import LabelSchema, diff_schemas, load_schema


def schema(*names: str, **fields: Any) -> LabelSchema:
    classes = [{"id": i, "name": n} for i, n in enumerate(names)]
    return LabelSchema.model_validate(
        {"name": "s", "version": 1, "tasks": [{"kind": "box"}], "classes": classes} | fields
    )


def test_same_schema_no_difference() -> None:
    diff = diff_schemas(load_schema("blood_cells"), load_schema("blood_cells"))
    assert not diff
    assert diff.lines() == []


def test_a_class_that_keeps_its_id_is_renamed() -> None:
    diff = diff_schemas(schema("a", "Platetlets"), schema("a", "Platelets", version=2))
    assert diff.lines() == [
        "schema 's' changed: version: 1 -> 2",
        "class 'Platetlets' renamed to 'Platelets'",
    ]
    assert diff.as_dict()["classes"] == {
        "added": [],
        "removed": [],
        "renamed": {"Platetlets": "Platelets"},
        "changed": {},
    }


def test_classes_that_swap_ids_are_the_same_classes() -> None:
    swapped = schema(classes=[{"id": 1, "name": "a", "colour": "#e69f00"}, {"id": 0, "name": "b", "colour": "#56b4e9"}])
    assert diff_schemas(schema("a", "b"), swapped).lines() == [
        "class 'a' changed: id: 0 -> 1",
        "class 'b' changed: id: 1 -> 0",
    ]


def test_every_part_is_compared() -> None:
    old = schema(
        "a",
        "b",
        attributes=[{"name": "x", "type": "bool"}, {"name": "y", "type": "text"}],
        limits=[{"min_side": 2}, {"classes": ["a"], "min_side": 3}],
        slices=[{"key": "light", "values": ["day"]}],
    )
    new = schema(
        classes=[{"id": 0, "name": "a", "definition": "d", "deprecated": True}, {"id": 5, "name": "c"}],
        tasks=[{"kind": "box"}, {"kind": "mask"}],
        attributes=[{"name": "y", "type": "number"}],
        limits=[{"min_side": 4}, {"unit": "relative", "min_side": 0.5}],
        slices=[{"key": "light", "values": ["day", "night"]}],
        description="new",
    )
    assert diff_schemas(old, new).lines() == [
        "schema 's' changed: description: none -> 'new'",
        "class 'b' removed",
        "class 'a' changed: definition: none -> 'd', deprecated: False -> True",
        "class 'c' added",
        "task 'mask' added",
        "attribute 'x' removed",
        "attribute 'y' changed: type: 'text' -> 'number'",
        "limit 'a in pixels' removed",
        "limit 'all classes in relative' added",
        "limit 'all classes in pixels' changed: min_side: 2.0 -> 4.0",
        "slice 'light' changed: values: ['day'] -> ['day', 'night']",
    ]


def test_order_counts_and_is_told() -> None:
    diff = diff_schemas(schema("a", "b"), schema(classes=[{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]))
    assert diff.lines() == ["classes reordered: order: ['a', 'b'] -> ['b', 'a']"]
    assert diff.as_dict()["classes"]["order"] == {"from": ["a", "b"], "to": ["b", "a"]}


CLASSES = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 3), "name": st.sampled_from("abcd"), "definition": st.sampled_from(["", "d"])}
    ),
    min_size=1,
    max_size=4,
    unique_by=(lambda c: c["id"], lambda c: c["name"]),
)
SLICES = st.lists(st.sampled_from([1, True, "1", 1.0, "x"]), min_size=1, max_size=3, unique_by=repr)
SCHEMAS = st.builds(
    lambda classes, slices, sides: schema(
        classes=classes,
        slices=[{"key": "k", "values": [v]} for v in slices],
        limits=[{"min_side": side} for side in sides],
    ),
    CLASSES,
    SLICES,
    st.lists(st.integers(1, 2), max_size=2),
)


@given(SCHEMAS, SCHEMAS)
def test_the_difference_is_empty_exactly_where_the_digests_are_equal(a: LabelSchema, b: LabelSchema) -> None:
    diff = diff_schemas(a, b)
    assert bool(diff) == (a.digest != b.digest)
    assert bool(diff.lines()) == bool(diff)
    assert json.loads(json.dumps(diff.as_dict())) == diff.as_dict()


@given(SCHEMAS, SCHEMAS)
def test_added_is_removed_the_other_way_round(a: LabelSchema, b: LabelSchema) -> None:
    there, back = diff_schemas(a, b).as_dict()["classes"], diff_schemas(b, a).as_dict()["classes"]
    assert sorted(there["added"]) == sorted(back["removed"])
    assert there["renamed"] == {new: old for old, new in back["renamed"].items()}
