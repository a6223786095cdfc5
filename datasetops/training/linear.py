"""Linear classifiers on embeddings, for many rows: logistic regression and a shrunk discriminant, chosen by cross-validation.

Rows are standardised and turned to their principal components, which changes nothing about what a linear function can say
and makes both methods quick. What is learned is folded back into one matrix on the embeddings themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.audits.labels.probe import assign_folds, principal_axes
from datasetops.preannotate.discriminant import discriminants

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_RIDGES: Final = (3.0, 30.0, 300.0, 3000.0)  # of logistic regression: precision of the weights' prior
_SHRINKAGES: Final = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
_FOLDS: Final = 3
_TRIAL_ROWS: Final = 4_000  # rows that a method is chosen on: more hardly change the choice
_FIT_ROWS: Final = 20_000  # rows that the components are learned from
_BLOCK: Final = 16_384
_STEPS: Final = 300  # of L-BFGS at most
_ENOUGH: Final = 1e-3  # of the gradient a row: further steps change no answer
_LEAST: Final = 1e-12
_SPREAD: Final = 1e-6  # deviation below which a column says nothing


@dataclass(frozen=True)
class Linear:
    """Scores of embeddings x (N, D): x @ weight + bias, (N, K). `chosen` tells the method, its setting and each trial's
    log loss."""

    weight: Floats
    bias: Floats
    chosen: dict[str, Any]

    def scores(self, x: Floats) -> Floats:
        return np.asarray(x @ self.weight + self.bias, dtype=np.float32)


@dataclass(frozen=True)
class _Basis:
    """From embeddings to principal components: (x - mean) @ axes."""

    mean: Floats
    axes: Floats

    def __call__(self, x: Floats) -> Floats:
        out = np.empty((len(x), self.axes.shape[1]), dtype=np.float32)
        for start in range(0, len(x), _BLOCK):
            out[start : start + _BLOCK] = (x[start : start + _BLOCK] - self.mean) @ self.axes
        return out

    def folded(self, weights: Any, bias: Any, chosen: dict[str, Any]) -> Linear:
        """The same function of embeddings as `weights` and `bias` are of components."""
        weight = self.axes.astype(np.float64) @ weights
        offset = np.asarray(bias, dtype=np.float64) - self.mean.astype(np.float64) @ weight
        return Linear(weight.astype(np.float32), offset.astype(np.float32), chosen)


def fit_linear(
    x: Floats, labels: Ints | Flags, k: int, weights: npt.NDArray[np.float64], groups: Ints, *, method: str, seed: int
) -> Linear:
    """Learn from rows x (N, D) of classes `labels` (N,) in [0, k), or of several each, (N, K); all k occur.

    `weights` (N,): how much each row counts. `groups` (N,): what must not stand on both sides of a fold. `method` is
    logistic, discriminant (for one class a row and equal weights within a class) or auto, the one of the lower
    cross-validated log loss. The same arguments give the same answer.
    """
    rng = np.random.default_rng(seed)
    basis = _basis(x, rng)
    z = basis(x)
    several = labels.ndim == 2
    tried = _trials(several, weights, method)
    losses = _cross_validated(z, labels, k, weights, groups, tried, rng, seed) if len(tried) > 1 else [0.0]
    name, setting = tried[int(np.argmin(losses))]
    chosen: dict[str, Any] = {"method": name, "setting": setting}
    chosen["log_loss"] = {f"{one} {value:g}": loss for (one, value), loss in zip(tried, losses, strict=True)}
    fitted = _fit(z, labels, k, weights, name, [setting])[0]
    return basis.folded(*fitted, chosen)


def _basis(x: Floats, rng: np.random.Generator) -> _Basis:
    rows = x if len(x) <= _FIT_ROWS else x[np.sort(rng.choice(len(x), _FIT_ROWS, replace=False))]
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    varies = deviation > _SPREAD
    inverse = np.where(varies, 1 / np.maximum(deviation, _SPREAD), 0).astype(np.float32)
    if not varies.any():
        return _Basis(mean, np.zeros((x.shape[1], 1), dtype=np.float32))
    axes = np.zeros((x.shape[1], 0), dtype=np.float32)
    inner = principal_axes(((rows - mean) * inverse)[:, varies], rng)
    axes = np.zeros((x.shape[1], inner.shape[1]), dtype=np.float32)
    axes[varies] = inner * inverse[varies, None]
    spread = np.sqrt(((rows[:: max(1, len(rows) // _TRIAL_ROWS)] - mean) @ axes).var(axis=0).mean())
    return _Basis(mean, axes / np.float32(max(float(spread), _SPREAD)))


def _trials(several: bool, weights: npt.NDArray[np.float64], method: str) -> list[tuple[str, float]]:
    """Methods with their settings. A discriminant knows no weights of rows."""
    logistic = [("logistic", ridge) for ridge in _RIDGES]
    discriminant = [("discriminant", shrinkage) for shrinkage in _SHRINKAGES]
    if several or method == "logistic" or (method == "auto" and len(weights) and weights.min() < weights.max()):
        return logistic
    return discriminant if method == "discriminant" else discriminant + logistic


def _cross_validated(
    z: Floats, labels: Ints | Flags, k: int, weights: npt.NDArray[np.float64], groups: Ints,
    tried: Sequence[tuple[str, float]], rng: np.random.Generator, seed: int,
) -> list[float]:  # fmt: skip
    """Log loss of each trial on rows whose fold it was not learned from, each with its best temperature."""
    rows: npt.NDArray[Any] = np.arange(len(z))
    if len(rows) > _TRIAL_ROWS:
        rows = np.sort(rng.choice(len(z), _TRIAL_ROWS, replace=False))
    z, labels, weights = z[rows], labels[rows], weights[rows]
    y: Any = labels if labels.ndim == 1 else labels.argmax(axis=1)
    fold = assign_folds(y, groups[rows], _FOLDS, seed)
    found = []
    for name in dict.fromkeys(name for name, _ in tried):
        settings = [value for one, value in tried if one == name]
        scores = [np.zeros((len(z), k), dtype=np.float32) for _ in settings]
        for number in np.unique(fold):
            inside = fold == number
            fitted = _fit(z[~inside], labels[~inside], k, weights[~inside], name, settings)
            for answer, (weight, bias) in zip(scores, fitted, strict=True):
                answer[inside] = np.maximum(z[inside] @ weight + bias, -1e6)  # a class that the others lack
        found += [best_temperature(answer, labels, weights)[1] for answer in scores]
    return found


def _fit(
    z: Floats, labels: Ints | Flags, k: int, weights: npt.NDArray[np.float64], name: str, settings: Sequence[float]
) -> list[tuple[Any, Any]]:
    """Weights (d, k) and bias (k,) for each setting."""
    if name == "discriminant":
        scale = float(z.var(axis=0).mean())
        return [(one.weights, one.bias) for one in discriminants(z, labels.astype(np.int64), k, scale, settings)]
    found: list[tuple[Any, Any]] = []
    start: npt.NDArray[np.float64] = np.zeros((z.shape[1] + 1) * k)
    for ridge in sorted(settings, reverse=True):  # each begins where the stronger one ended
        start = _logistic(z, labels, k, weights.astype(np.float32), ridge, start)
        both = start.reshape(-1, k)
        found.append((both[:-1].astype(np.float32), both[-1].astype(np.float32)))
    return found[::-1]


def _logistic(
    z: Floats, labels: Ints | Flags, k: int, weights: Floats, ridge: float, start: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Weights and bias (d + 1, k), flat, of the least penalised log loss, by L-BFGS."""
    from scipy.optimize import minimize

    target = labels.astype(np.float32) if labels.ndim == 2 else np.eye(k, dtype=np.float32)[labels]
    total = float(weights.sum())

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        both = flat.reshape(-1, k)
        scores = z @ both[:-1].astype(np.float32) + both[-1].astype(np.float32)
        value, slope = _log_loss(scores, target, labels.ndim == 2)
        slope *= weights[:, None]
        gradient = np.empty_like(both)
        gradient[:-1] = (z.T @ slope).astype(np.float64) + ridge * both[:-1]
        gradient[-1] = slope.sum(axis=0, dtype=np.float64)
        penalty = 0.5 * ridge * float((both[:-1] ** 2).sum())
        summed = float((value * weights).sum(dtype=np.float64))
        return (summed + penalty) / total, gradient.ravel() / total

    options = {"maxiter": _STEPS, "gtol": _ENOUGH / k, "ftol": 1e-7, "maxcor": 20}
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x)


def _log_loss(scores: Floats, target: Floats, several: bool) -> tuple[Floats, Floats]:
    """(Loss of each row in nats, its derivative by the scores); rewrites `scores`."""
    if several:
        value = np.logaddexp(0, scores) - target * scores
        return value.sum(axis=1), sigmoid(scores) - target
    scores -= scores.max(axis=1, keepdims=True)
    own = (scores * target).sum(axis=1)
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    scores -= target
    return np.log(total[:, 0]) - own, scores


def best_temperature(scores: Floats, labels: Ints | Flags, weights: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The factor on scores (N, K) under which the labels are most likely, and the mean log loss with it, in nats."""
    from scipy.optimize import minimize_scalar

    several = labels.ndim == 2
    target = labels.astype(np.float32) if several else np.eye(scores.shape[1], dtype=np.float32)[labels]
    total = max(float(weights.sum()), _LEAST)

    def loss(power: float) -> float:
        value, _ = _log_loss(scores * np.float32(np.exp(power)), target, several)
        return float((value * weights).sum()) / total

    found = minimize_scalar(loss, bounds=(-9, 6), method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def sigmoid(scores: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)), dtype=np.float32)


def softmax(scores: Floats) -> Floats:
    """Rows that sum to one."""
    exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), dtype=np.float32)
