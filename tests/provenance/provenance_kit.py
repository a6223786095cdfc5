"""A small repository that went through the verbs: collected at two places, labeled by several, audited, learned from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from datasetops.audits.decisions import decide
from datasetops.audits.run import audit
from datasetops.export import export
from datasetops.gate.accept import accept
from datasetops.gate.policy import Policy
from datasetops.ingest import ingest
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.qa.plan import make_plan
from datasetops.qa.verdicts import Verdict, take
from datasetops.schema import LabelSchema
from datasetops.splits import assign_splits
from datasetops.training.record import ModelRecord, Trained, record_model

CLASSES = ("cat", "dog", "bird")
MODEL = "hf:someone/pets@abc#0123456789ab"


def write_source(folder: Path) -> Path:
    """Twelve images, i00 to i11; i11 has the bytes of i00 and another origin."""
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * (number % 11), 0, 0)).save(folder / f"i{number:02}.png")
    rows = [
        {
            "path": f"i{number:02}.png",
            "id": f"i{number:02}",
            "annotation_id": f"i{number:02}/c",
            "label": CLASSES[number % 3],
            "annotator": "ann",
            "origin": "clinic-a" if number < 8 else "clinic-b",
            "license": "CC-BY-4.0" if number % 2 else "research-only",
            "consent": "training",
            "group": f"owner-{number}",
            "captured_at": "2026-01-02T00:00:00Z",
        }
        for number in range(12)
    ]
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def label(number: int, name: str, source: str = "human", **more: str | float) -> dict[str, str | float]:
    row = {"annotation_id": f"i{number:02}/c", "sample_id": f"i{number:02}", "kind": "classification"}
    return {**row, "label": name, "source": source, **more}


def box(number: int, key: str, name: str, source: str = "model", **more: str | float | None) -> dict[str, object]:
    row = {"annotation_id": f"i{number:02}#{key}", "sample_id": f"i{number:02}", "kind": "box", "label": name}
    return {**row, "x1": 1.0, "y1": 1.0, "x2": 5.0, "y2": 5.0, "source": source, **more}


def change(repository: Repository, kind: str, actor: str, **tables: object) -> None:
    assert repository.commit(Change(**tables), message=kind, event=Event(kind, actor)).changed  # type: ignore[arg-type]


def train(repository: Repository, samples: dict[str, list[str]], **facts: object) -> ModelRecord:
    trained = Trained("classification", CLASSES, b"weights", {"kind": "probe"}, "accuracy", {"accuracy": 0.75})
    given = {"recipe": {"name": "probe"}, "recipe_digest": "d" * 64, "code": {}, "environment": {}, "seed": 3}
    return record_model(repository, repository.version(), trained, split="train", samples=samples, **{**given, **facts})


def make_pets(tmp_path: Path, schema: LabelSchema) -> Repository:
    """v1 ingest, v2 boxes by a model, v3 bob and v4 cara correct, v5 splits, v6 i03 goes; then accepted, m1, an export."""
    folder = tmp_path / "pets"
    repository = Repository.init(folder, schema, guide="# Pets\n")
    ingest(repository, str(write_source(folder / "source")), format="table")
    change(
        repository,
        "preannotate",
        "machine",
        annotations=[box(n, "b", "cat", model=MODEL, score=0.5 + n / 100, actor=None) for n in range(4)],
    )
    change(
        repository,
        "commit",
        "bob",
        annotations=[label(0, "dog", actor="bob"), box(0, "b2", "dog", "human", actor="bob", derived_from="i00#b")],
    )
    change(repository, "commit", "cara", annotations=[label(0, "bird", actor="cara"), label(1, "cat", actor="cara")])
    assign_splits(repository, {"train": 1.0}, seed=0)
    change(repository, "remove", "lea", remove_samples=["i03"])
    version = repository.version()
    found = audit(repository, version, checks=["exact_duplicate"])
    about = next(row for row in found.findings.to_pylist() if row["sample_id"] in ("i00", "i11"))
    decide(
        repository, version, found.findings, [{"finding_id": about["finding_id"], "verdict": "fine", "actor": "dan"}]
    )
    plan = make_plan(repository, version, second=0, stages=1, pass_rate=0.5, seed="a")
    take(repository, plan, [Verdict(item, "zoe", "right") for item in plan.to_review(0)], origin="test")
    accept(repository, version, Policy.model_validate({"name": "none"}))
    train(repository, {"train": ["i00", "i01", "i02", "i09"], "validation": ["i10"]})
    export(repository, version, tmp_path / "out", format="coco", where="origin = 'clinic-a'", copy_media=False)
    return Repository.open(folder)
