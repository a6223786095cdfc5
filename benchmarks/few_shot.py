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
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from commands import cifar_images, dsops, write_table

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
    found = []
    with tempfile.TemporaryDirectory() as folder:
        truth = prepare(Path(folder))
        for networks in arguments.networks:
            for how in HOW:
                draws = [measured(Path(folder), truth, how, networks, seed) for seed in range(arguments.draws)]
                found.append({"networks": networks, "labels": HOW[how], "draws": draws})
    print(json.dumps(found) if arguments.json else "\n".join(lines(found)))


def prepare(folder: Path) -> dict[str, str]:
    """A repository of the images without labels; the true class by file name."""
    truth = cifar_images(folder, "clean_label")["clean_label"]
    write_table(folder / "pool.csv", sorted(truth))
    dsops(folder, "init", "repository", "--schema", "cifar10")
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
        told = json.loads(dsops(repository, "select", "v1", *options, "--json"))
        ids = {one["sample_id"] for one in told["samples"]}
        samples = Repository.open(str(repository)).version("v1").table("samples").to_pandas()
        chosen = [Path(uri).name for uri, one in zip(samples["uri"], samples["sample_id"], strict=True) if one in ids]
    branch = f"{how}-{networks}-{seed}"
    dsops(repository, "branch", branch, "--from", "v1")
    write_table(folder / "labeled.csv", names, label={name: truth[name] for name in chosen})
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
