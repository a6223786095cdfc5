"""Choosing by chance, the more so the higher the score: what top-n takes twice over, look-alikes, is spread out.

Kirsch et al., "Stochastic Batch Acquisition: A Simple Baseline for Deep Active Learning", TMLR 2023: items are drawn one
after another without replacement, with chances in proportion to a function of the score. That is the same as taking
the top of the function's logarithm plus Gumbel noise (Vieira 2014; Kool, van Hoof and Welling 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.committee import bald
from datasetops.active_learning.pool import Floats, Picks, Pool, Strategy, needed, top
from datasetops.active_learning.scores import entropy, margin

Chance = Literal["power", "softmax", "softrank"]

BETA: Final = 1.0  # as in the paper: 0 is chance alone, more is nearer to the top of the scores


def log_chances(scores: npt.ArrayLike, chance: Chance, beta: float = BETA) -> Floats:
    """Logarithm (C,) of each item's chance to be drawn first, but for what all have in common.

    The chance is in proportion to score ** beta (`power`: what scores 0 is drawn last), exp(beta * score) (`softmax`,
    which depends on the scores' scale) or rank ** -beta (`softrank`, which only looks at their order; the best has
    rank 1, equal scores share their mean rank). Raises ValueError for scores that are negative, NaN or infinite.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 1 or not (np.isfinite(s).all() and (s >= 0).all()):
        raise ValueError("scores: expected numbers from 0 on, one an item")
    if not (np.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta: expected a number from 0 on; got {beta}")
    if chance == "softmax":
        return beta * s
    if chance == "power":
        return beta * np.log(s, where=s > 0, out=np.full(len(s), -np.inf)) if beta else np.zeros(len(s))
    if chance == "softrank":
        return -beta * np.log(_ranks(s))
    raise ValueError(f"chance: expected power, softmax or softrank; got {chance!r}")


def draw(
    pool: Pool, scores: Floats, n: int, rng: np.random.Generator, why: str, chance: Chance = "power", beta: float = BETA
) -> Picks:
    """Candidates drawn by their scores (C,). `why` is a format string of one number, the score."""
    noisy = log_chances(scores, chance, beta) + rng.gumbel(size=len(scores))
    rows = top(pool, noisy, n, rng, "").rows
    chosen = np.asarray(scores, np.float64)[np.searchsorted(pool.candidates, rows)]
    better = len(scores) - np.searchsorted(np.sort(scores), chosen, side="right")
    told = (
        f"{why.format(score)}, {place + 1:,} of {len(scores):,}; drawn by chance, the likelier the higher the score"
        for score, place in zip(chosen.tolist(), better.tolist(), strict=True)
    )
    return Picks(rows, chosen, tuple(told))


def _ranks(scores: Floats) -> Floats:
    from scipy.stats import rankdata

    ranks: Floats = rankdata(-scores)
    return ranks


def _drawn(
    score: Callable[[Pool], npt.NDArray[Any]], why: str, chance: Chance = "power"
) -> Callable[[Pool, int, np.random.Generator], Picks]:
    def pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
        return draw(pool, score(pool), n, rng, why, chance)

    return pick


def _margin(pool: Pool) -> Floats:
    return margin(needed(pool.probabilities)[pool.candidates])


def _entropy(pool: Pool) -> Floats:
    return entropy(needed(pool.probabilities)[pool.candidates])


def _bald(pool: Pool) -> Floats:
    return bald(needed(pool.committee)[:, pool.candidates])


STOCHASTIC: Final = (
    Strategy(
        "margin_stochastic",
        "drawn by chance, in proportion to the margin score",
        ("probabilities",),
        _drawn(_margin, "margin score {:.3f}"),
    ),
    Strategy(
        "margin_softrank",
        "drawn by chance, by rank of the margin score",
        ("probabilities",),
        _drawn(_margin, "margin score {:.3f}", "softrank"),
    ),
    Strategy(
        "entropy_stochastic",
        "drawn by chance, in proportion to the entropy",
        ("probabilities",),
        _drawn(_entropy, "entropy {:.3f} of its maximum"),
    ),
    Strategy(
        "bald_stochastic",
        "drawn by chance, in proportion to BALD",
        ("committee",),
        _drawn(_bald, "BALD {:.3f}"),
    ),
)
