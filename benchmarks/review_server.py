"""The review server at many findings: time of the first page and of the next item, and eight reviewers at once.

Times are a client's on the same machine, of whole answers over HTTP: more than the server's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from PIL import Image

from datasetops.audits.record import AuditRecord, scores_table, store_audit
from datasetops.manifest import Change, Repository
from datasetops.records import ANNOTATIONS, FINDINGS, SAMPLES
from datasetops.schema import LabelSchema
from datasetops.web.users import Password

A_SAMPLE = 5  # boxes, and findings, of each
CLASSES = [f"class {number}" for number in range(20)]
PEOPLE = [f"r{number}" for number in range(8)]
EACH, PACE = 100, 10.0  # decisions of each reviewer, a second
PASSWORD = "a long enough password"  # noqa: S105 (of people who live for a minute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--findings", type=int, default=1_000_000)
    findings = parser.parse_args().findings
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "repository"
        ids = build(where, findings)
        users = Path(folder) / "users"
        key = Password.of(PASSWORD)
        users.write_text("".join(f"{name}:{key}\n" for name in PEOPLE), encoding="utf-8")
        started = time.perf_counter()
        process, url = serve(where, users)
        opened = time.perf_counter() - started
        try:
            clients = [sign_in(url, name) for name in PEOPLE]
            print(f"{findings:,} findings, {findings // A_SAMPLE:,} images, {os.cpu_count()} processors; load "
                  f"{os.getloadavg()[0]:.1f}. Start of the command until its address is printed: {opened:.1f} s\n")  # fmt: skip
            pages(clients[0])
            reviewers(clients, ids)
            for client in clients:
                client.close()
        finally:
            process.kill()
            process.wait()
        repository = Repository.open(str(where))
        kept = Counter(entry.event.actor for entry in repository.ledger.backwards() if entry.event.kind == "decide")
        lost = {name: EACH - kept[name] for name in PEOPLE}
        print(f"After SIGKILL the ledger has {sum(kept.values()):,} of {EACH * len(PEOPLE):,} decisions; "
              f"lost: {sum(lost.values())}")  # fmt: skip


def pages(client: httpx.Client) -> None:
    print("| answer | first, ms | median, ms | 95th percentile, ms | longest, ms |\n|---|---|---|---|---|")
    timed("page of the queue", 10, lambda _: client.get("/v/v1/review"))
    narrow = "check=swapped_box&severity=high&given=class+3"
    timed("page of the queue, other filters each time", 10,
          lambda n: client.get(f"/v/v1/review?{narrow}&min_score=0.{n:02}"))  # fmt: skip
    timed("page of the queue, search for a text", 5, lambda n: client.get(f"/api/v/v1/queue?search=image-{n}77"))
    after = ""

    def step(_: int) -> httpx.Response:
        nonlocal after
        after = client.get(f"/api/v/v1/next?after={after}").json()["finding_id"]
        return client.get(f"/api/v/v1/findings/{after}")

    timed("next item: its id, then all about it", 200, step)
    timed("page of an item", 20, lambda _: client.get(f"/v/v1/review/{after}"))
    timed("thumbnail, from the cache", 50, lambda _: client.get("/media/v1/thumb/image-0000000?side=160"))
    timed("what is new (asked every 3 s)", 50, lambda _: client.get("/api/v/v1/since?entry=0"))


def timed(what: str, times: int, ask: Callable[[int], httpx.Response]) -> None:
    taken = []
    for number in range(times):
        started = time.perf_counter()
        answer = ask(number)
        taken.append(1000 * (time.perf_counter() - started))
        answer.raise_for_status()
    late = float(np.percentile(taken, 95))
    print(f"| {what} | {taken[0]:.0f} | {statistics.median(taken):.1f} | {late:.1f} | {max(taken):.0f} |", flush=True)


def reviewers(clients: list[httpx.Client], ids: list[str]) -> None:
    """Each decides at a pace of its own findings, and asks for the next item, as the page does."""

    def work(number: int) -> list[float]:
        client, taken = clients[number], []
        began = time.perf_counter()
        for turn in range(EACH):
            time.sleep(max(0.0, began + turn / PACE - time.perf_counter()))
            started = time.perf_counter()
            finding = ids[number * EACH + turn]
            body = {
                "decision_id": f"{number}-{turn}",
                "finding_ids": [finding],
                "action": ("keep", "exclude")[turn % 2],
            }
            answer = client.post("/api/v/v1/decisions", json=body)
            answer.raise_for_status()
            if answer.json()["kept"] != [finding]:
                raise SystemExit(f"not kept: {answer.text}")
            taken.append(1000 * (time.perf_counter() - started))
        return taken

    started = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        taken = [value for values in pool.map(work, range(len(clients))) for value in values]
    seconds = time.perf_counter() - started
    print(f"\n{len(clients)} reviewers, asked for {PACE:g} decisions a second each: {len(taken) / seconds:.1f} a second kept "
          f"in all; a decision took {statistics.median(taken):.0f} ms (median), {np.percentile(taken, 95):.0f} ms (95th "
          "percentile)")  # fmt: skip


def sign_in(url: str, name: str) -> httpx.Client:
    client = httpx.Client(base_url=url.rstrip("/"), timeout=120, follow_redirects=False)
    answer = client.post("/login", data={"name": name, "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    page = client.get("/nothing").text  # every page carries the token
    client.headers["X-CSRF"] = page.partition('name="csrf" content="')[2].partition('"')[0]
    return client


def serve(where: Path, users: Path) -> tuple[subprocess.Popen[str], str]:
    code = "from datasetops.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "-C",
        str(where),
        "review",
        "v1",
        "--users",
        str(users),
        "--json",
        "--no-browser",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


def build(where: Path, total: int) -> list[str]:
    """A repository with one photo under many names, five boxes and five findings each; returns ids of findings."""
    schema = LabelSchema.model_validate(
        {
            "name": "bench", "version": 1, "tasks": [{"kind": "box"}],
            "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        }
    )  # fmt: skip
    repository = Repository.init(where, schema)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(where / "photo.jpg")
    images = total // A_SAMPLE
    names = [f"image-{number:07}" for number in range(images)]
    light = np.array(['{"light":"day"}', '{"light":"night"}'])[rng.integers(0, 2, images)]
    samples = table(SAMPLES, images, sample_id=names, uri=["photo.jpg"] * images, width=[640] * images,
                    height=[480] * images, split=np.array(["train", "val"])[rng.integers(0, 2, images)].tolist(),
                    metadata=light.tolist())  # fmt: skip
    owners = [name for name in names for _ in range(A_SAMPLE)]
    boxes = [f"{owner}#{number % A_SAMPLE}" for number, owner in enumerate(owners)]
    given = np.array(CLASSES)[rng.integers(0, len(CLASSES), len(owners))].tolist()
    left, top = rng.uniform(0, 500, len(owners)), rng.uniform(0, 400, len(owners))
    annotations = table(ANNOTATIONS, len(owners), annotation_id=boxes, sample_id=owners, kind=["box"] * len(owners),
                        label=given, x1=left, y1=top, x2=left + 80, y2=top + 60, source=["human"] * len(owners),
                        actor=np.array(["ann", "bob", "cem"])[rng.integers(0, 3, len(owners))].tolist())  # fmt: skip
    version = repository.commit(Change(samples=samples, annotations=annotations), message="photos").version
    ids = [
        f"{number:016x}"
        for number in np.unique(rng.integers(0, 2**63, int(len(owners) * 1.01)))[: len(owners)].tolist()
    ]
    checks = np.array(["swapped_box", "duplicate_box", "misplaced_box"])[rng.integers(0, 3, len(owners))].tolist()
    findings = table(
        FINDINGS, len(owners), finding_id=ids, check=checks, sample_id=owners, uri=["photo.jpg"] * len(owners),
        severity=np.array(["low", "medium", "high"])[rng.integers(0, 3, len(owners))].tolist(),
        score=rng.random(len(owners)), annotation_id=boxes, given=given,
        suggested=np.array(CLASSES)[rng.integers(0, len(CLASSES), len(owners))].tolist(),
        message=[f"The box of {owner} looks like another class." for owner in owners],
    )  # fmt: skip
    info: dict[str, Any] = {
        "audit": "benchmark", "version": version.name, "commit": version.digest, "models": {}, "notes": [],
        "parameters": {"checks": sorted(set(checks)), "split": None, "where": None},
        "samples": images, "annotations": len(owners), "unreadable": 0,
        "checks": {name: {"findings": checks.count(name), "seconds": 1.0, "severity": {}} for name in set(checks)},
    }  # fmt: skip
    store_audit(repository, AuditRecord("benchmark", info, findings, scores_table({}), {}))
    return ids


def table(schema: pa.Schema, rows: int, **columns: Any) -> pa.Table:
    return pa.table(
        [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


if __name__ == "__main__":
    main()
