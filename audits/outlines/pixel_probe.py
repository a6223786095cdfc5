"""Out-of-sample class probabilities of pixels, by cross-validation on features of a pretrained network.

A linear discriminant with a shrunk covariance (Friedman, "Regularized discriminant analysis", JASA 1989) of the cells of
a coarse grid. Only sums are kept of the images that it learns from; scores of the cells are interpolated to pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.audits.base import AuditContext
from datasetops.audits.images.stored_images import stored_image
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.labels.probe import assign_folds
from datasetops.audits.outlines.pixel_check import LabelMaps

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Features: TypeAlias = Callable[[Image.Image], Floats]  # RGB image → (rows, columns, D), cells of equal size

FOLDS: Final = 5
_FIT_IMAGES: Final = 1_000  # learned from: enough for a few hundred features
_TRIAL_CELLS: Final = 32  # of each image, on which shrinkage and temperature are chosen
_SHRINKAGES: Final = (0.03, 0.1, 0.3)
_TEMPERATURES: Final = np.geomspace(0.5, 20.0, 30)  # cells of one image are alike, so their sums promise too much
_LEAST: Final = -20.0  # a logarithm of a probability, that no single cell decides
_NEVER: Final = -1e4
_LEAST_VARIANCE: Final = 1e-6
_HELD: Final = 1 << 23  # numbers of an image that are held at once
_FEWEST: Final = 2


class PixelProbe:
    """A `PixelModel`. `shrinkage` and `temperature` are those of the least `log_loss` of cells that were set apart."""

    name = "probe"

    def __init__(self, context: AuditContext, features: Features, folds: Ints, fitted: _Fitted) -> None:
        self._context, self._features, self._folds, self._fitted = context, features, folds, fitted
        self._row = {str(one): row for row, one in enumerate(context.samples["sample_id"])}
        self.shrinkage, self.temperature, self.log_loss = fitted.shrinkage, fitted.temperature, fitted.log_loss

    def bands(self, sample_id: str, height: int, width: int) -> Iterator[tuple[slice, Floats]] | None:
        row = self._row[sample_id]
        cells = _cells(self._context, self._features, row, height, width)
        if cells is None:
            return None
        weights, bias = self._fitted.of_fold[int(self._folds[row])]
        scores = (cells @ weights + bias) / self.temperature
        return _interpolated(scores, height, width)


def fit_pixel_probe(context: AuditContext, maps: LabelMaps, features: Features) -> PixelProbe | str:
    """Learned from the labels at the middle of each cell; images of one group are judged by what others taught.

    Gives a reason instead where too few images, or classes, are at hand.
    """
    groups = grouped_with_copies(context.samples).to_numpy()
    folds = assign_folds(np.zeros(len(groups), np.int64), groups, FOLDS, context.seed)
    chosen = maps.samples[:: max(1, len(maps.samples) // _FIT_IMAGES)]
    sums: dict[int, _Sums] = {}
    tried: list[tuple[int, Floats, Ints]] = []
    rng = np.random.default_rng(context.seed)
    for sample in context.progress(chosen, len(chosen), "Learning pixels"):
        labels = maps.paint(sample).classes
        cells = _cells(context, features, sample, *labels.shape)
        if cells is None:
            continue
        given = _at_middles(labels, *cells.shape[:2]).ravel().astype(np.int64)
        known = given >= 0
        x, y = cells.reshape(-1, cells.shape[2])[known], given[known]
        fold = int(folds[sample])
        sums.setdefault(fold, _Sums(x.shape[1], len(context.schema.class_names))).add(x, y)
        some = rng.permutation(len(y))[:_TRIAL_CELLS]
        tried.append((fold, x[some], y[some]))
    if len(sums) < _FEWEST:
        return "fewer than two groups of images have labels and can be read"
    if (np.sum([part.counts for part in sums.values()], axis=0) > 0).sum() < _FEWEST:
        return "fewer than two classes are labeled"
    return PixelProbe(context, features, folds, _fit(sums, tried, range(int(folds.max()) + 1)))


class _Sums:
    """Of the cells of one fold: `counts` (K,), `sums` (K, D), `products` (D, D)."""

    def __init__(self, width: int, classes: int) -> None:
        self.counts = np.zeros(classes)
        self.sums, self.products = np.zeros((classes, width)), np.zeros((width, width))

    def add(self, x: Floats, y: Ints) -> None:
        one_hot = np.zeros((len(y), len(self.counts)), np.float32)
        one_hot[np.arange(len(y)), y] = 1
        self.counts += one_hot.sum(axis=0)
        self.sums += one_hot.T @ x
        self.products += x.T @ x


@dataclass(frozen=True)
class _Fitted:
    of_fold: dict[int, tuple[Floats, Floats]]  # weights (D, K) and bias (K,), learned from all other folds
    shrinkage: float
    temperature: float
    log_loss: float


def _fit(sums: dict[int, _Sums], tried: list[tuple[int, Floats, Ints]], folds: Iterable[int]) -> _Fitted:
    from scipy.special import log_softmax

    best: _Fitted | None = None
    for shrinkage in _SHRINKAGES:
        of_fold = {
            fold: _discriminant([part for other, part in sums.items() if other != fold], shrinkage) for fold in folds
        }
        scores = np.concatenate([x @ of_fold[fold][0] + of_fold[fold][1] for fold, x, _ in tried])
        given = np.concatenate([y for _, _, y in tried])
        for temperature in _TEMPERATURES:
            own = log_softmax(scores / temperature, axis=1)[np.arange(len(given)), given]
            loss = float(-np.maximum(own, _LEAST).mean())
            if best is None or loss < best.log_loss:
                best = _Fitted(of_fold, shrinkage, float(temperature), loss)
    if best is None:
        raise ValueError("tried: expected at least one cell")
    return best


def _discriminant(parts: list[_Sums], shrinkage: float) -> tuple[Floats, Floats]:
    counts = np.sum([part.counts for part in parts], axis=0)
    means = np.sum([part.sums for part in parts], axis=0) / np.maximum(counts, 1)[:, None]
    within = np.sum([part.products for part in parts], axis=0) - (means.T * counts) @ means
    within /= max(counts.sum(), 1)
    variance = np.maximum(np.diag(within), _LEAST_VARIANCE)
    within = (1 - shrinkage) * within + shrinkage * np.diag(variance)
    within[np.diag_indices_from(within)] += _LEAST_VARIANCE
    weights = np.linalg.solve(within, means.T)
    with np.errstate(divide="ignore"):
        bias = np.log(counts / max(counts.sum(), 1)) - 0.5 * (means.T * weights).sum(axis=0)
    # A class that only one fold has cannot be told there.
    return weights.astype(np.float32), np.maximum(bias, _NEVER).astype(np.float32)


def _cells(context: AuditContext, features: Features, sample: int, height: int, width: int) -> Floats | None:
    image = stored_image(context, sample)
    return features(image) if image is not None and image.size == (width, height) else None


def _at_middles(labels: npt.NDArray[np.int16], rows: int, columns: int) -> npt.NDArray[np.int16]:
    """The pixel in the middle of each cell of a grid."""
    height, width = labels.shape
    down = ((np.arange(rows) + 0.5) * height / rows).astype(np.int64)
    across = ((np.arange(columns) + 0.5) * width / columns).astype(np.int64)
    return labels[np.ix_(down, across)]


def _interpolated(scores: Floats, height: int, width: int) -> Iterator[tuple[slice, Floats]]:
    """Probabilities (K, rows, width) from scores (rows, columns, K) of cells, bilinear between their middles."""
    from scipy.special import softmax

    rows, columns, classes = scores.shape
    left, right, share = _neighbours(columns, width)
    wide = scores[:, left] * (1 - share)[:, None] + scores[:, right] * share[:, None]
    above, below, part = _neighbours(rows, height)
    step = max(1, _HELD // (classes * width))
    for top in range(0, height, step):
        at = slice(top, min(height, top + step))
        weight = part[at, None, None]
        band = wide[above[at]] * (1 - weight) + wide[below[at]] * weight
        yield at, softmax(band, axis=2).astype(np.float32).transpose(2, 0, 1)


def _neighbours(cells: int, pixels: int) -> tuple[Ints, Ints, Floats]:
    """For each pixel the cells before and behind it, and how near it is to the second one."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    before = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)
