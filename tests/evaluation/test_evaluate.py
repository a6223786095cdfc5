"""The verbs on small repositories with a predictor that is a function of pixels, and on real data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from colours import NAMES, SCHEMA, MeanColour, add_image, picture
from typer.testing import CliRunner, Result

from datasetops.cli import evaluate as command
from datasetops.engine.local import LocalEngine
from datasetops.errors import ModelError, NotFoundError, RejectedError
from datasetops.evaluation.compare import compare
from datasetops.evaluation.compare_report import comparison_sections, write_comparison
from datasetops.evaluation.evaluate import evaluate
from datasetops.evaluation.record import Evaluation, load_evaluation, looks_at
from datasetops.evaluation.report import known_limits, model_card, write_report
from datasetops.ingest import ingest
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Change, Repository
from datasetops.models.predictor import Prediction
from datasetops.preannotate.labelers import EngineLabeler
from datasetops.preannotate.predictions import ModelInfo, Outcome, PredictionStore
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

pytestmark = pytest.mark.slow
WRONG = ("s01", "s07")  # samples whose label says another colour than the image


@pytest.fixture
def labeled(tmp_path: Path) -> Repository:
    """v1: 40 images of the split test, with the colour and its box; 2 of "train"."""
    return fill(tmp_path / "set", 40)


def fill(root: Path, count: int) -> Repository:
    repository = Repository.init(root, SCHEMA)
    samples, annotations = [], []
    for number in range(count + 2):
        box = (number % 12, 2, number % 12 + 8 + number % 5, 20 + number % 7)
        sample = add_image(root, f"s{number:02}", picture(40, 30, box, number % 3))
        light = "night" if number % 4 == 0 else "day"
        samples.append(sample | {"split": "test" if number < count else "train", "metadata": {"light": light}})
        name = sample["sample_id"]
        colour = NAMES[(number + (name in WRONG)) % 3]
        own = {"sample_id": name, "label": colour, "source": "human"}
        annotations.append(own | {"annotation_id": f"{name}c", "kind": "classification"})
        corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
        annotations.append(own | {"annotation_id": f"{name}b", "kind": "box"} | corners)
    repository.commit(Change(samples=samples, annotations=annotations), message="labeled")
    return repository


def asked(repository: Repository, predictor: Any = None) -> EngineLabeler:
    media = Media(repository.store, repository.root)
    return EngineLabeler(predictor or MeanColour(), LocalEngine(jobs=1), media.read)


def run(repository: Repository, predictor: Any = None, **options: Any) -> Evaluation:
    return evaluate(repository, repository.version(), asked(repository, predictor), **{"resamples": 100} | options)


def test_classes_of_a_split(labeled: Repository) -> None:
    found = run(labeled)
    info = found.info
    assert (info["kind"], info["items"]) == ("classification", {"chosen": 40, "judged": 40, "errors": 2})
    assert found.metrics["accuracy"] == pytest.approx(38 / 40)
    assert dict(zip(found.failures["sample_id"], found.failures["predicted"], strict=True)) == dict.fromkeys(
        WRONG, "green"
    )
    assert found.failures["score"].is_monotonic_decreasing
    assert set(found.failures["truth"]) == {"blue"}
    accuracy = info["intervals"]["accuracy"]
    assert accuracy["low"] < 0.95 < accuracy["high"]
    keys = {item["key"] for item in info["slices"]["accuracy"]}
    assert "light" in keys
    assert sum(item["items"] for item in info["slices"]["accuracy"] if item["key"] == "light") == 40
    assert load_evaluation(labeled, found.evaluation_id[:8]).info == json.loads(json.dumps(info))
    tail = labeled.ledger.tail()
    assert tail is not None
    assert (tail.event.kind, tail.event.outputs["evaluation"]) == ("evaluate", found.evaluation_id)


def test_nothing_is_computed_or_recorded_twice(labeled: Repository) -> None:
    model = MeanColour()
    first = run(labeled, model)
    seen, tail = model.seen, labeled.ledger.tail()
    assert seen == 40
    again = run(labeled, model)
    assert again.reused
    assert (again.evaluation_id, again.info["metrics"]) == (first.evaluation_id, first.info["metrics"])
    assert model.seen == seen
    assert labeled.ledger.tail() == tail
    by_name = evaluate(labeled, labeled.version(), first.info["model"]["label"], resamples=100)
    assert by_name.evaluation_id == first.evaluation_id
    part = evaluate(labeled, labeled.version(), "mean-colour", where="metadata->>'light' = 'night'", resamples=100)
    assert part.info["items"]["judged"] == 10
    assert part.metrics["accuracy"] == 1.0


def test_boxes_of_a_split(labeled: Repository) -> None:
    found = run(labeled, task="box", score=0.0)
    assert found.info["kind"] == "box"
    assert found.metrics["AP50"] < 1.0
    assert found.metrics["AR100"] == pytest.approx(38 / 40, abs=0.02)
    kinds = found.info["details"]["error_kinds"]["kinds"]
    assert kinds["classification"]["count"] == 2
    assert sum(item["count"] for item in kinds.values()) == 2
    assert set(found.failures["sample_id"]) == set(WRONG)
    assert set(found.failures["annotation_id"]) == {f"{name}b" for name in WRONG}
    clean = run(labeled, task="box", where=" AND ".join(f"sample_id != '{name}'" for name in WRONG), score=0.0)
    assert clean.metrics["AP"] == clean.metrics["pooled_AP"] == 1.0
    assert not len(clean.failures)


def test_images_that_cannot_be_read_any_more_are_named(labeled: Repository) -> None:
    root = labeled.root
    assert root is not None
    (root / "s02.png").unlink()
    (root / "s03.png").write_bytes(b"no image")
    info = run(labeled).info
    assert {fault["sample_id"] for fault in info["faults"]} == {"s02", "s03"}
    assert info["items"] == {"chosen": 40, "judged": 38, "errors": 2}
    assert any(line.startswith("2 of 40 samples have no answer") and "s02.png" in line for line in info["warnings"])


def test_what_is_refused(labeled: Repository) -> None:
    with pytest.raises(NotFoundError, match="no split 'tset'") as caught:
        run(labeled, split="tset")
    assert "'test'" in caught.value.remedy
    with pytest.raises(NotFoundError, match="is empty"):
        run(labeled, where="width > 9000")
    with pytest.raises(ModelError, match="of which mask is wanted"):
        run(labeled, task="mask")
    with pytest.raises(NotFoundError, match="No predictions of a model"):
        evaluate(labeled, labeled.version(), "nobody")
    taught = MeanColour()
    taught.trained_on = ["s40", "s41", "s05"]  # type: ignore[attr-defined]
    with pytest.raises(RejectedError, match=r"trained on 1 of these 40 samples.*: s05"):
        run(labeled, taught)
    taught.trained_on = ["s40", "s41"]  # type: ignore[attr-defined]
    assert run(labeled, taught).metrics["accuracy"] == pytest.approx(0.95)


def test_a_copy_of_what_a_model_was_trained_on_is_refused(labeled: Repository) -> None:
    version = labeled.version()
    own = {row["sample_id"]: row for row in version.table("samples").to_pylist()}
    copy = {name: own["s00"][name] for name in ("uri", "sha256", "width", "height", "media_type")}
    labeled.commit(Change(samples=[copy | {"sample_id": "copy", "split": "train"}]), message="a copy")
    taught = MeanColour()
    taught.trained_on = ["copy"]  # type: ignore[attr-defined]
    with pytest.raises(RejectedError, match="or on copies of them: s00"):
        run(labeled, taught)


def test_a_sealed_split_is_looked_at_on_purpose_and_counted(labeled: Repository) -> None:
    labeled.commit(Change(sealed=["test"]), message="seal")
    with pytest.raises(RejectedError, match="sealed; it was looked at 0 times") as caught:
        run(labeled)
    assert "--sealed" in caught.value.remedy
    assert looks_at(labeled, "test") == 0
    assert run(labeled, sealed=True).info["looks"] == 0
    second = run(labeled, MeanColour("b" * 64), sealed=True)
    assert second.info["looks"] == 1
    assert any("looked at 1 times before" in line for line in second.info["warnings"])
    assert looks_at(labeled, "test") == 2
    assert run(labeled, split="train").info["sealed"] == []


def test_a_class_without_examples_and_one_class_alone_are_said(labeled: Repository) -> None:
    warnings = run(labeled, where="label = 'red'").info["warnings"]
    assert any("Classes without an example" in line and "green, blue" in line for line in warnings)
    assert any("All examples are of one class, 'red'" in line for line in warnings)
    labeled.commit(Change(samples=[{"sample_id": "bare", "uri": "s00.png", "split": "bare"}]), message="unlabeled")
    with pytest.raises(NotFoundError, match="says nothing of any of these samples"):
        run(labeled, split="bare")


def test_nobody_labeled_what_is_judged(labeled: Repository) -> None:
    rows = labeled.version().table("annotations").to_pylist()
    models = [row | {"source": "model", "model": "m"} for row in rows if row["sample_id"] in ("s40", "s41")]
    labeled.commit(Change(annotations=models), message="by a model")
    with pytest.raises(NotFoundError, match="has a classification by people"):
        run(labeled, split="train")


class Confused(MeanColour):
    """Takes what is green for blue, in boxes too."""

    name = "confused"

    def predict(self, prepared: Sequence[Any]) -> list[list[Prediction]]:
        swap = {"green": "blue", "blue": "green", "red": "red"}
        answers = super().predict(prepared)
        return [
            [
                Prediction(
                    one.kind, swap[one.name or ""] if one.name == "green" else one.name, one.score, one.box,
                    scores=one.scores and {swap[name]: value for name, value in one.scores.items()}
                    if one.name == "green" else one.scores,
                )
                for one in own
            ]
            for own in answers
        ]  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "box"])
def test_a_worse_model_is_told_where_and_on_what(labeled: Repository, task: str, tmp_path: Path) -> None:
    found = compare(
        labeled,
        labeled.version(),
        asked(labeled),
        asked(labeled, Confused("c" * 64)),
        task=task,
        score=0.0,
        resamples=100,
    )
    info = found.info
    main = next(iter(info["metrics"].values()))
    assert main["difference"] < -0.2
    assert main["high"] < 0
    assert {"light = day", "light = night"} <= set(info["worse"])
    lost = found.flips[found.flips["flip"] == "right to wrong"]
    assert info["flips"]["right to wrong"] == len(lost) == sum(number % 3 == 1 for number in range(40)) - 2
    assert set(lost["truth"]) == {"green"}
    for name in ("c.html", "c.md", "c.json"):
        write_comparison(labeled, labeled.version(), found, tmp_path / name)
    html = (tmp_path / "c.html").read_text()
    assert html.count("data:image/jpeg;base64,") == sum(min(count, 12) for count in info["flips"].values())
    assert "Slices that lose a point or more" in html
    assert ("What people drew is green" in html) == (task == "box")
    if task == "box":
        assert set(found.found["model"]) == {"first", "second"}
        assert set(found.found["sample_id"]) == set(found.flips["sample_id"])
        assert found.flips["x1"].notna().all()
    assert ("before: green" in html) == (task == "classification")
    assert "| light = night |" in (tmp_path / "c.md").read_text()
    assert "A is mean-colour#" in html
    assert "| B: confused | B - A |" in (tmp_path / "c.md").read_text()
    assert json.loads((tmp_path / "c.json").read_text())["flips"] == info["flips"]
    same = compare(labeled, labeled.version(), asked(labeled), asked(labeled), task=task, resamples=100)
    assert (same.info["worse"], same.info["flips"]) == ([], {})
    (row,) = comparison_sections(same.info | {"metrics": {"AP": main | {"low": None, "small": True, "groups": 9}}})[
        0
    ].rows
    assert row[-1] == "none: 9 independent groups, fewer than 10"
    tail = labeled.ledger.tail()
    assert tail is not None
    assert tail.event.kind == "compare"


def test_reports_and_card(labeled: Repository, tmp_path: Path) -> None:
    found = run(labeled, task="box", score=0.0)
    for name in ("r.html", "r.md", "r.json"):
        write_report(labeled, labeled.version(), found, tmp_path / name)
    html = (tmp_path / "r.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 2
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "What each kind of error costs" in html
    markdown = (tmp_path / "r.md").read_text()
    assert "## Slices, worst first" in markdown
    assert "s01.png" in markdown
    assert json.loads((tmp_path / "r.json").read_text())["evaluation"] == found.evaluation_id
    assert "## Known limits" in model_card(found)
    assert any("Fewer than 30 examples" in line for line in known_limits(found.info))
    with pytest.raises(ValueError, match=r"ends in \.html, \.md or \.json"):
        write_report(labeled, labeled.version(), found, tmp_path / "r.pdf")


# --- commands and real data --------------------------------------------------------------------------------------------


def call(root: Path, *arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return CliRunner().invoke(app, [*arguments, "-C", str(root)])


def test_commands_with_kept_predictions(labeled: Repository, tmp_path: Path) -> None:
    root = str(labeled.root)
    run(labeled)
    run(labeled, Confused("c" * 64))
    result = call(labeled.root or tmp_path, "evaluate", "mean-colour", "v1", "--card", str(tmp_path / "card.md"))
    assert result.exit_code == 0, result.output
    assert "40 of 40 samples judged." in result.output
    assert "Worst slices by accuracy:" in result.output
    assert (tmp_path / "card.md").exists()
    told = json.loads(call(Path(root), "evaluate", "mean-colour", "--json", "--quiet").stdout)
    assert told["metrics"]["accuracy"] == pytest.approx(0.95)
    result = call(Path(root), "compare", "mean-colour", "confused", "--flips", str(tmp_path / "flips.csv"))
    assert result.exit_code == 0, result.output
    assert "Slices that lose a point or more of accuracy:" in result.output
    assert result.output.index("A: mean-colour") < result.output.index("B: confused") < result.output.index("B - A")
    assert (tmp_path / "flips.csv").read_text().count("right to wrong") == 11
    assert call(Path(root), "evaluate", "mean-colour", "--report", "x.doc").exit_code == 2
    assert call(Path(root), "evaluate", "mean-colour", "--split", "none").exit_code == 1


def test_real_probabilities_of_real_photos(data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data / "cifar10n" / "data.parquet", columns=["image", "clean_label"])
    names = json.loads((data / "cifar10n" / "classes.json").read_text())
    truth = table["clean_label"].to_numpy()
    probabilities = np.load(data / "cifar10n" / "oof_pred_probs.npz")["clean_label"].astype(np.float64)
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    task = {"name": "s", "version": 1, "tasks": [{"kind": "classification"}], "classes": classes}
    repository = Repository.init(tmp_path / "set", LabelSchema.model_validate(task))
    keys = [sha256_hex(image) for image in table["image"].to_pylist()]
    rows = [{"sample_id": f"i{n:05}", "uri": f"{n}.jpg", "sha256": key, "split": "test"} for n, key in enumerate(keys)]
    own = {"kind": "classification", "source": "human"}
    labels = [
        own | {"annotation_id": f"a{n}", "sample_id": f"i{n:05}", "label": names[code]} for n, code in enumerate(truth)
    ]
    repository.commit(Change(samples=rows, annotations=labels), message="photos")
    model = ModelInfo("probe", None, "d" * 64, ("classification",), tuple(names))
    store = PredictionStore(repository, model.digest)
    store.describe(model)
    outcomes = [
        Outcome(
            ImageSize(32, 32, 1),
            (
                Prediction(
                    "classification",
                    names[int(row.argmax())],
                    float(row.max()),
                    scores=dict(zip(names, row, strict=True)),
                ),
            ),
        )
        for row in probabilities
    ]
    store.add(keys, outcomes)
    found = evaluate(repository, repository.version(), "probe")
    right = probabilities.argmax(axis=1) == truth
    # Images whose scores are tied in half precision may go either way once they are rounded.
    assert found.metrics["accuracy"] == pytest.approx(right.mean(), abs=0.002)
    interval = found.info["intervals"]["accuracy"]
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * (right.std() / 100), rel=0.15)
    assert found.info["details"]["confusions"][0]["count"] > 50
    assert found.info["details"]["temperature"]["after"]["ece"] <= found.metrics["ece"] + 0.01
    assert len(found.failures) == pytest.approx((~right).sum(), abs=20)


def test_a_real_detector_on_real_photos(data: Path, tmp_path: Path) -> None:
    source = data / "coco_tiny" / "coco.json"
    categories = sorted(json.loads(source.read_text())["categories"], key=lambda item: item["id"])
    names = [item["name"] for item in categories]
    config = tmp_path / "yolox.yaml"
    config.write_text(json.dumps({"family": "yolox", "names": names}))
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    classes[names.index("person")]["critical"] = {"max_fnr": 0.2}  # type: ignore[assignment]
    kinds = [{"kind": "polygon"}, {"kind": "mask"}]
    schema = LabelSchema.model_validate({"name": "s", "version": 1, "tasks": kinds, "classes": classes})
    repository = Repository.init(tmp_path / "set", schema)
    ingest(repository, str(source), format="coco", images=str(source.parent / "images"), split="test")
    reference = f"onnx:{data / 'yolox_nano' / 'yolox_nano.onnx'}"
    options = {"config": str(config), "min_score": "0.01"}
    found = evaluate(repository, repository.version(), reference, **options)  # type: ignore[arg-type]
    assert found.metrics["AP"] == pytest.approx(0.26, abs=0.01)
    assert found.info["items"]["judged"] == 100
    assert [rate["rate"] for rate in found.info["details"]["critical"]] == ["fnr"]
    write_report(repository, repository.version(), found, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg;base64,") > 40
