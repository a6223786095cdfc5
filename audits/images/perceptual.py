"""Small grey pictures of images, and vectors of them that lie near each other for near-duplicates, turned ones too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile, gettempdir
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.audits.base import ImageAccess
from datasetops.errors import DatasetOpsError, StoreError
from datasetops.images import quiet_decoding
from datasetops.progress import Progress, no_progress

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Pictures: TypeAlias = npt.NDArray[np.uint8]
T = TypeVar("T")

SIDE = 32  # pixels of a picture
SYMMETRIES = 8  # of the square: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 swaps rows and columns first
_BAND = 8  # frequencies of each direction that a descriptor keeps
_AMBIGUOUS = 0.2  # of a descriptor's length 1: below, near-duplicates may lean to different sides
_FLAT = 2.0  # grey levels (of 256) between the darkest and lightest part of a picture that shows nothing
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_CHUNK = 64  # images that the threads decode before results are handed on


def picture(image: Image.Image) -> Pictures:
    """Luminance of an RGB image, squeezed to (SIDE, SIDE) and stretched to the full range of uint8; 0 where flat."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    grey = np.asarray(small, dtype=np.float32) @ _LUMA
    low, high = float(grey.min()), float(grey.max())
    if high - low < _FLAT:
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    return np.round((grey - low) * (255 / (high - low))).astype(np.uint8)


def pictures(
    images: ImageAccess, rows: Ints, *, jobs: int = 1, progress: Progress = no_progress
) -> tuple[Pictures, npt.NDArray[np.bool_]]:
    """`picture` of each of `rows`, (R, SIDE, SIDE) mapped from a temporary file, and whether it could be had, (R,).

    Raises StoreError where the temporary file cannot be written.
    """

    def read(row: int) -> Pictures | None:
        try:
            return picture(images.open(row))
        except DatasetOpsError:
            return None

    readable = np.zeros(len(rows), dtype=bool)
    if not len(rows):
        return np.empty((0, SIDE, SIDE), dtype=np.uint8), readable
    made = in_threads(read, rows.tolist(), jobs)
    try:
        with TemporaryFile() as file:
            for at, one in enumerate(progress(made, len(rows), "Looking at the images")):
                readable[at] = one is not None
                file.write(bytes(SIDE * SIDE) if one is None else one.tobytes())
            file.flush()
            return np.memmap(file, dtype=np.uint8, mode="r", shape=(len(rows), SIDE, SIDE)), readable
    except OSError as error:
        raise StoreError(
            f"Small pictures of {len(rows):,} images cannot be kept in {gettempdir()}: {error.strerror}.",
            remedy=f"Free {len(rows) * SIDE * SIDE / 1e9:.1f} GB there, or set TMPDIR to another place.",
        ) from None


def in_threads(function: Callable[[int], T], rows: Sequence[int], jobs: int) -> Iterator[T]:
    """`function` of each of `rows` that decodes an image, in order; a few results are held at a time."""
    with ThreadPoolExecutor(max(1, jobs)) as pool, quiet_decoding():
        for start in range(0, len(rows), _CHUNK):
            yield from list(pool.map(function, rows[start : start + _CHUNK]))


def transform(squares: npt.NDArray[np.generic], symmetry: int) -> npt.NDArray[np.generic]:
    """Arrays (…, n, n) turned or mirrored; `symmetry` is in [0, SYMMETRIES)."""
    if symmetry & 4:
        squares = np.swapaxes(squares, -1, -2)
    if symmetry & 2:
        squares = squares[..., ::-1, :]
    if symmetry & 1:
        squares = squares[..., ::-1]
    return squares


def spectra(shown: Pictures) -> Floats:
    """Low frequencies (R, 8, 8) of pictures, without the mean, of length 1 each; 0 for flat pictures.

    The inner product of two is the correlation of the coarse structure of two pictures.
    """
    from scipy.fft import dct

    basis = dct(np.eye(SIDE), norm="ortho", axis=0)[:_BAND].astype(np.float32)
    out = np.empty((len(shown), _BAND, _BAND), dtype=np.float32)
    for start in range(0, len(shown), 4096):
        out[start : start + 4096] = basis @ shown[start : start + 4096].astype(np.float32) @ basis.T
    out[:, 0, 0] = 0
    length = np.sqrt(np.einsum("ijk,ijk->i", out, out))
    return np.asarray(out / np.maximum(length, 1e-6)[:, None, None])


def turned_spectra(spectrum: Floats, symmetry: int) -> Floats:
    """`spectra` of pictures after `transform`: a mirror image has the odd frequencies negated."""
    odd = np.where(np.arange(_BAND) % 2, -1, 1).astype(np.float32)
    out = np.asarray(transform(spectrum, symmetry & 4))
    if symmetry & 2:
        out = out * odd[:, None]
    if symmetry & 1:
        out = out * odd
    return out


def upright(spectrum: Floats) -> tuple[Floats, Ints, Ints]:
    """All spectra turned so that they are heavier left than right, above than below, and from left to right.

    Near-duplicates that are turned or mirrored thus become alike. Where a picture leans to no side for sure it is
    given in each way that it may be. Returns vectors (M, 64), M >= R, and for each its row and its symmetry.
    """
    vectors, rows, symmetries = [], [], []
    flat = ~spectrum.any(axis=(1, 2))
    for symmetry in range(SYMMETRIES):
        turned = turned_spectra(spectrum, symmetry)
        right, down = turned[:, 0, 1], turned[:, 1, 0]
        kept = np.flatnonzero((np.minimum(np.minimum(right, down), right - down) >= -_AMBIGUOUS) & ~flat)
        vectors.append(turned[kept].reshape(len(kept), _BAND * _BAND))
        rows.append(kept)
        symmetries.append(np.full(len(kept), symmetry))
    return np.concatenate(vectors), np.concatenate(rows), np.concatenate(symmetries)
