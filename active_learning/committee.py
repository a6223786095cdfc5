"""How far several models disagree on each item: scores (N,) in [0, 1] from their class probabilities (M, N, K).

The members may be networks trained from different seeds or on different parts, or passes of one network with dropout
left on. Seung, Opper and Sompolinsky 1992 (query by committee); Engelson and Dagan 1996 (vote entropy); McCallum and
Nigam 1998 (divergence from the consensus); Houlsby et al. 2011 (BALD); Gal, Islam and Ghahramani 2017 (with dropout).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import Floats, Ints, Picks, Pool, Strategy, needed, top
from datasetops.active_learning.scores import checked, entropy


def bald(committee: npt.ArrayLike) -> Floats:
    """What the members' answer would tell of which of them is right: high where each is sure, and of another class.

    The mutual information of answer and member, over the most that it can be, log min(M, K). It equals the mean
    Kullback-Leibler divergence of the members from their mean.
    """
    p = _members(committee)
    mean, inner = np.zeros(p.shape[1:]), np.zeros(p.shape[1])
    for number, member in enumerate(p):
        one = _checked(member, number)
        mean += one / len(p)
        inner += entropy(one) / len(p)
    information = (entropy(mean) - inner) * np.log(p.shape[2])
    return _unit(information / np.log(min(p.shape[0], p.shape[2])))


def consensus_entropy(committee: npt.ArrayLike) -> Floats:
    """Entropy of the members' mean over its maximum, log K: high where they disagree, and where all are unsure."""
    p = _members(committee)
    mean = np.zeros(p.shape[1:])
    for number, member in enumerate(p):
        mean += _checked(member, number) / len(p)
    return entropy(mean)


def vote_entropy(committee: npt.ArrayLike) -> Floats:
    """Entropy of the classes that members think likeliest, over its maximum, log min(M, K).

    Of equally likely classes the first has a member's vote.
    """
    shares = _votes(committee)
    members, classes = np.shape(committee)[0], shares.shape[1]
    return _unit(entropy(shares) * np.log(classes) / np.log(min(members, classes)))


def disagreement(committee: npt.ArrayLike) -> Floats:
    """Share of the members that vote for another class than most do, over the most that it can be."""
    shares = _votes(committee)
    members, classes = np.shape(committee)[0], shares.shape[1]
    most_even = 1 - np.ceil(members / classes) / members
    return _unit((1 - shares.max(axis=1)) / most_even)


def _votes(committee: npt.ArrayLike) -> Floats:
    """The share of votes that each class has, (N, K)."""
    p = _members(committee)
    shares, each = np.zeros(p.shape[1:]), np.arange(p.shape[1])
    for number, member in enumerate(p):
        likeliest: Ints = _checked(member, number).argmax(axis=1)
        shares[each, likeliest] += 1 / len(p)
    return shares


def _members(committee: npt.ArrayLike) -> npt.NDArray[Any]:
    p = np.asarray(committee)
    if p.ndim != 3 or p.shape[0] < 2 or p.shape[2] < 2:
        raise ValueError(f"committee: expected shape (M, N, K), two members and two classes at least; got {p.shape}")
    return p


def _checked(member: npt.NDArray[Any], number: int) -> Floats:
    """Raises ValueError that names the member and its first bad row."""
    try:
        return checked(member)
    except ValueError as error:
        raise ValueError(f"committee: member {number}, {error}") from None


def _unit(scores: Floats) -> Floats:
    """Without what rounding leaves outside of [0, 1]."""
    inside: Floats = np.clip(scores, 0, 1)
    return inside


def _by(score: Callable[[npt.ArrayLike], Floats], why: str) -> Callable[[Pool, int, np.random.Generator], Picks]:
    def pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
        return top(pool, score(needed(pool.committee)[:, pool.candidates]), n, rng, why)

    return pick


_NEEDS: Final = ("committee",)
COMMITTEE: Final = (
    Strategy("bald", "the models are sure, and contradict each other", _NEEDS, _by(bald, "BALD {:.3f}")),
    Strategy(
        "vote_entropy",
        "the models vote for different classes",
        _NEEDS,
        _by(vote_entropy, "vote entropy {:.3f} of its maximum"),
    ),
    Strategy(
        "consensus_entropy",
        "the models together think many classes possible",
        _NEEDS,
        _by(consensus_entropy, "entropy of the consensus {:.3f} of its maximum"),
    ),
)
