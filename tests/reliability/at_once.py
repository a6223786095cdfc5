"""Eight processes that do different things with one repository at once: `python at_once.py FOLDER SECONDS`.

Each runs its own commands again and again until the time is over. Every command has to end with 0, or with 1 and a conflict
that it tells; afterwards nothing that was committed may be missing, and the repository has to verify. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from kill_points import dsops as command
from kill_points import imported, run
from PIL import Image

CONFLICTS = ("Another writer", "changed in v", "changed the same", "written to without pause", "under way", "meanwhile")
SCHEMA = (
    "{name: colours, version: 1, tasks: [{kind: classification}], classes: [{id: 0, name: red}, {id: 1, name: green}]}"
)
POLICY = "{name: small, findings: {at: high, ignore: [label_noise]}, leakage: false}"


def dsops(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit status of a command, which is a process of its own, and what it printed."""
    log = root.parent / f"log-{os.getpid()}"
    status, _ = run(lambda: command(root, *arguments), log)
    return status, log.read_text(errors="replace")


def pictures(folder: Path, count: int, seed: int) -> Path:
    chance = np.random.default_rng(seed)
    for number in range(count):
        file = folder / ("red", "green")[number % 2] / f"{seed}-{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(file)
    return folder


def prepare(folder: Path) -> Path:
    root = folder / "repository"
    folder.mkdir(parents=True)
    for name, text in (("schema", SCHEMA), ("policy", POLICY)):
        (folder / f"{name}.yaml").write_text(text)
    first = ["ingest", str(pictures(folder / "first", 24, 0))]
    audit = ["audit", "v1", "--check", "schema", "--report", str(folder / "audit.html")]
    push = ["label", "push", "--tool", "cvat", "--out", str(folder / "tasks.zip"), "--where", "true"]
    for line in (["init", str(root), "--schema", str(folder / "schema.yaml")], first, ["branch", "trial"], audit, push):
        status, said = dsops(root, *line) if line[0] != "init" else dsops(folder, *line)
        if status:
            raise RuntimeError(f"{line}: {said}")
    return root


def worker(root: Path, number: int, until: float) -> dict[str, Any]:
    """What one process does over and over; how its commands ended, and what it committed."""
    from datasetops.errors import ConflictError
    from datasetops.manifest import Change, Repository

    chance = random.Random(number)
    ends: Counter[str] = Counter()
    faults: list[str] = []
    committed: list[str] = []
    turn = 0
    while time.time() < until:
        turn += 1
        line: list[str] = []
        if number == 0:
            line = ["ingest", str(pictures(root.parent / f"more{turn}", 2, 1000 + turn)), "--branch", "trial"]
        elif number == 1:
            line = ["audit", "main", "--check", chance.choice(("schema", "exact_duplicate", "balance"))]
            line += ["--report", str(root.parent / "audit.html")]
        elif number == 2:
            try:
                repository = Repository.open(root)
                name = f"own-{turn}"
                repository.commit(Change(samples=[{"sample_id": name, "uri": f"{name}.png"}]), message=name)
                committed.append(name)
                ends["0"] += 1
            except ConflictError:
                ends["conflict"] += 1
            except Exception as error:
                faults.append(f"commit: {error!r}")
            continue
        elif number == 4:
            line = ["label", "pull", "--tool", "cvat", "--file", str(answers(root, chance)), "--actor", "ann"]
        elif number == 5:
            line = ["query", "main", "SELECT count(*) AS n FROM samples JOIN annotations USING (sample_id)"]
        elif number == 6:
            line = chance.choice(
                (["accept", "v1", "--policy", str(root.parent / "policy.yaml")], ["reject", "v1", "--reason", "wait"])
            )
        elif number == 7:
            line = chance.choice((["gc"], ["log"], ["show", "main"]))
        status, said = dsops(root, *line)
        told = [word for word in CONFLICTS if word in said]
        if "Traceback" in said or "Something unexpected" in said or not (status in (0, 3) or (status == 1 and told)):
            faults.append(f"{' '.join(line)}: {status}: {said[-1500:]}")
        ends["conflict" if status == 1 else str(status)] += 1
    return {"worker": number, "ends": dict(ends), "faults": faults, "committed": committed}


def answers(root: Path, chance: random.Random) -> Path:
    """What an annotator says about some images, as CVAT exports it."""
    from datasetops.manifest import Repository

    ids = Repository.open(root).version("v1").table("samples")["sample_id"].to_pylist()
    images = "".join(
        f'<image id="{i}" name="{name}.png" width="16" height="16"><tag label="{chance.choice(("red", "green"))}"/></image>'
        for i, name in enumerate(chance.sample(ids, 6))
    )
    file = root.parent / "answers.xml"
    file.write_text(f"<annotations>{images}</annotations>")
    return file


def served(root: Path, until: float) -> dict[str, Any]:
    """The review server with a few clients that ask for its pages."""
    code = "from datasetops.cli.main import main; main()"
    serve = [sys.executable, "-c", code, "review", "open", "main", "--no-browser", "-C", str(root)]
    process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ends: Counter[str] = Counter()
    faults: list[str] = []
    try:
        address = ""
        for text in process.stdout or ():
            if "http://127.0.0.1" in text:
                address = text[text.index("http://127.0.0.1") :].split()[0]
                break
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        base = "/".join(address.split("/")[:3])
        opener.open(address, timeout=60).close()
        while time.time() < until or not ends:
            for path in ("/", "/v/v1", "/v/v1/review", "/api/v/v1/queue", "/api/v/v1/progress", "/api/v/v1/since"):
                try:
                    with opener.open(base + path, timeout=60) as answer:
                        ends[str(answer.status)] += 1
                except urllib.error.HTTPError as error:
                    ends[str(error.code)] += 1
                    if error.code >= 500:
                        faults.append(f"{path}: {error.code}: {error.read()[-500:]!r}")
    except OSError as error:
        faults.append(f"server: {error!r}")
    finally:
        process.terminate()
        rest = process.communicate(timeout=30)[0]
        if "Traceback" in rest:
            faults.append(rest[-1500:])
    return {"worker": 3, "ends": dict(ends), "faults": faults, "committed": []}


def main(folder: Path, seconds: float) -> dict[str, Any]:
    os.environ |= {"DSOPS_ACTOR": "ann", "DSOPS_CACHE": str(folder / "cache"), "DSOPS_JOBS": "1"}
    imported()
    root = prepare(folder)
    work = [sys.executable, __file__, "work", str(root), str(seconds)]
    running = [subprocess.Popen([*work, str(n)], stdout=subprocess.PIPE, text=True) for n in range(8)]
    told = [json.loads(process.communicate(timeout=seconds + 400)[0]) for process in running]
    status, said = dsops(root, "verify", "--all")
    faults = [fault for one in told for fault in one["faults"]] + ([said[-1500:]] if status else [])
    from datasetops.manifest import Repository

    repository = Repository.open(root)
    there = set(repository.version("main").table("samples")["sample_id"].to_pylist())
    faults += [f"{name} is lost" for one in told for name in one["committed"] if name not in there]
    kinds = Counter(entry.event.kind for entry in repository.ledger.backwards())
    return {"ends": {one["worker"]: one["ends"] for one in told}, "faults": faults, "events": kinds}


if __name__ == "__main__":
    if sys.argv[1] == "work":
        place, which = Path(sys.argv[2]), int(sys.argv[4])
        imported()
        end = time.time() + float(sys.argv[3])
        sys.stdout.write(json.dumps(served(place, end) if which == 3 else worker(place, which, end)))
    else:
        sys.stdout.write(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]))))
