"""Out-of-sample class probabilities from embeddings and the labels under suspicion, by cross-validation.

The mean of two classifiers that err differently: a linear discriminant with a shrunk covariance (Friedman, "Regularized
discriminant analysis", JASA 1989) and kernel ridge regression on random landmarks (Williams and Seeger, "Using the
Nyström method to speed up kernel machines", NIPS 2000). Shrinkage, ridge and temperature are chosen by log loss on the
given labels, noise and all; nothing else is tuned. Embeddings may be used of all items at once, labels never: those of
an item's fold have no part in its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
# (rows of one fold, settings) → for each setting their scores (rows, classes), learned from all other rows
_FoldScorer: TypeAlias = Callable[[Ints, Sequence[float]], list[Floats]]

FOLDS: Final = 10
_COMPONENTS: Final = 768
_FIT_ROWS: Final = 20_000  # principal components are fitted on at most so many items
_BLOCK: Final = 16_384
_SHRINKAGES: Final = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_TRIAL_ROWS: Final = 2_000  # a setting is chosen on the first folds that hold so many items together
_TEMPERATURE_ROWS: Final = 50_000
_LANDMARKS: Final = 4_000
_FEWEST_LANDMARKS: Final = 500
_KERNEL_CELLS: Final = 2e8  # items times landmarks: 0.8 GB; with more items there are fewer landmarks


@dataclass(frozen=True)
class Probe:
    """`probabilities` (N, K) float32, rows sum to one; a row is NaN where an item could not be judged.

    `log_loss` is that of the given labels of the judged items, NaN where there are none. `folds` (N,) is the fold in
    which an item was judged, −1 for none. `chosen` has shrinkage, ridge, a temperature of each, and one of their mean.
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

    embeddings (N, D); labels (N,) in [0, n_classes); groups (N,) of any sortable kind. A class that no judged item was
    given has probability 0. Not judged are items whose embedding has a NaN, and those whose class has no item outside
    their fold. The same arguments give the same answer. Raises ValueError for labels out of range.
    """
    if len(embeddings) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise ValueError("embeddings, labels and groups must have the same length")
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ValueError(f"labels: expected integers in [0, {n_classes})")
    if folds < 2:
        raise ValueError(f"folds: expected at least 2, got {folds}")
    probabilities = np.full((len(labels), n_classes), np.nan, dtype=np.float32)
    where = np.full(len(labels), -1, dtype=np.int64)
    chosen: dict[str, float] = {}
    usable = _finite_rows(embeddings)
    present, y = np.unique(labels[usable], return_inverse=True)
    fold = assign_folds(y, None if groups is None else np.asarray(groups)[usable], folds, seed)
    seen = _class_seen_elsewhere(y, fold, len(present))
    if seen.any():
        z = principal_components(embeddings if len(usable) == len(labels) else embeddings[usable], seed)
        answers = [_discriminant(z, y, fold, chosen)]
        if landmarks := landmark_count(len(z)):
            answers.append(_kernel_ridge(z, y, fold, landmarks, seed, chosen))
        # Where the two differ their mean is less sure than either is with reason, hence a temperature for it too.
        mixed = np.log(np.maximum(sum(answers[1:], start=answers[0]) / len(answers), 1e-12))
        mixed = _at_best_temperature(mixed, y, "temperature", chosen)
        judged = usable[seen]
        probabilities[judged] = 0.0
        probabilities[np.ix_(judged, present)] = mixed[seen]
        where[judged] = fold[seen]
    loss = _log_loss(mixed[seen], y[seen]) if seen.any() else float("nan")
    return Probe(probabilities, loss, where, chosen)


def assign_folds(y: Ints, groups: npt.NDArray[Any] | None, folds: int, seed: int) -> Ints:
    """A fold (N,) for each item: groups whole, single items dealt out class by class; fewer folds than asked for where
    there are fewer groups."""
    codes = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes)
    folds = min(folds, len(sizes))
    order = np.random.default_rng(seed).permutation(len(sizes))
    first = np.empty(len(sizes), dtype=np.int64)
    first[codes[::-1]] = y[::-1]  # the class of a group's first item
    order = order[np.lexsort((first[order], -sizes[order]))]
    home = np.empty(len(sizes), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    several = int((sizes > 1).sum())
    for group in order[:several]:  # large groups first, each to the emptiest fold
        home[group] = load.argmin()
        load[home[group]] += sizes[group]
    singles = order[several:]
    home[singles] = np.argsort(load, kind="stable")[np.arange(len(singles)) % max(1, folds)]
    return home[codes]


def _finite_rows(embeddings: Floats) -> Ints:
    blocks = range(0, len(embeddings), _BLOCK)
    finite = [np.isfinite(embeddings[start : start + _BLOCK]).all(axis=1) for start in blocks]
    return np.flatnonzero(np.concatenate(finite)) if finite else np.empty(0, dtype=np.int64)


def _class_seen_elsewhere(y: Ints, fold: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether an item's class has items in other folds: without them nothing is known of it when the item is judged."""
    counts = np.zeros((k, int(fold.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (y, fold), 1)
    seen: npt.NDArray[np.bool_] = counts[y, fold] < counts.sum(axis=1)[y]
    return seen


def principal_components(embeddings: Floats, seed: int) -> Floats:
    """Standardised and projected on at most 768 principal components, which need no labels: (N, D) → (N, d) float32.

    Of many columns the components are approximate (Halko, Martinsson and Tropp, SIAM Review 53, 2011).
    """
    rng = np.random.default_rng(seed)
    rows = embeddings
    if len(rows) > _FIT_ROWS:
        rows = rows[np.sort(rng.choice(len(rows), _FIT_ROWS, replace=False))]
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    varies = deviation > 1e-6
    if not varies.any():
        return np.zeros((len(embeddings), 1), dtype=np.float32)
    mean, deviation = mean[varies], deviation[varies]
    axes = principal_axes((rows[:, varies] - mean) / deviation, rng)
    out = np.empty((len(embeddings), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        out[start : start + _BLOCK] = (embeddings[start : start + _BLOCK][:, varies] - mean) / deviation @ axes
    return out


def principal_axes(x: Floats, rng: np.random.Generator) -> Floats:
    """Directions (D, d) of the largest variance of centred rows (n, D), largest first."""
    n, d = x.shape
    size = min(_COMPONENTS, n, d)
    if min(n, d) <= 2 * _COMPONENTS:
        if n < d:  # the same directions from the smaller of the two matrices
            values, left = np.linalg.eigh(x @ x.T)
            axes = x.T @ (left / np.sqrt(np.maximum(values, 1e-12)))
        else:
            values, axes = np.linalg.eigh(x.T @ x)
    else:
        basis = rng.standard_normal((d, size + 32), dtype=np.float32)
        for _ in range(3):
            basis = np.linalg.qr(x.T @ (x @ basis))[0]
        projected = x @ basis
        values, rotation = np.linalg.eigh(projected.T @ projected)
        axes = basis @ rotation
    keep = np.flatnonzero(values > 1e-5 * values[-1])[-size:]
    return np.ascontiguousarray(axes[:, keep[::-1]], dtype=np.float32)


def _discriminant(z: Floats, y: Ints, fold: Ints, chosen: dict[str, float]) -> Floats:
    """Posteriors (N, K) of Gaussian classes of one covariance, shrunk towards a multiple of the identity."""
    sums, counts = _sums_by_fold(z, y, fold)
    all_sums, all_counts, scatter = sums.sum(axis=0), counts.sum(axis=0), z.T @ z

    def score(rows: Ints, shrinkages: Sequence[float]) -> list[Floats]:
        test = z[rows]
        n = all_counts - counts[fold[rows[0]]]
        means = (all_sums - sums[fold[rows[0]]]) / np.maximum(n, 1)[:, None]
        within = (scatter - test.T @ test - (means.T * n) @ means) / max(1, n.sum())
        values, axes = np.linalg.eigh(within)
        values = np.maximum(values, 0)
        items, centres = test @ axes, means @ axes
        prior = np.where(n > 0, np.log(np.maximum(n, 1) / max(1, n.sum())), -np.inf).astype(np.float32)
        answers = []
        for shrinkage in shrinkages:
            weight = 1 / np.maximum((1 - shrinkage) * values + shrinkage * values.mean(), 1e-6)
            answers.append(items @ (centres * weight).T - 0.5 * (centres**2 * weight).sum(axis=1) + prior)
        return answers

    return _out_of_fold(score, _SHRINKAGES, y, fold, len(all_counts), "shrinkage", chosen)


def landmark_count(n: int) -> int:
    """0 where the items are too many for enough landmarks."""
    count = min(n, _LANDMARKS, int(_KERNEL_CELLS / n))
    return count if count >= min(n, _FEWEST_LANDMARKS) else 0


def _kernel_ridge(z: Floats, y: Ints, fold: Ints, landmarks: int, seed: int, chosen: dict[str, float]) -> Floats:
    """Posteriors (N, K) from least squares on the classes' indicators, in the space of a Gaussian kernel."""
    from scipy.linalg import cho_factor, cho_solve

    features = kernel_features(z, landmarks, seed)
    sums, counts = _sums_by_fold(features, y, fold)
    all_sums, all_counts, gram = sums.sum(axis=0), counts.sum(axis=0), features.T @ features

    def score(rows: Ints, ridges: Sequence[float]) -> list[Floats]:
        test = features[rows]
        n = all_counts - counts[fold[rows[0]]]
        by_class = all_sums - sums[fold[rows[0]]]
        mean, prior = by_class.sum(axis=0) / max(1, n.sum()), (n / max(1, n.sum())).astype(np.float32)
        matrix = gram - test.T @ test - n.sum() * np.outer(mean, mean)
        target = by_class.T - np.outer(mean, n)
        diagonal = np.diag_indices_from(matrix)
        unseen = np.where(n > 0, 0, -np.inf).astype(np.float32)
        answers = []
        for ridge in ridges:
            regular = matrix.copy()
            regular[diagonal] += ridge
            weights = cho_solve(cho_factor(regular, overwrite_a=True, check_finite=False), target, check_finite=False)
            answers.append(((test - mean) @ weights + prior + unseen).astype(np.float32))
        return answers

    return _out_of_fold(score, _RIDGES, y, fold, len(all_counts), "ridge", chosen)


def kernel_features(z: Floats, count: int, seed: int) -> Floats:
    """Features (N, count) whose inner products are close to a Gaussian kernel of the median width."""
    from scipy.linalg import cholesky, solve_triangular

    landmarks = z[np.sort(np.random.default_rng(seed).permutation(len(z))[:count])]
    own = (landmarks**2).sum(axis=1)
    squared = (z**2).sum(axis=1)[:, None] + own[None, :] - 2 * z @ landmarks.T
    np.maximum(squared, 0, out=squared)
    width = np.float32(np.median(squared[:: max(1, len(z) // 1000), :: max(1, count // 1000)])) or np.float32(1)
    kernel = np.exp(squared / -width, out=squared)
    between = np.exp(np.maximum(own[:, None] + own[None, :] - 2 * landmarks @ landmarks.T, 0) / -width)
    between[np.diag_indices_from(between)] += 1e-4  # landmarks may be copies of each other
    factor = cholesky(between.astype(np.float64), lower=True).astype(np.float32)
    return np.ascontiguousarray(solve_triangular(factor, kernel.T, lower=True, check_finite=False).T)


def _sums_by_fold(x: Floats, y: Ints, fold: Ints) -> tuple[Floats, Ints]:
    """Sums (F, K, d) and numbers (F, K) of the rows of each fold and class."""
    from scipy.sparse import csr_array

    k, folds = int(y.max()) + 1, int(fold.max()) + 1
    cell = fold * k + y
    indicator = csr_array((np.ones(len(y), dtype=np.float32), (cell, np.arange(len(y)))), shape=(folds * k, len(y)))
    counts = np.bincount(cell, minlength=folds * k).reshape(folds, k)
    return np.asarray(indicator @ x).reshape(folds, k, -1), counts


def _out_of_fold(
    score: _FoldScorer, settings: Sequence[float], y: Ints, fold: Ints, k: int, name: str, chosen: dict[str, float]
) -> Floats:
    """Posteriors (N, k) of the setting and the temperature with the lowest log loss on the given labels."""
    folds = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    trial = 1 + int(np.searchsorted(np.cumsum([len(rows) for rows in folds]), _TRIAL_ROWS))
    tried = [score(rows, settings) for rows in folds[:trial]]
    tried_y = y[np.concatenate(folds[:trial])]
    losses = [_tempered(np.concatenate([one[i] for one in tried]), tried_y)[1] for i in range(len(settings))]
    best = int(np.argmin(losses))
    scores = np.empty((len(y), k), dtype=np.float32)
    for rows, answers in zip(folds, tried, strict=False):
        scores[rows] = answers[best]
    for rows in folds[trial:]:
        scores[rows] = score(rows, settings[best : best + 1])[0]
    chosen[name] = settings[best]
    return _at_best_temperature(scores, y, f"{name}_temperature", chosen)


def _at_best_temperature(scores: Floats, y: Ints, name: str, chosen: dict[str, float]) -> Floats:
    some = slice(None, None, -(-len(y) // _TEMPERATURE_ROWS))
    factor = _tempered(scores[some], y[some])[0]
    chosen[name] = 1 / factor
    return _softmax(scores * np.float32(factor))


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
