"""What an open-vocabulary model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datasetops.errors import FormatError, ModelError, NotFoundError, SchemaError
from datasetops.models.prompts import TEMPLATES, Prompts, prompts_from_schema, read_prompts
from datasetops.schema import ClassDef, LabelSchema, Task, load_schema


def schema(*classes: ClassDef, kinds: tuple[Any, ...] = ("classification", "box")) -> LabelSchema:
    return LabelSchema(name="s", version=1, tasks=tuple(Task(kind=kind) for kind in kinds), classes=classes)


CELLS = schema(
    ClassDef(id=0, name="red_cell", definition="A disc\n without a nucleus."),
    ClassDef(id=1, name="smear", kinds=("classification",)),
    ClassDef(id=2, name="old", deprecated=True),
)


def test_a_schema_gives_each_class_its_name_in_all_templates_and_its_definition() -> None:
    prompts = prompts_from_schema(CELLS)
    assert prompts.names == ("red_cell", "smear")
    assert prompts.texts["red_cell"] == (
        *(template.replace("{}", "red cell") for template in TEMPLATES),
        "red cell: A disc without a nucleus.",
    )
    assert len(prompts.texts["smear"]) == len(TEMPLATES)


def test_boxes_are_asked_for_by_bare_names() -> None:
    assert prompts_from_schema(CELLS, kind="box").texts == {"red_cell": ("red cell",)}
    assert prompts_from_schema(CELLS, ("one {}",), kind="box", definitions=True).texts == {
        "red_cell": ("one red cell", "red cell: A disc without a nucleus.")
    }


def test_braces_in_a_class_name_are_only_text() -> None:
    assert prompts_from_schema(schema(ClassDef(id=0, name="{0.x}")), ("a {}",)).texts == {"{0.x}": ("a {0.x}",)}


def test_templates_must_have_a_place_for_the_name() -> None:
    with pytest.raises(ValueError, match=r"expected \{\} where"):
        prompts_from_schema(CELLS, ("a photo",))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "There are no prompts"),
        ({"cat": ()}, "'cat' are empty"),
        ({"cat": ("a cat", "  ")}, "'cat' are empty"),
        ({"cat": ("a pet",), "dog": ("a pet ",)}, "'a pet' is given for both 'cat' and 'dog'"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(texts: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Prompts(texts)
    assert caught.value.remedy


def test_a_schema_without_classes_of_the_kind_gives_no_prompts() -> None:
    only = schema(ClassDef(id=0, name="smear", kinds=("classification",)))
    with pytest.raises(ModelError, match="There are no prompts"):
        prompts_from_schema(only, kind="box")


def test_digests_tell_prompts_apart() -> None:
    given = {"cat": ("a cat", "cat"), "dog": ("a dog",)}
    others = [
        {"cat": ("a cat",), "dog": ("a dog",)},
        {"cat": ("cat", "a cat"), "dog": ("a dog",)},
        {"dog": ("a dog",), "cat": ("a cat", "cat")},
        {"cat": ("a cat", "cat"), "hound": ("a dog",)},
    ]
    assert Prompts(given).digest == Prompts(dict(given)).digest
    assert len({Prompts(texts).digest for texts in (given, *others)}) == 5


def test_prompts_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("cat: a photo of a cat\ndog: [a dog, 'a hound ']\n")
    assert read_prompts(file, load_schema("cifar10")).texts == {
        "cat": ("a photo of a cat",),
        "dog": ("a dog", "a hound"),
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("cat: a cat\nkitten: a kitten\n", ModelError, r"line 2: the schema has no class 'kitten'"),
        ("cat: 7\n", FormatError, r"line 1: cat: expected a text"),
        ("cat: [a, {b: c}]\n", FormatError, r"line 1: cat: expected a text"),
        ("- cat\n", FormatError, "expected classes with their texts; got list"),
        ("cat: []\n", ModelError, "'cat' are empty"),
        ("cat: ''\n", ModelError, "'cat' are empty"),
        ("{}\n", ModelError, "no prompts"),
        ("", SchemaError, "empty"),
        ("cat: [a\n", SchemaError, "line"),
    ],
)
def test_a_file_of_prompts_that_is_wrong_is_refused_by_line(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(text)
    with pytest.raises(error, match=message) as caught:
        read_prompts(file, load_schema("cifar10"))
    assert str(caught.value.remedy)  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        read_prompts(tmp_path / "none.yaml", load_schema("cifar10"))
