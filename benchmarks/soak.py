"""Whether memory and open files grow: the review server under four clients, ingest and label pull of 200,000 rows from files.

    python benchmarks/soak.py --minutes 60 --rows 1000000

The rows come in ten files, by one process that goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import review_server
from review_server import build, serve, sign_in

from datasetops.ingest import ingest
from datasetops.labeling.batch import Batch
from datasetops.labeling.files import file_project, read_files, write_files
from datasetops.manifest import Repository
from datasetops.schema import LabelSchema
from datasetops.web.users import Password

FILES = 10
CLIENTS = 4
FINDINGS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="how long the server runs")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--alone", choices=("ingest", "pull"), help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.alone:
        with tempfile.TemporaryDirectory() as folder:
            rows(options.alone, Path(folder), options.rows // FILES)
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        server(Path(folder) / "set", options.minutes)
    for what in ("ingest", "pull"):
        subprocess.run([sys.executable, __file__, "--rows", str(options.rows), "--alone", what], check=True)


def held(process: int) -> tuple[float, int]:
    """Memory of its own in MiB (without files that are mapped), and how many files are open."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return resident / 1024, len(list(Path(f"/proc/{process}/fd").iterdir()))


# --- the review server ------------------------------------------------------------------------------------------------


def server(where: Path, minutes: float) -> None:
    ids = build(where, FINDINGS)
    users = where / "users"
    users.write_text("".join(f"{name}:{Password.of(review_server.PASSWORD)}\n" for name in review_server.PEOPLE))
    process, url = serve(where, users)
    stop = threading.Event()
    asked = [0] * CLIENTS
    try:
        clients = [sign_in(url, review_server.PEOPLE[number]) for number in range(CLIENTS)]
        threads = [
            threading.Thread(target=browse, args=(clients[number], ids[number::CLIENTS], stop, asked, number))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        print(f"Review server, {FINDINGS:,} findings, {CLIENTS} clients without pause:\n")
        print("| minute | requests | own memory, MiB | open files |\n|---|---|---|---|")
        began = time.monotonic()
        for step in range(7):
            time.sleep(max(0.0, began + step * minutes * 10 - time.monotonic()))
            resident, files = held(process.pid)
            print(f"| {(time.monotonic() - began) / 60:.1f} | {sum(asked):,} | {resident:.0f} | {files} |", flush=True)
        stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
        time.sleep(2)
        resident, files = held(process.pid)
        print(f"| after the clients left | {sum(asked):,} | {resident:.0f} | {files} |\n", flush=True)
    finally:
        stop.set()
        process.kill()
        process.wait()


def browse(client: Any, ids: list[str], stop: threading.Event, asked: list[int], number: int) -> None:
    """Pages, items, pictures, and a decision that is taken back, again and again."""
    turn = 0
    while not stop.is_set():
        finding = ids[turn % len(ids)]
        body = {"decision_id": f"{number}-{turn}", "finding_ids": [finding], "action": "keep"}
        client.get(f"/v/v1/review?page={1 + turn % 50}").raise_for_status()
        client.get(f"/api/v/v1/findings/{finding}").raise_for_status()
        client.get(f"/media/v1/thumb/image-{turn % 4000:07}?side=160").raise_for_status()
        client.post("/api/v/v1/decisions", json=body).raise_for_status()
        client.get("/api/v/v1/since?entry=0").raise_for_status()
        client.post("/api/v/v1/undo", json={"finding_ids": [finding]}).raise_for_status()
        asked[number] += 6
        turn += 1


# --- rows from files --------------------------------------------------------------------------------------------------


def repository_in(folder: Path) -> Repository:
    schema = {
        "name": "soak",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": 0, "name": "cat"}],
    }
    return Repository.init(folder / "set", LabelSchema.model_validate(schema))


def table(folder: Path, number: int, each: int) -> Path:
    file = folder / f"{number}.csv"
    rows = (f"photos/{number}-{row}.jpg,s{number}-{row},cat,day{row % 7},64,48\n" for row in range(each))
    file.write_text("path,id,label,light,width,height\n" + "".join(rows))
    return file


def rows(what: str, folder: Path, each: int) -> None:
    """Add or pull FILES files of `each` rows, and all of them again."""
    repository = repository_in(folder)
    title = {"ingest": "Ingest", "pull": "Label pull"}[what]
    print(f"{title} of {FILES} files of {each:,} rows each, all of them twice, in one process:\n")
    print("| file | s | own memory, MiB | open files |\n|---|---|---|---|")
    if what == "pull":
        for number in range(FILES):
            ingest(repository, table(folder, number, each), format="table")
        names = repository.version().table("samples", ["sample_id"])["sample_id"].to_pylist()
        project = file_project(repository, "labelbox")
        batch = Batch("all", project.name, repository.version().name, tuple(names))
        write_files(repository, batch, "labelbox", folder / "tasks.ndjson")
    for number in [*range(FILES), *range(FILES)]:  # the second time nothing changes
        began = time.perf_counter()
        if what == "ingest":
            ingest(repository, table(folder, number, each), format="table")
        else:
            read_files(repository, project, "labelbox", answers(folder, names[number * each : (number + 1) * each]))
        taken = time.perf_counter() - began
        resident, files = held(os.getpid())
        print(f"| {number + 1} | {taken:.1f} | {resident:.0f} | {files} |", flush=True)
    print(flush=True)


def answers(folder: Path, names: list[str]) -> Path:
    """What Labelbox exports: each image is a cat, says ann."""
    file = folder / "answers.ndjson"
    with file.open("w") as stream:
        for name in names:
            question = {"name": "class", "radio_answer": {"name": "cat"}}
            label = {"id": name, "label_details": {"created_by": "ann"}, "annotations": {"classifications": [question]}}
            row = {"data_row": {"id": name, "global_key": name}, "projects": {"p": {"labels": [label]}}}
            stream.write(json.dumps(row) + "\n")
    return file


if __name__ == "__main__":
    main()
