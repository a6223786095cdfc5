"""Class probabilities of many images from the labels of a few, on embeddings.

Each embedding is drawn towards those of its nearest neighbours, labeled or not (Wu et al., "Simplifying graph
convolutional networks", ICML 2019), and a shrunk linear discriminant learns from the labeled ones. How far neighbours
count, the shrinkage and the temperature are chosen by cross-validated log loss on the labels; nothing else is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.audits.images.neighbours import nearest
from datasetops.audits.labels.probe import assign_folds, principal_components
from datasetops.errors import ModelError
from datasetops.preannotate.discriminant import (
    Floats,
    Ints,
    best_temperature,
    discriminants,
    out_of_fold_scores,
    softmax,
)
from datasetops.progress import Progress, no_progress

_NEIGHBOURS: Final = 10
_DEEPEST: Final = 8  # times that embeddings are drawn towards their neighbours, at most
_SHRINKAGES: Final = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
_FOLDS: Final = 10
_TRIAL_ROWS: Final = 4_000  # labels that depth and shrinkage are chosen on: more hardly change the choice
_UNCHOSEN: Final = (_DEEPEST, 0.9)  # depth and shrinkage, where no class has two labels to choose them by
_UNTEMPERED: Final = (
    1 / 300
)  # factor on the scores in that case, on the unsure side: fitted ones fall with the number of labels


@dataclass(frozen=True)
class Learned:
    """`probabilities` (N, K) float32, rows sum to one; NaN where an item's features are not finite.

    Those of labeled items come from classifiers that saw neither their label nor that of any item of their group.
    `log_loss` is that of the labels under them, in nats; NaN where it could not be measured, and then the
    probabilities are not calibrated. `chosen` has depth, shrinkage and temperature.
    """

    probabilities: Floats
    log_loss: float
    chosen: dict[str, float]


def learn(
    features: npt.NDArray[Any],
    labels: Ints,
    k: int,
    *,
    groups: npt.NDArray[Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> Learned:
    """Learn from the labels (N,) in [0, k), -1 for none, and say what all N items are. `features` (N, D).

    `groups` (N,), of any sortable kind: items of one group are judged without each other's labels where they have
    labels. A class without labels gets probability 0. The same arguments give the same answer. Raises ValueError for
    arguments that do not fit, ModelError where fewer than two classes have labels.
    """
    if len(features) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise ValueError("features, labels and groups must have the same length")
    if len(labels) and not (labels.min() >= -1 and labels.max() < k):
        raise ValueError(f"labels: expected integers from -1 to {k - 1}")
    usable = np.flatnonzero(np.isfinite(features.sum(axis=1, dtype=np.float64)))
    labeled = np.flatnonzero(labels[usable] >= 0)
    y = labels[usable][labeled]
    if len(np.unique(y)) < 2:
        raise ModelError(
            f"There is nothing to learn from: {len(y)} usable labels of {len(np.unique(y))} classes.",
            remedy="Label at least two images of each class, of at least two classes; ten of each are a good start.",
        )
    fold = assign_folds(y, None if groups is None else np.asarray(groups)[usable][labeled], _FOLDS, seed)
    x = _on_one_sphere(principal_components(features[usable].astype(np.float32, copy=False), seed))
    mixing = _mixing(x, seed, jobs, progress)
    chosen = _choose(x, mixing, labeled, y, fold, k, seed)
    depth, shrinkage = _UNCHOSEN if chosen is None else chosen
    x = list(_smoothed(x, mixing, depth))[-1]
    scale = float(x.var(axis=0).mean())
    own = out_of_fold_scores(x[labeled], y, fold, k, scale, [shrinkage])[0]
    judged = _seen_elsewhere(y, fold, k)
    factor, loss = best_temperature(own[judged], y[judged]) if judged.any() else (_UNTEMPERED, float("nan"))
    scores = discriminants(x[labeled], y, k, scale, [shrinkage])[0].scores(x)
    scores[labeled] = own
    probabilities = np.full((len(labels), k), np.nan, dtype=np.float32)
    probabilities[usable] = softmax(scores * np.float32(factor))
    return Learned(probabilities, loss, {"depth": depth, "shrinkage": shrinkage, "temperature": 1 / factor})


def _choose(x: Floats, mixing: Any, labeled: Ints, y: Ints, fold: Ints, k: int, seed: int) -> tuple[int, float] | None:
    """Depth and shrinkage of the lowest log loss; None where no class has labels in two folds."""
    if len(y) > _TRIAL_ROWS:
        some = np.sort(np.random.default_rng(seed).permutation(len(y))[:_TRIAL_ROWS])
        labeled, y, fold = labeled[some], y[some], fold[some]
    judged = _seen_elsewhere(y, fold, k)
    if not judged.any():
        return None
    losses = {}
    for depth, drawn in enumerate(_smoothed(x, mixing, _DEEPEST)):
        # Scores depend on what the labeled items span alone, which has few dimensions where there are few of them.
        rows = _coordinates(drawn[labeled])
        scored = out_of_fold_scores(rows, y, fold, k, float(drawn.var(axis=0).mean()), _SHRINKAGES)
        for shrinkage, scores in zip(_SHRINKAGES, scored, strict=True):
            losses[depth, shrinkage] = best_temperature(scores[judged], y[judged])[1]
    return min(losses, key=lambda setting: losses[setting])


def _seen_elsewhere(y: Ints, fold: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether an item's class has items in other folds: without them nothing is known of it when the item is judged."""
    counts = np.zeros((k, int(fold.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (y, fold), 1)
    seen: npt.NDArray[np.bool_] = counts[y, fold] < counts.sum(axis=1)[y]
    return seen


def _on_one_sphere(z: Floats) -> Floats:
    """Rows of equal length: that of an embedding says more of the picture's contrast than of what it shows."""
    lengths = np.linalg.norm(z, axis=1, keepdims=True)
    turned: Floats = z * (np.sqrt((lengths**2).mean()) / np.maximum(lengths, np.finfo(np.float32).tiny))
    return turned


def _mixing(x: Floats, seed: int, jobs: int, progress: Progress) -> Any:
    """Sparse (N, N): the shares that an item's neighbours have in what it is drawn to, itself where it has none."""
    from scipy.sparse import coo_array, dia_array

    n = len(x)
    found = nearest(x, min(_NEIGHBOURS, max(1, n - 1)), seed=seed, jobs=jobs, progress=progress)
    near = (found.indices >= 0) & (found.distances < 1)
    rows = np.nonzero(near)[0]
    weights = coo_array((1 - found.distances[near], (rows, found.indices[near])), shape=(n, n)).tocsr()
    weights = weights.maximum(weights.T)  # near to either
    total = weights.sum(axis=1)
    alone = dia_array(((total == 0).astype(np.float32)[None], [0]), shape=(n, n))
    shares = dia_array(((1 / np.where(total == 0, 1, total)).astype(np.float32)[None], [0]), shape=(n, n))
    return (shares @ weights + alone).tocsr()


def _smoothed(x: Floats, mixing: Any, depth: int) -> Iterator[Floats]:
    """x as it is, and after each of `depth` moves halfway to the mean of the neighbours."""
    yield x
    for _ in range(depth):
        x = np.float32(0.5) * (x + mixing @ x)
        yield x


def _coordinates(rows: Floats) -> Floats:
    """Rows (L, D) in an orthonormal basis of what they span: (L, min(L, D))."""
    if len(rows) >= rows.shape[1]:
        return rows
    basis, _ = np.linalg.qr(rows.T)
    coordinates: Floats = rows @ basis
    return coordinates
