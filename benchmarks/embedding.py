"""Embedding speed: images a second from encoded bytes, decoding included, beside the bare model on ready inputs.

    python benchmarks/embedding.py                 # a Markdown table
    python benchmarks/embedding.py --json

Needs DSOPS_TEST_DATA. The two are run in turn, several rounds, and compared within a round, so that other work on the
machine weighs on both. "Bare" is the same ONNX graph on inputs that are ready in memory, in the fastest way found: as
many calls at once as there are threads, four images a call, one thread a call. The other ways to use the threads are
in the second table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
from ratios import record

from datasetops.images import decode_rgb
from datasetops.models import embed_images
from datasetops.models.efficientnet_lite import EfficientNetLite

BATCH = 4


def encoded_images(data: Path, limit: int) -> dict[str, list[bytes]]:
    """By kind: JPEG files as bytes."""
    cifar = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["image"])["image"].head(limit)
    photos = [file.read_bytes() for file in sorted((data / "coco_tiny" / "images").glob("*.jpg"))]
    frames = [file.read_bytes() for file in sorted((data / "bccd" / "images").glob("*.jpg"))]
    return {
        "CIFAR-10, 32 x 32, 1 kB": [item["bytes"] if isinstance(item, dict) else item for item in cifar],
        "BCCD, 640 x 480, 21 kB": (frames * (limit // len(frames) + 1))[: limit // 2],
        "COCO, 640 x 480, 154 kB": (photos * (limit // len(photos) + 1))[: limit // 2],
    }


def per_second(work: Callable[[], Any], images: int) -> float:
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


def bare(session: Any, batches: Sequence[npt.NDArray[Any]], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda batch: session.run(["features"], {"images": batch}), batches))


def session_of(graph: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def measure(embedder: EfficientNetLite, graph: Path, images: list[bytes], jobs: int, rounds: int) -> dict[str, float]:
    ready = [embedder.prepare(decode_rgb(image, at_least=embedder.side)) for image in images]
    batches = [np.stack(ready[start : start + BATCH]) for start in range(0, len(ready), BATCH)]
    session, keys = session_of(graph, 1), [f"{i:064x}" for i in range(len(images))]
    pairs = []
    for _ in range(rounds):
        pairs.append(
            (
                per_second(lambda: bare(session, batches, jobs), len(images)),
                per_second(lambda: embed_images(embedder, keys, images.__getitem__, jobs=jobs), len(images)),
            )
        )
    return {
        "bare": statistics.median(pair[0] for pair in pairs),
        "embed_images": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def ways(embedder: EfficientNetLite, graph: Path, image: bytes, jobs: int, rounds: int) -> dict[str, float]:
    """Images a second of the bare model, by how its threads are used."""
    one = embedder.prepare(decode_rgb(image))
    choices: dict[str, tuple[int, int, int]] = {}
    for batch in (1, BATCH, 16):
        choices[f"{jobs} calls at once, one thread each, batch {batch}"] = (1, jobs, batch)
        choices[f"one call, {jobs} threads, batch {batch}"] = (jobs, 1, batch)
    found: dict[str, list[float]] = {name: [] for name in choices}
    for _ in range(rounds):
        for name, (threads, workers, batch) in choices.items():
            session, batches = session_of(graph, threads), [np.stack([one] * batch)] * (256 // batch)
            bare(session, batches[:1], workers)
            found[name].append(per_second(lambda s=session, b=batches, w=workers: bare(s, b, w), 256))
    return {name: max(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = os.environ.get("DSOPS_TEST_DATA")
    if not data:
        parser.error("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    with tempfile.TemporaryDirectory() as folder:
        embedder = EfficientNetLite(Path(folder))
        graph = next(Path(folder).rglob("*.onnx"))
        kinds = encoded_images(Path(data), arguments.images)
        result: dict[str, Any] = {
            "jobs": arguments.jobs,
            "side": embedder.side,
            "images": {
                name: measure(embedder, graph, images, arguments.jobs, arguments.rounds)
                for name, images in kinds.items()
            },
            "bare": ways(embedder, graph, kinds[next(iter(kinds))][0], arguments.jobs, arguments.rounds),
        }
    for name, row in result["images"].items():
        peer = "onnxruntime, bare and without decoding"
        record(f"embedding, {name}", row["embed_images"], peer, row["bare"], "images/s", more_is_better=True)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("| images | bare model, images/s | embed_images, images/s | ratio |\n|---|---|---|---|")
    for name, row in result["images"].items():
        print(f"| {name} | {row['bare']:.0f} | {row['embed_images']:.0f} | {row['ratio']:.2f} |")
    print("\n| the bare model, how the threads are used | images/s |\n|---|---|")
    for name, speed in result["bare"].items():
        print(f"| {name} | {speed:.0f} |")


if __name__ == "__main__":
    main()
