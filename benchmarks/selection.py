"""Choosing samples that are unlike each other, beside scikit-activeml, each in a process of its own.

    python benchmarks/selection.py                                   # as in the tables of the documentation
    python benchmarks/selection.py --only k_center --rounds 3

k-center 1,000 of 100,000 x 512, BADGE 500 of 50,000 x 512 with 10 classes, TypiClust 500 of 50,000 x 512, margin 1,000
of 1,000,000 x 10. `seconds` are those of the `picks` that were made, `for all` those of all picks: scikit-activeml's
k-center and BADGE take the same time for each pick after the first, so a few are timed and the rest is reckoned from a
shorter run, which is not counted. `times ours` compares `for all`. `memory` is what was allocated beside the input, over
the input's size.

`objective` comes from a tenth of the rows and 100 picks, where both run in full, as a mean over seeds: the covering
radius (k-center), the mean squared distance of gradients (BADGE) or embeddings (TypiClust) to the nearest pick.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import numpy.typing as npt
from neighbours import write_vectors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
CLASSES = 10
SETTINGS = {  # rows, picks, picks of the peer (two runs where its time is linear)
    "k_center": (100_000, 1000, (2, 12)),
    "badge": (50_000, 500, (2, 42)),
    "typiclust": (50_000, 500, (500,)),
    "margin": (1_000_000, 1000, (1000,)),
}
CONTENDERS = ("dsops", "scikit-activeml")
OBJECTIVE_PICKS = 100
OBJECTIVE_SEEDS = 5


def ours(task: str, vectors: Floats, probabilities: Floats, n: int, seed: int) -> Rows:
    from datasetops.active_learning.pool import Pool
    from datasetops.active_learning.strategies import find_strategy

    every, nobody = np.arange(len(probabilities)), np.full(len(probabilities), -1)
    pool = Pool(CLASSES, every, every[:0], nobody, embeddings=vectors, probabilities=probabilities)
    return find_strategy(task).pick(pool, n, np.random.default_rng(seed)).rows


def peers(task: str, vectors: Floats, probabilities: Floats, n: int, seed: int) -> Rows:
    from skactiveml.base import SkactivemlClassifier  # type: ignore[import-not-found]
    from skactiveml.pool import Badge, CoreSet, TypiClust, UncertaintySampling  # type: ignore[import-not-found]

    class Told(SkactivemlClassifier):  # type: ignore[misc]
        """A classifier whose probabilities are given."""

        def __init__(self, told: Any = None, classes: Any = None, missing_label: Any = np.nan) -> None:
            super().__init__(classes=classes, missing_label=missing_label)
            self.told = told

        def fit(self, X: Any, y: Any) -> Told:  # noqa: N803
            return self

        def predict_proba(self, X: Any) -> Any:  # noqa: N803
            return self.told

    told = Told(probabilities, classes=list(range(CLASSES)))
    labels = np.full(len(probabilities), np.nan)
    if task == "k_center":
        chosen = CoreSet(random_state=seed).query(vectors, labels, batch_size=n)
    elif task == "badge":
        chosen = Badge(random_state=seed).query(vectors, labels, told, fit_clf=False, batch_size=n)
    elif task == "typiclust":
        chosen = TypiClust(random_state=seed, k=20).query(vectors, labels, batch_size=n)
    else:
        query = UncertaintySampling(method="margin_sampling", random_state=seed)
        chosen = query.query(np.zeros((len(labels), 1)), labels, told, fit_clf=False, batch_size=n)
    return np.asarray(chosen)


CHOOSE: dict[str, Callable[[str, Floats, Floats, int, int], Rows]] = {"dsops": ours, "scikit-activeml": peers}


def objective(task: str, vectors: Floats, probabilities: Floats, chosen: Rows) -> float:
    """Computed plainly, in float64."""
    rows = vectors.astype(np.float64)
    product, square = rows @ rows[chosen].T, (rows**2).sum(axis=1)
    if task == "badge":
        error = probabilities - np.eye(CLASSES)[probabilities.argmax(axis=1)]
        product, square = product * (error @ error[chosen].T), square * (error**2).sum(axis=1)
    nearest = np.maximum(square[:, None] + square[chosen] - 2 * product, 0).min(axis=1)
    return float(np.sqrt(nearest.max()) if task == "k_center" else nearest.mean())


def compete(options: argparse.Namespace) -> contenders.Row:
    """In the contender's process."""
    task, name = options.contender.split(", ")
    count, n, some = SETTINGS[task]
    choose = CHOOSE[name]
    probabilities = np.load(options.folder / "probabilities.npy", mmap_mode="r")[:count]
    vectors = np.load(options.folder / "vectors.npy")[: 0 if task == "margin" else count]
    size = (probabilities if task == "margin" else vectors).nbytes
    told: dict[str, Any] = {}
    with threadpool_limits(options.jobs):
        if task != "margin":
            few = count // 10
            told["objective"] = np.mean(
                [
                    objective(
                        task, vectors[:few], probabilities[:few],
                        choose(task, vectors[:few], probabilities[:few], OBJECTIVE_PICKS, seed),
                    )
                    for seed in range(OBJECTIVE_SEEDS)
                ]
            )  # fmt: skip
        choose(task, vectors[:CLASSES], probabilities[:CLASSES], 1, 0)  # modules are loaded before time counts
        picks = n if name == "dsops" else some[-1]
        start = time.perf_counter()
        if name != "dsops" and len(some) > 1:
            choose(task, vectors, probabilities, some[0], 0)
        shorter = time.perf_counter() - start
        row = contenders.measure(lambda: {"chosen": len(choose(task, vectors, probabilities, picks, 0))})
    each = (row["seconds"] - shorter) / (some[-1] - some[0]) if picks < n else 0.0
    row |= {"picks": picks, "for all": row["seconds"] + each * (n - picks), "memory": row["extra_mib"] * 2**20 / size}
    return row | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SETTINGS, help="tasks to run; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="threads of every contender")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    parser.add_argument("--temp", type=Path, help="where the data go, and are deleted from")
    options = contenders.options_of(parser, compete)
    names = [f"{task}, {name}" for task in options.only or SETTINGS for name in CONTENDERS]
    with tempfile.TemporaryDirectory(dir=options.temp) as temporary:
        folder = Path(temporary)
        write_vectors(folder / "vectors.npy", SETTINGS["k_center"][0], 512, 0)
        probabilities = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.3), SETTINGS["margin"][0])
        np.save(folder / "probabilities.npy", probabilities.astype(np.float32))
        arguments = ["--folder", temporary, "--jobs", str(options.jobs)]
        rows = contenders.race(__file__, names, arguments, rounds=options.rounds)
    for own, peer in zip(rows[::2], rows[1::2], strict=True):
        for row in (own, peer):
            row["times ours"] = row.get("for all", np.nan) / own.get("for all", np.nan)
    for task in options.only or SETTINGS:
        count, picks, some = SETTINGS[task]
        pair = f"{task}, dsops", f"{task}, scikit-activeml"
        peer = f"scikit-activeml, reckoned from {some[-1]} picks" if len(some) > 1 else "scikit-activeml"
        contenders.compare(rows, f"{task}, {picks:,} of {count:,}", *pair, peer, figure="for all")
        what = f"{task}, how well {OBJECTIVE_PICKS} picks cover"
        contenders.compare(rows, what, *pair, "scikit-activeml", figure="objective", unit="distance")
    contenders.report({"jobs": options.jobs}, rows, as_json=options.json)


if __name__ == "__main__":
    main()
