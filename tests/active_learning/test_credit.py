"""Whom labels are credited to, and what the report says where nothing can judge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clusters import SCHEMA
from typer.testing import CliRunner

from datasetops.active_learning import select
from datasetops.active_learning.bought import bought
from datasetops.cli.main import app
from datasetops.labeling import file_project
from datasetops.labeling.batch import Batch, save_batch
from datasetops.manifest import Change, Repository
from datasetops.records import sha256_hex


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """60 samples to label, and 40 labeled ones of validation, in two groups."""
    repository = Repository.init(tmp_path / "set", SCHEMA)
    samples = [
        {"sample_id": f"s{n:02}", "uri": f"{n}.png", "sha256": sha256_hex(str(n).encode()), "width": 8, "height": 8}
        | ({"split": "validation", "group": f"g{n % 2}"} if n >= 60 else {"split": "train"})
        for n in range(100)
    ]
    repository.commit(Change(samples=samples, annotations=[row(f"s{n}") for n in range(60, 100)]), message="set")
    return repository


def row(name: str, batch: str | None = None, seconds: float = 6.0) -> dict[str, Any]:
    told = {"answer_id": name, "lead_time": seconds} | ({"batch": batch} if batch else {})
    place = {"annotation_id": f"{name}/label", "sample_id": name, "kind": "classification"}
    return place | {"label": "cat", "source": "human", "actor": "ann", "answer": json.dumps(told)}


def test_labels_are_credited_to_the_round_whose_batch_was_pushed(repository: Repository) -> None:
    version = repository.version()
    first = select(repository, version, n=40, strategy="random")
    second = select(repository, version, n=40, strategy="random", seed=1)
    shared = sorted(set(first.samples) & set(second.samples))
    project = file_project(repository, "cvat").name
    save_batch(repository, Batch("x", project, "v1", (*first.samples, "s99"), gold={"s99": []}))
    save_batch(repository, Batch("z", project, "v1", tuple(shared)))  # of no round
    rows = [row(name, batch="x") for name in first.samples[:30]]
    repository.commit(Change(annotations=rows), message="answers")
    assert [item.labeled for item in bought(repository).rounds] == [30, 0]
    other = [name for name in shared if name not in first.samples[:30]]
    repository.commit(Change(annotations=[row(name, batch="z") for name in other]), message="others")
    assert [item.labeled for item in bought(repository).rounds] == [30, len(other)]


def test_a_task_left_open_is_no_work_and_groups_are_called_so(repository: Repository) -> None:
    made = select(repository, repository.version(), n=30, strategy="random", random_share=0.5)
    rows = [row(name, seconds=36_000.0 if place == 3 else 6.0) for place, name in enumerate(made.samples)]
    repository.commit(Change(annotations=rows), message="answers")
    report = bought(repository)
    (item,) = report.rounds
    assert (item.labeled, item.minutes, item.left_open) == (30, pytest.approx(2.9), 1)
    assert "the 40 labeled samples of validation are of 2 groups, and 20 groups are the least; " in report.basis
    assert "15 labeled samples of the random arms, and 20 are the least" in report.basis
    told = CliRunner().invoke(app, ["rounds", "-C", str(repository.root), "--worth", "100"]).stdout
    assert "r1: without the time of 1 answer left open." in told
