import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from datasetops.errors import SchemaError
from datasetops.records import ANNOTATIONS
from datasetops.schema import LabelSchema, Migration, load_migration, migrate_annotations, migrate_schema, relabel

Row = tuple[str | None, dict[str, Any] | None]


def table(*rows: Row) -> pa.Table:
    records = [
        {
            "annotation_id": f"a{i}",
            "sample_id": f"s{i}",
            "kind": "box",
            "label": label,
            "x1": float(i),
            "attributes": json.dumps(attributes, separators=(",", ":"), sort_keys=True) if attributes else None,
        }
        for i, (label, attributes) in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, schema=ANNOTATIONS)


def rows_of(result: pa.Table) -> dict[str, Row]:
    pairs = zip(result["label"].to_pylist(), result["attributes"].to_pylist(), strict=True)
    values = [(label, json.loads(text) if text else None) for label, text in pairs]
    return dict(zip(result["annotation_id"].to_pylist(), values, strict=True))


def migration(*steps: str) -> Migration:
    return load_migration(f"steps: [{', '.join(steps)}]".encode())


RENAME = "{rename: {from: car, to: auto}}"
MERGE = "{merge: {from: [van, auto], to: vehicle}}"
SPLIT = "{split: {from: car, to: [{name: sedan}, {name: suv}]}}"


def test_only_rows_that_change_come_back_with_all_columns_and_in_order() -> None:
    result = migrate_annotations(
        table(("bus", None), ("car", {"far": True}), (None, None), ("car", None)), migration(RENAME)
    )
    assert result.changed.schema == ANNOTATIONS
    assert rows_of(result.changed) == {"a1": ("auto", {"far": True}), "a3": ("auto", None)}
    assert result.changed["x1"].to_pylist() == [1.0, 3.0]
    assert result.relabel == []
    assert result.counts == {"rename 'car' to 'auto'": 2}


def test_steps_compose() -> None:
    result = migrate_annotations(table(("car", None), ("van", None), ("bus", None)), migration(RENAME, MERGE))
    assert rows_of(result.changed) == {"a0": ("vehicle", None), "a1": ("vehicle", None)}
    assert result.counts == {"rename 'car' to 'auto'": 1, "merge 'van', 'auto' into 'vehicle'": 2}


def test_split_marks_every_annotation_and_keeps_its_label_and_attributes() -> None:
    result = migrate_annotations(table(("car", None), ("car", {"far": True}), ("bus", {"far": True})), migration(SPLIT))
    choices = ["sedan", "suv"]
    assert rows_of(result.changed) == {
        "a0": ("car", {"relabel": choices}),
        "a1": ("car", {"far": True, "relabel": choices}),
    }
    assert result.changed["attributes"].to_pylist()[1] == '{"far":true,"relabel":["sedan","suv"]}'
    assert result.relabel == ["a0", "a1"]


def test_swapped_names() -> None:
    steps = ("{rename: {from: a, to: x}}", "{rename: {from: b, to: a}}", "{rename: {from: x, to: b}}")
    result = migrate_annotations(table(("a", None), ("b", None)), migration(*steps))
    assert rows_of(result.changed) == {"a0": ("b", None), "a1": ("a", None)}


def test_steps_that_undo_each_other_change_nothing() -> None:
    undo = "{rename: {from: auto, to: car}}"
    assert migrate_annotations(table(("car", None)), migration(RENAME, undo)).changed.num_rows == 0


def test_deprecate_and_add_change_no_annotation() -> None:
    result = migrate_annotations(table(("car", None)), migration("{deprecate: {name: car}}", "{add: {name: b}}"))
    assert (result.changed.num_rows, result.counts) == (0, {"deprecate 'car'": 0})


OPEN = ("car", {"relabel": ["sedan", "suv"]})


@pytest.mark.parametrize(
    ("steps", "row", "waits"),
    [
        (["{rename: {from: suv, to: jeep}}"], ("car", {"relabel": ["sedan", "jeep"]}), True),
        (["{rename: {from: car, to: old car}}"], ("old car", {"relabel": ["sedan", "suv"]}), True),
        (["{split: {from: suv, to: [{name: a}, {name: b}]}}"], ("car", {"relabel": ["sedan", "a", "b"]}), True),
        (["{merge: {from: [suv], to: sedan}}"], ("sedan", None), False),
        (["{merge: {from: [suv, sedan], to: x}}"], ("x", None), False),
        (["{deprecate: {name: suv}}"], ("car", {"relabel": ["sedan"]}), True),
        (["{deprecate: {name: suv}}", "{merge: {from: [sedan], to: x}}"], ("car", {"relabel": ["x"]}), True),
        (["{merge: {from: [car], to: x}}"], ("x", None), False),
    ],
)
def test_open_questions_follow_later_migrations(steps: list[str], row: Row, waits: bool) -> None:
    for before in (table(OPEN), migrate_annotations(table(("car", None)), migration(SPLIT)).changed):
        result = migrate_annotations(before, migration(*steps))
        assert rows_of(result.changed) == {"a0": row}
        assert result.relabel == (["a0"] if waits else [])
    assert rows_of(migrate_annotations(table(("car", None)), migration(SPLIT, *steps)).changed) == {"a0": row}


def test_an_attribute_value_that_only_looks_like_the_mark_is_left_alone() -> None:
    odd = table(
        ("bus", {"note": '"relabel"'}), ("bus", {"relabel": "sedan"}), ("bus", {"x": {"relabel": ["sedan", "suv"]}})
    )
    assert migrate_annotations(odd, migration("{rename: {from: sedan, to: s}}")).changed.num_rows == 0


def test_bad_input() -> None:
    broken = table(("car", None)).set_column(10, "attributes", pa.array(["{oops"]))
    with pytest.raises(SchemaError, match="no JSON object"):
        migrate_annotations(broken, migration(SPLIT))
    with pytest.raises(ValueError, match="there is no label"):
        migrate_annotations(pa.table({"annotation_id": ["a"], "attributes": [None]}), migration(RENAME))


def test_an_empty_table_stays_one() -> None:
    result = migrate_annotations(table(), migration(SPLIT))
    assert (result.changed.num_rows, result.changed.schema, result.relabel) == (0, ANNOTATIONS, [])


def test_types_of_columns_are_kept() -> None:
    encoded = table(("car", None), ("bus", None))
    encoded = encoded.set_column(3, "label", encoded["label"].dictionary_encode())
    changed = migrate_annotations(encoded, migration(RENAME)).changed
    assert changed.schema == encoded.schema
    assert changed["label"].to_pylist() == ["auto"]


CLASSES = list("abcd")
NEW = st.sampled_from(list("efgh"))
STEPS = st.one_of(
    st.builds(lambda f, t: f"{{rename: {{from: {f}, to: {t}}}}}", st.sampled_from("abcdefgh"), NEW),
    st.builds(
        lambda f, t: f"{{merge: {{from: [{', '.join(sorted(f - {t}))}], to: {t}}}}}",
        st.sets(st.sampled_from("abcdefgh"), min_size=2, max_size=3),
        st.sampled_from(CLASSES),
    ),
    st.builds(
        lambda f, t: f"{{split: {{from: {f}, to: [{', '.join(f'{{name: {x}}}' for x in sorted(t))}]}}}}",
        st.sampled_from(CLASSES),
        st.sets(NEW, min_size=2, max_size=3),
    ),
    st.builds(lambda name: f"{{deprecate: {{name: {name}}}}}", st.sampled_from("abcdefgh")),
)
ATTRIBUTES = st.sampled_from([None, {"far": True}, {"relabel": ["a", "e"]}, {"far": 1, "relabel": ["b", "c", "d"]}])
ROWS = st.lists(st.tuples(st.sampled_from([*CLASSES, None]), ATTRIBUTES), max_size=12)
SCHEMA = LabelSchema.model_validate(
    {
        "name": "s",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [{"id": i, "name": n} for i, n in enumerate(CLASSES)],
    }
)


@given(ROWS, st.lists(STEPS, min_size=1, max_size=4))
def test_all_steps_at_once_are_the_same_as_one_after_the_other(rows: list[Row], steps: list[str]) -> None:
    at_once = migrate_annotations(table(*rows), migration(*steps))
    state = table(*rows)
    for step in steps:
        changed = {r["annotation_id"]: r for r in migrate_annotations(state, migration(step)).changed.to_pylist()}
        state = pa.Table.from_pylist(
            [changed.get(r["annotation_id"], r) for r in state.to_pylist()], schema=ANNOTATIONS
        )
    before = rows_of(table(*rows))
    assert rows_of(at_once.changed) == {k: row for k, row in rows_of(state).items() if row != before[k]}
    assert at_once.relabel == [k for k, (_, a) in rows_of(at_once.changed).items() if a and "relabel" in a]


@pytest.mark.slow
@given(ROWS, st.lists(STEPS, min_size=1, max_size=4))
def test_every_label_and_choice_is_a_class_of_the_migrated_schema(rows: list[Row], steps: list[str]) -> None:
    plain = [(label, None) for label, _ in rows]
    try:
        after = migrate_schema(SCHEMA, migration(*steps))
    except SchemaError:
        reject()  # steps that do not fit the schema; test_migrate tells which
    result = migrate_annotations(table(*plain), migration(*steps))
    for label, attributes in rows_of(result.changed).values():
        assert after.find(label or "") is not None
        assert set((attributes or {}).get("relabel", [])) <= {c.name for c in after.classes}
        if not attributes and not any("deprecate" in step for step in steps):
            assert label in after.class_names


def test_batches_are_migrated_like_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Row] = [("car", None), ("bus", None), ("car", {"far": True}), ("van", None), ("car", None)]
    whole = migrate_annotations(table(*rows), migration(SPLIT, "{rename: {from: van, to: auto}}"))
    monkeypatch.setattr(relabel, "BATCH_ROWS", 2)
    parts = migrate_annotations(table(*rows), migration(SPLIT, "{rename: {from: van, to: auto}}"))
    assert parts.changed.equals(whole.changed)
    assert (parts.relabel, parts.counts) == (whole.relabel, whole.counts)


def _voc_labels(folder: Path) -> list[str]:
    return [e.text or "" for f in sorted(folder.glob("*.xml")) for e in ET.parse(f).iterfind("object/name")]


def test_real_typos_of_class_names_are_merged_away() -> None:
    data = os.environ.get("DSOPS_TEST_DATA")
    if not data:
        pytest.skip("DSOPS_TEST_DATA is not set")
    raw, clean = (_voc_labels(Path(data) / "bccd" / name) for name in ("annotations_raw_names_voc", "annotations_voc"))
    assert {"Platetlets", "Platetets"} < set(raw)
    result = migrate_annotations(
        table(*((label, None) for label in raw)), migration("{merge: {from: [Platetlets, Platetets], to: Platelets}}")
    )
    assert rows_of(result.changed).keys() == {f"a{i}" for i, label in enumerate(raw) if label.startswith("Platet")}
    merged = Counter(raw) - Counter(["Platetlets", "Platetets"]) + Counter(result.changed["label"].to_pylist())
    assert merged == Counter(clean)
