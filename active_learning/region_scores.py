"""How unsure a detector is of each image: doubts of single objects summed up, and how far boxes move between views.

Roy, Unmesh and Namboodiri 2018 and Brust, Käding and Denzler 2019 compare maximum, mean and sum of objects' margins;
Haussmann et al. 2020 entropies and means of the largest; Kao et al. 2018 take the stability of boxes under noise. Masks
are judged by the boxes around them. Images are numbered from 0; of P detections, `image` (P,) says where each is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.pool import Floats, Ints
from datasetops.audits.boxes.pairs import Boxes, one_to_one, overlaps
from datasetops.preannotate.measure import SAME_BOX

Sum = Literal["max", "mean", "sum", "top"]

TOP: Final = 3  # objects that `top` looks at


def presence_entropy(score: npt.ArrayLike) -> Floats:
    """Entropy in bits of "there or not", (P,) in [0, 1]: highest at a score of one half, so that clutter counts little."""
    s = _scores(score)
    return _plogp(s) + _plogp(1 - s)


def per_image(image: Ints, values: npt.ArrayLike, n: int, how: Sum, *, top: int = TOP, empty: float = 0.0) -> Floats:
    """One score (n,) in [0, 1] an image from its objects' (P,) in [0, 1].

    `max`: the most doubtful object. `mean`: of all. `top`: the mean of the `top` most doubtful, of fewer where there are
    fewer. `sum`: s / (1 + s) of the sum s, which orders images as the sum does: crowded ones first. Images without any
    object get `empty`: 0 where the model finds what there is; 1 while it still misses much.
    """
    at, v = np.asarray(image, np.int64), np.asarray(values, np.float64)
    if at.shape != v.shape or v.ndim != 1 or not ((v >= 0) & (v <= 1)).all():
        raise ValueError("values: expected numbers from 0 to 1, one an object")
    if len(at) and not (at.min() >= 0 and at.max() < n):
        raise ValueError(f"image: expected numbers from 0 to {n - 1}")
    if top < 1 or not 0 <= empty <= 1:
        raise ValueError(f"top is at least 1 and empty from 0 to 1; got {top} and {empty}")
    count = np.bincount(at, minlength=n)
    if how in ("max", "top"):
        order = np.lexsort((-v, at))
        rank = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
        order = order[rank < (1 if how == "max" else top)]
        at, v = at[order], v[order]
    elif how not in ("mean", "sum"):
        raise ValueError(f"how: expected max, mean, sum or top; got {how!r}")
    total = np.bincount(at, v, minlength=n)
    found = total / (1 + total) if how == "sum" else total / np.maximum(np.bincount(at, minlength=n), 1)
    result: Floats = np.where(count > 0, found, empty)
    return result


@dataclass(frozen=True)
class Detections:
    """Boxes of one view of each image, in the pixels of the image itself, and their scores (P,)."""

    boxes: Boxes
    score: Floats


@dataclass(frozen=True)
class Stability:
    """Of each image (n,), in [0, 1], 0 = the same in all views.

    `spread`: one minus the mean IoU of boxes with their partners in other views, weighted by score; `flips`: share of
    the pairs that have different classes, weighted by score.
    """

    spread: Floats
    flips: Floats


def stability(images: Detections, views: list[Detections], n: int, *, empty: float = 0.0) -> Stability:
    """Hold the detections in n images against those in transformed views of them (M), mapped back to the images.

    Boxes find partners one to one, the largest IoU first, whatever their class. A box of either side without a partner
    counts with IoU 0, so that things that come and go count as moved. Flips are counted among pairs from IoU 0.5 on. An
    image with nothing in any view gets the spread `empty`. Localisation stability of Kao et al. 2018, made symmetric.
    """
    if not views:
        raise ValueError("views: expected at least one")
    spread, flips, seen = np.zeros(n), np.zeros(n), np.zeros(n, bool)
    for view in views:
        weight = _total(images, n) + _total(view, n)
        pairs = overlaps(images.boxes, view.boxes)
        pairs = pairs[one_to_one(pairs, pairs.iou)]
        at = images.boxes.image[pairs.first]
        both = images.score[pairs.first] + view.score[pairs.second]
        same = np.bincount(at, both * pairs.iou, minlength=n)
        spread += np.where(weight > 0, 1 - same / np.where(weight > 0, weight, 1), 0) / len(views)
        near = pairs.iou >= SAME_BOX
        other = images.boxes.label[pairs.first] != view.boxes.label[pairs.second]
        held = np.bincount(at[near], both[near], minlength=n)
        flips += np.bincount(at[near], (both * other)[near], minlength=n) / np.where(held > 0, held, 1) / len(views)
        seen |= weight > 0
    return Stability(np.where(seen, np.clip(spread, 0, 1), empty), np.clip(flips, 0, 1))


def _total(found: Detections, n: int) -> Floats:
    total: Floats = np.bincount(found.boxes.image, found.score, minlength=n).astype(np.float64)
    return total


def _scores(scores: npt.ArrayLike) -> Floats:
    s = np.asarray(scores, np.float64)
    if s.ndim != 1:
        raise ValueError(f"scores: expected shape (P,); got {s.shape}")
    if not ((s >= 0) & (s <= 1)).all():
        raise ValueError("scores: expected numbers from 0 to 1")
    return s


def _plogp(p: Floats) -> Floats:
    result: Floats = -p * np.log2(p, where=p > 0, out=np.zeros_like(p))
    return result
