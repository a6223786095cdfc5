"""What several annotators say together, each trusted as far as the others bear them out.

An answer is one row of parallel arrays `items`, `annotators`, `labels` (N,), integers from 0; whoever did not look at an
item has no row for it, and nothing is ever as large as items times annotators.

`dawid_skene` needs the answers alone (Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the
EM algorithm", Applied Statistics 28, 1979). `crowdlab` weighs a model's opinion too (Goh, Tkachenko and Mueller,
"CROWDLAB: Supervised learning to infer consensus labels and quality scores for data with multiple annotators", 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_STRENGTHS: Final = (100.0, 30.0, 10.0, 5.0, 2.0)  # from "all are alike" to "each is judged by their own answers"
_WEIGHTS: Final = np.geomspace(1.0, 0.05, 13)
_TRIAL_ANSWERS: Final = 20_000  # strength and weight are chosen by how well about so many are foretold
_TRIAL_ROUNDS: Final = 10
_TOLERANCE: Final = 1e-5  # mean change of an item's posterior in a round
_MOST_ROUNDS: Final = 500
_RARE: Final = 0.01  # answers added to each cell of the crowd's matrix: nothing is impossible
_CELLS: Final = 2**22  # answers times classes at a time
_LEAST_WEIGHT: Final = 1e-6  # of an annotator or a model; part of CROWDLAB's definition


@dataclass(frozen=True)
class DawidSkene:
    """`posterior` (I, K), rows sum to one; `class_prior` (K,), the shares of the majority's labels.

    `log_likelihood` is that of the answers, `strength` how far annotators are taken to be alike. Answers to one item err
    together, so `posterior` is far too sure: in `sober` (I, K) each answer counts `weight` in (0, 1], and it is about as
    sure as it is right. Its most probable class is sometimes another; `consensus` is that of `posterior`.
    """

    posterior: Floats
    sober: Floats
    class_prior: Floats
    log_likelihood: float
    rounds: int
    converged: bool
    strength: float
    weight: float
    _crowd: _Crowd = field(repr=False)
    _matrices: _Matrices = field(repr=False)

    @property
    def consensus(self) -> Ints:
        """(I,), the most probable class."""
        result: Ints = self.posterior.argmax(axis=1)
        return result

    def confusion(self, annotators: Ints | None = None) -> Floats:
        """(A, K, K): how likely each annotator, of all or of those asked for, calls class i (row) class j (column)."""
        wanted = np.arange(len(self._matrices.answered)) if annotators is None else annotators
        return self._matrices.whole(self._crowd, wanted)

    def without_own(self) -> Iterator[tuple[Ints, Floats]]:
        """For some answers at a time their row numbers (n,) and the posterior (n, K) from the items' other answers."""
        log_prior = np.log(self.class_prior)
        for start, stop, rows in self._crowd.blocks():
            own = self._crowd.evidence(self._matrices, self.posterior, rows)
            at = self._crowd.items[rows] - start
            others = _summed(own, at, stop - start)[at] - own
            yield self._crowd.order[rows], _normal(self.weight * others + log_prior)[0]


def dawid_skene(
    items: Ints,
    annotators: Ints,
    labels: Ints,
    *,
    n_items: int | None = None,
    n_annotators: int | None = None,
    n_classes: int | None = None,
    strength: float | None = None,
) -> DawidSkene:
    """Posterior of each item's class, and each annotator's confusion matrix, by expectation maximisation.

    An annotator's matrix begins as `strength` answers to each class, spread as the whole crowd's are, so that a few
    answers say little about anyone. Unless it is given, it is the strength under which each answer is foretold best by
    the item's other answers; so is the weight. The class shares are those of the majority and stay. Repeated answers
    count each; an item without answers has the class shares. Raises ValueError for arrays of unequal length, codes out
    of range and no classes.
    """
    if not len(items) == len(annotators) == len(labels):
        raise ValueError("items, annotators and labels must have the same length")
    if strength is not None and not strength > 0:
        raise ValueError(f"strength: expected more than 0; got {strength}")
    k = _size("labels", labels, n_classes)
    if not k:
        raise ValueError("labels: there are no classes")
    shape = _size("items", items, n_items), _size("annotators", annotators, n_annotators), k
    crowd = _Crowd(items, annotators, labels, shape)
    posterior, best, rounds = crowd.majority, np.inf, 0
    for trial in _STRENGTHS if strength is None else ():
        fit = _fit(crowd, posterior, trial, _TRIAL_ROUNDS)
        loss, rounds = _foretold(crowd, fit)[0], rounds + fit.rounds
        if loss >= best:
            break
        posterior, best, strength = fit.posterior, loss, trial
    fit = _fit(crowd, posterior, _STRENGTHS[0] if strength is None else strength, _MOST_ROUNDS)
    weight = _foretold(crowd, fit)[1]
    sober = np.empty_like(fit.posterior)
    for start, stop, rows in crowd.blocks():
        evidence = _summed(crowd.evidence(fit.matrices, fit.posterior, rows), crowd.items[rows] - start, stop - start)
        sober[start:stop] = _normal(weight * evidence + np.log(crowd.prior))[0]
    return DawidSkene(
        fit.posterior,
        sober,
        crowd.prior,
        fit.log_likelihood,
        rounds + fit.rounds,
        fit.converged,
        fit.matrices.strength,
        weight,
        crowd,
        fit.matrices,
    )


class _Crowd:
    """The answers, sorted by item, and their codes: one for each annotator and label that occur together."""

    def __init__(self, items: Ints, annotators: Ints, labels: Ints, shape: tuple[int, int, int]) -> None:
        n, self.annotators, self.classes = shape
        self.order = np.argsort(items, kind="stable")
        self.items = items[self.order]
        codes, self.code = np.unique((annotators * self.classes + labels)[self.order], return_inverse=True)
        self.annotator, self.label = codes // self.classes, codes % self.classes
        self.answers = _sparse(self.items, self.code, (n, len(codes)))
        self.by_code = self.answers.T.tocsr()
        counts = _sparse(items, labels, (n, self.classes)).toarray()
        self.answered = counts.sum(axis=1) > 0
        self.majority = (counts + 1e-9) / (counts + 1e-9).sum(axis=1, keepdims=True)
        self.prior = self.majority[self.answered].sum(axis=0) + 1
        self.prior /= self.prior.sum()
        several = np.unique(self.items[1:][np.diff(self.items) == 0])  # items with two answers or more
        step = max(1, int(len(self.items) / _TRIAL_ANSWERS))
        self.trial = np.flatnonzero(np.isin(self.items, several[::step]))

    def blocks(self) -> Iterator[tuple[int, int, slice]]:
        """Some items at a time: the first, the one after the last, and the rows of their answers."""
        starts = np.searchsorted(self.items, np.arange(self.answers.shape[0] + 1))
        step = max(1, _CELLS // self.classes)
        cuts = np.unique([*np.searchsorted(starts, np.arange(0, len(self.items), step)), len(starts) - 1]).tolist()
        for start, stop in pairwise(cuts):
            yield start, stop, slice(int(starts[start]), int(starts[stop]))

    def evidence(self, matrices: _Matrices, posterior: Floats, rows: slice | Ints) -> Floats:
        """Log chance (n, K) of answers under each class, the annotator's matrix taken without the item in question."""
        own, code = posterior[self.items[rows]], self.code[rows]
        above = np.maximum(matrices.counts[code] - own, 0) + matrices.strength * matrices.crowd[self.label[code]]
        below = np.maximum(matrices.answered[self.annotator[code]] - own, 0) + matrices.strength
        result: Floats = np.log(above / below)
        return result


@dataclass(frozen=True)
class _Matrices:
    """Confusion matrices by what was answered.

    `counts` (C, K): how often each code was answered to items of each class; `answered` (A, K) the same by annotator;
    `crowd` (K, K) the chance of each label (row) under each class.
    """

    counts: Floats
    answered: Floats
    crowd: Floats
    strength: float

    @classmethod
    def learned(cls, crowd: _Crowd, posterior: Floats, strength: float) -> _Matrices:
        counts: Floats = crowd.by_code @ posterior
        together = _summed(counts, crowd.label, crowd.classes) + _RARE
        answered = _summed(counts, crowd.annotator, crowd.annotators)
        return cls(counts, answered, together / together.sum(axis=0), strength)

    def chance(self, crowd: _Crowd) -> Floats:
        """(C, K): how likely the annotator answers the label to an item of each class."""
        above = self.counts + self.strength * self.crowd[crowd.label]
        result: Floats = above / (self.answered[crowd.annotator] + self.strength)
        return result

    def whole(self, crowd: _Crowd, annotators: Ints) -> Floats:
        place = np.full(len(self.answered), -1)
        place[annotators] = np.arange(len(annotators))
        at = place[crowd.annotator]
        counts = np.zeros((len(annotators), *self.crowd.shape))
        counts[at[at >= 0], crowd.label[at >= 0]] = self.counts[at >= 0]
        counts = counts[place[annotators]] + self.strength * self.crowd
        result: Floats = (counts / counts.sum(axis=1, keepdims=True)).transpose(0, 2, 1)
        return result


@dataclass(frozen=True)
class _Fit:
    posterior: Floats
    matrices: _Matrices
    log_likelihood: float
    rounds: int
    converged: bool


def _fit(crowd: _Crowd, posterior: Floats, strength: float, most: int) -> _Fit:
    rounds, converged, likelihood = 0, False, np.log(crowd.prior)
    log_prior = np.log(crowd.prior)
    while not converged and rounds < most:
        rounds += 1
        matrices = _Matrices.learned(crowd, posterior, strength)
        updated, likelihood = _normal(crowd.answers @ np.log(matrices.chance(crowd)) + log_prior)
        change = np.abs(updated - posterior).sum() / 2 / max(1, len(posterior))
        posterior, converged = updated, bool(change <= _TOLERANCE)
    return _Fit(posterior, matrices, float(likelihood[crowd.answered].sum()), rounds, converged)


def _foretold(crowd: _Crowd, fit: _Fit) -> tuple[float, float]:
    """Mean log loss of answers by the items' other answers, and the weight of these under which it is least.

    It needs no truth. If the answers to an item erred independently, the weight would be near 1. Infinite where no item
    has two answers.
    """
    if not len(crowd.trial):
        return float("inf"), 1.0
    own = crowd.evidence(fit.matrices, fit.posterior, crowd.trial)
    at = np.unique(crowd.items[crowd.trial], return_inverse=True)[1]
    others, chance, log_prior = _summed(own, at, int(at[-1]) + 1)[at] - own, np.exp(own), np.log(crowd.prior)
    losses = [-np.log((_normal(weight * others + log_prior)[0] * chance).sum(axis=1)).mean() for weight in _WEIGHTS]
    best = int(np.argmin(losses))
    return float(losses[best]), float(_WEIGHTS[best])


@dataclass(frozen=True)
class Crowdlab:
    """`consensus` (I,); `quality` (I,) of it in [0, 1]; `posterior` (I, K), rows sum to one; `annotator_quality` (A,).

    `weights` (A,) of the annotators and `model_weight` are what the posterior was made with.
    """

    consensus: Ints
    quality: Floats
    posterior: Floats
    annotator_quality: Floats
    weights: Floats
    model_weight: float


def crowdlab(items: Ints, annotators: Ints, labels: Ints, probabilities: Floats) -> Crowdlab:
    """Annotators and a model weighed by how often they agree with the others, as in cleanlab 2.9.

    probabilities (I, K) are out of sample, rows sum to one; every item has an answer, of each annotator at most one.
    The result is that of `cleanlab.multiannotator.get_label_quality_multiannotator`, except where a majority and the
    probabilities tie exactly: there the first class stands. Raises ValueError where no item has two answers, or there
    are fewer than two classes.
    """
    n, k = probabilities.shape
    m = _size("annotators", annotators, None)
    _size("items", items, n), _size("labels", labels, k)
    counts = _sparse(items, labels, (n, k)).toarray()
    answers = counts.sum(axis=1)
    if k < 2 or not (answers > 1).any():
        raise ValueError("there is nothing to weigh: expected two classes and an item with two answers")
    agreeing = _ratio(*(np.bincount(annotators, w, m) for w in (counts[items, labels] - 1, answers[items] - 1)))
    agreeing[np.isnan(agreeing)] = np.nanmean(agreeing)
    several, each = answers > 1, np.arange(n)
    consensus = np.where(counts == counts.max(axis=1, keepdims=True), probabilities, -1.0).argmax(axis=1)
    for last in (False, True):
        chosen = consensus[several]
        error = max(float((chosen != np.bincount(chosen).argmax()).mean()), _LEAST_WEIGHT)  # of always the same class
        weights = np.maximum(1 - (1 - agreeing) / error, _LEAST_WEIGHT)
        wrong = float((probabilities[several].argmax(axis=1) != chosen).mean())
        of_model = max(1 - wrong / error, _LEAST_WEIGHT) * np.sqrt(answers.mean())
        right = float((counts[each, consensus] / answers)[several].mean())
        other = (1 - right) / (k - 1)
        weighed = _sparse(items, labels, (n, k), weights[annotators]).toarray()
        total = weighed.sum(axis=1, keepdims=True)
        posterior = (probabilities * of_model + weighed * (right - other) + total * other) / (total + of_model)
        if not last:
            consensus = posterior.argmax(axis=1)
    shared = several[items]
    right_answers = np.bincount(annotators[shared], (labels == consensus[items])[shared], m)
    hits = _ratio(right_answers, np.bincount(annotators[shared], minlength=m))
    mean = _ratio(np.bincount(annotators, posterior[items, labels], m), np.bincount(annotators, minlength=m))
    share = of_model / (of_model + weights.sum() * answers.mean() / m)
    quality = posterior[each, consensus]
    own = share * mean + (1 - share) * hits
    return Crowdlab(consensus, quality, posterior, own, weights, float(of_model))


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Floats:
    """NaN where nothing is below."""
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return result


def _normal(log: Floats) -> tuple[Floats, Floats]:
    """Rows that sum to one from logarithms (n, K), and the logarithm (n,) of what each row's sum was."""
    top = log.max(axis=1, keepdims=True)
    exponent = np.exp(log - top)
    total = exponent.sum(axis=1, keepdims=True)
    return exponent / total, (np.log(total) + top)[:, 0]


def _size(name: str, codes: Ints, size: int | None) -> int:
    size = int(codes.max(initial=-1)) + 1 if size is None else size
    if len(codes) and not (codes.min() >= 0 and codes.max() < size):
        raise ValueError(f"{name}: expected integers in [0, {size})")
    return size


def _sparse(rows: Ints, columns: Ints, shape: tuple[int, int], values: Floats | None = None) -> Any:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)) if values is None else values, (rows, columns)), shape=shape)


def _summed(values: Floats, groups: Ints, n: int) -> Floats:
    """Rows (C, K) summed by group: (n, K)."""
    result: Floats = _sparse(groups, np.arange(len(groups)), (n, len(groups))) @ values
    return result
