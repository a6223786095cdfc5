"""What differs between the samples that a model learned from and those of production, as numbers.

The tests are those of audits.two_sample; here is nothing about what is too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.audits.images.outliers import projected
from datasetops.audits.labels.label_probabilities import grouped_with_copies
from datasetops.audits.sets.coverage import attributes
from datasetops.audits.sets.multiple_tests import holm
from datasetops.audits.sets.slices import unit_rows
from datasetops.audits.sets.two_sample import (
    block_inflation,
    kernel_test,
    population_stability,
    share_shift,
    stability_by_chance,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

FEWEST: Final = 30  # on each side: among fewer nothing but the coarsest difference could be told from chance
_AT_MOST: Final = 2_000  # images a side that are compared with each other: 64 MB of similarities
_UNUSUAL: Final = 12  # images to look at
_BINS: Final = 10  # of numbers, as is usual for the population stability index
_NOT_SLICES: Final = ("split",)  # where a sample was put, not what it is


@dataclass(frozen=True)
class ImageShift:
    """`told_apart`: how often of one image of each side the new one is told, 0.5 by chance; `p` of no difference at all.

    `least_p`: the smallest p that so many groups of samples allow. `unusual`: uris of the new images that are least like
    any earlier one, with the cosine of the nearest, the least like first.
    """

    before: int
    now: int
    told_apart: float
    mmd2: float
    p: float
    least_p: float
    unusual: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class SliceShift:
    """A key of the metadata: its population stability `index`, the one `expected` by chance, Holm's `p`.

    `shares` by value, before and now. `gone`: values that training had and that surely are not there any more; `new`: those
    that it did not have.
    """

    key: str
    index: float
    expected: float
    p: float
    shares: dict[str, tuple[float, float]]
    gone: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class ClassShift:
    """The share of a class among the answers; `effect` is Cohen's h, with its sign; `p` is Holm's."""

    name: str
    before: float
    now: float
    effect: float
    p: float


def plain_rows(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


@dataclass(frozen=True)
class ConfidenceShift:
    """Mean confidence of the answers before and now; `p` of no difference."""

    before: float
    now: float
    p: float


def some_images(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Those to be compared by their looks: at most 2,000 with an image, drawn at random."""
    there = np.flatnonzero(samples["sha256"].notna())
    chosen = np.sort(np.random.default_rng(seed).permutation(there)[:_AT_MOST])
    return samples.iloc[chosen].reset_index(drop=True)


def image_shift(
    before: tuple[pd.DataFrame, Vectors], now: tuple[pd.DataFrame, Vectors], *, seed: int = 0
) -> ImageShift | None:
    """Compare samples by their embeddings (N, D), rows of NaN where there is none; None for too few images.

    Samples of a group count as one.
    """
    vectors, blocks, uris, start = [], [], [], 0
    for samples, array in (before, now):
        readable = np.flatnonzero(np.isfinite(array[:, 0]))
        vectors.append(unit_rows(projected(array[readable], seed)))
        uris.append(samples["uri"].to_numpy(object)[readable])
        groups = groups_of(samples)
        blocks.append(groups[readable] + start)
        start += int(groups.max(initial=-1)) + 1
    if min(map(len, vectors)) < FEWEST:
        return None
    joined = np.concatenate(blocks)
    test = kernel_test(vectors[0], vectors[1], blocks=_several(joined), seed=seed)
    nearest = (vectors[1] @ vectors[0].T).max(axis=1)
    unusual = tuple((str(uris[1][row]), float(nearest[row])) for row in np.argsort(nearest, kind="stable")[:_UNUSUAL])
    sizes = (len(vectors[0]), len(vectors[1]))
    return ImageShift(*sizes, test.told_apart, test.mmd2, test.p_value, test.least_p, unusual)


def slice_shifts(before: pd.DataFrame, now: pd.DataFrame, *, alpha: float, seed: int = 0) -> list[SliceShift]:
    """Each key of which both sides have values, the least stable first. `alpha`: chance to call any gone that is not."""
    size = len(before)
    both = pd.concat([before, now], ignore_index=True)
    groups = np.concatenate([groups_of(before), groups_of(now)])
    found: list[SliceShift] = []
    keys = attributes(both, bins=_BINS, learned_from=slice(0, size))
    for name in _NOT_SLICES:
        keys.pop(name, None)
    for key, coded in keys.items():
        values, codes = np.unique(np.where(coded.codes >= 0, coded.codes, len(coded.names)), return_inverse=True)
        codes = codes.astype(np.int64)
        old, new = (np.bincount(half, minlength=len(values)) for half in (codes[:size], codes[size:]))
        known = values < len(coded.names)
        if not (old[known].any() and new[known].any()):
            continue
        shares = (old + new) / len(both)
        inflation = [
            block_inflation(codes[part], _several(groups[part]), shares) for part in (slice(0, size), slice(size, None))
        ]
        expected, p = stability_by_chance(old, new, inflation=(inflation[0], inflation[1]), seed=seed)
        names = [*coded.names, f"{key} is missing"]
        told = [names[value] for value in values]
        rate = old / max(1, old.sum())
        # as many as there surely are, drawn one by one, had the share stayed
        lost = (1 - rate) ** (new.sum() / inflation[1]) <= alpha / (len(values) * len(keys))
        gone = tuple(name for i, name in enumerate(told) if known[i] and old[i] and not new[i] and lost[i])
        fresh = tuple(name for i, name in enumerate(told) if known[i] and new[i] and not old[i])
        pairs = zip(told, rate.tolist(), (new / max(1, new.sum())).tolist(), strict=True)
        index = population_stability(old, new)
        found.append(SliceShift(key, index, expected, p, {n: (a, b) for n, a, b in pairs}, gone, fresh))
    corrected = holm(np.array([one.p for one in found])) if found else np.zeros(0)
    rows = [SliceShift(**{**vars(one), "p": float(p)}) for one, p in zip(found, corrected, strict=True)]
    return sorted(rows, key=lambda one: (-one.index, one.key))


def class_shifts(before: tuple[Ints, Ints], now: tuple[Ints, Ints], names: Sequence[str]) -> list[ClassShift]:
    """Compare the classes (N,) of answers, each with the group of its sample (N,), by falling size of the change."""
    sides = (before, now)
    alone = all(len(np.unique(groups)) == len(groups) for _, groups in sides)
    shift = share_shift(before[0], now[0], len(names), blocks=None if alone else (before[1], now[1]))
    p = holm(shift.p_value)
    effect = 2 * (np.arcsin(np.sqrt(shift.now)) - np.arcsin(np.sqrt(shift.before)))
    order = np.argsort(-np.abs(effect), kind="stable")
    return [
        ClassShift(names[k], float(shift.before[k]), float(shift.now[k]), float(effect[k]), float(p[k])) for k in order
    ]


def confidence_shift(before: tuple[Floats, Ints], now: tuple[Floats, Ints]) -> ConfidenceShift:
    """Compare mean scores (N,), each with the group of its sample (N,), which is what varies by chance."""
    from scipy.special import ndtr

    means, variance = [], 0.0
    for scores, groups in (before, now):
        mean = float(scores.mean())
        sums = np.bincount(np.unique(groups, return_inverse=True)[1], scores - mean)
        means.append(mean)
        variance += float((sums**2).sum()) / len(scores) ** 2
    gap = abs(means[1] - means[0])
    p = float(2 * ndtr(-gap / variance**0.5)) if variance else float(gap == 0)
    return ConfidenceShift(means[0], means[1], p)


def groups_of(samples: pd.DataFrame) -> Ints:
    """Numbers (N,) of what belongs together: groups, and copies of an image."""
    codes: Ints = np.unique(grouped_with_copies(samples).to_numpy(), return_inverse=True)[1].astype(np.int64)
    return codes


def _several(groups: Ints) -> Ints | None:
    """None where every sample stands alone."""
    return None if len(np.unique(groups)) == len(groups) else groups
