"""How right the few-shot labeler is from few labels, by the commands that a user would give.

    python benchmarks/few_shot.py                          # a Markdown table, as in docs/preannotate.md
    python benchmarks/few_shot.py --draws 5 --networks 1 3

Needs DSOPS_TEST_DATA, three networks the extra `networks`. All 10,000 images of CIFAR-10N are ingested without labels. Then
some get their right one: 50 of each class by chance, or the 100 that `dsops select --strategy typiclust` chooses. What
`dsops preannotate --model fewshot:…` says of all others is compared with CIFAR-10's own labels; "sure" are those with a
score from .9 on. Draws differ in the images that are labeled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasetops import Repository

NETWORKS = {
    1: "builtin:efficientnet-lite0",
    3: "builtin:efficientnet-lite0+builtin:efficientnet-lite1+builtin:efficientnet-lite2",
}
HOW = {"chance": "50 of each class, by chance", "typiclust": "100 chosen by typiclust"}
EACH = 50
CHOSEN = 100
SURE = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--networks", type=int, nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = os.environ.get("DSOPS_TEST_DATA")
    if data is None:
        sys.exit("Set DSOPS_TEST_DATA to the folder with cifar10n.")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        truth = prepare(Path(data) / "cifar10n", Path(folder))
        for networks in arguments.networks:
            for how in HOW:
                draws = [measured(Path(folder), truth, how, networks, seed) for seed in range(arguments.draws)]
                found.append({"networks": networks, "labels": HOW[how], "draws": draws})
    print(json.dumps(found) if arguments.json else "\n".join(lines(found)))


def prepare(data: Path, folder: Path) -> dict[str, str]:
    """A repository of the images without labels; the true class by file name."""
    frame = pd.read_parquet(data / "data.parquet", columns=["index", "image", "clean_label"])
    names: list[str] = json.loads((data / "classes.json").read_text(encoding="utf-8"))
    truth = {}
    (folder / "images").mkdir()
    for index, image, label in frame.itertuples(index=False):
        name = f"{index:05d}.jpg"
        (folder / "images" / name).write_bytes(image["bytes"] if isinstance(image, dict) else image)
        truth[name] = names[label]
    sheet(folder / "pool.csv", truth, [])
    dsops(folder, "init", "repository", "--schema", "cifar10", cwd=folder)
    dsops(folder / "repository", "ingest", str(folder / "pool.csv"), "--format", "table")
    return truth


def measured(folder: Path, truth: Mapping[str, str], how: str, networks: int, seed: int) -> dict[str, float]:
    """Share right of all that has no label, share that is sure, and share right of those."""
    repository = folder / "repository"
    names = sorted(truth)
    if how == "chance":
        order = np.random.default_rng(seed).permutation(names)
        chosen = [name for label in sorted(set(truth.values())) for name in _first(order, truth, label)]
    else:
        options = ("--strategy", "typiclust", "--n", str(CHOSEN), "--seed", str(seed), "--model", NETWORKS[networks])
        ids = set(json.loads(dsops(repository, "select", "v1", *options, "--json"))["ids"])
        samples = Repository.open(str(repository)).version("v1").table("samples").to_pandas()
        chosen = [Path(uri).name for uri, one in zip(samples["uri"], samples["sample_id"], strict=True) if one in ids]
    branch = f"{how}-{networks}-{seed}"
    dsops(repository, "branch", branch, "--from", "v1")
    sheet(folder / "labeled.csv", truth, chosen)
    dsops(repository, "ingest", str(folder / "labeled.csv"), "--format", "table", "--branch", branch)
    dsops(repository, "preannotate", branch, "--model", f"fewshot:{NETWORKS[networks]}", "--branch", branch)
    version = Repository.open(str(repository)).version(branch)
    uris = version.table("samples").to_pandas().set_index("sample_id")["uri"]
    rows = version.labels().to_pandas()
    rows = rows[rows["source"] == "model"]
    right = rows["label"] == uris[rows["sample_id"]].map(lambda uri: truth[Path(uri).name]).to_numpy()
    others = len(truth) - len(chosen)
    sure = rows["score"] >= SURE
    return {"right": right.sum() / others, "sure": sure.sum() / others, "right_of_sure": right[sure].mean()}


def _first(order: Any, truth: Mapping[str, str], label: str) -> list[str]:
    return [name for name in order if truth[name] == label][:EACH]


def sheet(path: Path, truth: Mapping[str, str], labeled: list[str]) -> None:
    known = set(labeled)
    rows = [{"uri": f"images/{name}", "label": truth[name] if name in known else ""} for name in sorted(truth)]
    pd.DataFrame(rows).to_csv(path, index=False)


def dsops(repository: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What the command prints; it has to end well."""
    command = [str(Path(sys.executable).with_name("dsops")), *arguments]
    return subprocess.run(command, cwd=cwd or repository, stdout=subprocess.PIPE, text=True, check=True).stdout


def lines(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "| networks | labels | right of all others | sure | right of those |\n|---|---|---|---|---|"
    for one in found:
        cells = []
        for key in ("right", "sure", "right_of_sure"):
            values = [100 * draw[key] for draw in one["draws"]]
            cells.append(f"{statistics.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})")
        yield f"| {one['networks']} | {one['labels']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
