"""Label-noise flags from out-of-sample probabilities, beside cleanlab, each in a process of its own.

    python benchmarks/label_noise_speed.py                                   # 1,000,000 x 100
    python benchmarks/label_noise_speed.py --items 1280000 --classes 1000 --memory-map

cleanlab's batched search has a filter of its own, near `low_self_confidence`; it is run with several batch sizes. Its
`n_jobs` is left at one: more were tens of times slower here. With `--memory-map` the probabilities are read from a
.npy file by `numpy.load(mmap_mode="r")`; the file has just been written, so mostly from the system's cache.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import numpy.typing as npt

OURS = {"dsops": 1, "dsops, 2 threads": 2}
BATCHES = {f"cleanlab batched, {size:,}": size for size in (1_000, 10_000, 100_000)}


def write_data(folder: Path, items: int, classes: int, noise: float, signal: float, seed: int) -> None:
    """A model's softmax around a truth, more doubtful for some items than for others, and labels given with noise."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, items)
    labels = np.where(rng.random(items) < noise, rng.integers(0, classes, items), truth)
    np.save(folder / "labels.npy", labels)
    probs = np.lib.format.open_memmap(folder / "probs.npy", "w+", np.float32, (items, classes))
    for start in range(0, items, 10_000):
        rows = slice(start, min(start + 10_000, items))
        size = rows.stop - start
        scores = rng.standard_normal((size, classes), dtype=np.float32)
        each = np.arange(size)
        scores[each, truth[rows]] += signal * rng.uniform(0.5, 1.5, size).astype(np.float32)
        scores[each, (truth[rows] + 1) % classes] += rng.exponential(signal / 4, size).astype(np.float32)
        scores *= 1.5
        np.exp(scores, out=scores)
        probs[rows] = scores / scores.sum(axis=1, keepdims=True)
    probs.flush()


def work_of(contender: str, labels: npt.NDArray[Any], probs: npt.NDArray[Any]) -> Callable[[], npt.NDArray[np.bool_]]:
    if contender.startswith("dsops"):
        from datasetops.audits.labels.confident import find_label_issues

        by_self = contender == "dsops, low_self_confidence"
        how: Any = "low_self_confidence" if by_self else "prune_by_noise_rate"
        return lambda: find_label_issues(labels, probs, filter_by=how, jobs=OURS.get(contender, 1))
    if contender in BATCHES:
        from cleanlab.experimental.label_issues_batched import find_label_issues_batched

        size = BATCHES[contender]
        return lambda: find_label_issues_batched(labels, probs, batch_size=size, verbose=False, return_mask=True)
    from cleanlab import filter as cleanlab_filter

    jobs = 1 if contender == "cleanlab, n_jobs=1" else None
    return lambda: cleanlab_filter.find_label_issues(labels, probs, n_jobs=jobs)


def compete(options: argparse.Namespace) -> contenders.Row:
    """In the contender's process."""
    warnings.simplefilter("ignore")
    labels = np.load(options.folder / "labels.npy")
    probs = np.load(options.folder / "probs.npy", mmap_mode="r" if options.memory_map else None)
    work = work_of(options.contender, labels, probs)

    def once() -> dict[str, Any]:
        flags = work()
        np.save(options.folder / f"{options.contender}.npy", flags)
        return {"flags": int(flags.sum())}

    return contenders.measure(once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--signal", type=float, default=5.0, help="the more, the surer the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    parser.add_argument("--memory-map", action="store_true")
    parser.add_argument("--only", action="append", help="contenders to run; may be repeated")
    parser.add_argument("--temp", type=Path, help="where the data go, and are deleted from")
    options = contenders.options_of(parser, compete)
    names = [*OURS, "cleanlab, n_jobs=1", "cleanlab, default n_jobs", "dsops, low_self_confidence", *BATCHES]
    names = [name for name in names if not options.only or name in options.only]
    needed = options.items * options.classes * 4
    with tempfile.TemporaryDirectory(dir=options.temp) as folder:
        if shutil.disk_usage(folder).free < 1.2 * needed:
            parser.error(f"{needed / 2**30:.1f} GiB of disk are needed in {folder}")
        write_data(Path(folder), options.items, options.classes, options.noise, options.signal, options.seed)
        arguments = ["--folder", folder, *(["--memory-map"] if options.memory_map else [])]
        rows = contenders.race(__file__, names, arguments, rounds=options.rounds)
        flags = {name: path for name in names if (path := Path(folder) / f"{name}.npy").exists()}
        for row in rows:
            alike = "dsops, low_self_confidence" if row["contender"] in BATCHES else "dsops"
            both = flags.get(row["contender"]), flags.get(alike)
            row["flags unlike"] = int((np.load(both[0]) != np.load(both[1])).sum()) if both[0] and both[1] else None
            row["compared with"] = alike
    setting = {"items": options.items, "classes": options.classes, "memory map": options.memory_map}
    for row in rows:
        row["times the first"] = row.get("seconds", np.nan) / rows[0].get("seconds", np.nan)
    what = f"label-noise flags, {options.items:,} items, {options.classes} classes"
    one = "cleanlab, n_jobs=1"
    contenders.compare(rows, what, "dsops", one, "cleanlab, one job")
    contenders.compare(rows, f"{what}: memory", "dsops", one, "cleanlab, one job", figure="extra_mib", unit="MiB")
    batched = [row for row in rows if row["contender"] in BATCHES and "seconds" in row]
    best = min(batched, key=lambda row: float(row["seconds"]), default={"contender": ""})["contender"]
    low = "dsops, low_self_confidence"
    contenders.compare(rows, f"{what}, by self-confidence", low, best, "cleanlab, best of three batch sizes")
    contenders.report(setting, rows, as_json=options.json)


if __name__ == "__main__":
    main()
