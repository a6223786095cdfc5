"""Pre-annotation from images to a version, with a predictor that is an exact function of pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from colours import NAMES, SCHEMA, MeanColour, add_image, picture, run
from PIL import Image

from datasetops.errors import ConflictError, ModelError, NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, verify
from datasetops.manifest.commit import get_object
from datasetops.preannotate.predictions import PredictionStore, find_model, stored_models
from datasetops.records import ANNOTATIONS, canonical_json

CONTENT = [name for name in ANNOTATIONS.names if name not in ("event_id", "created_at", "answer")]


def rows(repository: Repository, version: str = "main") -> pd.DataFrame:
    return repository.version(version).annotations().set_index("annotation_id", drop=False)


def content(repository: Repository, version: str = "main") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = repository.version(version).table("annotations", CONTENT).to_pylist()
    return found


def entries(repository: Repository) -> int:
    tail = repository.ledger.tail()
    assert tail is not None
    return tail.number


def kept_files(repository: Repository) -> list[str]:
    return list(repository.store.list("predictions/"))


def commit(repository: Repository, *annotations: dict[str, Any], message: str = "by hand") -> None:
    repository.commit(Change(annotations=list(annotations)), message=message)


def human(sample: str, label: str, **values: Any) -> dict[str, Any]:
    row = {"annotation_id": f"{sample}/label", "sample_id": sample, "kind": "classification", "label": label}
    return {**row, "source": "human", "actor": "ann"} | values


def test_rows_say_what_the_model_saw_and_where_they_come_from(coloured: Repository) -> None:
    made = run(coloured)
    assert (made.version, made.selected, made.asked, made.computed, made.known) == ("v2", 12, 12, 12, 0)
    assert made.counts == {"inserted": 24, "updated": 0, "deleted": 0}
    assert made.by_class == {"red": 8, "green": 8, "blue": 8}
    found = rows(coloured)
    assert set(found["source"]) == {"model"}
    assert set(found["model"]) == {"mean-colour#aaaaaaaaaaaa"}
    for number in range(12):
        own = found[found["sample_id"] == f"s{number:02}"].set_index("kind")
        box = own.loc["box"]
        assert box["label"] == own.loc["classification"]["label"] == NAMES[number % 3]
        x2, y2 = number + 8 + number % 5, 20 + number % 7
        assert box[["x1", "y1", "x2", "y2"]].tolist() == [number, 2, x2, y2]
        assert box["score"] == pytest.approx((x2 - number) * (y2 - 2) / 1200, abs=1e-5)
        assert box["answer"] == {"digest": "a" * 64, "event": box["event_id"], "name": NAMES[number % 3]}
    entry = coloured.ledger.tail()
    assert entry is not None
    assert entry.event.kind == "preannotate"
    assert set(found["event_id"]) == {entry.event.event_id}
    assert entry.event.parameters["digest"] == "a" * 64
    assert entry.event.parameters["engine"] == "local"
    (file,) = entry.event.outputs["files"]
    record = json.loads(coloured.store.get(file))
    assert record["mapping"] == {name: name for name in NAMES}
    assert record["thresholds"] == 0.0
    assert record["counts"]["computed"] == 12
    assert verify(coloured) == []


def test_the_event_names_the_packages_that_the_model_says_it_uses(coloured: Repository) -> None:
    model = MeanColour()
    model.packages = ("numpy", "of-no-such-name")  # type: ignore[attr-defined]
    run(coloured, model)
    tail = coloured.ledger.tail()
    assert tail is not None
    assert tail.event.parameters["packages"] == {"numpy": np.__version__}


def test_nothing_is_computed_or_written_again(coloured: Repository) -> None:
    run(coloured)
    before, files, model = entries(coloured), kept_files(coloured), MeanColour()
    again = run(coloured, model)
    assert (again.version, again.known, again.computed, model.seen) == (None, 12, 0, 0)
    assert again.by_class == {"red": 8, "green": 8, "blue": 8}
    assert (entries(coloured), kept_files(coloured)) == (before, files)


def test_another_threshold_takes_what_was_predicted(coloured: Repository) -> None:
    run(coloured)
    first = content(coloured)
    model = MeanColour()
    high = run(coloured, model, thresholds=0.55)
    assert (high.version, model.seen, high.counts["inserted"], high.counts["updated"]) == ("v3", 0, 0, 0)
    assert high.counts["deleted"] == sum(row["score"] < 0.55 for row in first)
    assert content(coloured) == [row for row in first if row["score"] >= 0.55]
    by_class = run(coloured, model, thresholds={"red": 0.0, "green": 1.0, "blue": 1.0})
    assert (by_class.version, model.seen, by_class.by_class) == ("v4", 0, {"red": 8})
    assert content(coloured) == [row for row in first if row["label"] == "red"]
    run(coloured, model)
    assert (content(coloured), model.seen) == (first, 0)


def test_default_thresholds_differ_by_kind(coloured: Repository) -> None:
    run(coloured, thresholds=None)
    found = rows(coloured)
    assert (found["kind"] == "classification").sum() == 12
    assert (found[found["kind"] == "box"]["score"] >= 0.3).all()
    run(coloured, thresholds={"red": 0.0})
    assert set(rows(coloured).query("kind == 'box'")["label"]) == {"red"}


def test_what_people_said_is_never_overwritten(coloured: Repository) -> None:
    wrong = [human("s00", "blue"), human("s03", "green", source="import"), human("s04", "red", source="consensus")]
    commit(coloured, *wrong)
    before = content(coloured)
    made = run(coloured)
    assert (made.selected, made.labeled, made.asked) == (12, 3, 12)
    found = content(coloured)
    assert [row for row in found if row["source"] != "model"] == before
    classified = [row["sample_id"] for row in found if row["kind"] == "classification"]
    assert len(classified) == len(set(classified)) == 12
    assert sum(row["kind"] == "box" for row in found) == 12  # nobody drew boxes
    only = run(coloured, task="classification")
    assert (only.asked, only.labeled) == (9, 3)
    assert (only.version, content(coloured)) == (None, found)


def test_predictions_about_labeled_samples_are_kept_on_request(coloured: Repository) -> None:
    commit(coloured, human("s00", "blue"), human("s03", "green"))
    without = MeanColour()
    run(coloured, without, task="classification")
    assert without.seen == 10
    before, model = content(coloured), MeanColour()
    made = run(coloured, model, task="classification", also_labeled=True)
    assert (model.seen, made.computed, made.version) == (2, 2, None)
    assert content(coloured) == before
    store = PredictionStore(coloured, model.digest)
    keys = coloured.version().table("samples", ["sha256"])["sha256"].to_pylist()
    assert store.known(keys) == set(keys)
    tail = coloured.ledger.tail()
    assert tail is not None
    assert (tail.event.kind, tail.version) == ("preannotate", None)
    assert [model.label for model in stored_models(coloured)] == ["mean-colour#aaaaaaaaaaaa"]


def test_a_row_that_somebody_changed_since_stays(coloured: Repository) -> None:
    run(coloured)
    found = rows(coloured)
    corrected = found.loc["s00#aaaaaaaaaaaa.classification"].to_dict() | {
        "label": "blue", "source": "human", "actor": "ann", "event_id": None, "created_at": None, "answer": None,
    }  # fmt: skip
    marked = found.loc["s01#aaaaaaaaaaaa.box1"].to_dict() | {"attributes": {"checked": True}, "event_id": None}
    plain = [{name: value for name, value in row.items() if value == value} for row in (corrected, marked)]
    commit(coloured, *plain)
    made = run(coloured, thresholds=1.0)
    left = rows(coloured)
    assert set(left.index) == {"s00#aaaaaaaaaaaa.classification", "s01#aaaaaaaaaaaa.box1"}
    assert left.loc["s00#aaaaaaaaaaaa.classification"]["label"] == "blue"
    assert left.loc["s01#aaaaaaaaaaaa.box1"]["attributes"] == {"checked": True}
    assert (made.stayed, made.labeled) == (1, 1)
    run(coloured)
    back = rows(coloured)
    assert len(back) == 24
    assert back.loc["s01#aaaaaaaaaaaa.box1"]["attributes"] == {"checked": True}
    other = run(coloured, MeanColour("b" * 64))
    assert other.stayed == 1
    assert rows(coloured).query("sample_id == 's01' and kind == 'box'").index.tolist() == ["s01#aaaaaaaaaaaa.box1"]


def test_where_limit_and_classes_choose(coloured: Repository) -> None:
    model = MeanColour()
    run(coloured, model, where="sample_id IN ('s01', 's05', 's07')")
    assert set(rows(coloured)["sample_id"]) == {"s01", "s05", "s07"}
    assert model.seen == 3
    run(coloured, model, limit=2)
    assert set(rows(coloured)["sample_id"]) == {"s00", "s01", "s05", "s07"}
    assert model.seen == 4
    made = run(coloured, model, classes=["red"])
    assert (model.seen, made.asked) == (12, 12)
    found = rows(coloured)
    assert set(found[found["sample_id"] == "s05"]["label"]) == {"blue"}  # of an earlier run that asked for it
    assert set(found.query("label == 'red'")["sample_id"]) == {"s00", "s03", "s06", "s09"}  # no image is "mostly" red
    assert len(found[~found["sample_id"].isin(["s01", "s05", "s07"])]) == 8


def test_a_newer_model_replaces_what_an_older_one_said(coloured: Repository) -> None:
    run(coloured)
    newer = MeanColour("b" * 64, ("green", "red", "violet"))  # calls red what is green
    made = run(coloured, newer)
    assert made.mapping["unmapped"] == ["violet"]
    assert made.mapping["unreached"] == ["blue"]
    found = rows(coloured)
    by_sample = {name: own.set_index("kind")["label"] for name, own in found.groupby("sample_id")}
    assert by_sample["s00"].to_dict() == {"box": "green", "classification": "green"}
    assert by_sample["s01"].to_dict() == {"box": "red", "classification": "red"}
    assert by_sample["s02"].to_dict() == {"box": "blue", "classification": "blue"}  # the newer one cannot name it
    assert set(found[found["sample_id"] == "s02"]["model"]) == {"mean-colour#aaaaaaaaaaaa"}
    assert len(found) == 24


def test_where_a_newer_model_is_not_sure_enough_the_older_ones_row_goes_too(coloured: Repository) -> None:
    run(coloured, task="classification")
    made = run(coloured, MeanColour("b" * 64), task="classification", thresholds=1.0)
    assert (made.by_class, made.counts["deleted"], made.replaced) == ({}, 12, 12)
    assert rows(coloured).empty
    again = run(coloured, MeanColour("b" * 64), task="classification", thresholds=1.0)
    assert (again.version, again.replaced, again.below) == (None, 0, 12)
    assert 0.4 < (again.highest or 0) < 1
    run(coloured, task="classification")
    run(coloured, MeanColour("b" * 64), task="classification", thresholds=1.0, classes=["red"])
    assert set(rows(coloured)["label"]) == {"green", "blue"}  # it was asked for red alone


def test_boxes_where_people_outlined_things_are_counted(coloured: Repository) -> None:
    ring = canonical_json({"polygons": [[0, 2, 8, 2, 8, 20]]}).decode()
    commit(coloured, human("s00", "red", kind="polygon", geometry=ring))
    made = run(coloured, task="box")
    assert (made.outlined, made.below, made.highest) == (1, 0, None)
    assert run(coloured, task="classification").outlined == 0


def test_rows_of_models_from_elsewhere_stay(coloured: Repository) -> None:
    theirs = human("s00", "blue", source="model", model="imported", actor=None)
    box = theirs | {"annotation_id": "s00#x", "kind": "box", "label": "red", "x1": 0, "y1": 0, "x2": 9, "y2": 9}
    commit(coloured, theirs, box)
    run(coloured)
    found = rows(coloured)
    assert found.loc["s00/label"]["label"] == "blue"
    own = found[found["sample_id"] == "s00"]
    assert sorted(own["kind"]) == ["box", "box", "classification"]


def test_images_that_cannot_be_read_become_findings_and_the_rest_goes_on(coloured: Repository, root: Path) -> None:
    good = (root / "s02.png").read_bytes()
    (root / "s02.png").write_bytes(good[: len(good) // 2])
    (root / "s05.png").unlink()
    dark = add_image(root, "dark", Image.new("RGB", (20, 20)))
    coloured.commit(Change(samples=[dark, {"sample_id": "nothing", "uri": "nowhere.png"}]), message="more")
    model = MeanColour()
    made = run(coloured, model)
    assert made.without_image == 1
    reasons = {fault.sample_id: fault.message for fault in made.faults}
    assert reasons.keys() == {"s02", "s05", "dark"}
    assert "truncated" in reasons["s02"]
    assert "does not exist" in reasons["s05"]
    assert "NaN" in reasons["dark"]
    assert set(rows(coloured)["sample_id"]) == {f"s{number:02}" for number in range(12)} - {"s02", "s05"}
    entry = coloured.ledger.tail()
    assert entry is not None
    told = json.loads(get_object(coloured.store, "findings", entry.event.outputs["findings"]))
    assert {row["sample_id"] for row in told} == reasons.keys()
    before, seen = entries(coloured), model.seen
    again = run(coloured, model)
    assert ({fault.sample_id for fault in again.faults}, again.version) == (reasons.keys(), None)
    assert (model.seen, entries(coloured)) == (seen, before)
    (root / "s02.png").write_bytes(good)
    mended = run(coloured, model)
    assert (mended.computed, mended.counts["inserted"]) == (1, 2)


def test_a_fault_leaves_what_stood_there(coloured: Repository) -> None:
    run(coloured)
    before = content(coloured)

    class Broken(MeanColour):
        def predict(self, prepared: Sequence[Any]) -> list[list[Any]]:
            raise RuntimeError("no luck")

    made = run(coloured, Broken("c" * 64))
    assert (made.version, len(made.faults), made.computed) == (None, 12, 0)
    assert "no luck" in made.faults[0].message
    assert content(coloured) == before


def test_equal_images_are_computed_once(coloured: Repository, root: Path) -> None:
    twin = coloured.version().samples().query("sample_id == 's00'").to_dict("records")[0] | {"sample_id": "twin"}
    coloured.commit(Change(samples=[{name: value for name, value in twin.items() if value == value}]), message="a twin")
    model = MeanColour()
    made = run(coloured, model)
    assert (made.asked, made.computed, model.seen) == (13, 12, 12)
    found = rows(coloured)
    pairs = [
        found.loc[f"{name}#aaaaaaaaaaaa.box1"][["label", "x1", "x2", "score"]].tolist() for name in ("s00", "twin")
    ]
    assert pairs[0] == pairs[1]


def test_a_dry_run_measures_and_writes_nothing(coloured: Repository, root: Path) -> None:
    before = entries(coloured)
    made = run(coloured, dry_run=True, price_per_hour=3.6)
    assert made.cost is not None
    assert made.cost.seconds is not None
    assert (made.version, made.cost.images, made.cost.measured) == (None, 12, 12)
    assert 0 < made.cost.seconds < 60
    assert made.cost.money == pytest.approx(made.cost.seconds / 1000)
    assert (entries(coloured), kept_files(coloured)) == (before, [])
    run(coloured, limit=5)
    rest = run(coloured, dry_run=True)
    assert rest.cost is not None
    assert (rest.known, rest.cost.images, rest.cost.money) == (5, 7, None)
    run(coloured)
    done = run(coloured, dry_run=True, price_per_hour=3.6)
    assert done.cost is not None
    assert (done.cost.images, done.cost.seconds, done.cost.money) == (0, 0.0, 0.0)
    for number in range(12):
        (root / f"s{number:02}.png").unlink()
    lost = run(coloured, MeanColour("b" * 64), dry_run=True)
    assert lost.cost is not None
    assert lost.cost.seconds is None
    with pytest.raises(ValueError, match="price per hour"):
        run(coloured, MeanColour("b" * 64), dry_run=True, price_per_hour=float("nan"))


def test_what_came_since_a_version_counts(coloured: Repository, root: Path) -> None:
    commit(coloured, human("s00", "blue"))
    coloured.commit(
        Change(samples=[add_image(root, "s01", picture(40, 30, (0, 0, 9, 9), 0))], remove_samples=["s02"]), message="m"
    )
    made = run(coloured, version="v1", task="classification")
    assert made.asked == 9  # s00 was labeled since, s01 has another image, s02 is gone
    found = rows(coloured)
    assert set(found["sample_id"]) == {"s00", *(f"s{number:02}" for number in range(3, 12))}
    assert found[found["sample_id"] == "s00"]["source"].tolist() == ["human"]
    coloured.commit(Change(schema=SCHEMA.model_copy(update={"version": 2})), message="schema")
    with pytest.raises(ConflictError, match="another label schema"):
        run(coloured, version="v1")


def test_somebody_labels_while_the_model_works(coloured: Repository) -> None:
    class Slow(MeanColour):
        def predict(self, prepared: Sequence[Any]) -> list[list[Any]]:
            if not self.seen:
                commit(coloured, human("s03", "blue"))
                box = {"annotation_id": "s04#aaaaaaaaaaaa.box1", "kind": "box", "x1": 1, "y1": 1, "x2": 2, "y2": 2}
                commit(coloured, human("s04", "red") | box)
            return super().predict(prepared)

    run(coloured, Slow())
    found = rows(coloured)
    own = found[(found["sample_id"] == "s03") & (found["kind"] == "classification")]
    assert own["source"].tolist() == ["human"]
    assert found.loc["s04#aaaaaaaaaaaa.box1"]["source"] == "human"


def test_a_branch_gets_the_version(coloured: Repository) -> None:
    coloured.create_branch("trial")
    made = run(coloured, version="trial", branch="trial")
    assert coloured.branches() == {"main": "v1", "trial": made.version}


def test_misuse_and_models_that_do_not_fit_are_told(coloured: Repository) -> None:
    with pytest.raises(ModelError, match=r"has no task 'mask'"):
        run(coloured, task="mask")
    with pytest.raises(ModelError, match="has no class 'purple'"):
        run(coloured, classes=["purple"])
    with pytest.raises(ModelError, match="cannot name 'blue'"):
        run(coloured, MeanColour(names=("red", "green", "violet")), classes=["red", "blue"])
    with pytest.raises(ModelError, match="none of the classes"):
        run(coloured, MeanColour(names=("x", "y", "z")))
    with pytest.raises(ValueError, match="limit"):
        run(coloured, limit=0)
    with pytest.raises(ValueError, match="threshold"):
        run(coloured, thresholds=1.5)
    with pytest.raises(ValueError, match="threshold"):
        run(coloured, thresholds={"red": float("nan")})
    with pytest.raises(NotFoundError, match="no class 'rad'"):
        run(coloured, thresholds={"rad": 0.5})

    class Texts(MeanColour):
        kinds = ("text",)  # type: ignore[assignment]

    with pytest.raises(ModelError, match="gives text, and the schema 'colours' asks for classification and box"):
        run(coloured, Texts())
    assert len(list(coloured.versions())) == 1


def test_a_model_is_found_by_name_label_or_digest(coloured: Repository) -> None:
    run(coloured)
    run(coloured, MeanColour("b" * 64), limit=1)
    assert find_model(coloured, "bbbbbbbb").digest == "b" * 64
    assert find_model(coloured, "mean-colour#aaaaaaaaaaaa").digest == "a" * 64
    assert find_model(coloured, "mean-colour").digest == "b" * 64  # it ran last
    run(coloured, thresholds={"red": 0.5})
    assert find_model(coloured, "mean-colour").digest == "a" * 64
    with pytest.raises(NotFoundError, match="No predictions of a model 'other'"):
        find_model(coloured, "other")


def test_an_event_of_another_kind_does_not_disturb(coloured: Repository) -> None:
    run(coloured)
    coloured.ledger.record(Event("note", "ann"))
    assert run(coloured).version is None
