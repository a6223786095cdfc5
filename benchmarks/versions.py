"""Commit of random edits into a large table, beside pylance's merge_insert on the same rows, and diff of the two versions.

Each contender runs in a process of its own; times are medians of several commits, memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from contenders import status_mib
from pyarrow import feather
from ratios import record

EDITS = 1000
ROUNDS = 5


def tables(n: int) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(0)
    ids = np.char.add("s", np.char.zfill(np.arange(n).astype(str), 9))
    labels = np.char.add("c", rng.integers(0, 10, n).astype(str))
    samples = pa.table(
        {
            "sample_id": ids,
            "uri": np.char.add(ids, ".jpg"),
            "width": np.full(n, 640),
            "split": np.where(rng.random(n) < 0.8, "train", "test"),
        }
    )
    annotations = pa.table(
        {
            "annotation_id": np.char.add(ids, "/label"),
            "sample_id": ids,
            "kind": np.full(n, "classification"),
            "label": labels,
            "source": np.full(n, "import"),
        }
    )
    return samples, annotations


def write_edits(annotations: pa.Table, folder: Path) -> None:
    """So that the process measured need not hold the whole table."""
    for number in range(ROUNDS):
        feather.write_feather(edits(annotations, number), folder / f"edits-{number}.arrow")


def read_edits(folder: Path) -> list[pa.Table]:
    return [feather.read_table(folder / f"edits-{number}.arrow", memory_map=False) for number in range(ROUNDS)]


def edits(annotations: pa.Table, number: int) -> pa.Table:
    rng = np.random.default_rng(100 + number)
    rows = annotations.take(pa.array(np.sort(rng.choice(len(annotations), EDITS, replace=False))))
    old = rows["label"].to_pylist()
    new = [f"c{(int(label[1:]) + 1 + int(rng.integers(9))) % 10}" for label in old]
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(new))


def size(folder: Path, skip: str = "") -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not (skip and skip in f.parts))


def run_dsops(n: int, folder: Path, prepared: bool) -> dict[str, Any]:
    from datasetops.manifest import Change, Repository, diff
    from datasetops.schema import LabelSchema

    if not prepared:
        samples, annotations = tables(n)
        write_edits(annotations, folder)
        schema = LabelSchema.model_validate(
            {
                "name": "b",
                "version": 1,
                "tasks": [{"kind": "classification"}],
                "classes": [{"id": i, "name": f"c{i}"} for i in range(10)],
            }
        )
        Repository.init(folder, schema).commit(Change(samples, annotations), message="base")
        return {}
    changes = read_edits(folder)
    times, diffs, added = [], [], []
    for change in changes:
        repository = Repository.open(folder)
        before = repository.version()
        held = size(folder / ".dsops", "cache")
        started = time.perf_counter()
        version = repository.commit(Change(annotations=change), message="edit").version
        times.append(time.perf_counter() - started)
        added.append(size(folder / ".dsops", "cache") - held)
        started = time.perf_counter()
        found = diff(before, version).as_dict()
        diffs.append(time.perf_counter() - started)
        assert found["annotations"]["changed"] > EDITS * 0.9
    return {"commit_s": statistics.median(times), "diff_s": statistics.median(diffs), "added_mb": max(added) / 1e6}


def run_lance(n: int, folder: Path, prepared: bool) -> dict[str, Any]:
    import lance

    place = str(folder / "lance")
    if not prepared:
        _, annotations = tables(n)
        write_edits(annotations, folder)
        field = (
            annotations.schema.field("annotation_id")
            .with_metadata({"lance-schema:unenforced-primary-key": "true"})
            .with_nullable(False)
        )
        fields = [field, *list(annotations.schema)[1:]]
        lance.write_dataset(annotations.cast(pa.schema(fields)), place)
        return {}
    changes = read_edits(folder)
    times, added = [], []
    for change in changes:
        dataset = lance.dataset(place)
        held = size(folder / "lance")
        started = time.perf_counter()
        dataset.merge_insert("annotation_id").when_matched_update_all().when_not_matched_insert_all().execute(
            change.cast(dataset.schema)
        )
        times.append(time.perf_counter() - started)
        added.append(size(folder / "lance") - held)
    return {"commit_s": statistics.median(times), "added_mb": max(added) / 1e6}


RUNNERS = {"dsops": run_dsops, "pylance": run_lance}


def measure(name: str, n: int, folder: Path) -> dict[str, Any]:
    for prepared in ("", "--prepared"):
        command = [
            sys.executable,
            __file__,
            "--child",
            name,
            "--rows",
            str(n),
            "--folder",
            str(folder),
            *filter(None, [prepared]),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=RUNNERS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepared", action="store_true")
    options = parser.parse_args()
    if options.child:
        answer = RUNNERS[options.child](options.rows[0], options.folder, options.prepared)
        answer["peak_gib"] = status_mib("VmHWM") / 1024
        print(json.dumps(answer))
        return
    rows = []
    for n in options.rows or [1_000_000]:
        folder = Path(tempfile.mkdtemp())
        try:
            results = {name: measure(name, n, folder) for name in RUNNERS}
        finally:
            shutil.rmtree(folder)
        ratio = results["dsops"]["commit_s"] / results["pylance"]["commit_s"]
        rows.append({"rows": n, "ratio": ratio} | results)
        for figure, what, unit in (
            ("commit_s", f"commit of {EDITS:,} edits into {n:,} rows", "s"),
            ("added_mb", f"files added by {EDITS:,} edits in {n:,} rows", "MB"),
        ):
            record(what, results["dsops"][figure], "pylance, merge_insert", results["pylance"][figure], unit)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        "| rows | dsops commit, s | pylance merge_insert, s | ratio | dsops added, MB | pylance added, MB | dsops diff, s | dsops peak, GiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ours, theirs = row["dsops"], row["pylance"]
        print(
            f"| {row['rows']:,} | {ours['commit_s']:.3f} | {theirs['commit_s']:.3f} | {row['ratio']:.2f} | {ours['added_mb']:.2f} "
            f"| {theirs['added_mb']:.2f} | {ours['diff_s']:.3f} | {ours['peak_gib']:.2f} |"
        )


if __name__ == "__main__":
    main()
