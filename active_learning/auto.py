"""The strategy that changes with what is labeled: typical items first, then uncertain and varied ones, then uncertain.

Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets", ICML 2022:
while little is labeled, a model's doubts say more of the labels that it happens to have than of the items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from datasetops.active_learning.pool import Picks, Pool, Strategy

FEW: Final = 8  # labels of the usual class: with fewer a model's share of right answers in it is known to a sixth
MANY: Final = 16  # … from which a model's doubts are its own, and top ones are varied enough
_SURE: Final = 2.0  # standard errors by which a model has to beat naming the most frequent class


def choice(pool: Pool) -> tuple[str, str]:
    """Name of the strategy that suits what is labeled so far, and why.

    Labels are counted by class, the usual class being the median of those that have any, so that neither a frequent
    class nor one that never turns up decides. Without embeddings or probabilities it makes do with what there is.
    """
    counts = np.bincount(pool.labels[pool.labels >= 0], minlength=pool.classes)
    each = float(np.median(counts[counts > 0])) if counts.any() else 0.0
    told = f"the usual class has {each:g} labels" if each else "nothing is labeled"
    doubt = _doubt(pool)
    if pool.embeddings is None:
        return ("random", doubt) if doubt else ("margin", f"{told}, and there are no embeddings")
    if each < FEW:
        return "typiclust", f"{told}, fewer than {FEW}"
    if doubt:
        return "typiclust", f"{told}, but {doubt}"
    if each < MANY:
        return "badge", f"{told}, fewer than {MANY}"
    return "margin", f"{told}, {MANY} or more"


def _doubt(pool: Pool) -> str | None:
    """Why a model's uncertainty cannot be relied on, if so."""
    if pool.probabilities is None:
        return "no model says what the items may be"
    known = np.flatnonzero(pool.labels >= 0)
    known = known[np.isfinite(pool.probabilities[known]).all(axis=1)]
    if not len(known):
        return None  # a model from elsewhere, taken at its word
    labels = pool.labels[known]
    right = float((pool.probabilities[known].argmax(axis=1) == labels).mean())
    usual = float(np.bincount(labels).max() / len(labels))
    if right - usual <= _SURE * np.sqrt(right * (1 - right) / len(known)):
        return f"the model is right in {right:.0%} of them, and naming the most frequent class in {usual:.0%}"
    return None


def _pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    from datasetops.active_learning.strategies import STRATEGIES  # which has this one among them

    name, why = choice(pool)
    picks = STRATEGIES[name].pick(pool, n, rng)
    return replace(picks, reasons=tuple(f"{reason} ({name}: {why})" for reason in picks.reasons))


AUTO: Final = Strategy(
    "auto",
    "typical while few are labeled, then uncertain",
    (),
    _pick,
    ("embeddings", "probabilities"),
)
