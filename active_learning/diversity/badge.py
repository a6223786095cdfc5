"""BADGE: rows whose loss would change the last layer most, and in different directions.

Ash, Zhang, Krishnamurthy, Langford and Agarwal, "Deep batch active learning by diverse, uncertain gradient lower
bounds", ICLR 2020. A row's gradient is the outer product of (probabilities - one-hot of the likeliest class) and its
embedding, K x D numbers; the product of two such rows is the product of two factors' products, so none is ever made.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.diversity.sampling import draw_apart, rest
from datasetops.active_learning.diversity.space import blocks, known
from datasetops.active_learning.pool import Floats, Ints
from datasetops.active_learning.scores import checked

_ROUNDING: Final = 1e-5  # of squared lengths: float32 products tell no less from nothing


def badge(
    embeddings: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    candidates: Ints,
    n: int,
    rng: np.random.Generator,
) -> tuple[Ints, Floats]:
    """`n` candidates by k-means++ on gradients, and the distance of each gradient to the nearest before it.

    `embeddings` (N, D), `probabilities` (N, K). A model has next to no gradient where it learned from a label, so what is
    covered stands at zero, and so do rows that the model is sure of. The first pick has the longest gradient. Rows whose
    gradient is zero or was chosen come last, at random, at distance 0. Raises ValueError for rows that are not finite.
    """
    known(embeddings, candidates)
    n = min(n, len(candidates))
    errors = checked(probabilities[candidates]).astype(np.float32)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    length = np.einsum("ij,ij->i", errors, errors)
    for block in blocks(len(length)):
        rows = embeddings[candidates[block]]
        length[block] *= np.einsum("ij,ij->i", rows, rows)

    def between(rows: Ints, others: Ints) -> npt.NDArray[Any]:
        product: npt.NDArray[Any] = embeddings[candidates[rows]] @ embeddings[candidates[others]].T
        product *= errors[rows] @ errors[others].T
        product *= -2
        product += length[rows][:, None]
        product += length[others]
        product[product <= _ROUNDING * np.maximum.outer(length[rows], length[others])] = 0
        return product

    drawn, found = draw_apart(int(np.argmax(length)), length.astype(np.float64), n, between, rng)
    places = rest(len(length), drawn, n, rng)
    return candidates[places], np.concatenate([np.sqrt(found), np.zeros(n - len(drawn))])
