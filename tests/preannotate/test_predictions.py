"""What models said is kept whole, found again, and survives damage and crowds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.predictions import ModelInfo, Outcome, PredictionStore, Stored, stored_models

SIZE = ImageSize(40, 30, 6)
MANY = Outcome(
    SIZE,
    (
        Prediction("classification", "a", 0.7, scores={"a": 0.7, "b": 0.25}),
        Prediction("box", "b", 0.123456789, box=(1.00499, 2.0, 3.0, 4.0)),
        Prediction("mask", "a", 0.5, box=(0, 0, 2, 2), geometry={"rle": {"size": [30, 40], "counts": "0412"}}),
        Prediction("text", None, 0.9, geometry={"polygons": [[0, 0, 5, 0, 5, 5]]}, text="STOP – 5 €"),
    ),
)


@pytest.fixture
def store(repository: Repository) -> PredictionStore:
    return PredictionStore(repository, "d" * 64)


def everything(store: PredictionStore, keys: list[str]) -> dict[str, tuple[Stored, int]]:
    return {
        key: (stored, row)
        for stored in store.read(keys)
        for row, key in enumerate(stored.images["key"].to_pylist())
    }  # fmt: skip


def test_all_of_a_prediction_comes_back(store: PredictionStore) -> None:
    store.add(["one", "two", "three"], [MANY, Outcome(SIZE), Outcome(ImageSize(1, 2), fault="no luck")])
    (stored,) = store.read(["two", "one", "three", "four"])
    assert stored.images.to_pylist() == [
        {"key": "one", "width": 40, "height": 30, "orientation": 6, "fault": None},
        {"key": "two", "width": 40, "height": 30, "orientation": 6, "fault": None},
        {"key": "three", "width": 1, "height": 2, "orientation": 1, "fault": "no luck"},
    ]
    rows = stored.predictions.to_pylist()
    assert [(row["item"], row["rank"], row["kind"], row["name"]) for row in rows] == [
        (0, 0, "classification", "a"),
        (0, 1, "box", "b"),
        (0, 2, "mask", "a"),
        (0, 3, "text", None),
    ]
    assert (rows[1]["score"], rows[1]["x1"], rows[1]["y2"]) == (0.12346, 1.0, 4.0)
    assert rows[2]["geometry"] == '{"rle":{"counts":"0412","size":[30,40]}}'
    assert (rows[3]["text"], rows[3]["x1"]) == ("STOP – 5 €", None)
    assert stored.names == ("a", "b")
    np.testing.assert_allclose(stored.scores, [[0.7, 0.25], [np.nan, np.nan], [np.nan, np.nan]], rtol=1e-6)
    assert store.known(["one", "four"]) == {"one"}


def test_nothing_is_kept_of_nothing(store: PredictionStore, repository: Repository) -> None:
    store.add([], [])
    assert list(repository.store.list("predictions/")) == []
    assert list(store.read(["one"])) == []
    assert store.known(["one"]) == set()


def test_scores_of_different_names_do_not_mix(store: PredictionStore) -> None:
    outcomes = [
        Outcome(SIZE, (Prediction("classification", name, 1.0, scores=scores),))
        for name, scores in (("a", {"a": 1.0, "b": 0.0}), ("c", {"c": 0.75}))
    ]
    store.add(["one", "two"], outcomes)
    (stored,) = store.read(["one", "two"])
    assert stored.names == ("a", "b", "c")
    np.testing.assert_array_equal(stored.scores, [[1, 0, np.nan], [np.nan, np.nan, 0.75]])


def test_what_was_kept_twice_is_read_once(store: PredictionStore) -> None:
    store.add(["one", "two"], [MANY, MANY])
    store.add(["two", "three"], [MANY, MANY])
    found = [key for stored in store.read(["one", "two", "three"]) for key in stored.images["key"].to_pylist()]
    assert sorted(found) == ["one", "three", "two"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_file_is_as_if_it_were_not_there(store: PredictionStore, repository: Repository, damage: str) -> None:
    store.add([f"key{number}" for number in range(50)], [MANY] * 50)
    (name,) = repository.store.list("predictions/")
    store.add(["sound"], [MANY])
    file = Path(repository.store.path(name))
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[200] ^= 64
    file.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "other": b"PAR1 no", "empty": b""}[damage])
    found = everything(store, ["key1", "sound"])
    assert found.keys() == {"sound"}


def test_many_write_at_once(store: PredictionStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.add([f"key{number}", "shared"], [MANY, MANY]), range(24)))
    keys = [f"key{number}" for number in range(24)] + ["shared"]
    assert everything(store, keys).keys() == set(keys)


def test_models_are_told_apart(repository: Repository) -> None:
    model = ModelInfo("org/net", "r1", "d" * 64, ("box",), ("a", "b"))
    other = ModelInfo("local", None, "e" * 64, ("box",), None)
    for one in (model, other, model):
        PredictionStore(repository, one.digest).describe(one)
    PredictionStore(repository, model.digest).add(["one"], [MANY])
    assert PredictionStore(repository, other.digest).known(["one"]) == set()
    assert stored_models(repository) == [other, model]
    assert (model.label, other.label) == ("org/net@r1#dddddddddddd", "local#eeeeeeeeeeee")
