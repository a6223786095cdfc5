"""The whole loop, each command killed at a point of its writes and run again: `python kill_points.py FOLDER POINTS SEED`.

Each command is a process of its own, forked from this one, which has everything imported. A kill is a SIGKILL right before
or right after the n-th time that a file is put in place or removed. After it the repository has to verify, the same
command has to finish, and what is there then has to be what an unkilled run leaves. Prints a JSON document.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ["DSOPS_JOBS"] = "1"
SCHEMA = """{name: colours, version: 1, tasks: [{kind: classification}],
classes: [{id: 0, name: red}, {id: 1, name: green}, {id: 2, name: blue}]}"""
POLICY = "{name: small, findings: {at: high, ignore: [label_noise]}, leakage: false, test_split: {splits: [test]}}"
MODEL_POLICY = "{name: small, judged_on: {split: test}, metric: {accuracy: 0.1}}"
PER_CLASS = 12
KILLED = -signal.SIGKILL
MAIN_FOLDERS = ("tmp/", "cache/")

Command = Callable[[], list[str]]


class Loop:
    """A repository in `root`, and the commands that are run in it one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "repository"
        self.images = folder / "images"
        for label, name in enumerate(("red", "green", "blue")):
            for number in range(PER_CLASS):
                noise = np.random.default_rng(label * 100 + number)
                pixels = noise.integers(0, 120, (24, 24, 3)).astype(np.uint8)
                pixels[..., label] += 100
                # Two are in the folder of another class.
                file = self.images / (("red", "green", "blue")[(label + (number < 1)) % 3]) / f"{name}{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
        for name, text in (("schema", SCHEMA), ("policy", POLICY), ("model_policy", MODEL_POLICY)):
            (folder / f"{name}.yaml").write_text(text)
        report = ["--report", str(folder / "audit.html")]
        self.commands: dict[str, Command] = {
            "init": lambda: ["init", str(self.root), "--schema", str(folder / "schema.yaml")],
            "ingest": lambda: ["ingest", str(self.images), "--copy"],
            "split": lambda: ["split", "train=0.6,test=0.4"],
            "audit": lambda: ["audit", "v2", "--check", "label_noise", "--check", "exact_duplicate", *report],
            "decide": lambda: ["decide", "v2", self._finding(), "--verdict", "error"],
            "correct": lambda: ["review", "apply", "v2"],
            "select": lambda: ["select", "v3", "--n", "5", "--strategy", "random", "--where", "true", "--no-spread"],
            "audit again": lambda: ["audit", "v3", "--check", "exact_duplicate", *report],
            "accept": lambda: ["accept", "v3", "--policy", str(folder / "policy.yaml")],
            "train": lambda: ["train", "v3", "--recipe", "probe"],
            "evaluate": lambda: ["evaluate", "m1", "v3", "--resamples", "100"],
            "promote": lambda: ["promote", "m1", "--policy", str(folder / "model_policy.yaml")],
            "erase": lambda: ["erase", "v3", "--sample", self._sample(), "--reason", "asked for", "--yes"],
        }

    def _finding(self) -> str:
        from datasetops.audits.record import latest_audit
        from datasetops.manifest import Repository

        repository = Repository.open(self.root)
        findings = latest_audit(repository, repository.version("v2")).findings.to_pylist()
        return next(str(row["finding_id"]) for row in findings if row["check"] == "label_noise")

    def _sample(self) -> str:
        from datasetops.manifest import Repository

        return str(Repository.open(self.root).version("v1").table("samples")["sample_id"][0])

    def before(self, name: str) -> None:
        """What people do before a command: a reviewer says what is right, so that it can be applied."""
        if name == "correct":
            from datasetops.audits.decisions import Decision, DecisionLog, Fix
            from datasetops.audits.record import latest_audit
            from datasetops.manifest import Repository

            repository = Repository.open(self.root)
            version = repository.version("v2")
            row = latest_audit(repository, version).findings.to_pylist()[0]
            fix = Fix("edit", ({"annotation_id": row["annotation_id"], "label": row["suggested"]},))
            said = Decision(row["finding_id"], "error", "ann", row["check"], row["severity"], row["score"],
                            fix=fix, sample_id=row["sample_id"], decision_id="d1")  # fmt: skip
            DecisionLog(repository).add(version, [said], second=True)

    def told(self) -> dict[str, Any]:
        """Everything that a user can see of the repository, without times and names made by chance."""
        from datasetops.audits.decisions import decisions
        from datasetops.manifest import Repository

        repository = Repository.open(self.root)
        events = [entry.event for entry in repository.ledger.backwards()][::-1]
        made = ("event_id", "created_at")
        versions = {}
        for version in repository.versions():
            rows = {name: version.table(name) for name in ("samples", "annotations")}
            rows = {name: [{k: str(v) for k, v in row.items() if k not in made} for row in table.to_pylist()]
                    for name, table in rows.items()}  # fmt: skip
            commit = version.commit
            versions[version.name] = rows | {
                "message": commit.message,
                "sealed": commit.sealed,
                "counts": commit.counts,
            }
        kept = sorted(key for key in repository.store.list("") if not key.startswith(MAIN_FOLDERS))
        return {
            "events": [(event.kind, str(event.inputs.get("version"))) for event in events],
            "versions": versions,
            "decisions": sorted((item.finding_id, item.actor, item.verdict) for item in decisions(repository)),
            "audits": sorted({key.split("/")[2] for key in kept if key.startswith("audits/v")}),
            "models": sorted(key for key in kept if key.startswith("models/") and key.count("/") == 1),
            "erased": any(key.startswith("erasures/todo") for key in kept),
        }


# --- processes --------------------------------------------------------------------------------------------------------


def hooked(kill: tuple[int, bool] | None, counted: int) -> None:
    """Count what puts files in place or removes them; at the n-th the process kills itself, before it or after it."""
    count = 0

    def hook(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            here, after = kill or (-1, False)
            if count == here and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            answer = original(*args, **kwargs)
            if count - 1 == here:
                os.kill(os.getpid(), signal.SIGKILL)
            os.pwrite(counted, count.to_bytes(4, "little"), 0)
            return answer

        return wrapped

    for name in ("replace", "rename", "link", "unlink", "remove"):  # pathlib's too
        setattr(os, name, hook(getattr(os, name)))


def run(work: Callable[[], int], log: Path, kill: tuple[int, bool] | None = None) -> tuple[int, int]:
    """(exit status, writes) of some work in a forked process; its output goes into `log`."""
    counted = os.memfd_create("writes")
    child = os.fork()
    if child == 0:
        status = 99
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            hooked(kill, counted)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, told = os.waitpid(child, 0)
    writes = int.from_bytes(os.pread(counted, 4, 0), "little")
    os.close(counted)
    return os.waitstatus_to_exitcode(told), writes


def dsops(root: Path | None, *arguments: str) -> int:
    import typer

    from datasetops.cli.main import app

    where = [] if root is None else ["-C", str(root)]
    try:
        return int(app([*arguments, *where, "--debug", "--quiet"], standalone_mode=False) or 0)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception as error:
        from datasetops.errors import DatasetOpsError

        if not isinstance(error, DatasetOpsError):
            traceback.print_exc()
            return 70
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def imported() -> None:
    """Import what commands need, so that a forked one begins at once."""
    for module in ("datasetops.cli.main", "torch", "pandas", "duckdb", "onnxruntime", "sklearn.linear_model", "scipy.stats",
                   "pyarrow.parquet", "cleanlab.filter", "pydantic", "yaml", "faiss"):  # fmt: skip
        __import__(module)


def command(loop: Loop, name: str, arguments: list[str]) -> int:
    return dsops(None if name == "init" else loop.root, *arguments)


def verified(loop: Loop) -> int:
    return dsops(loop.root, "verify", "--all")


def main(folder: Path, points: int, seed: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["DSOPS_CACHE"] = str(folder / "cache")
    imported()
    loop, log = Loop(folder), folder / "log"
    writes, ends, lines = {}, {}, {}
    again: dict[str, tuple[int, dict[str, Any]]] = {}  # what a second run leaves where the first was done
    for name in loop.commands:
        if name == "init":
            shutil.rmtree(loop.root, ignore_errors=True)
        else:
            loop.before(name)
            shutil.copytree(loop.root, folder / f"before-{name}")
        lines[name] = loop.commands[name]()
        status, writes[name] = run(lambda name=name: command(loop, name, lines[name]), log)
        if status:
            raise RuntimeError(f"{name} ends with {status} when nobody kills it: {log.read_text()[-3000:]}")
        ends[name] = loop.told()
        shutil.copytree(loop.root, folder / f"after-{name}")
        status, _ = run(lambda name=name: command(loop, name, lines[name]), log)
        again[name] = status, loop.told()
        shutil.rmtree(loop.root)
        (folder / f"after-{name}").rename(loop.root)
    chance = random.Random(seed)
    every = [(name, at, after) for name, count in writes.items() for at in range(count) for after in (False, True)]
    chosen: list[tuple[str, int, bool]] = []
    while len(chosen) < points:  # each once before any comes again
        chosen += chance.sample(every, len(every))
    faults, counts, missed = [], dict.fromkeys(loop.commands, 0), 0
    for name, at, after in chosen[:points]:
        status, problem = killed_once(loop, name, lines[name], (at, after), ends[name], again[name], log)
        counts[name] += status == KILLED
        missed += status != KILLED  # it wrote less than when it was counted, since caches were warm
        if problem:
            faults.append({"command": name, "write": at, "after": after, "problem": problem})
            sys.stderr.write(f"{json.dumps(faults[-1])}\n")
    return {"points": counts, "missed": missed, "writes": writes, "faults": faults}


def killed_once(
    loop: Loop,
    name: str,
    arguments: list[str],
    kill: tuple[int, bool],
    end: dict[str, Any],
    again: tuple[int, dict[str, Any]],
    log: Path,
) -> tuple[int, str | None]:
    """How the killed process ended, and what is wrong after it; None where nothing is."""
    shutil.rmtree(loop.root, ignore_errors=True)
    if name != "init":
        shutil.copytree(loop.folder / f"before-{name}", loop.root)
    ended, _ = run(lambda: command(loop, name, arguments), log, kill)
    if ended == 0:
        return ended, None
    return ended, trouble(loop, name, arguments, ended, end, again, log)


def trouble(
    loop: Loop,
    name: str,
    arguments: list[str],
    ended: int,
    end: dict[str, Any],
    again: tuple[int, dict[str, Any]],
    log: Path,
) -> str | None:
    """What is wrong after a kill: the repository does not verify, the command does not finish, or its end is another one.

    Of a command that had noted in the ledger that it was done, a second run has to leave what two runs leave.
    """
    if ended != KILLED:
        return f"it ended with {ended}: {log.read_text()[-1500:]}"
    interrupted = (loop.root / ".dsops" / "erasures" / "todo" / "request.json").exists()
    if (loop.root / ".dsops" / "ledger" / "000000000000.json").exists() and not interrupted:
        status, _ = run(lambda: verified(loop), log)
        if status:
            return f"verify says {status}: {log.read_text()[-1500:]}"
    was_done = done(loop, end)
    expected, wanted = again if was_done and not interrupted else (0, end)
    line = ["erase", "--resume"] if interrupted else arguments
    status, _ = run(lambda: command(loop, name, line), log)
    if status != expected:
        return f"run again it ends with {status}: {log.read_text()[-1500:]}"
    status, _ = run(lambda: verified(loop), log)
    if status:
        return f"after it was run again verify says {status}: {log.read_text()[-1500:]}"
    found = loop.told()
    for part, value in wanted.items():
        if found[part] != value and not (interrupted and was_done and part == "events"):  # two certificates, two events
            shown = [json.dumps(one, default=str)[:800] for one in (found[part], value)]
            return f"{part} differ: {shown[0]} instead of {shown[1]}"
    return None


def done(loop: Loop, end: dict[str, Any]) -> bool:
    """Whether the kill came after the event was in the ledger: all that counts was written."""
    with contextlib.suppress(Exception):
        return loop.told()["events"] == end["events"]
    return False


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
