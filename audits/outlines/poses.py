"""How usual a pose is: lengths of limbs, and points of the left named as those of the right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_FEWEST_LIMBS: Final = 4  # labeled limbs of an instance by which its size is known, whatever is hidden
_FREEDOM: Final = 5.0  # of Student's t: poses have heavier tails than a Gaussian, which would call rare ones impossible
_RIDGE: Final = 1e-3  # of the mean variance, added to all: points that never move may
_ROWS: Final = 100_000  # judged at once
_FIT_ROWS: Final = 20_000  # about so many poses are learned from
_ROUNDS: Final = 10  # of the fit, in which it settles to a percent of the deviations
FEWEST_POSES: Final = 100  # of a class, or of a part of it, to learn from
_SIDE: Final = re.compile(r"left|right|(?<![^-_. ])[lr](?![^-_. ])")
_SIDES: Final = {"left": "right", "right": "left", "l": "r", "r": "l"}


def mirror_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Positions of points that are each other's left and right by their names: left_eye and right_eye, eye_l and eye_r."""
    place = {name.lower(): number for number, name in enumerate(names)}
    mirrored = {_SIDE.sub(lambda found: _SIDES[found[0]], name): number for name, number in place.items()}
    return [(number, mirrored[name]) for name, number in place.items() if number < mirrored.get(name, number)]


def limb_deviations(points: Floats, limbs: Ints) -> Floats:
    """How much too long each limb is, (N, L) in robust deviations; NaN where that is not known.

    points (N, K, 2), NaN where not labeled; limbs (L, 2) positions of their ends. Lengths are compared by their
    logarithms, with those of the same limb elsewhere and with the other limbs of the same instance, whose median gives
    its size: how much of it a box shows does not matter. Foreshortening makes limbs short, nothing makes them long.
    """
    step = points[:, limbs[:, 0]] - points[:, limbs[:, 1]]
    log = np.log(np.maximum(np.hypot(step[..., 0], step[..., 1]), 1.0))  # below a pixel lengths say nothing
    log[(~np.isnan(log)).sum(axis=1) < _FEWEST_LIMBS] = np.nan
    for axis in (0, 1, 0):
        log = log - _median(log, axis)
    above = np.where(log > 0, log, np.nan)
    off: Floats = log / np.maximum(_median(above, 0) / 0.6745, 1e-3)
    return off


def _median(values: Floats, axis: int) -> Floats:
    """Along an axis that is kept; 0 where all is NaN."""
    known = ~np.isnan(values).all(axis=axis, keepdims=True)
    filled = np.where(known, values, 0.0)
    middle: Floats = np.nanmedian(filled, axis=axis, keepdims=True)
    return middle


@dataclass(frozen=True)
class Swaps:
    """For each instance the exchange that makes its pose most probable: `gain` (N,) in natural log odds, 0 where none
    does; `pair` (N,): the number of the pair that is exchanged, −1 for all of them at once."""

    gain: Floats
    pair: Ints


def swapped_sides(poses: Floats, pairs: Sequence[tuple[int, int]]) -> Swaps:
    """How much more probable each pose (N, K, 2) is with left and right exchanged, of one pair or of all.

    Poses are in units of the instance's size, NaN where a point is not labeled. Probable is what looks like the others:
    a multivariate t distribution of all coordinates (Lange, Little and Taylor, JASA 84, 1989), one each for instances
    with and without the points that most tell how they face the viewer, such as the nose. Pairs count of which both are
    labeled: which one can be seen is no matter of names.
    """
    exchanges = [list(pairs), *([pair] for pair in pairs)] if len(pairs) > 1 else [list(pairs)]
    model = _fit(poses[:: max(1, len(poses) // _FIT_ROWS)], pairs)
    gain, best = np.zeros(len(poses)), np.zeros(len(poses), np.int64)
    for start in range(0, len(poses), _ROWS):
        part = poses[start : start + _ROWS].copy()
        facing = model.facing(part)
        for one, other in pairs:
            alone = np.flatnonzero(np.isnan(part[:, one, 0]) | np.isnan(part[:, other, 0]))
            part[alone, one] = part[alone, other] = np.nan
        given = model.log_density(part, facing)
        gains = np.stack(
            [model.log_density(part[:, _exchanged(part.shape[1], one)], facing) - given for one in exchanges]
        )
        best[start : start + _ROWS] = gains.argmax(axis=0)
        gain[start : start + _ROWS] = gains.max(axis=0)
    return Swaps(np.maximum(gain, 0.0), best - 1 if len(pairs) > 1 else best)


def _exchanged(points: int, pairs: Sequence[tuple[int, int]]) -> Ints:
    order = np.arange(points)
    for one, other in pairs:
        order[one], order[other] = other, one
    return order


class _Model:
    """Student's t of flat poses, one for those without and one for those with one of the points `telling`."""

    def __init__(self, telling: tuple[int, ...], without: _Cloud, within: _Cloud) -> None:
        self._telling, self._clouds = telling, (without, within)
        self._known: dict[tuple[bytes, int], tuple[Floats, Floats]] = {}

    def facing(self, poses: Floats) -> Bools:
        return _labeled(poses, self._telling)

    def log_density(self, poses: Floats, facing: Bools) -> Floats:
        """Natural logarithm (N,) of the density of the labeled points, but for a constant of those and `facing`."""
        flat = poses.reshape(len(poses), -1)
        density = np.zeros(len(poses))
        for group in (0, 1):
            of_group = np.flatnonzero(facing == group)
            for known, part in _by_pattern(flat[of_group]):
                key = (known.tobytes(), group)
                if key not in self._known:
                    self._known[key] = self._clouds[group].marginal(known)
                mean, whitening = self._known[key]
                rows = of_group[part]
                z = (flat[np.ix_(rows, known)] - mean) @ whitening
                density[rows] = -(_FREEDOM + len(mean)) / 2 * np.log1p((z * z).sum(axis=1) / _FREEDOM)
        return density


def _by_pattern(flat: Floats) -> Iterator[tuple[Bools, Ints]]:
    """Which coordinates are known (D,), and the rows of which that holds."""
    if not len(flat):
        return
    known = ~np.isnan(flat)
    keys = np.ascontiguousarray(np.packbits(known, axis=1))
    _, first, which = np.unique(keys.view(f"V{keys.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(which, kind="stable")
    for one, rows in zip(first, np.split(order, np.searchsorted(which[order], np.arange(1, len(first)))), strict=True):
        yield known[one], rows


@dataclass(frozen=True)
class _Cloud:
    """Centre (D,) and scale (D, D) of a multivariate t distribution."""

    mean: Floats
    scale: Floats

    def marginal(self, known: Bools) -> tuple[Floats, Floats]:
        """Mean of the known coordinates, and a matrix that makes them independent and of scale 1."""
        factor = np.linalg.cholesky(self.scale[np.ix_(known, known)])
        return self.mean[known], np.linalg.inv(factor).T


def _cloud(flat: Floats) -> _Cloud:
    """Fitted to rows (N, D) with missing values by expectation and maximisation."""
    count, size = flat.shape
    known = ~np.isnan(flat)
    mean = np.nan_to_num(flat).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    variance = np.where(known, flat - mean, 0.0).var(axis=0)
    least = max(_RIDGE * float(variance.mean()), 1e-9) * np.eye(size)
    cloud = _Cloud(mean, np.diag(variance) + least)
    patterns = list(_by_pattern(flat))
    filled = np.empty_like(flat)
    for _ in range(_ROUNDS):
        weight, spare = np.empty(count), np.zeros((size, size))
        for seen, rows in patterns:
            centre, whitening = cloud.marginal(seen)
            z = (flat[np.ix_(rows, seen)] - centre) @ whitening
            weight[rows] = (_FREEDOM + len(centre)) / (_FREEDOM + (z * z).sum(axis=1))
            filled[np.ix_(rows, seen)] = flat[np.ix_(rows, seen)]
            if not seen.all():
                towards = cloud.scale[np.ix_(~seen, seen)] @ whitening
                filled[np.ix_(rows, ~seen)] = cloud.mean[~seen] + z @ towards.T
                rest = cloud.scale[np.ix_(~seen, ~seen)] - towards @ towards.T
                spare[np.ix_(~seen, ~seen)] += len(rows) * rest
        mean = weight @ filled / weight.sum()
        off = filled - mean
        cloud = _Cloud(mean, ((off * weight[:, None]).T @ off + spare) / count + least)
    return cloud


def _labeled(poses: Floats, points: Sequence[int]) -> Bools:
    """Which poses have at least one of the points."""
    found = np.zeros(len(poses), np.bool_)
    for point in points:
        found |= ~np.isnan(poses[:, point, 0])
    return found


def _fit(poses: Floats, pairs: Sequence[tuple[int, int]]) -> _Model:
    telling = _telling_points(poses, pairs)
    has = _labeled(poses, telling)
    flat = poses.reshape(len(poses), -1)
    if min(has.sum(), (~has).sum()) < FEWEST_POSES:
        cloud = _cloud(flat)
        return _Model(telling, cloud, cloud)
    return _Model(telling, _cloud(flat[~has]), _cloud(flat[has]))


def _telling_points(poses: Floats, pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The point, or the pair, that by being labeled or not most changes where left lies from right."""
    one, other = np.array(pairs).T
    step = (poses[:, one] - poses[:, other]).reshape(len(poses), -1)
    known = (~np.isnan(step)).astype(np.float64)
    across = np.nan_to_num(step)
    spread = np.maximum((across**2).sum(axis=0) / np.maximum(known.sum(axis=0), 1), 1e-12)
    single = set(range(poses.shape[1])) - set(one) - set(other)
    choices = [*((point,) for point in sorted(single)), *pairs]
    has = np.stack([_labeled(poses, points) for points in choices]).astype(np.float64)
    counts = [chosen @ known for chosen in (has, 1 - has)]
    means = [chosen @ across / np.maximum(count, 1) for chosen, count in zip((has, 1 - has), counts, strict=True)]
    weight = counts[0] * counts[1] / np.maximum(counts[0] + counts[1], 1)  # what all have, or none, tells nothing
    return tuple(choices[int((weight * (means[0] - means[1]) ** 2 / spread).sum(axis=1).argmax())])
