"""The people of the tutorial, who know the truth: each does by HTTP what somebody does in a browser."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
from label_studio_server import Annotator, Server

DSOPS = str(Path(sys.executable).with_name("dsops"))


def review(folder: Path, version: str, truth: Mapping[str, str]) -> None:
    """Somebody opens `dsops review VERSION` and decides on each finding about a label. `truth`: by file name."""
    with _opened(folder, version) as client:
        for item in client.get(f"/api/v/{version}/queue", params={"check": "label_noise"}).json()["rows"]:
            right = truth[Path(item["uri"]).name]
            _decide(client, version, item, "keep" if item["given"] == right else "label", label=right)


def take(folder: Path, version: str) -> None:
    """Somebody takes what each finding of severity medium proposes."""
    with _opened(folder, version) as client:
        for item in client.get(f"/api/v/{version}/queue").json()["rows"]:
            if item["severity"] == "medium":
                _decide(client, version, item, "suggestion")


@contextmanager
def _opened(folder: Path, version: str) -> Iterator[httpx.Client]:
    words = [DSOPS, "review", version, "--no-browser", "--json", "--quiet"]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    told = json.loads(server.stdout.readline() if server.stdout else "")
    address, _, token = told["url"].partition("/enter")
    try:
        with httpx.Client(base_url=address, follow_redirects=True, timeout=60) as client:
            page = client.get(f"/enter{token}")
            client.headers["x-csrf"] = re.findall(r'name="csrf" content="([^"]+)"', page.text)[0]
            yield client
    finally:
        server.terminate()
        server.communicate(timeout=20)


def _decide(client: httpx.Client, version: str, item: Mapping[str, str], action: str, label: str | None = None) -> None:
    said = {"decision_id": item["finding_id"], "finding_ids": [item["finding_id"]], "action": action}
    more = {"label": label} if action == "label" else {}
    answer = client.post(f"/api/v/{version}/decisions", json=said | more)
    assert answer.status_code == 200, answer.text


def annotate(server: Server, project: str, truth: Mapping[str, str]) -> None:
    """Somebody labels every task of a project in Label Studio."""
    found = server.connection.get("api/projects/", title=project)["results"]
    annotator = Annotator(server, found[0]["id"])
    for task in annotator.tasks().values():
        name = Path(unquote(str(task["data"]["image"]))).name
        annotator.choose(task, truth[name])


def check(sheet: Path, truth: Mapping[str, str]) -> None:
    """Somebody looks at each image of a QA plan and says whether its label is right."""
    with sheet.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        right = row["given"] == truth[Path(row["uri"]).name]
        row |= {"reviewer": "eve", "verdict": "right" if right else "wrong"}
    with sheet.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
