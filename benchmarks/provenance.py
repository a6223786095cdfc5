"""Questions about the past of a large repository: samples, annotations and versions are made first, then each question timed.

Each question runs in a process of its own, as the command does, on a repository that was opened before: local copies of
the large segments are there. Times are the library's, without Python's start. With --erase a hundred samples are erased at
the end, which changes the repository.

    python benchmarks/provenance.py [--samples 1000000] [--annotations 5] [--versions 200] [--edits 1000] [--erase]
                                    [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CLASSES, ORIGINS, ACTORS = 10, 20, 25
ERASED = 100
MODEL = "hf:someone/boxes@abc#0123456789ab"
QUESTIONS: dict[str, tuple[str, ...]] = {
    "provenance sample": ("sample", "s000000007"),
    "provenance annotation": ("annotation", "s000000007/1"),
    "provenance version": ("version", "v2"),
    "provenance model": ("model", "m1"),
    "blame version": ("blame", ""),
    "blame version, one class": ("blame", "c3"),
    "impact of an origin": ("impact", "origin", "o3"),
    "impact of a licence (half of all)": ("impact", "license", "CC-BY-4.0"),
    "impact of an actor": ("impact", "actor", "p3"),
    "impact of a model (a fifth of all)": ("impact", "model", MODEL),
    "impact of an event": ("impact", "event", "5"),
    "impact of a guide (all)": ("impact", "guide", "v1"),
    "model without an origin": ("without", "origin", "o3"),
    "model without an actor": ("without", "actor", "p3"),
}


def make(folder: Path, samples: int, each: int, versions: int, edits: int) -> None:
    from datasetops.ledger import Event
    from datasetops.manifest import Change, Repository
    from datasetops.schema import LabelSchema
    from datasetops.training.record import Trained, record_model

    rng = np.random.default_rng(0)
    schema = {
        "name": "b",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [{"id": i, "name": f"c{i}"} for i in range(CLASSES)],
    }
    repository = Repository.init(folder, LabelSchema.model_validate(schema), guide="# Boxes\n")
    ids = np.char.add("s", np.char.zfill(np.arange(samples).astype(str), 9))
    table = pa.table(
        {
            "sample_id": ids,
            "uri": np.char.add(ids, ".jpg"),
            "sha256": np.char.add("d", ids),
            "split": np.where(rng.random(samples) < 0.8, "train", "test"),
            "origin": np.char.add("o", rng.integers(0, ORIGINS, samples).astype(str)),
            "license": np.where(rng.random(samples) < 0.5, "CC-BY-4.0", "research-only"),
            "consent": np.full(samples, "training"),
        }
    )
    total = samples * each
    owner = np.repeat(ids, each)
    names = np.char.add(np.char.add(owner, "/"), np.tile(np.arange(each), samples).astype(str))
    by_model = rng.random(total) < 0.2
    corner = rng.random((4, total)) * 300
    annotations = pa.table(
        {
            "annotation_id": names,
            "sample_id": owner,
            "kind": pa.array(["box"]).take(pa.array(np.zeros(total, dtype=np.int32))),
            "label": np.char.add("c", rng.integers(0, CLASSES, total).astype(str)),
            "x1": corner[0],
            "y1": corner[1],
            "x2": corner[0] + corner[2],
            "y2": corner[1] + corner[3],
            "source": np.where(by_model, "model", "human"),
            "actor": pa.array(np.char.add("p", rng.integers(0, ACTORS, total).astype(str)), mask=by_model),
            "model": pa.array(np.full(total, MODEL), mask=~by_model),
        }
    )
    version = repository.commit(Change(samples=table, annotations=annotations), message="all").version
    for number in range(1, versions):
        rows = annotations.take(pa.array(np.sort(rng.choice(total, edits, replace=False))))
        changed = pa.array(np.char.add("c", rng.integers(0, CLASSES, edits).astype(str)))
        actor = pa.array(np.full(edits, f"p{number % ACTORS}"))
        for name, values in {"label": changed, "actor": actor, "source": pa.array(np.full(edits, "human"))}.items():
            rows = rows.set_column(rows.column_names.index(name), name, values)
        moved = table.take(pa.array(np.sort(rng.choice(samples, max(1, edits // 10), replace=False))))
        split = pa.array(np.full(len(moved), "train"))
        moved = moved.set_column(moved.column_names.index("split"), "split", split)
        event = Event("commit", f"p{number % ACTORS}")
        version = repository.commit(Change(samples=moved, annotations=rows), message="edit", event=event).version
    learned = ids[rng.random(samples) < 0.5].tolist()
    record_model(
        repository,
        version,
        Trained("box", tuple(f"c{i}" for i in range(CLASSES)), b"weights", {"kind": "probe"}, "map", {"map": 0.5}),
        split="train",
        samples={"train": learned, "validation": []},
        recipe={"name": "probe"},
        recipe_digest="0" * 64,
        code={},
        environment={},
        seed=0,
    )


def ask(folder: Path, what: tuple[str, ...]) -> dict[str, Any]:
    from datasetops.erasure.erase import erase
    from datasetops.manifest import Repository
    from datasetops.provenance.blame import blame
    from datasetops.provenance.holders import model_story, version_story
    from datasetops.provenance.impact import impact
    from datasetops.provenance.proof import prove_without
    from datasetops.provenance.story import annotation_story, sample_story

    started = time.perf_counter()
    repository = Repository.open(folder)
    tell = {"sample": sample_story, "annotation": annotation_story, "version": version_story, "model": model_story}
    if what[0] in tell:
        told: Any = len(tell[what[0]](repository, what[1]).items)
    elif what[0] == "blame":
        told = sum(row["annotations"] for row in blame(repository, "main", label=what[1] or None).makers)
    elif what[0] == "impact":
        found = impact(repository, what[1], what[2])
        told = [found.samples, found.annotations, len(found.versions)]
    elif what[0] == "erase":
        ids = repository.version("v1").table("samples", ["sample_id"])["sample_id"].to_pylist()
        told = dict(erase(repository, ids[1 :: len(ids) // ERASED][:ERASED], "a benchmark").rows)
    else:
        told = prove_without(repository, "m1", what[1], what[2]).holds
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"seconds": round(seconds, 3), "peak_mib": round(peak), "answer": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--annotations", type=int, default=5, help="of each sample")
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--edits", type=int, default=1_000, help="annotations that each version changes")
    parser.add_argument("--folder", type=Path, help="keep the repository there, or use what is there")
    parser.add_argument("--erase", action="store_true", help="erase some samples at the end")
    parser.add_argument("--ask", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        print(json.dumps(ask(given.folder, tuple(given.ask))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "set"
        if not folder.exists():
            started = time.perf_counter()
            make(folder, given.samples, given.annotations, given.versions, given.edits)
            print(f"made in {time.perf_counter() - started:.0f} s")
        questions = QUESTIONS | ({f"erase {ERASED} samples": ("erase",)} if given.erase else {})
        for name, what in questions.items():
            command = [sys.executable, __file__, "--folder", str(folder), "--ask", *what]
            answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            print(f"{name:38} {answer['seconds']:7.3f} s {answer['peak_mib']:6} MiB  {answer['answer']}")


if __name__ == "__main__":
    main()
