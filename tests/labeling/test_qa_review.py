"""Sampled QA through a blind project of a real Label Studio server."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_studio_server import Annotator, Server
from pictures import write_digits
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.errors import ConflictError, NotFoundError
from datasetops.ingest import ingest
from datasetops.labeling import set_up
from datasetops.manifest import Change, Repository
from datasetops.qa.plan import make_plan
from datasetops.qa.review import current_result, pull_items, push_items, record_result
from datasetops.qa.verdicts import from_answers, take
from datasetops.schema import load_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("label-studio")]

ROOT = Path(__file__).parents[2]


def test_reviewers_answer_blind_and_the_version_stays(tmp_path: Path, label_studio: Server) -> None:
    repository = Repository.init(tmp_path / "repository", load_schema(ROOT / "schemas" / "digits.yaml"))
    write_digits(tmp_path / "photos", 4, side=32)
    ingest(repository, tmp_path / "photos", format="folder")
    rows = repository.version().table("annotations").to_pylist()
    mine = rows[0] | {"actor": "lead@example.com", "source": "human", "attributes": None, "geometry": None}
    mislabeled = rows[1] | {"label": "7" if rows[1]["label"] != "7" else "1"}
    repository.commit(
        Change(annotations=[{k: v for k, v in row.items() if v is not None} for row in (mine, mislabeled)]), message="m"
    )
    version = repository.version()
    plan = make_plan(repository, version, size=34, stages=1, second=0.1, planted=4, seed="s")
    with pytest.raises(NotFoundError, match="There is no blind labeling project"):
        push_items(repository, plan, 0)
    shown, _ = set_up(repository, version, name="shown")
    with pytest.raises(ConflictError, match="shows reviewers the given labels"):
        push_items(repository, plan, 0, project=shown.name)
    project, _ = set_up(repository, version, name="blind", blind=True)
    pushed = push_items(repository, plan, 0, project="blind", images="inline")
    twice = [sample for sample in plan.to_review(0) if sample in plan.second]
    assert len(plan.to_review(0)) == 38
    assert pushed.tasks == 38 + len(twice)
    assert push_items(repository, plan, 0, project="blind", images="inline").created == 0

    given = {row["sample_id"]: row["label"] for row in rows}
    lead = Annotator(label_studio, project.id)
    other = Annotator(label_studio, project.id, label_studio.add_member("zoe@example.com"))
    tasks = label_studio.connection.get("api/tasks/", project=project.id, fields="all", page_size=1000)["tasks"]
    assert {task["data"]["sample_id"] for task in tasks} == set(plan.to_review(0))
    assert not any(task["predictions"] for task in tasks)
    for task in tasks:
        sample = task["data"]["sample_id"]
        is_second = task["data"]["batch"].endswith("-second")
        (lead if is_second or sample == mine["sample_id"] else other).choose(task, given[sample])
    found, name = pull_items(repository, plan, project="blind")
    taken = take(repository, plan, from_answers(repository, plan, found), origin=name)
    own = [verdict.sample_id for verdict in taken.own]
    assert set(own) == {mine["sample_id"]} & set(plan.to_review(0))
    result = current_result(repository, plan)
    assert result.wrong == (mislabeled["sample_id"] in plan.main(0))
    assert result.open == len(set(own))
    assert (result.reviewers.planted, result.reviewers.caught) == (4, 4)
    assert result.reviewers.twice >= 2
    assert result.reviewers.disagree == 0
    assert repository.version().name == version.name
    record_result(repository, plan, result)
    record_result(repository, plan, result)
    assert [entry.event.kind for entry in repository.ledger.backwards()].count("qa-result") == 1
    again, _ = pull_items(repository, plan, project="blind")
    assert take(repository, plan, from_answers(repository, plan, again), origin=name).new == 0


def test_findings_go_out_as_relabeling_tasks(tmp_path: Path, label_studio: Server) -> None:
    repository = Repository.init(tmp_path / "repository", load_schema(ROOT / "schemas" / "digits.yaml"))
    write_digits(tmp_path / "photos", 1, side=32)
    ingest(repository, tmp_path / "photos", format="folder")
    rows = repository.version().table("annotations").to_pylist()
    doubled = [
        {"annotation_id": f"{row['sample_id']}/again", "sample_id": row["sample_id"], "kind": "classification"}
        | {"label": "3", "source": "import"}
        for row in rows[:3]
    ]
    repository.commit(Change(annotations=doubled), message="several labels")
    run, where = CliRunner().invoke, ["-C", str(repository.root)]
    assert run(app, ["audit", "v2", "--check", "schema", "--report", str(tmp_path / "r.html"), *where]).exit_code == 0
    set_up(repository, repository.version(), name="again")
    pushed = run(
        app, ["label", "push", "v2", "--findings", "2", "--project", "again", "--images", "inline", "--json", *where]
    )
    assert pushed.exit_code == 0, pushed.output
    project, _ = set_up(repository, repository.version(), name="again")
    tasks = Annotator(label_studio, project.id).tasks()
    assert len(tasks) == 2
    assert set(tasks) <= {row["sample_id"] for row in doubled}
    refused = run(app, ["label", "push", "v2", "--findings", "2", "--where", "true", *where])
    assert refused.exit_code == 2
