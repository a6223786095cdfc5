from pathlib import Path
from typing import Any

import pytest

from datasetops.errors import NotFoundError, SchemaError
from datasetops.schema import Critical, LabelSchema, diff_schemas, load_migration, load_schema, migrate_schema

VEHICLES: dict[str, Any] = {
    "name": "street",
    "version": 3,
    "tasks": [{"kind": "box"}, {"kind": "mask"}],
    "classes": [
        {"id": 0, "name": "vehicle"},
        {"id": 1, "name": "car", "parent": "vehicle", "critical": {"max_fnr": 0.1, "max_fpr": 0.05}, "kinds": ["box"]},
        {"id": 2, "name": "van", "parent": "vehicle", "critical": {"max_fnr": 0.02}, "kinds": ["box"]},
        {"id": 7, "name": "bus"},
        {"id": 3, "name": "tram", "deprecated": True},
    ],
    "attributes": [{"name": "lights", "type": "bool", "classes": ["car"]}, {"name": "far", "type": "bool"}],
    "limits": [{"classes": ["car"], "min_side": 4}, {"classes": ["car", "van"], "max_side": 400}],
}


def migrated(*steps: str, of: dict[str, Any] = VEHICLES) -> LabelSchema:
    return migrate_schema(LabelSchema.model_validate(of), load_migration(f"steps: [{', '.join(steps)}]".encode()))


def refused(*steps: str) -> str:
    with pytest.raises(SchemaError) as caught:
        migrated(*steps)
    assert caught.value.remedy
    return str(caught.value)


def test_rename_keeps_the_id_and_everything_that_names_the_class() -> None:
    result = migrated("{rename: {from: car, to: auto}}", "{rename: {from: vehicle, to: road vehicle}}")
    auto = result.find("auto")
    assert auto is not None
    assert (auto.id, auto.parent) == (1, "road vehicle")
    assert result.find("car") is None
    assert result.attributes[0].classes == ("auto",)
    assert [limit.classes for limit in result.limits] == [("auto",), ("auto", "van")]
    assert result.version == 4


def test_a_migration_changes_nothing_but_what_it_names() -> None:
    before = LabelSchema.model_validate(VEHICLES)
    lines = diff_schemas(before, migrated("{rename: {from: bus, to: coach}}")).lines()
    assert lines == ["schema 'street' changed: version: 3 -> 4", "class 'bus' renamed to 'coach'"]


def test_names_can_be_swapped() -> None:
    steps = ("{rename: {from: car, to: x}}", "{rename: {from: bus, to: car}}", "{rename: {from: x, to: bus}}")
    result = migrated(*steps)
    assert {c.name: c.id for c in result.classes} == {"vehicle": 0, "bus": 1, "van": 2, "car": 7, "tram": 3}


def test_merge_into_a_class_that_is_there() -> None:
    result = migrated("{merge: {from: [car], to: van}}")
    car, van = result.find("car"), result.find("van")
    assert car is not None
    assert van is not None
    assert car.deprecated
    assert van.critical == Critical(max_fpr=0.05, max_fnr=0.02)  # the strictest of both
    assert result.attributes[0].classes == ("car", "van")  # answers exist
    assert [limit.classes for limit in result.limits] == [("car",), ("car", "van")]  # held for one only; for both


def test_merge_into_a_new_class() -> None:
    result = migrated("{merge: {from: [car, van], to: {name: light vehicle, definition: d}}}")
    new = result.find("light vehicle")
    assert new is not None
    assert (new.id, new.parent, new.kinds, new.definition) == (8, "vehicle", ("box",), "d")
    assert new.critical == Critical(max_fpr=0.05, max_fnr=0.02)
    assert result.limits[0].classes == ("car",)
    assert result.limits[1].classes == ("car", "van", "light vehicle")
    assert result.class_names == ("vehicle", "bus", "light vehicle")


def test_children_of_a_merged_class_move_to_the_class_it_went_into() -> None:
    result = migrated("{merge: {from: [vehicle], to: bus}}")
    assert {c.name: c.parent for c in result.classes if not c.deprecated} == {"car": "bus", "van": "bus", "bus": None}


def test_a_class_may_be_merged_into_its_own_child() -> None:
    result = migrated("{merge: {from: [vehicle], to: car}}")
    assert {c.name: c.parent for c in result.classes if not c.deprecated} == {"car": None, "van": "car", "bus": None}


def test_a_deprecated_class_may_still_be_merged() -> None:
    assert migrated("{merge: {from: [tram], to: bus}}").class_names == ("vehicle", "car", "van", "bus")


def test_deprecate_hands_children_to_the_next_class_above() -> None:
    nested = VEHICLES | {
        "classes": [
            {"id": 0, "name": "a"},
            {"id": 1, "name": "b", "parent": "a"},
            {"id": 2, "name": "c", "parent": "b"},
        ],
        "attributes": [],
        "limits": [],
    }
    assert [(c.name, c.parent, c.deprecated) for c in migrated("{deprecate: {name: b}}", of=nested).classes] == [
        ("a", None, False),
        ("b", "a", True),
        ("c", "a", False),
    ]
    both = migrated("{deprecate: {name: b}}", "{deprecate: {name: a}}", of=nested)
    assert [c.parent for c in both.classes] == [None, "a", None]


def test_split_deprecates_and_hands_down_what_the_parts_do_not_state() -> None:
    result = migrated(
        "{split: {from: car, to: [{name: sedan}, {name: suv, critical: {max_fnr: 0.5}, parent: null}, bus]}}"
    )
    car, sedan, suv = (result.find(n) for n in ("car", "sedan", "suv"))
    assert car is not None
    assert sedan is not None
    assert suv is not None
    assert car.deprecated
    assert (sedan.id, sedan.parent, sedan.kinds) == (8, "vehicle", ("box",))
    assert sedan.critical == Critical(max_fnr=0.1, max_fpr=0.05)
    assert (suv.id, suv.parent, suv.critical) == (9, None, Critical(max_fnr=0.5))
    assert result.attributes[0].classes == ("car", "sedan", "suv", "bus")
    assert result.limits[0].classes == ("car", "sedan", "suv")  # a bound of cars says nothing about the other buses


def test_parts_of_a_deprecated_class_have_a_parent_in_use() -> None:
    result = migrated(
        "{deprecate: {name: van}}", "{deprecate: {name: vehicle}}", "{split: {from: van, to: [{name: a}, {name: b}]}}"
    )
    assert [result.find(n).parent for n in "ab"] == [None, None]  # type: ignore[union-attr]


def test_ids_are_never_used_again() -> None:
    first = migrated("{add: {name: bike, colour: '#112233'}}", "{deprecate: {name: bike}}", "{add: {name: scooter}}")
    assert {c.name: c.id for c in first.classes} == {
        **{"vehicle": 0, "car": 1, "van": 2, "bus": 7, "tram": 3},
        **{"bike": 8, "scooter": 9},
    }
    assert first.find("bike").colour == "#112233"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{rename: {from: cat, to: x}}", "Step 1 (rename 'cat' to 'x'): there is no class 'cat'.\nDid you mean 'car'"),
        ("{rename: {from: car, to: van}}", "the name 'van' is taken by the class with id 2"),
        ("{rename: {from: car, to: tram}}", "the name 'tram' is taken by the deprecated class with id 3"),
        ("{add: {name: car}}", "the name 'car' is taken by the class with id 1"),
        ("{add: {name: bike, parent: none}}", "there is no class 'none'"),
        ("{add: {name: bike, parent: bike}}", "parents form a cycle: bike > bike"),
        ("{add: {name: bike, parent: tram}}", "its parent 'tram' is deprecated"),
        ("{merge: {from: [car, x], to: van}}", "there is no class 'x'"),
        ("{merge: {from: [car], to: x}}", "there is no class 'x'"),
        ("{merge: {from: [car], to: tram}}", "class 'tram' is deprecated"),
        ("{merge: {from: [car], to: {name: van}}}", "the name 'van' is taken"),
        ("{merge: {from: [vehicle, car, van, bus], to: {name: a, parent: b}}}", "there is no class 'b'"),
        ("{deprecate: {name: tram}}", "class 'tram' is deprecated"),
        ("{split: {from: car, to: [{name: a}, tram]}}", "class 'tram' is deprecated"),
        ("{split: {from: car, to: [{name: a}, {name: van}]}}", "the name 'van' is taken"),
        ("{split: {from: car, to: [{name: a}, b]}}", "there is no class 'b'"),
    ],
)
def test_refused_by_the_schema(step: str, message: str) -> None:
    assert message in refused(step)


def test_a_merge_that_would_make_a_cycle_of_parents_is_refused() -> None:
    chain = VEHICLES | {
        "classes": [
            {"id": 0, "name": "a"},
            {"id": 1, "name": "b", "parent": "a"},
            {"id": 2, "name": "c", "parent": "b"},
        ],
        "attributes": [],
        "limits": [],
    }
    with pytest.raises(SchemaError, match="parents form a cycle: b > c > b"):
        migrated("{merge: {from: [a], to: c}}", of=chain)


def test_the_last_class_cannot_be_deprecated() -> None:
    steps = [f"{{deprecate: {{name: {n}}}}}" for n in ("car", "van", "bus", "vehicle")]
    assert "Step 4 (deprecate 'vehicle'): expected at least one class in use" in refused(*steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: []", "line 1: steps: expected a list of at least 1; got an empty list."),
        ("steps:\n  - {}", "line 2: steps[1]: expected one of rename, merge, deprecate, split, add; got none of them."),
        ("steps: [{add: {name: a}, deprecate: {name: b}}]", "got deprecate and add"),
        ("steps:\n  - merge: {from: [a], to: a}", "line 2: steps[1].merge.to: class 'a' cannot be merged into itself."),
        ("steps:\n  - merge: {from: [a, b], to: {name: b}}", "class 'b' cannot be merged into itself."),
        ("steps:\n  - merge: {from: [a, a], to: b}", "line 2: steps[1].merge.from: expected each class once."),
        ("steps:\n  - merge: {from: [], to: b}", "line 2: steps[1].merge.from: expected a list of at least 1"),
        ("steps:\n  - split: {from: a, to: [b]}", "line 2: steps[1].split.to: expected at least two different classes"),
        ("steps:\n  - split: {from: a, to: [b, b]}", "expected at least two different classes; got b, b."),
        ("steps:\n  - split: {from: a, to: [a, b]}", "class 'a' is deprecated by the split"),
        ("steps:\n  - rename: {form: a, to: b}", "Did you mean 'from'?"),
        ("steps:\n  - drop: {name: a}", "line 2: steps[1].drop: there is no such field."),
        ("from: street\nsteps: [{add: {name: a}}]", "line 1: from: expected text of the form"),
    ],
)
def test_refused_as_written(text: str, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        load_migration(text.encode())
    assert message in str(caught.value)


def test_a_migration_is_for_the_version_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "to_v2.yaml"
    path.write_text("from: digits@1\nsteps:\n  - rename: {from: '0', to: zero}\n", encoding="utf-8")
    result = migrate_schema(load_schema("digits"), load_migration(path))
    assert (result.version, result.class_names[0]) == (2, "zero")
    with pytest.raises(SchemaError, match="The migration is for digits@1; the schema is digits@2"):
        migrate_schema(result, load_migration(path))
    with pytest.raises(NotFoundError, match="There is no migration"):
        load_migration(tmp_path / "absent.yaml")


def test_a_migrated_schema_is_written_and_read_like_any_other() -> None:
    result = migrated("{split: {from: car, to: [{name: sedan}, {name: suv}]}}", "{rename: {from: tram, to: 'no'}}")
    assert load_schema(result.to_yaml().encode()).digest == result.digest
