"""Activations of EfficientNet-Lite0 over an image, at the image's own aspect: what detectors and pixel probes learn from.

Tan and Le, "EfficientNet", ICML 2019; the weights are those of `builtin:efficientnet-lite0`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasetops.models.efficientnet_lite import MAPS, open_maps

Floats: TypeAlias = npt.NDArray[np.float32]
_Read = TypeVar("_Read")
_Result = TypeVar("_Result")

SIDE: Final = 640  # pixels of the longer side: 14 images a second and core
_STEP: Final = 32  # sides are multiples of it
_CELLS: Final = ("out4", "out7", "out10", "out14")  # of `cells`: narrow, which suits linear models of single cells


class DenseLite0:
    """The network, opened once; methods may be called from several threads at once.

    `cache` is a folder for the graph that is made from the weights. Raises ModelError where weights or folder are amiss.
    """

    def __init__(self, cache: Path) -> None:
        self._session = open_maps(cache)

    def maps(self, image: Image.Image, names: Sequence[str], side: int = SIDE) -> list[Floats]:
        """The named MAPS of an RGB image, (rows, columns, channels) each; all rows together cover the whole image.

        The image is scaled so that its longer side has about `side` pixels, both being multiples of 32.
        """
        pixels = np.asarray(image.resize(scaled_size(image.width, image.height, side), Image.Resampling.BILINEAR))
        return [one[0] for one in self._session.run(list(names), {"images": pixels[None]})]

    def cells(self, image: Image.Image, side: int = SIDE) -> Floats:
        """Features (rows, columns, 424) of cells of 8 x 8 pixels of the scaled image, from four depths."""
        first, *others = self.maps(image, _CELLS, side)
        parts = [first]
        for name, one in zip(_CELLS[1:], others, strict=True):
            for _ in range((MAPS[name][2] // MAPS[_CELLS[0]][2]).bit_length() - 1):
                one = doubled(one)
            parts.append(one)
        return np.concatenate(parts, axis=2)


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height in pixels: multiples of 32, the longer one nearest to `side`, the aspect kept as far as may be.

    Raises ValueError for a side below 32.
    """
    if side < _STEP:
        raise ValueError(f"side: expected at least {_STEP}, got {side}")
    scale = side / max(width, height)
    across, down = (max(1, round(length * scale / _STEP)) * _STEP for length in (width, height))
    return across, down


def doubled(cells: Floats) -> Floats:
    """(rows, columns, D) at twice the resolution, bilinear between the middles of the cells."""
    for axis in (0, 1):
        rows = np.moveaxis(cells, axis, 0)
        most, quarter = np.float32(0.75) * rows, np.float32(0.25) * rows
        twice = np.repeat(most, 2, axis=0)
        twice[2::2] += quarter[:-1]
        twice[0] += quarter[0]
        twice[1:-1:2] += quarter[1:]
        twice[-1] += quarter[-1]
        cells = np.moveaxis(twice, 0, axis)
    return cells


def in_threads(
    read: Callable[[int], _Read], work: Callable[[int, _Read], _Result], rows: Sequence[int], jobs: int
) -> Iterator[tuple[int, _Result]]:
    """(row, work(row, read(row))) in the order of `rows`, by `jobs` threads that work and twice as many that read ahead.

    At most three rows for each of the `jobs` are under way or wait at a time.
    """
    jobs = max(1, jobs)
    waiting: deque[tuple[int, Future[_Result]]] = deque()
    with ThreadPoolExecutor(2 * jobs) as readers, ThreadPoolExecutor(jobs) as workers:
        try:
            for row in rows:
                content = readers.submit(read, row)
                waiting.append((row, workers.submit(lambda row, content: work(row, content.result()), row, content)))
                if len(waiting) >= 3 * jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for row, future in waiting:
                yield row, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
