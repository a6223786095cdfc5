"""Out-of-sample class probabilities from embeddings and the labels under suspicion, by cross-validation.

The mean of two classifiers that err differently: a linear discriminant with a shrunk covariance (Friedman, "Regularized
discriminant analysis", JASA 1989) and kernel ridge regression on random landmarks (Williams and Seeger, "Using the
Nyström method to speed up kernel machines", NIPS 2000). Shrinkage, ridge and temperature are chosen by log loss on the
given labels, noise and all; nothing else is tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

FOLDS: Final = 10
_COMPONENTS: Final = 768
_LANDMARKS: Final = 4000
_KERNEL_CELLS: Final = 2e8  # items times landmarks: 0.8 GB; with more items there are fewer landmarks
_FEWEST_LANDMARKS: Final = 500
_SHRINKAGES: Final = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_FIT_ROWS: Final = 20_000  # principal components are fitted on at most so many items


@dataclass(frozen=True)
class Probe:
    """`probabilities` (N, K), rows sum to one, NaN for items without an embedding; a class that nobody was given has 0.

    `log_loss` is that of the given labels. `folds` (N,) is the fold in which an item was judged, −1 for none.
    """

    probabilities: Floats
    log_loss: float
    folds: Ints
    chosen: dict[str, float]


def out_of_sample_probabilities(
    embeddings: Floats,
    labels: Ints,
    *,
    groups: npt.NDArray[Any] | None = None,
    n_classes: int,
    seed: int = 0,
    folds: int = FOLDS,
) -> Probe:
    """Judge each item by classifiers that saw neither its label nor that of any item of its group.

    embeddings (N, D), rows with NaN are left out; labels (N,) in [0, n_classes); groups (N,) of any hashable kind.
    Raises ValueError where fewer than two classes or two groups are left to learn from.
    """
    if len(embeddings) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise ValueError("embeddings, labels and groups must have the same length")
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ValueError(f"labels: expected integers in [0, {n_classes})")
    usable = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
    present, y = np.unique(labels[usable], return_inverse=True)
    if len(present) < 2:
        raise ValueError("labels: fewer than two classes have usable items")
    fold = assign_folds(y, None if groups is None else np.asarray(groups)[usable], folds, seed)
    z = principal_components(embeddings[usable], seed)
    chosen: dict[str, float] = {}
    discriminant = _discriminant_scores(z, y, len(present), fold, chosen)
    mixed = discriminant
    kernel = _kernel_scores(z, y, len(present), fold, seed, chosen)
    if kernel is not None:
        mixed = (discriminant + kernel) / 2
    mixed /= mixed.sum(axis=1, keepdims=True)
    probabilities = np.full((len(labels), n_classes), np.nan, dtype=np.float32)
    probabilities[usable] = 0.0
    probabilities[np.ix_(usable, present)] = mixed
    where = np.full(len(labels), -1, dtype=np.int64)
    where[usable] = fold
    return Probe(probabilities, _log_loss(mixed, y), where, chosen)


def assign_folds(y: Ints, groups: npt.NDArray[Any] | None, folds: int, seed: int) -> Ints:
    """A fold for each item: groups whole, folds of nearly equal size, classes spread over them at random.

    Raises ValueError where there are fewer than two groups.
    """
    codes = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(codes.max()) + 1
    folds = min(folds, count)
    if folds < 2:
        raise ValueError("groups: all items are in one group, so none can be judged by the others")
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(count)
    if sizes.max() == 1:
        classes = y[np.argsort(codes, kind="stable")][order]
        order = order[np.argsort(classes, kind="stable")]  # deal each class out in turn
        home = np.empty(count, dtype=np.int64)
        home[order] = np.arange(count) % folds
        return home[codes]
    order = order[np.argsort(-sizes[order], kind="stable")]
    home = np.empty(count, dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    for group in order:
        home[group] = load.argmin()
        load[home[group]] += sizes[group]
    return home[codes]


def principal_components(embeddings: Floats, seed: int) -> Floats:
    """Standardised and projected on at most 768 principal components, which need no labels: (N, D) → (N, d) float32."""
    from sklearn.utils.extmath import randomized_svd

    rows = embeddings
    if len(rows) > _FIT_ROWS:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), _FIT_ROWS, replace=False))]
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    varies = deviation > 1e-6
    if not varies.any():
        return np.zeros((len(embeddings), 1), dtype=np.float32)
    mean, deviation = mean[varies], deviation[varies]
    x = (rows[:, varies] - mean) / deviation
    size = min(_COMPONENTS, *x.shape)
    _, values, axes_t = randomized_svd(x, size, n_oversamples=128, n_iter=2, random_state=seed)
    axes = np.ascontiguousarray(axes_t[values > 1e-4 * values[0]].T)
    out = np.empty((len(embeddings), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(embeddings), 65_536):
        block = (embeddings[start : start + 65_536][:, varies] - mean) / deviation
        out[start : start + 65_536] = block @ axes
    return out


def _discriminant_scores(z: Floats, y: Ints, k: int, fold: Ints, chosen: dict[str, float]) -> Floats:
    one_hot = np.eye(k, dtype=np.float32)[y]
    scores = np.zeros((len(_SHRINKAGES), len(z), k), dtype=np.float32)
    for number in np.unique(fold):
        test = fold == number
        counts = one_hot[~test].sum(axis=0)
        means = (one_hot[~test].T @ z[~test]) / np.maximum(counts, 1)[:, None]
        rest = z[~test] - means[y[~test]]
        values, axes = np.linalg.eigh(rest.T @ rest / max(1, len(rest)))
        prior = np.log((counts + 1) / (counts.sum() + k))
        items, centres = z[test] @ axes, means @ axes
        for i, shrinkage in enumerate(_SHRINKAGES):
            weight = 1 / np.maximum((1 - shrinkage) * values + shrinkage * values.mean(), 1e-6)
            scores[i][test] = items @ (centres * weight).T - 0.5 * (centres**2 * weight).sum(axis=1) + prior
    return _best(scores, _SHRINKAGES, y, chosen, "shrinkage")


def _kernel_scores(z: Floats, y: Ints, k: int, fold: Ints, seed: int, chosen: dict[str, float]) -> Floats | None:
    """None where the items are too many for enough landmarks."""
    from scipy.linalg import cho_factor, cho_solve

    count = min(len(z), _LANDMARKS, int(_KERNEL_CELLS / max(1, len(z))))
    if count < min(len(z), _FEWEST_LANDMARKS):
        return None
    features = _kernel_features(z, count, seed)
    one_hot = np.eye(k, dtype=np.float32)[y]
    gram = features.T @ features
    parts = []
    for number in np.unique(fold):
        test = fold == number
        inside = features[test]
        n = int((~test).sum())
        mean, prior = features[~test].mean(axis=0), one_hot[~test].mean(axis=0)
        target = features[~test].T @ one_hot[~test] - n * np.outer(mean, prior)
        parts.append((test, gram - inside.T @ inside - n * np.outer(mean, mean), target, mean, prior))

    def solve(part: tuple[Any, ...], ridge: float) -> Floats:
        test, matrix, target, mean, prior = part
        regular = matrix + ridge * np.eye(len(matrix), dtype=np.float32)
        weights = cho_solve(cho_factor(regular, overwrite_a=True, check_finite=False), target, check_finite=False)
        answer: Floats = (features[test] - mean) @ weights + prior
        return answer

    test = parts[0][
        0
    ]  # the ridge is chosen on one fold: the others differ little, and each trial costs a factorisation
    trials = [solve(parts[0], ridge) for ridge in _RIDGES]
    ridge = _RIDGES[int(np.argmin([_tempered(trial, y[test])[1] for trial in trials]))]
    scores = np.zeros((1, len(z), k), dtype=np.float32)
    for part in parts:
        scores[0][part[0]] = solve(part, ridge)
    chosen["ridge"] = ridge
    return _best(scores, (ridge,), y, chosen, "ridge")


def _kernel_features(z: Floats, count: int, seed: int) -> Floats:
    """Features (N, count) whose inner products are close to a Gaussian kernel of the median width."""
    from scipy.linalg import cholesky, solve_triangular

    landmarks = z[np.sort(np.random.default_rng(seed).permutation(len(z))[:count])]
    own = (landmarks**2).sum(axis=1)
    squared = (z**2).sum(axis=1)[:, None] + own[None, :] - 2 * z @ landmarks.T
    np.maximum(squared, 0, out=squared)
    width = float(np.median(squared[:: max(1, len(z) // 1000), :: max(1, count // 1000)])) or 1.0
    kernel = np.exp(squared / -width, out=squared)
    between = np.exp(-np.maximum(own[:, None] + own[None, :] - 2 * landmarks @ landmarks.T, 0) / width)
    factor = cholesky(between.astype(np.float64) + 1e-4 * np.eye(count), lower=True).astype(np.float32)
    features: Floats = solve_triangular(factor, kernel.T, lower=True, check_finite=False).T
    return np.ascontiguousarray(features)


def _best(scores: Floats, settings: Sequence[float], y: Ints, chosen: dict[str, float], name: str) -> Floats:
    """Posteriors of the setting and temperature with the lowest log loss on the given labels."""
    fits = [_tempered(score, y) for score in scores]
    best = int(np.argmin([loss for _, loss in fits]))
    chosen |= {name: settings[best], f"{name}_temperature": fits[best][0]}
    return _softmax(scores[best] * fits[best][0])


def _tempered(scores: Floats, y: Ints) -> tuple[float, float]:
    """(factor, log loss) of the factor on the scores under which the given labels are most likely."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda t: _log_loss(_softmax(scores * np.float32(np.exp(t))), y), bounds=(-6, 6), method="bounded"
    )
    return float(np.exp(found.x)), float(found.fun)


def _softmax(scores: Floats) -> Floats:
    exponent = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = exponent / exponent.sum(axis=1, keepdims=True)
    return result


def _log_loss(probabilities: Floats, y: Ints) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-12)).mean())
