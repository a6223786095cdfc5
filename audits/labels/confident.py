"""Confident learning over arrays of any height: which given labels look wrong, from out-of-sample probabilities.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 70 (2021).
The decisions are those of cleanlab 2.9, flag for flag; the work differs. Probabilities are read in blocks that fit the
processor's cache, a memory-mapped file gives its pages back after each block, and only rows that can be among the
flagged ones are ranked. Extra memory is some tens of bytes a row, one block a thread, and the (K, K) joint.

Everywhere `labels` is (N,) integer in [0, K), the given labels; `probs` is (N, K) float32 or float64, array or memory
map, each row summing to one, predicted by a model that did not see that row's label. All functions raise ValueError
where that does not hold. `jobs` is a number of threads and changes no result.

Rows that tie exactly at a cut are equally suspect. numpy's default sort picks among them, as it does for cleanlab, so
the flags are equal to cleanlab's on the same machine; between machines numpy may pick others among the tied.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
U = TypeVar("U")
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[Any]  # float32 or float64, whichever the probabilities are
FilterBy = Literal[
    "prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given", "low_self_confidence"
]

ROW_SUM_TOLERANCE = 0.01  # lets through probabilities that were stored as float16 or with three decimals
TOLERANCE = 1e-6  # of comparisons between probabilities; part of cleanlab's definition
_ABSENT = 2.0  # threshold of a class that nobody was given: no probability reaches it
_BLOCK = 2**18  # elements read at a time: 1 MiB of float32, within the level 2 cache
_ROWS = 64  # scattered rows read at a time: of a memory map, each may bring in two MiB of the file
_CHUNK = 2**22  # elements ranked at a time, at least one column


def self_confidence(labels: npt.ArrayLike, probs: Floats, *, jobs: int = 1) -> Floats:
    """The probability of each given label: (N,) in [0, 1], 1 = clean, in the type of `probs`."""
    given = _checked(labels, probs)
    _each_block(lambda block, rows: _check_values(block, block, rows.start), probs, jobs)
    return _self_confidence(given, probs, jobs)


def class_thresholds(labels: npt.ArrayLike, probs: Floats, *, jobs: int = 1) -> Floats:
    """Mean self-confidence of each class: (K,); 2 for a class that no row was given, never below 2e-6."""
    given = _checked(labels, probs)
    return _thresholds(self_confidence(given, probs, jobs=jobs), _by_class(given, probs.shape[1]))


def confident_joint(labels: npt.ArrayLike, probs: Floats, *, jobs: int = 1) -> Ints:
    """Estimated counts of (given label, true label): (K, K), row k sums to the number of rows given k.

    Rows whose probability reaches a class's threshold are counted for that class; the counts are then calibrated to
    the given labels and rounded with each row's sum kept.
    """
    given = _checked(labels, probs)
    return _joint(given, _scan(given, probs, jobs).guess, probs.shape[1])


def find_label_issues(
    labels: npt.ArrayLike,
    probs: Floats,
    *,
    filter_by: FilterBy = "prune_by_noise_rate",
    min_examples_per_class: int = 1,
    jobs: int = 1,
) -> Bools:
    """Which given labels look wrong: mask (N,), the same as that of `cleanlab.filter.find_label_issues`.

    - `prune_by_noise_rate`: for each pair of classes as many rows as the joint holds, those of largest margin
    - `prune_by_class`: for each class as many rows as the joint holds off its diagonal, those of least self-confidence
    - `both`: flagged by both of these
    - `confident_learning`: rows counted off the diagonal of the joint
    - `predicted_neq_given`: rows for which another class is the most probable
    - `low_self_confidence`: as many rows as `confident_learning` flags, those of least self-confidence

    All but the last spare rows whose given label is within 1e-6 of the most probable class. The two prune filters
    leave at least `min_examples_per_class` rows of every class, and never flag in a class that has no more than that.
    A flag is a suspicion: people confirm a half of them on some datasets and a sixth on others.
    """
    if filter_by not in get_args(FilterBy):
        raise ValueError(f"filter_by: expected one of {', '.join(get_args(FilterBy))}; got {filter_by!r}")
    if min_examples_per_class < 0:
        raise ValueError(f"min_examples_per_class: expected at least 0; got {min_examples_per_class}")
    given = _checked(labels, probs)
    scan = _scan(given, probs, jobs)
    confident_issues: Bools = scan.differs & (scan.guess >= 0) & (scan.guess != given)
    if filter_by == "predicted_neq_given":
        return scan.differs
    if filter_by == "confident_learning":
        return confident_issues
    if filter_by == "low_self_confidence":
        least_sure = np.zeros(given.size, dtype=bool)
        least_sure[np.argsort(scan.own)[: np.count_nonzero(confident_issues)]] = True
        return least_sure
    counts = _leave_at_least(min_examples_per_class, _joint(given, scan.guess, probs.shape[1]))
    issues: npt.NDArray[np.bool_] = scan.differs
    if filter_by in ("prune_by_class", "both"):
        issues = issues & _prune_by_class(scan, counts, min_examples_per_class)
    if filter_by in ("prune_by_noise_rate", "both"):
        issues = issues & _prune_by_noise_rate(probs, scan, counts, min_examples_per_class, jobs)
    return issues


def estimate_errors(labels: npt.ArrayLike, probs: Floats, *, jobs: int = 1) -> float:
    """About how many given labels are wrong, in [0, N]: an estimate without a guarantee, not a bound.

    The noise matrix P(given | true) comes from the confident joint; its pseudo-inverse turns the probabilities, learned
    from given labels, into those of the true class, and the sum of one minus each given label's posterior is told.
    Where the model cannot tell classes apart, its doubt is counted as error: with a model right on 80 % of
    CIFAR-10N's images it told 957, 1,579 and 3,548 of 912, 1,782 and 4,104 wrong labels, with 60 % 2,225 of 912.
    State an error rate by reviewing a random sample; this number is for deciding where to look first.
    """
    given = _checked(labels, probs)
    k = probs.shape[1]
    joint = _joint(given, _scan(given, probs, jobs).guess, k)
    totals = joint.sum(axis=0)
    noise = np.where(totals > 0, joint / np.maximum(totals, 1), np.eye(k))
    to_true = np.linalg.pinv(noise).T

    def expected(block: Floats, rows: slice) -> float:
        true = np.maximum(block @ to_true, 0)
        own = given[rows]
        weight = np.einsum("ij,ij->i", true, noise[own])
        right = true[np.arange(len(block)), own] * noise[own, own]
        return float(np.sum(1 - np.divide(right, weight, out=np.zeros_like(right), where=weight > 0)))

    return sum(_each_block(expected, probs, jobs))


@dataclass(frozen=True)
class _Scan:
    """What one pass over the probabilities leaves for each row."""

    classes: list[Ints]  # the rows of each class
    own: Floats  # (N,) probability of the given label
    lead: Floats  # (N,) by how much the most probable class is more probable than the given one
    differs: Bools  # (N,) another class is more probable, by more than TOLERANCE
    guess: npt.NDArray[np.int32]  # (N,) the class that the row is confidently of; -1 for none
    slack: float  # two probabilities of one row sum to at most 1 + slack


def _scan(given: Ints, probs: Floats, jobs: int) -> _Scan:
    n, k = probs.shape
    classes = _by_class(given, k)
    own = _self_confidence(given, probs, jobs)
    cutoff = _thresholds(own, classes) - TOLERANCE
    lowest = cutoff.min()
    lead = np.empty_like(own)
    differs = np.empty(n, dtype=bool)
    guess = np.empty(n, dtype=np.int32)

    def scan_block(block: Floats, rows: slice) -> float:
        predicted = block.argmax(axis=1)
        top = block[np.arange(len(block)), predicted]
        totals, slack = _check_values(block, top, rows.start)
        raised = own[rows] + block.dtype.type(TOLERANCE)
        label = given[rows]
        near = (raised > top) | ((raised == top) & (label < predicted)) | (label == predicted)
        differs[rows] = ~near
        lead[rows] = top - own[rows]
        sure = top >= cutoff[predicted]
        found = np.where(sure, predicted, -1)
        # A class other than the most probable one is at most min(top, total - top): most rows end here.
        unsure = np.flatnonzero(~sure & (np.minimum(top, totals - top + slack) >= lowest))
        if unsure.size:
            reached = block[unsure] >= cutoff
            number = reached.sum(axis=1, dtype=np.int32)
            found[unsure] = np.where(number > 1, predicted[unsure], np.where(number == 1, reached.argmax(axis=1), -1))
        guess[rows] = found
        return float(totals.max()) - 1 + slack

    slack = max(_each_block(scan_block, probs, jobs), default=0.0)
    return _Scan(classes, own, lead, differs, guess, max(slack, 0.0))


def _self_confidence(given: Ints, probs: Floats, jobs: int) -> Floats:
    own = np.empty(len(probs), dtype=probs.dtype)

    def gather(block: Floats, rows: slice) -> None:
        own[rows] = block[np.arange(len(block)), given[rows]]

    _each_block(gather, probs, jobs)
    return own


def _thresholds(own: Floats, classes: list[Ints]) -> Floats:
    # A mean in the type of the probabilities, over the rows in order: the last bits decide about rows on the threshold.
    means = [own[rows].mean() if rows.size else _ABSENT for rows in classes]
    return np.asarray(np.maximum(np.array(means), 2 * TOLERANCE))


def _joint(given: Ints, guess: npt.NDArray[np.int32], k: int) -> Ints:
    # True class by given class, so that the sums below run in the same order as cleanlab's and round alike. The first
    # row is of rows that are confidently of no class.
    counts = np.bincount((guess + np.int64(1)) * k + given, minlength=k * (k + 1)).reshape(k + 1, k)[1:]
    np.fill_diagonal(counts, np.maximum(counts.diagonal(), 1))
    calibrated = counts / counts.sum(axis=0) * np.bincount(given, minlength=k)
    calibrated = calibrated / max(calibrated.sum(), 1) * given.size
    return _round_rows(calibrated.T)


def _round_rows(values: npt.NDArray[np.float64]) -> Ints:
    """Rounded to integers, those with the largest remainders so that each row keeps its (rounded) sum."""
    rounded = np.round(values)
    missing = np.round(values.sum(axis=1)) - rounded.sum(axis=1)
    for row in np.flatnonzero(missing):
        step = int(np.sign(missing[row]))
        by_remainder = np.argsort(values[row] - rounded[row])[::-step]
        rounded[row, by_remainder[: int(abs(missing[row]))]] += step
    return rounded.astype(np.int64)


def _leave_at_least(minimum: int, joint: Ints) -> Ints:
    """The joint with its diagonal raised to `minimum`, at the equal expense of the other classes of the row."""
    diagonal = joint.diagonal()
    raised = np.maximum(diagonal, minimum)
    others = np.maximum(np.count_nonzero(joint, axis=1) - 1, 1)
    counts: Ints = np.maximum(joint - ((raised - diagonal) / others)[:, None], 0).astype(np.int64)
    np.fill_diagonal(counts, raised)
    return counts


def _prune_by_class(scan: _Scan, counts: Ints, minimum: int) -> Bools:
    issues = np.zeros(scan.own.size, dtype=bool)
    for k, rows in enumerate(scan.classes):
        number = rows.size - counts[k, k]
        if rows.size > max(minimum, 1) and number > 0:
            issues[rows[np.argsort(scan.own[rows])[:number]]] = True
    return issues


def _prune_by_noise_rate(probs: Floats, scan: _Scan, counts: Ints, minimum: int, jobs: int) -> Bools:
    issues = np.zeros(len(probs), dtype=bool)

    def prune(k: int) -> None:
        rows = scan.classes[k]
        others = np.flatnonzero(counts[k])
        others = others[others != k]
        step = max(1, _CHUNK // max(rows.size, 1))
        if rows.size > max(minimum, 1):
            for some in (others[start : start + step] for start in range(0, others.size, step)):
                issues[rows] |= _largest_margins(probs, rows, scan, some, counts[k, some])

    _map(prune, range(len(counts)), jobs)
    return issues


def _largest_margins(probs: Floats, rows: Ints, scan: _Scan, others: Ints, numbers: Ints) -> Bools:
    """Of `rows`, all given one class, those among the `numbers[i]` with the largest p(others[i]) - p(given), for any i."""
    issues = np.zeros(rows.size, dtype=bool)
    own, lead = scan.own[rows], scan.lead[rows]
    # No margin of a row is above its lead or, where the given class leads, above 1 + slack - 2 p(given) or 0.
    bound = np.where(lead > 0, lead, np.minimum(1 + scan.slack - 2 * own, 0))
    reach = TOLERANCE  # most cuts lie above zero, so that rows whose given class leads need not be read
    while others.size:
        near = np.flatnonzero(bound >= reach)
        if near.size == 0:
            reach = -np.inf
            continue
        margins = _columns(probs, rows[near], others)
        margins -= own[near]
        most = int(numbers.max()) + 1
        top = np.partition(margins, -most, axis=1)[:, -most:] if most < near.size // 4 else margins
        ranked = np.sort(top, axis=1)
        each, last = np.arange(others.size), ranked.shape[1] - numbers
        cut = np.where(last >= 0, ranked[each, np.maximum(last, 0)], -np.inf)
        known = (cut >= reach) | (near.size == rows.size)
        tied = known & (last > 0) & (ranked[each, np.maximum(last, 1) - 1] == cut)
        issues[near] |= (margins >= np.where(known & ~tied, cut, np.inf)[:, None]).any(axis=0)
        for i in np.flatnonzero(tied):
            margin = _columns(probs, rows, others[i : i + 1])[0] - own
            issues[np.argsort(-margin)[: numbers[i]]] = True
        others, numbers, reach = others[~known], numbers[~known], cut.min()
    return issues


def _columns(probs: Floats, rows: Ints, columns: Ints) -> Floats:
    """`probs[rows][:, columns].T`, read a few rows at a time."""
    out = np.empty((columns.size, rows.size), dtype=probs.dtype)
    step = max(1, min(_ROWS, _BLOCK // probs.shape[1]))
    few = columns.size * 16 < probs.shape[1]  # then reading whole rows would cost more than it saves
    for start in range(0, rows.size, step):
        some = rows[start : start + step]
        out[:, start : start + step] = probs[some, columns[:, None]] if few else probs[some].T[columns]
        _release(probs)
    return out


def _by_class(given: Ints, k: int) -> list[Ints]:
    """The rows of each class, in order."""
    small = given.astype(np.uint16) if k <= 2**16 else given  # numpy sorts 16-bit integers by radix, in linear time
    order = np.argsort(small, kind="stable")
    return np.split(order, np.cumsum(np.bincount(given, minlength=k))[:-1])


def _checked(labels: npt.ArrayLike, probs: Floats) -> Ints:
    given = np.asarray(labels)
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(f"probs: expected shape (N, K) with at least two classes; got {probs.shape}")
    if probs.dtype not in (np.float32, np.float64):
        raise ValueError(f"probs: expected float32 or float64; got {probs.dtype}")
    n, k = probs.shape
    if given.shape != (n,):
        raise ValueError(f"labels: expected shape ({n},), one label for each row of probs; got {given.shape}")
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"labels: expected integers in [0, {k}); got {given.dtype}")
    if given.size and not 0 <= given.min() <= given.max() < k:
        raise ValueError(f"labels: expected integers in [0, {k}); got {given.min()} to {given.max()}")
    return given.astype(np.int64, copy=False)


def _check_values(block: Floats, largest: Floats, start: int) -> tuple[Floats, float]:
    """The sum of each row, and by how much sums of some of its elements may exceed it; `largest` holds the maxima."""
    totals = np.einsum("ij->i", block)
    good = np.abs(totals - 1) <= ROW_SUM_TOLERANCE  # false for NaN
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"probs: expected each row to sum to 1 within {ROW_SUM_TOLERANCE}; row {start + row} sums to {totals[row]}"
        )
    low, high = float(block.min()), float(largest.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        row = int(np.argmax(((block < -TOLERANCE) | (block > 1 + TOLERANCE)).any(axis=1)))
        raise ValueError(f"probs: expected values in [0, 1]; row {start + row} has {low if low < 0 else high}")
    width = block.shape[1]
    return totals, width * max(0.0, -low) + (width + 4) * float(np.finfo(block.dtype).eps)


def _each_block(work: Callable[[Floats, slice], U], probs: Floats, jobs: int) -> list[U]:
    n, k = probs.shape
    step = max(1, _BLOCK // k)

    def run(start: int) -> U:
        rows = slice(start, min(start + step, n))
        block = probs[rows]
        result = work(np.ascontiguousarray(block), rows)
        _release(block)
        return result

    return _map(run, range(0, n, step), jobs)


def _map(work: Callable[[T], U], items: Iterable[T], jobs: int) -> list[U]:
    if jobs <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, items))


def _release(block: Floats) -> None:
    """Give a memory map's pages under `block` back, so that reading a large file does not fill the memory.

    The file's pages stay in the system's cache. Private maps (mode "c") are left alone: their pages may hold changes.
    """
    owner: Any = block
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode == "c":
            return
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise"):
        first, last = np.lib.array_utils.byte_bounds(block)
        origin = np.frombuffer(owner, dtype=np.uint8).ctypes.data
        start = (first - origin) // mmap.PAGESIZE * mmap.PAGESIZE
        owner.madvise(mmap.MADV_DONTNEED, start, last - origin - start)
