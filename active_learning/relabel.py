"""Label something new, or ask again about something old: one score for both.

ActiveLab (Goh and Mueller, "ActiveLab: Active Learning with Re-Labeling by Multiple Annotators", 2023): how sure one is
of an item's consensus, by its annotators and a model together (CROWDLAB), drawn towards chance by one more answer's
weight. Few and contradicted answers leave an item where another answer helps more than a first one elsewhere.

Classes that no annotator and no model names cannot be found this way: a model that never saw a class is sure of others.
Probabilities of labeled items must be out of sample, or the model only repeats their labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import UNLABELED, Floats, Ints, Picks, Pool, Strategy, Votes, needed, top
from datasetops.active_learning.scores import checked
from datasetops.audits.people.dawid_skene import crowdlab

# What ActiveLab tries; part of its definition, as are the next three.
_TEMPERATURES: Final = (0.1, 0.2, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0, 8.0)
_STEPS: Final = 4  # tried between two of them
_LEAST: Final = 1e-30  # of a probability, before its logarithm


def urgency(votes: Votes, probabilities: npt.ArrayLike, candidates: Ints) -> Floats:
    """How much another answer to each candidate would help, (C,) in [0, 1], 1 = the most; labeled or not.

    `probabilities` (N, K) of all rows of the pool; those of labeled rows that are no candidates may be NaN, such rows
    are left out. One minus the scores of `cleanlab.multiannotator.get_active_learning_scores`, but for two things: where
    a majority and the probabilities tie exactly, the first class stands; and the temperature is fitted to the classes
    that were answered (2.9.0 counts answers given as floats, as it reads them, under the wrong classes). Where no item
    has two answers, the model and all annotators are trusted alike. Raises ValueError for votes that do not fit.
    """
    p = np.asarray(probabilities)
    chosen = checked(p[candidates])
    k = chosen.shape[1]
    _check_votes(votes, len(p), k)
    items = np.unique(votes.item)
    items = items[np.isin(items, candidates) | np.isfinite(p[items]).all(axis=1)]
    kept = np.isin(votes.item, items)
    if not kept.any():
        return _score(chosen.max(axis=1), 1.0, 1.0, k)
    item, label = np.searchsorted(items, votes.item[kept]), votes.label[kept]
    who = np.unique(votes.annotator[kept], return_inverse=True)[1]
    known = _learned(item, who, label, checked(p[items]))
    one_more = float(known.people.mean())
    scores = _score(_scaled(chosen, known.temperature).max(axis=1), known.model, one_more, k)
    trusted = np.bincount(item, known.people[who]) + known.model
    at = np.minimum(np.searchsorted(items, candidates), len(items) - 1)
    old = items[at] == candidates
    scores[old] = _score(known.quality, trusted, one_more, k)[at[old]]
    return scores


def known_votes(pool: Pool) -> Votes:
    """The pool's votes; a labeled row without any counts as the answer of one more, unnamed annotator."""
    nothing = np.zeros(0, np.int64)
    votes = Votes(nothing, nothing, nothing) if pool.votes is None else pool.votes
    bare = np.flatnonzero(pool.labels != UNLABELED)
    bare = bare[~np.isin(bare, votes.item)]
    unnamed = np.full(len(bare), votes.annotator.max(initial=-1) + 1)
    return Votes(
        np.concatenate([votes.item, bare]),
        np.concatenate([votes.annotator, unnamed]),
        np.concatenate([votes.label, pool.labels[bare]]),
    )


def label_or_relabel(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    """Candidates to label and labeled ones to label again, in one order; each reason says which of the two.

    Labeled rows are chosen only where they are candidates.
    """
    votes, p = known_votes(pool), needed(pool.probabilities)
    picks = top(pool, urgency(votes, p, pool.candidates), n, rng, "ActiveLab {:.3f}")
    mine = np.isin(votes.item, picks.rows)
    order = np.argsort(picks.rows)
    at = order[np.searchsorted(picks.rows, votes.item[mine], sorter=order)]
    counts = np.zeros((len(picks.rows), p.shape[1]), np.int64)
    np.add.at(counts, (at, votes.label[mine]), 1)
    told = (_reason(why, count, row) for why, count, row in zip(picks.reasons, counts, p[picks.rows], strict=True))
    return Picks(picks.rows, picks.scores, tuple(told))


def _reason(why: str, counts: Ints, probabilities: Floats) -> str:
    if not counts.any():
        return f"label: nobody did, and the model is {float(probabilities.max()):.0%} sure ({why})"
    most, model = int(counts.max()), float(probabilities[int(counts.argmax())])
    said = f"{most} of {int(counts.sum())} answers agree" if counts.sum() > 1 else "one answer"
    return f"label again: {said}, the model gives that class {model:.0%} ({why})"


def _check_votes(votes: Votes, n: int, k: int) -> None:
    parts = (votes.item, votes.annotator, votes.label)
    if len({len(part) for part in parts}) > 1:
        raise ValueError("votes: item, annotator and label are of different lengths")
    for name, part, size in zip(("item", "annotator", "label"), parts, (n, None, k), strict=True):
        if len(part) and (part.min() < 0 or (size is not None and part.max() >= size)):
            most = "" if size is None else f" to {size - 1}"
            raise ValueError(f"votes: {name} is a number from 0{most}; got {part.min()} to {part.max()}")
    pairs = votes.item.astype(np.int64) * (int(votes.annotator.max(initial=0)) + 1) + votes.annotator
    if len(np.unique(pairs)) < len(pairs):
        raise ValueError("votes: an annotator has two answers to one item; keep the newest")


def _score(sure: Floats, trusted: npt.NDArray[Any] | float, one_more: float, k: int) -> Floats:
    result: Floats = 1 - (sure * trusted + one_more / k) / (trusted + one_more)
    return result


@dataclass(frozen=True)
class _Learned:
    """The consensus' quality (I,), the weights of the model and of the annotators (A,), the model's temperature."""

    quality: Floats
    model: float
    people: Floats
    temperature: float


def _learned(item: Ints, who: Ints, label: Ints, own: Floats) -> _Learned:
    n, k = own.shape
    counts = np.zeros((n, k))
    np.add.at(counts, (item, label), 1)
    answers = counts.sum(axis=1)
    if answers.max() == 1:
        return _Learned((counts * own).sum(axis=1), 1.0, np.ones(len(np.unique(who))), 1.0)
    temperature = _temperature(own, counts / answers[:, None])
    own = _scaled(own, temperature)
    found = crowdlab(item, who, label, own)
    return _Learned(found.quality, found.model_weight, found.weights, temperature)


def _temperature(p: Floats, told: Floats) -> float:
    """The one under which the annotators' shares of answers (I, K) are the least surprise."""

    def best(choices: npt.NDArray[np.float64]) -> int:
        return int(np.argmin([-(told * np.log(np.maximum(_scaled(p, t), _LEAST))).sum() for t in choices]))

    coarse = np.array(_TEMPERATURES)
    at = best(coarse)
    below = np.linspace(coarse[at - 1], coarse[at], _STEPS, endpoint=False) if at else coarse[:0]
    above = np.linspace(coarse[at], coarse[at + 1], _STEPS + 1) if at + 1 < len(coarse) else coarse[:0]
    fine = np.concatenate([below, above])
    return float(fine[best(fine)])


def _scaled(p: Floats, temperature: float) -> Floats:
    logs = np.log(np.maximum(p, _LEAST)) / temperature
    power = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled: Floats = power / power.sum(axis=1, keepdims=True)
    return scaled


ACTIVELAB: Final = Strategy(
    "activelab",
    "another answer helps most, to a new or an old item",
    ("probabilities",),
    label_or_relabel,
    uses=("votes",),
)
