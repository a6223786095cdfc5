"""Class probabilities of every pixel, from any model of the user's, read image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasetops.errors import FormatError, did_you_mean
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema

Floats: TypeAlias = npt.NDArray[np.float32]

SUM_TOLERANCE: Final = 0.01  # as much as 16-bit floats of a few hundred classes lose
_CELLS: Final = 1 << 23  # numbers of an image that are held at once
_SUFFIXES: Final = (".npy", ".npz")
_REMEDY: Final = (
    "Save an array (classes, height, width) of floats, classes in the schema's order, that sum to one a pixel."
)


class PixelModel(Protocol):
    """What gives class probabilities for the pixels of images."""

    name: str

    def bands(self, sample_id: str, height: int, width: int) -> Iterator[tuple[slice, Floats]] | None:
        """Rows of pixels and their probabilities (K, rows, width), from top to bottom, summing to one over K.

        None for a sample that it has none for.
        """


class PixelProbabilities:
    """A folder of arrays (K, height, width), one a sample; nothing is read before it is asked for."""

    name = "supplied"

    def __init__(self, files: dict[str, Path], classes: int) -> None:
        self._files, self._classes = files, classes

    def __len__(self) -> int:
        return len(self._files)

    @property
    def digest(self) -> str:
        """SHA-256 over samples, sizes and times of the files: other files give another audit."""
        stats = {sample: path.stat() for sample, path in self._files.items()}
        return sha256_hex(canonical_json({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}))

    def bands(self, sample_id: str, height: int, width: int) -> Iterator[tuple[slice, Floats]] | None:
        """Raises FormatError, which names the file, for an array of another shape and for what are no probabilities."""
        path = self._files.get(sample_id)
        return None if path is None else self._bands(path, height, width)

    def _bands(self, path: Path, height: int, width: int) -> Iterator[tuple[slice, Floats]]:
        array = _opened(path)
        expected = (self._classes, height, width)
        if array.shape != expected:
            raise FormatError(
                f"{path}: the array has the shape {array.shape}; expected {expected}: classes, height, width.",
                remedy=_REMEDY,
            )
        if array.dtype.kind != "f":
            raise FormatError(f"{path}: the array holds {array.dtype}; expected floats.", remedy=_REMEDY)
        step = max(1, _CELLS // max(1, self._classes * width))
        for top in range(0, height, step):
            rows = slice(top, min(height, top + step))
            band = np.asarray(array[:, rows], np.float32)
            _check(band, path, top)
            yield rows, band


def read_pixel_probabilities(folder: Path, samples: pd.DataFrame, schema: LabelSchema) -> PixelProbabilities:
    """Files `<sample_id>.npy` or `.npz` of a folder, or `<name of the image file>.npy`, for samples of a version.

    Samples without a file are not judged. Raises FormatError for a folder without such files, for a file of no sample,
    of two samples whose images have one name, and for two files of one sample. The arrays are read later.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES) if folder.is_dir() else []
    if not files:
        raise FormatError(f"{folder}: there are no .npy or .npz files.", remedy=_REMEDY)
    ids = set(samples["sample_id"])
    stems = [PurePosixPath(str(uri)).stem for uri in samples["uri"].fillna("")]
    owner = dict(zip(stems, samples["sample_id"], strict=True))
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    found: dict[str, Path] = {}
    for path in files:
        name = path.stem
        if name not in ids and name in shared:
            raise FormatError(
                f"{path}: {name!r} is the name of several images of this version.", remedy="Name the file by sample_id."
            )
        sample = name if name in ids else owner.get(name)
        if sample is None:
            raise FormatError(
                f"{path}: {name!r} is neither a sample of this version nor the name of its image.",
                remedy=did_you_mean(name, stems, noun="names"),
            )
        if sample in found:
            raise FormatError(
                f"{path}: {found[sample].name} is of the same sample {sample}.", remedy="Keep one of them."
            )
        found[sample] = path
    return PixelProbabilities(found, len(schema.class_names))


def _opened(path: Path) -> npt.NDArray[Any]:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if len(content.files) != 1:
                raise FormatError(
                    f"{path}: it holds {len(content.files)} arrays ({', '.join(content.files[:5])}); expected one.",
                    remedy=_REMEDY,
                )
            array: npt.NDArray[Any] = content[content.files[0]]
            return array
    except FormatError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise FormatError(f"{path}: {str(error).splitlines()[0] if str(error) else error!r}", remedy=_REMEDY) from None


def _check(band: Floats, path: Path, top: int) -> None:
    total = band.sum(axis=0)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(total - 1) <= SUM_TOLERANCE) | (band.min(axis=0) < 0)
    if wrong.any():
        row, column = (int(number[0]) for number in np.nonzero(wrong))
        raise FormatError(
            f"{path}: pixel ({column}, {top + row}) has no probabilities: they sum to {total[row, column]:.3f}, "
            f"the least is {band[:, row, column].min():.3f}.",
            remedy=_REMEDY,
        )
