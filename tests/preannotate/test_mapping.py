"""From a model's names to the schema's classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasetops.errors import FormatError, ModelError, NotFoundError, SchemaError
from datasetops.preannotate.mapping import choose_mapping, default_mapping, read_mapping
from datasetops.schema import LabelSchema

SCHEMA = LabelSchema.model_validate(
    {
        "name": "traffic",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [
            {"id": 0, "name": "car"},
            {"id": 1, "name": "traffic light"},
            {"id": 2, "name": "Bus"},
            {"id": 3, "name": "crane"},
            {"id": 4, "name": "horse", "deprecated": True},
        ],
    }
)
COCO = ("person", "car", "traffic_light", "bus", "horse")


def test_equal_names_mean_the_same_whatever_their_case_and_spacing() -> None:
    found = default_mapping(COCO, SCHEMA.class_names)
    assert found.classes == {
        "person": None,
        "car": "car",
        "traffic_light": "traffic light",
        "bus": "Bus",
        "horse": None,  # that class is no longer used
    }
    assert (found.unmapped, found.ambiguous) == (("person", "horse"), {})
    assert found.targets == ("car", "traffic light", "Bus")
    assert found.unreached(SCHEMA.class_names) == ("crane",)


def test_a_typo_is_no_equal_name() -> None:
    assert default_mapping(("cars", "cra"), ("car",)).targets == ()


def test_synonyms_count_and_namesakes_do_not() -> None:
    names = ("tabby, tabby cat", "crane (3)", "crane (5)", "sports car, car, bus", "car wheel")
    found = default_mapping(names, ("tabby cat", "crane", "car", "bus"))
    assert found.classes["tabby, tabby cat"] == "tabby cat"
    assert found.ambiguous == {
        "crane (3)": ("crane",),
        "crane (5)": ("crane",),
        "sports car, car, bus": ("car", "bus"),
    }
    assert found.unmapped == ("car wheel",)
    assert [found.classes[name] for name in names[1:]] == [None] * 4


def test_an_exact_name_goes_before_a_similar_one() -> None:
    found = default_mapping(("cat", "CAT"), ("cat", "Cat"))
    assert found.classes == {"cat": "cat", "CAT": None}
    assert found.ambiguous == {"CAT": ("cat", "Cat")}


def test_a_file_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_text("person: crane\nbus: null\n# none of its own\nhorse: car\n")
    found = read_mapping(file, COCO, SCHEMA)
    assert found.classes == {
        "person": "crane", "car": "car", "traffic_light": "traffic light", "bus": None, "horse": "car",
    }  # fmt: skip
    assert found.digest != default_mapping(COCO, SCHEMA.class_names).digest
    assert found.digest == read_mapping(file, COCO, SCHEMA).digest
    file.write_text("'crane (2)': crane\n")
    settled = read_mapping(file, ("crane (1)", "crane (2)"), SCHEMA)
    assert settled.classes == {"crane (1)": None, "crane (2)": "crane"}
    assert list(settled.ambiguous) == ["crane (1)"]
    file.write_text("1: car\n")
    assert read_mapping(file, ("0", "1"), SCHEMA).classes == {"0": None, "1": "car"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("- car\n", FormatError, "expected names of the model"),
        ("bus: car\ncra: car\n", FormatError, r"line 2: the model has no name 'cra'.*car"),
        ("bus: Car\n", FormatError, r"line 1: the schema has no class 'Car'.*Did you mean 'car'"),
        ("bus: horse\n", FormatError, "no class 'horse'"),
        ("\nbus: [car]\n", FormatError, r"line 2: expected a class or null"),
        ("bus: 'car\n", SchemaError, "map.yaml"),
        ("bus: car\nbus: car\n", SchemaError, "bus"),
    ],
)
def test_a_faulty_file_is_told_with_its_line(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(text)
    with pytest.raises(error, match=r"(?s)" + message):
        read_mapping(file, COCO, SCHEMA)


def test_no_file_and_no_class_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no mapping"):
        read_mapping(tmp_path / "none.yaml", COCO, SCHEMA)
    with pytest.raises(ModelError, match=r"(?s)cannot name 'crane'.*--mapping FILE.*'person': 'crane'"):
        choose_mapping("m", COCO, SCHEMA, classes=("car", "crane"))
    with pytest.raises(ModelError, match=r"(?s)no class 'cra'.*Did you mean 'crane' or 'car'"):
        choose_mapping("m", COCO, SCHEMA, classes=("cra",))
    with pytest.raises(ModelError, match=r"(?s)none of the classes.*'n0', 'n1'.* and 20 others"):
        choose_mapping("m", [f"n{number}" for number in range(30)], SCHEMA)


def test_an_open_vocabulary_names_the_classes_themselves() -> None:
    found = choose_mapping("m", None, SCHEMA, classes=("crane",))
    assert found.classes == {name: name for name in SCHEMA.class_names}
    assert found.report(("crane",))["unreached"] == []
