"""Consensus of many annotators' labels, beside cleanlab and crowd-kit, each in a process of its own; accuracy on crowds.

    python benchmarks/annotators.py                        # 1,000,000 labels of 200 annotators
    python benchmarks/annotators.py --annotators 2000 --only "dsops Dawid-Skene" --only "crowd-kit Dawid-Skene"

Labels are made: annotators of different skill, who mistake some classes for others more than for the rest. cleanlab takes
a table of items times annotators and, to rate a consensus, a model's probabilities; they are made too, right for six
items of ten. That table is made before the clock starts, and so are the tables that crowd-kit takes. All work is done
by one thread. The three real crowds are those of DSOPS_TEST_DATA/multiannotator, without which their table is left out;
there are no images with them, hence no probabilities and no CROWDLAB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import numpy.typing as npt
import pandas as pd
from ratios import record

Ints = npt.NDArray[np.int64]
Data = dict[str, npt.NDArray[Any]]

NAMES = (
    "dsops Dawid-Skene",
    "crowd-kit Dawid-Skene",
    "dsops CROWDLAB",
    "cleanlab CROWDLAB",
    "crowd-kit majority",
    "cleanlab majority",
)
CROWDS = ("bluebirds", "dogs", "faces")


def write_data(folder: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    n, m, k = options.labels // options.each, options.annotators, options.classes
    truth = rng.integers(0, k, n)
    items = np.repeat(np.arange(n), options.each)
    first = rng.integers(0, m, n)  # of a group that answers the same items: `each` different annotators
    steps = rng.choice(m - 1, options.each - 1, replace=False) + 1
    who = ((first[:, None] + np.append(0, steps)) % m).ravel()
    skill = rng.uniform(0.5, 0.95, m)
    alike = rng.dirichlet(np.full(k, 0.5), size=k)  # what a class is mistaken for, by everybody
    wrong = (rng.random(len(items))[:, None] > alike[truth[items]].cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    labels = np.where(rng.random(len(items)) < skill[who], truth[items], wrong)
    chances = rng.random((n, k)) + np.eye(k)[np.where(rng.random(n) < 0.6, truth, rng.integers(0, k, n))] * 2
    chances /= chances.sum(axis=1, keepdims=True)
    np.savez(folder / "data.npz", items=items, who=who, labels=labels, truth=truth, probabilities=chances)


def wide_table(data: Data) -> npt.NDArray[np.float64]:
    table = np.full((int(data["items"].max()) + 1, int(data["who"].max()) + 1), np.nan)
    table[data["items"], data["who"]] = data["labels"]
    return table


def long_table(data: Data) -> pd.DataFrame:
    return pd.DataFrame({"task": data["items"], "worker": data["who"], "label": data["labels"]})


def work_of(name: str, data: Data) -> Callable[[], Ints]:
    """What makes the consensus (I,) of the answers; the tables it takes are ready."""
    if name.startswith("dsops"):
        from datasetops.audits.people.dawid_skene import crowdlab, dawid_skene

        answers = data["items"], data["who"], data["labels"]
        if name == "dsops CROWDLAB":
            return lambda: crowdlab(*answers, data["probabilities"]).consensus
        return lambda: dawid_skene(*answers).consensus
    if name.startswith("crowd-kit"):
        from crowdkit.aggregation import DawidSkene, MajorityVote

        frame = long_table(data)
        method = DawidSkene(n_iter=100) if name == "crowd-kit Dawid-Skene" else MajorityVote()
        return lambda: method.fit_predict(frame).sort_index().to_numpy()
    from cleanlab.multiannotator import get_label_quality_multiannotator, get_majority_vote_label

    table = wide_table(data)
    if name == "cleanlab majority":
        return lambda: get_majority_vote_label(table, verbose=False)
    return lambda: get_label_quality_multiannotator(
        table, data["probabilities"], return_detailed_quality=False, return_annotator_stats=False, verbose=False
    )["label_quality"]["consensus_label"].to_numpy()


def compete(options: argparse.Namespace) -> contenders.Row:
    """In the contender's process."""
    warnings.simplefilter("ignore")
    data = dict(np.load(options.folder / "data.npz"))
    work = work_of(options.contender, data)
    return contenders.measure(lambda: {"accuracy": float((work() == data["truth"]).mean())})


def crowds(folder: Path) -> list[dict[str, Any]]:
    """Accuracy on real crowds. A tie of the majority counts as its share; each method settles it in its own way."""
    warnings.simplefilter("ignore")
    rows = []
    for crowd in CROWDS:
        answers = pd.read_csv(folder / f"{crowd}_labels.csv")
        truth = pd.read_csv(folder / f"{crowd}_truth.csv").set_index("item")["truth"]
        items, names = pd.factorize(answers["item"], sort=True)
        who = pd.factorize(answers["annotator"], sort=True)[0]
        data = {"items": items, "who": who, "labels": answers["label"].to_numpy(), "truth": truth.loc[names].to_numpy()}
        counts = np.zeros((len(names), int(data["labels"].max()) + 1))
        np.add.at(counts, (items, data["labels"]), 1)
        most = counts == counts.max(axis=1, keepdims=True)
        row: dict[str, Any] = {
            "crowd": crowd,
            "items": len(names),
            "annotators": int(who.max()) + 1,
            "labels": len(items),
        }
        row["majority, ties shared"] = round(
            float((most[np.arange(len(names)), data["truth"]] / most.sum(axis=1)).mean()), 4
        )
        for name in NAMES:
            if "CROWDLAB" not in name:
                row[name] = round(float((work_of(name, data)() == data["truth"]).mean()), 4)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=5, help="labels of an item")
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    parser.add_argument("--only", action="append", help="contenders to run; may be repeated")
    options = contenders.options_of(parser, compete)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    names = [name for name in NAMES if not options.only or name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), options)
        rows = contenders.race(__file__, names, ["--folder", folder], rounds=options.rounds)
    for row in rows:
        row["times the first"] = row.get("seconds", np.nan) / rows[0].get("seconds", np.nan)
    setting: dict[str, Any] = {
        "labels": options.labels,
        "labels an item": options.each,
        "annotators": options.annotators,
        "classes": options.classes,
    }
    data = os.environ.get("DSOPS_TEST_DATA")
    real = crowds(Path(data) / "multiannotator") if data else []
    for method, peer in (("Dawid-Skene", "crowd-kit"), ("CROWDLAB", "cleanlab")):
        what = f"{method}, {options.labels:,} labels"
        contenders.compare(rows, what, f"dsops {method}", f"{peer} {method}", peer)
    for row in real:
        own, other = row["dsops Dawid-Skene"], row["crowd-kit Dawid-Skene"]
        record(f"Dawid-Skene, the crowd {row['crowd']}", own, "crowd-kit", other, "accuracy", more_is_better=True)
    if options.json:
        contenders.report(setting | {"crowds": real}, rows, as_json=True)
        return
    contenders.report(setting, rows, as_json=False)
    if real:
        print("\nAccuracy on real crowds\n\n| " + " | ".join(real[0]) + " |\n|" + "---|" * len(real[0]))
        for row in real:
            print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
