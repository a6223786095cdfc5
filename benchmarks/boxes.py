"""Box audits beside cleanlab's ObjectLab and hotcoco's label errors: time, and how well planted errors are ranked.

    python benchmarks/boxes.py                    # both, Markdown tables
    python benchmarks/boxes.py --only speed --json
    python benchmarks/boxes.py --only accuracy --draws 10

Needs DSOPS_TEST_DATA. Speed: 5,000 images, the 100 of COCO's sample annotation file fifty times over, with 100 simulated
detections each, drawn anew for each; and all 149,813 persons of COCO's training images with 20 detections an image. Every
contender gets the boxes in memory in the form that it takes. "dsops checks" are all four checks from tables to findings.

Simulated detections: an object is seen the more likely the larger it is and by its class; its box is off by 3 to 8 % of
its sides; scores rise with size; one in twelve gets the name of a look-alike class, others a second box of that class, or
doubtful boxes around; the rest are boxes in random places, mostly with low scores.

Accuracy: a tenth of the boxes of real annotations is removed, given another class, or moved by 20 to 60 % of its sides,
and the three kinds are ranked by image and by box (AUROC, mean of several draws). coco_tiny has real detections of
YOLOX-nano, which may have seen those images in training; BCCD those of dsops's own probe where its images allow one, made
anew from the faulty boxes of each draw. ObjectLab and hotcoco have a threshold of the score, and hotcoco one of overlap:
besides their defaults the best of several settings is shown, best on the truth and for each number alone. hotcoco has no
kind for moved boxes: given boxes that it finds no detection for, and their share of the
image's, stand in.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from box_data import CORNERS, SHARE, Labeled, planted, read, simulated, yolox
from PIL import Image
from ratios import record
from sklearn.metrics import roc_auc_score

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.checks import DuplicateBox, MisplacedBox, MissingBox, SwappedBox
from datasetops.audits.boxes.pairs import Boxes
from datasetops.audits.boxes.scores import image_scores, score_boxes
from datasetops.records import ANNOTATIONS, SAMPLES
from datasetops.schema import LabelSchema

Floats = npt.NDArray[np.float64]
Scores = dict[str, Floats]  # by kind of error, for images; "KIND box" for given boxes; "any" for images

KINDS = ("missed", "swapped", "moved")
# ObjectLab: thresholds of the score for swapped and overlooked, for badly located. The first are its defaults.
OBJECTLAB = ((0.95, 0.5), (0.5, 0.3), (0.3, 0.2), (0.1, 0.05))
HOTCOCO = ((0.5, 0.5), (0.3, 0.5), (0.1, 0.5), (0.0, 0.5), (0.5, 0.75), (0.0, 0.75))  # score and overlap


def boxes_of(frame: pd.DataFrame) -> Boxes:
    return Boxes(
        frame["image"].to_numpy(np.int64), frame["label"].to_numpy(np.int64), frame[CORNERS].to_numpy(np.float64)
    )


def by_dsops(given: pd.DataFrame, found: pd.DataFrame, images: int, classes: int) -> Scores:
    boxes, detected = boxes_of(given), boxes_of(found)
    scores = score_boxes(boxes, detected, found["score"].to_numpy(), classes=classes, crowd=given["crowd"].to_numpy())
    by_image = {
        "missed": image_scores(scores.missing, detected.image, images),
        "swapped": image_scores(scores.swapped, boxes.image, images),
        "moved": image_scores(scores.misplaced, boxes.image, images),
    }
    together = np.prod(list(by_image.values()), axis=0)
    return by_image | {"any": together, "swapped box": scores.swapped, "moved box": scores.misplaced}


def objectlab_input(given: pd.DataFrame, found: pd.DataFrame, images: int, classes: int) -> tuple[list[Any], list[Any]]:
    labels, predictions = [], []
    boxes, values = given[CORNERS].to_numpy(), found[[*CORNERS, "score"]].to_numpy()
    mine, theirs = given["label"].to_numpy(), found["label"].to_numpy()
    edges = [np.searchsorted(frame["image"].to_numpy(), np.arange(images + 1)) for frame in (given, found)]
    for i in range(images):
        a, b = (slice(edge[i], edge[i + 1]) for edge in edges)
        labels.append({"bboxes": boxes[a], "labels": mine[a]})
        row = np.empty(classes, dtype=object)
        row[:] = [values[b][theirs[b] == c] for c in range(classes)]
        predictions.append(row)
    return labels, predictions


def by_objectlab(given: pd.DataFrame, found: pd.DataFrame, images: int, classes: int) -> list[Scores]:
    from cleanlab.internal.constants import ALPHA
    from cleanlab.object_detection import rank

    inputs = rank._get_valid_inputs_for_compute_scores(ALPHA, *objectlab_input(given, found, images, classes))
    results = []
    for high, low in OBJECTLAB:
        missed = rank.compute_overlooked_box_scores(auxiliary_inputs=inputs, high_probability_threshold=high)
        swapped = rank.compute_swap_box_scores(auxiliary_inputs=inputs, high_probability_threshold=high)
        moved = rank.compute_badloc_box_scores(auxiliary_inputs=inputs, low_probability_threshold=low)
        by_image = {
            kind: rank.pool_box_scores_per_image(scores)
            for kind, scores in zip(KINDS, (missed, swapped, moved), strict=True)
        }
        together = np.exp(sum(np.log(1e-100 + score) for score in by_image.values()) / 3)  # as ObjectLab joins them
        boxes = {"swapped box": np.concatenate(swapped), "moved box": np.concatenate(moved)}
        results.append(by_image | boxes | {"any": together})
    return results


def hotcoco_input(given: pd.DataFrame, found: pd.DataFrame, data_sizes: Floats, classes: int) -> tuple[Any, Any]:
    import hotcoco

    sides = given[["x2", "y2"]].to_numpy() - given[["x1", "y1"]].to_numpy()
    annotations = [
        {"id": i + 1, "image_id": image + 1, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (image, label, box, area, crowd) in enumerate(
            zip(
                given["image"].tolist(),
                given["label"].tolist(),
                np.hstack([given[["x1", "y1"]].to_numpy(), sides]).tolist(),
                sides.prod(axis=1).tolist(),
                given["crowd"].tolist(),
                strict=True,
            )
        )
    ]
    images = [{"id": i + 1, "width": int(w), "height": int(h)} for i, (w, h) in enumerate(data_sizes)]
    categories = [{"id": c + 1, "name": str(c)} for c in range(classes)]
    truth = hotcoco.COCO({"images": images, "categories": categories, "annotations": annotations})
    extent = found[["x2", "y2"]].to_numpy() - found[["x1", "y1"]].to_numpy()
    columns = [found["image"] + 1, found["x1"], found["y1"], *extent.T, found["score"], found["label"] + 1]
    return truth, np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def by_hotcoco(given: pd.DataFrame, found: pd.DataFrame, sizes: Floats, classes: int) -> list[Scores]:
    import hotcoco

    with contextlib.redirect_stdout(io.StringIO()):
        truth, detections = hotcoco_input(given, found, sizes, classes)
        evaluation = hotcoco.COCOeval(truth, truth.load_res(detections), "bbox")
        evaluation.evaluate()
    results = []
    for score, overlap in HOTCOCO:
        told = evaluation.image_diagnostics(iou_thr=overlap, score_thr=score)
        out = {kind: np.ones(len(sizes)) for kind in (*KINDS, "any")}
        out |= {f"{kind} box": np.ones(len(given)) for kind in KINDS[1:]}
        for error in told["label_errors"]:
            image, clean = error["image_id"] - 1, 1 - error["dt_score"]
            kind = "missed" if error["type"] == "missing_annotation" else "swapped"
            for name in (kind, "any"):
                out[name][image] = min(out[name][image], clean)
            if kind == "swapped":
                out["swapped box"][error["gt_id"] - 1] = min(out["swapped box"][error["gt_id"] - 1], clean)
        for number, status in told["gt_status"].items():
            out["moved box"][number - 1] = status != "fn"
        held = np.bincount(given["image"], minlength=len(sizes))
        out["moved"] = np.bincount(given["image"], out["moved box"], len(sizes)) / np.maximum(held, 1)
        out["moved"][held == 0] = 1
        results.append(out)
    return results


def accuracy(
    name: str, data: Labeled, detect: Callable[[pd.DataFrame], pd.DataFrame], draws: int
) -> Iterator[contenders.Row]:
    """A row for each kind of error and unit. `detect` gives the detections for the boxes of a draw."""
    images, classes = len(data.sizes), len(data.classes)
    kinds = KINDS if classes > 1 else ("missed", "moved")
    values: dict[tuple[str, str], list[list[float]]] = {}
    for kind in kinds:
        for seed in range(draws):
            given, wrong, hit = planted(data, kind, seed)
            found = detect(given)
            contestants = [
                by_dsops(given, found, images, classes),
                *by_objectlab(given, found, images, classes),
                *by_hotcoco(given, found, data.sizes, classes),
            ]
            units = {f"{kind} image": (hit, kind), f"{kind} any image": (hit, "any")}
            if kind != "missed":
                units[f"{kind} box"] = (wrong, f"{kind} box")
            for unit, (truth, score) in units.items():
                values.setdefault((kind, unit), []).append(
                    [roc_auc_score(truth, 1 - one[score]) for one in contestants]
                )
    for (kind, unit), several in values.items():
        mean = np.mean(several, axis=0)
        objectlab, hotcoco = mean[1 : 1 + len(OBJECTLAB)], mean[1 + len(OBJECTLAB) :]
        yield {
            "data": name,
            "planted": kind,
            "ranked": {"any image": "images, by any error", "image": "images, by this error", "box": "boxes"}[
                unit[len(kind) + 1 :]
            ],
            "dsops": round(float(mean[0]), 3),
            "ObjectLab": round(float(objectlab[0]), 3),
            "ObjectLab, best setting": round(float(objectlab.max()), 3),
            "hotcoco": round(float(hotcoco[0]), 3),
            "hotcoco, best setting": round(float(hotcoco.max()), 3),
        }


def context_of(data: Labeled, given: pd.DataFrame, found: pd.DataFrame | None, **more: Any) -> AuditContext:
    """Tables as an audit gets them."""
    names = np.array([f"s{i:08}" for i in range(len(data.sizes))])
    classes = [{"id": i, "name": name} for i, name in enumerate(data.classes)]
    samples = {"sample_id": names, "uri": names, "width": data.sizes[:, 0], "height": data.sizes[:, 1]} | more.pop(
        "samples", {}
    )
    annotations = {
        "annotation_id": [f"b{i:09}" for i in range(len(given))],
        "sample_id": names[given["image"]],
        "kind": ["box"] * len(given),
        "label": np.array(data.classes)[given["label"]],
        "attributes": np.where(given["crowd"], '{"iscrowd":1}', None),
    } | {name: given[name] for name in CORNERS}
    if found is not None:
        found = found.assign(sample_id=names[found["image"]], label=np.array(data.classes)[found["label"]])
        found = found[["sample_id", "label", *CORNERS, "score"]]
    return AuditContext(
        samples=_table(samples, SAMPLES),
        annotations=_table(annotations, ANNOTATIONS),
        schema=LabelSchema.model_validate(
            {"name": "boxes", "version": 1, "tasks": [{"kind": "box"}], "classes": classes}
        ),
        detections=found,
        **({"images": None, "embeddings": None} | more),
    )


def _table(columns: dict[str, Any], schema: pa.Schema) -> pd.DataFrame:
    count = len(columns["sample_id"])
    arrays = [
        pa.array(np.asarray(columns[field.name]), from_pandas=True).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema).to_pandas()


def probe_detections(data: Labeled, images: Path) -> Callable[[pd.DataFrame], pd.DataFrame] | None:
    """Detections of dsops's own probe for the boxes of a draw; None where there is no such module."""
    try:
        from datasetops.audits.detector.detections import out_of_sample_detections
    except ImportError:
        return None
    from datasetops.images import decode_rgb
    from datasetops.records import sha256_hex

    contents = [(images / name).read_bytes() for name in data.files]

    class Files:
        def read(self, row: int) -> bytes:
            return contents[row]

        def open(self, row: int) -> Image.Image:
            return decode_rgb(contents[row])

    def detect(given: pd.DataFrame) -> pd.DataFrame:
        digests = {"sha256": [sha256_hex(content) for content in contents]}
        found = out_of_sample_detections(context_of(data, given, None, images=Files(), samples=digests))
        if found is None:
            raise RuntimeError("no detector could be made of these boxes")
        image = found["sample_id"].str[1:].astype(int)
        label = found["label"].map({name: i for i, name in enumerate(data.classes)})
        return found.assign(image=image, label=label).sort_values("image", kind="stable").reset_index(drop=True)

    return detect


def all_accuracy(folder: Path, draws: int) -> Iterator[contenders.Row]:
    tiny = read(folder / "coco_tiny" / "coco.json")
    real = yolox(tiny, folder / "coco_tiny" / "images", folder / "yolox_nano" / "yolox_nano.onnx")
    yield from accuracy("coco_tiny, YOLOX-nano", tiny, lambda _: real, draws)
    bccd = read(folder / "bccd" / "coco.json")
    probe = probe_detections(bccd, folder / "bccd" / "images")
    if probe is not None:
        yield from accuracy("bccd, probe", bccd, probe, min(draws, 3))
    for name, file, images in (
        ("COCO sample, simulated", "instances_val2014_100.json", 100),
        ("TACO, 400 images, simulated", "taco_annotations.json.gz", 400),
        ("COCO persons, 400 images, simulated", "persons_val2017_rebuilt.json.gz", 400),
    ):
        data = read(folder / "coco_ann" / file).first(images)
        found = simulated(data, 40, 0)
        yield from accuracy(name, data, lambda _, found=found: found, min(draws, 3))  # type: ignore[misc]


def speed_input(folder: Path, which: str) -> tuple[Labeled, pd.DataFrame]:
    if which == "persons":
        data = read(folder / "coco_ann" / "persons_train2017_rebuilt_boxes.json.gz")
        return data, simulated(data, 20, 0)
    data = read(folder / "coco_ann" / "instances_val2014_100.json").repeated(50)
    return data, simulated(data, 100, 0)


def compete(options: argparse.Namespace) -> contenders.Row:
    """In the contender's process."""
    warnings.simplefilter("ignore")
    with (options.folder / "input.pickle").open("rb") as file:  # just written by the parent
        data, found = pd.read_pickle(file)  # noqa: S301
    images, classes = len(data.sizes), len(data.classes)
    work: Callable[[], Any]
    if options.contender == "dsops scores":
        work = lambda: by_dsops(data.given, found, images, classes)  # noqa: E731
    elif options.contender == "dsops checks":
        context = context_of(data, data.given, found)

        def work() -> int:
            return sum(
                len(check().run(context).findings) for check in (MissingBox, SwappedBox, MisplacedBox, DuplicateBox)
            )

    elif options.contender == "cleanlab ObjectLab":
        from cleanlab.object_detection.rank import get_label_quality_scores

        labels, predictions = objectlab_input(data.given, found, images, classes)
        work = lambda: get_label_quality_scores(labels, predictions, verbose=False)  # noqa: E731
    else:
        import hotcoco

        with contextlib.redirect_stdout(io.StringIO()):
            truth, detections = hotcoco_input(data.given, found, data.sizes, classes)

        def work() -> Any:
            evaluation = hotcoco.COCOeval(truth, truth.load_res(detections), "bbox")
            evaluation.evaluate()
            return evaluation.image_diagnostics()

    def once() -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()):
            told = work()
        return {"findings": told} if isinstance(told, int) else {}

    return contenders.measure(once)


def speed(folder: Path, which: str, names: Sequence[str], rounds: int) -> tuple[contenders.Row, list[contenders.Row]]:
    data, found = speed_input(folder, which)
    setting = {"images": len(data.sizes), "boxes": len(data.given), "detections": len(found)}
    with tempfile.TemporaryDirectory() as temporary:
        pd.to_pickle((data, found), Path(temporary) / "input.pickle")
        rows = contenders.race(__file__, names, ["--folder", temporary], rounds=rounds)
    return setting, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "accuracy"))
    parser.add_argument("--draws", type=int, default=10, help="of planted errors on coco_tiny; at most three elsewhere")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    options = contenders.options_of(parser, compete)
    if not os.environ.get("DSOPS_TEST_DATA"):
        parser.error("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    folder = Path(os.environ["DSOPS_TEST_DATA"])
    peers = ["dsops scores", "dsops checks", "hotcoco", "cleanlab ObjectLab"]
    if options.only != "accuracy":
        for which, names in (("sample", peers), ("persons", ["dsops scores", "dsops checks", "hotcoco"])):
            setting, rows = speed(folder, which, names, options.rounds)
            size = f"{setting['boxes']:,} boxes, {setting['detections']:,} detections"
            contenders.compare(rows, f"four checks of {size}", "dsops checks", "hotcoco", "hotcoco, label errors")
            contenders.compare(rows, f"scores of {size}", "dsops scores", "cleanlab ObjectLab", "cleanlab, ObjectLab")
            contenders.report(setting, rows, as_json=options.json)
            print()
    if options.only != "speed":
        warnings.simplefilter("ignore")
        rows = list(all_accuracy(folder, options.draws))
        for (kind, unit), some in pd.DataFrame(rows).groupby(["planted", "ranked"], sort=False):
            what = f"boxes {kind}, {unit}; mean of {len(some)} data sets"
            for name, peer in (("ObjectLab", "cleanlab, ObjectLab"), ("hotcoco", "hotcoco")):
                best = float(some[f"{name}, best setting"].mean())
                record(
                    what, float(some["dsops"].mean()), f"{peer}, its best setting", best, "AUROC", more_is_better=True
                )
        contenders.report(
            {"planted share": SHARE, "draws": options.draws, "measure": "AUROC"}, rows, as_json=options.json
        )


if __name__ == "__main__":
    main()
