"""Whether two small grey pictures show the same shot: laid over each other, then compared in their fine detail.

Coarse structure is shared by many pictures of like things; fine detail that fits after a plain shift, stretch and
slight turn is shared by pictures of one shot only.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

DETAIL = 1 / 20  # of the picture's side: structure coarser than this is taken out before detail is compared
LEAST_OVERLAP = 0.5  # share of the picture that both must show
# What cropping, resizing and straightening do, as standard deviations: relative stretch, turn or shear (radians), and
# shift (in half sides).
_STRETCH, _TURN, _SHIFT = 0.2, 0.1, 0.15
_WIDEST = 3.0  # deviations beyond which an alignment is not believed
_PRIOR = 0.01  # share of a picture's energy that one deviation must explain
_LEVELS = ((2, 1.0, 8), (1, 0.7, 6))  # picture shrunk by, blur (its pixels), steps
_ERRORS = 2.0  # standard errors by which a correlation may be too high by chance
_MOST = 0.9999  # correlation, so that Fisher's z is finite
_HALVED = 0.8  # blur (pixels) that is left of a picture shrunk to half its size and enlarged again
_HOPEFUL = 0.3  # detail shared at the coarse level, below which the fine one is not tried
_BATCH = 128  # pairs at a time: their arrays stay in a core's cache


@dataclass(frozen=True)
class Alignment:
    """Of each pair: how much detail they share, and how the second lies over the first.

    `detail` (P,) in [-1, 1]: the correlation of fine detail, at least; -1 where they could not be laid over each other.
    `affine` (P, 2, 3): from coordinates of the first picture to those of the second, both in [-1, 1].
    """

    detail: Floats
    affine: Floats


def align(first: npt.NDArray[Any], second: npt.NDArray[Any], *, jobs: int = 1) -> Alignment:
    """Lay `second` over `first`, both (P, n, n) of any numeric type, n divisible by 2, and compare their detail.

    Inverse compositional alignment with gain and offset (Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56,
    2004), coarse to fine, held to plausible crops, stretches and turns by a prior. Raises ValueError for other shapes.
    """
    if first.ndim != 3 or first.shape != second.shape or first.shape[1] != first.shape[2] or first.shape[1] % 2:
        raise ValueError(f"expected two arrays (P, n, n), n even; got {first.shape} and {second.shape}")
    spans = list(_spans(len(first)))
    if not spans:
        return Alignment(np.empty(0, np.float32), np.empty((0, 2, 3), np.float32))
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        parts = list(pool.map(lambda span: _align(first[span], second[span]), spans))
    return Alignment(np.concatenate([detail for detail, _ in parts]), np.concatenate([affine for _, affine in parts]))


def _align(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    a, b = _normalised(first), _normalised(second)
    count, n = len(a), a.shape[1]
    affine = np.tile(np.eye(2, 3, dtype=np.float32).reshape(6), (count, 1))
    detail = np.full(count, -1, dtype=np.float32)
    hopeful = np.arange(count)
    for shrink, blur, steps in _LEVELS:
        if not hopeful.size:
            break
        fixed, moving = _shrunk(a[hopeful], shrink), _shrunk(b[hopeful], shrink)
        smooth = _gaussian(n // shrink, blur)
        affine[hopeful] = _descend(_filter(fixed, smooth), _filter(moving, smooth), affine[hopeful], steps)
        detail[hopeful] = _shared_detail(fixed, moving, affine[hopeful], 0 if shrink > 1 else _ERRORS)
        hopeful = hopeful[detail[hopeful] >= _HOPEFUL]
    if hopeful.size:  # one may be a blurred or enlarged copy of the other
        fixed, moving, blurred = a[hopeful], b[hopeful], _gaussian(n, _HALVED)
        for one, other in ((_filter(fixed, blurred), moving), (fixed, _filter(moving, blurred))):
            detail[hopeful] = np.maximum(detail[hopeful], _shared_detail(one, other, affine[hopeful], _ERRORS))
    return detail, affine.reshape(-1, 2, 3)


def _descend(fixed: Floats, moving: Floats, affine: Floats, steps: int) -> Floats:
    """The affine parameters (P, 6) after `steps` Gauss-Newton steps on the squared difference."""
    count, n = fixed.shape[:2]
    x, y = _coordinates(n)
    dy, dx = (np.gradient(fixed, axis=axis).reshape(count, -1) * np.float32(n / 2) for axis in (1, 2))
    flat = fixed.reshape(count, -1)
    slopes = np.stack([dx * x, dx * y, dx, dy * x, dy * y, dy, flat, np.ones_like(flat)], axis=1)
    normal = slopes @ slopes.transpose(0, 2, 1)
    energy = np.maximum(np.einsum("ij,ij->i", flat, flat), 1)[:, None]  # also where a picture is flat
    deviation = np.array([_STRETCH, _TURN, _SHIFT, _TURN, _STRETCH, _SHIFT], dtype=np.float32)
    weight = _PRIOR * energy / deviation**2
    diagonal = np.arange(8)
    normal[:, diagonal[:6], diagonal[:6]] += weight
    normal[:, diagonal, diagonal] += 1e-3 * energy
    solve = np.linalg.inv(normal)
    identity = np.eye(2, 3, dtype=np.float32).reshape(6)
    for _ in range(steps):
        warped, inside = _warped(moving, affine)
        difference = (warped - flat) * inside
        right = slopes @ difference[:, :, None]
        right[:, :6, 0] += weight * (affine - identity)
        step = (solve @ right)[:, :, 0]
        change = step[:, :6] / np.clip(1 + step[:, 6:7], 0.2, 5)
        change *= 0.2 / np.maximum(np.abs(change).max(axis=1, keepdims=True), 0.2)
        affine = _compose(affine, change)
    return affine


def _compose(affine: Floats, change: Floats) -> Floats:
    """`affine` after the inverse of (identity + `change`)."""
    count = len(affine)
    outer, inner = (np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)) for _ in range(2))
    outer[:, :2] = affine.reshape(count, 2, 3)
    inner[:, :2] += change.reshape(count, 2, 3)
    return np.asarray((outer @ np.linalg.inv(inner))[:, :2].reshape(count, 6))


def _shared_detail(fixed: Floats, moving: Floats, affine: Floats, errors: float) -> Floats:
    """Correlation (P,) of what is finer than DETAIL where the pictures overlap, less so many standard errors.

    The standard error is that of Fisher's z for as many pixels as carry the detail (its participation ratio): a lone
    outline on an empty ground says less than texture all over.
    """
    count, n = fixed.shape[:2]
    coarse = _gaussian(n, max(DETAIL * n, 1.0))
    warped, inside = _warped(moving, affine)
    warped = warped.reshape(count, n, n)
    a = (fixed - _filter(fixed, coarse)).reshape(count, -1)
    b = (warped - _filter(warped, coarse)).reshape(count, -1)
    number = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    a = (a - (a * inside).sum(axis=1, keepdims=True) / number) * inside
    b = (b - (b * inside).sum(axis=1, keepdims=True) / number) * inside
    energy = np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
    correlation = np.einsum("ij,ij->i", a, b) / np.sqrt(np.maximum(energy, 1e-12))
    carried = a * a + b * b
    carriers = carried.sum(axis=1) ** 2 / np.maximum(np.einsum("ij,ij->i", carried, carried), 1e-12)
    z = np.arctanh(np.clip(correlation, -_MOST, _MOST)) - errors / np.sqrt(np.maximum(carriers - 3, 1))
    allowed = np.array([_STRETCH, _TURN, 1, _TURN, _STRETCH, 1], dtype=np.float32) * _WIDEST
    plausible = (np.abs(affine - np.eye(2, 3, dtype=np.float32).reshape(6)) <= allowed).all(axis=1)
    plausible &= inside.mean(axis=1) >= LEAST_OVERLAP
    return np.where(plausible, np.tanh(z), -1).astype(np.float32)


def _warped(pictures: Floats, affine: Floats) -> tuple[Floats, Floats]:
    """Pictures (P, n, n) drawn at the affine images of the pixel centres, (P, n * n), and 1 where that is inside."""
    count, n = pictures.shape[:2]
    x, y = _coordinates(n)
    u, v = (affine[:, i, None] * x + affine[:, i + 1, None] * y + affine[:, i + 2, None] for i in (0, 3))
    inside = ((np.abs(u) <= 1) & (np.abs(v) <= 1)).astype(np.float32)
    u, v = (np.clip((w + 1) * np.float32(n / 2) - np.float32(0.5), 0, n - 1) for w in (u, v))
    left, top = np.minimum(u.astype(np.int32), n - 2), np.minimum(v.astype(np.int32), n - 2)
    u -= left
    v -= top
    at = top * n + left + np.arange(count, dtype=np.int32)[:, None] * (n * n)
    flat = pictures.reshape(-1)
    upper = flat.take(at)
    upper += (flat.take(at + 1) - upper) * u
    at += n
    lower = flat.take(at)
    lower += (flat.take(at + 1) - lower) * u
    upper += (lower - upper) * v
    return upper, inside


def _coordinates(n: int) -> tuple[Floats, Floats]:
    """x and y of the pixel centres, row by row, the picture's edges at -1 and 1."""
    line = ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)
    return np.tile(line, n), np.repeat(line, n)


def _gaussian(n: int, sigma: float) -> Floats:
    """Matrix (n, n) that blurs a line of n pixels, its ends repeated."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = np.zeros((n, n))
    for offset, weight in zip(range(-reach, reach + 1), kernel / kernel.sum(), strict=True):
        np.add.at(matrix, (np.arange(n), np.clip(np.arange(n) + offset, 0, n - 1)), weight)
    return matrix.astype(np.float32)


def _filter(pictures: Floats, matrix: Floats) -> Floats:
    return np.asarray(matrix @ pictures @ matrix.T)


def _normalised(pictures: npt.NDArray[Any]) -> Floats:
    """Mean 0 and variance 1 each; flat ones all 0."""
    values = pictures.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    return np.asarray(values / np.maximum(values.std(axis=(1, 2), keepdims=True), np.float32(1e-3)))


def _shrunk(pictures: Floats, by: int) -> Floats:
    count, n = pictures.shape[:2]
    return np.asarray(pictures.reshape(count, n // by, by, n // by, by).mean(axis=(2, 4)))


def _spans(count: int) -> Iterator[slice]:
    return (slice(start, start + _BATCH) for start in range(0, count, _BATCH))
