"""Given boxes and detections for benchmarks/boxes.py: real files, a real detector, simulated detections, planted errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from datasetops.identity import pairwise_iou

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CORNERS = ["x1", "y1", "x2", "y2"]
SHARE = 0.1  # of the boxes that are made faulty
SIDE = 416  # of YOLOX-nano's input


class Labeled:
    """`given`: image, label, crowd and corners of each box; `sizes` (N, 2): width and height of the images."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.classes = [item["name"] for item in sorted(document["categories"], key=lambda item: item["id"])]
        code = {c["id"]: i for i, c in enumerate(sorted(document["categories"], key=lambda c: c["id"]))}
        row = {image["id"]: i for i, image in enumerate(document["images"])}
        self.files = [image["file_name"] for image in document["images"]]
        self.sizes = np.array([(image["width"], image["height"]) for image in document["images"]], dtype=np.float64)
        boxes = np.array([item["bbox"] for item in document["annotations"]], dtype=np.float64)
        with np.errstate(invalid="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        given = pd.DataFrame(boxes, columns=CORNERS)
        given["image"] = [row[item["image_id"]] for item in document["annotations"]]
        given["label"] = [code[item["category_id"]] for item in document["annotations"]]
        given["crowd"] = [bool(item.get("iscrowd")) for item in document["annotations"]]
        given = given[(given["x2"] > given["x1"] + 1) & (given["y2"] > given["y1"] + 1)]
        self.given = given.sort_values("image", kind="stable").reset_index(drop=True)

    def first(self, images: int) -> Labeled:
        self.given = self.given[self.given["image"] < images].reset_index(drop=True)
        self.sizes = self.sizes[:images]
        return self

    def repeated(self, times: int) -> Labeled:
        parts = [self.given.assign(image=self.given["image"] + i * len(self.sizes)) for i in range(times)]
        self.given, self.sizes = pd.concat(parts, ignore_index=True), np.tile(self.sizes, (times, 1))
        return self


def read(path: Path) -> Labeled:
    data = path.read_bytes()
    return Labeled(json.loads(gzip.decompress(data) if path.suffix == ".gz" else data))


def simulated(data: Labeled, per_image: int, seed: int) -> pd.DataFrame:
    """Detections as benchmarks/boxes.py describes them: image, label, corners, score."""
    rng = np.random.default_rng(seed)
    given, classes, images = data.given, len(data.classes), len(data.sizes)
    boxes, label, image = given[CORNERS].to_numpy(), given["label"].to_numpy(), given["image"].to_numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    relative = np.sqrt(sides.prod(axis=1) / data.sizes.prod(axis=1)[image])
    ease = 1.2 * (np.log2(np.maximum(relative, 1e-3)) + 4) + 1 + rng.normal(0, 0.8, classes)[label]
    alike = rng.permutation(classes)
    seen = np.flatnonzero(rng.random(len(given)) < 1 / (1 + np.exp(-ease)))
    off = 0.03 + 0.05 * rng.random(len(seen))
    score = 1 / (1 + np.exp(0.3 - 0.5 * ease[seen] - rng.normal(0, 1.2, len(seen))))
    parts = []

    def add(rows: Ints, labels: Ints, error: Floats, scores: Floats) -> None:
        noise = rng.normal(0, 1, (len(rows), 4)) * error[:, None] * np.tile(sides[rows], 2)
        frame = pd.DataFrame(boxes[rows] + noise, columns=CORNERS)
        parts.append(frame.assign(image=image[rows], label=labels, score=scores))

    add(seen, np.where(rng.random(len(seen)) < 1 / 12, alike[label[seen]], label[seen]), off, score)
    second = rng.random(len(seen)) < 0.3
    low = score[second] * rng.beta(1, 3, int(second.sum()))
    add(seen[second], alike[label[seen[second]]], off[second], low)
    for _ in range(2):
        around = rng.random(len(seen)) < 0.5
        low = score[around] * rng.beta(1, 4, int(around.sum()))
        add(seen[around], label[seen[around]], np.full(len(low), 0.2), low)
    rest = max(per_image * images - sum(map(len, parts)), 0)
    where, like = rng.integers(0, images, rest), rng.integers(0, len(given), rest)
    extent = np.minimum(sides[like] * rng.uniform(0.5, 1.5, (rest, 2)), data.sizes[where] * 0.9)
    corner = rng.random((rest, 2)) * (data.sizes[where] - extent)
    low = np.where(rng.random(rest) < 0.97, rng.beta(0.7, 14, rest), rng.beta(1.5, 3, rest))
    frame = pd.DataFrame(np.hstack([corner, corner + extent]), columns=CORNERS)
    parts.append(frame.assign(image=where, label=label[like], score=low))
    found = pd.concat(parts, ignore_index=True)
    found[CORNERS] = np.clip(found[CORNERS].to_numpy(), 0, np.tile(data.sizes[found["image"].to_numpy()], 2))
    found = found[(found["x2"] > found["x1"] + 1) & (found["y2"] > found["y1"] + 1)]
    return found.sort_values(["image", "score"], ascending=[True, False], kind="stable").reset_index(drop=True)


def yolox(data: Labeled, images: Path, model: Path) -> pd.DataFrame:
    """Detections of YOLOX-nano: at most 100 an image, scores from 0.01, suppressed at an overlap of 0.65 by class."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    cells, strides = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full((x.size, 1), stride))
    cell, step = np.concatenate(cells), np.concatenate(strides)
    parts = []
    for row, name in enumerate(data.files):
        with Image.open(images / name) as photo:
            scale = min(SIDE / photo.width, SIDE / photo.height)
            small = photo.convert("RGB").resize(
                (int(photo.width * scale), int(photo.height * scale)), Image.Resampling.BILINEAR
            )
        canvas = np.full((SIDE, SIDE, 3), 114, dtype=np.float32)
        canvas[: small.height, : small.width] = np.asarray(small)[:, :, ::-1]
        out = session.run(None, {session.get_inputs()[0].name: canvas.transpose(2, 0, 1)[None]})[0][0]
        middle, sides = (out[:, :2] + cell) * step, np.exp(out[:, 2:4]) * step
        boxes = np.clip(np.hstack([middle - sides / 2, middle + sides / 2]) / scale, 0, np.tile(data.sizes[row], 2))
        scores = out[:, 4:5] * out[:, 5:]
        label, score = scores.argmax(axis=1), scores.max(axis=1)
        kept = np.flatnonzero((score >= 0.01) & ((boxes[:, 2:] - boxes[:, :2]) > 1).all(axis=1))
        kept = kept[np.argsort(-score[kept], kind="stable")]
        kept = kept[_unsuppressed(boxes[kept] + label[kept, None] * 1e5, 0.65)][:100]
        frame = pd.DataFrame(boxes[kept], columns=CORNERS)
        parts.append(frame.assign(image=row, label=label[kept], score=score[kept].astype(np.float64)))
    return pd.concat(parts, ignore_index=True)


def _unsuppressed(boxes: Floats, overlap: float) -> list[int]:
    """Rows that no kept row before them overlaps by more."""
    alike = pairwise_iou(boxes, boxes) > overlap
    kept: list[int] = []
    for row in range(len(boxes)):
        if not alike[row, kept].any():
            kept.append(row)
    return kept


def planted(data: Labeled, kind: str, seed: int) -> tuple[pd.DataFrame, Flags, Flags]:
    """Boxes with a tenth of them at fault; which of those are (G,), and which images hold one."""
    rng = np.random.default_rng(seed)
    given = data.given.copy()
    able = np.flatnonzero(~given["crowd"])
    chosen = np.sort(rng.choice(able, round(SHARE * len(able)), replace=False))
    wrong = np.zeros(len(given), dtype=bool)
    wrong[chosen] = True
    hit = np.zeros(len(data.sizes), dtype=bool)
    if kind == "missed":
        hit[given["image"].to_numpy()[wrong]] = True
        return given[~wrong].reset_index(drop=True), np.zeros(int((~wrong).sum()), dtype=bool), hit
    if kind == "swapped":
        used = np.unique(given["label"])
        label = given["label"].to_numpy(copy=True)
        label[chosen] = [rng.choice(used[used != label[row]]) for row in chosen]
        given["label"] = label
    else:
        boxes = given[CORNERS].to_numpy(copy=True)
        sides = boxes[chosen, 2:] - boxes[chosen, :2]
        way = rng.uniform(0.2, 0.6, sides.shape) * rng.choice([-1, 1], sides.shape) * sides
        limit = np.tile(data.sizes[given["image"].to_numpy()[chosen]], 2)
        moved = np.clip(boxes[chosen] + np.tile(way, 2), 0, limit)
        inside = ((moved[:, 2:] - moved[:, :2]) > 1).all(axis=1)
        boxes[chosen[inside]] = moved[inside]
        wrong[chosen[~inside]] = False
        given[CORNERS] = boxes
    hit[given["image"].to_numpy()[wrong]] = True
    return given, wrong, hit
