"""Make a repository as an earlier dsops wrote it: `python make.py COMMIT` writes the folder COMMIT beside this file.

The package of that commit is installed into a temporary folder, and this file is run once more by it: what that dsops
cannot do yet is left out. `expected.json` has the rows of each version as that dsops reads them, without nulls.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = (
    "ingest images --copy",
    "split train=0.5,test=0.5",
    "audit main --check exact_duplicate",
    "select main --n 2 --strategy random --where true --no-spread",
    "qa plan main --pass 0.6",
    "accept main --policy policy.yaml",
    "decide main FINDING --verdict fine",
    "erase --sample SAMPLE --reason asked --yes",
)


def main(commit: str) -> None:
    root = HERE.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=root, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(f"{folder}/source", filter="data")
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{folder}/package", f"{folder}/source"]
        subprocess.run([sys.executable, *install], check=True)
        environment = os.environ | {
            "PYTHONPATH": f"{folder}/package",
            "DSOPS_ACTOR": "ann",
            "DSOPS_CACHE": f"{folder}/cache",
        }
        written = f"{folder}/{commit}"
        subprocess.run([sys.executable, __file__, "write", written], cwd=folder, env=environment, check=True)
        shutil.rmtree(HERE / commit, ignore_errors=True)
        shutil.copytree(written, HERE / commit, ignore=shutil.ignore_patterns("cache", "tmp"))


def write(root: Path) -> None:
    from datasetops.manifest import Change, Repository, merge
    from datasetops.schema import LabelSchema

    schema = LabelSchema.model_validate(
        {
            "name": "pets", "version": 1, "tasks": [{"kind": "classification"}, {"kind": "box"}],
            "classes": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        }
    )  # fmt: skip
    repository = Repository.init(
        root, schema, guide="# Guide\n\n## cat\n\nA cat.\n\n## dog\n\nA dog.\n", store_url="store"
    )
    samples = [
        {"sample_id": n, "uri": f"{n}.png", "width": 8, "height": 8, "metadata": {"light": "day"}} for n in "abcd"
    ]
    repository.commit(Change(samples=samples, annotations=[_row(n, "cat") for n in "abcd"]), message="first")
    box = {
        "annotation_id": "a#1",
        "sample_id": "a",
        "kind": "box",
        "label": "dog",
        "x1": 1.0,
        "y1": 1.0,
        "x2": 5.5,
        "y2": 6.0,
    }
    repository.commit(
        Change(annotations=[_row("b", "dog"), box | {"source": "model", "model": "m", "score": 0.5}],
               remove_annotations=["d/label"], guide="# Guide\n\n## cat\n\nEvery cat.\n\n## dog\n\nA dog.\n"),
        message="second",
    )  # fmt: skip
    repository.create_branch("trial")
    repository.commit(Change(annotations=[_row("c", "dog")]), message="on a branch", branch="trial")
    repository.commit(Change(remove_samples=["d"]), message="on main")
    merge(repository, "trial")
    steps(root)
    expected = {}
    for version in Repository.open(root).versions():
        tables = {name: version.table(name).to_pylist() for name in ("samples", "annotations")}
        expected[version.name] = {name: [_filled(row) for row in rows] for name, rows in tables.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(tables, default=str)}" for name, tables in expected.items()]
    (root / "expected.json").write_text("{" + ",\n".join(lines) + "}\n")
    (root / "policy.yaml").unlink()


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _row(name: str, label: str) -> dict[str, Any]:
    return {
        "annotation_id": f"{name}/label", "sample_id": name, "kind": "classification", "label": label, "source": "human",
        "actor": "ann", "attributes": {"sure": True},
    }  # fmt: skip


def steps(root: Path) -> None:
    """Commands, as far as that dsops has them."""
    import numpy as np
    from PIL import Image

    for label, shade in (("cat", 40), ("dog", 200)):
        for number in range(4):
            pixels = np.full((8, 8, 3), shade + number // 2 * 9, np.uint8)  # two and two are the same
            file = root / "images" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    (root / "policy.yaml").write_text("{name: small, findings: {at: high, ignore: [exact_duplicate]}}\n")
    for step in STEPS:
        words = [word.replace("FINDING", _finding(root)).replace("SAMPLE", "a") for word in step.split()]
        words = [str(root / word) if word in ("images", "policy.yaml") else word for word in words]
        code = "from datasetops.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words, "-C", str(root)], capture_output=True, text=True)
        sys.stdout.write(f"{step}: {done.returncode} {done.stderr.strip().splitlines()[-1:]}\n")
    shutil.rmtree(root / "images", ignore_errors=True)


def _finding(root: Path) -> str:
    files = list((root / "store" / "audits").rglob("findings.parquet"))
    if not files:
        return "none"
    import pyarrow.parquet as pq

    return str(pq.read_table(files[-1])["finding_id"][0])


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        main(sys.argv[1])
