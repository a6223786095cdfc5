"""The parts: PROV reads back, OpenLineage events have what the specification asks for, Croissant loads and iterates."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from datasetops.cli.main import app
from datasetops.errors import StoreError
from datasetops.evidence.lineage import lineage, prov_json, provn
from datasetops.evidence.openlineage import json_lines, post, run_events
from datasetops.evidence.story import Story
from datasetops.evidence.write import write_part
from datasetops.export import checkout
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow

Run = Callable[..., Result]

# What OpenLineage 2-0-2 requires of a run event: RunEvent, Run, Job, Dataset and BaseFacet of its JSON Schema.
FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {"_producer": {"format": "uri"}, "_schemaURL": {"format": "uri"}},
    },
}
DATASETS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["namespace", "name"],
        "properties": {
            "namespace": {"type": "string"},
            "name": {"type": "string"},
            "facets": FACETS,
            "inputFacets": FACETS,
            "outputFacets": FACETS,
        },
    },
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
        },
        "job": {
            "type": "object",
            "required": ["namespace", "name"],
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
        },
        "inputs": DATASETS,
        "outputs": DATASETS,
    },
}


def test_lineage_reads_back_and_names_who_made_what(story: Story) -> None:
    from prov.model import ProvDocument

    document = lineage(story)
    data = prov_json(document)
    assert data == prov_json(lineage(story))
    read = ProvDocument.deserialize(content=data.decode(), format="json")
    assert read == document
    raw = json.loads(data)
    derived = [(item["prov:generatedEntity"], item["prov:usedEntity"]) for item in raw["wasDerivedFrom"].values()]
    assert ("dsops:version/v2", "dsops:version/v1") in derived
    assert ("dsops:model/m1", "dsops:version/v2") in derived
    made = {item["prov:entity"] for item in raw["wasGeneratedBy"].values()}
    assert {"dsops:version/v1", "dsops:version/v2", "dsops:qa-plan/q1", "dsops:model/m1"} <= made
    assert raw["wasAttributedTo"].keys()
    assert {"dsops:actor/ann", "dsops:labeling-model/hf%3Adigits"} <= raw["agent"].keys()
    assert "dsops:version/v3" not in raw["entity"]
    text = provn(document).decode()
    assert text.startswith("document\n")
    assert "wasDerivedFrom(dsops:version/v2, dsops:version/v1, -, -, -)" in text


def test_lineage_with_names_of_all_kinds(repository: Repository) -> None:
    from prov.model import ProvDocument

    rows = [{"sample_id": "a", "uri": "a.png"}]
    names = ['o\'b "x" (y)=[z],;:.', "Ünï/cödé ~ %41", "new\nline", "dot."]
    labels: list[dict[str, Any]] = [
        {"annotation_id": f"a/{n}", "sample_id": "a", "kind": "box", "label": "cat", "source": "human", "actor": name}
        | {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0}
        for n, name in enumerate(names)
    ]
    repository.commit(Change(samples=rows, annotations=labels), message='said "so"\nand \\ so')
    document = lineage(Story(repository, repository.version()))
    read = ProvDocument.deserialize(content=prov_json(document).decode(), format="json")
    people = {str(label) for item in read.get_records() for label in item.get_attribute("prov:label")}
    assert set(names) <= people


def test_events_have_what_the_specification_asks_for(story: Story) -> None:
    events = run_events(story)
    for event in events:
        jsonschema.validate(event, RUN_EVENT)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert [event["job"]["name"] for event in events] == ["ingest", "label-pull", "accept", "train"]
    pulled, trained = events[1], events[3]
    assert [item["facets"]["version"]["datasetVersion"] for item in pulled["inputs"]] == ["v1"]
    assert [item["facets"]["version"]["datasetVersion"] for item in pulled["outputs"]] == ["v2"]
    assert [item["name"] for item in trained["outputs"]] == ["model/m1"]
    assert len(json_lines(events).splitlines()) == len(events)


@pytest.fixture
def server() -> Any:
    """A server that keeps what it is sent, and refuses what goes to /closed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, json.loads(body)))
            self.send_response(503 if self.path == "/closed" else 201)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    taken: list[tuple[str, Any]] = []
    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", taken
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_events_go_to_a_server(story: Story, run: Run, server: tuple[str, list[tuple[str, Any]]]) -> None:
    address, taken = server
    done = run("v2", "--only", "openlineage", "--url", address, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["url"] == f"{address}/api/v1/lineage"
    assert taken == [("/api/v1/lineage", event) for event in run_events(story)]
    with pytest.raises(StoreError, match="did not take event 1 of 4: status 503"):
        post(run_events(story), f"{address}/closed")
    with pytest.raises(StoreError, match="did not take event 1"):
        post(run_events(story), "http://127.0.0.1:9")


def test_writing_is_in_the_ledger_and_changes_no_evidence(root: Path, run: Run, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        assert run("v2", "--only", "prov", "--out", str(tmp_path / name)).exit_code == 0
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    event = next(iter(Repository.open(root).ledger.backwards())).event
    assert (event.kind, event.parameters["part"]) == ("evidence", "prov")
    assert event.parameters["sha256"] == hashlib.sha256(texts[1]).hexdigest()


def test_runs_are_told_as_they_happen(
    server: tuple[str, list[tuple[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, taken = server
    photos, told = tmp_path / "photos" / "0", tmp_path / "runs.jsonl"
    photos.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(photos / "a.png")
    run = CliRunner()

    def done(*words: str) -> Result:
        result = run.invoke(app, [*words, "-C", str(tmp_path / "set")])
        assert result.exit_code == 0, result.output
        return result

    (tmp_path / "set").mkdir()
    done("init", "--schema", "digits")
    for target in (str(told), f"{address}/"):
        monkeypatch.setenv("DSOPS_OPENLINEAGE", target)
        done("ingest", str(photos.parent), "--split", "train")
        done("log")
    Image.new("RGB", (8, 8), "blue").save(photos / "b.png")
    monkeypatch.setenv("DSOPS_OPENLINEAGE", "http://127.0.0.1:9")
    assert "The runs were not told" in done("ingest", str(photos.parent)).stderr
    monkeypatch.setenv("DSOPS_OPENLINEAGE", str(told))
    done("log")
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line["outputs"][0]["facets"]["version"]["datasetVersion"] for line in lines] == ["v1", "v2"]
    assert [event["run"]["runId"] for _, event in taken] == [lines[0]["run"]["runId"]]
    assert lines == run_events(
        Story(Repository.open(tmp_path / "set"), Repository.open(tmp_path / "set").version("v2"))
    )


@pytest.mark.parametrize("part", ["prov", "openlineage", "card"])
def test_a_part_is_written_the_same_each_time(run: Run, tmp_path: Path, part: str) -> None:
    written = []
    for name in ("a.json", "b.json"):
        assert run("v2", "--only", part, "--out", str(tmp_path / name)).exit_code == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_prov_by_suffix(run: Run, story: Story, tmp_path: Path) -> None:
    assert run("v2", "--only", "prov", "--out", str(tmp_path / "x.provn")).exit_code == 0
    assert (tmp_path / "x.provn").read_bytes() == provn(lineage(story))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that mlcroissant uses
def test_croissant_loads_and_its_records_can_be_iterated(run: Run, story: Story, tmp_path: Path) -> None:
    import mlcroissant

    checkout(story.repository, story.version, tmp_path / "beside")
    (tmp_path / "alone").mkdir()
    kinds = {}
    for place in ("beside", "alone"):
        file = tmp_path / place / "croissant.json"
        done = run("v2", "--only", "croissant", "--out", str(file))
        assert done.exit_code == 0, done.output
        raw = json.loads(file.read_bytes())
        kinds[place] = [item["@type"] for item in raw["distribution"]]
        loaded = mlcroissant.Dataset(jsonld=str(file))
        assert not loaded.metadata.ctx.issues.errors
        assert not loaded.metadata.ctx.issues.warnings
    assert kinds["beside"] == ["cr:FileObject", "cr:FileObject", "cr:FileSet"]
    assert kinds["alone"] == ["cr:FileSet"] * 3
    loaded = mlcroissant.Dataset(jsonld=str(tmp_path / "beside" / "croissant.json"))
    samples = {row["samples/sample_id"]: row for row in loaded.records("samples")}
    assert len(samples) == 12
    images = list(loaded.records("images"))
    assert len(images) == 12
    assert all(row["images/image"].size == (8, 8) for row in images)
    assert all(samples[row["images/sample_id"]]["samples/path"] == row["images/path"] for row in images)
    labels = list(loaded.records("annotations"))
    assert sorted(row["annotations/annotation_id"].decode() for row in labels) == sorted(
        story.version.table("annotations")["annotation_id"].to_pylist()
    )
    assert [row["classes/name"] for row in loaded.records("classes")] == list(story.version.schema.class_names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that mlcroissant uses
def test_croissant_of_real_boxes(data: Path, tmp_path: Path) -> None:
    import mlcroissant

    schema = LabelSchema.model_validate(
        {
            "name": "cells",
            "version": 1,
            "tasks": [{"kind": "box"}],
            "classes": [{"id": n, "name": name} for n, name in enumerate(("RBC", "WBC", "Platelets"))],
        }
    )
    repository = Repository.init(tmp_path / "cells", schema)
    ingest(repository, str(data / "bccd" / "coco.json"), format="coco", images=str(data / "bccd" / "images"))
    version = repository.version()
    checkout(repository, version, tmp_path / "out")
    file = tmp_path / "out" / "croissant.json"
    write_part(Story(repository, version), "croissant", file)
    loaded = mlcroissant.Dataset(jsonld=str(file))
    boxes = {row["annotations/annotation_id"].decode(): row for row in loaded.records("annotations")}
    for row in version.table("annotations").to_pylist():
        assert [boxes[row["annotation_id"]][f"annotations/{side}"] for side in ("x1", "y1", "x2", "y2")] == [
            row[side] for side in ("x1", "y1", "x2", "y2")
        ]


def test_a_plan_about_the_same_images_and_labels_is_told(root: Path, tmp_path: Path) -> None:
    repository = Repository.open(shutil.copytree(root, tmp_path / "set"))
    accepted = repository.version("v2")
    repository.create_branch("rights", at=accepted)
    rows = [row | {"consent": "all uses"} for row in accepted.table("samples").to_pylist()]
    made = repository.commit(Change(samples=rows), message="Consent is there", branch="rights").version
    assert [plan.name for plan, _ in Story(repository, made).qa] == ["q1"]
    assert Story(repository, repository.version("v3")).qa == ()  # which has other images
