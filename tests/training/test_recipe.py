"""Recipes: what is packaged, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasetops.errors import NotFoundError, SchemaError
from datasetops.training.recipe import PACKAGED, HeadRecipe, ProbeRecipe, load_recipe, parse_recipe


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_can_be_read(name: str) -> None:
    assert load_recipe(name).name == name


def test_a_misspelled_key_is_named_with_the_nearest_one() -> None:
    with pytest.raises(SchemaError) as error:
        parse_recipe(b"kind: head\nname: x\nepoch: 3\nflips: {horizntal: true}\n", "my.yaml")
    assert "my.yaml, line 3: epoch: there is no such field" in error.value.message
    assert "my.yaml, line 4: flips.horizntal" in error.value.message
    assert "Did you mean 'epochs'?" in error.value.remedy
    assert "Did you mean 'horizontal'?" in error.value.remedy


@pytest.mark.parametrize("text", ["kind: hed\nname: x\n", "name: x\n", "- kind\n"])
def test_a_recipe_of_no_known_kind_lists_the_kinds(text: str) -> None:
    with pytest.raises(SchemaError, match="kind: expected probe, head, finetune"):
        parse_recipe(text.encode(), "my.yaml")


def test_a_recipe_that_is_not_there_names_the_packaged_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="probe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(NotFoundError, match="Did you mean 'probe'"):
        load_recipe("prob")


def test_a_recipe_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "cells.v2.yaml").write_text("kind: head\n")
    assert load_recipe(tmp_path / "cells.v2.yaml").name == "cells.v2"


def test_the_digest_depends_on_what_the_recipe_says_and_not_on_how() -> None:
    one = parse_recipe(b"kind: head\nname: x\nepochs: 16\n", "a")
    assert one.digest == parse_recipe(b"name: x\nkind: head\n", "b").digest
    assert one.digest != parse_recipe(b"name: x\nkind: head\nepochs: 17\n", "c").digest
    assert isinstance(one, HeadRecipe)


def test_a_discriminant_cannot_weigh_examples() -> None:
    with pytest.raises(SchemaError, match="discriminant"):
        parse_recipe(b"kind: probe\nname: x\nmethod: discriminant\nclass_weights: balanced\n", "a")
    assert isinstance(load_recipe("probe"), ProbeRecipe)
