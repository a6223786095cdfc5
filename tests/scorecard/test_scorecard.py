"""Figures of versions and models, from records that commands wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from colours import NAMES, SCHEMA, MeanColour, add_image, picture
from typer.testing import CliRunner, Result

from datasetops.cli import scorecard as command
from datasetops.engine.local import LocalEngine
from datasetops.evaluation.compare import compare
from datasetops.evaluation.evaluate import evaluate
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.preannotate.labelers import EngineLabeler
from datasetops.records import canonical_json, sha256_hex
from datasetops.scorecard.report import gauges
from datasetops.scorecard.scorecard import scorecard
from datasetops.store.media import Media
from datasetops.training.record import ModelRecord, Trained, load_model_record, record_model
from datasetops.training.train import REPRODUCE

IMAGES = 40  # of the split test; a quarter of them at night
WRONG = 4  # of them labeled otherwise than the image, all at night


class Named(MeanColour):
    """As the model of this name, with these classes for red, green and blue."""

    def __init__(self, model: ModelRecord, names: tuple[str, ...] = NAMES) -> None:
        super().__init__(model.digest, names)
        self.name = f"model:{model.name}"


@pytest.fixture
def used(tmp_path: Path) -> Repository:
    """v1 and v2, accepted; m1 on v1 and m2 on v2, whose parent m1 is."""
    repository = Repository.init(tmp_path / "set", SCHEMA)
    for part in range(2):
        samples, annotations = [], []
        for number in range(part * IMAGES, (part + 1) * IMAGES):
            name = f"s{number:02}"
            # every image another one: copies count as one
            box = (number % 5, number % 7, 15 + number % 6, 15 + number % 11)
            sample = add_image(Path(str(repository.root)), name, picture(30 + part, 30, box, number % 3))
            night = number % 4 == 0
            samples.append(sample | {"split": "test", "metadata": {"light": "night" if night else "day"}})
            other = night and number < 4 * WRONG
            row = {"annotation_id": name, "sample_id": name, "kind": "classification", "source": "human"}
            annotations.append(row | {"label": NAMES[(number + other) % 3]})
        repository.commit(Change(samples=samples, annotations=annotations), message=f"part {part}")
        version = repository.version()
        repository.ledger.record(Event("accept", "lead", inputs={"version": version.name, "commit": version.digest}))
        trained = Trained(
            "classification", NAMES, f"weights {part}".encode(), {"kind": "probe"}, "accuracy", {"accuracy": 0.9}
        )
        record_model(
            repository,
            version,
            trained,
            split="train",
            samples={"train": [], "validation": []},
            recipe={"name": "probe"},
            recipe_digest="",
            code={},
            environment={},
            seed=0,
            parent="m1" if part else None,
        )
    return repository


def asked(repository: Repository, model: str, names: tuple[str, ...] = NAMES) -> EngineLabeler:
    predictor = Named(load_model_record(repository, model), names)
    return EngineLabeler(predictor, LocalEngine(jobs=1), Media(repository.store, repository.root).read)


def run(repository: Repository, *arguments: str) -> Result:
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, [*arguments, "-C", str(repository.root)])


def test_what_was_not_measured_is_empty_and_says_what_fills_it(used: Repository) -> None:
    found = scorecard(used)
    assert [(card.kind, card.name, card.model) for card in found.cards] == [
        ("version", "v1", "m1"),
        ("version", "v2", "m2"),
        ("model", "m1", "m1"),
        ("model", "m2", "m2"),
    ]
    card = found.of("model")[1]
    filled = {name for name, cell in card.cells.items() if cell.value is not None}
    assert filled == {"pipeline_success"}  # the version was accepted
    assert all(cell.fill or cell.note for cell in card.cells.values() if cell.value is None)
    assert card.cells["coverage_index"].note == "the schema names no slices"  # an audit would not fill it
    assert not any("coverage" in command for command in found.missing())
    assert "metric" in found.missing()["dsops evaluate m2 v2"]
    assert "qa_pass" in found.missing()["dsops qa plan v2"]


@pytest.mark.slow
def test_figures_of_evaluations_and_of_the_ledger(used: Repository) -> None:
    version = used.version("v2")
    swapped = ("green", "red", "blue")  # what it calls red is green: a third right
    evaluate(used, version, asked(used, "m1", swapped), resamples=100)
    judged = evaluate(used, version, asked(used, "m2"), resamples=100)
    for agrees in (True, True, False):
        used.ledger.record(Event(REPRODUCE, "ann", inputs={"model": "m2"}, outputs={"agrees": agrees}))
    told = {"verdict": "reject", "checked": 50, "wrong": 5, "low": 0.05, "high": 0.2}
    inputs = {"plan": "p1", "version": "v2", "commit": version.digest}
    used.ledger.record(Event("qa-result", "lead", inputs=inputs, outputs=told))
    cells = scorecard(used, ["m2"]).cards[0].cells
    right = 1 - WRONG / (2 * IMAGES)
    assert cells["metric"].value == pytest.approx(right) == judged.metrics["accuracy"]
    low, high = cells["metric"].low, cells["metric"].high
    assert low is not None
    assert high is not None
    assert low < right < high
    baseline = scorecard(used, ["m1"]).cards[0].cells["metric"].value
    assert baseline is not None
    assert cells["gain"].value == pytest.approx(right - baseline)
    assert cells["gain"].low is None
    night = 1 - WRONG / (2 * IMAGES / 4)
    assert cells["robustness"].value == pytest.approx(night / right)
    assert "light = night" in cells["robustness"].note
    errors = sum(1 - item["recall"] for item in judged.info["details"]["classes"]) / 3
    assert cells["fnr"].value == pytest.approx(errors)
    # One label is wrong for each wrong answer: rates over all classes that both count the same mistakes.
    assert cells["fpr"].value == pytest.approx(WRONG / (2 * IMAGES * 2), rel=0.05)
    assert cells["ece"].value == judged.metrics["ece"]
    assert cells["reproducibility"].value == pytest.approx(2 / 3)
    assert (cells["qa_pass"].value, cells["qa_pass"].low, cells["qa_pass"].high) == (0.9, 0.8, 0.95)
    assert cells["pipeline_success"].value == pytest.approx(3 / 5)  # accepted, QA not, two of three reproductions
    assert 0 < (cells["cycle_time"].value or 0) < 1
    # A paired comparison goes before the difference of two evaluations, whichever way round it was made.
    compare(used, version, asked(used, "m2"), asked(used, "m1", swapped), resamples=100)
    cells = scorecard(used, ["m2"]).cards[0].cells
    assert cells["gain"].value == pytest.approx(right - baseline)
    assert "paired" in cells["gain"].note
    assert cells["gain"].low is not None
    assert cells["gain"].high is not None
    assert cells["gain"].low < (cells["gain"].value or 0) < cells["gain"].high


@pytest.mark.slow
def test_the_command_writes_a_page_and_text_for_prometheus(used: Repository, tmp_path: Path) -> None:
    for model in ("m1", "m2"):
        evaluate(used, used.version("v2"), asked(used, model), resamples=100)
    page, text = tmp_path / "card.html", tmp_path / "dsops.prom"
    found = run(used, "--html", str(page), "--prometheus", str(text), "--json")
    assert found.exit_code == 0, found.stderr
    cards = json.loads(found.stdout)["cards"]
    assert [card["name"] for card in cards] == ["v1", "v2", "m1", "m2"]
    html = page.read_text()
    Tags().feed(html)
    assert html.count('<circle class="s0"') >= 4  # a trend has a point for each version
    assert "http" not in html.replace("http-equiv", "")
    labels = 'project="colours",kind="version",name="v2",model="m2"'
    line = f"dsops_scorecard_metric{{{labels}}} {cards[1]['figures']['metric']['value']!r}"
    assert line in text.read_text().splitlines()
    assert "headline metric" in run(used).stdout


class Tags(HTMLParser):
    """Fails where an SVG or table is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("svg", "table", "tr", "td", "div"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("svg", "table", "tr", "td", "div"):
            assert self.open.pop() == tag


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["m3"], 1, "There is no version or model 'm3'"),
        (["--baseline", "m9"], 1, "There is no model 'm9'"),
        (["--price-per-hour", "0"], 2, "expected a number above 0"),
    ],
)
def test_what_cannot_be_shown_is_said(used: Repository, arguments: list[str], status: int, message: str) -> None:
    found = run(used, *arguments)
    assert (found.exit_code, message in found.stderr) == (status, True), found.stderr


def test_a_repository_that_nothing_was_done_in(repository: Repository) -> None:
    found = scorecard(repository)
    assert found.cards == ()
    assert all(not gauge.samples for gauge in gauges(found))
    assert "No version was accepted" in run(repository).stdout


def test_exports_and_promotions_are_read_from_their_records(used: Repository) -> None:
    """As `dsops export-model` and `dsops promote` write them."""
    model = scorecard(used, ["m2"]).cards[0]
    assert model.cells["cost_per_1000"].fill == "dsops export-model m2 --to DIR"
    record = load_model_record(used, "m2")
    batches = [
        {"batch": 1, "p50_ms": 4.0, "p95_ms": 6.0, "per_second": 250.0},
        {"batch": 4, "p50_ms": 8.0, "p95_ms": 9.0, "per_second": 500.0},
    ]
    variant = {"name": "m2.onnx", "bytes": 3 * 2**20, "timing": {"threads": 1, "batches": batches}}
    keep(used, "export_model", "exports/m2/", {"variants": {"float32": variant}}, record, "export")
    evidence = {"hard": {"items": 8, "right": 6}, "night": {"items": 2, "right": 2}}
    rules = {"rules": [{"rule": "size", "evidence": {}}, {"rule": "regression", "evidence": evidence}]}
    keep(used, "promote", "promotions/m2/", rules, record, "promotion", model="m2")
    cells = scorecard(used, ["m2"], price_per_hour=1.8).cards[0].cells
    values = {name: cell.value for name, cell in cells.items()}
    assert (values["latency_p50"], values["latency_p95"], values["throughput"], values["size"]) == (
        4.0,
        6.0,
        500.0,
        3.0,
    )
    assert values["cost_per_1000"] == pytest.approx(1.8 / 3600 / 500 * 1000)
    assert values["regression_pass"] == pytest.approx(8 / 10)
    assert values["pipeline_success"] == 1.0
    used.ledger.record(Event("rollback", "ann", parameters={"model": "m2", "reason": "too slow"}))
    assert scorecard(used, ["m2"]).cards[0].cells["pipeline_success"].value == pytest.approx(2 / 3)


def keep(
    repository: Repository, kind: str, folder: str, info: Mapping[str, Any], record: ModelRecord, name: str, **told: str
) -> None:
    data = canonical_json(info)
    key = f"{folder}{sha256_hex(data)[:16]}.json"
    repository.store.put(key, data)
    outputs = {name: sha256_hex(data)[:16], "files": {key: sha256_hex(data)}}
    inputs = {"model": record.name, "digest": record.digest, "version": record.version, "commit": record.commit}
    repository.ledger.record(Event(kind, "ann", inputs=inputs, outputs=outputs, parameters=told))
