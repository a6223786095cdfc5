"""What a detector's head sees of an image: a few numbers for each cell, learned without labels, and their surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from datasetops.models.dense import doubled

Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[np.float16]
Ints: TypeAlias = npt.NDArray[np.int64]

LEVELS: Final = ("out4", "out7", "wide10", "wide14")  # of datasetops.models.efficientnet_lite.MAPS
STRIDE: Final = 16  # pixels of the scaled image that a cell is wide; `fine` has half of it
_OF_LEVEL: Final = 128  # principal components of each depth
_COARSE: Final = 64  # numbers of a cell, from all depths together
_FINE: Final = 24
_RINGS: Final = (1, 3)  # cells between a cell and its neighbours that are seen along with it
SEEN: Final = _COARSE * (1 + 8 * len(_RINGS))
_SAMPLED: Final = 600  # cells of an image that the components are learned from
_REGION: Final = 5  # places across a region, and down
_AROUND: Final = 1.2  # of a region's sides that is looked at
REGION: Final = _REGION**2 * (_COARSE + _FINE)


@dataclass(frozen=True)
class Maps:
    """Of one image: `coarse` (rows, columns, 64) and `fine` (2 rows, 2 columns, 24)."""

    coarse: Halves
    fine: Halves


class Projection:
    """From activations of all depths to `Maps`; linear, from principal components of some images' cells."""

    def __init__(self, images: Sequence[Sequence[Floats]], rng: np.random.Generator) -> None:
        """`images`: the LEVELS of each."""
        sampled: list[list[Floats]] = [[] for _ in LEVELS]
        for levels in images:
            rows, columns = levels[1].shape[:2]
            at = np.sort(rng.permutation(rows * columns)[:_SAMPLED])
            for place, level in zip(sampled, _on_one_grid(levels), strict=True):
                place.append(level[at // columns, at % columns])
        parts = [np.concatenate(place) for place in sampled]
        whitened = [_whitening(part, _OF_LEVEL) for part in parts]
        together = np.concatenate([(part - mean) @ axes for part, (mean, axes) in zip(parts, whitened, strict=True)], 1)
        middle, joint = _components(together, _COARSE)
        ends = np.cumsum([axes.shape[1] for _, axes in whitened])[:-1]
        self._axes = [axes @ part for (_, axes), part in zip(whitened, np.split(joint, ends), strict=True)]
        self._offset = -middle @ joint - sum(mean @ axes for (mean, _), axes in zip(whitened, self._axes, strict=True))
        first = np.concatenate([levels[0].reshape(-1, levels[0].shape[2])[::7] for levels in images])
        self._fine_mean, self._fine_axes = _components(first, _FINE)

    def __call__(self, levels: Sequence[Floats]) -> Maps:
        first, second, third, last = levels
        axes = self._axes
        coarse = _pooled(first) @ axes[0] + second @ axes[1] + third @ axes[2] + doubled(last @ axes[3]) + self._offset
        fine = (first - self._fine_mean) @ self._fine_axes
        return Maps(coarse.astype(np.float16), fine.astype(np.float16))


def seen_from_cells(maps: Maps) -> Floats:
    """For each cell (rows · columns, SEEN) its own numbers and those of eight neighbours at two distances.

    The farther ones are means over three by three cells. Beyond the edge everything is average.
    """
    coarse = maps.coarse.astype(np.float32)
    rows, columns, width = coarse.shape
    out = np.empty((rows, columns, SEEN), dtype=np.float32)
    out[..., :width] = coarse
    place = width
    for ring in _RINGS:
        source = coarse if ring == 1 else _smoothed(coarse)
        padded = np.zeros((rows + 2 * ring, columns + 2 * ring, width), dtype=np.float32)
        padded[ring:-ring, ring:-ring] = source
        for down in (0, ring, 2 * ring):
            for across in (0, ring, 2 * ring):
                if (down, across) != (ring, ring):
                    out[..., place : place + width] = padded[down : down + rows, across : across + columns]
                    place += width
    return out.reshape(rows * columns, SEEN)


def seen_in_regions(maps: Maps, corners: npt.NDArray[np.float64]) -> Floats:
    """Numbers (N, REGION) at five by five places of each region and a little around it.

    `corners` (N, 4) are xyxy pixels of the scaled image.
    """
    steps = ((np.arange(_REGION) + 0.5) / _REGION - 0.5) * _AROUND
    middle, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    places = middle[:, None] + sides[:, None] * steps[None, :, None]  # (N, 5, 2)
    parts = [
        _interpolated(maps.coarse, places / STRIDE - 0.5),
        _interpolated(maps.fine, places / (STRIDE / 2) - 0.5),
    ]
    return np.concatenate([part.reshape(len(corners), -1) for part in parts], axis=1)


def _interpolated(cells: Halves, places: npt.NDArray[np.float64]) -> Floats:
    """Bilinear, at all pairs of the x and the y of `places` (N, P, 2), in cells: (N, P, P, D)."""
    rows, columns = cells.shape[:2]

    def around(place: npt.NDArray[np.float64], count: int) -> tuple[Ints, Ints, Floats]:
        place = np.clip(place, 0, count - 1)
        before = np.minimum(place.astype(np.int64), max(count - 2, 0))
        return before, np.minimum(before + 1, count - 1), (place - before).astype(np.float32)

    left, right, across = around(places[..., 0], columns)
    above, below, down = around(places[..., 1], rows)
    to_right, to_below = across[:, None, :, None], down[:, :, None, None]

    def at(row: Ints, column: Ints) -> Floats:
        return cells[row[:, :, None], column[:, None, :]].astype(np.float32)

    def between(one: Floats, other: Floats, share: Floats) -> Floats:
        result: Floats = one + (other - one) * share
        return result

    upper = between(at(above, left), at(above, right), to_right)
    return between(upper, between(at(below, left), at(below, right), to_right), to_below)


def _on_one_grid(levels: Sequence[Floats]) -> list[Floats]:
    """All depths at stride 16; the last one without interpolation, which principal components do not need."""
    first, second, third, last = levels
    return [_pooled(first), second, third, last.repeat(2, axis=0).repeat(2, axis=1)]


def _pooled(cells: Floats) -> Floats:
    """Two by two cells side by side as one: (rows / 2, columns / 2, 4 D)."""
    rows, columns, width = cells.shape
    return cells.reshape(rows // 2, 2, columns // 2, 2, width).swapaxes(1, 2).reshape(rows // 2, columns // 2, -1)


def _smoothed(cells: Floats) -> Floats:
    """Means over three by three cells, or those that there are."""
    for axis in (0, 1):
        line = np.moveaxis(cells, axis, 0)
        count = np.full((len(line), 1, 1), 3, dtype=np.float32)
        count[0] -= 1
        count[-1] -= 1
        total = line.copy()
        total[1:] += line[:-1]
        total[:-1] += line[1:]
        total /= count
        cells = np.moveaxis(total, 0, axis)
    return cells


def _whitening(x: Floats, count: int) -> tuple[Floats, Floats]:
    """Mean (D,) and axes (D, d) on which rows (N, D) have unit variance, the `count` largest or those that vary."""
    mean, axes, variances = _eigen(x)
    keep = max(1, int((variances[:count] > 1e-6 * variances[0]).sum()))
    return mean, axes[:, :keep] / np.sqrt(np.maximum(variances[:keep], 1e-12))


def _components(x: Floats, count: int) -> tuple[Floats, Floats]:
    """Mean (D,) and axes (D, count); projected, rows (N, D) have unit variance on average. Zeros where D is less."""
    mean, axes, variances = _eigen(x)
    axes, variances = axes[:, :count], variances[:count]
    axes = axes / np.sqrt(max(float(variances.mean()), 1e-12))
    return mean, np.pad(axes, ((0, 0), (0, count - axes.shape[1])))


def _eigen(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean (D,), principal directions (D, D), largest variance first, and the variances."""
    mean = x.mean(axis=0)
    centred = x - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / np.float32(max(1, len(x))))
    return mean, np.ascontiguousarray(axes[:, ::-1]), np.maximum(variances[::-1], 0)
