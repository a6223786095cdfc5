"""What labeling an item is likely to buy, learned from past rounds: how often labels contradicted the model there.

A score orders items by doubt, but says not how often the doubt is founded. Of past picks it is known: the history gives a
rate that never falls as the score rises (isotonic regression: Barlow et al. 1972; as calibration, Zadrozny and Elkan
2002), each part of it drawn towards the rate of all as far as it rests on few items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import Floats, Picks, Pool, Strategy, needed, top

_OF_PART: Final = 20  # picks a part of the history has at least: a rate of 5 % may look like 25 % in fewer
_PARTS: Final = 50  # at most: more would only follow chance
_PRIOR: Final = 10.0  # picks at the rate of all that are added to those of each part
_BY_SCORE: Final = 1e-6  # of the score is added, so that among equal expectations the higher score goes first


@dataclass(frozen=True)
class History:
    """H past picks: `scores` in [0, 1] from before they were labeled, whether the label contradicted the model
    (`bought`), and `minutes` of work, where they are known.

    Their scores must be of the same kind as those of the new pool. Picks of a random arm tell most: those of a strategy
    alone say nothing of low scores.
    """

    scores: Floats
    bought: npt.NDArray[np.bool_]
    minutes: Floats | None = None

    def __post_init__(self) -> None:
        _unit("scores", self.scores)
        if self.bought.dtype != np.bool_ or self.bought.shape != self.scores.shape:
            raise ValueError("bought: expected True or False, one a score")
        if self.minutes is not None:
            _above_zero("minutes", self.minutes, len(self.scores))


@dataclass(frozen=True)
class Gain:
    """Expected corrections an item by its score: `rate` (B,) at the scores `at` (B,), both ascending, straight between.

    Beyond its ends it stays as it is. `overall` is the rate of all past picks, NaN where there were none.
    """

    at: Floats
    rate: Floats
    overall: float

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Chances (C,) that a label contradicts the model."""
        rates: Floats = np.interp(_unit("scores", scores), self.at, self.rate)
        return rates


def learn_gain(history: History) -> Gain:
    """From past picks. Raises ValueError where there are none."""
    n = len(history.scores)
    if not n:
        raise ValueError("history: expected at least one past pick")
    order = np.argsort(history.scores, kind="stable")
    overall = float(history.bought.mean())
    parts = np.array_split(order, min(_PARTS, max(1, n // _OF_PART)))
    at = np.array([history.scores[part].mean() for part in parts])
    size = np.array([len(part) for part in parts], np.float64)
    right = np.array([history.bought[part].sum() for part in parts], np.float64)
    return Gain(at, _rising(at, (right + _PRIOR * overall) / (size + _PRIOR), size), overall)


def expected_gain(history: History, scores: npt.ArrayLike, *, minutes: npt.ArrayLike | None = None) -> Floats:
    """Scores (C,) in [0, 1] for a pool's scores (C,): expected corrections an item.

    With `minutes` (C,) of each, or else those of the history, it is corrections per minute, over those of the best item
    in the pool. A history of fewer than 40 picks gives all the same expectation; equal ones are ordered by score.
    """
    s = _unit("scores", scores)
    gain = learn_gain(history)(s)
    if minutes is not None:
        gain = gain / _above_zero("minutes", minutes, len(s))
    elif history.minutes is not None:
        gain = gain / _minutes(history.scores, history.minutes, s)
    if minutes is not None or history.minutes is not None:
        gain = gain / max(float(gain.max(initial=0.0)), np.finfo(float).tiny)
    result: Floats = (gain + _BY_SCORE * s) / (1 + _BY_SCORE)
    return result


def _minutes(scores: Floats, minutes: Floats, wanted: Floats) -> Floats:
    """Minutes (C,) by score: medians of parts of the history."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(_PARTS, max(1, len(order) // _OF_PART)))
    middles = [float(scores[part].mean()) for part in parts]
    found: Floats = np.interp(wanted, middles, [float(np.median(minutes[part])) for part in parts])
    return found


def _rising(at: Floats, rate: Floats, weight: Floats) -> Floats:
    from sklearn.isotonic import IsotonicRegression

    return np.asarray(IsotonicRegression().fit(at, rate, weight).predict(at), np.float64)


def _unit(name: str, values: npt.ArrayLike) -> Floats:
    v = np.asarray(values, np.float64)
    if v.ndim != 1 or not ((v >= 0) & (v <= 1)).all():
        raise ValueError(f"{name}: expected numbers from 0 to 1, one an item")
    return v


def _above_zero(name: str, values: npt.ArrayLike, n: int) -> Floats:
    v = np.asarray(values, np.float64)
    if v.shape != (n,) or not ((v > 0) & np.isfinite(v)).all():
        raise ValueError(f"{name}: expected {n} numbers above zero")
    return v


def _pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    scores = _unit("uncertainty", needed(pool.uncertainty)[pool.candidates])
    return top(pool, scores, n, rng, "expected gain {:.3f}, by past rounds")


EXPECTED_GAIN: Final = Strategy(
    "expected_gain",
    "such items' labels contradicted the model most often in past rounds",
    ("uncertainty",),
    _pick,
    ("probabilities",),
)
