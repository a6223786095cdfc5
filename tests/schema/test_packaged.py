import json
import os
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from datasetops.schema import load_schema, packaged_schemas


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("DSOPS_TEST_DATA")
    if not folder:
        pytest.skip("DSOPS_TEST_DATA is not set")
    return Path(folder)


def test_names() -> None:
    assert packaged_schemas() == ("blood_cells", "cifar10", "digits")
    assert [load_schema(name).name for name in packaged_schemas()] == list(packaged_schemas())


def test_every_class_has_a_definition_and_a_colour_of_its_own() -> None:
    for name in packaged_schemas():
        classes = load_schema(name).classes
        assert all(c.definition.endswith(".") for c in classes)
        assert len({c.colour for c in classes}) == len(classes)


def test_digits_are_the_targets_of_scikit_learn() -> None:
    targets = load_digits().target_names.tolist()
    assert {c.id: c.name for c in load_schema("digits").classes} == {n: str(n) for n in targets}


def test_cifar10_has_the_official_ids_and_names(data: Path) -> None:
    official = json.loads((data / "cifar10n" / "classes.json").read_text())
    names = official if isinstance(official, list) else [official[key] for key in sorted(official, key=int)]
    assert {c.id: c.name for c in load_schema("cifar10").classes} == dict(enumerate(names))


def test_blood_cell_limits_report_the_box_without_area_and_no_other(data: Path) -> None:
    schema = load_schema("blood_cells")
    coco = json.loads((data / "bccd" / "coco.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    assert set(names.values()) == set(schema.class_names)
    reported = []
    for box in coco["annotations"]:
        short, long = sorted(box["bbox"][2:])
        limits = [limit for limit in schema.limits if not limit.classes or names[box["category_id"]] in limit.classes]
        if any(
            short < (limit.min_side or 0)
            or long > (limit.max_side or long)
            or long > (limit.max_aspect or float("inf")) * short
            for limit in limits
        ):
            reported.append(box["bbox"])
    assert reported == [[504, 337, 0, 0]]
