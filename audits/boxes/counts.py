"""Images with far fewer or far more boxes of a class than the images that look most like them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from datasetops.audits.base import AuditContext
from datasetops.audits.boxes.geometry import Lack
from datasetops.audits.boxes.pairs import Floats
from datasetops.audits.boxes.rows import BoxRows
from datasetops.audits.images.neighbours import nearest
from datasetops.audits.images.outliers import far_from, projected

_NEIGHBOURS: Final = 10
_FEWEST: Final = 100  # images with annotations from which ten neighbours are alike at all
_HALF: Final = 2.0  # times fewer or more than the neighbours have: less is how images differ
_CHANCE_SPREAD: Final = 0.5  # deviation of the root of a count that is by chance (Poisson), whatever its mean


def unlike_neighbours(given: BoxRows, context: AuditContext) -> Iterator[Lack]:
    """Images whose count of a class is far from the mean of their ten nearest by embedding; nothing without images.

    Counts are compared by their roots; how far is far follows from how much neighbours differ in this data set.
    """
    if not context.at_hand.any():
        return
    embeddings = context.embeddings()
    rows = np.flatnonzero(given.labeled & np.isfinite(embeddings).all(axis=1))
    if len(rows) < _FEWEST:
        return
    found = nearest(
        projected(embeddings[rows], context.seed),
        _NEIGHBOURS,
        metric="cosine",
        jobs=context.jobs,
        seed=context.seed,
        progress=context.progress,
    )
    far = far_from(len(rows) * max(1, len(given.names)))
    for label, name in enumerate(given.names):
        of_class = given.boxes.image[given.boxes.label == label]
        count = np.bincount(of_class, minlength=len(given.labeled))[rows].astype(np.float64)
        if not len(of_class):
            continue
        around: Floats = count[found.indices].mean(axis=1)
        off = np.sqrt(count) - np.sqrt(around)
        spread = max(float(np.median(np.abs(off))) / 0.6745, _CHANCE_SPREAD * np.sqrt(1 + 1 / _NEIGHBOURS))
        few = (off < -far * spread) & (count * _HALF <= around)
        many = (off > far * spread) & (count >= _HALF * around)
        for at in np.flatnonzero(few | many).tolist():
            text = f"{count[at]:.0f} of {name}, the ten images most like it have {around[at]:.1f} on average"
            yield Lack(int(rows[at]), name, "low", 0.5 * float(np.exp(1 - abs(off[at]) / (far * spread))), text)
