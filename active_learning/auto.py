"""The strategy that changes with what is labeled: typical items first, then uncertain ones of all kinds.

Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets", ICML 2022:
while little is labeled, a model's doubts say more of the labels that it happens to have than of the items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from datasetops.active_learning.pool import Picks, Pool, Strategy
from datasetops.audits.labels.label_probabilities import tells_nothing

FEW: Final = 8  # labels of the usual class: with fewer, a model's share of right answers in it is known to a sixth


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
    return "cluster_margin", f"{told}, {FEW} or more"


def _doubt(pool: Pool) -> str | None:
    """Why a model's uncertainty cannot be relied on, if so.

    It has to tell surely more of labels that it did not learn from than their frequencies do (see `tells_nothing`); a
    model that was not tried on any label is taken at its word.
    """
    if pool.probabilities is None:
        return "no model says what the items may be"
    known = np.flatnonzero(pool.labels >= 0)
    known = known[np.isfinite(pool.probabilities[known]).all(axis=1)]
    if not len(known):
        return None
    if tells_nothing(pool.labels[known], pool.probabilities[known]):
        return "the model tells no more of them than how frequent each class is"
    return None


def _pick(pool: Pool, n: int, rng: np.random.Generator) -> Picks:
    from datasetops.active_learning.strategies import STRATEGIES  # which has this one among them

    name, _ = choice(pool)
    picks = STRATEGIES[name].pick(pool, n, rng)
    return replace(picks, reasons=tuple(f"{name}: {reason}" for reason in picks.reasons))


AUTO: Final = Strategy(
    "auto",
    "typical while few are labeled, then uncertain",
    (),
    _pick,
    ("embeddings", "probabilities"),
)
