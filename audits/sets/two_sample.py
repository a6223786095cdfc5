"""Whether two sets were drawn alike, and how far apart they are.

Frames of a clip or images of a patient are no independent draws. So the tests take a block (N,) for each item: blocks
are what is independent, and what is permuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

PERMUTATIONS: Final = 1999  # the least p is 1/2,000, half of the .001 that counts as next to certain
_AT_ONCE: Final = 250  # permutations of one matrix product: 4 MB of them at 4,000 items
_SIMULATIONS: Final = 1999
_HALF: Final = 0.5  # added to each count, so that a value that one side lacks has a finite logarithm
_LEAST_EXPECTED: Final = 5.0  # items of a class on both sides together below which its share is not tested


@dataclass(frozen=True)
class KernelTest:
    """`mmd2`: squared maximum mean discrepancy, unbiased, so it may be below 0. `p_value`: of equal distributions.

    `least_p`: the smallest p that the number of blocks and permutations allows. `told_apart`: in [0, 1], the chance that
    of one item of each set the right one looks more like the second set; 0.5 where they are alike.
    """

    mmd2: float
    p_value: float
    least_p: float
    told_apart: float
    bandwidth: float


def kernel_test(
    x: Vectors,
    y: Vectors,
    *,
    blocks: Ints | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> KernelTest:
    """Test x (N, D) against y (M, D), at least two rows each, by maximum mean discrepancy with a Gaussian kernel.

    The bandwidth is the median distance of all rows. `blocks` (N + M,) of x, then y: no block has rows of both. Memory
    and time grow with (N + M)². Every arrangement of the blocks is tried where there are few, else `permutations` of
    them. Gretton et al., "A kernel two-sample test", JMLR 13 (2012); for p, Phipson and Smyth, SAGMB 9 (2010).
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"x and y: expected at least two rows each; got {n} and {m}")
    codes = np.arange(n + m) if blocks is None else np.unique(blocks, return_inverse=True)[1].astype(np.int64)
    if len(codes) != n + m:
        raise ValueError(f"blocks: expected {n + m}, one a row; got {len(codes)}")
    side = np.zeros(int(codes.max()) + 1, dtype=bool)
    side[codes[n:]] = True
    if side[codes[:n]].any():
        raise ValueError("blocks: expected none with rows of both sets")
    kernel, bandwidth = gaussian_kernel(np.concatenate([x, y]))
    total = float(kernel.sum(dtype=np.float64))
    in_rows = kernel.sum(axis=1, dtype=np.float64)

    def discrepancy(second: Vectors) -> Floats:
        """(P,) of arrangements (N + M, P) that are 1 where a row is of the second set."""
        of_second = in_rows @ second
        within = np.einsum("ip,ip->p", second, kernel @ second, dtype=np.float64)
        between, first = of_second - within, total - 2 * of_second + within
        size = second.sum(axis=0, dtype=np.float64)
        rest = n + m - size
        return np.asarray(
            first / np.maximum(rest * (rest - 1), 1)
            + within / np.maximum(size * (size - 1), 1)
            - 2 * between / np.maximum(size * rest, 1)
        )

    observed = float(discrepancy(side[codes][:, None].astype(np.float32))[0])
    tried = at_least = 0
    for arrangement in _arrangements(side, permutations, np.random.default_rng(seed)):
        others = discrepancy(arrangement[:, codes].T.astype(np.float32))
        tried += len(others)
        at_least += int((others >= observed - 1e-12 - 1e-6 * abs(observed)).sum())
    ways = comb(len(side), int(side.sum()))
    exact = ways <= permutations
    p_value = at_least / tried if exact else (at_least + 1) / (tried + 1)
    alike = 2 if 2 * int(side.sum()) == len(side) else 1  # with sides swapped it is the same
    least = alike / ways if exact else 1 / (permutations + 1)
    return KernelTest(observed, p_value, least, _told_apart(kernel, n), bandwidth)


def gaussian_kernel(rows: Vectors) -> tuple[Vectors, float]:
    """exp(-d² / 2h²) of all pairs (N, N), 0 on the diagonal and less its mean elsewhere, and the bandwidth h.

    h is the median distance of the pairs. Taking off the mean changes no discrepancy and saves digits.
    """
    rows = rows - rows.mean(axis=0)
    half = np.einsum("ij,ij->i", rows, rows) / 2
    squares: Vectors = 2 * np.maximum(half[:, None] + half - rows @ rows.T, 0)
    np.fill_diagonal(squares, 0)
    middle = (len(rows) * (len(rows) + 1)) // 2  # of the pairs, behind the zeros of the diagonal
    median = float(np.partition(squares, middle, axis=None)[middle])
    if not median > 0:  # more than half of the pairs are copies
        median = float(squares.mean(dtype=np.float64)) or 1.0
    np.exp(squares / np.float32(-2 * median), out=squares)
    np.fill_diagonal(squares, 0)
    squares -= squares.sum(dtype=np.float64).astype(np.float32) / (len(rows) * (len(rows) - 1))
    np.fill_diagonal(squares, 0)
    return squares, float(np.sqrt(median))


def _arrangements(
    side: npt.NDArray[np.bool_], permutations: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.bool_]]:
    """Which blocks are of the second set (P, blocks), some at a time: all ways where there are no more than asked for."""
    chosen = int(side.sum())
    ways = comb(len(side), chosen)
    if ways <= permutations:
        every = np.zeros((ways, len(side)), dtype=bool)
        for row, blocks in enumerate(combinations(range(len(side)), chosen)):
            every[row, list(blocks)] = True
        yield every
        return
    for start in range(0, permutations, _AT_ONCE):
        yield rng.permuted(np.tile(side, (min(_AT_ONCE, permutations - start), 1)), axis=1)


def _told_apart(kernel: Vectors, n: int) -> float:
    """Area under the curve of each row's mean kernel with the second set less that with the first, itself left out."""
    m = len(kernel) - n
    first, second = kernel[:, :n].sum(axis=1, dtype=np.float64), kernel[:, n:].sum(axis=1, dtype=np.float64)
    own = np.arange(len(kernel)) < n
    score = second / np.where(own, m, m - 1) - first / np.where(own, n - 1, n)
    ordered = np.sort(score[:n])
    below = np.searchsorted(ordered, score[n:], side="left") + np.searchsorted(ordered, score[n:], side="right")
    return float(below.mean() / (2 * n))


def population_stability(before: npt.NDArray[Any], now: npt.NDArray[Any]) -> float:
    """Population stability index of counts (K,) by value: sum of (q - p) ln(q / p) of the shares, half an item added.

    Up to 0.1 is taken for stable, from 0.25 for changed (Siddiqi, "Credit risk scorecards", 2006). It is Jeffreys'
    divergence of the two.
    """
    return float(_stability(before, now))


def _stability(before: npt.NDArray[Any], now: npt.NDArray[Any]) -> Floats:
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (before + _HALF, now + _HALF))
    result: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return result


def stability_by_chance(
    before: npt.NDArray[Any], now: npt.NDArray[Any], *, inflation: tuple[float, float] = (1.0, 1.0), seed: int = 0
) -> tuple[float, float]:
    """(mean index, p) of sets of these sizes drawn from one distribution: the index of small sets is never 0.

    `inflation` of either side by its blocks, see `block_inflation`; a side counts as so many times fewer items. By
    simulation; about (K - 1)(1/N + 1/M) is expected (Yurdakul, "Statistical properties of population stability index",
    2018).
    """
    rng = np.random.default_rng(seed)
    pooled = (before + now) / (before.sum() + now.sum())
    sizes = [max(1, round(float(side.sum()) / times)) for side, times in zip((before, now), inflation, strict=True)]
    drawn = [rng.multinomial(size, pooled, _SIMULATIONS) for size in sizes]
    chance = _stability(drawn[0], drawn[1])
    observed = population_stability(
        *(side / side.sum() * size for side, size in zip((before, now), sizes, strict=True))
    )
    return float(chance.mean()), (int((chance >= observed).sum()) + 1) / (_SIMULATIONS + 1)


def block_inflation(codes: Ints, blocks: Ints | None, shares: Floats) -> float:
    """How many times more the counts of values vary, drawn in blocks, than drawn one by one; at least 1.

    codes (N,) in [0, K), the value of each item; shares (K,) of the values, none 0 that occurs. The mean design effect
    of Rao and Scott, Annals of Statistics 12 (1984).
    """
    if blocks is None or not len(codes):
        return 1.0
    known = shares > 0
    sums, _ = _squared_sums(codes, blocks, shares)
    return max(1.0, float((sums[known] / shares[known]).sum()) / (len(codes) * max(1, int(known.sum()) - 1)))


@dataclass(frozen=True)
class ShareShift:
    """By class (K,): its share before and now, and the p of equal shares, 1 where there are too few to tell."""

    before: Floats
    now: Floats
    p_value: Floats


def share_shift(
    before: Ints,
    now: Ints,
    classes: int,
    *,
    blocks: tuple[Ints, Ints] | None = None,
) -> ShareShift:
    """Compare the share of each class among labels (N,) and (M,), integers in [0, classes).

    Pearson's chi-square of each class against all others; its variance is that of the sums of blocks where these are
    given, and then p is of Student's t (Cameron and Miller, Journal of Human Resources 50, 2015).
    """
    from scipy.special import ndtr, stdtr

    sides = (before, now)
    counts = [np.bincount(side, minlength=classes).astype(np.float64) for side in sides]
    total = counts[0] + counts[1]
    pooled = total / max(1.0, total.sum())
    shares = [count / max(1.0, count.sum()) for count in counts]
    variance = np.zeros(classes)
    number = 0
    for place, (side, count) in enumerate(zip(sides, counts, strict=True)):
        n = max(1.0, count.sum())
        drawn = pooled * (1 - pooled) / n
        if blocks is not None:
            sums, blocks_here = _squared_sums(side, blocks[place], pooled)
            number += blocks_here
            drawn = np.maximum(drawn, sums / n**2)
        variance += drawn
    z = np.abs(shares[1] - shares[0]) / np.sqrt(np.maximum(variance, 1e-300))
    p = 2 * (ndtr(-z) if blocks is None else stdtr(max(1, number - 2), -z))
    expected = pooled * min(len(before), len(now))
    return ShareShift(shares[0], shares[1], np.where(expected < _LEAST_EXPECTED, 1.0, p))


def _squared_sums(codes: Ints, blocks: Ints, shares: Floats) -> tuple[Floats, int]:
    """Sum over blocks of (a class's count less its expected count)², by class, and how many blocks there are."""
    _, where = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(where).astype(np.float64)
    cells, counts = np.unique(where * len(shares) + codes, return_counts=True)
    of_class = cells % len(shares)
    own = np.bincount(of_class, weights=counts.astype(np.float64) ** 2, minlength=len(shares))
    cross = np.bincount(of_class, weights=counts * sizes[cells // len(shares)], minlength=len(shares))
    return own - 2 * shares * cross + shares**2 * (sizes**2).sum(), len(sizes)


def nearest_distance(rows: Vectors, among: Vectors, *, itself: bool = False) -> Floats:
    """Cosine distance (N,) of each row, of unit length, to the nearest of others (M, D), also of unit length.

    `itself`: the two are the same, and a row is not its own neighbour.
    """
    nearest = np.empty(len(rows))
    for start in range(0, len(rows), 1024):
        alike = rows[start : start + 1024] @ among.T
        if itself:
            alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -np.inf
        nearest[start : start + 1024] = 1 - alike.max(axis=1)
    return np.maximum(nearest, 0.0)
