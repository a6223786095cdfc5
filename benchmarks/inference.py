"""Inference speed: images a second from encoded bytes, decoding included, beside the bare model on ready inputs.

    python benchmarks/inference.py                 # Markdown tables
    python benchmarks/inference.py --json
    python benchmarks/inference.py --part network  # or transformer, ray

Needs DSOPS_TEST_DATA, the part transformer transformers, the part ray Ray. Contenders take turns, several rounds, and are
compared within a round, so that other work on the machine weighs on all. "Bare" is the model on inputs that are ready
in memory: of the built-in network four images a call and as many calls at once as processors, of the transformer one
call at a time on all processors, in the best of four sizes of batch. The transformer is a ViT of 12 layers of width
192 at 224 pixels (5.5 million random weights), saved and loaded as any checkpoint; "pipeline" is that of transformers
and "DataLoader" torch's with a process for each processor, both on the same bytes, processor and model.
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


class Predicting:
    """A predictor as a worker."""

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    def prepare(self, data: bytes) -> Any:
        return self._predictor.prepare(decode_rgb(data))

    def infer(self, prepared: list[Any]) -> list[Any]:
        return self._predictor.predict(prepared)


def cifar(data: Path, limit: int) -> list[bytes]:
    column = pd.read_parquet(data / "cifar10n" / "data.parquet", columns=["image"])["image"].head(limit)
    return [item["bytes"] if isinstance(item, dict) else item for item in column]


def photos(data: Path, limit: int) -> list[bytes]:
    files = [file.read_bytes() for file in sorted((data / "coco_tiny" / "images").glob("*.jpg"))]
    return (files * (limit // len(files) + 1))[:limit]


def of_kind(data: Path, limit: int) -> dict[str, list[bytes]]:
    return {"CIFAR-10, 32 x 32, 1 kB": cifar(data, limit), "COCO, 640 x 480, 154 kB": photos(data, limit)}


def in_turn(contenders: Contenders, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second, and the ratio to the first contender within each round: medians."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            speeds[name].append(images / (time.perf_counter() - started))
    first = speeds[next(iter(speeds))]
    return {
        name: {
            "images_per_second": statistics.median(values),
            "ratio": statistics.median(value / bare for value, bare in zip(values, first, strict=True)),
        }
        for name, values in speeds.items()
    }


def through(engine: Any, make_worker: Callable[[], Any], images: Sequence[bytes]) -> None:
    items = [Item(str(number), str(number)) for number in range(len(images))]
    done = sum(1 for _ in engine.run(make_worker, items, lambda uri: images[int(uri)]))
    assert done == len(images)


def network(images: list[bytes], folder: Path, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    worker, embedder = Network(folder, jobs), open_embedder(BUILT_IN, cache=folder)
    ready = [worker.prepare(image) for image in images]
    batches = [np.stack(ready[start : start + 4]) for start in range(0, len(ready), 4)]
    keys = [f"{number:064x}" for number in range(len(images))]

    def bare() -> None:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(embedder.embed, batches))

    contenders: Contenders = {
        "bare model": bare,
        "local engine": lambda: through(LocalEngine(jobs=jobs), lambda: worker, images),
        "local engine, batch 4": lambda: through(LocalEngine(jobs=jobs, batch=4), lambda: worker, images),
        "embed_images": lambda: embed_images(embedder, keys, images.__getitem__, jobs=jobs),
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

    torch.set_num_threads(jobs)
    predictor = open_predictor(f"local:{folder}", cache=folder, device="cpu")
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    classify = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    pixels = torch.from_numpy(
        np.stack([predictor.prepare(decode_rgb(image)).inputs["pixel_values"] for image in images])
    )

    def bare(batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(pixels), batch):
                model(pixel_values=pixels[start : start + batch]).logits.softmax(-1).numpy()

    def seconds(batch: int) -> float:
        started = time.perf_counter()
        bare(batch)
        return time.perf_counter() - started

    sizes = (4, 8, 16, 32)
    tried = [[seconds(batch) for batch in sizes] for _ in range(3)]
    best = sizes[int(np.argmin(np.min(tried, axis=0)))]

    def piped() -> None:
        opened = (Image.open(io.BytesIO(image)).convert("RGB") for image in images)
        assert sum(1 for _ in classify(opened, batch_size=best)) == len(images)

    def loaded() -> None:
        with torch.inference_mode():
            for batch in DataLoader(Decoded(images, processor), batch_size=best, num_workers=jobs):
                model(pixel_values=batch).logits.softmax(-1).numpy()

    contenders: Contenders = {
        f"bare model, batch {best}": partial(bare, best),
        "local engine": lambda: through(LocalEngine(jobs=jobs), lambda: Predicting(predictor), images),
        "transformers pipeline": piped,
        f"DataLoader, {jobs} processes": loaded,
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

    def seconds(engine: Any, lanes: int, count: int) -> float:
        started = time.perf_counter()
        assert sum(1 for _ in engine.run(partial(Network, folder, lanes), items[:count], read_file)) == count
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
            f"ray, {few} images": seconds(RayEngine(batch=4), 1, few),
            "local": seconds(LocalEngine(jobs=jobs, batch=4), jobs, len(items)),
            "ray": seconds(RayEngine(batch=4), 1, len(items)),
        }
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["network", "transformer", "ray"], action="append")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--small-images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not os.environ.get("DSOPS_TEST_DATA"):
        parser.error("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    data, jobs = Path(os.environ["DSOPS_TEST_DATA"]), arguments.jobs
    parts = arguments.part or ["network", "transformer", *(["ray"] if importlib.util.find_spec("ray") else [])]
    result: dict[str, Any] = {"jobs": jobs}
    with tempfile.TemporaryDirectory() as folder:
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
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for part in ("network", "transformer"):
        for kind, rows in result.get(part, {}).items():
            print(f"| {part}, {kind} | images/s | of bare |\n|---|---|---|")
            for name, row in rows.items():
                print(f"| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f} |")
            print()
    if "ray" in result:
        print("| Ray | seconds |\n|---|---|")
        for name, value in result["ray"].items():
            print(f"| {name} | {value:.1f} |" if name != "images" else f"| small images | {value:,} |")


if __name__ == "__main__":
    main()
