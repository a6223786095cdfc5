"""A linear discriminant for few labels, its shrinkage and temperature chosen by cross-validation on these labels.

Gaussian classes of one covariance, shrunk towards a multiple of the identity: Friedman, "Regularized discriminant
analysis", JASA 1989. Probabilities are calibrated by one temperature: Guo et al., "On calibration of modern neural
networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

_RANK: Final = 1e-6  # directions of less than this share of the largest variance are rounding errors
_LEAST: Final = 1e-12  # probability in a log loss; variance where all items are equal


@dataclass(frozen=True)
class Discriminant:
    """Scores of rows x (N, D): x @ weights + bias, (N, K); -inf for classes that had no label."""

    weights: Floats
    bias: Floats

    def scores(self, x: Floats) -> Floats:
        found: Floats = x @ self.weights + self.bias
        return found


def discriminants(x: Floats, y: Ints, k: int, scale: float, shrinkages: Sequence[float]) -> list[Discriminant]:
    """One for each shrinkage in (0, 1], learned from rows x (L, D) of classes y (L,) in [0, k).

    The covariance within classes is mixed with `scale` times the identity, to the share of the shrinkage. Shares of
    the classes among the rows are taken for their shares elsewhere.
    """
    counts = np.bincount(y, minlength=k)
    means = np.zeros((k, x.shape[1]), dtype=np.float32)
    np.add.at(means, y, x)
    means /= np.maximum(counts, 1)[:, None]
    variances, axes = _spread(x - means[y], max(1, len(x) - int((counts > 0).sum())))
    along = means @ axes
    prior = np.where(counts > 0, np.log((counts + 1) / (counts + 1).sum()), -np.inf)
    found = []
    for shrinkage in shrinkages:
        floor = shrinkage * max(scale, _LEAST)
        # The inverse of (1 - shrinkage) covariance + floor, which is 1 / floor outside the space of the axes.
        inner = 1 / ((1 - shrinkage) * variances + floor) - 1 / floor
        weights = means / floor + (along * inner) @ axes.T
        bias = prior - 0.5 * (weights * means).sum(axis=1)
        found.append(Discriminant(weights.T.astype(np.float32), bias.astype(np.float32)))
    return found


def _spread(x: Floats, freedom: int) -> tuple[Floats, Floats]:
    """Variances (r,) and directions (D, r) of centred rows, from the smaller of the two matrices of products."""
    small = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh((x @ x.T if small else x.T @ x).astype(np.float64))
    kept = values > max(values[-1] * _RANK, np.finfo(np.float32).tiny)
    values, axes = values[kept], vectors[:, kept]
    if small:
        axes = x.T @ axes / np.sqrt(values)
    return (values / freedom).astype(np.float32), axes.astype(np.float32)


def out_of_fold_scores(
    x: Floats, y: Ints, fold: Ints, k: int, scale: float, shrinkages: Sequence[float]
) -> list[Floats]:
    """For each shrinkage scores (L, k) of every row, by discriminants learned from the rows of the other folds."""
    scores: list[Floats] = [np.zeros((len(x), k), dtype=np.float32) for _ in shrinkages]
    for number in np.unique(fold):
        inside = fold == number
        learned = discriminants(x[~inside], y[~inside], k, scale, shrinkages)
        for answer, discriminant in zip(scores, learned, strict=True):
            answer[inside] = discriminant.scores(x[inside])
    return scores


def best_temperature(scores: Floats, y: Ints) -> tuple[float, float]:
    """The factor on scores (N, K) under which the labels y are most likely, and the log loss with it, in nats."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: log_loss(softmax(scores * np.float32(np.exp(power))), y), bounds=(-9, 6), method="bounded"
    )
    return float(np.exp(found.x)), float(found.fun)


def log_loss(probabilities: Floats, y: Ints) -> float:
    """Mean negative logarithm of the labels' probabilities, in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(y)), y], _LEAST)).mean())


def softmax(scores: Floats) -> Floats:
    """Rows that sum to one; 0 for scores of -inf."""
    exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = exponent / exponent.sum(axis=1, keepdims=True)
    return result
