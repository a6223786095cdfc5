"""What labels were worth: how right a learner is before and after them, with what can be known of it.

Everything is measured on evaluation items that the learner was not taught, pairwise where two states of it are
compared. Intervals are of 95 %; where there is too little to say, a reason takes the place of a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasetops.active_learning.learner import FitPredict
from datasetops.active_learning.pool import UNLABELED, Floats, Ints
from datasetops.audits.labels.probe import assign_folds
from datasetops.audits.sampling.bounds import clopper_pearson

CONFIDENCE: Final = 0.95
FEWEST_JUDGED: Final = 20  # independent evaluation items: with fewer an interval is wider than any gain
FEWEST_TAUGHT: Final = 10  # items of each arm: halves of fewer say nothing of how much the draw matters
_FOLDS: Final = 5  # where evaluation items also teach
_REPLICATES: Final = 2_000
_BLOCK: Final = 4_000_000  # cells of the weights that are held at once
_REPEATS: Final = 12  # subsets of each arm
# Two right and two wrong items (Agresti and Coull, The American Statistician 52, 1998), and one pair each way with two
# ties (Agresti and Min, Statistics in Medicine 24, 2005), so that all right, or no difference, is no certainty.
_PSEUDO_SHARES: Final = (1.0, 1.0, 0.0, 0.0)
_PSEUDO_GAINS: Final = (1.0, -1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of shares, with the interval in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(getattr(self, name), 5) for name in ("value", "low", "high")}


@dataclass(frozen=True)
class Evaluation:
    """How to tell whether a learner that was taught some labels is right.

    `embeddings` (N, D) finite, `labels` (N,) in [0, classes), `groups` (N,) numbers of what must not be taught and
    judged at once, `rows` (E,) the evaluation items.
    """

    embeddings: npt.NDArray[np.float32]
    labels: Ints
    groups: Ints
    classes: int
    rows: Ints
    fit_predict: FitPredict
    seed: int = 0

    @property
    def units(self) -> Ints:
        """The group (E,) of each evaluation item."""
        return self.groups[self.rows]

    def right(self, taught: Ints) -> Floats:
        """How right (E,), in [0, 1], a learner is that was taught the labels of some rows, none of an item's own group.

        Where evaluation items are among the taught, or in a group of theirs, they are judged in folds.
        """
        out = np.empty(len(self.rows))
        shared = np.isin(self.units, self.groups[taught])
        fold: Ints = np.zeros(len(self.rows), np.int64)
        if shared.any():
            fold = assign_folds(self.labels[self.rows], self.units, _FOLDS, self.seed)
        for number in np.unique(fold):
            judged = self.rows[fold == number]
            some = taught[~np.isin(self.groups[taught], self.groups[judged])]
            out[fold == number] = self._right_of(some, judged)
        return out

    def _right_of(self, taught: Ints, judged: Ints) -> Floats:
        truth = self.labels[judged]
        present = np.unique(self.labels[taught])
        if len(present) == 0:
            return np.full(len(judged), 1 / self.classes)  # a guess
        if len(present) == 1:
            only: Floats = (truth == present[0]).astype(np.float64)
            return only
        rows = np.concatenate([taught, judged])
        given = np.concatenate([self.labels[taught], np.full(len(judged), UNLABELED)])
        said = self.fit_predict(self.embeddings[rows], given, self.classes, groups=self.groups[rows], seed=self.seed)
        right: Floats = (np.asarray(said)[len(taught) :].argmax(axis=1) == truth).astype(np.float64)
        return right


def metric_replicates(right: Floats, units: Ints, rng: np.random.Generator) -> Floats:
    """Bootstrap replicates (B, R) of the shares right (R, E): units are drawn whole, the same for all R."""
    return _bootstrap(np.atleast_2d(right), units, _PSEUDO_SHARES, rng)


def share_right(right: Floats, units: Ints, rng: np.random.Generator) -> Estimate:
    """The share of evaluation items (E,) that a learner is right about."""
    return _estimate(float(right.mean()), metric_replicates(right, units, rng)[:, 0])


def change(before: Floats, after: Floats, units: Ints, rng: np.random.Generator) -> Estimate:
    """By how much the share right of the same items (E,) changed."""
    gained = after - before
    return _estimate(float(gained.mean()), _bootstrap(gained[None], units, _PSEUDO_GAINS, rng)[:, 0])


def accuracy_from_random(right: int, checked: int) -> Estimate:
    """A model's accuracy on a pool, from a uniform sample of it; exact (Clopper and Pearson, Biometrika 26, 1934)."""
    if not 0 <= right <= checked or checked < 1:
        raise ValueError(f"right: expected 0 to {checked} of at least one; got {right}")
    low, high = clopper_pearson(right, checked, (1 + CONFIDENCE) / 2)
    return Estimate(right / checked, low, high)


def over_chance(
    evaluation: Evaluation, known: Ints, by_strategy: Ints, by_chance: Ints, rng: np.random.Generator
) -> Estimate | str:
    """What as many labels of a strategy's arm gained over labels of a random arm, beside those that were known before.

    `known`, `by_strategy` and `by_chance` are rows. The smaller arm says how many; of the larger one random subsets
    are taken and averaged. The interval is for the strategy's batch as it was chosen, over evaluation items and over
    the draw of the random arm, whose part is told by halves of it (delete-half jackknife: Shao and Wu, Annals of
    Statistics 17, 1989). A sentence where there is too little to say.
    """
    m = min(len(by_strategy), len(by_chance))
    units = len(np.unique(evaluation.units))
    if m < FEWEST_TAUGHT:
        which = "random" if len(by_chance) == m else "strategy's"
        return f"the {which} arm has {m:,} labels, and {FEWEST_TAUGHT} are the least that say something"
    if units < FEWEST_JUDGED:
        return f"{units:,} evaluation items are independent of these labels, and {FEWEST_JUDGED} are the least"
    chosen = _taught_subsets(evaluation, known, by_strategy, m, rng)
    drawn = _taught_subsets(evaluation, known, by_chance, m, rng)
    gained = chosen.mean(axis=0) - drawn.mean(axis=0)
    judged = float(_bootstrap(gained[None], evaluation.units, _PSEUDO_GAINS, rng)[:, 0].var())
    size = min(m, len(by_chance) // 2)
    halves = drawn if size == m else _taught_subsets(evaluation, known, by_chance, size, rng)
    draw = _spread(halves) * size / (len(by_chance) - size)
    chance = _spread(chosen) / len(chosen) if len(chosen) > 1 else 0.0  # of the subsets, not of the batch
    error = np.sqrt(judged + draw + chance)
    from scipy.stats import t

    # Satterthwaite's degrees of freedom; the halves of m labels know no more than m - 1, nor than there are of them.
    parts = ((judged, units - 1), (draw, min(m, len(halves)) - 1), (chance, max(1, len(chosen) - 1)))
    freedom = error**4 / sum(part**2 / free for part, free in parts)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom) * error)
    value = float(gained.mean())
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach))


def _taught_subsets(evaluation: Evaluation, known: Ints, arm: Ints, size: int, rng: np.random.Generator) -> Floats:
    """How right (R, E) a learner is after random subsets of an arm: one where the subset is the whole arm."""
    times = 1 if size == len(arm) else _REPEATS
    subsets = [np.sort(rng.permutation(arm)[:size]) for _ in range(times)]
    return np.stack([evaluation.right(np.union1d(known, subset)) for subset in subsets])


def _spread(right: Floats) -> float:
    return float(right.mean(axis=1).var(ddof=1))


def _bootstrap(values: Floats, units: Ints, pseudo: Sequence[float], rng: np.random.Generator) -> Floats:
    """Means (B, R) of values (R, E) over units drawn with replacement; each pseudo value is a unit of one item."""
    codes = np.unique(units, return_inverse=True)[1]
    n = int(codes.max()) + 1
    extra = np.asarray(pseudo)
    sums = np.stack([np.concatenate([np.bincount(codes, row, n), extra]) for row in values])
    sizes = np.concatenate([np.bincount(codes, minlength=n), np.ones(len(extra))])
    n += len(extra)
    out = np.empty((_REPLICATES, len(values)))
    step = max(1, _BLOCK // n)
    for start in range(0, _REPLICATES, step):
        stop = min(_REPLICATES, start + step)
        weights = rng.multinomial(n, np.full(n, 1 / n), stop - start).astype(np.float64)
        out[start:stop] = weights @ sums.T / (weights @ sizes)[:, None]
    return out


def _estimate(value: float, replicates: Floats) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value))
