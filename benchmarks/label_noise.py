"""How well wrong labels are ranked: the audit's probe beside plain cleanlab, on the same embeddings.

    python benchmarks/label_noise.py                     # Markdown tables, as in docs/audits.md
    python benchmarks/label_noise.py --json --cache DIR  # one JSON document; embeddings are kept in DIR

Needs DSOPS_TEST_DATA. Human errors: CIFAR-10N's labels against CIFAR-10's own. Planted errors, to see whether what helps
there helps elsewhere too: a tenth of the labels of other images is changed, to any other class or to one that looks
alike (drawn from a classifier's probabilities), the mean of several draws.

Plain cleanlab is its self-confidence on five-fold out-of-sample probabilities of scikit-learn's logistic regression; the
strength of its penalty is the best of three by log loss on one fold. AUROC and average precision of one minus the score,
over all items, errors being those whose given label is not the true one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.rank import get_label_quality_scores
from PIL import Image
from ratios import record
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from datasetops.audits.labels.probe import out_of_sample_probabilities, principal_components
from datasetops.models import EmbeddingCache, embed_images, open_embedder
from datasetops.progress import no_progress
from datasetops.records import sha256_hex

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LAST_LAYER = 1280
NOISE = 0.1
LEAST = 8  # items of a class
METHODS = {
    "cleanlab, logistic regression on the last layer": lambda x, y, g: logistic(
        StandardScaler().fit_transform(x[:, -LAST_LAYER:]), y, g
    ),
    "cleanlab, logistic regression on several depths": lambda x, y, g: logistic(principal_components(x, 0), y, g),
    "dsops": lambda x, y, g: out_of_sample_probabilities(x, y, groups=g, n_classes=int(y.max()) + 1).probabilities,
}


@dataclass(frozen=True)
class Labeled:
    """Encoded images, classes 0…K−1, and what must stay in one fold."""

    name: str
    images: list[bytes]
    truth: Ints
    groups: Ints


def logistic(x: Floats, y: Ints, groups: Ints) -> Floats:
    """Out-of-sample probabilities (N, K); a class that a fold was trained without has 0 there."""
    x = x / np.sqrt((x**2).sum(axis=1).mean() / 1000)  # so that the same penalties suit any number of columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer items than folds
        folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, y, groups))
    every = np.arange(int(y.max()) + 1)

    def predict(penalty: float, train: Ints, test: Ints) -> Floats:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=penalty, max_iter=200).fit(x[train], y[train])
        out = np.zeros((len(test), len(every)), dtype=np.float32)
        out[:, model.classes_] = model.predict_proba(x[test])
        return out

    train, test = folds[0]
    losses = {c: log_loss(y[test], predict(c, train, test), labels=every) for c in (1e-4, 1e-3, 1e-2)}
    probabilities = np.zeros((len(y), len(every)), dtype=np.float32)
    for train, test in folds:
        probabilities[test] = predict(min(losses, key=losses.__getitem__), train, test)
    return probabilities


def scores_of(probabilities: Floats, given: Ints, truth: Ints) -> tuple[float, float]:
    judged = np.isfinite(probabilities).all(axis=1)
    quality = get_label_quality_scores(given[judged], probabilities[judged], method="self_confidence")
    wrong = given[judged] != truth[judged]
    return float(roc_auc_score(wrong, 1 - quality)), float(average_precision_score(wrong, 1 - quality))


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.convert("RGB").save(sink, "PNG")
    return sink.getvalue()


def digits() -> Labeled:
    source = load_digits()
    images = [png(Image.fromarray((pixels * 15.9375).astype(np.uint8))) for pixels in source.images]
    return Labeled("digits, 8 x 8 pixels", images, source.target.astype(np.int64), np.arange(len(images)))


def crops(name: str, folder: Path, smallest: int) -> Labeled:
    """Boxed objects of a COCO file, cut out; those of one image are one group."""
    document = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    files = {image["id"]: folder / "images" / image["file_name"] for image in document["images"]}
    images, classes, groups = [], [], []
    for identifier, file in files.items():
        with Image.open(file) as photo:
            for item in document["annotations"]:
                x, y, width, height = item["bbox"]
                if item["image_id"] == identifier and not item.get("iscrowd") and min(width, height) >= smallest:
                    images.append(png(photo.crop((int(x), int(y), int(x + width), int(y + height)))))
                    classes.append(item["category_id"])
                    groups.append(identifier)
    codes, counts = np.unique(classes, return_counts=True)
    kept = np.flatnonzero(np.isin(classes, codes[counts >= LEAST]))
    truth = np.unique(np.array(classes)[kept], return_inverse=True)[1]
    return Labeled(name, [images[i] for i in kept], truth, np.array(groups)[kept])


def planted(truth: Ints, alike: Floats | None, seed: int) -> Ints:
    """A tenth of the labels changed, to any other class or by the probabilities `alike` (N, K)."""
    rng = np.random.default_rng(seed)
    given = truth.copy()
    k = int(truth.max()) + 1
    for i in rng.choice(len(truth), round(NOISE * len(truth)), replace=False):
        chances = np.ones(k) if alike is None else alike[i].astype(np.float64) + 1e-9
        chances[truth[i]] = 0
        given[i] = rng.choice(k, p=chances / chances.sum())
    return given


def human_errors(data: Path, embed: Callable[[list[bytes]], Floats]) -> Iterator[dict[str, Any]]:
    frame = pd.read_parquet(data / "cifar10n" / "data.parquet")
    images = [item["bytes"] if isinstance(item, dict) else item for item in frame["image"]]
    x, truth, groups = embed(images), frame["clean_label"].to_numpy(np.int64), np.arange(len(frame))
    for column in ("aggre_label", "random_label1", "worse_label"):
        given = frame[column].to_numpy(np.int64)
        for method, probabilities in METHODS.items():
            started = time.perf_counter()
            auroc, precision = scores_of(probabilities(x, given, groups), given, truth)
            yield {
                "labels": f"CIFAR-10N {column}",
                "noise": float((given != truth).mean()),
                "method": method,
                "auroc": auroc,
                "average_precision": precision,
                "seconds": time.perf_counter() - started,
            }


def planted_errors(data: Path, embed: Callable[[list[bytes]], Floats], count: int) -> Iterator[dict[str, Any]]:
    for source in (
        digits(),
        crops("BCCD, cells cut out", data / "bccd", 8),
        crops("COCO, objects cut out", data / "coco_tiny", 16),
    ):
        x, truth, groups = embed(source.images), source.truth, source.groups
        alike = logistic(principal_components(x, 0), truth, groups)
        for kind, chances in (("any class", None), ("look-alikes", alike)):
            draws = [planted(truth, chances, seed) for seed in range(count)]
            for method, probabilities in METHODS.items():
                started = time.perf_counter()
                results = [scores_of(probabilities(x, given, groups), given, truth) for given in draws]
                auroc, precision = np.mean(results, axis=0).tolist()
                yield {
                    "labels": f"{source.name}; {kind}",
                    "noise": NOISE,
                    "method": method,
                    "auroc": auroc,
                    "average_precision": precision,
                    "seconds": (time.perf_counter() - started) / count,
                }


def told(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each also to stderr as soon as it is there."""
    kept = []
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
        kept.append(row)
    return kept


def record_beside_the_best(rows: list[dict[str, Any]]) -> None:
    """Each set of labels beside the better of the two ways with cleanlab, which is judged by each measure alone."""
    for labels in dict.fromkeys(row["labels"] for row in rows):
        *peers, own = [row for row in rows if row["labels"] == labels]
        for measure in ("auroc", "average_precision"):
            what = f"wrong labels ranked, {labels}"
            best = max(row[measure] for row in peers)
            unit = measure.replace("_", " ").replace("auroc", "AUROC")
            record(what, own[measure], "cleanlab, the better of two", best, unit, more_is_better=True)
    ours, theirs = (
        sum(row["seconds"] for row in rows if row["method"] == name) for name in ("dsops", next(iter(METHODS)))
    )
    record("probabilities to rank all these labels by", ours, "scikit-learn, logistic, last layer", theirs, "s")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each set of labels, a column for each method."""
    lines = ["| labels | " + " | ".join(METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    for labels in dict.fromkeys(row["labels"] for row in rows):
        cells = {
            row["method"]: f"{row['auroc']:.3f} / {row['average_precision']:.3f}"
            for row in rows
            if row["labels"] == labels
        }
        lines.append(f"| {labels} | " + " | ".join(cells[method] for method in METHODS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    parser.add_argument("--draws", type=int, default=3, help="of planted errors")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not os.environ.get("DSOPS_TEST_DATA"):
        parser.error("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    data = Path(os.environ["DSOPS_TEST_DATA"])
    with tempfile.TemporaryDirectory() if arguments.cache is None else nullcontext(arguments.cache) as folder:
        embedder = open_embedder("builtin:efficientnet-lite0", cache=Path(folder))
        cache = EmbeddingCache(Path(folder) / "embeddings", embedder.digest)

        def embed(images: list[bytes]) -> Floats:
            keys = [sha256_hex(image) for image in images]
            jobs = os.cpu_count() or 1
            return embed_images(embedder, keys, images.__getitem__, cache=cache, jobs=jobs, progress=no_progress)

        human, other = told(human_errors(data, embed)), told(planted_errors(data, embed, arguments.draws))
    record_beside_the_best([*human, *other])
    if arguments.json:
        print(json.dumps({"human": human, "planted": other}, indent=1))
        return
    print("Human errors, AUROC / average precision\n\n" + table(human))
    print("\nPlanted errors, the same\n\n" + table(other))


if __name__ == "__main__":
    main()
