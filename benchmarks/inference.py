"""Inference speed: images a second from encoded bytes, decoding included, beside the bare model that decodes too.

    python benchmarks/inference.py                  # Markdown tables
    python benchmarks/inference.py --json
    python benchmarks/inference.py --part detector  # or network, transformer, ray

Needs DSOPS_TEST_DATA, the part transformer transformers, the part ray Ray. Contenders take turns, several rounds, and are
compared within a round, so that other work on the machine weighs on all. There are two bare loops, without anything
around the model: "in a loop" decodes, prepares and runs batch after batch, each call on all processors; "in threads" does
the same in a thread for each processor, with calls of one processor each. Ratios are to the faster of the two in each
round. "Ready inputs" is the faster way without decoding and preparing. The detector is YOLOX-nano, the network the
built-in embedder, the transformer a ViT of 12 layers of width 192 at 224 pixels (5.5 million random weights), saved and
loaded as any checkpoint; "pipeline" is that of transformers and "DataLoader" torch's with a process for each processor,
both on the same bytes, processor and model.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from ratios import record

from datasetops.engine import Item
from datasetops.engine.local import LocalEngine
from datasetops.images import decode_rgb
from datasetops.models import embed_images, open_embedder

BUILT_IN = "builtin:efficientnet-lite0"
Contenders = dict[str, Callable[[], Any]]


class Network:
    """The built-in embedder as a worker; `lanes` calls at once, since it runs on one processor a call."""

    def __init__(self, cache: Path, lanes: int) -> None:
        self.lanes, self._model = lanes, open_embedder(BUILT_IN, cache=cache)

    def prepare(self, data: bytes) -> Any:
        return self._model.prepare(decode_rgb(data, at_least=self._model.side))

    def infer(self, prepared: list[Any]) -> list[Any]:
        return list(self._model.embed(np.stack(prepared)).astype(np.float16))


class Decoding:
    """No model at all: the size of each image."""

    lanes = 0

    def prepare(self, data: bytes) -> Any:
        return decode_rgb(data).size

    def infer(self, prepared: list[Any]) -> list[Any]:
        return prepared


def cifar(data: Path, limit: int) -> list[bytes]:
    column = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["image"])["image"].head(limit)
    return [item["bytes"] if isinstance(item, dict) else item for item in column]


def photos(data: Path, limit: int) -> list[bytes]:
    files = [file.read_bytes() for file in sorted((data / "coco_tiny" / "images").glob("*.jpg"))]
    return (files * (limit // len(files) + 1))[:limit]


def of_kind(data: Path, limit: int) -> dict[str, list[bytes]]:
    return {"CIFAR-10, 32 x 32, 1 kB": cifar(data, limit), "COCO, 640 x 480, 154 kB": photos(data, limit)}


def in_turn(contenders: Contenders, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of images a second, of their ratio to the faster bare loop (of the first two) within each round, and of
    milliseconds of the processors for an image."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    work_done: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            started, busy = time.perf_counter(), processor_seconds()
            work()
            speeds[name].append(images / (time.perf_counter() - started))
            work_done[name].append((processor_seconds() - busy) * 1000 / images)
    one, other = list(speeds.values())[:2]
    bare = [max(pair) for pair in zip(one, other, strict=True)]
    return {
        name: {
            "images_per_second": statistics.median(values),
            "ratio": statistics.median(value / best for value, best in zip(values, bare, strict=True)),
            "processor_ms": statistics.median(work_done[name]),
        }
        for name, values in speeds.items()
    }


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def batches_of(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_threads(work: Callable[[Any], Any], batches: Sequence[Any], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(work, batches):
            pass


def through(engine: Any, make_worker: Callable[[], Any], images: Sequence[bytes]) -> None:
    items = [Item(str(number), str(number)) for number in range(len(images))]
    done = sum(1 for _ in engine.run(make_worker, items, lambda uri: images[int(uri)]))
    assert done == len(images)


def network(images: list[bytes], folder: Path, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    import onnxruntime

    worker, embedder = Network(folder, jobs), open_embedder(BUILT_IN, cache=folder)
    graph: Any = embedder
    threaded = onnxruntime.InferenceSession(str(graph.graph), providers=["CPUExecutionProvider"])
    ready = batches_of([worker.prepare(image) for image in images], 4)
    keys = [f"{number:064x}" for number in range(len(images))]

    def prepared(batch: Sequence[bytes]) -> Any:
        return np.stack([worker.prepare(image) for image in batch])

    def loop() -> None:
        for batch in batches_of(images, 4):
            threaded.run(["features"], {"images": prepared(batch)})

    contenders: Contenders = {
        "bare, in a loop": loop,
        "bare, in threads": lambda: in_threads(
            lambda batch: embedder.embed(prepared(batch)), batches_of(images, 4), jobs
        ),
        "ready inputs": lambda: in_threads(lambda batch: embedder.embed(np.stack(batch)), ready, jobs),
        "local engine": lambda: through(LocalEngine(jobs=jobs), lambda: worker, images),
        "embed_images": lambda: embed_images(embedder, keys, images.__getitem__, jobs=jobs),
    }
    return in_turn(contenders, len(images), rounds)


def detector(images: list[bytes], data: Path, folder: Path, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    """The graph takes one image a call. The bare loops leave its output as it is, the engine makes boxes of it."""
    import onnxruntime

    from datasetops.models.predictor import open_predictor
    from datasetops.preannotate.labelers import PredictWorker

    file, config = data / "yolox_nano" / "yolox_nano.onnx", folder / "yolox.yaml"
    config.write_text(json.dumps({"family": "yolox", "names": [str(number) for number in range(80)]}))
    predictor: Any = open_predictor(f"onnx:{file}", cache=folder, device="cpu", config=str(config))

    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    one, all_of_them = session(1), session(jobs)
    name = one.get_inputs()[0].name

    def bare(opened: Any, image: bytes) -> None:
        opened.run(None, {name: predictor.prepare(decode_rgb(image)).pixels[None]})

    def loop() -> None:
        for image in images:
            bare(all_of_them, image)

    ready = [predictor.prepare(decode_rgb(image)).pixels[None] for image in images]
    contenders: Contenders = {
        "bare, in a loop": loop,
        "bare, in threads": lambda: in_threads(partial(bare, one), images, jobs),
        "ready inputs": lambda: in_threads(lambda pixels: one.run(None, {name: pixels}), ready, jobs),
        "local engine": lambda: through(LocalEngine(jobs=jobs), lambda: PredictWorker(predictor), images),
    }
    return in_turn(contenders, len(images), rounds)


def save_transformer(folder: Path) -> Path:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=10)
    ViTForImageClassification(config).eval().save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessorPil", "size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


class Decoded:
    """A map-style data set of torch: encoded bytes → pixel values."""

    def __init__(self, images: Sequence[bytes], processor: Any) -> None:
        self._images, self._processor = images, processor

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(io.BytesIO(self._images[index])).convert("RGB")
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0]


def transformer(images: list[bytes], folder: Path, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    import torch
    from torch.utils.data import DataLoader
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from datasetops.models.predictor import open_predictor
    from datasetops.preannotate.labelers import PredictWorker

    predictor: Any = open_predictor(f"local:{folder}", cache=folder, device="cpu")
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    classify = pipeline("image-classification", model=model, image_processor=processor, device="cpu")

    def prepared(batch: Sequence[bytes]) -> Any:
        pixels = [predictor.prepare(decode_rgb(image)).inputs["pixel_values"] for image in batch]
        return torch.from_numpy(np.stack(pixels))

    def scored(pixels: Any) -> None:
        with torch.inference_mode():
            model(pixel_values=pixels).logits.softmax(-1).numpy()

    def loop(batch: int, given: Sequence[bytes] = images) -> None:
        torch.set_num_threads(jobs)
        for part in batches_of(given, batch):
            scored(prepared(part))

    def threads(batch: int, given: Sequence[bytes] = images) -> None:
        torch.set_num_threads(1)
        in_threads(lambda part: scored(prepared(part)), batches_of(given, batch), jobs)

    def fed() -> None:
        torch.set_num_threads(1)
        in_threads(scored, ready, jobs)

    def engine() -> None:
        torch.set_num_threads(jobs)
        through(LocalEngine(jobs=jobs), lambda: PredictWorker(predictor), images)

    def seconds(work: Callable[[int, Sequence[bytes]], None], batch: int) -> float:
        started = time.perf_counter()
        work(batch, some)
        return time.perf_counter() - started

    sizes, some = (1, 4, 16), images[:32]

    def best(work: Callable[[int, Sequence[bytes]], None]) -> int:
        tried = [[seconds(work, batch) for batch in sizes] for _ in range(2)]
        return sizes[int(np.argmin(np.min(tried, axis=0)))]

    alone, beside = best(loop), best(threads)
    ready = [prepared(part) for part in batches_of(images, beside)]

    def piped() -> None:
        torch.set_num_threads(jobs)
        opened = (Image.open(io.BytesIO(image)).convert("RGB") for image in images)
        if sum(1 for _ in classify(opened, batch_size=alone)) != len(images):
            raise RuntimeError("the pipeline left images out")

    def loaded() -> None:
        torch.set_num_threads(jobs)
        for batch in DataLoader(Decoded(images, processor), batch_size=alone, num_workers=jobs):
            scored(batch)

    contenders: Contenders = {
        f"bare, in a loop, batch {alone}": partial(loop, alone),
        f"bare, in threads, batch {beside}": partial(threads, beside),
        "ready inputs": fed,
        "local engine": engine,
        f"transformers pipeline, batch {alone}": piped,
        f"DataLoader, {jobs} processes, batch {alone}": loaded,
    }
    return in_turn(contenders, len(images), rounds)


def read_file(uri: str) -> bytes:
    return Path(uri).read_bytes()


def on_ray(images: list[bytes], folder: Path, jobs: int) -> dict[str, Any]:
    """Seconds for small images in files: Ray with one worker a processor against local, and Ray's start by itself."""
    import ray

    from datasetops.engine.ray_engine import RayEngine

    items = []
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        file = folder / "images" / f"{number}.jpg"
        file.write_bytes(image)
        items.append(Item(str(number), str(file)))
    open_embedder(BUILT_IN, cache=folder)  # the graph is exported once, for all

    def seconds(engine: Any, make: Callable[[], Any], count: int) -> float:
        started = time.perf_counter()
        if sum(1 for _ in engine.run(make, items[:count], read_file)) != count:
            raise RuntimeError("the engine left images out")
        return time.perf_counter() - started

    started = time.perf_counter()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init("local", num_cpus=jobs, log_to_driver=False, logging_level="ERROR")
    start = time.perf_counter() - started
    few = min(len(items), 32)
    try:
        return {
            "images": len(items),
            "start of Ray": start,
            f"ray, {few} images": seconds(RayEngine(batch=4), partial(Network, folder, 1), few),
            "local, decoding only": seconds(LocalEngine(jobs=jobs), Decoding, len(items)),
            "ray, decoding only": seconds(RayEngine(), Decoding, len(items)),
            "local": seconds(LocalEngine(jobs=jobs, batch=4), partial(Network, folder, jobs), len(items)),
            "ray": seconds(RayEngine(batch=4), partial(Network, folder, 1), len(items)),
        }
    finally:
        ray.shutdown()


def record_engine(part: str, kind: str, rows: dict[str, dict[str, float]]) -> None:
    """The local engine beside the faster bare loop, and for the transformer beside what its libraries offer."""
    peers = {"bare": "the faster bare loop", "transformers": "transformers, pipeline", "Data": "torch, DataLoader"}
    own = rows["local engine"]["images_per_second"]
    for begin, peer in peers.items():
        if found := [row["images_per_second"] for name, row in rows.items() if name.startswith(begin)]:
            record(f"inference, {part}, {kind}", own, peer, max(found), "images/s", more_is_better=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["detector", "network", "transformer", "ray"], action="append")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--small-images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not os.environ.get("DSOPS_TEST_DATA"):
        parser.error("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    data, jobs = Path(os.environ["DSOPS_TEST_DATA"]), arguments.jobs
    with_ray = ["ray"] if importlib.util.find_spec("ray") else []
    parts = arguments.part or ["detector", "network", "transformer", *with_ray]
    result: dict[str, Any] = {"jobs": jobs}
    with tempfile.TemporaryDirectory() as folder:
        if "detector" in parts:
            some = photos(data, arguments.images // 4)
            result["detector"] = {"COCO, 640 x 480, 154 kB": detector(some, data, Path(folder), jobs, arguments.rounds)}
        if "network" in parts:
            result["network"] = {
                kind: network(images, Path(folder), jobs, arguments.rounds)
                for kind, images in of_kind(data, arguments.images).items()
            }
        if "transformer" in parts:
            checkpoint = save_transformer(Path(folder) / "vit")
            result["transformer"] = {
                kind: transformer(images, checkpoint, jobs, arguments.rounds)
                for kind, images in of_kind(data, arguments.images // 4).items()
            }
        if "ray" in parts:
            result["ray"] = on_ray(cifar(data, arguments.small_images), Path(folder), jobs)
    kinds = [(part, kind) for part in parts if part != "ray" for kind in result[part]]
    for part, kind in kinds:
        record_engine(part, kind, result[part][kind])
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for part, kind in kinds:
        print(f"| {part}, {kind} | images/s | of the faster bare loop | processor ms an image |\n|---|---|---|---|")
        for name, row in result[part][kind].items():
            figures = f"{row['images_per_second']:.1f} | {row['ratio']:.2f} | {row['processor_ms']:.1f}"
            print(f"| {name} | {figures} |")
        print()
    if "ray" in result:
        print("| Ray | seconds |\n|---|---|")
        for name, value in result["ray"].items():
            print(f"| {name} | {value:.1f} |" if name != "images" else f"| small images | {value:,} |")


if __name__ == "__main__":
    main()
