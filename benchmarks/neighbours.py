"""Nearest neighbours of all vectors among themselves, beside scikit-learn and faiss, each in a process of its own.

    python benchmarks/neighbours.py                                                  # 100,000 x 1,280, all contenders
    python benchmarks/neighbours.py --items 1000000 --only "dsops, approximate"
    python benchmarks/neighbours.py --only "dsops, pairs" --only "dsops, approximate pairs"

The vectors are rectified features of a mixture in 32 latent dimensions, of unit length, some rows near copies of
others. `recall` is told by the contender itself, `found` is the share of the neighbours of the first exact contender
that it found, up to ties. Seconds hold building an index and searching it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
NAMES = [
    "dsops, exact",
    "faiss, IndexFlatIP",
    "scikit-learn, brute, euclidean",
    "scikit-learn, brute, cosine",
    "dsops, approximate",
    "faiss, IndexIVFFlat",
    "faiss, IndexHNSWFlat",
    "dsops, pairs",
    "dsops, approximate pairs",
]
COPIES = 0.02  # cosine distance: copies are nearer, other rows hardly ever


def write_vectors(path: Path, items: int, dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((32, 256), dtype=np.float32) / 6
    second = rng.standard_normal((256, dimensions), dtype=np.float32) / 16
    centres = 1.2 * rng.standard_normal((200, 32), dtype=np.float32)
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (items, dimensions))
    for start in range(0, items, 10_000):
        size = min(10_000, items - start)
        latent = centres[rng.integers(0, 200, size)] + rng.standard_normal((size, 32), dtype=np.float32)
        noise = 0.05 * rng.standard_normal((size, dimensions), dtype=np.float32)
        block = np.maximum(np.maximum(latent @ first, 0) @ second + noise, 0)
        if start:  # near copies of rows anywhere before
            copies = np.flatnonzero(rng.random(size) < 0.05)
            copied = vectors[rng.integers(0, start, copies.size)]
            block[copies] = copied * (1 + 0.05 * rng.standard_normal(copied.shape, dtype=np.float32))
        vectors[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    vectors.flush()


def search(contender: str, vectors: Floats, k: int, jobs: int, probes: int) -> dict[str, Any]:
    """`indices` and `distances` (1 - cosine), each row's own place left out; or `pairs`."""
    if contender.startswith("dsops"):
        from datasetops.audits.images.neighbours import nearest, pairs_within

        exact = "approximate" not in contender
        if "pairs" in contender:
            pairs = pairs_within(vectors, COPIES, exact=exact, jobs=jobs)
            return {"recall": pairs.recall, "pairs": len(pairs.indices)}
        found = nearest(vectors, k, exact=exact, jobs=jobs)
        return {"recall": found.recall, "indices": found.indices, "distances": found.distances}
    if contender.startswith("scikit-learn"):
        from sklearn.neighbors import NearestNeighbors
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        metric = contender.rpartition(" ")[2]
        with threadpool_limits(jobs):
            model = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric, n_jobs=jobs).fit(vectors)
            distances, indices = model.kneighbors()
        return {"indices": indices, "distances": distances**2 / 2 if metric == "euclidean" else distances}
    import faiss

    faiss.omp_set_num_threads(jobs)
    n, dimensions = vectors.shape
    index: Any = faiss.IndexFlatIP(dimensions)
    if contender == "faiss, IndexIVFFlat":
        index = faiss.IndexIVFFlat(index, dimensions, int(4 * n**0.5), faiss.METRIC_INNER_PRODUCT)
        index.nprobe, index.cp.max_points_per_centroid = probes, 64
        index.train(vectors)
    elif contender == "faiss, IndexHNSWFlat":
        index = faiss.IndexHNSWFlat(dimensions, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 64
    index.add(vectors)
    similarity, indices = index.search(vectors, k + 1)
    other = indices != np.arange(n)[:, None]
    other[other.all(axis=1), -1] = False
    return {"indices": indices[other].reshape(n, k), "distances": 1 - similarity[other].reshape(n, k)}


def compete(options: argparse.Namespace) -> contenders.Row:
    """In the contender's process."""
    vectors = np.load(options.folder / "vectors.npy")

    def once() -> dict[str, Any]:
        found = search(options.contender, vectors, options.k, options.jobs, options.probes)
        for name in ("indices", "distances"):
            if name in found:
                np.save(options.folder / f"{options.contender} {name}.npy", found.pop(name))
        return found

    return contenders.measure(once)


def share_found(folder: Path, contender: str, reference: str) -> float | None:
    """Of the reference's neighbours, how many are at least as near in what the contender found."""
    paths = [folder / f"{name} distances.npy" for name in (contender, reference)]
    if not all(path.exists() for path in paths):
        return None
    found, true = (np.sort(np.load(path), axis=1) for path in paths)
    return float(np.mean(found <= true[:, -1:] + 1e-5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1280)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--probes", type=int, default=16, help="of faiss's IVF index")
    parser.add_argument("--jobs", type=int, default=2, help="threads of every contender")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=NAMES, help="contenders to run; may be repeated")
    parser.add_argument("--temp", type=Path, help="where the data go, and are deleted from")
    options = contenders.options_of(parser, compete)
    names = options.only or NAMES
    with tempfile.TemporaryDirectory(dir=options.temp) as temporary:
        folder = Path(temporary)
        write_vectors(folder / "vectors.npy", options.items, options.dimensions, options.seed)
        arguments = ["--folder", temporary, "--k", str(options.k)]
        arguments += ["--jobs", str(options.jobs), "--probes", str(options.probes)]
        rows = contenders.race(__file__, names, arguments, rounds=options.rounds)
        for row in rows:
            row["found"] = share_found(folder, row["contender"], names[0])
            row["times the first"] = row.get("seconds", np.nan) / rows[0].get("seconds", np.nan)
    what = f"nearest {options.k} of {options.items:,} x {options.dimensions}"
    for own, peer in (
        ("dsops, exact", "faiss, IndexFlatIP"),
        ("dsops, exact", "scikit-learn, brute, euclidean"),
        ("dsops, approximate", "faiss, IndexIVFFlat"),
        ("dsops, approximate", "faiss, IndexHNSWFlat"),
    ):
        how, package = own.partition(", ")[2], peer.replace("faiss,", "faiss-cpu,")
        contenders.compare(rows, f"{what}, {how}", own, peer, package)
        if how == "approximate":
            share: Any = {"figure": "found", "unit": "share found", "more_is_better": True}
            contenders.compare(rows, f"{what}, {how}", own, peer, package, **share)
    setting = {name: getattr(options, name) for name in ("items", "dimensions", "k", "jobs")}
    contenders.report(setting, rows, as_json=options.json)


if __name__ == "__main__":
    main()
