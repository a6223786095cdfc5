"""Probes from a version to a model that predicts, and everything that stops them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from datasetops.audits.base import CheckResult
from datasetops.audits.record import AuditRecord, scores_table, store_audit
from datasetops.errors import ConflictError, DamagedError, NotFoundError, RejectedError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository, verify
from datasetops.models.predictor import Request
from datasetops.records import Finding, findings_table
from datasetops.training.linear import fit_linear, softmax
from datasetops.training.predictor import open_model
from datasetops.training.recipe import AnyRecipe, ProbeRecipe, load_recipe, parse_recipe
from datasetops.training.record import (
    ModelRecord,
    load_model_record,
    model_records,
    model_samples,
    promoted,
)
from datasetops.training.train import reproduce, train

from .conftest import CLASSES, PER_CLASS, MakeDigits, accept

pytestmark = pytest.mark.usefixtures("pixels")


def probe(**changes: object) -> AnyRecipe:
    return load_recipe("probe").model_copy(update=changes)


def every_third(number: int) -> str:
    return ("train", "train", "val")[number % 3]


def fit(repository: Repository, recipe: AnyRecipe | None = None, **options: object) -> ModelRecord:
    return train(repository, repository.version(), recipe or probe(), experiment=True, **options)  # type: ignore[arg-type]


def test_only_accepted_versions_are_trained_on(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    with pytest.raises(RejectedError, match="needs an accepted version"):
        train(repository, repository.version(), probe())
    assert fit(repository).experiment
    accept(repository)
    assert not train(repository, repository.version(), probe()).experiment


def test_the_record_tells_what_the_model_was_made_from(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    record = fit(repository)
    version = repository.version()
    assert (record.name, record.version, record.commit) == ("m1", "v1", version.digest)
    assert record.classes == ("0", "1", "2", "3")
    assert record.samples == {"train": 80, "validation": 40}
    assert record.metric == "accuracy"
    assert record.metrics["accuracy"] > 0.9
    assert ProbeRecipe.model_validate(record.recipe).digest == record.recipe_digest
    assert load_model_record(repository, "m1").to_bytes() == record.to_bytes()
    ids = model_samples(repository, record)
    assert set(ids["train"]) == {f"s{number:03}" for number in range(120) if number % 3 < 2}
    assert not set(ids["train"]) & set(ids["validation"])
    entry = repository.ledger.tail()
    assert entry is not None
    assert (entry.event.kind, entry.event.outputs["model"], entry.event.event_id) == ("train", "m1", record.event_id)
    assert fit(repository, parent="m1").name == "m2"
    assert [one.parent for one in model_records(repository)] == [None, "m1"]
    assert not list(verify(repository))


def test_training_again_gives_the_same_weights(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    record = fit(repository)
    again = reproduce(repository, record)
    assert (again.agrees, again.same_weights, again.changed, again.differences) == (True, True, (), {})
    changed = ModelRecord(**vars(record) | {"metrics": dict(record.metrics) | {"accuracy": 0.5}})
    worse = reproduce(repository, changed)
    assert not worse.agrees
    assert worse.differences == {"accuracy": (0.5, record.metrics["accuracy"])}
    assert reproduce(repository, changed, tolerance=0.6).agrees


def test_without_splits_whole_groups_are_set_apart(make_digits: MakeDigits) -> None:
    repository = make_digits()
    first = model_samples(repository, fit(repository))
    assert 5 < len(first["validation"]) < 40
    more = {"sample_id": "t0", "uri": "none.png", "sha256": None, "split": None}
    repository.commit(Change(samples=[more]), message="one more, without a label")
    assert model_samples(repository, fit(repository))["validation"] == first["validation"]


def test_sealed_and_missing_splits(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    with pytest.raises(NotFoundError, match="no sample in the split 'trian'"):
        fit(repository, split="trian")
    repository.commit(Change(sealed=["val"]), message="seal")
    with pytest.raises(RejectedError, match="sealed"):
        fit(repository, split="val")
    assert model_samples(repository, fit(repository))["validation"][0] != "s002"


def test_copies_of_held_out_images_teach_nothing(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    row = repository.version().table("samples").slice(2, 1).to_pylist()[0]
    label = {"annotation_id": "twin/l", "sample_id": "twin", "kind": "classification", "label": "0", "source": "human"}
    repository.commit(
        Change(samples=[row | {"sample_id": "twin", "split": "train"}], annotations=[label | {"actor": "ann"}]),
        message="x",
    )
    record = fit(repository)
    assert "twin" not in model_samples(repository, record)["train"]
    assert any("1 samples are copies" in note for note in record.notes)


def test_too_little_to_learn_from(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third, lambda number, digit: [digit] if digit < 2 else [])
    with pytest.raises(NotFoundError, match="Classes without an example to train on: 2, 3"):
        fit(repository)
    kept = fit(repository, probe(without_examples="leave out"))
    assert kept.classes == ("0", "1")


def test_one_class_alone_and_no_label_at_all(make_digits: MakeDigits, tmp_path: Path) -> None:
    repository = make_digits(every_third, lambda number, digit: [0])
    with pytest.raises(NotFoundError, match="of one class, '0'"):
        fit(repository, probe(without_examples="leave out"))
    rows = repository.version().table("annotations")["annotation_id"].to_pylist()
    repository.commit(Change(remove_annotations=rows), message="none")
    with pytest.raises(NotFoundError, match="Nothing to learn from"):
        fit(repository)


def test_images_that_cannot_be_read_are_named(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    assert repository.root is not None
    first = repository.root / repository.version().table("samples")["uri"][0].as_py()
    first.unlink()
    with pytest.raises(NotFoundError, match=f"1 images to train on cannot be read: .*{first.name}"):
        fit(repository)
    record = fit(repository, skip_unreadable=True)
    assert record.samples["train"] == 79
    assert any(first.name in note for note in record.notes)


def test_doubted_labels_are_left_out_or_count_less(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    with pytest.raises(NotFoundError, match="has not been audited") as told:
        fit(repository, _noise("exclude"))
    assert told.value.remedy == "Run: dsops audit v1 --check label_noise"
    _audit(repository, ["s000", "s001"])
    kept, without, less = (fit(repository, _noise(what)) for what in ("keep", "exclude", "down-weight"))
    assert [one.samples["train"] for one in (kept, without, less)] == [80, 78, 80]
    assert any("2 of 80 labels are doubted" in note for note in without.notes)
    assert len({one.files["weights"].sha256 for one in (kept, without, less)}) == 3


def test_a_model_predicts_by_its_name(make_digits: MakeDigits, tmp_path: Path) -> None:
    repository = make_digits(every_third)
    record = fit(repository)
    request = Request(repository=str(repository.root))
    model = open_model("m1", tmp_path, request)
    assert (model.kinds, model.vocabulary) == (("classification",), record.classes)
    samples = repository.version().samples()
    images = [Image.open(repository.root / uri) for uri in samples["uri"]]  # type: ignore[operator]
    together = model.predict([model.prepare(image.convert("RGB")) for image in images])
    alone = model.predict([model.prepare(images[7].convert("RGB"))])
    assert together[7] == alone[0]
    truth = [str(number // PER_CLASS) for number in range(CLASSES * PER_CLASS)]
    right = [said[0].name == given for said, given in zip(together, truth, strict=True)]
    assert np.mean(right) > 0.95
    assert sum(together[0][0].scores.values()) == pytest.approx(1, abs=1e-5)  # type: ignore[union-attr]
    with pytest.raises(NotFoundError, match="There is no model 'm7'"):
        open_model("m7", tmp_path, request)


def test_the_model_in_production(make_digits: MakeDigits, tmp_path: Path) -> None:
    repository = make_digits(every_third)
    for _ in range(2):
        fit(repository)
    request = Request(repository=str(repository.root))
    with pytest.raises(NotFoundError, match="No model is in production"):
        open_model("production", tmp_path, request)
    for kind, name, expected in (("promote", "m1", "m1"), ("promote", "m2", "m2"), ("rollback", "m2", "m1")):
        repository.ledger.record(Event(kind, "ann", parameters={"model": name}))
        assert promoted(repository) == expected
    assert open_model("production", tmp_path, request).name == "model:m1"


def test_damaged_weights_are_refused(make_digits: MakeDigits, tmp_path: Path) -> None:
    repository = make_digits(every_third)
    record = fit(repository)
    repository.store.put(record.files["weights"].key, b"other")
    with pytest.raises(DamagedError, match="the weights of the model m1"):
        open_model("m1", tmp_path, Request(repository=str(repository.root)))


def test_several_classes_an_image(make_digits: MakeDigits, tmp_path: Path) -> None:
    def even_too(number: int, digit: int) -> list[int]:
        return [digit, 4] if digit % 2 == 0 else [digit]

    repository = make_digits(every_third, even_too, multi=True, classes=5)
    record = fit(repository, probe(class_weights="balanced"))
    assert record.metrics["mean_average_precision"] > 0.9
    model = open_model("m1", tmp_path, Request(repository=str(repository.root), options={"min_score": 0.5}))
    first = repository.version().samples()["uri"][0]
    image = Image.open(repository.root / first).convert("RGB")  # type: ignore[operator]
    assert {one.name for one in model.predict([model.prepare(image)])[0]} == {"0", "4"}


def test_another_version_under_the_name_is_not_trained_on_again(make_digits: MakeDigits) -> None:
    repository = make_digits(every_third)
    record = fit(repository)
    with pytest.raises(ConflictError, match="not the version"):
        reproduce(repository, ModelRecord(**vars(record) | {"commit": "0" * 64}))


def test_the_linear_model_is_as_good_as_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 40))
    y = rng.integers(0, 5, 1200)
    x = (centres[y] + 1.3 * rng.standard_normal((1200, 40))).astype(np.float32)
    fitted = fit_linear(x[:600], y[:600], 5, np.ones(600), np.arange(600), method="logistic", seed=0)
    other = LogisticRegression(max_iter=500).fit(x[:600], y[:600])
    own = float((fitted.scores(x[600:]).argmax(1) == y[600:]).mean())
    assert own >= other.score(x[600:], y[600:]) - 0.01
    assert np.allclose(softmax(fitted.scores(x)).sum(axis=1), 1, atol=1e-5)


def test_rows_without_weight_teach_nothing() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    x = (np.eye(2)[y] * 3 + rng.standard_normal((400, 2))).astype(np.float32)
    wrong = np.concatenate([y, 1 - y])
    weights = np.concatenate([np.ones(400), np.full(400, 1e-9)])
    fitted = fit_linear(np.concatenate([x, x]), wrong, 2, weights, np.arange(800), method="logistic", seed=0)
    assert (fitted.scores(x).argmax(1) == y).mean() > 0.95


def _noise(what: str) -> AnyRecipe:
    text = f"kind: probe\nname: x\nmethod: logistic\nnoise: {{findings: {what}, weight: 0.1}}\n"
    return parse_recipe(text.encode(), "x.yaml")


def _audit(repository: Repository, doubted: list[str]) -> None:
    version = repository.version()
    findings = [
        Finding("label_noise", "high", 0.1, "doubted", sample, annotation_id=f"{sample}/0", given="0", suggested="1")
        for sample in doubted
    ]
    info = {"version": version.name, "commit": version.digest, "models": {}, "checks": {"label_noise": {}}}
    info["parameters"] = {"checks": ["label_noise"]}
    results: dict[str, CheckResult] = {}
    store_audit(repository, AuditRecord("a" * 16, info, findings_table(findings), scores_table(results)))
