import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datasetops.errors import NotFoundError, SchemaError
from datasetops.schema import LabelSchema, json_schema, json_schema_text, load_schema, packaged_schemas
from datasetops.schema.yamlfile import MAX_BYTES, dump_yaml, read_yaml

BASE = """\
name: blood
version: 1
tasks: [{kind: box}]
classes:
  - {id: 0, name: RBC}
  - {id: 1, name: WBC}
"""

# Any character that the model takes, those included that YAML or JSON write in a special way.
WORDS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=12).map(str.strip)
NAMES = WORDS.filter(bool) | st.sampled_from(
    ["0", "007", "no", "Yes", "on", "~", "null", "1e3", "1:30", "2024-01-01", "#a", "<<", "=", "é"]
)
PROSE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp"), include_characters="\n\t"), max_size=40)
VALUES = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | NAMES


@st.composite
def schemas(draw: st.DrawFn) -> LabelSchema:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    ids = draw(st.permutations(range(len(names))))
    classes = [{"id": i, "name": n, "definition": draw(PROSE)} for i, n in zip(ids, names, strict=True)]
    slices = [
        {"key": "k", "values": [v], "min_count": n + 1}
        for n, v in enumerate(draw(st.lists(VALUES, max_size=3, unique_by=repr)))
    ]
    limits = [{"min_side": size} for size in draw(st.lists(st.floats(1e-9, 1e9), max_size=2))]
    fields: dict[str, Any] = {"name": "s", "version": draw(st.integers(1, 9)), "tasks": [{"kind": "box"}]}
    return LabelSchema.model_validate(
        fields | {"description": draw(PROSE), "classes": classes, "slices": slices, "limits": limits}
    )


@given(schemas())
def test_yaml_and_canonical_bytes_come_back_as_the_same_schema(schema: LabelSchema) -> None:
    for data in (schema.to_yaml().encode(), schema.canonical_bytes()):
        again = load_schema(data)
        assert again == schema
        assert again.digest == schema.digest


@given(st.lists(NAMES | PROSE, max_size=5))
def test_other_yaml_readers_take_our_text_for_text(words: list[str]) -> None:
    assert yaml.safe_load(dump_yaml(words)) == words


def problem(text: str | bytes) -> str:
    with pytest.raises(SchemaError) as caught:
        load_schema(text if isinstance(text, bytes) else text.encode())
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (BASE.replace("RBC", "0"), "line 5: classes[1].name: expected text; got 0.", "Put quotes around text"),
        (
            BASE + "  - id: 2\n    name: P\n    colour: #ff0000\n",
            "line 9: classes[3].colour: expected text; got nothing.",
            "#",
        ),
        (BASE.replace("WBC", "RBC"), "line 6: classes[2].name: class name 'RBC' is used twice, first by entry 1.", ""),
        (
            BASE.replace("name: WBC", "name: WBC, color: red"),
            "line 6: classes[2].color: there is no such field.",
            "'colour'",
        ),
        (
            BASE.replace("name: WBC", "name: WBC, parent: RBCs"),
            "line 6: classes[2].parent: there is no class 'RBCs'.",
            "'RBC'",
        ),
        (
            BASE.replace("{id: 1, name: WBC}", "{id: 1}"),
            "line 6: classes[2].name: expected a value; it is missing.",
            "Add",
        ),
        (BASE.replace("box", "boxes"), "line 3: tasks[1].kind: expected one of 'classification', 'box'", ""),
        (BASE.replace("{kind: box}", "{kind: keypoints}"), "line 3: tasks[1].keypoints: a keypoints task lists", ""),
        (BASE.replace("version: 1", "version: one"), "line 2: version: expected a whole number; got 'one'.", ""),
        (BASE.replace("version: 1\n", ""), "line 1: version: expected a value; it is missing.", "Add"),
        (BASE + "limits:\n  - min_side: -2\n", "line 8: limits[1].min_side: expected a number above 0; got -2.", ""),
        (
            BASE + "slices:\n  - key: light\n    values:\n      - day\n      - [1]\n",
            "line 11: slices[1].values[2]: expected true or false or a whole number or a number or text; got a list of 1.",
            "",
        ),
        (BASE + "name: again\n", "line 7: name: expected once; it is also in line 1.", "Remove one"),
        (BASE.replace("{id: 1,", "{id: 1, id: 2,"), "line 6: classes[2].id: expected once", "Remove one"),
        ("- 1\n", "line 1: the document: expected a mapping of fields; got a list of 1.", ""),
        ("a: [1\nb: 2\n", "line 2", "Correct the YAML."),
        ("a: 1\n---\nb: 2\n", "line 2: expected one document; a second begins.", ""),
        ("# nothing\n", "the file is empty.", ""),
        ("name: x\nb: !!python/object/apply:os.system [ls]\n", "line 2: b: expected a plain value; got the tag", ""),
        ("name: x\nb: !!str 1\n", "line 2: b: expected a plain value; got the tag", ""),
        ("a: &x [1]\nb: *x\n", "line 1: a: expected a plain value; got an anchor", "Write the value out."),
        ("a: &a [*a]\n", "got an anchor", ""),
        ("[1]: 2\n", "line 1: the document: expected a word as key", ""),
        ("é: \n  b: \x07\n", "line 2: the character U+0007 is not allowed in YAML.", ""),
        (b"a: 1\nb: \xff\n", "line 2: not UTF-8.", "UTF-8"),
        ("[" * 200_000 + "]" * 200_000, "inside more than 20 others", ""),
        ("{a: " * 500, "inside more than 20 others", ""),
        (b"#" * (MAX_BYTES + 1), "more than 8 MiB", ""),
    ],
)
def test_errors_name_line_field_and_remedy(text: str | bytes, message: str, remedy: str) -> None:
    said = problem(text)
    assert message in said
    assert remedy in said


def test_all_problems_are_named_in_the_order_of_the_file() -> None:
    said = problem(BASE.replace("version: 1", "version: x").replace("id: 0", "id: z") + "extra: 1\n").splitlines()
    assert [line.split(":")[1].strip() for line in said[:3]] == ["version", "classes[1].id", "extra"]
    assert len(said) == 4


def test_many_problems_are_cut_short() -> None:
    rows = "".join(f"  - {{id: {i}}}\n" for i in range(2, 60))
    assert "38 more problems" in problem(BASE + rows)


def test_words_of_yaml_1_1_stay_words() -> None:
    value = read_yaml(b"[no, on, Yes, 1:30, 007, 2024-01-01, 0x1f, true, 12, -1.5, 1e3, ~, null, '1', <<]", "x").value
    assert value == [
        "no",
        "on",
        "Yes",
        "1:30",
        "007",
        "2024-01-01",
        "0x1f",
        True,
        12,
        -1.5,
        1000.0,
        None,
        None,
        "1",
        "<<",
    ]


def test_mark_and_line_ends_of_windows_are_no_problem() -> None:
    assert load_schema(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()) == load_schema(BASE.encode())


def test_load_from_a_path_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(BASE, encoding="utf-8")
    assert load_schema(path) == load_schema(str(path)) == load_schema(BASE.encode())
    assert load_schema("digits").name == "digits"
    path.write_text("name: x\n", encoding="utf-8")
    with pytest.raises(SchemaError, match=r"own.yaml, line 1: tasks"):
        load_schema(path)


def test_an_absent_file_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean 'digits'\?.*blood_cells, cifar10, digits"):
        load_schema("digit")
    with pytest.raises(SchemaError, match="Cannot read"):
        load_schema(tmp_path)


ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_json_schema_in_the_repository_is_current() -> None:
    # Regenerate: python -c "from datasetops.schema import *; print(json_schema_text(), end='')" > FILE
    stored = ROOT / "schemas" / "label_schema.schema.json"
    assert stored.read_text(encoding="utf-8") == json_schema_text()


def test_the_json_schema_accepts_what_is_shipped_and_refuses_unknown_fields() -> None:
    VALIDATOR.check_schema(json_schema())
    for name in packaged_schemas():
        value = read_yaml((ROOT / "schemas" / f"{name}.yaml").read_bytes(), name).value
        VALIDATOR.validate(value)
        assert not VALIDATOR.is_valid(value | {"colors": 1})
        assert not VALIDATOR.is_valid(value | {"tasks": [{"kind": "boxes"}]})


@given(schemas())
def test_the_json_schema_accepts_every_schema(schema: LabelSchema) -> None:
    VALIDATOR.validate(json.loads(schema.canonical_bytes()))
