"""Push and pull beside the bare calls of Label Studio's API, on the same server in one run.

Push: 10,000 tasks with a prediction each, beside one import of the same JSON in requests of 2,000. Pull: 100 changed items
of 50,000, beside the bare listing of what changed and its export; and a pull where nothing changed. Needs Label Studio
(`make bench` installs it). Medians of three, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "labeling"))

from label_studio_server import TOKEN, Annotator, Server, new_server
from ratios import record

from datasetops.labeling import choose_project, make_batch, open_project, pull, push, set_up
from datasetops.labeling.label_studio.interface import label_config
from datasetops.manifest import Change, Repository
from datasetops.schema import load_schema

ROUNDS = 3
CHANGED = 100
SCHEMA = Path(__file__).parents[1] / "schemas" / "digits.yaml"


def repository_of(folder: Path, count: int) -> Repository:
    repository = Repository.init(folder, load_schema(SCHEMA))
    names = [f"s{number:06}" for number in range(count)]
    samples = [
        {"sample_id": name, "uri": f"s3://bucket/{name}.bmp", "width": 8, "height": 8, "media_type": "image/bmp"}
        for name in names
    ]
    rows = [
        {"annotation_id": f"{name}/label", "sample_id": name, "kind": "classification", "label": name[-1]}
        for name in names
    ]
    repository.commit(Change(samples=samples, annotations=rows), message="many")
    return repository


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_project(server: Server) -> int:
    body = {"title": "bare", "label_config": label_config(load_schema(SCHEMA))}
    return int(server.connection.call("POST", "api/projects/", body=body)["id"])


def bare_import(server: Server, project: int, tasks: list[dict[str, Any]]) -> None:
    for start in range(0, len(tasks), 2000):
        path = f"api/projects/{project}/import"
        server.connection.call("POST", path, body=tasks[start : start + 2000], timeout=600)


def bare_pull(server: Server, project: int, since: str) -> list[dict[str, Any]]:
    changed = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since}
    query = json.dumps({"filters": {"conjunction": "and", "items": [changed]}, "ordering": ["tasks:id"]})
    shared = {"project": project, "fields": "task_only", "resolve_uri": "false"}
    listed = server.connection.get("api/tasks/", query=query, include="id", page_size=1000, **shared)["tasks"]
    if not listed:
        return []
    params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": [task["id"] for task in listed]}
    return list(server.connection.call("GET", f"api/projects/{project}/export", params=params))


def pushes(server: Server, folder: Path, count: int) -> dict[str, float]:
    ours, bare = [], []
    repository = repository_of(folder / "push", count)
    version = repository.version()
    ids = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
    for number in range(ROUNDS):
        project, _ = set_up(repository, version, name=f"push-{number}")
        batch = make_batch(repository, version, ids, project)
        ours.append(
            timed(lambda batch=batch, project=project: push(repository, batch, open_project(repository, project)))
        )
        found = server.connection.get(
            "api/tasks/",
            project=project.id,
            fields="all",
            page_size=count,
            include="data,predictions",
            resolve_uri="false",
        )
        tasks = [
            {"data": task["data"], "predictions": [{name: p[name] for name in ("model_version", "score", "result")}
             for p in task["predictions"]]}
            for task in found["tasks"]
        ]  # fmt: skip
        other = bare_project(server)
        bare.append(timed(lambda other=other, tasks=tasks: bare_import(server, other, tasks)))
    return {"dsops_s": statistics.median(ours), "bare_s": statistics.median(bare)}


def pulls(server: Server, folder: Path, count: int) -> dict[str, float]:
    repository = repository_of(folder / "pull", count)
    version = repository.version()
    project, _ = set_up(repository, version, name="pull")
    ids = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
    push(repository, make_batch(repository, version, ids, project), open_project(repository, project))
    annotator = Annotator(server, project.id)
    found = server.connection.get(
        "api/tasks/", project=project.id, fields="task_only", page_size=1000, include="id,data"
    )
    tasks = [task | {"predictions": []} for task in found["tasks"]]
    for task in tasks[:CHANGED]:
        annotator.choose(task, "7")
    tool = open_project(repository, project)
    pull(repository, project, tool)
    ours, bare, nothing, bare_nothing = [], [], [], []
    for number in range(1, ROUNDS + 1):
        since = choose_project(repository, "pull").cursor["updated_at"]
        time.sleep(6)  # so that what was answered before is no longer looked at again
        for task in tasks[number * CHANGED : (number + 1) * CHANGED]:
            annotator.choose(task, str(number))
        bare.append(timed(lambda since=since: bare_pull(server, project.id, since)))
        ours.append(timed(lambda: pull(repository, choose_project(repository, "pull"), tool)))
        since = choose_project(repository, "pull").cursor["updated_at"]
        nothing.append(timed(lambda: pull(repository, choose_project(repository, "pull"), tool)))
        bare_nothing.append(timed(lambda since=since: bare_pull(server, project.id, since)))
    return {
        "dsops_s": statistics.median(ours),
        "bare_s": statistics.median(bare),
        "nothing_s": statistics.median(nothing),
        "bare_nothing_s": statistics.median(bare_nothing),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--push", type=int, default=10_000, help="tasks")
    parser.add_argument("--pull", type=int, default=50_000, help="tasks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server = new_server(Path(name))
        server.start()
        os.environ |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": TOKEN}
        os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        try:
            release = server.connection.version
            pushed = pushes(server, Path(name), options.push)
            pulled = pulls(server, Path(name), options.pull)
        finally:
            server.stop()
    peer = f"bare calls of Label Studio {release}"
    record(f"push of {options.push:,} tasks with predictions", pushed["dsops_s"], peer, pushed["bare_s"], "s")
    record(f"pull of {CHANGED} changed items of {options.pull:,}", pulled["dsops_s"], peer, pulled["bare_s"], "s")
    record("pull where nothing changed", pulled["nothing_s"], peer, pulled["bare_nothing_s"], "s")
    if options.json:
        print(json.dumps({"push": pushed, "pull": pulled}, indent=1))
        return
    print("| what | dsops, s | bare calls, s | ratio |")
    print("|---|---|---|---|")
    for what, ours, bare in (
        (f"push of {options.push:,} tasks with predictions", pushed["dsops_s"], pushed["bare_s"]),
        (f"pull of {CHANGED} changed items of {options.pull:,}", pulled["dsops_s"], pulled["bare_s"]),
        ("pull where nothing changed", pulled["nothing_s"], pulled["bare_nothing_s"]),
    ):
        print(f"| {what} | {ours:.2f} | {bare:.2f} | {ours / bare:.2f} |")


if __name__ == "__main__":
    main()
