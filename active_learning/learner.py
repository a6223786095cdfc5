"""What a model would know from the labels that there are: class probabilities of all items, from their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.audits.labels.probe import assign_folds, principal_components
from datasetops.errors import ModelError, NotFoundError, did_you_mean
from datasetops.preannotate.discriminant import Floats, Ints, best_temperature, discriminants, softmax
from datasetops.preannotate.fewshot import Learned, learn

FitPredict = Callable[..., Floats]

_SHRINKAGES: Final = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
_FOLDS: Final = 10
_FOLD_ROWS: Final = 100  # labels of a fold at most: the work of a fold rises with the square of their number
_TRIAL_ROWS: Final = 4_000  # labels that shrinkage and temperature are chosen on: more hardly change the choice
_FEWEST: Final = 10  # labels whose class has others, from which shrinkage and temperature are chosen
_UNCHOSEN: Final = 0.9  # shrinkage with fewer
_TILT: Final = 0.25  # power of a direction's variance that its values are scaled with


@dataclass(frozen=True)
class Learner:
    """`fit_predict(embeddings (N, D), labels (N,), k, *, groups=None, seed=0)` → probabilities (N, K) float32.

    Labels are class numbers in [0, k), -1 where nobody labeled; groups are numbers, negative for none. Rows sum to one;
    a class without labels has 0; rows of embeddings that are not finite have NaN. Labeled items are judged without their
    own label and those of their group. The same arguments give the same answer. Raises ModelError where fewer than two
    classes have labels.
    """

    name: str
    title: str
    fit_predict: FitPredict


def features(embeddings: npt.NDArray[Any], seed: int = 0) -> Floats:
    """What learners and strategies look at: rows of equal length (N, at most 768), NaN where it was.

    Principal components of the standardised columns, the stronger ones amplified: with few labels what images differ in
    most is the best guess at what classes differ in. Worked out once for all labels to come; needs none.
    """
    usable = np.isfinite(embeddings.sum(axis=1, dtype=np.float64))
    found = principal_components(embeddings if usable.all() else embeddings[usable], seed)
    found *= found.var(axis=0) ** _TILT
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    found /= np.maximum(lengths, np.finfo(np.float32).tiny)
    if usable.all():
        return found
    out = np.full((len(embeddings), found.shape[1]), np.nan, dtype=np.float32)
    out[usable] = found
    return out


def probe(embeddings: npt.NDArray[Any], labels: Ints, k: int, *, groups: Ints | None = None, seed: int = 0) -> Learned:
    """A linear discriminant that learns from labeled items alone; shrinkage and temperature by cross-validation.

    Gaussian classes of one covariance, shrunk towards a multiple of the identity: Friedman, "Regularized discriminant
    analysis", JASA 1989. What a fold would answer without its items follows in closed form from one decomposition.
    """
    if len(embeddings) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise ValueError("embeddings, labels and groups must have the same length")
    if len(labels) and not (labels.min() >= -1 and labels.max() < k):
        raise ValueError(f"labels: expected integers from -1 to {k - 1}")
    finite = np.isfinite(embeddings.sum(axis=1, dtype=np.float64))
    known = np.flatnonzero(finite & (labels >= 0))
    y = labels[known]
    if len(np.unique(y)) < 2:
        raise ModelError(
            f"There is nothing to learn from: {len(y)} usable labels of {len(np.unique(y))} classes.",
            remedy="Label at least two images of each class, of at least two classes; ten of each are a good start.",
        )
    scale = _variance(embeddings, finite)
    fold = assign_folds(y, None if groups is None else _own_group(groups)[known], _fold_count(len(y)), seed)
    left_out = _LeftOut(embeddings[known].astype(np.float64), y, fold, k, scale)
    shrinkage, factor, loss = _chosen(left_out, y, fold, k)
    scores = discriminants(embeddings[known], y, k, scale, [shrinkage])[0].scores(embeddings)
    if np.isnan(factor):
        factor = 1 / max(float(scores[finite][:, np.unique(y)].std()), 1e-12)  # on the unsure side
    scores[known] = left_out.scores(shrinkage, np.unique(fold))
    with np.errstate(invalid="ignore"):
        probabilities = softmax(scores * np.float32(factor))
    probabilities[~finite] = np.nan
    return Learned(probabilities, loss, {"shrinkage": shrinkage, "temperature": 1 / factor})


def _variance(embeddings: npt.NDArray[Any], finite: npt.NDArray[np.bool_]) -> float:
    """Mean variance of the columns, over some of the rows."""
    rows = np.flatnonzero(finite)
    return float(embeddings[rows[:: -(-len(rows) // _TRIAL_ROWS)]].var(axis=0, dtype=np.float64).mean())


def _own_group(groups: Ints) -> Ints:
    """Each item without a group in one of its own."""
    return np.where(groups >= 0, groups, groups.max(initial=0) + 1 + np.arange(len(groups)))


def _fold_count(labels: int) -> int:
    return max(_FOLDS, -(-labels // _FOLD_ROWS))


def _chosen(left_out: _LeftOut, y: Ints, fold: Ints, k: int) -> tuple[float, float, float]:
    """Shrinkage and temperature factor of the lowest log loss, and that; NaN where there are too few labels."""
    trial = np.flatnonzero(np.cumsum(np.bincount(fold)) <= max(_TRIAL_ROWS, np.bincount(fold)[0]))
    rows = np.isin(fold, trial)
    counts = np.zeros((k, int(fold.max()) + 1), dtype=np.int64)
    np.add.at(counts, (y, fold), 1)
    judged = rows & (counts[y, fold] < counts.sum(axis=1)[y])  # nothing is known of a class without items elsewhere
    if judged.sum() < _FEWEST:
        return _UNCHOSEN, float("nan"), float("nan")
    tried = []
    for shrinkage in _SHRINKAGES:
        factor, loss = best_temperature(left_out.scores(shrinkage, trial)[judged[rows]], y[judged])
        tried.append((loss, shrinkage, factor))
    loss, shrinkage, factor = min(tried)
    return shrinkage, factor, loss


class _LeftOut:
    """Scores of labeled rows x (L, D) by discriminants that are learned from the rows of the other folds.

    With S = xᵀx + λ, what is left of it without a fold and without the spread of the class means is S - VᵀV, where V
    has the fold's rows and the means of the others times the root of their number. All that scores ask for is
    V (S - VᵀV)⁻¹ Vᵀ = B (1 - B)⁻¹ with B = V S⁻¹ Vᵀ, so that one decomposition of xᵀx does for all folds and all λ.
    """

    def __init__(self, x: npt.NDArray[np.float64], y: Ints, fold: Ints, k: int, scale: float) -> None:
        small = len(x) < x.shape[1]
        values, vectors = np.linalg.eigh(x @ x.T if small else x.T @ x)
        kept = values > max(values[-1] * 1e-9, np.finfo(np.float32).tiny)
        self._values = values[kept]
        self._rows = vectors[:, kept] * np.sqrt(self._values) if small else x @ vectors[:, kept]
        self._y, self._fold, self._k, self._scale = y, fold, k, max(scale, 1e-12)
        sums = np.zeros((int(fold.max()) + 1, k, len(self._values)))
        self._counts = np.zeros(sums.shape[:2], dtype=np.int64)
        np.add.at(sums, (fold, y), self._rows)
        np.add.at(self._counts, (fold, y), 1)
        self._sums = sums

    def scores(self, shrinkage: float, folds: Ints) -> Floats:
        """(rows of these folds, K), in the order of the rows; -inf for classes without labels in the other folds."""
        out = np.full((len(self._y), self._k), -np.inf, dtype=np.float32)
        all_sums, all_counts = self._sums.sum(axis=0), self._counts.sum(axis=0)
        for number in folds:
            inside = np.flatnonzero(self._fold == number)
            count = all_counts - self._counts[number]
            there = np.flatnonzero(count)
            freedom = max(1, int(count.sum()) - len(there))
            ridge = shrinkage / (1 - shrinkage) * self._scale * freedom
            roots = np.sqrt(count[there])
            means = (all_sums - self._sums[number])[there] / roots[:, None]  # times the root of their number
            stacked = np.concatenate([self._rows[inside], means]) / np.sqrt(self._values + ridge)
            inner = stacked @ stacked.T
            between = np.linalg.solve(np.eye(len(inner)) - inner, inner[:, len(inside) :])
            to_means, own = between[: len(inside)] / roots, np.diagonal(between[len(inside) :]) / count[there]
            prior = np.log((count[there] + 1) / (count.sum() + len(count)))
            out[np.ix_(inside, there)] = (to_means - 0.5 * own) * (freedom / (1 - shrinkage)) + prior
        return out[np.isin(self._fold, folds)]


def _probe(embeddings: npt.NDArray[Any], labels: Ints, k: int, *, groups: Ints | None = None, seed: int = 0) -> Floats:
    return probe(embeddings, labels, k, groups=groups, seed=seed).probabilities


def _fewshot(
    embeddings: npt.NDArray[Any], labels: Ints, k: int, *, groups: Ints | None = None, seed: int = 0
) -> Floats:
    own = None if groups is None else _own_group(groups)
    return learn(embeddings, labels, k, groups=own, seed=seed).probabilities


_ALL: Final = (
    Learner("probe", "a linear classifier that learns from labeled images alone", _probe),
    Learner("fewshot", "a linear classifier that also draws on what unlabeled images look like", _fewshot),
)
LEARNERS: Final[Mapping[str, Learner]] = {learner.name: learner for learner in _ALL}


def find_learner(name: str) -> Learner:
    """Raises NotFoundError that lists them."""
    if name not in LEARNERS:
        raise NotFoundError(f"There is no learner {name!r}.", remedy=did_you_mean(name, LEARNERS, noun="learners"))
    return LEARNERS[name]
