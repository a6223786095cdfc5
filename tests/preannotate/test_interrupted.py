"""Killed, run by several at once, kept in a bucket: nothing is computed or written twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import colours
import pytest
from colours import SCHEMA, MeanColour, fill, run

from datasetops.manifest import Change, Repository
from datasetops.preannotate.predictions import PredictionStore, stored_models
from datasetops.records import ANNOTATIONS

CONTENT = [name for name in ANNOTATIONS.names if name not in ("event_id", "created_at", "answer")]


def content(repository: Repository) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = repository.version().table("annotations", CONTENT).to_pylist()
    return found


def process(root: Path, deadly_after: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(Path(colours.__file__)), str(root), str(deadly_after)])


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 24)
    run(whole)
    repository = fill(tmp_path / "killed", 24)
    killed = process(tmp_path / "killed", 12)
    assert killed.wait(60) == -9
    assert len(list(repository.versions())) == 1
    model = MeanColour()
    made = run(repository, model)
    assert 4 <= made.known <= 16
    assert model.seen == made.computed == 24 - made.known
    assert made.counts["inserted"] == 48
    assert content(repository) == content(whole)
    again = run(repository, model)
    assert (again.version, again.known) == (None, 24)


@pytest.mark.slow
def test_several_processes_at_once_make_one_result(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 24)
    run(whole)
    repository = fill(tmp_path / "shared", 24)
    running = [process(tmp_path / "shared", 1000) for _ in range(3)]
    assert [one.wait(100) for one in running] == [0, 0, 0]
    assert content(repository) == content(whole)
    assert len(list(repository.versions())) == 2
    store = PredictionStore(repository, "a" * 64)
    keys = repository.version().table("samples", ["sha256"])["sha256"].to_pylist()
    read = [key for stored in store.read(keys) for key in stored.images["key"].to_pylist()]
    assert sorted(read) == sorted(keys)


@pytest.mark.server
def test_predictions_are_kept_in_a_bucket(s3: str, root: Path) -> None:
    local = fill(root, 6)
    repository = Repository.init(s3, SCHEMA)
    samples = local.version().samples()[["sample_id", "uri", "sha256"]].to_dict("records")
    repository.commit(
        Change(samples=[row | {"uri": str((root / row["uri"]).absolute())} for row in samples]), message="images"
    )
    made = run(repository)
    assert (made.computed, made.counts["inserted"]) == (6, 12)
    model = MeanColour()
    assert (run(Repository.open(s3), model).known, model.seen) == (6, 0)
    assert [found.label for found in stored_models(repository)] == ["mean-colour#aaaaaaaaaaaa"]
