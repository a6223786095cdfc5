"""All strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.auto import AUTO
from datasetops.active_learning.committee import COMMITTEE
from datasetops.active_learning.diversity import DIVERSE
from datasetops.active_learning.pool import Picks, Pool, Strategy, needed, top
from datasetops.active_learning.relabel import ACTIVELAB
from datasetops.active_learning.scores import entropy, least_confidence, margin
from datasetops.active_learning.stochastic import STOCHASTIC
from datasetops.active_learning.uncertainty import BY_UNCERTAINTY
from datasetops.errors import NotFoundError, did_you_mean

Score = Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]]


def _by(score: Score, why: str) -> Callable[[Pool, int, np.random.Generator], Picks]:
    def pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
        return top(pool, score(needed(pool.probabilities)[pool.candidates]), n, rng, why)

    return pick


def _random(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    rows = rng.permutation(pool.candidates)[:n]
    return Picks(rows, np.full(len(rows), np.nan), ("drawn at random",) * len(rows))


_ALL: Final = (
    AUTO,
    Strategy("random", "chance alone", (), _random),
    Strategy("margin", "the two best classes are close", ("probabilities",), _by(margin, "margin score {:.3f}")),
    Strategy("entropy", "many classes are possible", ("probabilities",), _by(entropy, "entropy {:.3f} of its maximum")),
    Strategy(
        "least_confidence", "the best class is unlikely", ("probabilities",), _by(least_confidence, "doubt {:.3f}")
    ),
    *DIVERSE,
    *COMMITTEE,
    *STOCHASTIC,
    ACTIVELAB,
    *BY_UNCERTAINTY,
)
STRATEGIES: Final[Mapping[str, Strategy]] = {strategy.name: strategy for strategy in _ALL}


def find_strategy(name: str) -> Strategy:
    """Raises NotFoundError that lists them."""
    if name not in STRATEGIES:
        raise NotFoundError(f"There is no strategy {name!r}.", remedy=did_you_mean(name, STRATEGIES, noun="strategies"))
    return STRATEGIES[name]
