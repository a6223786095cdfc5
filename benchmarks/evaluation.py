"""COCO evaluation of 5,000 images and 500,000 detections, beside hotcoco and pycocotools on the same JSON.

    python benchmarks/evaluation.py                 # a Markdown table
    python benchmarks/evaluation.py --images 1000 --json

Images, boxes and detections are made up: 80 classes of unequal frequency, 1 % crowds, detections that are off by some
percent of their object's sides, of another class, twice, or in random places; two slice keys. "hotcoco, JSON" reads both
files, evaluates and accumulates. "dsops, numbers" goes from the stored version and a table of detections to COCO's
numbers; "dsops, report" further on: numbers by class and size, what each kind of error costs, both slice keys and all
images with intervals by 100 bootstrap draws, list of errors, record in the ledger, and the JSON and Markdown reports. The
set has no images, so errors are not put together by how they look. Every contender is a process of its own, which has
imported what it needs before its time begins.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH, HEIGHT, CLASSES = 640, 480, 80
CORNERS = ("x1", "y1", "x2", "y2")


def scene(images: int, detections: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Objects (image, label, crowd, corners) and detections (image, label, score, corners)."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.poisson(7.3, images))
    share = 1 / np.arange(1, CLASSES + 1)
    label = rng.choice(CLASSES, len(image), p=share / share.sum())
    box, side = places(rng, len(image))
    objects = frame(image, label, box).assign(crowd=rng.random(len(image)) < 0.01)
    near = int(0.3 * detections)
    source = rng.integers(0, len(image), near)
    moved = box[source] + rng.normal(0, 0.08, (near, 4)) * np.tile(side[source], 2)
    said = np.where(rng.random(near) < 0.9, label[source], rng.integers(0, CLASSES, near))
    rest = detections - near
    anywhere, _ = places(rng, rest)
    found = frame(
        np.concatenate([image[source], rng.integers(0, images, rest)]),
        np.concatenate([said, rng.integers(0, CLASSES, rest)]),
        np.concatenate([moved, anywhere]),
    )
    score = np.concatenate([rng.beta(3, 2, near), rng.beta(1, 4, rest)])
    found = found.assign(score=np.round(score, 5))
    return objects, found[(found["x2"] > found["x1"]) & (found["y2"] > found["y1"])].reset_index(drop=True)


def places(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    side = np.exp(rng.uniform(np.log(12), np.log(300), (count, 2)))
    corner = rng.random((count, 2)) * np.maximum([WIDTH, HEIGHT] - side, 1)
    return np.concatenate([corner, np.minimum(corner + side, [WIDTH, HEIGHT])], axis=1), side


def frame(image: Any, label: Any, box: Any) -> pd.DataFrame:
    box = np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).round(2)
    return pd.DataFrame({"image": image, "label": label} | dict(zip(CORNERS, box.T, strict=True)))


def write_json(objects: pd.DataFrame, found: pd.DataFrame, images: int, folder: Path) -> None:
    def entries(rows: pd.DataFrame) -> list[dict[str, Any]]:
        corners = rows[list(CORNERS)].to_numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        columns = ((rows["image"] + 1).tolist(), (rows["label"] + 1).tolist(), boxes)
        return [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in zip(*columns, strict=True)]

    annotations = entries(objects)
    for number, (entry, crowd) in enumerate(zip(annotations, objects["crowd"].tolist(), strict=True)):
        entry |= {"id": number + 1, "iscrowd": int(crowd), "area": entry["bbox"][2] * entry["bbox"][3]}
    answers = [entry | {"score": score} for entry, score in zip(entries(found), found["score"].tolist(), strict=True)]
    document = {
        "images": [{"id": n + 1, "width": WIDTH, "height": HEIGHT} for n in range(images)],
        "categories": [{"id": n + 1, "name": f"c{n:02}"} for n in range(CLASSES)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "found.json").write_text(json.dumps(answers))


def write_version(objects: pd.DataFrame, found: pd.DataFrame, images: int, folder: Path) -> None:
    """A repository with the objects, and a table of the detections."""
    from datasetops.manifest import Change, Repository
    from datasetops.schema import LabelSchema

    classes = [{"id": n, "name": f"c{n:02}"} for n in range(CLASSES)]
    schema = {"name": "bench", "version": 1, "tasks": [{"kind": "box"}], "classes": classes}
    repository = Repository.init(folder / "set", LabelSchema.model_validate(schema))
    rng = np.random.default_rng(1)
    light, place = rng.integers(0, 3, images), rng.integers(0, 8, images)
    samples = [
        {"sample_id": f"i{n:06}", "uri": f"{n}.jpg", "width": WIDTH, "height": HEIGHT}
        | {"split": "test", "metadata": {"light": f"l{light[n]}", "place": f"p{place[n]}"}}
        for n in range(images)
    ]
    annotations = [
        {"annotation_id": f"a{n:07}", "sample_id": f"i{row.image:06}", "kind": "box", "label": f"c{row.label:02}"}
        | {name: getattr(row, name) for name in CORNERS}
        | {"source": "human", "attributes": {"iscrowd": 1} if row.crowd else {}}
        for n, row in enumerate(objects.itertuples())
    ]
    repository.commit(Change(samples=samples, annotations=annotations), message="objects")
    names = found.assign(
        sample_id=found["image"].map(lambda n: f"i{n:06}"), label=found["label"].map(lambda n: f"c{n:02}")
    )
    pq.write_table(pa.Table.from_pandas(names.drop(columns="image"), preserve_index=False), folder / "found.parquet")


def with_hotcoco(folder: Path) -> dict[str, Any]:
    import hotcoco

    truth = hotcoco.COCO(str(folder / "truth.json"))
    run = hotcoco.COCOeval(truth, truth.load_res(str(folder / "found.json")), "bbox")
    run.evaluate()
    run.accumulate()
    return {"AP": mean_precision(run.eval)}


def with_pycocotools(folder: Path) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        run = COCOeval(truth, truth.loadRes(str(folder / "found.json")), "bbox")
        run.evaluate()
        run.accumulate()
    return {"AP": mean_precision(run.eval)}


def mean_precision(result: Any) -> float:
    precision = np.asarray(result["precision"])[:, :, :, 0, 2]
    return float(precision[precision > -1].mean())


def with_dsops(folder: Path, *, report: bool) -> dict[str, Any]:
    from datasetops.evaluation.answers import Answers
    from datasetops.evaluation.detection import coco_metrics
    from datasetops.evaluation.evaluate import choose, evaluation_of
    from datasetops.evaluation.regions import found_regions, truth_regions
    from datasetops.evaluation.report import write_report
    from datasetops.manifest import Repository
    from datasetops.preannotate.mapping import default_mapping
    from datasetops.preannotate.predictions import ModelInfo

    repository = Repository.open(folder / "set")
    version = repository.version()
    found = pq.read_table(folder / "found.parquet")
    part = choose(repository, version, split="test", where=None, sealed=False)
    names = version.schema.class_names
    if not report:
        ids = pa.array(part.samples["sample_id"].tolist())
        sizes = part.samples[["width", "height"]].to_numpy(np.int64)
        truth = truth_regions(version.labels(), ids, names)
        return {"AP": coco_metrics(found_regions(found, ids, names), truth, sizes, names).summary()["AP"]}
    model = ModelInfo(
        "made-up", None, uuid.uuid4().hex * 2, ("box",), names
    )  # new, or a kept evaluation would be found
    everything = np.ones(len(part.samples), bool)
    answers = Answers(model, default_mapping(names, names), "box", everything, (), 0, rows=found)
    made = evaluation_of(repository, version, part, answers)
    assert not made.reused
    for name in ("report.json", "report.md"):
        write_report(repository, version, made, folder / name)
    return {"AP": made.metrics["AP"]}


CONTENDERS = {
    "hotcoco, JSON": with_hotcoco,
    "dsops, numbers": lambda folder: with_dsops(folder, report=False),
    "dsops, report": lambda folder: with_dsops(folder, report=True),
    "pycocotools, JSON": with_pycocotools,
}


def compete(options: argparse.Namespace) -> contenders.Row:
    for name in ("hotcoco", "datasetops.evaluation.report", "scipy.sparse"):
        importlib.import_module(name)  # what starting Python costs is no part of the race
    return contenders.measure(lambda: CONTENDERS[options.contender](options.folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender, of which the quickest counts")
    options = contenders.options_of(parser, compete)
    objects, found = scene(options.images, options.images * options.detections)
    with tempfile.TemporaryDirectory() as temporary:
        write_json(objects, found, options.images, Path(temporary))
        write_version(objects, found, options.images, Path(temporary))
        rows = contenders.race(__file__, list(CONTENDERS), ["--folder", temporary], rounds=options.rounds)
    for row in rows:
        row["ratio"] = row.get("seconds", np.nan) / rows[0]["seconds"]
    what = f"COCO's numbers of {len(found):,} detections"
    contenders.compare(rows, what, "dsops, numbers", "hotcoco, JSON", "hotcoco, from JSON")
    contenders.compare(rows, what, "dsops, numbers", "pycocotools, JSON", "pycocotools, from JSON")
    what = f"errors, slices, intervals and report of {len(found):,} detections"
    contenders.compare(rows, what, "dsops, report", "hotcoco, JSON", "hotcoco, COCO's numbers alone")
    setting = {"images": options.images, "objects": len(objects), "detections": len(found)}
    contenders.report(setting, rows, as_json=options.json)


if __name__ == "__main__":
    main()
