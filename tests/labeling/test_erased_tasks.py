"""Erased items leave a real Label Studio server, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_studio_server import Annotator, Server
from pictures import write_digits

from datasetops.erasure.erase import erase, resume
from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.ingest import ingest
from datasetops.labeling import choose_project, make_batch, open_project, pull, push, set_up
from datasetops.manifest import Repository
from datasetops.schema import load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]


def prepared(folder: Path, name: str) -> tuple[Repository, list[str], int]:
    """A repository whose ten digits were pushed; (it, ids, number of the project)."""
    repository = Repository.init(folder, load_schema("digits"))
    write_digits(folder / "photos", 1, side=32)
    ingest(repository, str(folder / "photos"), format="folder")
    project, _ = set_up(repository, repository.version(), name=name)
    ids = repository.version().table("samples", ["sample_id"])["sample_id"].to_pylist()
    for batch, chosen in (("first", ids), ("second", ids[:4])):
        made = make_batch(repository, repository.version(), chosen, project, name=batch)
        push(repository, made, open_project(repository, project))
    return repository, ids, project.id


def left(server: Server, project: int) -> list[str]:
    tasks = server.connection.get("api/tasks/", project=project, page_size=100, fields="all")["tasks"]
    return sorted(task["data"]["sample_id"] for task in tasks)


def test_tasks_go_with_their_answers_and_pulls_go_on(tmp_path: Path, label_studio: Server) -> None:
    repository, ids, number = prepared(tmp_path / "set", tmp_path.name)
    annotator = Annotator(label_studio, number)
    for task in annotator.tasks().values():
        annotator.choose(task, "3")
    gone, stay = ids[2], ids[5]
    assert erase(repository, [gone], "a request", dry_run=True).batches == ("first", "second")
    assert left(label_studio, number).count(gone) == 2
    done = erase(repository, [gone], "a request")
    assert dict(done.tasks) == {"first": 1, "second": 1}
    assert not any("labeling tool" in line for line in done.reach)
    assert gone not in left(label_studio, number)
    assert len(left(label_studio, number)) == 12
    project = choose_project(repository, tmp_path.name)
    result = pull(repository, project, open_project(repository, project))
    assert not [text for text in result.warnings if "deleted" in text]
    rows = repository.version().annotations()
    assert gone not in set(rows["sample_id"])
    assert "human" in set(rows[rows["sample_id"] == stay]["source"])


def test_a_server_that_does_not_answer(tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, ids, number = prepared(tmp_path / "set", tmp_path.name)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "wrong")
    before = repository.ledger.tail()
    with pytest.raises(DatasetOpsError, match=f"The tasks of the project '{tmp_path.name}' cannot be deleted") as told:
        erase(repository, [ids[0]], "a request")
    assert "--leave-tasks" in told.value.remedy
    assert repository.ledger.tail() == before
    with pytest.raises(NotFoundError, match="No erasure was interrupted"):
        resume(repository)
    done = erase(repository, [ids[0]], "a request", leave_tasks=True)
    assert not done.tasks
    assert any("Tasks of first, second" in line for line in done.reach)
    assert left(label_studio, number).count(ids[0]) == 2
